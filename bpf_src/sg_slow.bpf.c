// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The slow path: tc at the far end of the device that uplinks redirect to. Its near end has no offloads, so what arrives here is an ordinary
 * packet: segmented, with a finished checksum. Fragmenting, ICMP errors of our own, and ICMP errors with their embedded packets. */
#include "sg/bpf.h"

#define SG_WORK_MAP sg_work_slow

#include "sg/ctx_skb.h"
#include "lib/send_skb.h"
#include "lib/rewrite.h"
#include "lib/nat.h"
#include "lib/frag.h"
#include "lib/icmp_xlat.h"

SEC("tc")
int sg_slow_tc(struct __sk_buff *ctx)
{
	__be16 proto = sg_eth_proto(ctx);
	const struct sg_nat_table *t = sg_nat_table();
	struct sg_work *w = sg_new_work(ctx);
	__u32 bytes = ctx->len;
	enum sg_reason reason, answer;

	if (!w || !sg_feature(SG_F_NAT) || (proto != bpf_htons(ETH_P_IP) && proto != bpf_htons(ETH_P_IPV6)))
		return TC_ACT_SHOT;
	if (sg_is_ready(ctx))
		reason = sg_send_ready(ctx, w, proto);
	else if (!t || !sg_nat_claim(ctx, t, w, proto))
		reason = SG_DROP_STALE; /* the table changed while the packet was on its way here */
	else if (w->pkt.version == 6)
		reason = sg_nat64(ctx, t, w);
	else
		reason = sg_nat46(ctx, t, w);
	if (reason == SG_SLOW_FRAGMENT)
		reason = sg_fragment(ctx, t, w);
	else if (reason == SG_SLOW_REWRITE)
		reason = sg_icmp_xlat(ctx, t, w);
	if (w->icmp.send) {
		answer = sg_send_icmp(ctx, w);
		if (answer)
			sg_metric(answer, 1, bytes);
	}
	sg_metric(reason, 1, bytes);
	return w->act;
}

char _license[] SEC("license") = "Dual BSD/GPL";
