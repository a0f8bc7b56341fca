/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv4 to IPv6 (RFC 7915 4). */
#ifndef SG_XLAT46_H
#define SG_XLAT46_H

#include "xlat.h"

#define SG_IPOPT_END 0
#define SG_IPOPT_NOP 1
#define SG_IPOPT_LSRR 131
#define SG_IPOPT_SSRR 137
#define SG_IPOPT_SPACE 40

/* A walk over IPv4 options, one a turn; a callback, because the verifier follows a callback once and a loop forty times. */
struct sg_options {
	__u8 b[SG_IPOPT_SPACE + 8];
	__u32 len;
	__u32 at;
	__u32 reason;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_options);
	__uint(max_entries, 1);
} sg_opt_buf SEC(".maps");

static long sg_option(__u32 i __attribute__((unused)), __u32 *key)
{
	struct sg_options *o = bpf_map_lookup_elem(&sg_opt_buf, key);
	__u8 kind, size;
	__u32 at;

	if (!o)
		return 1;
	at = o->at;
	if (at >= o->len || at >= SG_IPOPT_SPACE)
		return 1;
	sg_opaque(at);
	at &= 63;
	if (at >= SG_IPOPT_SPACE)
		return 1;
	kind = o->b[at];
	if (kind == SG_IPOPT_END)
		return 1;
	if (kind == SG_IPOPT_NOP) {
		o->at = at + 1;
		return 0;
	}
	size = o->b[at + 1];
	if (size < 2 || at + size > o->len) {
		o->reason = SG_DROP_BAD_HEADER;
		return 1;
	}
	if ((kind == SG_IPOPT_LSRR || kind == SG_IPOPT_SSRR) && size > 2 && o->b[at + 2] <= size) {
		o->reason = SG_DROP_SOURCE_ROUTE;
		return 1;
	}
	o->at = at + size;
	return 0;
}

/* RFC 7915 4.1: options are dropped, but an unexpired source route is not. Also checks the header checksum, options included. */
SG_GLOBAL int sg_check_options(sg_ctx *ctx, __u32 off, __u32 len, __u64 sum)
{
	__u32 zero = 0, i;
	struct sg_options *o = bpf_map_lookup_elem(&sg_opt_buf, &zero);

	if (!o)
		return SG_DROP_BAD_HEADER;
	o->len = len;
	o->at = 0;
	o->reason = 0;
	for (i = 0; i < SG_IPOPT_SPACE; i += 4) {
		if (i >= len)
			break;
		if (sg_load(ctx, off + i, o->b + i, 4))
			return SG_DROP_TRUNCATED;
		sum += *(__u32 *)(o->b + i);
	}
	if (sg_csum_fold(sum) != 0xffff)
		return SG_DROP_BAD_HEADER;
	bpf_loop(SG_IPOPT_SPACE, sg_option, &zero, 0);
	return o->reason;
}

/* Whether this is a packet that can be translated; reads layer 4. */
SG_INLINE enum sg_reason sg_valid4(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason;

	if (unlikely(p->end == p->l3 && sg_gso_size(ctx)))
		p->end = w->frame_len; /* total length 0: a super-packet of 64 KB and more (BIG TCP) */
	if (unlikely(p->l4 < p->l3 + SG_V4_LEN))
		return SG_DROP_BAD_HEADER;
	if (unlikely(p->end > w->frame_len || p->end < p->l4))
		return SG_DROP_TRUNCATED;
	if (unlikely(p->l4 != p->l3 + SG_V4_LEN)) {
		reason = sg_check_options(ctx, p->l3 + SG_V4_LEN, p->l4 - p->l3 - SG_V4_LEN, w->header_sum);
		if (reason == SG_DROP_SOURCE_ROUTE)
			return sg_owe(w, SG_DROP_SOURCE_ROUTE, SG_ICMP4_UNREACH, 5, 0);
		if (reason)
			return reason == SG_DROP_TRUNCATED ? SG_DROP_TRUNCATED : SG_DROP_BAD_HEADER;
	} else if (unlikely(sg_csum_fold(w->header_sum) != 0xffff)) {
		return SG_DROP_BAD_HEADER;
	}
	if (unlikely(p->proto == IPPROTO_IGMP))
		return SG_DROP_ICMP_TYPE; /* RFC 7915 4.2 */
	/* Copied to IPv6, these numbers would be extension headers, or ICMPv6 whose content nobody has looked at. */
	if (unlikely(sg_is_exthdr(p->proto) || p->proto == SG_NEXTHDR_MOBILITY || p->proto == SG_NEXTHDR_HIP ||
		     p->proto == SG_NEXTHDR_SHIM6))
		return SG_DROP_BAD_EXTHDR;
	if (unlikely(p->proto == IPPROTO_ICMPV6))
		return SG_DROP_ICMP_TYPE;
	if (unlikely(p->fragment && p->frag_off + (p->end - p->l4) > 65535))
		return SG_DROP_FRAGMENT_SIZE;
	reason = sg_parse_l4(ctx, w);
	if (unlikely(reason))
		return reason;
	return sg_v4_illegal_source(p->saddr.w[3]) && !w->l4.error ? SG_DROP_SRC_ILLEGAL : 0;
}

