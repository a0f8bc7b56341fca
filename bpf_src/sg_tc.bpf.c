// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tc at an uplink's ingress: packets from the wire or from pods, super-packets included, which stay whole. */
#include "sg/bpf.h"

#define SG_WORK_MAP sg_work_tc
#define SG_ST_HOLD 1
#define SG_ST_BALANCED 1
#define SG_LB_WORK_MAP sg_lb_work_tc

#include "sg/ctx_skb.h"
#include "lib/send_skb.h"
#include "lib/big.h"
#include "lib/fast_nops.h"
#include "lib/event.h"
#include "lib/observe.h"
#include "lib/flow_skb.h"
#include "lib/flow.h"
#include "lib/lb_send_skb.h"
#include "lib/lb.h"
#include "lib/st_fast.h"

/* The slow device that finishes a packet: for replies to pods of egress it is the one that knows where they live. */
SG_INLINE int sg_tc_aside(struct __sk_buff *ctx, const struct sg_work *w)
{
	const struct sg_st_own *own;

	if (sg_feature(SG_F_EGRESS) && w->way == SG_WAY_IN) {
		own = sg_st_own_of(&w->pkt.daddr);
		if (own && own->flags & SG_OWN_SAME) {
			ctx->mark = SG_EG_MARK;
			return bpf_redirect(sg_cfg.eslow_dev, 0);
		}
	}
	return bpf_redirect(sg_cfg.slow_dev, 0);
}

SG_INLINE bool sg_is_slow(enum sg_reason reason)
{
	return reason == SG_SLOW_ICMP || reason == SG_SLOW_FRAGMENT || reason == SG_SLOW_REWRITE;
}

/* What every path does at its end. */
SG_INLINE int sg_tc_done(struct __sk_buff *ctx, struct sg_work *w, enum sg_reason reason, __u32 segs, __u32 bytes)
{
	/* Here and not in the slow path, which does not know the uplink. */
	if (sg_noteworthy(reason))
		sg_note(ctx, w, reason);
	if (w->icmp.send)
		reason = SG_SLOW_ICMP;
	if (sg_is_slow(reason))
		w->act = sg_tc_aside(ctx, w);
	sg_metric(reason, segs, bytes);
	return w->act;
}

/* SG_FLOW_GENERAL where the packet is none of the stateful objects'. `balanced`: it is for a VIP, and sg_lb_general() has read it. */
SG_GLOBAL int sg_tc_stateful(struct __sk_buff *ctx, __u32 balanced)
{
	const struct sg_nat_table *t = sg_nat_table();
	__u32 segs = sg_segments(ctx), bytes = ctx->len, zero = 0;
	struct sg_lb_work *lw = bpf_map_lookup_elem(&SG_LB_WORK_MAP, &zero);
	struct sg_work *w = sg_new_work(ctx);
	enum sg_reason reason;

	if (!t || !w || !lw || !sg_parse_ip(ctx, w, sg_eth_proto(ctx)))
		return SG_FLOW_GENERAL;
	if (balanced) {
		w->pkt = lw->pkt;
		if (!sg_lb_ask_engine(w, lw))
			return SG_FLOW_GENERAL;
	} else if (!sg_st_claim(ctx, t, w) || !sg_is_unicast(ctx)) {
		return SG_FLOW_GENERAL;
	}
	reason = sg_st_nat(ctx, t, w);
	if (reason == SG_PASS_NO_MATCH)
		return SG_FLOW_GENERAL;
	if (balanced && !w->icmp.send && !sg_is_slow(reason))
		sg_lb_natted(w, lw, reason);
	return sg_tc_done(ctx, w, reason, segs, bytes);
}

/* No table knows the destination. */
SG_INLINE int sg_tc_nobody(struct __sk_buff *ctx)
{
	if (sg_feature(SG_F_BIG_FORWARD) && sg_is_big6(ctx))
		return sg_big_forward(ctx);
	sg_metric(SG_PASS_NO_MATCH, sg_segments(ctx), ctx->len);
	return SG_ACT_PASS;
}

SG_GLOBAL int sg_tc_general(struct __sk_buff *ctx)
{
	__be16 proto = sg_eth_proto(ctx);
	const struct sg_nat_table *t = sg_nat_table();
	__u32 segs = sg_segments(ctx), bytes = ctx->len;
	struct sg_work *w = sg_new_work(ctx);
	enum sg_reason reason;

	if (!t || !w || !sg_nat_claim(ctx, t, w, proto))
		return sg_tc_nobody(ctx);
	if (!sg_is_unicast(ctx)) {
		sg_metric(SG_PASS_UNICAST_ONLY, segs, bytes);
		return SG_ACT_PASS;
	}
	reason = w->pkt.version == 6 ? sg_nat64(ctx, t, w) : sg_nat46(ctx, t, w);
	if (reason == SG_OK_64 || reason == SG_OK_46)
		sg_flow_learn(ctx, t, w);
	return sg_tc_done(ctx, w, reason, segs, bytes);
}

