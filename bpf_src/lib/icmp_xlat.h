/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors with the packet embedded in them (RFC 7915 4.2, 4.3, 5.2, 5.3; RFC 4884; RFC 6791). The new message is built aside, with a
 * checksum computed over all of it, and then replaces the old one. */
#ifndef SG_ICMP_XLAT_H
#define SG_ICMP_XLAT_H

#include "icmp_build.h"
#include "icmp_send.h"
#include "xlat46.h"
#include "xlat64.h"

/* RFC 6791: a source for an error whose router has no address of the other family. One router keeps its address. */
SG_INLINE enum sg_reason sg_router_source(struct sg_work *w, const struct sg_nat_gw *gw, bool v4)
{
	__u64 mix = (w->pkt.saddr.d[0] ^ w->pkt.saddr.d[1]) * 0x9e3779b97f4a7c15ULL;
	__u32 bits;

	if (v4 && (gw->pool6791.d[0] | gw->pool6791.d[1])) {
		bits = gw->pool6791_len < 32 ? 0xffffffff >> gw->pool6791_len : 0;
		w->src.addr = gw->pool6791;
		w->src.addr.w[3] |= bpf_htonl((__u32)(mix >> 32) & bits);
		return 0;
	}
	if (!v4 && (gw->pool6791_6.d[0] | gw->pool6791_6.d[1])) {
		w->src.addr = gw->pool6791_6;
		if (gw->pool6791_6_len < 128)
			w->src.addr.d[1] |= bpf_cpu_to_be64(mix & sg_low_mask(128 - gw->pool6791_6_len));
		return 0;
	}
	return sg_own_addr(w->hop.rt.fib.ifindex, v4, &w->src.addr) ? 0 : SG_DROP_NO_SOURCE;
}

/* Stateful: what the engine has answered for the embedded packet, which went the other way. */
SG_INLINE void sg_st_inner(const struct sg_work *w, struct sg_work *in, const struct sg_nat_gw *gw)
{
	const struct sg_st *q = &w->st;
	struct sg_addr far = q->far;
	struct sg_l4 *l = &in->l4;

	if (!sg_is_v4(&q->to) && sg_is_v4(&far) && gw->flags & SG_GW_PREFIX)
		far = sg_rfc6052_embed(gw, far.w[3]);
	l->renumber = 1;
	l->ports = w->l4.ports;
	l->id = w->l4.id;
	l->new_ports = l->ports;
	l->new_id = l->id;
	if (q->proto == IPPROTO_ICMP)
		l->new_id = q->to_port;
	else if (w->way == SG_WAY_OUT)
		l->new_ports = q->far_port | ((__u32)q->to_port << 16);
	else
		l->new_ports = q->to_port | ((__u32)q->far_port << 16);
	in->src.addr = w->way == SG_WAY_OUT ? far : q->to;
	in->dst.addr = w->way == SG_WAY_OUT ? q->to : far;
}

/* The MTU of the next hop towards where the embedded packet was going. */
SG_INLINE __u32 sg_way_back_mtu(sg_ctx *ctx, struct sg_work *in, bool v4)
{
	struct sg_addr any = {};

	return sg_route(ctx, &in->hop.rt, &any, &in->pkt.daddr, v4, 0, 0, 0) ? 65535 : in->hop.rt.mtu;
}

