/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv6 to IPv4 (RFC 7915 5), and IPv6 to IPv6 between hosts with explicit mappings (RFC 7757 4). */
#ifndef SG_XLAT64_H
#define SG_XLAT64_H

#include "xlat.h"

/* Whether this is a packet that can be translated; reads layer 4. */
SG_INLINE enum sg_reason sg_valid6(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw)
{
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason;

	if (p->end > w->frame_len)
		return SG_DROP_TRUNCATED;
	if (unlikely(p->end == p->l3 + SG_V6_LEN && sg_gso_size(ctx)))
		p->end = w->frame_len; /* a super-packet of 64 KB and more (BIG TCP) */
	if (unlikely(sg_is_exthdr(p->proto))) {
		/* Named one by one: to the verifier, a function of its own may return anything. */
		reason = sg_parse_exthdrs(ctx, p);
		if (reason)
			return reason == SG_DROP_TRUNCATED ? SG_DROP_TRUNCATED : SG_DROP_BAD_EXTHDR;
	}
	if (unlikely(p->l4 > p->end))
		return SG_DROP_BAD_EXTHDR;
	if (unlikely(sg_v6_illegal_source(&p->saddr)))
		return SG_DROP_SRC_ILLEGAL;
	if (unlikely(p->segs_left))
		return sg_owe(w, SG_DROP_ROUTING_HEADER, SG_ICMP6_PARAM, 0, p->segs_left - p->l3);
	if (unlikely(p->ext_behind_fragment))
		return sg_refuse(w, gw, SG_DROP_FRAGMENT_EXTHDR);
	if (unlikely(p->proto == IPPROTO_ICMP))
		return SG_DROP_ICMP_TYPE; /* it would become an ICMPv4 message whose content nobody has looked at */
	return sg_parse_l4(ctx, w);
}

/* Whether this packet may be translated at all; fills src. */
SG_INLINE enum sg_reason sg_check64(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	const struct sg_nat_gw *gw = sg_nat_gw(t, w->dst.gw);
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason = sg_valid6(ctx, w, gw);

	if (unlikely(reason))
		return reason;
	w->src.gw = w->dst.gw;
	if (unlikely(!sg_nat_src6(t, &p->saddr, &w->src))) {
		if (!w->l4.error)
			return gw->flags & SG_GW_ICMP_QUIET ? SG_DROP_SRC_UNMAPPED
							    : sg_owe(w, SG_DROP_SRC_UNMAPPED, SG_ICMP6_UNREACH, 5, 0);
		w->src_unmapped = true;
	} else if (unlikely(sg_wkp_refuses(gw, &w->src, w->src.addr.w[3]))) {
		return sg_refuse(w, gw, SG_DROP_WKP_NONGLOBAL);
	}
	/* An address that must not stand in IPv4 is not made out of IPv6 either. */
	if (unlikely(!w->src_unmapped && sg_v4_illegal_source(w->src.addr.w[3])))
		return SG_DROP_SRC_ILLEGAL;
	if (unlikely(sg_v4_illegal_source(w->dst.addr.w[3])))
		return sg_refuse(w, gw, SG_DROP_MAPPING);
	if (unlikely(sg_wkp_refuses(gw, &w->dst, w->dst.addr.w[3])))
		return sg_refuse(w, gw, SG_DROP_WKP_NONGLOBAL);
	if (unlikely(p->ttl <= 1))
		return sg_owe(w, SG_DROP_TTL, SG_ICMP6_TIME, 0, 0);
	/* Fragments whose sum would be longer than an IPv4 packet can be. */
	if (unlikely(p->frag_off + (p->end - p->l4) > 65535 - SG_V4_LEN && !sg_gso_size(ctx)))
		return SG_DROP_FRAGMENT_SIZE;
	sg_segment(ctx, w);
	return 0;
}

/* What the ICMP checksum gains by the change of type and by losing the pseudo-header (RFC 4443 2.3). */
SG_INLINE __u64 sg_icmp64_diff(const struct sg_work *w, __u8 type)
{
	__u64 old = sg_csum_addr(&w->pkt.saddr) + sg_csum_addr(&w->pkt.daddr) + bpf_htonl(w->pkt.end - w->pkt.l4) +
		    bpf_htonl(IPPROTO_ICMPV6) + w->l4.type;

	return sg_csum_neg(old) + type + sg_number_diff(&w->l4);
}

