/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Remembered translations in XDP: link headers come from the cache of next hops. */
#ifndef SG_FLOW_HOP_H
#define SG_FLOW_HOP_H

#include "send_xdp.h"

#define SG_FLOW_MAP sg_flows_xdp
#define SG_FLOW_PATH SG_INLINE /* a call costs as much as a look-up */

SG_INLINE __u64 sg_flow_keep(struct sg_flow_hop *h, const struct sg_hop *hop)
{
	const struct sg_nexthop *nh = bpf_map_lookup_elem(&sg_nh_cache, &hop->slot);

	if (!nh)
		return 0;
	h->ifindex = nh->ifindex;
	h->no_tx = nh->no_tx;
	__builtin_memcpy(h->dmac, nh->dmac, 6);
	__builtin_memcpy(h->smac, nh->smac, 6);
	return nh->until;
}

/* Moves the head by `room` and writes a link header. NULL where the driver refused. */
SG_INLINE void *sg_flow_move(sg_ctx *ctx, const struct sg_flow_hop *h, int room, __u32 need, __be16 proto)
{
	struct ethhdr *eth;

	if (bpf_xdp_adjust_head(ctx, room))
		return NULL;
	eth = sg_data(ctx);
	if ((void *)eth + need > sg_data_end(ctx))
		return NULL;
	__builtin_memcpy(eth->h_dest, h->dmac, 6);
	__builtin_memcpy(eth->h_source, h->smac, 6);
	eth->h_proto = proto;
	return eth + 1;
}

SG_INLINE int sg_flow_go(sg_ctx *ctx, const struct sg_flow_hop *h, void *l4, bool udp, __u32 diff)
{
	__u16 *field = l4 + (udp ? 6 : 16), sum;

	if ((void *)(field + 1) > sg_data_end(ctx))
		return XDP_DROP;
	sum = sg_csum_update(*field, diff);
	*field = udp && !sum ? 0xffff : sum;
	return sg_xdp_out(ctx, h->ifindex, h->no_tx);
}

SG_INLINE int sg_flow_put4(sg_ctx *ctx, const struct sg_flow_hop *h, const struct iphdr *ip, __u32 diff)
{
	struct iphdr *out = sg_flow_move(ctx, h, 20, ETH_HLEN + SG_V4_LEN, bpf_htons(ETH_P_IP));

	if (!out)
		return XDP_DROP;
	*out = *ip;
	return sg_flow_go(ctx, h, out + 1, ip->protocol == IPPROTO_UDP, diff);
}

SG_INLINE int sg_flow_put6(sg_ctx *ctx, const struct sg_flow_hop *h, const struct ipv6hdr *ip6, __u32 diff)
{
	struct ipv6hdr *out = sg_flow_move(ctx, h, -20, ETH_HLEN + SG_V6_LEN, bpf_htons(ETH_P_IPV6));

	if (!out)
		return XDP_DROP;
	*out = *ip6;
	return sg_flow_go(ctx, h, out + 1, ip6->nexthdr == IPPROTO_UDP, diff);
}

#endif
