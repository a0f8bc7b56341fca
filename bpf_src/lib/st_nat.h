/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Stateful NAT of one packet: whose it is, what the engine says, and which writer writes it. */
#ifndef SG_ST_NAT_H
#define SG_ST_NAT_H

#include "nat.h"
#include "st_core.h"
#include "st_frag.h"
#include "st_sweep.h"

/* Later fragments wait in the slow path for their first one. */
#ifndef SG_ST_HOLD
#define SG_ST_HOLD 0
#endif
#if SG_ST_HOLD && SG_HOOK_IS_SLOW
#include "st_wait.h"
#endif

SG_INLINE bool sg_st_icmp_is_error(__u8 version, __u8 type)
{
	return version == 4 ? type == 3 || type == 4 || type == 5 || type == 11 || type == 12 : type < 128;
}

/* Ports behind `k->proto`; of ICMP the identifier. `k->wish` says that they are known. */
SG_INLINE void sg_st_peek_ports(sg_ctx *ctx, __u32 l4, struct sg_st *k)
{
	__u16 b[4];

	if (k->proto == IPPROTO_TCP || k->proto == IPPROTO_UDP) {
		if (sg_load(ctx, l4, b, 4))
			return;
		k->near_port = b[0];
		k->far_port = b[1];
		k->wish = 1;
	} else if (k->proto == IPPROTO_ICMP || k->proto == IPPROTO_ICMPV6) {
		if (sg_load(ctx, l4, b, 8))
			return;
		k->near_port = k->far_port = b[2];
		k->wish = 1;
	}
}

/* The packet embedded in an ICMP error: it went the other way. */
SG_GLOBAL int sg_st_peek_inner(sg_ctx *ctx, const struct sg_pkt *p, struct sg_st *k)
{
	__u32 at;
	struct ipv6hdr ip6;
	struct iphdr ip;
	__be16 port;

	if (!p || !k)
		return 0;
	at = p->l4 + SG_ICMP_LEN;
	if (p->version == 4) {
		if (sg_load(ctx, at, &ip, sizeof(ip)))
			return 0;
		k->near = sg_addr4(ip.daddr);
		k->far = sg_addr4(ip.saddr);
		k->proto = ip.protocol;
		if (*(__u8 *)&ip >> 4 != 4 || ip.frag_off & bpf_htons(SG_IP_OFFSET))
			return 0;
		sg_st_peek_ports(ctx, at + (*(__u8 *)&ip & 15) * 4, k);
	} else {
		if (sg_load(ctx, at, &ip6, sizeof(ip6)))
			return 0;
		__builtin_memcpy(&k->near, &ip6.daddr, 16);
		__builtin_memcpy(&k->far, &ip6.saddr, 16);
		k->proto = ip6.nexthdr;
		sg_st_peek_ports(ctx, at + SG_V6_LEN, k);
	}
	port = k->near_port;
	k->near_port = k->far_port;
	k->far_port = port;
	return 0;
}

/* Reads what says whose packet this is into `w->st`: near and far are source and destination; of an ICMP error, those of the packet embedded in
 * it, turned round. Extension headers are followed here. */
