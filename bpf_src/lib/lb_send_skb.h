/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* To a backend from tc: super-packets stay whole, neighbours are the kernel's business. */
#ifndef SG_LB_SEND_H
#define SG_LB_SEND_H

#include "lb_encap.h"
#include "nat_addr.h"
#include "send_skb.h"

#define SG_ENCAP_FLAGS (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)

SG_INLINE bool sg_lb_map_port(sg_ctx *ctx, const struct sg_lb_pkt *p)
{
	__be16 to = bpf_htons((__u16)(bpf_ntohs(p->dport) + p->delta));
	bool udp = p->proto == IPPROTO_UDP;

	/* Under CHECKSUM_PARTIAL the field holds the pseudo header's sum, of which ports are no part: the helper leaves it alone. */
	return !bpf_l4_csum_replace(ctx, p->l4 + (udp ? 6 : 16), p->dport, to, 2 | (udp ? BPF_F_MARK_MANGLED_0 : 0)) &&
	       !sg_store(ctx, p->l4 + 2, &to, 2);
}

SG_INLINE int sg_lb_transmit(const struct sg_route *rt, enum sg_reason *reason)
{
	struct bpf_redir_neigh nh;
	long act;

	sg_redir_neigh(rt, &nh);
	act = bpf_redirect_neigh(rt->fib.ifindex, &nh, sizeof(nh), 0);
	if (act != TC_ACT_REDIRECT)
		*reason = SG_DROP_REDIRECT;
	return act;
}

/* The kernel knows a jumbo header at the beginning of a packet only. The backend's end puts it back. */
SG_INLINE bool sg_lb_unjumbo(sg_ctx *ctx, struct sg_lb_pkt *p)
{
	if (likely(!sg_lb_is_jumbo(p->v6, p->len, p->l4 - p->l3)))
		return true;
	p->len -= SG_JUMBO_LEN;
	p->l4 -= SG_JUMBO_LEN;
	return !bpf_skb_adjust_room(ctx, -SG_JUMBO_LEN, BPF_ADJ_ROOM_NET, SG_ENCAP_FLAGS) &&
	       !sg_store(ctx, p->l3 + offsetof(struct ipv6hdr, nexthdr), &p->proto, 1);
}

SG_INLINE bool sg_lb_encap(sg_ctx *ctx, const struct sg_lb_pkt *p, const struct sg_lb_backend *b, bool v4, bool fits)
{
	__u64 flags = BPF_F_ADJ_ROOM_NO_CSUM_RESET | (v4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
	struct ipv6hdr ip6 __attribute__((aligned(8)));
	struct iphdr ip;

	/* Segments that would not fit with their outer header are cut smaller: TCP allows it. */
	if (fits)
		flags |= BPF_F_ADJ_ROOM_FIXED_GSO;
	if (v4) {
		sg_lb_outer4(&ip, b, p);
		if (bpf_skb_adjust_room(ctx, SG_V4_LEN, BPF_ADJ_ROOM_MAC, flags) || sg_store(ctx, p->l3, &ip, sizeof(ip)))
			return false;
		sg_set_eth_proto(ctx, bpf_htons(ETH_P_IP));
	} else {
		sg_lb_outer6(&ip6, b, p);
		if (bpf_skb_adjust_room(ctx, SG_V6_LEN, BPF_ADJ_ROOM_MAC, flags) || sg_store(ctx, p->l3, &ip6, sizeof(ip6)))
			return false;
		sg_set_eth_proto(ctx, bpf_htons(ETH_P_IPV6));
	}
	return true;
}

/* Returns the verdict. SG_SLOW_ICMP: the packet is too big, `*mtu` is what would fit. */
SG_INLINE int sg_lb_send(sg_ctx *ctx, struct sg_lb_pkt *p, __u32 id, struct sg_lb_cpu **cpu, enum sg_reason *reason, __u32 *mtu)
{
	const struct sg_lb_backend *b = bpf_map_lookup_elem(&sg_lb_backend, &id);
	struct sg_route rt;
	bool v4, fits, cuts;
	__u32 room;

	*cpu = bpf_map_lookup_elem(&sg_lb_cpu, &id);
	*reason = SG_DROP_LB_NO_BACKEND;
	if (!b || !*cpu || (b->kind != SG_LB_IPIP && b->kind != SG_LB_L2))
		return TC_ACT_SHOT;
	v4 = sg_is_v4(&b->addr);
	room = b->kind == SG_LB_L2 ? 0 : v4 ? SG_V4_LEN : SG_V6_LEN;
	*reason = sg_route(ctx, &rt, &b->src, &b->addr, v4, v4 ? IPPROTO_IPIP : IPPROTO_IPV6, 0, 0);
	if (*reason)
		return TC_ACT_SHOT;
	*reason = SG_DROP_NO_ROUTE;
	if (rt.local)
		return TC_ACT_SHOT;
	fits = p->seg_len + room <= rt.mtu;
	/* Outer lengths end at 64 KB, and outer identifications (sg_lb_port_tag()) are counted up in a super-packet's segments. With TCP, nobody minds:
	 * who cuts it writes lengths, and sg_decap_said() knows. Others are cut by the slow device first. */
	cuts = sg_gso_size(ctx) && p->proto == IPPROTO_TCP;
	*reason = SG_SLOW_REWRITE;
	if (room && !cuts && (p->len + room > 65535 || (v4 && sg_gso_size(ctx))))
		return TC_ACT_SHOT;
	*reason = SG_SLOW_ICMP;
	*mtu = rt.mtu - room;
	if (!fits && !(room && cuts))
		return TC_ACT_SHOT;
	*reason = SG_DROP_RESIZE;
	if (p->delta && !(p->inner ? sg_lb_inner_port(ctx, p) : sg_lb_map_port(ctx, p)))
		return TC_ACT_SHOT;
	if (room && (!sg_lb_unjumbo(ctx, p) || !sg_lb_encap(ctx, p, b, v4, fits)))
		return TC_ACT_SHOT;
	*reason = SG_OK_LB;
	return sg_lb_transmit(&rt, reason);
}

#endif
