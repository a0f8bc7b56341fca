/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ports of services. Who a service's client talks to is known, a backend, so any number of its sessions may have one port of the pool as long as
 * backend or backend's port differ: what belongs to one session is the whole of both ends, under which it stands in sg_st_find. The slot of such a port
 * counts its sessions. Nothing rests: a session keeps both ends while it closes. */
#ifndef SG_ST_SHARE_H
#define SG_ST_SHARE_H

#include "st_port.h"

#define SG_ST_SHARE_FEW 8   /* random ports that are looked at first */
#define SG_ST_SHARE_MANY 96 /* and where no port is without any session */
#define SG_ST_SHARE_TRIES 8

enum sg_st_joined {
	SG_ST_TAKEN = 0,  /* the port is not for services, or of too many of their sessions */
	SG_ST_JOINED = 1, /* beside others */
	SG_ST_ALONE = 2,  /* nobody else has it, so no two ends can be equal */
};

SG_INLINE bool sg_st_is_shared(__u32 slot)
{
	return slot & SG_ST_SHARED && slot != SG_ST_CLAIMED;
}

/* One more session of a service on this port. */
SG_INLINE enum sg_st_joined sg_st_join(struct sg_st_ports *b, __u32 bit, __u32 now, __u32 rest)
{
	__u32 i, slot, next = 0;

	bit &= 63;
	if (!(b->used & (1ULL << bit))) {
		if (__sync_fetch_and_or(&b->used, 1ULL << bit) & (1ULL << bit))
			return SG_ST_TAKEN;
		b->slot[bit] = SG_ST_SHARED | 1;
		return SG_ST_ALONE;
	}
	if (b->resting & (1ULL << bit)) {
		if (!sg_st_wake(b, bit, now, rest, &next))
			return SG_ST_TAKEN;
		b->slot[bit] = SG_ST_SHARED | 1;
		return SG_ST_ALONE;
	}
	for (i = 0; i < SG_ST_SHARE_TRIES; i++) {
		slot = b->slot[bit];
		/* A count of 0 is on its way out. */
		if (!sg_st_is_shared(slot) || slot == SG_ST_SHARED || slot >= SG_ST_CLAIMED - 1)
			return SG_ST_TAKEN;
		if (__sync_val_compare_and_swap(&b->slot[bit], slot, slot + 1) == slot)
			return SG_ST_JOINED;
	}
	return SG_ST_TAKEN;
}

/* One session less; with the last one the port is free at once. */
SG_INLINE void sg_st_leave(struct sg_st_ports *b, __u32 bit)
{
	bit &= 63;
	if (__sync_fetch_and_sub(&b->slot[bit], 1) != (SG_ST_SHARED | 1))
		return;
	b->slot[bit] = 0;
	__sync_fetch_and_and(&b->used, ~(1ULL << bit));
}

SG_INLINE void sg_st_share_give(__u32 index, __u32 port)
{
	struct sg_st_ports *b = bpf_map_lookup_elem(&sg_st_port, &index);

	if (b)
		sg_st_leave(b, port);
}

/* What stands for mapping in the key of a service's session. */
SG_INLINE __u32 sg_st_by_port(__u32 index, __u32 port)
{
	return SG_ST_BY_PORT | (index * SG_ST_BLOCK + (port & 63));
}

/* Whether both ends of a session may be another's: nobody uses it any more. Linux does the same with connections in TIME_WAIT. */
SG_INLINE bool sg_st_done(const struct sg_st_sess *s, __u32 now)
{
	if (s->state == SG_ST_BOTH_FIN || s->reset)
		return true;
	return s->state != SG_ST_EST && sg_st_past(now, s->expires);
}