SG_INLINE int sg_st_peek(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_st *k = &w->st;
	struct sg_pkt *p = &w->pkt;
	__be32 ports;
	__u8 type;

	if (p->version == 6 && sg_is_exthdr(p->proto) && sg_parse_exthdrs(ctx, p))
		return 0;
	k->near = p->saddr;
	k->far = p->daddr;
	k->proto = p->proto;
	if (p->fragment && p->frag_off) {
		ports = (__be32)sg_st_frag_ports(p, sg_st_now());
		k->near_port = (__be16)ports;
		k->far_port = (__be16)(ports >> 16);
		k->wish = ports != 0;
		return 0;
	}
	if (p->proto == (p->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		if (sg_load(ctx, p->l4, &type, 1))
			return 0;
		if (sg_st_icmp_is_error(p->version, type)) {
			sg_st_peek_inner(ctx, p, k);
			return 0;
		}
	}
	sg_st_peek_ports(ctx, p->l4, k);
	return 0;
}

SG_INLINE bool sg_st_has(const struct sg_nat_table *t, const struct sg_pkt *p, __u32 four, __u32 six)
{
	return t->stateful & (p->version == 4 ? four : six);
}

SG_INLINE __u8 sg_st_proto(__u8 proto)
{
	return proto == IPPROTO_ICMPV6 ? IPPROTO_ICMP : proto;
}

/* Index + 1 of the service at this address and port. */
SG_INLINE __u32 sg_st_svc_at(const struct sg_addr *addr, __be16 port, __u8 proto)
{
	struct sg_st_vip key = {};
	__u32 *svc;

	key.addr = *addr;
	key.port = port;
	key.proto = proto;
	svc = bpf_map_lookup_elem(&sg_st_vip, &key);
	return svc ? *svc + 1 : 0;
}

SG_INLINE bool sg_st_is_neighbour(sg_ctx *ctx, const struct sg_pkt *p)
{
	__u8 type = 0;

	return p->version == 6 && p->ttl == 255 && !sg_load(ctx, p->l4, &type, 1) && (type == 135 || type == 136);
}

/* Whose packet is this: sets `w->way`, and in `w->st` obj and svc. */
SG_GLOBAL int sg_st_claim(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	struct sg_pkt *p;
	struct sg_st_svc *svc;
	struct sg_st_own *own;
	__u32 at;
	int gw;

	if (!t || !w)
		return false;
	p = &w->pkt;
	if (sg_st_has(t, p, SG_ST_HAS_SVC4 | SG_ST_HAS_OWN4, SG_ST_HAS_SVC6 | SG_ST_HAS_OWN6)) {
		sg_st_peek(ctx, w);
		if (sg_st_has(t, p, SG_ST_HAS_SVC4, SG_ST_HAS_SVC6) && w->st.wish) {
			at = sg_st_svc_at(&w->st.far, w->st.far_port, w->st.proto);
			svc = NULL;
			if (at) {
				at--;
				svc = bpf_map_lookup_elem(&sg_st_svcs, &at);
			}
			if (svc) {
				w->way = SG_WAY_OUT;
				w->st.svc = (__u16)(at + 1);
				w->st.obj = svc->obj;
				return true;
			}
		}
		if (sg_st_has(t, p, SG_ST_HAS_OWN4, SG_ST_HAS_OWN6)) {
			own = sg_st_own_of(&p->daddr);
			/* Whoever has the address answers for it: neighbours ask it directly, too (RFC 4861 7.3.3). */
			if (own && !(p->proto == IPPROTO_ICMPV6 && sg_st_is_neighbour(ctx, p))) {
				w->way = SG_WAY_IN;
				w->st.obj = own->obj;
				return true;
			}
		}
	}
	if (p->version != 6 || !(t->stateful & SG_ST_HAS_GW))
		return false;
	gw = sg_nat_prefix6(t, &p->daddr);
	if (gw < 0 || !(sg_nat_gw(t, gw)->flags & SG_GW_STATEFUL))
		return false;
	w->way = SG_WAY_OUT;
	w->st.obj = sg_nat_gw(t, gw)->obj;
	return true;
}

SG_INLINE enum sg_reason sg_st_unreachable(struct sg_work *w, enum sg_reason reason, __u8 code4, __u8 code6)
{
	return w->pkt.version == 4 ? sg_owe(w, reason, SG_ICMP4_UNREACH, code4, 0) : sg_owe(w, reason, SG_ICMP6_UNREACH, code6, 0);
}

/* What a refused flow's sender is told: RFC 6146 3.5.1.1 (address unreachable). */
SG_INLINE enum sg_reason sg_st_refuse(struct sg_work *w, const struct sg_nat_gw *gw, int reason)
{
	switch (reason) {
	case SG_DROP_ST_FULL:
		return gw->flags & SG_GW_ICMP_QUIET ? SG_DROP_ST_FULL : sg_st_unreachable(w, SG_DROP_ST_FULL, 1, 3);
	case SG_DROP_ST_NO_PORT:
		return gw->flags & SG_GW_ICMP_QUIET ? SG_DROP_ST_NO_PORT : sg_st_unreachable(w, SG_DROP_ST_NO_PORT, 1, 3);
	case SG_DROP_ST_CLIENT:
		return gw->flags & SG_GW_ICMP_QUIET ? SG_DROP_ST_CLIENT : sg_st_unreachable(w, SG_DROP_ST_CLIENT, 13, 1);
	case SG_DROP_ST_BACKEND:
		return gw->flags & SG_GW_ICMP_QUIET ? SG_DROP_ST_BACKEND : sg_st_unreachable(w, SG_DROP_ST_BACKEND, 1, 3);
	case SG_DROP_LB_RATE:
		return SG_DROP_LB_RATE;
	case SG_DROP_LB_NO_BACKEND:
		return SG_DROP_LB_NO_BACKEND;
	case SG_DROP_ST_NO_STATE:
		return SG_DROP_ST_NO_STATE;
	case SG_DROP_ST_FILTERED:
		return SG_DROP_ST_FILTERED;
	case SG_DROP_ST_SYN:
		return SG_DROP_ST_SYN;
	case SG_DROP_ST_HAIRPIN:
		return sg_refuse(w, gw, SG_DROP_ST_HAIRPIN);
	default:
		return SG_DROP_STALE;
	}
}

#if SG_ST_BALANCED
#include "lb_nat.h"
#endif

/* Asks the engine from inside; makes a session where there is none. */
SG_INLINE int sg_st_ask_out(sg_ctx *ctx __attribute__((unused)), struct sg_st *q)
{
	int reason = sg_st_out(q);

#if SG_ST_BALANCED
	if (reason >= SG_ST_OPEN && q->vport) {
		int refused = sg_lb_pick(ctx, q);

		if (refused)
			return refused;
	}
#endif
	if (reason >= SG_ST_OPEN) {
		sg_st_wind(q->now);
		reason = sg_st_open(q, reason);
		if (unlikely(reason == SG_ST_OPEN_AGAIN)) {
			struct sg_st_sess *s = sg_st_sess_of(q->evict - 1);

			if (s && sg_st_done(s, q->now))
				sg_st_end(q->evict - 1);
			q->evict = 0;
			reason = sg_st_open(q, SG_ST_OPEN);
			if (reason == SG_ST_OPEN_AGAIN) /* another CPU was faster, twice */
				reason = SG_DROP_ST_NO_PORT;
		}
	}
	return reason;
}

/* An IPv4 address as the other side of this object knows it. */
SG_INLINE struct sg_addr sg_st_embed(const struct sg_nat_gw *gw, const struct sg_addr *a)
{
	return sg_is_v4(a) && gw->flags & SG_GW_PREFIX ? sg_rfc6052_embed(gw, a->w[3]) : *a;
}

SG_INLINE void sg_st_renumber(struct sg_work *w, __be16 sport, __be16 dport, __be16 id)
{
	struct sg_l4 *l = &w->l4;

	l->renumber = 1;
	if (w->st.proto == IPPROTO_ICMP)
		l->new_id = id;
	else
		l->new_ports = sport | ((__u32)dport << 16);
	/* Either takes part in one sum. */
	if (w->st.proto != IPPROTO_ICMP)
		l->new_id = l->id;
	else
		l->new_ports = l->ports;
}

/* From client to client by a pool address (RFC 6146 3.8): what has just been made outbound comes in at once. */
SG_INLINE int sg_st_hairpin(struct sg_work *w, struct sg_st_own *own, const struct sg_st_obj *obj)
{
	struct sg_st *q = &w->st;
	struct sg_addr from = q->to;
	__be16 from_port = q->to_port;
	int reason;

	if (!(obj->flags & SG_ST_HAIRPIN))
		return SG_DROP_ST_HAIRPIN;
	q->near = q->far;
	q->near_port = q->far_port;
	q->far = from;
	q->far_port = from_port;
	reason = sg_st_in(q, own);
	if (reason)
		return reason;
	w->src.addr = sg_st_embed(&obj->gw, &from);
	w->dst.addr = q->to;
	sg_st_renumber(w, from_port, q->to_port, q->to_port);
	SG_ST_COUNT(q->obj, hairpin);
	return 0;
}

/* The packet's question, from what was parsed. */
SG_INLINE void sg_st_question(struct sg_work *w, const struct sg_nat_gw *gw)
{
	struct sg_st *q = &w->st;
	struct sg_pkt *p = &w->pkt;
	__be16 sport = (__be16)w->l4.ports, dport = (__be16)(w->l4.ports >> 16);

	q->wish = 0;
	q->proto = sg_st_proto(p->proto);
	q->tcp = w->l4.tcp;
	q->now = sg_st_now();
	q->unseen = p->frag_off != 0;
	if (q->proto == IPPROTO_ICMP)
		sport = dport = w->l4.id;
	if (w->way == SG_WAY_OUT) {
		q->near = p->saddr;
		q->near_port = sport;
		q->far = p->daddr;
		if (!q->svc && p->version == 6 && gw->flags & SG_GW_PREFIX && sg_in_prefix(gw, &p->daddr))
			q->far = sg_addr4(sg_rfc6052_extract(&p->daddr, gw->prefix_len));
		q->far_port = q->proto == IPPROTO_ICMP ? 0 : dport;
	} else {
		q->near = p->daddr;
		q->near_port = dport;
		q->far = p->saddr;
		q->far_port = q->proto == IPPROTO_ICMP ? 0 : sport;
	}
}

/* What is refused before anybody asks for state. */
SG_INLINE enum sg_reason sg_st_check(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw)
{
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason = p->version == 6 ? sg_valid6(ctx, w, gw) : sg_valid4(ctx, w);
	struct sg_match dst = {};

	if (unlikely(reason))
		return reason;
	if (w->way == SG_WAY_OUT && p->version == 6) {
		/* RFC 6146 3.5: or translated packets could go round for ever. */
		if (unlikely(sg_in_prefix(gw, &p->saddr) && !w->l4.error))
			return SG_DROP_SRC_ILLEGAL;
		if (sg_in_prefix(gw, &p->daddr)) {
			dst.addr.w[3] = sg_rfc6052_extract(&p->daddr, gw->prefix_len);
			if (unlikely(sg_v4_illegal_source(dst.addr.w[3])))
				return sg_refuse(w, gw, SG_DROP_MAPPING);
			if (unlikely(sg_wkp_refuses(gw, &dst, dst.addr.w[3])))
				return sg_refuse(w, gw, SG_DROP_WKP_NONGLOBAL);
		}
	}
	if (unlikely(p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP &&
		     p->proto != (p->version == 6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)))
		return gw->flags & SG_GW_ICMP_QUIET ? SG_DROP_ST_PROTO : sg_st_unreachable(w, SG_DROP_ST_PROTO, 2, 4);
	if (unlikely(p->ttl <= 1))
		return p->version == 4 ? sg_owe(w, SG_DROP_TTL, SG_ICMP4_TIME, 0, 0) : sg_owe(w, SG_DROP_TTL, SG_ICMP6_TIME, 0, 0);
	if (unlikely(p->frag_off + (p->end - p->l4) > 65535 - SG_V4_LEN && !sg_gso_size(ctx) && p->fragment))
		return SG_DROP_FRAGMENT_SIZE;
	sg_segment(ctx, w);
	return 0;
}

/* What the slow path has to do, as far as it can be told before state is touched. */
SG_INLINE enum sg_reason sg_st_slow(struct sg_work *w, const struct sg_st_obj *obj)
{
	const struct sg_nat_gw *gw = &obj->gw;
	struct sg_pkt *p = &w->pkt;
	struct sg_l4 *l = &w->l4;
	bool v4 = p->version == 4;

	if (p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6) {
		if (l->type == (v4 ? SG_ICMP4_ECHO : SG_ICMP6_ECHO) || l->type == (v4 ? SG_ICMP4_ECHOREPLY : SG_ICMP6_ECHOREPLY))
			return 0;
		return l->error && !(v4 && (l->type == 4 || l->type == 5)) ? SG_SLOW_REWRITE : SG_DROP_ICMP_TYPE;
	}
	/* RFC 6146 3.4: computed, but fragments are not put together for it. */
	if (unlikely(v4 && p->proto == IPPROTO_UDP && l->zero && !(obj->flags & SG_ST_SAME))) {
		if (p->fragment || l->zero == SG_UDP_ZERO_BAD)
			return SG_DROP_UDP_ZERO;
		if (!SG_HOOK_IS_SLOW)
			return SG_SLOW_REWRITE;
	}
	if (unlikely(l->syn && gw->flags & SG_GW_MSS_CLAMP) && !SG_HOOK_IS_SLOW)
		return SG_SLOW_REWRITE;
	return 0;
}

/* Remembers the ports of a first fragment, finds those of a later one. */
SG_INLINE enum sg_reason sg_st_fragment(struct sg_work *w, const struct sg_st_obj *obj)
{
	struct sg_pkt *p = &w->pkt;
	__u32 now = sg_st_now();
	int waiting;

	if (likely(!p->fragment || p->atomic))
		return 0;
	if (!p->frag_off) {
		waiting = sg_st_frag_note(p, w->l4.ports, now, obj->life[SG_LIFE_FRAGMENT]);
		return SG_ST_HOLD && !SG_HOOK_IS_SLOW && waiting ? SG_SLOW_REWRITE : 0;
	}
	w->l4.ports = (__be32)sg_st_frag_ports(p, now);
	if (w->l4.ports)
		return 0;
	if (SG_ST_HOLD)
		return SG_HOOK_IS_SLOW ? SG_DROP_ST_FRAGMENT : SG_SLOW_REWRITE;
	SG_ST_COUNT(w->st.obj, fragments);
	return SG_DROP_ST_FRAGMENT;
}

/* New addresses and ports, from the engine. */
SG_INLINE int sg_st_decide(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	struct sg_st *q = &w->st;
	struct sg_st_own *own;
	struct sg_st_obj *obj;
	int reason;

	if (w->way == SG_WAY_OUT) {
		reason = sg_st_ask_out(ctx, q);
		if (unlikely(reason))
			return reason;
		w->src.addr = q->to;
		w->dst.addr = q->far;
		sg_st_renumber(w, q->to_port, q->far_port, q->to_port);
		if (unlikely(t->stateful & (sg_is_v4(&q->far) ? SG_ST_HAS_OWN4 : SG_ST_HAS_OWN6))) {
			own = sg_st_own_of(&q->far);
			obj = sg_st_obj_of(q->obj);
			if (unlikely(own && obj))
				return sg_st_hairpin(w, own, obj);
		}
		return 0;
	}
	own = sg_st_own_of(&q->near);
	if (!own)
		return SG_DROP_STALE;
	reason = sg_st_in(q, own);
	if (unlikely(reason)) {
		if (reason == SG_DROP_ST_NO_STATE) {
			if (own->flags & SG_OWN_HOST)
				return SG_PASS_NO_MATCH;
			SG_ST_COUNT(own->obj, no_state);
		}
		return reason;
	}
	obj = sg_st_obj_of(q->obj);
	if (!obj)
		return SG_DROP_STALE;
	w->dst.addr = q->to;
	w->src.addr = sg_is_v4(&q->to) ? q->far : sg_st_embed(&obj->gw, &q->far);
	sg_st_renumber(w, q->far_port, q->to_port, q->to_port);
	return 0;
}

SG_INLINE enum sg_reason sg_go66(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason = sg_hop_find(ctx, &w->hop, &w->src.addr, &w->dst.addr, false, p->proto, p->tos, w->l4.ports);
	__u32 jumbo;

	if (reason)
		return reason;
	/* Segments of a super-packet of more than 64 KB have no jumbo header. */
	jumbo = p->end - p->l4 > 65535 && p->l4 - p->l3 > SG_V6_LEN ? SG_JUMBO_LEN : 0;
	if (p->l4 - p->l3 - jumbo + w->seg_len > w->hop.mtu)
		return sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP6_TOO_BIG, 0, w->hop.mtu);
	return sg_write66(ctx, w, &w->src.addr, &w->dst.addr);
}