/* A packet for a VIP in mode NAT. */
SG_INLINE int sg_tc_engine(struct __sk_buff *ctx)
{
	int act = sg_feature(SG_F_STATEFUL) ? sg_tc_stateful(ctx, 1) : SG_FLOW_GENERAL;

	if (likely(act != SG_FLOW_GENERAL))
		return act;
	sg_metric(SG_DROP_STALE, sg_segments(ctx), ctx->len);
	return TC_ACT_SHOT;
}

/* Who a packet may belong to, by its destination. */
enum sg_tc_whose {
	SG_TC_ANYBODY = 0,
	SG_TC_SAME,   /* to a pool of egress: nothing for the fast path */
	SG_TC_NOBODY, /* no table knows the destination */
};

/* Whose a packet can be, by its destination alone. Gateways of egress ask this first: what comes to them through the tunnel passes here as a packet of
 * the host's, three times for a connection, and would be looked for in vain in four ways. */
SG_INLINE enum sg_tc_whose sg_tc_whose(struct __sk_buff *ctx, const struct sg_nat_table *t, bool v4)
{
	__u32 others = v4 ? SG_ST_HAS_SVC4 | SG_ST_HAS_KEPT4 : SG_ST_HAS_SVC6 | SG_ST_HAS_KEPT6;
	void *l3 = sg_data(ctx) + ETH_HLEN;
	const struct sg_st_own *own;
	struct sg_addr daddr;

	if (sg_cfg.l2_len != ETH_HLEN || t->stateful & others || t->n_map || t->n_range || (!v4 && t->n_gw))
		return SG_TC_ANYBODY;
	if (l3 + (v4 ? SG_V4_LEN : SG_V6_LEN) > sg_data_end(ctx))
		return SG_TC_ANYBODY;
	if (v4)
		daddr = sg_addr4(((struct iphdr *)l3)->daddr);
	else
		__builtin_memcpy(&daddr, &((struct ipv6hdr *)l3)->daddr, sizeof(daddr));
	own = bpf_map_lookup_elem(&sg_st_own, &daddr);
	if (!own)
		return SG_TC_NOBODY;
	return own->flags & SG_OWN_SAME ? SG_TC_SAME : SG_TC_ANYBODY;
}

SG_INLINE int sg_uplink(struct __sk_buff *ctx)
{
	enum sg_tc_whose whose = SG_TC_ANYBODY;
	__be16 proto = sg_eth_proto(ctx);
	const struct sg_nat_table *t;
	int act;

	if (sg_feature(SG_F_EGRESS) && unlikely(sg_eg_is_direct(ctx))) {
		/* To sg_tunnel_tc, which has to know where it came in. */
		ctx->mark = ctx->ifindex;
		return bpf_redirect(sg_cfg.tunnel_dev, BPF_F_INGRESS);
	}
	if (sg_feature(SG_F_LB)) {
		act = sg_lb_general(ctx);
		if (act == SG_LB_ENGINE)
			return sg_tc_engine(ctx);
		if (act != SG_LB_FOREIGN)
			return act;
	}
	if (!sg_feature(SG_F_NAT | SG_F_STATEFUL))
		return sg_feature(SG_F_BIG_FORWARD) && sg_is_big6(ctx) ? sg_big_forward(ctx) : SG_ACT_PASS;
	if (proto != bpf_htons(ETH_P_IP) && proto != bpf_htons(ETH_P_IPV6)) {
		sg_metric(SG_PASS_NOT_IP, 1, ctx->len);
		return SG_ACT_PASS;
	}
	t = sg_nat_table();
	if (sg_feature(SG_F_STATEFUL) && t && t->stateful) {
		if (sg_feature(SG_F_EGRESS))
			whose = sg_tc_whose(ctx, t, proto == bpf_htons(ETH_P_IP));
		if (whose == SG_TC_NOBODY)
			return sg_tc_nobody(ctx);
		if (likely(sg_cfg.l2_len == ETH_HLEN && whose != SG_TC_SAME)) {
			act = proto == bpf_htons(ETH_P_IPV6) ? sg_st_fast64(ctx, t) : sg_st_fast46(ctx, t);
			if (likely(act != SG_FLOW_GENERAL))
				return act;
		}
		act = sg_tc_stateful(ctx, 0);
		if (act != SG_FLOW_GENERAL)
			return act;
	}
	if (!sg_feature(SG_F_NAT))
		return sg_feature(SG_F_BIG_FORWARD) && sg_is_big6(ctx) ? sg_big_forward(ctx) : SG_ACT_PASS;
	if (likely(t && sg_cfg.l2_len == ETH_HLEN)) {
		act = proto == bpf_htons(ETH_P_IPV6) ? sg_flow64(ctx, t->version) : sg_flow46(ctx, t->version);
		if (likely(act != SG_FLOW_GENERAL))
			return act;
	}
	return sg_tc_general(ctx);
}

SEC("tc")
int sg_uplink_tc(struct __sk_buff *ctx)
{
	bool seen = sg_observed() && sg_obs_begin(ctx);
	int act = sg_uplink(ctx);

	if (unlikely(seen))
		sg_obs_end(ctx, act, SG_AT_TC);
	return act;
}

char _license[] SEC("license") = "Dual BSD/GPL";