SG_INLINE enum sg_reason sg_check46(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	const struct sg_nat_gw *gw = sg_nat_gw(t, w->dst.gw);
	struct sg_pkt *p = &w->pkt;
	struct sg_match *src = &w->src;
	__be32 saddr = p->saddr.w[3];
	enum sg_reason reason = sg_valid4(ctx, w);

	if (unlikely(reason))
		return reason;
	src->gw = w->dst.gw;
	if (unlikely(!sg_nat_src4(t, saddr, src))) {
		if (!w->l4.error)
			return sg_refuse(w, gw, SG_DROP_SRC_UNMAPPED);
		w->src_unmapped = true;
	} else if (unlikely(sg_wkp_refuses(gw, src, saddr))) {
		return sg_refuse(w, gw, SG_DROP_WKP_NONGLOBAL);
	}
	if (unlikely(sg_wkp_refuses(gw, &w->dst, p->daddr.w[3])))
		return sg_refuse(w, gw, SG_DROP_WKP_NONGLOBAL);
	if (unlikely(p->ttl <= 1))
		return sg_owe(w, SG_DROP_TTL, SG_ICMP4_TIME, 0, 0);
	sg_segment(ctx, w);
	return 0;
}

SG_INLINE __u64 sg_icmp46_diff(const struct sg_work *w, __u8 type)
{
	__u64 sum = sg_csum_addr(&w->src.addr) + sg_csum_addr(&w->dst.addr) + bpf_htonl(w->pkt.end - w->pkt.l4) +
		    bpf_htonl(IPPROTO_ICMPV6) + type;

	return sum + sg_csum_neg(w->l4.type) + sg_number_diff(&w->l4);
}

/* A new IPv6 header with room for one extension header of 8 bytes. */
struct sg_head6 {
	struct ipv6hdr ip6;
	__u8 ext[8];
};

/* Returns the length of the header. */
SG_INLINE __u32 sg_header6(const struct sg_work *w, const struct sg_nat_gw *gw, struct sg_head6 *h)
{
	const struct sg_pkt *p = &w->pkt;
	__u32 len = p->end - p->l4, hdr_len = SG_V6_LEN;
	__u8 tc = gw->flags & SG_GW_ZERO_TC ? 0 : p->tos;
	__u8 proto = p->proto == IPPROTO_ICMP ? IPPROTO_ICMPV6 : p->proto;
	__u16 off;
	__u8 *b = (__u8 *)&h->ip6;

	b[0] = 0x60 | (tc >> 4);
	b[1] = (__u8)(tc << 4);
	b[2] = 0;
	b[3] = 0;
	h->ip6.nexthdr = proto;
	h->ip6.hop_limit = p->ttl - 1;
	__builtin_memcpy(&h->ip6.saddr, &w->src.addr, 16);
	__builtin_memcpy(&h->ip6.daddr, &w->dst.addr, 16);
	if (unlikely(p->fragment)) {
		off = bpf_htons(p->frag_off | (p->more ? 1 : 0));
		h->ip6.nexthdr = SG_NEXTHDR_FRAGMENT;
		h->ext[0] = proto;
		h->ext[1] = 0;
		__builtin_memcpy(h->ext + 2, &off, 2);
		h->ext[4] = 0;
		h->ext[5] = 0;
		h->ext[6] = (__u8)(p->frag_id >> 8);
		h->ext[7] = (__u8)p->frag_id;
		hdr_len += SG_FRAG_LEN;
		len += SG_FRAG_LEN;
	}
	h->ip6.payload_len = bpf_htons(len);
	if (unlikely(len > 65535)) { /* RFC 2675, and only inside this machine */
		h->ip6.payload_len = 0;
		h->ip6.nexthdr = SG_NEXTHDR_HOP;
		h->ext[0] = proto;
		h->ext[1] = 0;
		h->ext[2] = SG_OPT_JUMBO;
		h->ext[3] = 4;
		*(__be32 *)(h->ext + 4) = bpf_htonl(len + SG_JUMBO_LEN);
		hdr_len += SG_JUMBO_LEN;
	}
	return hdr_len;
}