/* Transport checksum and ICMP type of the embedded packet, as far as it is there; layer 4 is at `l4` of the buffer, `have` bytes long. */
SG_INLINE enum sg_reason sg_inner_l4(struct sg_work *in, __u8 *l4, __u32 have, __u64 addr_diff)
{
	struct sg_pkt *p = &in->pkt;
	bool v4 = p->version == 4;
	__u16 *field;
	__u64 diff;
	__u8 type;

	if (p->proto == (v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		if (have < 4 || (p->fragment && !p->atomic))
			return SG_DROP_ICMP_INNER;
		in->l4.type = l4[0];
		/* RFC 7915 4.3: stops at the first embedded header, so an error within an error is none. */
		if (v4 && in->l4.type == SG_ICMP4_ECHO)
			type = SG_ICMP6_ECHO;
		else if (v4 && in->l4.type == SG_ICMP4_ECHOREPLY)
			type = SG_ICMP6_ECHOREPLY;
		else if (!v4 && in->l4.type == SG_ICMP6_ECHO)
			type = SG_ICMP4_ECHO;
		else if (!v4 && in->l4.type == SG_ICMP6_ECHOREPLY)
			type = SG_ICMP4_ECHOREPLY;
		else
			return SG_DROP_ICMP_INNER;
		diff = v4 ? sg_icmp46_diff(in, type) : sg_icmp64_diff(in, type);
		field = (__u16 *)(l4 + 2);
		*field = sg_csum_update(*field, diff);
		l4[0] = type;
		if (in->l4.renumber && have >= 6)
			__builtin_memcpy(l4 + 4, &in->l4.new_id, 2);
		return 0;
	}
	if (p->frag_off)
		return 0;
	if (in->l4.renumber && (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP) && have >= 4) {
		__builtin_memcpy(l4, &in->l4.new_ports, 4);
		addr_diff += sg_number_diff(&in->l4);
	}
	if (p->proto == IPPROTO_TCP && have >= 18) {
		field = (__u16 *)(l4 + 16);
		*field = sg_csum_update(*field, addr_diff);
	} else if (p->proto == IPPROTO_UDP && have >= 8) {
		field = (__u16 *)(l4 + 6);
		if (*field) {
			*field = sg_csum_update(*field, addr_diff);
			if (!*field)
				*field = 0xffff;
		}
	}
	return 0;
}

/* Writes the ICMP header and the IP header in front of it, replaces the packet and sends it. */
SG_INLINE enum sg_reason sg_icmp_emit(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw, __u8 *buf,
				      const struct sg_icmp_map *map, __u32 len)
{
	struct sg_pkt *p = &w->pkt;
	bool to6 = p->version == 4;
	__be32 *icmp = (__be32 *)(buf + (to6 ? SG_V6_LEN : SG_V4_LEN));
	__u64 sum;

	icmp[1] = bpf_htonl(map->rest);
	icmp[0] = map->type | ((__u32)map->code << 8);
	sum = sg_sum_buf(buf);
	if (to6)
		sum += sg_pseudo6(&w->src.addr, &w->dst.addr, len);
	icmp[0] |= (__u32)(__u16)~sg_csum_fold(sum) << 16;
	p->end = p->l4 + len;
	w->seg_len = len;
	if (to6)
		sg_header6(w, gw, (struct sg_head6 *)buf);
	else
		sg_header4(ctx, w, gw, (struct iphdr *)buf);
	/* Extension headers and options go first: the kernel cuts no frame before what it takes for layer 4. */
	if (sg_resize(ctx, p->l4 - p->l3, to6 ? SG_V6_LEN : SG_V4_LEN, to6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP)))
		return SG_DROP_RESIZE;
	return sg_replace(ctx, p->l3, buf, len + (to6 ? SG_V6_LEN : SG_V4_LEN));
}

