/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a frame to the facts of its IP header. Nothing is read before its bounds are checked. */
#ifndef SG_PARSE_H
#define SG_PARSE_H

#include "bpf.h"
#include "csum.h"

#define SG_MAX_EXTHDR 8

/* One IPv4 or IPv6 packet. Offsets count from the start of the frame. */
struct sg_pkt {
	struct sg_addr saddr;
	struct sg_addr daddr;
	__u32 l3;		  /* first byte of the IP header */
	__u32 l4;		  /* first byte behind options or extension headers */
	__u32 end;		  /* first byte behind the packet as its header counts it */
	__u32 frag_id;		  /* IPv4: identification, 16 bits */
	__u32 segs_left;	  /* offset of a non-zero Segments Left, 0 where there is none */
	__u16 frag_off;		  /* bytes, a multiple of 8 */
	__u8 version;		  /* 4 or 6 */
	__u8 proto;		  /* of layer 4, IANA number; of IPv6: what follows the last extension header */
	__u8 tos;		  /* TOS or traffic class */
	__u8 ttl;		  /* TTL or hop limit */
	__u8 df;		  /* IPv4 only */
	__u8 fragment;		  /* a fragment: more to come, an offset, or an IPv6 fragment header */
	__u8 more;		  /* more fragments follow */
	__u8 atomic;		  /* an IPv6 fragment header on a whole packet (RFC 6946) */
	__u8 ext_behind_fragment; /* an extension header follows the fragment header */
	__u8 pad;
};

SG_INLINE bool sg_is_exthdr(__u8 nexthdr)
{
	return nexthdr == SG_NEXTHDR_HOP || nexthdr == SG_NEXTHDR_DEST || nexthdr == SG_NEXTHDR_ROUTING ||
	       nexthdr == SG_NEXTHDR_FRAGMENT;
}

struct sg_exthdr {
	__u8 nexthdr;
	__u8 len;  /* in 8 octets, without the first 8 */
	__u8 type; /* routing header */
	__u8 left; /* routing header: Segments Left */
	__be32 word;
};

/* Follows the extension headers that RFC 7915 5.1 skips. `pkt->proto` is the first next header, `pkt->l4` where it starts.
 * Unrolled, because clang lets the end of this loop fall into its beginning, which Linux 6.1 refuses ("back-edge"). */
SG_GLOBAL int sg_parse_exthdrs(sg_ctx *ctx, struct sg_pkt *pkt)
{
	struct sg_exthdr h;
	__u16 off;
	int i;

	if (!pkt)
		return SG_DROP_BAD_EXTHDR;
#pragma unroll
	for (i = 0; i < SG_MAX_EXTHDR; i++) {
		if (likely(!sg_is_exthdr(pkt->proto)))
			return 0;
		if (sg_load(ctx, pkt->l4, &h, sizeof(h)))
			return SG_DROP_TRUNCATED;
		if (pkt->proto == SG_NEXTHDR_FRAGMENT) {
			off = ((__u16)h.type << 8) | h.left;
			pkt->fragment = 1;
			pkt->frag_off = off & 0xfff8;
			pkt->more = off & 1;
			pkt->atomic = !pkt->frag_off && !pkt->more;
			pkt->frag_id = bpf_ntohl(h.word);
			/* RFC 7915 5.1.1: AH counts here, ESP does not. */
			pkt->ext_behind_fragment =
				sg_is_exthdr(h.nexthdr) || h.nexthdr == SG_NEXTHDR_AUTH || h.nexthdr == SG_NEXTHDR_MOBILITY;
			pkt->l4 += SG_FRAG_LEN;
			pkt->proto = h.nexthdr;
			return 0; /* what RFC 7915 skips stands before it */
		} else {
			if (pkt->proto == SG_NEXTHDR_ROUTING && h.left && !pkt->segs_left)
				pkt->segs_left = pkt->l4 + 3;
			pkt->l4 += (h.len + 1) << 3;
		}
		pkt->proto = h.nexthdr;
	}
	return sg_is_exthdr(pkt->proto) ? SG_DROP_BAD_EXTHDR : 0;
}

/* The fixed IPv6 header at `pkt->l3`, which must be within reach. Extension headers are left to sg_parse_exthdrs(). */
SG_INLINE void sg_parse_ip6(struct sg_pkt *pkt, const struct ipv6hdr *ip6)
{
	const __u8 *b = (const __u8 *)ip6;

	__builtin_memcpy(&pkt->saddr, &ip6->saddr, sizeof(pkt->saddr));
	__builtin_memcpy(&pkt->daddr, &ip6->daddr, sizeof(pkt->daddr));
	pkt->version = 6;
	pkt->tos = (__u8)(b[0] << 4) | (b[1] >> 4);
	pkt->ttl = ip6->hop_limit;
	pkt->proto = ip6->nexthdr;
	pkt->l4 = pkt->l3 + SG_V6_LEN;
	pkt->end = pkt->l4 + bpf_ntohs(ip6->payload_len);
}

/* The IPv4 header at `pkt->l3`, the fixed part of which must be within reach. */
SG_INLINE void sg_parse_ip4(struct sg_pkt *pkt, const struct iphdr *ip)
{
	__u16 frag = bpf_ntohs(ip->frag_off);

	pkt->saddr = sg_addr4(ip->saddr);
	pkt->daddr = sg_addr4(ip->daddr);
	pkt->version = 4;
	pkt->tos = ip->tos;
	pkt->ttl = ip->ttl;
	pkt->proto = ip->protocol;
	pkt->l4 = pkt->l3 + ip->ihl * 4;
	pkt->end = pkt->l3 + bpf_ntohs(ip->tot_len);
	pkt->df = !!(frag & SG_IP_DF);
	pkt->more = !!(frag & SG_IP_MF);
	pkt->frag_off = (frag & SG_IP_OFFSET) << 3;
	pkt->fragment = pkt->more || pkt->frag_off;
	pkt->frag_id = bpf_ntohs(ip->id);
}

#endif
