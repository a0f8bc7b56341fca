/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* To a backend from XDP: the next hop is remembered per CPU and backend, the outer header is written in front. */
#ifndef SG_LB_SEND_H
#define SG_LB_SEND_H

#include "lb_encap.h"
#include "nat_addr.h"
#include "send_xdp.h"

/* Asks for the next hop anew. The packet at hand is left to tc, where the kernel's neighbour code sees it. */
SG_GLOBAL int sg_lb_learn(sg_ctx *ctx, __u32 id)
{
	const struct sg_lb_backend *b = bpf_map_lookup_elem(&sg_lb_backend, &id);
	struct sg_lb_cpu *c = bpf_map_lookup_elem(&sg_lb_cpu, &id);
	struct sg_route rt;

	if (!b || !c)
		return SG_DROP_LB_NO_BACKEND;
	c->until = 0;
	c->version = b->version;
	c->v4 = sg_is_v4(&b->addr);
	c->ifindex = 0;
	if (sg_route(ctx, &rt, &b->src, &b->addr, c->v4, c->v4 ? IPPROTO_IPIP : IPPROTO_IPV6, 0, 0))
		return SG_SLOW_XDP;
	c->mtu = rt.mtu;
	__builtin_memcpy(c->dmac, rt.fib.dmac, 6);
	__builtin_memcpy(c->smac, rt.fib.smac, 6);
	c->no_tx = sg_no_tx(rt.fib.ifindex);
	if (!rt.local && sg_xdp_sends(ctx, rt.fib.ifindex, c->no_tx))
		c->ifindex = rt.fib.ifindex;
	if (!c->ifindex || (c->dmac[0] | c->dmac[1] | c->dmac[2] | c->dmac[3] | c->dmac[4] | c->dmac[5]))
		c->until = bpf_jiffies64() + SG_NH_LIFETIME_JIFFIES;
	return SG_SLOW_NEIGH;
}

/* Destination port and checksum of TCP or UDP. */
SG_INLINE bool sg_lb_map_port(sg_ctx *ctx, const struct sg_lb_pkt *p)
{
	__be16 *port, to = bpf_htons((__u16)(bpf_ntohs(p->dport) + p->delta));
	bool udp = p->proto == IPPROTO_UDP;

	if (sg_l4_csum(ctx, p->l4 + (udp ? 6 : 16), sg_csum_neg(p->dport) + to, udp))
		return false;
	port = sg_data(ctx) + ((p->l4 + 2) & 0x7ff);
	if ((void *)(port + 1) > sg_data_end(ctx))
		return false;
	*port = to;
	return true;
}

SG_INLINE int sg_lb_transmit(sg_ctx *ctx, const struct sg_lb_cpu *c, enum sg_reason *reason)
{
	long act = sg_xdp_out(ctx, c->ifindex, c->no_tx);

	if (act == XDP_DROP)
		*reason = SG_DROP_REDIRECT;
	return act;
}

SG_INLINE void sg_lb_link(struct ethhdr *eth, const struct sg_lb_cpu *c, __be16 proto)
{
	/* Both addresses lie side by side here and there; as bytes they would be 24 instructions. */
	*(__u64 *)eth = *(const __u64 *)c->dmac;
	*(__u32 *)((__u8 *)eth + 8) = *(const __u32 *)(c->smac + 2);
	*(__be16 *)((__u8 *)eth + 12) = proto;
}

/* Returns the verdict; `reason` is SG_OK_LB on entry. */
SG_INLINE int sg_lb_send(sg_ctx *ctx, const struct sg_lb_pkt *p, __u32 id, struct sg_lb_cpu **cpu, enum sg_reason *reason)
{
	const struct sg_lb_backend *b = bpf_map_lookup_elem(&sg_lb_backend, &id);
	struct sg_lb_cpu *c = bpf_map_lookup_elem(&sg_lb_cpu, &id);
	struct ethhdr *eth;
	__u32 room;

	*cpu = c;
	*reason = SG_DROP_LB_NO_BACKEND;
	if (unlikely(!b || !c || (b->kind != SG_LB_IPIP && b->kind != SG_LB_L2)))
		return XDP_DROP;
	if (unlikely(c->version != b->version || bpf_jiffies64() >= c->until)) {
		*reason = sg_lb_learn(ctx, id);
		return XDP_PASS;
	}
	room = b->kind == SG_LB_L2 ? 0 : c->v4 ? SG_V4_LEN : SG_V6_LEN;
	*reason = SG_SLOW_XDP;
	if (unlikely(!c->ifindex || p->len + room > c->mtu))
		return XDP_PASS;
	*reason = SG_DROP_RESIZE;
	if (unlikely(p->delta) && !(p->inner ? sg_lb_inner_port(ctx, p) : sg_lb_map_port(ctx, p)))
		return XDP_DROP;
	*reason = SG_OK_LB;
	if (unlikely(!room)) {
		eth = sg_data(ctx);
		if ((void *)(eth + 1) > sg_data_end(ctx))
			return XDP_DROP;
		sg_lb_link(eth, c, eth->h_proto);
		return sg_lb_transmit(ctx, c, reason);
	}
	if (c->v4) {
		if (bpf_xdp_adjust_head(ctx, -SG_V4_LEN))
			goto refused;
		eth = sg_data(ctx);
		if ((void *)eth + ETH_HLEN + SG_V4_LEN > sg_data_end(ctx))
			goto refused;
		sg_lb_link(eth, c, bpf_htons(ETH_P_IP));
		sg_lb_outer4((struct iphdr *)(eth + 1), b, p);
	} else {
		if (bpf_xdp_adjust_head(ctx, -SG_V6_LEN))
			goto refused;
		eth = sg_data(ctx);
		if ((void *)eth + ETH_HLEN + SG_V6_LEN > sg_data_end(ctx))
			goto refused;
		sg_lb_link(eth, c, bpf_htons(ETH_P_IPV6));
		sg_lb_outer6((struct ipv6hdr *)(eth + 1), b, p);
	}
	return sg_lb_transmit(ctx, c, reason);
refused:
	*reason = SG_DROP_RESIZE;
	return XDP_DROP;
}

#endif
