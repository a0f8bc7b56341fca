/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The engine: who is this packet of, what becomes of its addresses and ports, and how does the session go on. */
#ifndef SG_ST_CORE_H
#define SG_ST_CORE_H

#include "st_sess.h"

/* Whether the program balances, too: balancers in mode NAT have their sessions here. */
#ifndef SG_ST_BALANCED
#define SG_ST_BALANCED 0
#endif
#if SG_ST_BALANCED
#include "lb_maps.h"
#endif

/* Unexpected SYNs by the remote that sent them; the value says to which port of ours, and until when it counts. */
struct sg_st_syn {
	struct sg_addr out;
	__be16 port;
	__u16 pad;
	__u32 until;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sg_st_bind);
	__type(value, struct sg_st_syn);
	__uint(max_entries, 1024);
} sg_st_syn SEC(".maps");

SG_INLINE __u32 sg_st_life(const struct sg_st_obj *obj, __u32 state)
{
	switch (state) {
	case SG_ST_UDP:
		return obj->life[SG_LIFE_UDP];
	case SG_ST_ICMP:
		return obj->life[SG_LIFE_ICMP];
	case SG_ST_EST:
	case SG_ST_IN_FIN:
	case SG_ST_OUT_FIN:
		return obj->life[SG_LIFE_TCP_EST];
	default:
		return obj->life[SG_LIFE_TCP_TRANS];
	}
}

/* RFC 6146 3.5.2.2. Returns the next state; `*renew` where the lifetime starts anew. */
SG_INLINE __u32 sg_st_tcp_next(__u32 state, __u8 tcp, bool out, bool *renew)
{
	bool rst = tcp & SG_TCP_RST, syn = !rst && tcp & SG_TCP_SYN, fin = !rst && !syn && tcp & SG_TCP_FIN;

	*renew = false;
	switch (state) {
	case SG_ST_OUT_INIT:
	case SG_ST_IN_INIT:
		if (!syn)
			return state;
		*renew = true;
		return (state == SG_ST_OUT_INIT) == out ? state : SG_ST_EST;
	case SG_ST_EST:
		if (rst) {
			*renew = true;
			return SG_ST_TRANS;
		}
		if (fin)
			return out ? SG_ST_OUT_FIN : SG_ST_IN_FIN;
		*renew = true;
		return state;
	case SG_ST_IN_FIN:
	case SG_ST_OUT_FIN:
		*renew = true;
		return fin && (state == SG_ST_OUT_FIN) != out ? SG_ST_BOTH_FIN : state;
	case SG_ST_BOTH_FIN:
		/* A client that begins anew with the same ports: the old connection's end must not be the new one's. */
		if (syn && out && !(tcp & SG_TCP_ACK)) {
			*renew = true;
			return SG_ST_TRANS;
		}
		return state;
	default: /* TRANS */
		if (rst)
			return state;
		*renew = true;
		return SG_ST_EST;
	}
}

/* Moves a session on by one packet. */
SG_INLINE void sg_st_step(struct sg_st_sess *s, const struct sg_st_obj *obj, const struct sg_st *q, bool out)
{
	__u32 state = s->state, next = state, until;
	bool renew = out; /* RFC 4787 REQ-6: what comes from outside keeps no mapping alive */

	if (q->unseen)
		return;
	if (s->proto == IPPROTO_TCP) {
		next = sg_st_tcp_next(state, q->tcp, out, &renew);
		if (unlikely(next != state)) {
			if (__sync_val_compare_and_swap(&s->state, state, next) != state)
				return; /* another CPU's packet was first; what it decided is as good */
			if (state == SG_ST_OUT_INIT || state == SG_ST_IN_INIT)
				sg_st_whole(s);
		}
	}
	/* A session that came to TRANS by time has not ended. */
	if (unlikely(next > SG_ST_EST && s->proto == IPPROTO_TCP) || next != state)
		s->reset = q->tcp & SG_TCP_RST;
	until = q->now + sg_st_life(obj, next) + 1;
	if (renew && s->expires != until)
		s->expires = until;
}

/* Whether the session still lives; an established one goes to TRANS first. */
SG_INLINE bool sg_st_alive(struct sg_st_sess *s, const struct sg_st_obj *obj, __u32 now)
{
	__u32 state = s->state;

	if (state == SG_ST_FREE)
		return false;
	if (likely(!sg_st_past(now, s->expires)))
		return true;
	if (state != SG_ST_EST)
		return false;
	if (sg_st_past(now, s->expires + obj->life[SG_LIFE_TCP_TRANS]))
		return false;
	if (__sync_val_compare_and_swap(&s->state, state, SG_ST_TRANS) == state)
		s->expires += obj->life[SG_LIFE_TCP_TRANS];
	return true;
}

/* The session of mapping `m` with `q->far`; its index + 1 goes to `q->sess`. */
SG_INLINE struct sg_st_sess *sg_st_sess_find(struct sg_st *q, struct sg_st_map *m)
{
	struct sg_st_peer key = {};
	struct sg_st_sess *s;
	__u32 map = q->map - 1, *id, last = m->last;

	if (likely(last)) {
		s = sg_st_sess_of(last - 1);
		if (s && s->map == map && s->rport == q->far_port && sg_st_same(&s->remote, &q->far) && s->state != SG_ST_FREE) {
			q->sess = last;
			return s;
		}
	}
	key.addr = q->far;
	key.port = q->far_port;
	key.map = map;
	id = bpf_map_lookup_elem(&sg_st_find, &key);
	if (!id)
		return NULL;
	s = sg_st_sess_of(*id);
	if (!s || s->map != map || s->rport != q->far_port || !sg_st_same(&s->remote, &q->far) || s->state == SG_ST_FREE)
		return NULL;
	q->sess = *id + 1;
	m->last = *id + 1;
	return s;
}

