// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tc at an uplink's ingress: packets from the wire or from pods, super-packets included, which stay whole. */
#include "sg/bpf.h"
#include "sg/ctx_skb.h"
#include "lib/send_skb.h"
#include "lib/fast_nops.h"
#include "lib/nat.h"

SEC("tc")
int sg_uplink_tc(struct __sk_buff *ctx)
{
	__be16 proto = sg_eth_proto(ctx);
	struct sg_work w = {};
	struct sg_hop hop;
	enum sg_reason reason;
	__u64 header_sum = 0;
	__u32 segs = sg_segments(ctx), bytes = ctx->len;
	int act = TC_ACT_SHOT;

	if (!sg_feature(SG_F_NAT))
		return TC_ACT_OK;
	if (proto != bpf_htons(ETH_P_IP) && proto != bpf_htons(ETH_P_IPV6)) {
		sg_metric(SG_PASS_NOT_IP, segs, bytes);
		return TC_ACT_OK;
	}
	w.t = sg_nat_table();
	if (!w.t || !sg_nat_claim(ctx, &w, proto, &header_sum)) {
		sg_metric(SG_PASS_NO_MATCH, segs, bytes);
		return TC_ACT_OK;
	}
	if (!sg_is_unicast(ctx)) {
		sg_metric(SG_PASS_UNICAST_ONLY, segs, bytes);
		return TC_ACT_OK;
	}
	w.frame_len = ctx->len;
	if (w.pkt.version == 6)
		reason = sg_nat64(ctx, &w, &hop, &act);
	else
		reason = sg_nat46(ctx, &w, &hop, header_sum, &act);
	if (unlikely(w.icmp.send))
		reason = SG_SLOW_ICMP;
	if (reason == SG_SLOW_ICMP || reason == SG_SLOW_FRAGMENT || reason == SG_SLOW_REWRITE)
		act = bpf_redirect(sg_cfg.slow_dev, 0);
	sg_metric(reason, segs, bytes);
	return act;
}

char _license[] SEC("license") = "Dual BSD/GPL";
