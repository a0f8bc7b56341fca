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

/* Fills `w` where a stateless gateway claims the destination. */
SG_INLINE bool sg_nat_claim(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w, __be16 proto)
{
	if (!sg_parse_ip(ctx, w, proto))
		return false;
	if (w->pkt.version == 4)
		return sg_nat_match4(t, w->pkt.daddr.w[3], &w->dst);
	/* A stateful gateway's prefix is for tc. */
	return sg_nat_match6(t, &w->pkt.daddr, &w->dst) && !(sg_nat_gw(t, w->dst.gw)->flags & SG_GW_STATEFUL);
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
