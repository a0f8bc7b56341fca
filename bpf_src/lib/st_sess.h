/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Mappings and sessions: made whole or not at all, ended by one. */
#ifndef SG_ST_SESS_H
#define SG_ST_SESS_H

#include "st_share.h"

/* Beside reasons, sg_st_out() may say that a session has to be made: by sg_st_open(), which is not called from there, because a chain of
 * calls must not be longer than eight. */
#define SG_ST_OPEN (SG_REASON_MAX + 1)
#define SG_ST_OPEN_KNOWN (SG_REASON_MAX + 2) /* on the mapping that was found */
#define SG_ST_OPEN_ANEW (SG_REASON_MAX + 3)  /* in place of a service's session that was found, and closes */
#define SG_ST_OPEN_AGAIN (SG_REASON_MAX + 4) /* once session `evict` has ended, whose port it gets */

#define SG_ST_HALF_TRIES 8
#define SG_ST_TRIES 8

/* The part of an address that makes a client. */
SG_INLINE struct sg_addr sg_st_client_of(const struct sg_st_obj *obj, const struct sg_addr *a)
{
	struct sg_addr client = *a;
	__u32 len = obj->client_len;

	if (len < 64) {
		client.d[1] = 0;
		client.d[0] &= len ? bpf_cpu_to_be64(~0ULL << ((64 - len) & 63)) : 0;
	} else if (len < 128) {
		client.d[1] &= len > 64 ? bpf_cpu_to_be64(~0ULL << ((128 - len) & 63)) : 0;
	}
	return client;
}

SG_INLINE void sg_st_client_key(const struct sg_st_obj *obj, __u16 number, const struct sg_addr *client, struct sg_st_client *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->addr = sg_st_client_of(obj, client);
	key->obj = number;
}

/* Takes one from a counter that others change, too, and never below 0. */
SG_INLINE void sg_st_less(__u32 *counter)
{
	if (__sync_fetch_and_sub(counter, 1) == 0)
		__sync_fetch_and_add(counter, 1);
}

/* Takes what a client has down by a port or a session; a client with neither is forgotten once its bucket is full again. */
SG_GLOBAL int sg_st_client_take(const struct sg_addr *client, __u32 number, __u32 port)
{
	struct sg_st_obj *obj = sg_st_obj_of(number);
	struct sg_st_client key;
	struct sg_st_client_use *c;

	if (!obj || !client)
		return 0;
	sg_st_client_key(obj, (__u16)number, client, &key);
	c = bpf_map_lookup_elem(&sg_st_client, &key);
	if (!c)
		return 0;
	sg_st_less(port ? &c->ports : &c->sessions);
	if (!c->ports && !c->sessions && bpf_ktime_get_coarse_ns() - c->since_ns > 1000000000ULL)
		bpf_map_delete_elem(&sg_st_client, &key);
	return 0;
}

SG_INLINE void sg_st_client_less(const struct sg_st_obj *obj, __u16 number, const struct sg_addr *client, bool port)
{
	if (obj->flags & SG_ST_CLIENTS)
		sg_st_client_take(client, number, port);
}

/* Frees a mapping that nobody uses any more: `refs` went to 0 in the caller's hands. */
SG_GLOBAL int sg_st_unmap(__u32 id, __u32 rest)
{
	struct sg_st_map *m = sg_st_map_of(id);
	struct sg_st_client_port key = {};
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	__u32 *known, now;

	if (!m)
		return 0;
	now = sg_st_now();
	key.addr = m->in;
	key.port = m->in_port;
	key.proto = m->proto;
	key.by_svc = m->svc != 0;
	key.dom = m->svc ? m->svc - 1 : m->obj;
	key.vport = m->vport;
	known = bpf_map_lookup_elem(&sg_st_fwd, &key);
	if (known && *known == id)
		bpf_map_delete_elem(&sg_st_fwd, &key);
	obj = sg_st_obj_of(m->obj);
	use = sg_st_use_of(m->obj);
	if (use)
		sg_st_less(&use->maps);
	if (obj) {
		sg_st_client_less(obj, m->obj, &m->in, true);
		sg_st_block_give(obj, m->obj, m, now);
	}
	m->last = 0;
	/* A static port rests for nobody. */
	if (m->flags & SG_MAP_SHARED)
		sg_st_share_give(m->block, bpf_ntohs(m->out_port));
	else
		sg_st_port_give(m->block, bpf_ntohs(m->out_port), now, rest && !m->flags && obj && obj->life[SG_LIFE_REST]);
	sg_st_id_give(true, id);
	return 0;
}

SG_INLINE void sg_st_release(__u32 id, bool rest)
{
	struct sg_st_map *m = sg_st_map_of(id);

	if (m && __sync_fetch_and_sub(&m->refs, 1) == 1)
		sg_st_unmap(id, rest);
}

