/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Egress at the gateway: out of the tunnel, and on. */
#ifndef SG_EGRESS_GW_H
#define SG_EGRESS_GW_H

#include "egress.h"
#include "st_nat.h"

/* The engine's objects of every pair that this node is a gateway of. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* pair */
	__type(value, struct sg_eg_obj);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_eg_obj SEC(".maps");

/* Pairs' addresses at gateways: of this node's own with the pair, of others with SG_EG_REPLY, too. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_eg_mac);
	__type(value, __u32); /* as a tunnel id */
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_eg_mac SEC(".maps");

SG_INLINE bool sg_eg_same_home(const struct sg_eg_home *a, const struct sg_eg_home *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	_Static_assert(sizeof(*a) == 40, "all of it is compared");
	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/* Remembers where the sender of this packet lives. */
SG_INLINE void sg_eg_learn(struct __sk_buff *ctx, const struct sg_eg_home *fresh)
{
	const struct sg_eg_home *home;
	struct sg_pkt p = {};

	if (!sg_eg_parse(ctx, &p, sg_eth_proto(ctx)))
		return;
	home = bpf_map_lookup_elem(&sg_eg_home, &p.saddr);
	if (!home || !sg_eg_same_home(home, fresh))
		bpf_map_update_elem(&sg_eg_home, &p.saddr, fresh, BPF_ANY);
}

/* The tunnel id that a frame's addresses stand for, negative where it is none of ours; it came in through `ifindex`. */
SG_GLOBAL int sg_eg_direct(struct __sk_buff *ctx, __u32 ifindex)
{
	struct sg_eg_home fresh = {.frame.ifindex = ifindex};
	struct sg_eg_mac key = {};
	__u8 macs[12];
	__u32 *id;

	if (bpf_skb_load_bytes(ctx, 0, macs, sizeof(macs)))
		return -1;
	__builtin_memcpy(key.mac, macs, 6);
	id = bpf_map_lookup_elem(&sg_eg_mac, &key);
	if (id && !(*id & SG_EG_REPLY)) {
		fresh.pair = *id;
		__builtin_memcpy(fresh.frame.dmac, macs + 6, 6);
		__builtin_memcpy(fresh.frame.smac, macs, 6);
		sg_eg_learn(ctx, &fresh);
		return (int)(*id & SG_EG_PAIRS);
	}
	__builtin_memcpy(key.mac, macs + 6, 6);
	id = bpf_map_lookup_elem(&sg_eg_mac, &key);
	return id && *id & SG_EG_REPLY ? (int)(*id & 0xffffff) : -1;
}

/* The packet's object of the engine in `w`; 0, or why there is none. */
SG_INLINE enum sg_reason sg_eg_object(sg_ctx *ctx, struct sg_work *w, __u32 pair)
{
	const struct sg_eg_obj *obj = bpf_map_lookup_elem(&sg_eg_obj, &pair);
	__be16 proto = sg_eth_proto(ctx);
	bool v4 = proto == bpf_htons(ETH_P_IP);

	if (!obj || !(obj->families & (v4 ? 1 : 2)))
		return SG_DROP_EGRESS_NOT_OWN;
	if ((!v4 && proto != bpf_htons(ETH_P_IPV6)) || !sg_parse_ip(ctx, w, proto))
		return SG_DROP_BAD_HEADER;
	w->way = SG_WAY_OUT;
	w->st.obj = v4 ? obj->obj4 : obj->obj6;
	return 0;
}

/* Whether a connection is known here. ICMP errors and later fragments count by what they speak of. */
SG_GLOBAL int sg_eg_known(struct __sk_buff *ctx, struct sg_work *w)
{
	__u16 obj;

	if (!w)
		return false;
	obj = w->st.obj;
	sg_st_peek(ctx, w);
	w->st.proto = sg_st_proto(w->st.proto);
	w->st.obj = obj;
	return sg_st_map_find(&w->st) != NULL;
}

/* A packet for a pair that this node has no more, or not yet: to where it should have gone. */
SG_INLINE int sg_eg_relay(struct __sk_buff *ctx, __u32 id, enum sg_reason *reason)
{
	__u32 pair = id & SG_EG_PAIRS;
	const struct sg_eg_way *way = bpf_map_lookup_elem(&sg_eg_way, &pair);
	struct sg_eg_node node;

	*reason = SG_DROP_EGRESS_NOT_OWN;
	if (!way || way->flags & SG_EG_HERE || id & SG_EG_RELAYED)
		return TC_ACT_SHOT;
	__builtin_memcpy(&node, &way->gateway, sizeof(node));
	*reason = SG_OK_EGRESS;
	return sg_eg_encap(ctx, pair | SG_EG_RELAYED, &node, 0);
}

/* A packet for the world, from a pod of the pair in `id`. */
SG_GLOBAL int sg_eg_out(struct __sk_buff *ctx, __u32 id)
{
	__u32 segs = sg_segments(ctx), bytes = ctx->len, pair = id & SG_EG_PAIRS;
	const struct sg_eg_own *own = bpf_map_lookup_elem(&sg_eg_own, &pair);
	const struct sg_nat_table *t = sg_nat_table();
	struct sg_work *w = sg_new_work(ctx);
	enum sg_reason reason;
	int act;

	if (!w || !t)
		return TC_ACT_SHOT;
	reason = sg_eg_object(ctx, w, pair);
	if (!reason && (!own || !(own->flags & SG_EG_OWNER)) && (!own || !sg_eg_known(ctx, w))) {
		act = sg_eg_relay(ctx, id, &reason);
		sg_metric(reason, segs, bytes);
		return act;
	}
	if (!reason)
		reason = sg_st_nat(ctx, t, w);
	if (w->icmp.send || reason == SG_SLOW_REWRITE) {
		reason = SG_SLOW_REWRITE;
		ctx->mark = SG_EG_MARK | pair;
		w->act = bpf_redirect(sg_cfg.eslow_dev, 0);
	}
	sg_metric(reason, segs, bytes);
	return w->act;
}

#endif
