// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* XDP at an uplink: plain packets from the wire. What needs more than new headers goes up to tc, untouched and counted. */
#include "sg/bpf.h"

#define SG_WORK_MAP sg_work_xdp
#define SG_LB_WORK_MAP sg_lb_work_xdp

#include "sg/ctx_xdp.h"
#include "lib/send_xdp.h"
#include "lib/fast_nops.h"
#include "lib/observe.h"
#include "lib/flow_xdp.h"
#include "lib/flow.h"
#include "lib/lb_send_xdp.h"
#include "lib/lb_fast.h"
#include "lib/lb_nat_fast.h"

SG_GLOBAL int sg_xdp_general(struct xdp_md *ctx)
{
	__be16 proto = sg_eth_proto(ctx);
	const struct sg_nat_table *t = sg_nat_table();
	struct sg_work *w = sg_new_work(ctx);
	enum sg_reason reason;

	/* What is not ours is counted once, in tc. */
	if (!t || !w || !sg_nat_claim(ctx, t, w, proto) || !sg_is_unicast(ctx))
		return SG_ACT_PASS;
	reason = w->pkt.version == 6 ? sg_nat64(ctx, t, w) : sg_nat46(ctx, t, w);
	if (reason == SG_OK_64 || reason == SG_OK_46) {
		sg_flow_learn(ctx, t, w);
	} else if (w->icmp.send || (reason >= SG_SLOW_FRAGMENT && reason <= SG_SLOW_NEIGH) || reason == SG_SLOW_REWRITE) {
		reason = reason == SG_SLOW_NEIGH ? reason : SG_SLOW_XDP;
		w->act = SG_ACT_PASS;
	}
	sg_metric(reason, 1, w->frame_len);
	return w->act;
}

/* A call, for the stack of what comes after it. */
SG_GLOBAL int sg_nat_common(struct xdp_md *ctx)
{
	const struct sg_nat_table *t = sg_nat_table();

	if (!t)
		return SG_ACT_PASS;
	return sg_eth_proto(ctx) == bpf_htons(ETH_P_IPV6) ? sg_flow64(ctx, t->version) : sg_flow46(ctx, t->version);
}

SG_INLINE int sg_uplink(struct xdp_md *ctx)
{
	__be16 proto = sg_eth_proto(ctx);
	int act;

	if (sg_feature(SG_F_LB)) {
		act = sg_lb_fast(ctx, proto);
		if (likely(act >= 0))
			return act;
		if (sg_feature(SG_F_STATEFUL) && act != SG_LB_FOREIGN)
			act = sg_lb_nat_fast(ctx, act == SG_LB_GENERAL);
		if (act == SG_LB_GENERAL || act == SG_LB_NO_PORT)
			act = sg_lb_general(ctx);
		if (act != SG_LB_FOREIGN)
			return act;
	}
	if (!sg_feature(SG_F_NAT) || (proto != bpf_htons(ETH_P_IP) && proto != bpf_htons(ETH_P_IPV6)))
		return SG_ACT_PASS;
	act = sg_nat_common(ctx);
	if (likely(act != SG_FLOW_GENERAL))
		return act;
	return sg_xdp_general(ctx);
}

SEC("xdp")
int sg_uplink_xdp(struct xdp_md *ctx)
{
	bool seen;
	int act;

	/* Twice the same, so that the one nobody looks at keeps nothing in mind. */
	if (likely(!sg_observed()))
		return sg_uplink(ctx);
	seen = sg_obs_begin(ctx);
	act = sg_uplink(ctx);
	if (seen)
		sg_obs_end(ctx, act, SG_AT_XDP);
	return act;
}

char _license[] SEC("license") = "Dual BSD/GPL";