SG_INLINE void sg_header4(sg_ctx *ctx, const struct sg_work *w, const struct sg_nat_gw *gw, struct iphdr *ip)
{
	const struct sg_pkt *p = &w->pkt;
	__u32 len = SG_V4_LEN + (p->end - p->l4);
	__u16 frag;

	*(__u8 *)ip = 0x45;
	ip->tos = gw->flags & SG_GW_FIXED_TOS ? gw->tos : p->tos;
	ip->tot_len = len > 65535 ? 0 : bpf_htons(len);
	if (p->fragment) { /* RFC 7915 5.1.1, atomic fragments included */
		frag = (p->frag_off >> 3) | (p->more ? SG_IP_MF : 0);
		ip->id = bpf_htons((__u16)p->frag_id);
	} else if (SG_V4_LEN + w->seg_len > SG_V4_DF_MIN) {
		frag = SG_IP_DF;
		ip->id = 0;
	} else {
		frag = 0;
		ip->id = bpf_htons(sg_new_ipid(w->src.addr.w[3], w->dst.addr.w[3], sg_segments(ctx)));
	}
	ip->frag_off = bpf_htons(frag);
	ip->ttl = p->ttl - 1;
	ip->protocol = p->proto == IPPROTO_ICMPV6 ? IPPROTO_ICMP : p->proto;
	ip->check = 0;
	ip->saddr = w->src.addr.w[3];
	ip->daddr = w->dst.addr.w[3];
	ip->check = sg_csum_v4(ip);
}

SG_INLINE enum sg_reason sg_write64(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw)
{
	struct sg_pkt *p = &w->pkt;
	struct iphdr ip = {};
	__u32 l4 = p->l3 + SG_V4_LEN;
	__u64 diff;

	sg_header4(ctx, w, gw, &ip);
	if (unlikely(w->frame_len > p->end && sg_trim(ctx, p->end)))
		return SG_DROP_RESIZE;
	if (sg_resize(ctx, p->l4 - p->l3, SG_V4_LEN, bpf_htons(ETH_P_IP)))
		return SG_DROP_RESIZE;
	if (sg_store(ctx, p->l3, &ip, sizeof(ip)))
		return SG_DROP_RESIZE;
	if (!w->l4.csum_off)
		return 0;
	if (p->proto == IPPROTO_ICMPV6) {
		__u8 type = w->l4.type == SG_ICMP6_ECHO ? SG_ICMP4_ECHO : SG_ICMP4_ECHOREPLY;

		return sg_store_echo(ctx, l4, &w->l4, type, sg_icmp64_diff(w, type)) ? SG_DROP_RESIZE : 0;
	}
	diff = sg_csum_neg(sg_csum_addr(&p->saddr) + sg_csum_addr(&p->daddr)) + ip.saddr + ip.daddr;
	return sg_store_l4(ctx, l4, &w->l4, p->proto == IPPROTO_UDP, diff);
}

/* RFC 7757 4: the destination is an IPv6 host behind an explicit mapping. It must see the source under the prefix, or its answer would
 * not come back this way. One step, one hop. */
SG_INLINE bool sg_is_hairpin(const struct sg_nat_table *t, const struct sg_work *w, struct sg_match *back)
{
	const struct sg_nat_gw *gw = sg_nat_gw(t, w->dst.gw);

	if (!t->n_map || gw->flags & SG_GW_HAIRPIN_OFF || w->dst.eam || !(gw->flags & SG_GW_PREFIX))
		return false;
	return sg_nat_match4(t, w->dst.addr.w[3], back) && back->eam;
}

