/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* RFC 6146 3.5.2.2, simultaneous open: SYNs from outside that nobody waited for. */
#ifndef SG_ST_SYN_H
#define SG_ST_SYN_H

#include "st.h"

/* Unexpected SYNs by the remote that sent them; the value says to which port of ours, and until when it counts. */
struct sg_st_syn {
	struct sg_addr out;
	__be16 port;
	__u16 pad;
	__u32 until;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sg_st_bind);
	__type(value, struct sg_st_syn);
	__uint(max_entries, 1024);
} sg_st_syn SEC(".maps");

/* RFC 6146 3.5.2.2, simultaneous open: the remote has already tried; its SYN named the port. */
SG_INLINE void sg_st_syn_recall(struct sg_st *q)
{
	struct sg_st_bind key = {};
	struct sg_st_syn *y;

	key.addr = q->far;
	key.port = q->far_port;
	key.proto = q->proto;
	y = bpf_map_lookup_elem(&sg_st_syn, &key);
	if (!y || sg_st_past(q->now, y->until))
		return;
	q->to = y->out;
	q->wish = bpf_ntohs(y->port);
}

SG_INLINE void sg_st_syn_note(const struct sg_st *q, __u32 life)
{
	struct sg_st_bind key = {};
	struct sg_st_syn y = {};

	key.addr = q->far;
	key.port = q->far_port;
	key.proto = q->proto;
	y.out = q->near;
	y.port = q->near_port;
	y.until = q->now + life + 1;
	bpf_map_update_elem(&sg_st_syn, &key, &y, BPF_ANY);
}

#endif