/* One more session: false where the mapping is on its way out. */
SG_INLINE bool sg_st_hold(struct sg_st_map *m)
{
	__u32 refs, i;

	for (i = 0; i < SG_ST_TRIES; i++) {
		refs = m->refs;
		if (!refs)
			return false;
		if (__sync_val_compare_and_swap(&m->refs, refs, refs + 1) == refs)
			return true;
	}
	return false;
}

/* The mapping talks to one remote more of this address, or less. */
SG_INLINE void sg_st_see(struct sg_st_peer *key, bool more)
{
	__u32 one = 1, *count;

	key->port = 0;
	count = bpf_map_lookup_elem(&sg_st_seen, key);
	if (more) {
		if (count)
			__sync_fetch_and_add(count, 1);
		else
			bpf_map_update_elem(&sg_st_seen, key, &one, BPF_NOEXIST);
	} else if (count && __sync_fetch_and_sub(count, 1) <= 1) {
		bpf_map_delete_elem(&sg_st_seen, key);
	}
}

/* Ends a session; 1 where this call did it. */
SG_GLOBAL int sg_st_end(__u32 id)
{
	struct sg_st_sess *s = sg_st_sess_of(id);
	struct sg_st_peer key = {};
	struct sg_st_map *m;
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	__u32 state, *known;
	bool half;

	if (!s)
		return 0;
	state = s->state;
	if (state == SG_ST_FREE || __sync_val_compare_and_swap(&s->state, state, SG_ST_FREE) != state)
		return 0;
	half = s->half;
	m = sg_st_map_of(s->map);
	key.addr = s->remote;
	key.port = s->rport;
	key.map = m && m->flags & SG_MAP_SHARED ? sg_st_by_port(m->block, bpf_ntohs(m->out_port)) : s->map;
	known = bpf_map_lookup_elem(&sg_st_find, &key);
	if (known && *known == id)
		bpf_map_delete_elem(&sg_st_find, &key);
	if (!(key.map & SG_ST_BY_PORT))
		sg_st_see(&key, false);
	use = sg_st_use_of(s->obj);
	if (use) {
		sg_st_less(&use->sessions);
		if (half)
			sg_st_less(&use->half);
	}
	obj = sg_st_obj_of(s->obj);
	if (obj && m)
		sg_st_client_less(obj, s->obj, &m->in, false);
	/* RFC 6888 REQ-8 is about ports that somebody outside knows. */
	sg_st_release(s->map, !half);
	sg_st_id_give(false, id);
	return 1;
}

/* Half-open no more. */
SG_INLINE void sg_st_whole(struct sg_st_sess *s)
{
	struct sg_st_use *use = sg_st_use_of(s->obj);

	if (!s->half)
		return;
	s->half = 0;
	if (use)
		sg_st_less(&use->half);
}

SG_INLINE bool sg_st_holds(__u32 id, __u32 place)
{
	struct sg_st_sess *s = id ? sg_st_sess_of(id - 1) : NULL;

	return s && s->half == place + 1 && (s->state == SG_ST_OUT_INIT || s->state == SG_ST_IN_INIT);
}

/* Puts a half-open session into its object's ring: into a place that nobody holds, or else the oldest one's, whose index + 1 is returned. */
SG_INLINE __u32 sg_st_half_put(__u32 id, __u32 number)
{
	struct sg_st_obj *obj = sg_st_obj_of(number);
	struct sg_st_use *use = sg_st_use_of(number);
	struct sg_st_sess *s = sg_st_sess_of(id);
	__u32 i, first = 0, place, *p;

	if (!obj || !use || !s || !obj->half_size)
		return 0;
	for (i = 0; i < SG_ST_HALF_TRIES; i++) {
		place = obj->half_base + __sync_fetch_and_add(&use->next, 1) % obj->half_size;
		if (!i)
			first = place;
		p = bpf_map_lookup_elem(&sg_st_half, &place);
		if (!p)
			return 0;
		if (!sg_st_holds(*p, place))
			goto put;
	}
	/* What was passed over is not lost: the places behind are older than what comes after them. */
	__sync_fetch_and_sub(&use->next, SG_ST_HALF_TRIES - 1);
	place = first;
	p = bpf_map_lookup_elem(&sg_st_half, &place);
	if (!p)
		return 0;
put:
	s->half = place + 1;
	__sync_fetch_and_add(&use->half, 1);
	i = __sync_lock_test_and_set(p, id + 1);
	return sg_st_holds(i, place) && i != id + 1 ? i : 0;
}