/* One random port. */
static long sg_st_share_try(__u32 i __attribute__((unused)), __u32 *zero)
{
	struct sg_st_desk *d = bpf_map_lookup_elem(&SG_ST_DESK_MAP, zero);
	struct sg_st_peer key = {};
	struct sg_st_share *h;
	struct sg_st_ports *b;
	struct sg_st_sess *s;
	enum sg_st_joined how;
	__u32 port, index, *id;
	__u64 *resv;

	if (!d)
		return 1;
	h = &d->share;
	port = h->port ? h->port : h->low + (__u32)(((__u64)bpf_get_prandom_u32() * h->span) >> 32);
	h->port = 0;
	index = h->base + port / SG_ST_BLOCK;
	b = bpf_map_lookup_elem(&sg_st_port, &index);
	resv = bpf_map_lookup_elem(&sg_st_resv, &index);
	if (!b || (resv && *resv & (1ULL << (port & 63))))
		return 0;
	how = sg_st_join(b, port, h->now, h->rest);
	if (how == SG_ST_TAKEN)
		return 0;
	if (how == SG_ST_JOINED) {
		key = h->far;
		key.map = sg_st_by_port(index, port);
		id = bpf_map_lookup_elem(&sg_st_find, &key);
		if (id) {
			sg_st_leave(b, port);
			s = sg_st_sess_of(*id);
			if (s && !h->done && sg_st_done(s, h->now)) {
				h->done = *id + 1;
				h->done_port = port;
			}
			return 0;
		}
	}
	h->block = index;
	h->found = port + 1;
	return 1;
}

/* The pool in which address number `nr` of an object is; `nr` becomes its number there. */
SG_INLINE struct sg_st_pool *sg_st_pool_of(const struct sg_st_obj *obj, __u32 *nr)
{
	struct sg_st_pool *pool;
	__u32 i, at;

	for (i = 0; i < 64; i++) {
		if (i >= obj->n_pools)
			return NULL;
		at = obj->pool + i;
		pool = bpf_map_lookup_elem(&sg_st_pool, &at);
		if (!pool || *nr < pool->n_addrs)
			return pool;
		*nr -= pool->n_addrs;
	}
	return NULL;
}

/* A port for a session of a service with `s->far`: 1 where `w` has it. Looks at so many random ones; `d->share.done` is a session whose port may
 * be had once it has ended. */
SG_GLOBAL int sg_st_share_take(struct sg_st *s, struct sg_st_want *w, __u32 tries)
{
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_share *h;
	struct sg_st_pool *pool;
	struct sg_st_obj *obj;
	__u32 nr, first, zero = 0;

	if (!s || !w || !d)
		return 0;
	h = &d->share;
	obj = sg_st_obj_of(s->obj);
	if (!obj || !obj->n_addrs)
		return 0;
	nr = (obj->flags & SG_ST_PAIRED ? sg_st_hash(&w->client, 0) : bpf_get_prandom_u32()) % obj->n_addrs;
	if (h->again && h->again <= obj->n_addrs)
		nr = h->again - 1;
	h->nr = nr;
	pool = sg_st_pool_of(obj, &nr);
	if (!pool)
		return 0;
	first = pool->first_block * SG_ST_BLOCK;
	h->far.addr = s->far;
	h->far.port = s->far_port;
	h->now = s->now;
	h->rest = obj->life[SG_LIFE_REST];
	h->base = pool->base + (nr * SG_ST_PROTOS + sg_st_proto_number(s->proto)) * pool->blocks;
	h->low = pool->first;
	if (h->low < 1024 && pool->last >= 1024)
		h->low = 1024;
	if (h->low < first || pool->last < h->low)
		return 0;
	h->span = pool->last - h->low + 1;
	h->low -= first;
	h->port = h->again && h->done_port - h->low < h->span ? h->done_port : 0;
	/* Who keeps its address keeps its port, too, where that is free. */
	if (!h->port && obj->flags & SG_ST_KEEP && bpf_ntohs(s->near_port) - h->low < h->span)
		h->port = bpf_ntohs(s->near_port);
	h->again = 0;
	h->done = 0;
	h->found = 0;
	bpf_loop(tries, sg_st_share_try, &zero, 0);
	if (!h->found)
		return 0;
	w->out = pool->addr;
	w->out.w[3] = bpf_htonl(bpf_ntohl(pool->addr.w[3]) + nr);
	w->block = h->block;
	w->port = first + h->found - 1;
	return 1;
}

#endif
