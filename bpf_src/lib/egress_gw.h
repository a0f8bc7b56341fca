/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Egress at the gateway: out of the tunnel, and on. */
#ifndef SG_EGRESS_GW_H
#define SG_EGRESS_GW_H

#include "egress.h"
#include "xlat.h"

/* The engine's objects of every pair that this node is a gateway of. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* pair */
	__type(value, struct sg_eg_obj);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_eg_obj SEC(".maps");

/* Remembers where the sender of this packet lives. */
SG_INLINE void sg_eg_learn(struct __sk_buff *ctx, __u32 pair, const struct sg_addr *node)
{
	struct sg_eg_home fresh = {.node = *node, .pair = pair};
	const struct sg_eg_home *home;
	struct sg_pkt p = {};

	if (!sg_eg_parse(ctx, &p, sg_eth_proto(ctx)))
		return;
	home = bpf_map_lookup_elem(&sg_eg_home, &p.saddr);
	if (home && home->node.d[0] == node->d[0] && home->node.d[1] == node->d[1] && home->pair == pair)
		return;
	bpf_map_update_elem(&sg_eg_home, &p.saddr, &fresh, BPF_ANY);
}

/* A packet for the world, from a pod of `pair`. */
SG_GLOBAL int sg_eg_out(struct __sk_buff *ctx, __u32 pair)
{
	const struct sg_eg_own *own = bpf_map_lookup_elem(&sg_eg_own, &pair);
	__u32 segs = sg_segments(ctx), bytes = ctx->len;
	struct sg_work *w = sg_new_work(ctx);
	enum sg_reason reason;
	struct sg_pkt *p;

	if (!own || !w || !bpf_map_lookup_elem(&sg_eg_obj, &pair)) {
		sg_metric(SG_DROP_EGRESS_NOT_OWN, segs, bytes);
		return TC_ACT_SHOT;
	}
	p = &w->pkt;
	if (!sg_eg_parse(ctx, p, sg_eth_proto(ctx)))
		return TC_ACT_SHOT;
	reason = sg_hop_find(ctx, &w->hop, &p->saddr, &p->daddr, p->version == 4, p->proto, p->tos, 0);
	if (!reason) {
		reason = SG_OK_EGRESS_OUT;
		w->act = sg_hop_send(ctx, &w->hop, &reason);
	}
	sg_metric(reason, segs, bytes);
	return w->act;
}

#endif
