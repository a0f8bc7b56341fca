/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sending from tc: the kernel fills in the link header and keeps its neighbours alive. */
#ifndef SG_SEND_H
#define SG_SEND_H

#include "big_dev.h"
#include "egress_home.h"

SG_INLINE void sg_redir_neigh(const struct sg_route *rt, struct bpf_redir_neigh *nh)
{
	__builtin_memset(nh, 0, sizeof(*nh));
	nh->nh_family = rt->fib.family;
	if (rt->fib.family == AF_INET)
		nh->ipv4_nh = rt->fib.ipv4_dst;
	else
		__builtin_memcpy(nh->ipv6_nh, rt->fib.ipv6_dst, 16);
}

/* The frame's own EtherType, for whoever reads the link header before it is rewritten. */
SG_INLINE void sg_set_eth_proto(sg_ctx *ctx, __be16 proto)
{
	if (sg_cfg.l2_len == ETH_HLEN)
		bpf_skb_store_bytes(ctx, offsetof(struct ethhdr, h_proto), &proto, sizeof(proto), 0);
}

SG_INLINE enum sg_reason sg_hop_route(sg_ctx *ctx, struct sg_hop *hop, const struct sg_addr *saddr, const struct sg_addr *daddr,
				      bool v4, __u8 proto, __u8 tos, __be32 ports)
{
	enum sg_reason reason = sg_route(ctx, &hop->rt, saddr, daddr, v4, proto, tos, ports);

	hop->mtu = hop->rt.mtu;
	hop->local = hop->rt.local;
	hop->peer = 0;
	hop->home = 0;
	return reason;
}

/* The same, and for pods of egress the way that their packets came. */
SG_INLINE enum sg_reason sg_hop_find(sg_ctx *ctx, struct sg_hop *hop, const struct sg_addr *saddr, const struct sg_addr *daddr,
				     bool v4, __u8 proto, __u8 tos, __be32 ports)
{
	const struct sg_eg_home *home = SG_EG_HOMES && sg_feature(SG_F_EGRESS) ? sg_eg_home_of(daddr) : NULL;
	enum sg_reason reason;

	if (likely(!home))
		return sg_hop_route(ctx, hop, saddr, daddr, v4, proto, tos, ports);
	hop->frame = home->frame;
	if (hop->frame.ifindex) {
		__builtin_memset(&hop->rt, 0, sizeof(hop->rt));
		hop->home = home->pair | SG_EG_REPLY;
		hop->local = false;
		hop->peer = 0;
		hop->mtu = sg_dev_mtu(ctx, hop->frame.ifindex);
		return hop->mtu ? 0 : SG_DROP_NO_ROUTE;
	}
	v4 = sg_eg_by4(&home->node);
	reason = sg_hop_route(ctx, hop, &sg_eg_any, &home->node, v4, IPPROTO_UDP, 0, 0);
	if (reason)
		return reason;
	__builtin_memcpy(&hop->node, &home->node, sizeof(hop->node));
	hop->home = home->pair | SG_EG_REPLY;
	hop->local = false;
	hop->mtu -= v4 ? SG_EG_OVERHEAD4 : SG_EG_OVERHEAD6;
	return 0;
}

/* The verdict for a packet that is ready to go. */
SG_INLINE int sg_hop_send(sg_ctx *ctx, const struct sg_hop *hop, enum sg_reason *reason)
{
	struct bpf_redir_neigh nh;
	long ret;

	sg_set_eth_proto(ctx, ctx->protocol);
	if (sg_feature(SG_F_EGRESS) && hop->home)
		return hop->frame.ifindex ? sg_eg_send_frame(ctx, &hop->frame) : sg_eg_encap(ctx, hop->home, &hop->node, 0);
	if (hop->local)
		return SG_ACT_PASS;
	if (unlikely(hop->peer)) {
		ret = sg_big_deliver(ctx, hop);
	} else {
		sg_redir_neigh(&hop->rt, &nh);
		ret = bpf_redirect_neigh(hop->rt.fib.ifindex, &nh, sizeof(nh), 0);
	}
	if (ret != TC_ACT_REDIRECT)
		*reason = SG_DROP_REDIRECT;
	return ret;
}

#endif
