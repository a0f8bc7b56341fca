/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Blocks of ports: a client's ports follow from its address, and only what cannot be computed is logged (RFC 7422). */
#ifndef SG_ST_BLOCK_H
#define SG_ST_BLOCK_H

#include "st_pick.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_st_blk_key);
	__type(value, struct sg_st_blk);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_st_blk SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144);
} sg_st_log SEC(".maps");

SG_INLINE void sg_st_log_block(const struct sg_st_want *w, __u32 first, __u32 last, bool given)
{
	struct sg_st_block_event *e = bpf_ringbuf_reserve(&sg_st_log, sizeof(*e), 0);

	if (!e)
		return;
	e->time_ns = bpf_ktime_get_ns();
	e->client = w->client;
	e->out = w->out;
	e->first = (__u16)first;
	e->last = (__u16)last;
	e->obj = w->obj;
	e->proto = w->proto;
	e->given = given;
	bpf_ringbuf_submit(e, 0);
}

#define SG_ST_BLOCK_TRIES 16
#define SG_ST_BLOCK_LOCK 0x80000000

/* A search for a block of the client's with a free port (RFC 7422). */
struct sg_st_blocks {
	struct sg_st_want *w;
	__u32 size;	/* ports of a block */
	__u32 per_addr; /* blocks of an address */
	__u32 first;	/* port */
	__u32 total;
	__u32 rest;
	__u32 fresh; /* the block was not the client's before */
};

/* Whether block `key` is, or becomes, the client's. */
SG_INLINE bool sg_st_block_mine(const struct sg_st_blk_key *key, struct sg_st_blocks *s)
{
	struct sg_st_blk *b = bpf_map_lookup_elem(&sg_st_blk, key), own = {};

	s->fresh = false;
	if (b && sg_st_same(&b->client, &s->w->client))
		return true;
	if (b) {
		if (b->ports || !sg_st_past(s->w->now, b->released + s->rest) ||
		    __sync_val_compare_and_swap(&b->ports, 0, SG_ST_BLOCK_LOCK))
			return false;
		bpf_map_delete_elem(&sg_st_blk, key);
	}
	own.client = s->w->client;
	own.released = s->w->now;
	s->fresh = true;
	return !bpf_map_update_elem(&sg_st_blk, key, &own, BPF_NOEXIST);
}

/* Try number i of a client's blocks: true where a port was found. */
SG_INLINE bool sg_st_block_next(__u32 i, struct sg_st_blocks *s)
{
	struct sg_st_want *w = s->w;
	struct sg_st_blk_key key = {};
	struct sg_st_blk *b;

	key.obj = w->obj;
	key.block = sg_st_hash(&w->client, w->obj + i * 0x10001) % s->total;
	if (!sg_st_block_mine(&key, s))
		return false;
	w->nr = key.block / s->per_addr;
	w->low = s->first + key.block % s->per_addr * s->size;
	w->high = w->low + s->size - 1;
	if (!sg_st_port_of(w))
		return false;
	b = bpf_map_lookup_elem(&sg_st_blk, &key);
	if (b)
		__sync_fetch_and_add(&b->ports, 1);
	if (i && s->fresh) {
		sg_st_log_block(w, w->low, w->high, true);
		SG_ST_COUNT(w->obj, overflow);
	}
	return true;
}

/* Deterministic blocks: of one pool, whose addresses all have the same ports. */
SG_INLINE bool sg_st_port_in_block(struct sg_st_want *w, const struct sg_st_obj *obj)
{
	struct sg_st_blocks s = {.w = w, .size = obj->block_size, .rest = obj->life[SG_LIFE_REST]};
	__u32 at = obj->pool, i;
	struct sg_st_pool *pool = bpf_map_lookup_elem(&sg_st_pool, &at);

	if (!pool || !s.size)
		return false;
	s.first = pool->first;
	s.per_addr = (pool->last - pool->first + 1) / s.size;
	s.total = s.per_addr * obj->n_addrs;
	if (!s.total)
		return false;
	for (i = 0; i < SG_ST_BLOCK_TRIES; i++)
		if (sg_st_block_next(i, &s))
			return true;
	return false;
}

/* Gives a port of a client's block back. */
SG_INLINE void sg_st_block_give(const struct sg_st_obj *obj, __u16 number, const struct sg_st_map *m, __u32 now)
{
	struct sg_st_blk_key key = {.obj = number};
	struct sg_st_pool *pool;
	struct sg_st_blk *b;
	__u32 at = obj->pool, i, nr = 0, size = obj->block_size, per_addr;

	if (!size)
		return;
	for (i = 0; i < 64; i++) {
		if (i >= obj->n_pools)
			return;
		at = obj->pool + i;
		pool = bpf_map_lookup_elem(&sg_st_pool, &at);
		if (!pool)
			return;
		at = bpf_ntohl(m->out.w[3]) - bpf_ntohl(pool->addr.w[3]);
		if (at < pool->n_addrs)
			break;
		nr += pool->n_addrs;
	}
	if (i == 64)
		return;
	at += nr;
	per_addr = (pool->last - pool->first + 1) / size;
	key.block = at * per_addr + (bpf_ntohs(m->out_port) - pool->first) / size;
	b = bpf_map_lookup_elem(&sg_st_blk, &key);
	if (!b)
		return;
	b->released = now;
	__sync_fetch_and_sub(&b->ports, 1);
}

#endif
