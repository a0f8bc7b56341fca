/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ports of pool addresses: given out at random, kept by one mapping each, left to rest afterwards. */
#ifndef SG_ST_PORT_H
#define SG_ST_PORT_H

#include "st_block.h"

/* A port for a client of `w->obj`; 0 where there is none. */
SG_GLOBAL int sg_st_port_take(struct sg_st_want *w)
{
	struct sg_st_obj *obj;
	__u32 h, i;

	if (!w)
		return 0;
	w->port = 0;
	w->low = 0;
	w->high = 0;
	obj = sg_st_obj_of(w->obj);
	if (!obj || !obj->n_addrs)
		return 0;
	if (obj->block_size)
		return sg_st_port_in_block(w, obj);
	h = obj->flags & SG_ST_PAIRED ? sg_st_hash(&w->client, 0) : bpf_get_prandom_u32();
	for (i = 0; i < 8; i++) {
		w->nr = (h + i) % obj->n_addrs;
		if (sg_st_port_of(w))
			return 1;
		/* RFC 4787 REQ-2: a client has one address, and no more ports than that one has. */
		if (obj->flags & SG_ST_PAIRED || i + 1 >= obj->n_addrs)
			break;
	}
	return 0;
}

/* This very port, of block `index`; for static bindings `used` may be set by nobody else, for they are reserved. */
SG_INLINE bool sg_st_port_exact(__u32 index, __u32 bit, __u32 now, __u32 rest, bool reserved)
{
	struct sg_st_ports *b = bpf_map_lookup_elem(&sg_st_port, &index);
	__u64 *resv = bpf_map_lookup_elem(&sg_st_resv, &index);
	__u32 next = 0;

	bit &= 63;
	if (!b || (resv && !reserved && *resv & (1ULL << bit)))
		return false;
	if (!(__sync_fetch_and_or(&b->used, 1ULL << bit) & (1ULL << bit)))
		return true;
	return b->resting & (1ULL << bit) && sg_st_wake(b, bit, now, rest, &next);
}

/* Gives a port back, to rest or to be used at once. */
SG_INLINE void sg_st_port_give(__u32 index, __u32 port, __u32 now, bool rest)
{
	struct sg_st_ports *b = bpf_map_lookup_elem(&sg_st_port, &index);
	__u32 bit = port & 63;

	if (!b)
		return;
	b->slot[bit] = rest ? now : 0;
	if (!rest) {
		__sync_fetch_and_and(&b->used, ~(1ULL << bit));
		return;
	}
	if (!b->resting)
		b->rest_next = now; /* whatever was known of others is over */
	__sync_fetch_and_or(&b->resting, 1ULL << bit);
}

#endif