/* ICMPv4 error to ICMPv6 error. `hairpin`: it was an ICMPv6 error a moment ago (RFC 7757 4.2.2). */
SG_GLOBAL int sg_icmp_error46(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w, int hairpin)
{
	struct sg_icmp_desk *d = sg_icmp_desk();
	struct sg_work *in = sg_work(1);
	__u8 *buf = sg_scratch_buf();
	const struct sg_nat_gw *gw;
	struct sg_icmp_parts *a;
	struct sg_pkt *p, *q;
	__u64 sum = 0;
	__u32 room, at;
	int reason, len;

	if (!t || !w || !in || !buf || !d)
		return SG_DROP_STALE;
	gw = sg_gw_of(t, w);
	p = &w->pkt;
	q = &in->pkt;
	a = &d->parts;
	a->outer_len = SG_V6_LEN;
	a->unit = 8;
	a->limit = SG_ICMP6_MAX - SG_V6_LEN;
	a->length_shift = 24;
	if (sg_csum_packet(ctx, p->l4, p->end - p->l4, &sum) || sg_csum_fold(sum) != 0xffff)
		return SG_DROP_ICMP_CSUM;
	if (sg_load(ctx, p->l4, d->icmp, sizeof(d->icmp)))
		return SG_DROP_TRUNCATED;
	reason = sg_hop_find(ctx, &w->hop, &w->src.addr, &w->dst.addr, false, IPPROTO_ICMPV6, p->tos, 0);
	if (reason)
		return reason;
	if (w->src_unmapped) {
		reason = sg_router_source(w, gw, false);
		if (reason)
			return reason;
	}
	sg_icmp_split(a, p, d->icmp[5], 4,
		      d->icmp[0] == SG_ICMP4_UNREACH || d->icmp[0] == SG_ICMP4_TIME || d->icmp[0] == SG_ICMP4_PARAM);
	__builtin_memset(in, 0, sizeof(*in));
	q->l3 = p->l4 + SG_ICMP_LEN;
	/* A type without equivalent is the better reason, whatever is inside. */
	reason = sg_icmp_map46(&d->map, d->icmp[0], d->icmp[1], bpf_ntohl(*(__be32 *)(d->icmp + 4)), 0, 65515, w->hop.mtu);
	if (reason)
		return reason;
	if (a->to - q->l3 < SG_V4_LEN || sg_load(ctx, q->l3, d->ip, sizeof(d->ip)) || d->ip[0] >> 4 != 4)
		return SG_DROP_ICMP_INNER;
	sg_parse_ip4(q, (struct iphdr *)d->ip);
	sum = 0;
	if (q->l4 < q->l3 + SG_V4_LEN || q->l4 > a->to || q->end < q->l4 || sg_csum_packet(ctx, q->l3, q->l4 - q->l3, &sum) ||
	    sg_csum_fold(sum) != 0xffff)
		return SG_DROP_ICMP_INNER;
	sg_icmp_map46(&d->map, d->icmp[0], d->icmp[1], bpf_ntohl(*(__be32 *)(d->icmp + 4)), q->end - q->l3,
		      hairpin ? 65515 : sg_way_back_mtu(ctx, in, true), w->hop.mtu);
	in->src.gw = in->dst.gw = w->dst.gw;
	if (w->way)
		sg_st_inner(w, in, gw);
	else if (!sg_nat_src4(t, q->saddr.w[3], &in->src))
		return SG_DROP_ICMP_INNER;
	if (w->way)
		; /* the engine has told both */
	else if (hairpin)
		in->dst.addr = sg_rfc6052_embed(gw, q->daddr.w[3]);
	else if (!sg_nat_src4(t, q->daddr.w[3], &in->dst))
		return SG_DROP_ICMP_INNER;
	if (!w->way && (sg_wkp_refuses(gw, &in->src, q->saddr.w[3]) || sg_wkp_refuses(gw, &in->dst, q->daddr.w[3])))
		return SG_DROP_WKP_NONGLOBAL;
	sg_zero_buf(buf);
	q->ttl++; /* taken off again below: RFC 7915 4.3 leaves the embedded TTL alone */
	a->inner_len = sg_header6(in, gw, (struct sg_head6 *)d->h6);
	a->from = q->l4;
	len = sg_icmp_assemble(ctx, a, &d->map);
	if (len < SG_ICMP_LEN)
		return SG_DROP_TRUNCATED;
	at = SG_V6_LEN + SG_ICMP_LEN;
	__builtin_memcpy(buf + at, d->h6, SG_V6_LEN);
	if (a->inner_len > SG_V6_LEN)
		__builtin_memcpy(buf + at + SG_V6_LEN, d->h6 + SG_V6_LEN, SG_FRAG_LEN);
	room = a->to - q->l4;
	reason = sg_inner_l4(in, buf + at + (a->inner_len > SG_V6_LEN ? SG_V6_LEN + SG_FRAG_LEN : SG_V6_LEN), room,
			     sg_csum_neg((__u64)q->saddr.w[3] + q->daddr.w[3]) + sg_csum_addr(&in->src.addr) +
				     sg_csum_addr(&in->dst.addr));
	if (reason)
		return reason;
	return sg_icmp_emit(ctx, w, gw, buf, &d->map, len);
}

