/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* States and lifetimes: how a session goes on by one packet, and when it is over. */
#ifndef SG_ST_STATE_H
#define SG_ST_STATE_H

#include "st_half.h"

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

/* The same where sessions may be copied to another gateway, which is told of every new state, and of datagrams that are a conversation. */
SG_INLINE void sg_st_step_told(struct sg_st_sess *s, const struct sg_st_obj *obj, const struct sg_st *q, bool out)
{
	__u32 state = s->state;

	sg_st_step(s, obj, q, out);
	if (unlikely(s->state != state || (!out && s->in.packets == SG_ST_TALKS)) && obj->flags & SG_ST_SAME)
		sg_st_changed(q->sess - 1);
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

#endif