SG_INLINE enum sg_reason sg_write44(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	__be32 pair[2] = {w->src.addr.w[3], w->dst.addr.w[3]};
	__u64 diff = sg_csum_neg((__u64)p->saddr.w[3] + p->daddr.w[3]) + pair[0] + pair[1];
	struct iphdr ip;

	if (sg_load(ctx, p->l3, &ip, sizeof(ip)))
		return SG_DROP_TRUNCATED;
	/* TTL - 1: the word of TTL and protocol loses 1 in its first byte. */
	ip.check = sg_csum_update(ip.check, diff + sg_csum_neg(ip.ttl) + (__u8)(ip.ttl - 1));
	ip.ttl--;
	ip.saddr = pair[0];
	ip.daddr = pair[1];
	if (sg_store(ctx, p->l3 + offsetof(struct iphdr, ttl), &ip.ttl, sizeof(ip) - offsetof(struct iphdr, ttl)))
		return SG_DROP_RESIZE;
	if (!w->l4.csum_off)
		return 0;
	if (p->proto == IPPROTO_ICMP)
		return sg_store_echo(ctx, p->l4, &w->l4, w->l4.type, sg_number_diff(&w->l4)) ? SG_DROP_RESIZE : 0;
	return sg_store_l4(ctx, p->l4, &w->l4, p->proto == IPPROTO_UDP, diff);
}