SG_INLINE enum sg_reason sg_write66(sg_ctx *ctx, struct sg_work *w, const struct sg_addr *saddr, const struct sg_addr *daddr)
{
	struct sg_pkt *p = &w->pkt;
	struct sg_addr pair[2] = {*saddr, *daddr};
	__u8 ttl = p->ttl - 1;
	__u64 diff;

	if (sg_store(ctx, p->l3 + offsetof(struct ipv6hdr, saddr), pair, sizeof(pair)) ||
	    sg_store(ctx, p->l3 + offsetof(struct ipv6hdr, hop_limit), &ttl, 1))
		return SG_DROP_RESIZE;
	if (!w->l4.csum_off)
		return 0;
	diff = sg_csum_neg(sg_csum_addr(&p->saddr) + sg_csum_addr(&p->daddr)) + sg_csum_addr(saddr) + sg_csum_addr(daddr);
	if (p->proto == IPPROTO_ICMPV6)
		return sg_store_echo(ctx, p->l4, &w->l4, w->l4.type, diff + sg_number_diff(&w->l4)) ? SG_DROP_RESIZE : 0;
	return sg_store_l4(ctx, p->l4, &w->l4, p->proto == IPPROTO_UDP, diff);
}

/* Finds the way of a packet whose new addresses are known, and writes it. */
SG_INLINE enum sg_reason sg_go64(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw)
{
	struct sg_hop *hop = &w->hop;
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason;
	__u32 limit;

	reason = sg_hop_find(ctx, hop, &w->src.addr, &w->dst.addr, true, p->proto, p->tos, w->l4.ports);
	if (unlikely(reason))
		return reason;
	if (unlikely(SG_V4_LEN + w->seg_len > hop->mtu)) {
		limit = hop->mtu + 20 > SG_IPV6_MIN_MTU ? hop->mtu + 20 : SG_IPV6_MIN_MTU;
		if (p->l4 - p->l3 + w->seg_len > limit)
			return sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP6_TOO_BIG, 0, limit);
		return SG_SLOW_FRAGMENT;
	}
	hop->peer = unlikely(p->end - p->l4 > 65535) && sg_hop_takes_big(hop);
	reason = sg_mss(ctx, w, gw, hop->mtu - 40);
	if (!reason)
		reason = sg_write64(ctx, w, gw);
	return reason;
}

/* Everything of a destination in a prefix that needs no more than headers. `w->act` is set where the packet is done. */
SG_STAGE int sg_nat64(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	const struct sg_nat_gw *gw;
	struct sg_hop *hop;
	struct sg_pkt *p;
	struct sg_match back = {};
	enum sg_reason reason, done = SG_OK_64;
	__u32 v6_len;
	bool hairpin;

	if (!t || !w)
		return SG_DROP_STALE;
	gw = sg_nat_gw(t, w->dst.gw);
	hop = &w->hop;
	p = &w->pkt;
	reason = sg_check64(ctx, t, w);
	if (unlikely(reason))
		return reason;
	if (p->proto == IPPROTO_ICMPV6 && w->l4.type != SG_ICMP6_ECHO && w->l4.type != SG_ICMP6_ECHOREPLY)
		return w->l4.error ? SG_SLOW_REWRITE : SG_DROP_ICMP_TYPE;
	if (unlikely(w->l4.syn && gw->flags & SG_GW_MSS_CLAMP) && !SG_HOOK_IS_SLOW)
		return SG_SLOW_REWRITE;
	hairpin = sg_is_hairpin(t, w, &back);
	v6_len = p->l4 - p->l3 + w->seg_len;
	if (unlikely(hairpin)) {
		struct sg_addr saddr = sg_rfc6052_embed(gw, w->src.addr.w[3]);

		if (SG_HOOK_IS_XDP)
			return SG_SLOW_XDP;
		if (p->proto == IPPROTO_IGMP)
			return SG_DROP_ICMP_TYPE; /* between the two translations it would be IGMP */
		reason = sg_hop_find(ctx, hop, &saddr, &back.addr, false, p->proto, p->tos, w->l4.ports);
		if (reason)
			return reason;
		if (v6_len > hop->mtu)
			return sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP6_TOO_BIG, 0, hop->mtu);
		reason = sg_write66(ctx, w, &saddr, &back.addr);
		done = SG_OK_66;
	} else {
		reason = sg_go64(ctx, w, gw);
		if (hop->local)
			done = SG_OK_64_LOCAL;
	}
	if (unlikely(reason))
		return reason;
	sg_account(w, gw, ctx, true);
	w->act = sg_hop_send(ctx, hop, &done);
	return done;
}

#endif