/* Limits of a client: RFC 6888 REQ-4, REQ-5. Counts the session, and the port where one is needed. */
SG_GLOBAL int sg_st_admit(const struct sg_addr *client, __u32 number, __u32 port)
{
	struct sg_st_obj *obj = sg_st_obj_of(number);
	struct sg_st_client_use *c, fresh = {};
	__u64 now, cost;
	struct sg_st_client key;

	if (!obj || !client)
		return SG_DROP_STALE;
	if (!(obj->flags & SG_ST_CLIENTS))
		return 0;
	sg_st_client_key(obj, (__u16)number, client, &key);
	now = bpf_ktime_get_coarse_ns();
	c = bpf_map_lookup_elem(&sg_st_client, &key);
	if (!c) {
		fresh.since_ns = now;
		fresh.tokens_ns = 1000000000ULL;
		bpf_map_update_elem(&sg_st_client, &key, &fresh, BPF_NOEXIST);
		c = bpf_map_lookup_elem(&sg_st_client, &key);
		if (!c)
			return SG_DROP_ST_FULL;
	}
	if (port && obj->client_ports && c->ports >= obj->client_ports) {
		c->refused++;
		SG_ST_COUNT(number, client_ports);
		return SG_DROP_ST_CLIENT;
	}
	if (obj->client_sessions && c->sessions >= obj->client_sessions) {
		c->refused++;
		SG_ST_COUNT(number, client_sessions);
		return SG_DROP_ST_CLIENT;
	}
	if (obj->client_rate) {
		cost = 1000000000ULL / obj->client_rate;
		c->tokens_ns += now - c->since_ns;
		c->since_ns = now;
		if (c->tokens_ns > 1000000000ULL)
			c->tokens_ns = 1000000000ULL;
		if (c->tokens_ns < cost) {
			c->refused++;
			SG_ST_COUNT(number, client_rate);
			return SG_DROP_ST_CLIENT;
		}
		c->tokens_ns -= cost;
	}
	__sync_fetch_and_add(&c->sessions, 1);
	if (port)
		__sync_fetch_and_add(&c->ports, 1);
	return 0;
}

/* A port that the client must have (static bindings: 1 is returned) or better had (simultaneous open): sets `w->port` where it is free. */
SG_GLOBAL int sg_st_wish(struct sg_st *s, struct sg_st_want *w)
{
	struct sg_st_bind bind = {};
	struct sg_st_bound *bound;
	struct sg_st_own *own;
	struct sg_st_obj *obj;
	int fixed = 0;
	__u32 n;

	if (!s || !w)
		return 0;
	obj = sg_st_obj_of(s->obj);
	if (!obj)
		return 0;
	if (obj->flags & SG_ST_STATIC) {
		bind.addr = s->near;
		bind.port = s->near_port;
		bind.proto = s->proto;
		bind.side = SG_BIND_INSIDE;
		bind.obj = s->obj;
		bound = bpf_map_lookup_elem(&sg_st_bind, &bind);
		if (bound) {
			s->to = bound->addr;
			s->wish = bpf_ntohs(bound->port);
			fixed = 1;
		}
	}
	n = s->wish / SG_ST_BLOCK;
	own = s->wish ? sg_st_own_of(&s->to) : NULL;
	if (!own || n < own->first_block || n >= own->first_block + own->blocks)
		return fixed;
	w->block = own->base + sg_st_proto_number(s->proto) * own->blocks + n - own->first_block;
	if (sg_st_port_exact(w->block, s->wish & 63, s->now, obj->life[SG_LIFE_REST], fixed)) {
		w->port = s->wish;
		w->out = s->to;
	}
	return fixed;
}

/* A port for a mapping of `s->near`: in `w`, flags of the mapping are returned. */
SG_INLINE __u8 sg_st_map_port(struct sg_st *s, struct sg_st_want *w, const struct sg_st_obj *obj)
{
	bool shared = s->svc && !obj->block_size;
	struct sg_st_ports *b;

	if (sg_st_wish(s, w))
		return SG_MAP_STATIC;
	if (w->port)
		return 0;
	w->client = sg_st_client_of(obj, &s->near);
	if (!shared) {
		sg_st_port_take(w);
		return 0;
	}
	if (sg_st_share_take(s, w, SG_ST_SHARE_FEW))
		return SG_MAP_SHARED;
	sg_st_port_take(w);
	if (!w->port) {
		sg_st_share_take(s, w, SG_ST_SHARE_MANY);
		return SG_MAP_SHARED;
	}
	b = bpf_map_lookup_elem(&sg_st_port, &w->block);
	if (b)
		b->slot[w->port & 63] = SG_ST_SHARED | 1;
	return SG_MAP_SHARED;
}

/* A new mapping for `s->near` with one reference, which is the caller's; its index + 1 goes to `s->map`. The client was admitted; where this
 * fails, its port is taken off again. */
