/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a packet must be before anybody asks for state, and what its sender is told where it is refused. */
#ifndef SG_ST_CHECK_H
#define SG_ST_CHECK_H

#include "st_claim.h"

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

/* What the engine's refusal means for the packet. */
SG_GLOBAL int sg_st_refusal(struct sg_work *w, int answer)
{
	struct sg_st_obj *obj = w ? sg_st_obj_of(w->st.obj) : NULL;

	if (!w || !obj)
		return SG_DROP_STALE;
	return sg_st_refuse(w, &obj->gw, answer);
}

#endif
