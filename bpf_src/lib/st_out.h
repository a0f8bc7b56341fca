/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The engine asked from inside: what a client's packet becomes. */
#ifndef SG_ST_OUT_H
#define SG_ST_OUT_H

#include "st_find.h"
#include "st_open.h"

/* Whether the program balances, too: balancers in mode NAT have their sessions here. */
#ifndef SG_ST_BALANCED
#define SG_ST_BALANCED 0
#endif
#if SG_ST_BALANCED
#include "lb_maps.h"
#endif

/* A client that uses its port again while its last connection to the service still closes: the new one may be another backend's, and the old
 * backend may be drained. Where the client itself names the remote, RFC 6146 3.5.2.2 keeps the session. */
SG_INLINE bool sg_st_over(const struct sg_st_sess *s, const struct sg_st *q)
{
	return unlikely(q->svc && q->proto == IPPROTO_TCP && !q->unseen &&
			(q->tcp & (SG_TCP_SYN | SG_TCP_ACK | SG_TCP_RST)) == SG_TCP_SYN && s->state >= SG_ST_IN_FIN &&
			s->state <= SG_ST_TRANS);
}

#if SG_ST_BALANCED
/* Whether a balancer's backend still keeps its flows; its id may be another's by now. */
SG_INLINE bool sg_st_kept(const struct sg_st_sess *s, struct sg_st *q)
{
	const struct sg_lb_backend *b;
	__u32 id = s->backend;

	if (!q->vport)
		return true;
	q->backend = s->backend;
	b = bpf_map_lookup_elem(&sg_lb_backend, &id);
	return b && b->kind == SG_LB_NAT && !(b->flags & SG_LB_ENDED) && sg_st_same(&b->addr, &s->remote);
}
#else
SG_INLINE bool sg_st_kept(const struct sg_st_sess *s __attribute__((unused)), const struct sg_st *q __attribute__((unused)))
{
	return true;
}
#endif

/* From inside. In: near, near_port, far, far_port, proto, tcp, obj, svc, now, unseen; the rest is 0. Out: to and to_port, the new source;
 * far and far_port, the new destination; map, sess. Returns 0, or why the packet is dropped. */
SG_GLOBAL int sg_st_out(struct sg_st *q)
{
	struct sg_st_sess *s = NULL;
	struct sg_st_obj *obj;
	struct sg_st_map *m;
	__u32 last;

	if (!q)
		return SG_DROP_STALE;
	m = sg_st_map_find(q);
	obj = sg_st_obj_of(q->obj);
	if (!obj)
		return SG_DROP_STALE;
	if (m && q->svc) {
		/* A client of a service has one mapping, and one session, for each; that knows the backend. */
		last = m->last;
		s = last ? sg_st_sess_of(last - 1) : NULL;
		if (s && (s->map != q->map - 1 || s->state == SG_ST_FREE))
			s = NULL;
		if (s) {
			q->sess = last;
			q->far = s->remote;
			q->far_port = s->rport;
		}
	} else if (m) {
		s = sg_st_sess_find(q, m);
	}
	if (likely(s && sg_st_alive(s, obj, q->now) && sg_st_kept(s, q))) {
		if (sg_st_over(s, q))
			return SG_ST_OPEN_ANEW;
		sg_st_step_told(s, obj, q, true);
		sg_st_answer_out(q, m);
		return 0;
	}
	if (s) {
		/* Ended, and its mapping with it, where this was the last. */
		sg_st_end(q->sess - 1);
		q->sess = 0;
		q->map = 0;
		m = sg_st_map_find(q);
	}
	if (q->unseen) {
		/* What came in through a mapping without a session may be answered by an error. */
		if (m && !q->svc && !(obj->flags & SG_ST_ADF)) {
			sg_st_answer_out(q, m);
			return 0;
		}
		SG_ST_COUNT(q->obj, no_state);
		return SG_DROP_ST_NO_STATE;
	}
	if (q->proto == IPPROTO_TCP && (q->tcp & (SG_TCP_SYN | SG_TCP_RST)) != SG_TCP_SYN) {
		/* RFC 6146 3.5.2.2, CLOSED: forwarded where a mapping exists. */
		if (m && !q->svc) {
			sg_st_answer_out(q, m);
			return 0;
		}
		SG_ST_COUNT(q->obj, no_state);
		return SG_DROP_ST_NO_STATE;
	}
	return m ? SG_ST_OPEN_KNOWN : SG_ST_OPEN;
}

#endif
