/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Super-packets of more than 64 KB (BIG TCP) in tc. Until Linux 6.18 an IPv6 one has a jumbo header of 8 bytes (RFC 2675) for as long as it
 * stays inside a machine; the kernel takes it off when it cuts the packet. Two things go wrong with that header where packets pass through:
 *
 * - The kernel's own forwarding counts its bytes as part of every segment, finds segments larger than the MTU, and drops the packet.
 * - ipv6_gso_segment() takes it off, without cutting, packets whose family a program has changed (SKB_GSO_DODGY), on every transmit of a
 *   device without NETIF_F_GSO_ROBUST: a receiver behind a veth then finds a packet without payload.
 *
 * So packets are forwarded here, past the first, and handed to the other end of a pod's device instead of being transmitted, past the second.
 * What the program may do with which device is the node's to say (sg_big). */
#ifndef SG_BIG_H
#define SG_BIG_H

#include "send_skb.h"

#define SG_BIG_LEN 65535 /* of layer 3 behind its fixed header; more than a length field can say */

/* What stands at the beginning of an IPv6 super-packet of more than 64 KB. */
struct sg_jumbo {
	struct ipv6hdr ip6;
	__u8 nexthdr;
	__u8 hdrlen;
	__u8 option;
	__u8 option_len;
	__be32 len;
	__u8 tcp[16]; /* the header without its last word */
};

/* Forwards an IPv6 TCP super-packet with a jumbo header as the kernel would, were it not for that header; reads the packet before it
 * changes anything, and leaves to the kernel what is not quite plain. */
SG_GLOBAL int sg_big_forward(sg_ctx *ctx)
{
	struct bpf_redir_neigh nh = {.nh_family = AF_INET6};
	struct bpf_fib_lookup fib = {};
	struct sg_jumbo h;
	__u8 hop_limit;
	__u32 seg_len;

	if (ctx->pkt_type || ctx->gso_size == 0 || !sg_big_may(ctx->ifindex, SG_BIG_FORWARD) ||
	    bpf_skb_load_bytes(ctx, ETH_HLEN, &h, sizeof(h)))
		return SG_ACT_PASS;
	if (h.ip6.version != 6 || h.ip6.payload_len || h.ip6.nexthdr != SG_NEXTHDR_HOP || h.nexthdr != IPPROTO_TCP || h.hdrlen ||
	    h.option != SG_OPT_JUMBO || h.option_len != 4 || bpf_ntohl(h.len) != ctx->len - ETH_HLEN - SG_V6_LEN)
		return SG_ACT_PASS;
	/* Expired, from or to a link's own address, or unspecified: the kernel knows what to say. */
	if (h.ip6.hop_limit <= 1 || (h.ip6.saddr.s6_addr[0] | h.ip6.daddr.s6_addr[0]) == 0 || h.ip6.daddr.s6_addr[0] == 0xff ||
	    h.ip6.saddr.s6_addr[0] == 0xff || (h.ip6.daddr.s6_addr[0] == 0xfe && (h.ip6.daddr.s6_addr[1] & 0xc0) == 0x80) ||
	    (h.ip6.saddr.s6_addr[0] == 0xfe && (h.ip6.saddr.s6_addr[1] & 0xc0) == 0x80))
		return SG_ACT_PASS;
	fib.family = AF_INET6;
	fib.l4_protocol = IPPROTO_TCP;
	__builtin_memcpy(&fib.sport, h.tcp, 2);
	__builtin_memcpy(&fib.dport, h.tcp + 2, 2);
	fib.tot_len = 1; /* the MTU of the route is reported, and compared segment by segment */
	fib.ifindex = ctx->ifindex;
	fib.flowinfo = *(__be32 *)&h.ip6 & bpf_htonl(0x0fffffff);
	__builtin_memcpy(fib.ipv6_src, &h.ip6.saddr, 16);
	__builtin_memcpy(fib.ipv6_dst, &h.ip6.daddr, 16);
	/* For this host, forwarding switched off, no route, blackholed, a tunnel's encapsulation: the kernel's, all of them. */
	switch (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		break;
	default:
		return SG_ACT_PASS;
	}
	if (fib.family != AF_INET6)
		return SG_ACT_PASS;
	seg_len = SG_V6_LEN + (h.tcp[12] >> 4) * 4 + ctx->gso_size;
	if (seg_len > (fib.mtu_result > 1 ? fib.mtu_result : sg_dev_mtu(ctx, fib.ifindex)))
		return SG_ACT_PASS;
	hop_limit = h.ip6.hop_limit - 1;
	if (bpf_skb_store_bytes(ctx, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &hop_limit, 1, BPF_F_RECOMPUTE_CSUM))
		return SG_ACT_PASS;
	sg_metric(SG_OK_FORWARDED, sg_segments(ctx), ctx->len);
	__builtin_memcpy(nh.ipv6_nh, fib.ipv6_dst, 16);
	return bpf_redirect_neigh(fib.ifindex, &nh, sizeof(nh), 0);
}

/* Cheap enough to ask of every packet. */
SG_INLINE bool sg_is_big6(const sg_ctx *ctx)
{
	return ctx->len > ETH_HLEN + SG_V6_LEN + SG_BIG_LEN && ctx->protocol == bpf_htons(ETH_P_IPV6) && !ctx->vlan_present;
}

#endif
