/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The stateless gateway's place in a hook: who is this packet for, and which way is it translated. */
#ifndef SG_NAT_H
#define SG_NAT_H

#include "xlat46.h"
#include "xlat64.h"

/* Reads the IP header. */
SG_INLINE bool sg_parse_ip(sg_ctx *ctx, struct sg_work *w, __be16 proto)
{
	__u32 l3 = sg_cfg.l2_len, off;
	struct sg_pkt *p = &w->pkt;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__u32 *word;

	p->l3 = l3;
	if (proto == bpf_htons(ETH_P_IPV6)) {
		if (!sg_reach(ctx, l3 + SG_V6_LEN))
			return false;
		ip6 = sg_data(ctx) + l3;
		if ((void *)(ip6 + 1) > sg_data_end(ctx) || (*(__u8 *)ip6 >> 4) != 6)
			return false;
		sg_parse_ip6(p, ip6);
		return true;
	}
	if (!sg_reach(ctx, l3 + SG_V4_LEN))
		return false;
	ip = sg_data(ctx) + l3;
	if ((void *)(ip + 1) > sg_data_end(ctx) || (*(__u8 *)ip >> 4) != 4)
		return false;
	sg_parse_ip4(p, ip);
	word = (__u32 *)ip;
	w->header_sum = 0;
	for (off = 0; off < SG_V4_LEN / 4; off++)
		w->header_sum += word[off];
	return true;
}

/* Whether an ICMP error is about a packet to an address that the gateway in `m` can map. */
SG_INLINE bool sg_nat_error_is_ours(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_pkt *p, struct sg_match *m)
{
	struct sg_addr far = {};
	__u8 type;

	if (p->version == 4) {
		if (p->proto != IPPROTO_ICMP || p->frag_off || sg_load(ctx, p->l4, &type, 1))
			return false;
		if (type != SG_ICMP4_UNREACH && type != SG_ICMP4_TIME && type != SG_ICMP4_PARAM)
			return false;
		return !sg_load(ctx, p->l4 + SG_ICMP_LEN + offsetof(struct iphdr, daddr), &far.w[3], 4) &&
		       sg_nat_src4(t, far.w[3], m);
	}
	if (sg_is_exthdr(p->proto) && sg_parse_exthdrs(ctx, p))
		return false;
	if (p->proto != IPPROTO_ICMPV6 || p->frag_off || sg_load(ctx, p->l4, &type, 1) || type >= 128)
		return false;
	return !sg_load(ctx, p->l4 + SG_ICMP_LEN + offsetof(struct ipv6hdr, daddr), &far, 16) && sg_nat_src6(t, &far, m);
}

/* A mapped address is a host's own, where it may be reached without us. So a packet to it is translated only if its source, too, is one that
 * the mapping's gateway can map, and otherwise is nobody's: it goes where the kernel's routes lead. Where they lead back, or nowhere,
 * there is no such host behind this machine, and the packet is the gateway's to refuse. */
SG_GLOBAL int sg_nat_foreign(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	struct sg_route *rt;
	struct sg_pkt *p;
	int reason;

	if (!t || !w)
		return false;
	p = &w->pkt;
	if (sg_nat_error_is_ours(ctx, t, p, &w->src))
		return false;
	rt = &w->hop.rt;
	reason = sg_route(ctx, rt, &p->saddr, &p->daddr, p->version == 4, p->proto, p->tos, 0);
	if (reason)
		return reason == SG_DROP_FORWARDING_OFF; /* a port of a bridge */
	return rt->local || rt->fib.ifindex != sg_ifindex(ctx);
}

/* Whether the gateway that claims the destination can map the source. */
SG_GLOBAL int sg_nat_src_mapped(const struct sg_nat_table *t, struct sg_work *w)
{
	if (!t || !w)
		return false;
	w->src.gw = w->dst.gw;
	return w->pkt.version == 4 ? sg_nat_src4(t, w->pkt.saddr.w[3], &w->src) : sg_nat_src6(t, &w->pkt.saddr, &w->src);
}

/* Fills `w` where a stateless gateway claims the destination. */
SG_INLINE bool sg_nat_claim(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w, __be16 proto)
{
	bool ours;

	if (!sg_parse_ip(ctx, w, proto))
		return false;
	if (w->pkt.version == 4)
		ours = sg_nat_match4(t, w->pkt.daddr.w[3], &w->dst);
	else /* A stateful gateway's prefix is for tc. */
		ours = sg_nat_match6(t, &w->pkt.daddr, &w->dst) && !(sg_nat_gw(t, w->dst.gw)->flags & SG_GW_STATEFUL);
	if (!ours || !w->dst.eam || SG_HOOK_IS_SLOW) /* what comes to the slow path was claimed before */
		return ours;
	if (likely(sg_nat_src_mapped(t, w)))
		return true;
	return !SG_HOOK_IS_XDP && !sg_nat_foreign(ctx, t, w);
}

/* Frames that were not sent to this machine alone are none of a gateway's business. */
SG_INLINE bool sg_is_unicast(sg_ctx *ctx)
{
	struct ethhdr *eth = sg_data(ctx);

	if (sg_cfg.l2_len != ETH_HLEN)
		return true;
	return (void *)(eth + 1) <= sg_data_end(ctx) && !(eth->h_dest[0] & 1);
}

#endif
