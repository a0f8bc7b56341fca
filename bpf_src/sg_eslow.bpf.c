// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The slow path of egress: tc at the far end of the device that sg_pod_tc redirects to. What arrives here is whole and summed, as in sg_slow. */
#include "sg/bpf.h"

#define SG_WORK_MAP sg_work_eslow
#define SG_ST_HOLD 1
#define SG_ST_WAIT_DEV sg_cfg.eslow_dev

#include "sg/ctx_skb.h"
#include "lib/send_skb.h"
#include "lib/rewrite.h"
#include "lib/icmp_send.h"
#include "lib/icmp_xlat.h"
#include "lib/icmp_same.h"
#include "lib/egress.h"

#include "lib/egress_gw.h"

/* What the engine says of a packet whose object is known, and what is left to do here. */
SG_INLINE int sg_eslow_nat(struct __sk_buff *ctx, const struct sg_nat_table *t, struct sg_work *w, int reason)
{
	__u32 bytes = w->frame_len;
	int answer;

	if (!reason)
		reason = sg_st_nat(ctx, t, w);
	if (reason == SG_DROP_ST_FRAGMENT)
		reason = sg_st_wait(ctx, w);
	else if (reason == SG_SLOW_REWRITE) {
		reason = sg_st_error(ctx, w);
		if (!reason)
			reason = sg_icmp_same(ctx, w);
	}
	if (w->icmp.send) {
		answer = sg_send_icmp(ctx, w);
		if (answer)
			sg_metric(answer, 1, bytes);
	}
	sg_metric(reason, 1, bytes);
	return w->act;
}

/* What a gateway has to read or rewrite of a pod's packet. */
SG_GLOBAL int sg_eslow_out(struct __sk_buff *ctx, __u32 pair)
{
	const struct sg_nat_table *t = sg_nat_table();
	struct sg_work *w = sg_new_work(ctx);

	if (!t || !w)
		return TC_ACT_SHOT;
	return sg_eslow_nat(ctx, t, w, sg_eg_object(ctx, w, pair));
}

/* The same of a packet from outside, to an address of a pair. */
SG_GLOBAL int sg_eslow_in(struct __sk_buff *ctx)
{
	const struct sg_nat_table *t = sg_nat_table();
	struct sg_work *w = sg_new_work(ctx);

	if (!t || !w || !sg_parse_ip(ctx, w, sg_eth_proto(ctx)) || !sg_st_claim(ctx, t, w))
		return TC_ACT_SHOT;
	return sg_eslow_nat(ctx, t, w, 0);
}

/* Packets of pods that are too large for the tunnel: their sender is told so. */
SG_GLOBAL int sg_eslow_refuse(struct __sk_buff *ctx)
{
	struct sg_work *w = sg_new_work(ctx);
	const struct sg_eg_pod *pod;
	const struct sg_eg_dst *dst;
	const struct sg_eg_way *way;
	enum sg_reason answer;
	struct sg_pkt *p;

	if (!w)
		return TC_ACT_SHOT;
	p = &w->pkt;
	if (!sg_eg_parse(ctx, p, sg_eth_proto(ctx)) || (p->version == 6 && sg_parse_exthdrs(ctx, p)))
		return TC_ACT_SHOT;
	pod = bpf_map_lookup_elem(&sg_eg_pod, &p->saddr);
	dst = pod ? sg_eg_covers(pod->set, &p->daddr) : NULL;
	way = dst ? bpf_map_lookup_elem(&sg_eg_way, &dst->pair) : NULL;
	if (!way) {
		sg_metric(SG_DROP_STALE, 1, w->frame_len);
		return TC_ACT_SHOT;
	}
	if (p->version == 4)
		sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP4_UNREACH, 4, way->mtu);
	else
		sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP6_TOO_BIG, 0, way->mtu);
	sg_metric(SG_DROP_TOO_BIG, 1, w->frame_len);
	answer = sg_send_icmp(ctx, w);
	if (answer)
		sg_metric(answer, 1, w->frame_len);
	return w->act;
}

/* A refused packet: whoever sent it is told, back through the device that it came by. Where that address is routed to does not matter. */
SG_GLOBAL int sg_eslow_tell(struct __sk_buff *ctx, __u32 ifindex)
{
	struct sg_work *w = sg_new_work(ctx);
	__u8 macs[12], back[12];
	enum sg_reason answer;
	struct sg_pkt *p;

	if (!w || sg_load(ctx, 0, macs, sizeof(macs)))
		return TC_ACT_SHOT;
	p = &w->pkt;
	if (!sg_eg_parse(ctx, p, sg_eth_proto(ctx)) || (p->version == 6 && sg_parse_exthdrs(ctx, p)))
		return TC_ACT_SHOT;
	__builtin_memcpy(back, macs + 6, 6);
	__builtin_memcpy(back + 6, macs, 6);
	if (p->version == 4)
		sg_owe(w, SG_DROP_EGRESS_UNKNOWN, SG_ICMP4_UNREACH, 13, 0);
	else
		sg_owe(w, SG_DROP_EGRESS_UNKNOWN, SG_ICMP6_UNREACH, 1, 0);
	answer = sg_send_icmp(ctx, w);
	if (answer)
		sg_metric(answer, 1, w->frame_len);
	if (answer != SG_OK_ICMP_SENT || sg_store(ctx, 0, back, sizeof(back)))
		return TC_ACT_SHOT;
	return bpf_redirect(ifindex, 0);
}

SEC("tc")
int sg_eslow_tc(struct __sk_buff *ctx)
{
	__u32 mark = ctx->mark;
	int act;

	if (!sg_feature(SG_F_EGRESS))
		return TC_ACT_SHOT;
	if (mark >> 24 == SG_EG_TELL >> 24) {
		ctx->mark = 0;
		return sg_eslow_tell(ctx, mark & 0xffffff);
	}
	if ((mark & ~SG_EG_PAIRS) != SG_EG_MARK)
		return sg_eslow_refuse(ctx);
	act = mark & SG_EG_PAIRS ? sg_eslow_out(ctx, mark & SG_EG_PAIRS) : sg_eslow_in(ctx);
	ctx->mark = 0; /* only now: fragments that wait come here again with it */
	return act;
}

char _license[] SEC("license") = "Dual BSD/GPL";