SG_INLINE enum sg_reason sg_go44(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason = sg_hop_find(ctx, &w->hop, &w->src.addr, &w->dst.addr, true, p->proto, p->tos, w->l4.ports);

	if (reason)
		return reason;
	if (p->l4 - p->l3 + w->seg_len > w->hop.mtu) {
		/* A tunnel over IPv4 is fragmented itself, one over IPv6 is not. */
		if (p->df || (w->hop.home && !sg_eg_node4(&w->hop.node)))
			return sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP4_UNREACH, 4, w->hop.mtu);
		w->hop.local = true; /* the kernel forwards, and fragments */
	}
	return sg_write44(ctx, w);
}

SG_INLINE void sg_st_account(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw)
{
	__u32 segs = sg_segments(ctx), bytes = w->pkt.end - w->pkt.l3;
	bool out = w->way == SG_WAY_OUT;
	struct sg_st_sess *s = w->st.sess ? sg_st_sess_of(w->st.sess - 1) : NULL;
	struct sg_st_stat *stat = sg_st_stat_of(w->st.obj);

	if (stat)
		sg_count(out ? &stat->out : &stat->in, segs, bytes);
	if (s)
		sg_count(out ? &s->out : &s->in, segs, bytes);
	sg_account(w, gw, ctx, w->pkt.version == 6);
}

