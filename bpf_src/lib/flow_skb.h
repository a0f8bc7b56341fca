/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Remembered translations in tc: the next hop's address is remembered, its neighbour is the kernel's business for every packet. */
#ifndef SG_FLOW_HOP_H
#define SG_FLOW_HOP_H

#include "send_skb.h"

#define SG_FLOW_MAP sg_flows_tc
#define SG_FLOW_PATH SG_GLOBAL
#define SG_FLOW_LIFETIME_JIFFIES 25 /* 25 to 250 ms, as HZ is 1000 to 100: how old a route may be */

SG_INLINE __u64 sg_flow_keep(struct sg_flow_hop *h, const struct sg_hop *hop)
{
	h->ifindex = hop->rt.fib.ifindex;
	h->family = hop->rt.fib.family;
	__builtin_memcpy(&h->addr, hop->rt.fib.ipv6_dst, 16);
	return bpf_jiffies64() + SG_FLOW_LIFETIME_JIFFIES;
}

SG_INLINE int sg_flow_go(sg_ctx *ctx, const struct sg_flow_hop *h, __u32 l4, bool udp, __u32 diff)
{
	struct bpf_redir_neigh nh = {.nh_family = h->family};

	if (bpf_l4_csum_replace(ctx, l4 + (udp ? 6 : 16), 0, diff, BPF_F_PSEUDO_HDR | (udp ? BPF_F_MARK_MANGLED_0 : 0)))
		return TC_ACT_SHOT;
	__builtin_memcpy(nh.ipv6_nh, &h->addr, 16);
	return bpf_redirect_neigh(h->ifindex, &nh, sizeof(nh), 0);
}

SG_INLINE void sg_flow_eth(sg_ctx *ctx, __be16 proto)
{
	struct ethhdr *eth = sg_data(ctx);

	if ((void *)(eth + 1) <= sg_data_end(ctx))
		eth->h_proto = proto;
}

/* A change of family drops the flow hash, and the kernel would dissect the packet anew; the flow is still the same. */
SG_INLINE long sg_flow_change(sg_ctx *ctx, __be16 proto)
{
	__u32 hash = ctx->hash;
	long err = bpf_skb_change_proto(ctx, proto, 0);

	if (!err && hash)
		bpf_set_hash(ctx, hash);
	return err;
}

SG_INLINE int sg_flow_put4(sg_ctx *ctx, const struct sg_flow_hop *h, const struct iphdr *ip, __u32 diff)
{
	if (sg_flow_change(ctx, bpf_htons(ETH_P_IP)) || sg_store(ctx, ETH_HLEN, ip, SG_V4_LEN))
		return TC_ACT_SHOT;
	sg_flow_eth(ctx, bpf_htons(ETH_P_IP));
	return sg_flow_go(ctx, h, ETH_HLEN + SG_V4_LEN, ip->protocol == IPPROTO_UDP, diff);
}

SG_INLINE int sg_flow_put6(sg_ctx *ctx, const struct sg_flow_hop *h, const struct ipv6hdr *ip6, __u32 diff)
{
	if (sg_flow_change(ctx, bpf_htons(ETH_P_IPV6)) || sg_store(ctx, ETH_HLEN, ip6, SG_V6_LEN))
		return TC_ACT_SHOT;
	sg_flow_eth(ctx, bpf_htons(ETH_P_IPV6));
	return sg_flow_go(ctx, h, ETH_HLEN + SG_V6_LEN, ip6->nexthdr == IPPROTO_UDP, diff);
}

#endif
