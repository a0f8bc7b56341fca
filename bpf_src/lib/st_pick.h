/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A free port among those of one pool address: a random place in the bitmap, and what has rested long enough. */
#ifndef SG_ST_PICK_H
#define SG_ST_PICK_H

#include "st.h"

#define SG_ST_MARK_SHIFT 26 /* of 64 pools */
#define SG_ST_MARK_POOL (63U << SG_ST_MARK_SHIFT)
#define SG_ST_CLAIMED 0xffffffff /* a slot between rest and mapping */

/* Bits of ports low to high in the block of ports 64 * n and on. */
SG_INLINE __u64 sg_st_window(__u32 n, __u32 low, __u32 high)
{
	__u32 first = n * SG_ST_BLOCK, last = first + SG_ST_BLOCK - 1;
	__u64 mask = ~0ULL;

	if (low > last || high < first)
		return 0;
	if (low > first)
		mask <<= (low - first) & 63;
	if (high < last)
		mask &= ~0ULL >> ((last - high) & 63);
	return mask;
}

/* One port that rests: ours where it has rested long enough. */
SG_INLINE bool sg_st_wake(struct sg_st_ports *b, __u32 bit, __u32 now, __u32 rest, __u32 *next)
{
	__u32 since, until;

	bit &= 63;
	since = b->slot[bit];
	if (since == SG_ST_CLAIMED)
		return false;
	until = since + rest;
	if (!sg_st_past(now, until)) {
		if (!*next || sg_st_past(*next, until))
			*next = until;
		return false;
	}
	if (__sync_val_compare_and_swap(&b->slot[bit], since, SG_ST_CLAIMED) != since)
		return false;
	__sync_fetch_and_and(&b->resting, ~(1ULL << bit));
	return true;
}

static long sg_st_block_try(__u32 i __attribute__((unused)), __u32 *key)
{
	struct sg_st_desk *d = bpf_map_lookup_elem(&SG_ST_DESK_MAP, key);
	struct sg_st_pick *p;
	__u32 n, index, turn, k, bit;
	__u64 mask, free, old, *resv;
	struct sg_st_ports *b;

	if (!d)
		return 1;
	p = &d->pick;
	n = p->begin + p->at;
	turn = p->random & 63;
	if (++p->at >= p->blocks)
		p->at = 0;
	index = p->base + n;
	b = bpf_map_lookup_elem(&sg_st_port, &index);
	resv = bpf_map_lookup_elem(&sg_st_resv, &index);
	mask = sg_st_window(n, p->low, p->high) & p->parity;
	if (!b || !mask)
		return 0;
	if (resv)
		mask &= ~*resv;
	for (k = 0; k < 3; k++) {
		free = ~b->used & mask;
		if (!free)
			break;
		/* The first free one behind a random place. */
		old = free >> turn | (turn ? free << (64 - turn) : 0);
		bit = (sg_st_ffs(old) + turn) & 63;
		old = __sync_fetch_and_or(&b->used, 1ULL << bit);
		if (!(old & (1ULL << bit)))
			goto found;
	}
	return 0;
found:
	p->block = index;
	p->found = n * SG_ST_BLOCK + (bit & 63) + 1;
	return 1;
}

/* The same for ports that have rested long enough; one of them a turn. */
static long sg_st_rest_try(__u32 i __attribute__((unused)), __u32 *key)
{
	struct sg_st_desk *d = bpf_map_lookup_elem(&SG_ST_DESK_MAP, key);
	struct sg_st_pick *p;
	__u32 n, index, bit;
	__u64 mask, whole, left, *resv;
	struct sg_st_ports *b;

	if (!d)
		return 1;
	p = &d->pick;
	n = p->begin + p->at;
	index = p->base + n;
	b = bpf_map_lookup_elem(&sg_st_port, &index);
	resv = bpf_map_lookup_elem(&sg_st_resv, &index);
	if (!b)
		return 1;
	whole = resv ? ~*resv : ~0ULL;
	mask = sg_st_window(n, p->low, p->high) & p->parity & whole;
	left = p->bit < SG_ST_BLOCK ? b->resting & mask & (~0ULL << (p->bit & 63)) : 0;
	if (!p->bit && !sg_st_past(p->now, b->rest_next))
		left = 0;
	if (!left) {
		/* Only what was looked at is known: other ports have their own time. */
		if (p->next && mask == whole)
			b->rest_next = p->next;
		p->next = 0;
		p->bit = 0;
		p->seen++;
		if (++p->at >= p->blocks)
			p->at = 0;
		return p->seen >= p->blocks;
	}
	bit = sg_st_ffs(left);
	p->bit = bit + 1;
	if (!sg_st_wake(b, bit, p->now, p->rest, &p->next))
		return 0;
	p->block = index;
	p->found = n * SG_ST_BLOCK + (bit & 63) + 1;
	return 1;
}

