/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sending from XDP: link headers come from a small cache of next hops per CPU. */
#ifndef SG_SEND_H
#define SG_SEND_H

#include "route.h"

/* Devices that can take a redirected frame; filled by the node. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 256);
} sg_tx SEC(".maps");

/* A veth puts XDP_TX frames into the ring of its other end and wakes nobody there unless that has an XDP program, too; redirected frames
 * it delivers wherever the other end polls. 1 for such a device. */
SG_INLINE __u8 sg_no_tx(__u32 ifindex)
{
	const struct sg_dev *dev = bpf_map_lookup_elem(&sg_dev, &ifindex);

	return dev && dev->flags & SG_DEV_NO_TX;
}

/* Whether XDP can send out of `to`; the rest is left to tc. */
SG_INLINE bool sg_xdp_sends(sg_ctx *ctx, __u32 to, __u8 no_tx)
{
	return (to == sg_ifindex(ctx) && !no_tx) || bpf_map_lookup_elem(&sg_tx, &to);
}

/* The verdict that sends a frame out of `to`. */
SG_INLINE long sg_xdp_out(sg_ctx *ctx, __u32 to, __u8 no_tx)
{
	return to == sg_ifindex(ctx) && !no_tx ? XDP_TX : bpf_redirect_map(&sg_tx, to, XDP_DROP);
}

#define SG_NH_SLOTS 1024
#define SG_NH_LIFETIME_JIFFIES 250 /* 0.25 to 2.5 s, as HZ is 1000 to 100 */

struct sg_nexthop {
	struct sg_addr daddr;
	struct sg_addr saddr;
	__u64 until; /* jiffies */
	__u32 in_ifindex;
	__u32 ifindex;
	__u32 mtu;
	__u8 dmac[6];
	__u8 smac[6];
	__u8 tos;
	__u8 no_tx;
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_nexthop);
	__uint(max_entries, SG_NH_SLOTS);
} sg_nh_cache SEC(".maps");

SG_INLINE bool sg_addr_eq(const struct sg_addr *a, const struct sg_addr *b)
{
	return !((a->d[0] ^ b->d[0]) | (a->d[1] ^ b->d[1]));
}

/* The cached next hop of a pair of addresses. A miss or an entry past its time is looked up anew, and that packet is left to tc, where
 * the kernel's neighbour code sees it: so an entry in use is confirmed or probed by the kernel about once a second, as for any traffic.
 * The source is part of the key because policy rules may ask for it. */
SG_INLINE enum sg_reason sg_hop_find(sg_ctx *ctx, struct sg_hop *hop, const struct sg_addr *saddr, const struct sg_addr *daddr,
				     bool v4, __u8 proto, __u8 tos, __be32 ports __attribute__((unused)))
{
	__u64 mix = (daddr->d[1] ^ daddr->d[0] ^ (saddr->d[1] << 7)) * 0x9e3779b97f4a7c15ULL;
	__u32 slot = (mix >> 40) & (SG_NH_SLOTS - 1);
	struct sg_nexthop *nh = bpf_map_lookup_elem(&sg_nh_cache, &slot);
	__u64 now = bpf_jiffies64();
	struct sg_route rt;

	hop->local = false;
	if (!nh)
		return SG_SLOW_XDP;
	if (likely(now < nh->until && sg_addr_eq(&nh->daddr, daddr) && sg_addr_eq(&nh->saddr, saddr) && nh->tos == tos &&
		   nh->in_ifindex == sg_ifindex(ctx))) {
		hop->slot = slot;
		hop->mtu = nh->mtu;
		return nh->ifindex ? 0 : SG_SLOW_XDP;
	}
	nh->until = 0;
	nh->daddr = *daddr;
	nh->saddr = *saddr;
	nh->tos = tos;
	nh->in_ifindex = sg_ifindex(ctx);
	nh->ifindex = 0;
	if (sg_route(ctx, &rt, saddr, daddr, v4, proto, tos, 0))
		return SG_SLOW_XDP;
	nh->mtu = rt.mtu;
	__builtin_memcpy(nh->dmac, rt.fib.dmac, 6);
	__builtin_memcpy(nh->smac, rt.fib.smac, 6);
	/* Ways that only tc can go are remembered as such; one whose neighbour is not known yet is asked for again. */
	nh->no_tx = sg_no_tx(rt.fib.ifindex);
	if (!rt.local && sg_xdp_sends(ctx, rt.fib.ifindex, nh->no_tx))
		nh->ifindex = rt.fib.ifindex;
	if (rt.local || !nh->ifindex || (nh->dmac[0] | nh->dmac[1] | nh->dmac[2] | nh->dmac[3] | nh->dmac[4] | nh->dmac[5]))
		nh->until = now + SG_NH_LIFETIME_JIFFIES;
	return SG_SLOW_NEIGH;
}

/* XDP meets no super-packets. */
SG_INLINE bool sg_hop_takes_big(const struct sg_hop *hop __attribute__((unused)))
{
	return false;
}

SG_INLINE int sg_hop_send(sg_ctx *ctx, const struct sg_hop *hop, enum sg_reason *reason)
{
	const struct sg_nexthop *nh = bpf_map_lookup_elem(&sg_nh_cache, &hop->slot);
	struct ethhdr *eth = sg_data(ctx);
	long ret;

	if (!nh || (void *)(eth + 1) > sg_data_end(ctx)) {
		*reason = SG_DROP_RESIZE;
		return XDP_DROP;
	}
	__builtin_memcpy(eth->h_dest, nh->dmac, 6);
	__builtin_memcpy(eth->h_source, nh->smac, 6);
	ret = sg_xdp_out(ctx, nh->ifindex, nh->no_tx);
	if (ret == XDP_DROP)
		*reason = SG_DROP_REDIRECT;
	return ret;
}

#endif
