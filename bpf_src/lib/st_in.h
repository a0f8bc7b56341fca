/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The engine asked from outside: whose client a packet to a pool's address is for. */
#ifndef SG_ST_IN_H
#define SG_ST_IN_H

#include "st_find.h"
#include "st_open.h"

/* A static binding that nobody uses yet: its mapping is made for the packet from outside. */
SG_GLOBAL int sg_st_in_static(struct sg_st *q)
{
	struct sg_st_bind key = {};
	struct sg_st_bound *bound;
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	__u32 state;
	int reason;

	if (!q)
		return SG_DROP_STALE;
	key.addr = q->near;
	key.port = q->near_port;
	key.proto = q->proto;
	key.side = SG_BIND_OUTSIDE;
	bound = bpf_map_lookup_elem(&sg_st_bind, &key);
	if (!bound)
		return SG_DROP_ST_NO_STATE;
	obj = sg_st_obj_of(bound->obj);
	use = sg_st_use_of(bound->obj);
	if (!obj || !use || !(obj->flags & SG_ST_LIVE))
		return SG_DROP_ST_NO_STATE;
	if (q->proto == IPPROTO_TCP && (q->tcp & (SG_TCP_SYN | SG_TCP_RST | SG_TCP_ACK)) != SG_TCP_SYN)
		return SG_DROP_ST_NO_STATE;
	/* The engine's words are those of a packet from inside. */
	q->to = q->near;
	q->to_port = q->near_port;
	q->near = bound->addr;
	q->near_port = bound->port;
	q->obj = bound->obj;
	q->svc = 0;
	if (use->sessions - use->half >= obj->max_sessions)
		return sg_st_refused(q, SG_DROP_ST_FULL);
	reason = sg_st_admit(&q->near, q->obj, 1);
	if (reason)
		return sg_st_refused(q, reason);
	reason = sg_st_map_new(q);
	if (reason) {
		sg_st_client_less(obj, q->obj, &q->near, false);
		return sg_st_refused(q, reason);
	}
	state = q->proto == IPPROTO_TCP ? SG_ST_IN_INIT : q->proto == IPPROTO_UDP ? SG_ST_UDP : SG_ST_ICMP;
	reason = sg_st_sess_new(q, state, sg_st_life(obj, state));
	if (reason)
		return sg_st_refused(q, reason);
	q->to = q->near;
	q->to_port = q->near_port;
	return 0;
}

/* RFC 4787 REQ-8: whether the client has sent to this address, whatever the port. */
SG_INLINE bool sg_st_known(const struct sg_st *q)
{
	__u32 map = q->map - 1;
	const struct sg_st_sess *s = sg_st_sess_of(map);
	struct sg_st_peer key = {};

	if (s && s->map == map && s->state != SG_ST_FREE && sg_st_same(&s->remote, &q->far))
		return true;
	key.addr = q->far;
	key.map = map;
	return bpf_map_lookup_elem(&sg_st_seen, &key) != NULL;
}

/* A packet from outside to a mapping that has no session with its sender. */
SG_GLOBAL int sg_st_in_new(struct sg_st *q)
{
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	struct sg_st_map *m;

	if (!q || !q->map)
		return SG_DROP_STALE;
	m = sg_st_map_of(q->map - 1);
	obj = sg_st_obj_of(q->obj);
	use = sg_st_use_of(q->obj);
	if (!m || !obj || !use)
		return SG_DROP_STALE;
	if (m->svc || q->unseen) { /* a service's client talks to its backend only */
		SG_ST_COUNT(q->obj, filtered);
		return SG_DROP_ST_FILTERED;
	}
	if (obj->flags & SG_ST_ADF && !sg_st_known(q)) {
		if (q->proto == IPPROTO_TCP && (q->tcp & (SG_TCP_SYN | SG_TCP_RST | SG_TCP_ACK)) == SG_TCP_SYN) {
			sg_st_syn_note(q, obj->life[SG_LIFE_TCP_SYN]);
			return SG_DROP_ST_SYN;
		}
		SG_ST_COUNT(q->obj, filtered);
		return SG_DROP_ST_FILTERED;
	}
	/* UDP, ICMP and what TCP sends amid a connection nobody knows: forwarded without a session, so that the outside fills no
	 * table (RFC 6146 3.5.2.2, CLOSED). */
	if (q->proto != IPPROTO_TCP || (q->tcp & (SG_TCP_SYN | SG_TCP_RST)) != SG_TCP_SYN)
		return 0;
	if (use->sessions - use->half >= obj->max_sessions)
		return sg_st_refused(q, SG_DROP_ST_FULL);
	if (sg_st_admit(&m->in, q->obj, 0))
		return SG_DROP_ST_CLIENT;
	if (!sg_st_hold(m)) {
		sg_st_client_less(obj, q->obj, &m->in, false);
		return sg_st_refused(q, SG_DROP_ST_FULL);
	}
	if (sg_st_sess_new(q, SG_ST_IN_INIT, obj->life[SG_LIFE_TCP_TRANS]))
		return sg_st_refused(q, SG_DROP_ST_FULL);
	return 0;
}

