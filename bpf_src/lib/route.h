/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a packet goes next, asked from the kernel: its routes, policy rules, path MTUs and neighbours are obeyed. */
#ifndef SG_ROUTE_H
#define SG_ROUTE_H

#include "sg/maps.h"

struct sg_route {
	struct bpf_fib_lookup fib;
	__u32 mtu;   /* of layer 3 to the next hop */
	__u32 local; /* for this host, or for a route that only the kernel can follow */
};

/* Where a packet goes; found before anything is written. */
struct sg_hop {
	struct sg_route rt;
	__u32 slot; /* XDP: in sg_nh_cache */
	__u32 mtu;
	__u32 local; /* left to this host; XDP leaves such packets to tc */
	__u32 peer;  /* tc: handed to the other end of the device, for it must not be transmitted */
	__u32 home;  /* tc: a tunnel id, to the node of a pod, `node`, or by `frame` if that has a device */
	struct sg_eg_node node;
	struct sg_eg_frame frame;
	__u32 pad;
};

/* The part of a hop that is remembered: tc needs the address and asks for the neighbour every time, XDP needs the link header. */
struct sg_flow_hop {
	struct sg_addr addr; /* in the form of bpf_redir_neigh */
	__u32 family;
	__u32 ifindex;
	__u8 dmac[6];
	__u8 smac[6];
	__u32 no_tx; /* XDP: see SG_DEV_NO_TX */
};

SG_INLINE __u32 sg_dev_mtu(sg_ctx *ctx, __u32 ifindex)
{
	__u32 mtu = 0;

	/* A length below the header's asks for the MTU without checking the packet at hand. */
	bpf_check_mtu(ctx, ifindex, &mtu, 0, 0);
	return mtu;
}

/* The ports only choose among the paths of a multipath route; 0 where there are none. */
static __always_inline enum sg_reason sg_route(sg_ctx *ctx, struct sg_route *rt, const struct sg_addr *saddr,
					       const struct sg_addr *daddr, bool v4, __u8 proto, __u8 tos, __be32 ports)
{
	struct bpf_fib_lookup *fib = &rt->fib;
	long ret;

	__builtin_memset(rt, 0, sizeof(*rt));
	fib->family = v4 ? AF_INET : AF_INET6;
	fib->l4_protocol = proto;
	fib->sport = ports & 0xffff;
	fib->dport = ports >> 16;
	/* The smallest length makes the kernel report the MTU of the route, which we compare segment by segment. */
	fib->tot_len = 1;
	fib->ifindex = sg_ifindex(ctx);
	if (v4) {
		fib->tos = tos;
		fib->ipv4_src = saddr->w[3];
		fib->ipv4_dst = daddr->w[3];
	} else {
		fib->flowinfo = bpf_htonl((__u32)tos << 20);
		__builtin_memcpy(fib->ipv6_src, saddr, 16);
		__builtin_memcpy(fib->ipv6_dst, daddr, 16);
	}
	ret = bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
	/* A device with an MTU below 1280 has no IPv6 in the kernel; packets that enter there as IPv4 are routed all the same. */
	if (ret == BPF_FIB_LKUP_RET_FWD_DISABLED && !v4) {
		fib->ifindex = sg_cfg.slow_dev;
		ret = bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
	}
	switch (ret) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		/* Some kernels leave tot_len alone where no neighbour is known yet. */
		rt->mtu = fib->mtu_result > 1 ? fib->mtu_result : sg_dev_mtu(ctx, fib->ifindex);
		return rt->mtu ? 0 : SG_DROP_NO_ROUTE;
	case BPF_FIB_LKUP_RET_NOT_FWDED:
	case BPF_FIB_LKUP_RET_UNSUPP_LWT:
		rt->local = true;
		rt->mtu = 65535;
		return 0;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return SG_DROP_FORWARDING_OFF;
	default:
		return SG_DROP_NO_ROUTE;
	}
}

#endif