/* The mapping of a client's port. */
SG_INLINE struct sg_st_map *sg_st_map_find(struct sg_st *q)
{
	struct sg_st_client_port key = {};
	struct sg_st_map *m;
	__u32 *id;

	key.addr = q->near;
	key.port = q->near_port;
	key.proto = q->proto;
	key.by_svc = q->svc != 0;
	key.dom = q->svc ? q->svc - 1 : q->obj;
	key.vport = q->vport;
	id = bpf_map_lookup_elem(&sg_st_fwd, &key);
	if (!id)
		return NULL;
	m = sg_st_map_of(*id);
	if (!m || !m->refs || m->in_port != q->near_port || m->proto != q->proto || m->svc != q->svc || m->vport != q->vport ||
	    !sg_st_same(&m->in, &q->near))
		return NULL;
	/* A balancer's client has the object that goes with its backend's family. */
	if (m->obj != q->obj && !q->vport)
		return NULL;
	q->obj = m->obj;
	q->map = *id + 1;
	return m;
}

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

/* RFC 6146 3.5.2.2, simultaneous open: the remote has already tried; its SYN named the port. */
SG_INLINE void sg_st_syn_recall(struct sg_st *q)
{
	struct sg_st_bind key = {};
	struct sg_st_syn *y;

	key.addr = q->far;
	key.port = q->far_port;
	key.proto = q->proto;
	y = bpf_map_lookup_elem(&sg_st_syn, &key);
	if (!y || sg_st_past(q->now, y->until))
		return;
	q->to = y->out;
	q->wish = bpf_ntohs(y->port);
}

SG_INLINE void sg_st_syn_note(const struct sg_st *q, __u32 life)
{
	struct sg_st_bind key = {};
	struct sg_st_syn y = {};

	key.addr = q->far;
	key.port = q->far_port;
	key.proto = q->proto;
	y.out = q->near;
	y.port = q->near_port;
	y.until = q->now + life + 1;
	bpf_map_update_elem(&sg_st_syn, &key, &y, BPF_ANY);
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
		sg_st_step(s, obj, q, true);
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

/* A port of services belongs to whom the sender is the backend of: index + 1 of the mapping. */
SG_INLINE __u32 sg_st_map_of_both(struct sg_st *q, __u32 place)
{
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_sess *s;
	__u32 *id;

	if (!d)
		return 0;
	d->both.addr = q->far;
	d->both.port = q->far_port;
	d->both.map = place;
	id = bpf_map_lookup_elem(&sg_st_find, &d->both);
	s = id ? sg_st_sess_of(*id) : NULL;
	if (s && s->state != SG_ST_FREE && s->rport == q->far_port && sg_st_same(&s->remote, &q->far))
		return s->map + 1;
	q->stranger = 1;
	return 0;
}

/* The mapping of pool address and port `q->near`: index + 1 in `q->map`. */
SG_INLINE struct sg_st_map *sg_st_map_of_port(struct sg_st *q, const struct sg_st_own *own)
{
	__u32 port = bpf_ntohs(q->near_port), n = port / SG_ST_BLOCK, bit = port & 63, index, id;
	struct sg_st_ports *b;
	struct sg_st_map *m;

	if (n < own->first_block || n >= own->first_block + own->blocks)
		return NULL;
	index = own->base + sg_st_proto_number(q->proto) * own->blocks + n - own->first_block;
	b = bpf_map_lookup_elem(&sg_st_port, &index);
	if (!b || !(b->used & (1ULL << bit)) || b->resting & (1ULL << bit))
		return NULL;
	id = b->slot[bit];
	if (!id || id == SG_ST_CLAIMED)
		return NULL;
	if (id & SG_ST_SHARED) {
		id = sg_st_map_of_both(q, sg_st_by_port(index, bit));
		if (!id)
			return NULL;
	}
	m = sg_st_map_of(id - 1);
	if (!m || !m->refs || m->out_port != q->near_port || m->proto != q->proto || !sg_st_same(&m->out, &q->near))
		return NULL;
	q->map = id;
	return m;
}

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
	struct sg_st_peer key = {};

	key.addr = q->far;
	key.map = q->map - 1;
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

/* From outside, to `near`, an address of ours. Out: to and to_port, the client; far and far_port, the sender as the client knows it, which of
 * a service is the virtual address; obj, svc, map, sess. */
SG_GLOBAL int sg_st_in(struct sg_st *q, struct sg_st_own *own)
{
	struct sg_st_sess *s;
	struct sg_st_obj *obj;
	struct sg_st_svc *svc;
	struct sg_st_map *m;
	__u32 at;
	int reason;

	if (!q || !own)
		return SG_DROP_STALE;
	m = sg_st_map_of_port(q, own);
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
		sg_st_step(s, obj, q, false);
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