/* Whether the object's address is another gateway's just now, and its sessions are copies. */
SG_INLINE bool sg_st_asleep(__u32 number)
{
	const struct sg_st_use *use = sg_st_use_of(number);

	return use && use->asleep;
}

/* From outside, to `near`, an address of ours; or, with `kept` and no `own`, a client's. Out: to and to_port, the client; far and far_port, the
 * sender as the client knows it, which of a service is the virtual address; obj, svc, map, sess. */
SG_GLOBAL int sg_st_in(struct sg_st *q, struct sg_st_own *own)
{
	struct sg_st_sess *s;
	struct sg_st_obj *obj;
	struct sg_st_svc *svc;
	struct sg_st_map *m;
	__u32 at;
	int reason;

	if (!q)
		return SG_DROP_STALE;
	m = q->kept ? sg_st_map_of(q->map - 1) : own ? sg_st_map_of_port(q, own) : NULL;
	if (!m && !own)
		return SG_DROP_STALE;
	if (!m && q->stranger) {
		SG_ST_COUNT(own->obj, filtered);
		return SG_DROP_ST_FILTERED;
	}
	if (!m) {
		if (own->flags & SG_OWN_STATIC && !q->unseen) {
			reason = sg_st_in_static(q);
			if (reason != SG_DROP_ST_NO_STATE)
				return reason;
		}
		if (q->proto == IPPROTO_TCP && !q->unseen && (q->tcp & (SG_TCP_SYN | SG_TCP_RST | SG_TCP_ACK)) == SG_TCP_SYN) {
			obj = sg_st_obj_of(own->obj);
			if (obj && !(own->flags & SG_OWN_HOST)) {
				sg_st_syn_note(q, obj->life[SG_LIFE_TCP_SYN]);
				return SG_DROP_ST_SYN;
			}
		}
		return SG_DROP_ST_NO_STATE;
	}
	q->obj = m->obj;
	q->svc = m->svc;
	q->vport = m->vport;
	obj = sg_st_obj_of(m->obj);
	if (!obj)
		return SG_DROP_STALE;
	if (unlikely(obj->flags & SG_ST_SAME && sg_st_asleep(m->obj)))
		return SG_DROP_ST_NO_STATE;
	s = sg_st_sess_find(q, m);
	if (s && !sg_st_alive(s, obj, q->now)) {
		sg_st_end(q->sess - 1);
		q->sess = 0;
		/* The mapping may have gone with it. */
		if (!m->refs)
			return SG_DROP_ST_NO_STATE;
		s = NULL;
	}
	if (likely(s)) {
		sg_st_step_told(s, obj, q, false);
	} else {
		reason = sg_st_in_new(q);
		if (reason)
			return reason;
	}
	q->to = m->in;
	q->to_port = m->in_port;
	if (unlikely(m->svc)) {
		at = m->svc - 1;
		svc = bpf_map_lookup_elem(&sg_st_svcs, &at);
		if (!svc)
			return SG_DROP_STALE;
		q->far = svc->vip.addr;
		q->far_port = q->proto == IPPROTO_ICMP ? 0 : q->vport ? q->vport : svc->vip.port;
	}
	return 0;
}

#endif
