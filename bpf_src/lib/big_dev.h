/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What may be done with super-packets of more than 64 KB at a device; big.h says why. */
#ifndef SG_BIG_DEV_H
#define SG_BIG_DEV_H

#include "route.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, sg_ifindex_t);
	__type(value, struct sg_big_dev);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_big SEC(".maps");

SG_INLINE bool sg_big_may(__u32 ifindex, __u32 flag)
{
	const struct sg_big_dev *dev = bpf_map_lookup_elem(&sg_big, &ifindex);

	return dev && dev->flags & flag;
}

/* Whether a super-packet that was made IPv6 can be sent whole: to a pod on this node whose link-layer address is known. */
SG_INLINE bool sg_hop_takes_big(const struct sg_hop *hop)
{
	const __u8 *mac = hop->rt.fib.dmac;

	return !hop->local && (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]) && sg_big_may(hop->rt.fib.ifindex, SG_BIG_PEER);
}

/* The other end of a device in another network namespace gets the packet as if it had arrived there: nothing is transmitted. */
SG_INLINE int sg_big_deliver(sg_ctx *ctx, const struct sg_hop *hop)
{
	struct ethhdr eth = {.h_proto = ctx->protocol};

	__builtin_memcpy(eth.h_dest, hop->rt.fib.dmac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, hop->rt.fib.smac, ETH_ALEN);
	if (bpf_skb_store_bytes(ctx, 0, &eth, sizeof(eth), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(hop->rt.fib.ifindex, 0);
}

#endif