/* ICMPv6 error to ICMPv4 error. */
SG_GLOBAL int sg_icmp_error64(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w, int hairpin)
{
	struct sg_icmp_desk *d = sg_icmp_desk();
	struct sg_work *in = sg_work(1);
	__u8 *buf = sg_scratch_buf();
	const struct sg_nat_gw *gw;
	struct sg_pkt *p, *q;
	struct sg_icmp_parts *a;
	__u64 sum;
	int reason, len;

	if (!t || !w || !in || !buf || !d)
		return SG_DROP_STALE;
	gw = sg_gw_of(t, w);
	p = &w->pkt;
	q = &in->pkt;
	a = &d->parts;
	a->outer_len = SG_V4_LEN;
	a->inner_len = SG_V4_LEN;
	a->unit = 4;
	a->limit = SG_ICMP4_MAX - SG_V4_LEN;
	a->length_shift = 16;
	sum = sg_pseudo6(&p->saddr, &p->daddr, p->end - p->l4);
	if (sg_csum_packet(ctx, p->l4, p->end - p->l4, &sum) || sg_csum_fold(sum) != 0xffff)
		return SG_DROP_ICMP_CSUM;
	if (sg_load(ctx, p->l4, d->icmp, sizeof(d->icmp)))
		return SG_DROP_TRUNCATED;
	w->hop.mtu = 65535;
	if (hairpin) {
		a->limit = SG_ICMP6_MAX - SG_V4_LEN;
	} else {
		reason = sg_hop_find(ctx, &w->hop, &w->src.addr, &w->dst.addr, true, IPPROTO_ICMP, p->tos, 0);
		if (reason)
			return reason;
	}
	if (w->src_unmapped) {
		reason = sg_router_source(w, gw, true);
		if (reason)
			return reason;
	}
	sg_icmp_split(a, p, d->icmp[4], 8, d->icmp[0] == SG_ICMP6_UNREACH || d->icmp[0] == SG_ICMP6_TIME);
	reason = sg_icmp_map64(&d->map, d->icmp[0], d->icmp[1], bpf_ntohl(*(__be32 *)(d->icmp + 4)), false, 65535, 65535);
	if (reason)
		return reason;
	__builtin_memset(in, 0, sizeof(*in));
	q->l3 = p->l4 + SG_ICMP_LEN;
	if (a->to - q->l3 < SG_V6_LEN || sg_load(ctx, q->l3, d->ip6, sizeof(d->ip6)) || d->ip6[0] >> 4 != 6)
		return SG_DROP_ICMP_INNER;
	sg_parse_ip6(q, (struct ipv6hdr *)d->ip6);
	if (sg_is_exthdr(q->proto) && sg_parse_exthdrs(ctx, q))
		return SG_DROP_ICMP_INNER;
	if (q->l4 > a->to || q->l4 > q->end || q->segs_left || q->ext_behind_fragment)
		return SG_DROP_ICMP_INNER;
	sg_icmp_map64(&d->map, d->icmp[0], d->icmp[1], bpf_ntohl(*(__be32 *)(d->icmp + 4)), q->fragment, w->hop.mtu,
		      sg_way_back_mtu(ctx, in, false));
	in->src.gw = in->dst.gw = w->dst.gw;
	if (w->way)
		sg_st_inner(w, in, gw);
	else if (!sg_nat_src6(t, &q->saddr, &in->src) || !sg_nat_src6(t, &q->daddr, &in->dst))
		return SG_DROP_ICMP_INNER;
	if (!w->way && (sg_wkp_refuses(gw, &in->src, in->src.addr.w[3]) || sg_wkp_refuses(gw, &in->dst, in->dst.addr.w[3])))
		return SG_DROP_WKP_NONGLOBAL;
	sg_zero_buf(buf);
	q->ttl++; /* as above */
	in->seg_len = q->end - q->l4;
	sg_header4(ctx, in, gw, (struct iphdr *)d->ip);
	a->from = q->l4;
	len = sg_icmp_assemble(ctx, a, &d->map);
	if (len < SG_ICMP_LEN)
		return SG_DROP_TRUNCATED;
	__builtin_memcpy(buf + SG_V4_LEN + SG_ICMP_LEN, d->ip, sizeof(d->ip));
	reason =
		sg_inner_l4(in, buf + SG_V4_LEN + SG_ICMP_LEN + SG_V4_LEN, a->to - q->l4,
			    sg_csum_neg(sg_csum_addr(&q->saddr) + sg_csum_addr(&q->daddr)) + in->src.addr.w[3] + in->dst.addr.w[3]);
	if (reason)
		return reason;
	return sg_icmp_emit(ctx, w, gw, buf, &d->map, len);
}

/* RFC 7757 4: an error between two IPv6 hosts goes through both translations, with one hop taken off. */
SG_INLINE enum sg_reason sg_icmp_hairpin(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w, const struct sg_match *back)
{
	struct sg_addr source = w->src.addr;
	const struct sg_nat_gw *gw = sg_nat_gw(t, w->dst.gw);
	struct sg_pkt *p = &w->pkt;
	struct iphdr ip;
	enum sg_reason reason = sg_icmp_error64(ctx, t, w, 1);

	if (reason)
		return reason;
	source = w->src.addr;
	if (sg_load(ctx, p->l3, &ip, sizeof(ip)))
		return SG_DROP_TRUNCATED;
	sg_parse_ip4(p, &ip);
	p->ttl++;
	p->fragment = 0;
	w->dst = *back;
	w->src.addr = sg_rfc6052_embed(gw, source.w[3]);
	w->src.eam = 0;
	w->src_unmapped = 0;
	return sg_icmp_error46(ctx, t, w, 1);
}

SG_GLOBAL int sg_icmp_xlat(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	struct sg_match back = {};
	enum sg_reason reason, done;
	const struct sg_nat_gw *gw;
	bool to4;

	if (!t || !w)
		return SG_DROP_STALE;
	gw = sg_gw_of(t, w);
	to4 = w->pkt.version == 6;
	if (to4 && !w->way && sg_is_hairpin(t, w, &back)) {
		reason = sg_icmp_hairpin(ctx, t, w, &back);
		done = SG_OK_66;
	} else if (to4) {
		reason = sg_icmp_error64(ctx, t, w, 0);
		done = SG_OK_64;
	} else {
		reason = sg_icmp_error46(ctx, t, w, 0);
		done = SG_OK_46;
	}
	if (reason)
		return reason;
	sg_account(w, gw, ctx, to4);
	if (w->hop.local)
		done = to4 ? SG_OK_64_LOCAL : SG_OK_46_LOCAL;
	w->act = sg_hop_send(ctx, &w->hop, &done);
	return done;
}

#endif