/* An ICMP error is the session's whose packet it carries; it changes none (RFC 5508 3, 6; RFC 6146 3.5.3). Fills the outer addresses, and leaves
 * the engine's answer for the embedded packet in `w->st`. */
SG_INLINE int sg_st_error(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_st *q = &w->st;
	struct sg_addr source;
	struct sg_st_own *own;
	struct sg_st_obj *obj;
	__be16 port;
	int reason;

	q->wish = 0;
	sg_st_peek_inner(ctx, &w->pkt, q);
	obj = sg_st_obj_of(q->obj);
	if (!q->wish || !obj)
		return SG_DROP_ICMP_INNER;
	q->proto = sg_st_proto(q->proto);
	q->wish = 0;
	q->unseen = 1;
	q->now = sg_st_now();
	/* As the embedded packet has them. */
	w->l4.ports = q->far_port | ((__u32)q->near_port << 16);
	w->l4.id = q->near_port;
	if (q->proto == IPPROTO_ICMP)
		w->l4.ports = 0;
	else
		w->l4.id = 0;
	if (w->way == SG_WAY_OUT) {
		if (obj->gw.flags & SG_GW_PREFIX && sg_in_prefix(&obj->gw, &q->far))
			q->far = sg_addr4(sg_rfc6052_extract(&q->far, obj->gw.prefix_len));
		if (q->proto == IPPROTO_ICMP)
			q->far_port = 0;
		reason = sg_st_out(q);
		if (reason)
			return SG_DROP_ICMP_INNER;
		w->src.addr = q->to;
		w->dst.addr = q->far;
		return 0;
	}
	source = q->near;
	q->near = q->far;
	q->far = source;
	port = q->near_port;
	q->near_port = q->far_port;
	q->far_port = q->proto == IPPROTO_ICMP ? 0 : port;
	own = sg_st_own_of(&q->near);
	if (!own)
		return SG_DROP_ICMP_INNER;
	reason = sg_st_in(q, own);
	if (reason)
		return reason == SG_DROP_ST_NO_STATE && own->flags & SG_OWN_HOST ? SG_PASS_NO_MATCH : SG_DROP_ICMP_INNER;
	obj = sg_st_obj_of(q->obj);
	if (!obj)
		return SG_DROP_STALE;
	w->dst.addr = q->to;
	w->src.addr = sg_is_v4(&q->to) ? w->pkt.saddr : sg_st_embed(&obj->gw, &w->pkt.saddr);
	w->src_unmapped = sg_is_v4(&w->src.addr) != sg_is_v4(&q->to);
	return 0;
}

