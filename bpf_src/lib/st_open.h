/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* New sessions from inside: limits, backend, mapping, session. */
#ifndef SG_ST_OPEN_H
#define SG_ST_OPEN_H

#include "st_sess.h"
#include "st_state.h"
#include "st_syn.h"

SG_INLINE void sg_st_answer_out(struct sg_st *q, const struct sg_st_map *m)
{
	q->to = m->out;
	q->to_port = m->out_port;
}

/* A service's backend for a new session. */
SG_INLINE bool sg_st_backend(struct sg_st *q)
{
	__u32 svc = q->svc - 1, zero = 0, hash, at;
	void *inner = bpf_map_lookup_elem(&sg_st_table, &svc);
	struct sg_st_table *t = inner ? bpf_map_lookup_elem(inner, &zero) : NULL;

	if (!t || !t->n)
		return false;
	hash = sg_st_hash(&q->near, q->near_port);
	hash %= SG_ST_RING;
	sg_opaque(hash);
	if (hash >= SG_ST_RING)
		return false;
	at = t->ring[hash] & (SG_ST_MAX_BACKEND - 1);
	sg_opaque(at);
	at &= SG_ST_MAX_BACKEND - 1;
	if (at >= t->n)
		return false;
	q->far = t->backend[at].addr;
	q->far_port = q->proto == IPPROTO_ICMP ? 0 : t->backend[at].port;
	return true;
}

SG_INLINE int sg_st_refused(const struct sg_st *q, int reason)
{
	if (reason == SG_ST_OPEN_AGAIN)
		return SG_ST_OPEN_AGAIN;
	if (reason == SG_DROP_ST_NO_PORT) {
		SG_ST_COUNT(q->obj, no_port);
		return SG_DROP_ST_NO_PORT;
	}
	if (reason == SG_DROP_ST_CLIENT)
		return SG_DROP_ST_CLIENT;
	SG_ST_COUNT(q->obj, full);
	return SG_DROP_ST_FULL;
}

/* A closing session of a service begins anew: same client, same backend, same ports, so nobody outside can tell it from two connections without
 * a gateway. False where another CPU was first. */
SG_INLINE bool sg_st_renew(struct sg_st *q, struct sg_st_sess *s, const struct sg_st_obj *obj)
{
	__u32 state = s->state;

	if (state < SG_ST_IN_FIN || state > SG_ST_TRANS || __sync_val_compare_and_swap(&s->state, state, SG_ST_OUT_INIT) != state)
		return false;
	s->backend = q->backend;
	s->reset = 0;
	s->created = q->now;
	s->expires = q->now + obj->life[SG_LIFE_TCP_TRANS] + 1;
	__builtin_memset(&s->out, 0, sizeof(s->out));
	__builtin_memset(&s->in, 0, sizeof(s->in));
	q->evict = sg_st_half_put(q->sess - 1, q->obj);
	SG_ST_COUNT(q->obj, sessions);
	return true;
}

/* Whether a service's new session may have the place of its client's old one, which ends otherwise. Where clients have limits, they are asked. */
SG_INLINE bool sg_st_anew(struct sg_st *q, const struct sg_st_obj *obj)
{
	struct sg_st_sess *s = q->sess ? sg_st_sess_of(q->sess - 1) : NULL;
	struct sg_st_map *m = q->map ? sg_st_map_of(q->map - 1) : NULL;

	if (s && m && !(obj->flags & SG_ST_CLIENTS) && s->rport == q->far_port && sg_st_same(&s->remote, &q->far) &&
	    sg_st_renew(q, s, obj)) {
		sg_st_answer_out(q, m);
		return true;
	}
	if (q->sess)
		sg_st_end(q->sess - 1);
	q->sess = 0;
	q->map = 0;
	return false;
}

/* A new session from inside, on mapping `q->map` or a new one; `how` is what sg_st_out() said. */
SG_GLOBAL int sg_st_open(struct sg_st *q, __u32 how)
{
	bool known = how == SG_ST_OPEN_KNOWN;
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	struct sg_st_map *m = NULL;
	__u32 state;
	int reason;

	if (!q)
		return SG_DROP_STALE;
	obj = sg_st_obj_of(q->obj);
	use = sg_st_use_of(q->obj);
	if (!obj || !use || !(obj->flags & SG_ST_LIVE))
		return SG_DROP_STALE;
	state = q->proto == IPPROTO_TCP ? SG_ST_OUT_INIT : q->proto == IPPROTO_UDP ? SG_ST_UDP : SG_ST_ICMP;
	if (q->svc && !q->vport && !sg_st_backend(q))
		return SG_DROP_ST_BACKEND;
	if (how == SG_ST_OPEN_ANEW && sg_st_anew(q, obj))
		return 0;
	if (use->sessions - use->half >= obj->max_sessions)
		return sg_st_refused(q, SG_DROP_ST_FULL);
	reason = sg_st_admit(&q->near, q->obj, !known);
	if (reason)
		return sg_st_refused(q, reason);
	if (known) {
		m = sg_st_map_of(q->map - 1);
		if (!m || !sg_st_hold(m)) {
			sg_st_client_less(obj, q->obj, &q->near, false);
			return sg_st_refused(q, SG_DROP_ST_FULL);
		}
	} else {
		if (q->proto == IPPROTO_TCP)
			sg_st_syn_recall(q);
		reason = sg_st_map_new(q);
		if (reason) {
			sg_st_client_less(obj, q->obj, &q->near, false);
			return sg_st_refused(q, reason);
		}
		m = sg_st_map_of(q->map - 1);
	}
	reason = sg_st_sess_new(q, state, sg_st_life(obj, state));
	if (reason)
		return sg_st_refused(q, reason);
	if (!m)
		return SG_DROP_STALE;
	sg_st_answer_out(q, m);
	return 0;
}

#endif
