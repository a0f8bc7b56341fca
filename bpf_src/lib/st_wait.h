/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* RFC 6146 3.4: fragments that come before their first one wait for it, as copies: so many, for so long, not longer than SG_ST_WAIT_LEN. When the
 * first one comes here, they are sent through the slow device again, and find their ports. */
#ifndef SG_ST_WAIT_H
#define SG_ST_WAIT_H

#include "scratch.h"
#include "st_frag.h"

#define SG_ST_WAIT_LEN 2048
#ifndef SG_ST_WAIT_DEV
#define SG_ST_WAIT_DEV sg_cfg.slow_dev
#endif
#define SG_ST_WAIT_WAYS 8
#define SG_ST_WAIT_SETS 64

enum sg_st_waits {
	SG_ST_WAIT_FREE = 0,
	SG_ST_WAIT_BUSY, /* a CPU reads or writes it */
	SG_ST_WAIT_HELD,
};

struct sg_st_waiter {
	struct sg_st_frag_key key;
	__u32 state;
	__u32 until;
	__u32 len; /* of the packet in `b`, from layer 3 */
	__u32 obj;
	__u8 b[SG_ST_WAIT_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_waiter);
	__uint(max_entries, SG_ST_WAIT_SETS *SG_ST_WAIT_WAYS);
} sg_st_waiter SEC(".maps");

SG_INLINE __u32 sg_st_wait_set(const struct sg_pkt *p)
{
	return sg_st_hash(&p->saddr, p->frag_id) % SG_ST_WAIT_SETS * SG_ST_WAIT_WAYS;
}

/* Index + 1 of a place in the set, which is busy now; 0 where all are held. */
SG_GLOBAL int sg_st_wait_take(__u32 set, __u32 now)
{
	struct sg_st_waiter *s;
	__u32 i, at, state;

	for (i = 0; i < SG_ST_WAIT_WAYS; i++) {
		at = set + i;
		s = bpf_map_lookup_elem(&sg_st_waiter, &at);
		if (!s)
			return 0;
		state = s->state;
		if (state == SG_ST_WAIT_BUSY || (state == SG_ST_WAIT_HELD && !sg_st_past(now, s->until)))
			continue;
		if (__sync_val_compare_and_swap(&s->state, state, SG_ST_WAIT_BUSY) != state)
			continue;
		if (state == SG_ST_WAIT_HELD)
			SG_ST_COUNT(s->obj, fragments); /* its first one never came */
		return (int)at + 1;
	}
	return 0;
}

/* Whether the first fragment has come since this one asked for its ports; otherwise it will know that somebody waits. */
SG_GLOBAL int sg_st_wait_mark(const struct sg_pkt *p, __u32 now, __u32 until)
{
	struct sg_st_frag mark = {.until = until}, *known;
	struct sg_st_frag_key key;

	if (!p)
		return 0;
	sg_st_frag_key(p, &key);
	if (!bpf_map_update_elem(&sg_st_frag, &key, &mark, BPF_NOEXIST))
		return 0;
	known = bpf_map_lookup_elem(&sg_st_frag, &key);
	if (!known)
		return 0;
	if (known->ports && !sg_st_past(now, known->until))
		return 1;
	known->ports = 0;
	known->until = until;
	return 0;
}

/* Keeps a copy of a later fragment. */
SG_GLOBAL int sg_st_wait(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_st_obj *obj = w ? sg_st_obj_of(w->st.obj) : NULL;
	struct sg_st_waiter *s;
	__u32 now = sg_st_now(), at, len;
	struct sg_pkt *p;

	if (!w || !obj)
		return SG_DROP_STALE;
	p = &w->pkt;
	len = p->end - p->l3;
	if (!len || len > SG_ST_WAIT_LEN)
		goto drop;
	at = (__u32)sg_st_wait_take(sg_st_wait_set(p), now);
	if (!at)
		goto drop;
	at--;
	s = bpf_map_lookup_elem(&sg_st_waiter, &at);
	if (!s)
		goto drop;
	sg_st_frag_key(p, &s->key);
	s->until = now + obj->life[SG_LIFE_FRAGMENT] + 1;
	s->len = len;
	s->obj = w->st.obj;
	if (sg_load(ctx, p->l3, s->b, sg_bounded(len, SG_ST_WAIT_LEN))) {
		s->state = SG_ST_WAIT_FREE;
		goto drop;
	}
	__sync_lock_test_and_set(&s->state, SG_ST_WAIT_HELD);
	w->act = TC_ACT_STOLEN;
	if (sg_st_wait_mark(p, now, s->until) &&
	    __sync_val_compare_and_swap(&s->state, SG_ST_WAIT_HELD, SG_ST_WAIT_FREE) == SG_ST_WAIT_HELD)
		w->act = bpf_redirect(SG_ST_WAIT_DEV, 0);
	return SG_OK_ST_HELD;
drop:
	SG_ST_COUNT(w->st.obj, fragments);
	return SG_DROP_ST_FRAGMENT;
}

/* Sends what waits at this place, if it is the packet's; 1 where the frame has changed for it. */
SG_GLOBAL int sg_st_wait_send(sg_ctx *ctx, const struct sg_pkt *p, __u32 at)
{
	struct sg_st_waiter *s = bpf_map_lookup_elem(&sg_st_waiter, &at);
	__u32 len;

	if (!p || !s || s->state != SG_ST_WAIT_HELD || s->key.id != p->frag_id || s->key.proto != p->proto ||
	    !sg_st_same(&s->key.saddr, &p->saddr) || !sg_st_same(&s->key.daddr, &p->daddr))
		return 0;
	if (__sync_val_compare_and_swap(&s->state, SG_ST_WAIT_HELD, SG_ST_WAIT_BUSY) != SG_ST_WAIT_HELD)
		return 0;
	len = s->len;
	if (len && len <= SG_ST_WAIT_LEN && !sg_st_past(sg_st_now(), s->until) && !bpf_skb_change_tail(ctx, p->l3 + len, 0) &&
	    !sg_store(ctx, p->l3, s->b, sg_bounded(len, SG_ST_WAIT_LEN)))
		bpf_clone_redirect(ctx, SG_ST_WAIT_DEV, 0);
	else
		SG_ST_COUNT(s->obj, fragments);
	__sync_lock_test_and_set(&s->state, SG_ST_WAIT_FREE);
	return 1;
}

/* Sends those that waited for this first fragment, each in its place, and puts it back. */
SG_GLOBAL int sg_st_wait_end(sg_ctx *ctx, struct sg_work *w)
{
	__u8 *buf = sg_scratch_buf();
	__u32 i, set, len;
	struct sg_pkt *p;
	int changed = 0;

	if (!w || !buf)
		return 0;
	p = &w->pkt;
	len = p->end - p->l3;
	if (!len || len > SG_BUF_HALF || sg_load(ctx, p->l3, buf, sg_bounded(len, SG_BUF_HALF)))
		return 0;
	set = sg_st_wait_set(p);
	for (i = 0; i < SG_ST_WAIT_WAYS; i++)
		changed |= sg_st_wait_send(ctx, p, set + i);
	if (!changed)
		return 0;
	if (bpf_skb_change_tail(ctx, p->l3 + len, 0))
		return -1;
	return sg_store(ctx, p->l3, buf, sg_bounded(len, SG_BUF_HALF)) ? -1 : 0;
}

#endif
