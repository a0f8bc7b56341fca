/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Outer headers of DSR: IPv4 and IPv6 packets inside IPv4 or IPv6 ones (RFC 2003, RFC 2473, RFC 4213). */
#ifndef SG_LB_ENCAP_H
#define SG_LB_ENCAP_H

#include "lb_track.h"

/* What forwarding needs to know of a packet. */
struct sg_lb_pkt {
	__u32 l3;      /* first byte of the IP header */
	__u32 l4;      /* first byte of layer 4 */
	__u32 len;     /* of layer 3, as its header counts; of a super-packet of 64 KB and more all of it */
	__u32 seg_len; /* of layer 3 in one segment of a super-packet; of the packet otherwise */
	__u32 spread;  /* bits of the flow hash, for the outer source */
	__be16 dport;  /* as received */
	__u16 delta;   /* to the port of the backend; 0: nothing to map */
	__u8 v6;
	__u8 tos;
	__u8 proto;
	__u8 inner_proto;
	__u32 inner; /* ICMP errors: where the ports of the embedded packet stand; else 0 */
};

/* The port before it was mapped, as the outer header carries it; 0: not mapped. */
SG_INLINE __be16 sg_lb_port_tag(const struct sg_lb_pkt *p)
{
	return p->delta && !p->inner ? p->dport : 0;
}

/* Whether a super-packet has a jumbo header, which is no part of its segments. `head` is what stands before layer 4. */
SG_INLINE bool sg_lb_is_jumbo(bool v6, __u32 len, __u32 head)
{
	return v6 && len > SG_V6_LEN + 65535 && head == SG_V6_LEN + SG_JUMBO_LEN;
}

/* As a header says it. What no length field can say is a super-packet, which says nothing. */
SG_INLINE __u32 sg_lb_len(__u32 len)
{
	return !SG_HOOK_IS_XDP && len > 65535 ? 0 : len;
}

SG_INLINE void sg_lb_outer4(struct iphdr *ip, const struct sg_lb_backend *b, const struct sg_lb_pkt *p)
{
	__u32 *w = (__u32 *)ip, w0, w1, w2, src, dst;

	/* Whole words, summed in registers: to read halves back as words, or to copy bytes, is a third of what a header costs. */
	w0 = bpf_htonl(0x45000000 | ((__u32)p->tos << 16) | (__u16)sg_lb_len(p->len + SG_V4_LEN));
	w1 = bpf_htonl(((__u32)bpf_ntohs(sg_lb_port_tag(p)) << 16) | SG_IP_DF);
	w2 = bpf_htonl(((__u32)b->ttl << 24) | ((p->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP) << 16));
	src = b->src.w[3] | bpf_htonl(p->spread & b->src_mask);
	dst = b->addr.w[3];
	w[0] = w0;
	w[1] = w1;
	w[2] = w2;
	w[3] = src;
	w[4] = dst;
	ip->check = (__u16)~sg_csum_fold((__u64)w0 + w1 + w2 + src + dst);
}

/* `ip6` is a packet's, or on the stack at a multiple of eight. */
SG_INLINE void sg_lb_outer6(struct ipv6hdr *ip6, const struct sg_lb_backend *b, const struct sg_lb_pkt *p)
{
	__u32 *w = (__u32 *)ip6;
	__u64 *d = (__u64 *)ip6;

	w[0] = bpf_htonl(0x60000000 | ((__u32)p->tos << 20) | bpf_ntohs(sg_lb_port_tag(p)));
	w[1] = bpf_htonl((sg_lb_len(p->len) << 16) | ((p->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP) << 8) | b->ttl);
	d[1] = b->src.d[0];
	w[4] = b->src.w[2];
	w[5] = b->src.w[3] | bpf_htonl(p->spread & b->src_mask);
	d[3] = b->addr.d[0];
	d[4] = b->addr.d[1];
}

/* An ICMP error about a mapped port. The backend listens on its own: so must the embedded packet say that it came from there, with a checksum to
 * fit where there is one. */
SG_INLINE bool sg_lb_inner_port(sg_ctx *ctx, const struct sg_lb_pkt *p)
{
	__be16 to = bpf_htons((__u16)(bpf_ntohs(p->dport) + p->delta));
	bool udp = p->inner_proto == IPPROTO_UDP;
	__u64 diff = sg_csum_neg(p->dport) + to;
	__u32 sum_off = p->inner + (udp ? 6 : 16);
	__u16 sum, inner, was;

	/* Ports and checksums stand at even offsets of the message. */
	if (sum_off + 2 <= p->l3 + p->len && !sg_load(ctx, sum_off, &was, 2) && (!udp || was)) {
		inner = sg_csum_update(was, diff);
		if (udp && !inner)
			inner = 0xffff;
		diff += sg_csum_neg(was) + inner;
		if (sg_store(ctx, sum_off, &inner, 2))
			return false;
	}
	if (sg_load(ctx, p->l4 + 2, &sum, 2))
		return false;
	sum = sg_csum_update(sum, diff);
	return !sg_store(ctx, p->l4 + 2, &sum, 2) && !sg_store(ctx, p->inner, &to, 2);
}

#endif