/* Ports low to high, network order of no importance here: 16-bit numbers of the address. `parity` 0, 1, or 2 for any. */
SG_INLINE bool sg_st_walk(struct sg_st_pick *p, __u32 first_block, __u32 low, __u32 high, __u32 parity)
{
	__u32 from = low / SG_ST_BLOCK, to = high / SG_ST_BLOCK, zero = 0;

	if (low > high || from < first_block)
		return false;
	p->low = low - first_block * SG_ST_BLOCK;
	p->high = high - first_block * SG_ST_BLOCK;
	p->begin = from - first_block;
	p->blocks = to - from + 1;
	p->random = bpf_get_prandom_u32();
	p->at = (__u32)(((__u64)bpf_get_prandom_u32() * p->blocks) >> 32);
	p->parity = parity == 2 ? ~0ULL : parity ? 0xaaaaaaaaaaaaaaaaULL : 0x5555555555555555ULL;
	p->found = 0;
	bpf_loop(p->blocks, sg_st_block_try, &zero, 0);
	if (p->found)
		return true;
	p->seen = 0;
	p->bit = 0;
	p->next = 0;
	bpf_loop(65536 + 1024, sg_st_rest_try, &zero, 0);
	return p->found;
}

/* The entry that remembers of an address and a protocol that there is no port: of no client's block, but of all of the pool. */
SG_INLINE struct sg_st_ports *sg_st_empty_of(struct sg_st_pick *p, const struct sg_st_want *w)
{
	return w->high ? NULL : bpf_map_lookup_elem(&sg_st_port, &p->base);
}

/* Finds the pool of address number `nr`, and in it a port. A search of everything that finds nothing is remembered, for it costs the time of a
 * hundred packets, and whoever wants to could ask for one with every packet: until a port of the object is given back, and for this second at
 * most, for ports that rest come free by time. RFC 4787 REQ-3: range, then (RFC 6146 3.5.1.1, UDP) parity are kept. */
SG_GLOBAL int sg_st_port_of(struct sg_st_want *w)
{
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_pick *p;
	struct sg_st_pool *pool = NULL;
	struct sg_st_ports *b;
	struct sg_st_obj *obj;
	__u32 i, at, nr, low, high, parity;
	bool dull;

	if (!w || !d)
		return 0;
	p = &d->pick;
	obj = sg_st_obj_of(w->obj);
	if (!obj)
		return 0;
	nr = w->nr;
	for (i = 0; i < 64; i++) {
		if (i >= obj->n_pools)
			return 0;
		at = obj->pool + i;
		pool = bpf_map_lookup_elem(&sg_st_pool, &at);
		if (!pool)
			return 0;
		if (nr < pool->n_addrs)
			break;
		nr -= pool->n_addrs;
	}
	if (!pool || i == 64)
		return 0;
	p->base = pool->base + (nr * SG_ST_PROTOS + sg_st_proto_number(w->proto)) * pool->blocks;
	w->mark = (w->mark & ~SG_ST_MARK_POOL) | (i << SG_ST_MARK_SHIFT); /* pools may share an address */
	b = sg_st_empty_of(p, w);
	if (b && b->empty == w->mark)
		return 0;
	p->now = w->now;
	p->rest = obj->life[SG_LIFE_REST];
	low = pool->first;
	high = pool->last;
	if (w->high) {
		low = w->low > low ? w->low : low;
		high = w->high < high ? w->high : high;
	}
	p->nr = nr; /* here and not on the stack, which is full */
	p->first = low;
	p->last = high;
	parity = w->proto == IPPROTO_UDP && !(obj->flags & SG_ST_NO_PARITY) ? w->in_port & 1 : 2;
	dull = w->proto == IPPROTO_ICMP;
	if (!dull) {
		__u32 l = low, h = high;

		if (w->in_port < 1024)
			h = h < 1023 ? h : 1023;
		else
			l = l > 1024 ? l : 1024;
		if (sg_st_walk(p, pool->first_block, l, h, parity) || (parity != 2 && sg_st_walk(p, pool->first_block, l, h, 2)))
			goto found;
		/* "If free": a client with a port that the pool has none like takes any. */
		if (l == p->first && h == p->last)
			goto none;
	}
	if (!sg_st_walk(p, pool->first_block, p->first, p->last, 2))
		goto none;
found:
	w->out = pool->addr;
	w->out.w[3] = bpf_htonl(bpf_ntohl(pool->addr.w[3]) + p->nr);
	w->block = p->block;
	w->port = pool->first_block * SG_ST_BLOCK + p->found - 1;
	return 1;
none:
	b = sg_st_empty_of(p, w);
	if (b)
		b->empty = w->mark;
	return 0;
}

#endif