SG_GLOBAL int sg_st_map_new(struct sg_st *s)
{
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_want *w;
	struct sg_st_ports *b;
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	struct sg_st_map *m;
	__u32 id;
	__u8 flags;

	if (!s || !d)
		return SG_DROP_STALE;
	w = &d->want;
	obj = sg_st_obj_of(s->obj);
	use = sg_st_use_of(s->obj);
	if (!obj || !use)
		return SG_DROP_STALE;
	id = (__u32)sg_st_id_take(1);
	m = id ? sg_st_map_of(id - 1) : NULL;
	if (!m) {
		sg_st_client_less(obj, s->obj, &s->near, true);
		return SG_DROP_ST_FULL;
	}
	id--;
	__builtin_memset(w, 0, sizeof(*w));
	w->now = s->now;
	w->obj = s->obj;
	w->proto = s->proto;
	w->in_port = bpf_ntohs(s->near_port);
	flags = sg_st_map_port(s, w, obj);
	if (!w->port) {
		sg_st_id_give(true, id);
		sg_st_client_less(obj, s->obj, &s->near, true);
		if (!(flags & SG_MAP_SHARED) || !d->share.done)
			return SG_DROP_ST_NO_PORT;
		d->share.again = d->share.nr + 1;
		s->evict = d->share.done;
		return SG_ST_OPEN_AGAIN;
	}
	m->in = s->near;
	m->out = w->out;
	m->in_port = s->near_port;
	m->out_port = bpf_htons((__u16)w->port);
	m->obj = s->obj;
	m->svc = s->svc;
	m->last = 0;
	m->block = w->block;
	m->proto = s->proto;
	m->flags = flags;
	m->vport = s->vport;
	m->refs = 1;
	b = bpf_map_lookup_elem(&sg_st_port, &w->block);
	if (b && !(flags & SG_MAP_SHARED))
		b->slot[w->port & 63] = id + 1;
	__sync_fetch_and_add(&use->maps, 1);
	d->client.addr = s->near;
	d->client.port = s->near_port;
	d->client.proto = s->proto;
	d->client.by_svc = s->svc != 0;
	d->client.dom = s->svc ? s->svc - 1 : s->obj;
	d->client.vport = s->vport;
	d->id = id;
	if (bpf_map_update_elem(&sg_st_fwd, &d->client, &d->id, BPF_NOEXIST)) {
		/* Another CPU was first, or there is no room. Nobody outside knows the port. */
		m->refs = 0;
		sg_st_unmap(id, 0);
		return SG_DROP_ST_FULL;
	}
	s->map = id + 1;
	SG_ST_COUNT(s->obj, maps);
	return 0;
}

/* A new session of mapping `s->map` with `s->far`. The mapping's reference is the session's from now on, or given back. */
SG_GLOBAL int sg_st_sess_new(struct sg_st *s, __u32 state, __u32 life)
{
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_peer *key;
	struct sg_st_sess *n;
	struct sg_st_map *m;
	struct sg_st_use *use;
	struct sg_st_obj *obj;
	__u32 id, map;

	if (!s || !s->map || !d)
		return SG_DROP_STALE;
	key = &d->both;
	map = s->map - 1;
	use = sg_st_use_of(s->obj);
	id = (__u32)sg_st_id_take(0);
	if (!id || !use)
		goto full;
	id--;
	n = sg_st_sess_of(id);
	m = sg_st_map_of(map);
	if (!n || !m)
		goto full;
	n->remote = s->far;
	n->rport = s->far_port;
	n->proto = s->proto;
	n->map = map;
	n->created = s->now;
	n->expires = s->now + life + 1;
	n->half = 0;
	n->reset = 0;
	n->obj = s->obj;
	n->backend = s->backend;
	__builtin_memset(&n->out, 0, sizeof(n->out));
	__builtin_memset(&n->in, 0, sizeof(n->in));
	n->state = state;
	key->addr = s->far;
	key->port = s->far_port;
	key->map = m->flags & SG_MAP_SHARED ? sg_st_by_port(m->block, bpf_ntohs(m->out_port)) : map;
	if (bpf_map_update_elem(&sg_st_find, key, &id, BPF_NOEXIST)) {
		n->state = SG_ST_FREE;
		sg_st_id_give(false, id);
		goto full;
	}
	__sync_fetch_and_add(&use->sessions, 1);
	obj = sg_st_obj_of(s->obj);
	if (obj && obj->flags & SG_ST_ADF && !(key->map & SG_ST_BY_PORT))
		sg_st_see(key, true);
	m->last = id + 1;
	s->sess = id + 1;
	if (state == SG_ST_OUT_INIT || state == SG_ST_IN_INIT)
		s->evict = sg_st_half_put(id, s->obj);
	SG_ST_COUNT(s->obj, sessions);
	return 0;
full:
	obj = sg_st_obj_of(s->obj);
	m = sg_st_map_of(map);
	if (obj && m)
		sg_st_client_less(obj, s->obj, &m->in, false);
	sg_st_release(map, false);
	return SG_DROP_ST_FULL;
}

#endif