/* Everything before state is asked: what is left is decided by it alone. */
SG_GLOBAL int sg_st_ready(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_st_obj *obj = w ? sg_st_obj_of(w->st.obj) : NULL;
	enum sg_reason reason;

	if (!w || !obj)
		return SG_DROP_STALE;
	reason = sg_st_check(ctx, w, &obj->gw);
	if (!reason)
		reason = sg_st_slow(w, obj);
	if (!reason)
		reason = sg_st_fragment(w, obj);
	if (!reason)
		sg_st_question(w, &obj->gw);
	return reason;
}

/* Writes and sends a packet whose new addresses are known. */
SG_GLOBAL int sg_st_write(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_st_obj *obj = w ? sg_st_obj_of(w->st.obj) : NULL;
	const struct sg_nat_gw *gw;
	enum sg_reason reason, done;
	bool from6, to6;

	if (!w || !obj)
		return SG_DROP_STALE;
	gw = &obj->gw;
	from6 = w->pkt.version == 6;
	to6 = !sg_is_v4(&w->dst.addr);
	if (from6 && to6) {
		reason = sg_go66(ctx, w);
		done = SG_OK_66;
	} else if (from6) {
		reason = sg_go64(ctx, w, gw);
		done = w->hop.local ? SG_OK_64_LOCAL : SG_OK_64;
	} else if (to6) {
		reason = sg_go46(ctx, w, gw);
		done = w->hop.local ? SG_OK_46_LOCAL : SG_OK_46;
	} else {
		reason = sg_go44(ctx, w);
		done = SG_OK_44;
	}
	if (unlikely(reason))
		return reason;
	sg_st_account(ctx, w, gw);
	w->act = sg_hop_send(ctx, &w->hop, &done);
	return done;
}

