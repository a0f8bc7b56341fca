// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tc of a backend: ingress takes the outer header of a balancer's packets off where XDP has not, egress gives replies the port of the VIP and an MSS
 * that leaves room for an outer header. Replies go to the client straight away (DSR): the VIP is an address of the loopback device. */
#include "sg/bpf.h"

#include "sg/ctx_skb.h"
#include "lib/decap.h"
#include "lib/mss.h"

const volatile struct sg_decap_config sg_decap_cfg = {};

/* Since Linux 6.3; headers of 6.1 do not name them. */
#define SG_F_DECAP_L3_IPV4 (1ULL << 7)
#define SG_F_DECAP_L3_IPV6 (1ULL << 8)

#define SG_TCP_ROOM4 (SG_V6_LEN + SG_V4_LEN + 20)
#define SG_TCP_ROOM6 (SG_V6_LEN + SG_V6_LEN + 20)

/* What the balancer took off before it added its own header: the kernel takes no IPv6 packet of more than 64 KB without it. */
SG_INLINE long sg_decap_jumbo(sg_ctx *ctx, const struct sg_decap *d)
{
	__u32 l3 = sg_cfg.l2_len, len = ctx->len - l3 - SG_V6_LEN;
	__u8 hop = SG_NEXTHDR_HOP, head[8] = {d->proto, 0, SG_OPT_JUMBO, 4};

	if (likely(len <= 65535 || !ctx->gso_size || !d->v6 || d->proto != IPPROTO_TCP))
		return 0;
	*(__be32 *)(head + 4) = bpf_htonl(len + SG_JUMBO_LEN);
	if (bpf_skb_adjust_room(ctx, SG_JUMBO_LEN, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) ||
	    sg_store(ctx, l3 + offsetof(struct ipv6hdr, nexthdr), &hop, 1))
		return -1;
	return sg_store(ctx, l3 + SG_V6_LEN, head, sizeof(head));
}

SG_INLINE long sg_decap_strip(sg_ctx *ctx, const struct sg_decap *d)
{
	__be16 proto = d->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	__u64 change = ctx->protocol == proto ? 0 : d->v6 ? SG_F_DECAP_L3_IPV6 : SG_F_DECAP_L3_IPV4;
	int cut = (int)d->cut;
	long err = bpf_skb_adjust_room(ctx, -cut, BPF_ADJ_ROOM_MAC, flags | change);

	/* Older kernels change the family only by resizing the header. */
	if (err && change) {
		err = bpf_skb_change_proto(ctx, proto, 0);
		if (!err)
			err = bpf_skb_adjust_room(ctx, d->v6 ? -SG_V6_LEN : -SG_V4_LEN, BPF_ADJ_ROOM_MAC, flags);
	}
	if (err)
		return err;
	if (sg_cfg.l2_len == ETH_HLEN)
		err = bpf_skb_store_bytes(ctx, offsetof(struct ethhdr, h_proto), &proto, sizeof(proto), 0);
	return err ? err : sg_decap_jumbo(ctx, d);
}

SEC("tc")
int sg_unpack_tc(struct __sk_buff *ctx)
{
	return sg_decap(ctx);
}

/* The VIP's port for a reply from a mapped one, 0 where it stays. */
SG_INLINE __be16 sg_reply_port(const struct sg_lb_flow_key *flow)
{
	struct sg_decap_port_key key = {.vip = flow->daddr, .port = flow->dport, .proto = flow->proto};
	const __u32 *port = bpf_map_lookup_elem(&sg_decap_flow, flow);

	if (!port)
		port = bpf_map_lookup_elem(&sg_decap_port, &key);
	return port ? bpf_htons((__u16)*port) : 0;
}

SG_INLINE int sg_reply(struct __sk_buff *ctx, const struct sg_pkt *p)
{
	struct sg_lb_flow_key flow = {.saddr = p->daddr, .daddr = p->saddr, .proto = p->proto};
	bool udp = p->proto == IPPROTO_UDP;
	__be16 ports[2], port;

	if (p->frag_off || (!udp && p->proto != IPPROTO_TCP) || sg_load(ctx, p->l4, ports, sizeof(ports)))
		return SG_ACT_PASS;
	if (!udp && sg_decap_cfg.mtu > 576)
		sg_mss_clamp(ctx, p->l4, sg_decap_cfg.mtu - (p->version == 4 ? SG_TCP_ROOM4 : SG_TCP_ROOM6));
	flow.sport = ports[1];
	flow.dport = ports[0];
	port = sg_reply_port(&flow);
	if (!port)
		return SG_ACT_PASS;
	if (bpf_l4_csum_replace(ctx, p->l4 + (udp ? 6 : 16), ports[0], port, 2 | (udp ? BPF_F_MARK_MANGLED_0 : 0)) ||
	    sg_store(ctx, p->l4, &port, sizeof(port))) {
		sg_metric(SG_DROP_RESIZE, sg_segments(ctx), ctx->len);
		return SG_ACT_DROP;
	}
	return SG_ACT_PASS;
}

SEC("tc")
int sg_reply_tc(struct __sk_buff *ctx)
{
	__be16 proto = sg_eth_proto(ctx);
	__u32 l3 = sg_cfg.l2_len;
	struct sg_pkt p = {.l3 = l3};
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (proto == bpf_htons(ETH_P_IP)) {
		if (!sg_reach(ctx, l3 + SG_V4_LEN))
			return SG_ACT_PASS;
		ip = sg_data(ctx) + l3;
		if ((void *)(ip + 1) > sg_data_end(ctx))
			return SG_ACT_PASS;
		sg_parse_ip4(&p, ip);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		if (!sg_reach(ctx, l3 + SG_V6_LEN))
			return SG_ACT_PASS;
		ip6 = sg_data(ctx) + l3;
		if ((void *)(ip6 + 1) > sg_data_end(ctx))
			return SG_ACT_PASS;
		sg_parse_ip6(&p, ip6);
	} else {
		return SG_ACT_PASS;
	}
	if (!sg_decap_is(&p.saddr, SG_DECAP_VIP))
		return SG_ACT_PASS;
	if (p.version == 6 && sg_parse_exthdrs(ctx, &p))
		return SG_ACT_PASS;
	return sg_reply(ctx, &p);
}

char _license[] SEC("license") = "Dual BSD/GPL";