SG_INLINE enum sg_reason sg_write46(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw)
{
	struct sg_pkt *p = &w->pkt;
	struct sg_head6 h;
	__u32 hdr_len = sg_header6(w, gw, &h), l4 = p->l3 + hdr_len;
	__u64 diff;

	if (unlikely(w->frame_len > p->end && sg_trim(ctx, p->end)))
		return SG_DROP_RESIZE;
	if (sg_resize(ctx, p->l4 - p->l3, hdr_len, bpf_htons(ETH_P_IPV6)))
		return SG_DROP_RESIZE;
	if (sg_store(ctx, p->l3, &h.ip6, sizeof(h.ip6)))
		return SG_DROP_RESIZE;
	if (unlikely(hdr_len > SG_V6_LEN && sg_store(ctx, p->l3 + SG_V6_LEN, h.ext, sizeof(h.ext))))
		return SG_DROP_RESIZE;
	if (!w->l4.csum_off)
		return 0;
	if (p->proto == IPPROTO_ICMP) {
		__u8 type = w->l4.type == SG_ICMP4_ECHO ? SG_ICMP6_ECHO : SG_ICMP6_ECHOREPLY;

		return sg_store_echo(ctx, l4, &w->l4, type, sg_icmp46_diff(w, type)) ? SG_DROP_RESIZE : 0;
	}
	diff = sg_csum_neg((__u64)p->saddr.w[3] + p->daddr.w[3]) + sg_csum_addr(&w->src.addr) + sg_csum_addr(&w->dst.addr);
	return sg_store_l4(ctx, l4, &w->l4, p->proto == IPPROTO_UDP, diff);
}

/* Finds the way of a packet whose new addresses are known, and writes it. */
SG_INLINE enum sg_reason sg_go46(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw)
{
	struct sg_hop *hop = &w->hop;
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason;
	__u32 len, limit;

	reason = sg_hop_find(ctx, hop, &w->src.addr, &w->dst.addr, false, p->proto == IPPROTO_ICMP ? IPPROTO_ICMPV6 : p->proto,
			     p->tos, w->l4.ports);
	if (unlikely(reason))
		return reason;
	/* A super-packet longer than IPv6 can say stays whole where it need not be transmitted (big.h), and is cut on its way to
	 * the slow path otherwise. */
	if (unlikely(p->end - p->l4 > 65535) && !SG_HOOK_IS_SLOW) {
		if (!sg_hop_takes_big(hop))
			return SG_SLOW_REWRITE;
		hop->peer = 1;
	}
	len = SG_V6_LEN + (p->fragment ? SG_FRAG_LEN : 0) + w->seg_len;
	if (p->df) {
		/* A fragment that would fit but for its fragment header is told of that header, too, or its sender would never get
		 * below the limit. */
		if (unlikely(len > hop->mtu))
			return sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP4_UNREACH, 4,
				      hop->mtu - (p->fragment && len - SG_FRAG_LEN <= hop->mtu ? 28 : 20));
	} else {
		limit = gw->low_mtu < hop->mtu ? gw->low_mtu : hop->mtu;
		if (unlikely(len > limit))
			return SG_SLOW_FRAGMENT;
	}
	reason = sg_mss(ctx, w, gw, hop->mtu - 60);
	if (!reason)
		reason = sg_udp_sum(ctx, w);
	if (!reason)
		reason = sg_write46(ctx, w, gw);
	return reason;
}

/* Everything of a destination in an IPv4 range or mapping that needs no more than headers. */
SG_STAGE int sg_nat46(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	const struct sg_nat_gw *gw;
	struct sg_hop *hop;
	struct sg_pkt *p;
	enum sg_reason reason, done = SG_OK_46;

	if (!t || !w)
		return SG_DROP_STALE;
	gw = sg_nat_gw(t, w->dst.gw);
	hop = &w->hop;
	p = &w->pkt;
	reason = sg_check46(ctx, t, w);
	if (unlikely(reason))
		return reason;
	if (p->proto == IPPROTO_ICMP && w->l4.type != SG_ICMP4_ECHO && w->l4.type != SG_ICMP4_ECHOREPLY)
		return w->l4.error && w->l4.type != 4 && w->l4.type != 5 ? SG_SLOW_REWRITE : SG_DROP_ICMP_TYPE;
	if (unlikely(p->proto == IPPROTO_UDP && w->l4.zero)) {
		/* RFC 7915 4.5: fragments are not put together for a checksum's sake. */
		if (p->fragment || w->l4.zero == SG_UDP_ZERO_BAD || !(gw->flags & SG_GW_UDP_ZERO_CALC))
			return sg_refuse(w, gw, SG_DROP_UDP_ZERO);
		if (!SG_HOOK_IS_SLOW)
			return SG_SLOW_REWRITE;
	}
	if (unlikely(w->l4.syn && gw->flags & SG_GW_MSS_CLAMP) && !SG_HOOK_IS_SLOW)
		return SG_SLOW_REWRITE;
	reason = sg_go46(ctx, w, gw);
	if (unlikely(reason))
		return reason;
	sg_account(w, gw, ctx, false);
	if (hop->local)
		done = SG_OK_46_LOCAL;
	w->act = sg_hop_send(ctx, hop, &done);
	return done;
}

#endif
