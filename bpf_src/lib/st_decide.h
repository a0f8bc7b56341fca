/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* New addresses and ports of a packet, and of an ICMP error, from the engine. */
#ifndef SG_ST_DECIDE_H
#define SG_ST_DECIDE_H

#include "st_claim.h"
#include "st_in.h"
#include "st_out.h"
#include "st_sweep.h"

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
	own = q->kept ? NULL : sg_st_own_of(&q->near);
	if (!own && !q->kept)
		return SG_DROP_STALE;
	reason = sg_st_in(q, own);
	if (unlikely(reason)) {
		if (reason == SG_DROP_ST_NO_STATE) {
			if (!own || own->flags & SG_OWN_HOST)
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
	own = q->kept ? NULL : sg_st_own_of(&q->near);
	if (!own && !q->kept)
		return SG_DROP_ICMP_INNER;
	reason = sg_st_in(q, own);
	if (reason)
		return reason == SG_DROP_ST_NO_STATE && (!own || own->flags & SG_OWN_HOST) ? SG_PASS_NO_MATCH : SG_DROP_ICMP_INNER;
	obj = sg_st_obj_of(q->obj);
	if (!obj)
		return SG_DROP_STALE;
	w->dst.addr = q->to;
	w->src.addr = sg_is_v4(&q->to) ? w->pkt.saddr : sg_st_embed(&obj->gw, &w->pkt.saddr);
	w->src_unmapped = sg_is_v4(&w->src.addr) != sg_is_v4(&q->to);
	return 0;
}

#endif