/* What the engine's refusal means for the packet. */
SG_GLOBAL int sg_st_refusal(struct sg_work *w, int answer)
{
	struct sg_st_obj *obj = w ? sg_st_obj_of(w->st.obj) : NULL;

	if (!w || !obj)
		return SG_DROP_STALE;
	return sg_st_refuse(w, &obj->gw, answer);
}

/* Everything of a packet that sg_st_claim() has claimed. SG_PASS_NO_MATCH: it is the host's after all. */
SG_INLINE enum sg_reason sg_st_nat(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	int answer = sg_st_ready(ctx, w);

	if (unlikely(answer))
		return answer;
#if SG_ST_HOLD && SG_HOOK_IS_SLOW
	if (w->pkt.fragment && !w->pkt.atomic && !w->pkt.frag_off && sg_st_wait_end(ctx, w))
		return SG_DROP_RESIZE;
#endif
	answer = sg_st_decide(ctx, t, w);
	if (unlikely(w->st.evict) && sg_st_end(w->st.evict - 1))
		SG_ST_COUNT(w->st.obj, half_out);
	if (unlikely(answer == SG_PASS_NO_MATCH))
		return SG_PASS_NO_MATCH;
	if (unlikely(answer))
		return sg_st_refusal(w, answer);
	return sg_st_write(ctx, w);
}

#endif
