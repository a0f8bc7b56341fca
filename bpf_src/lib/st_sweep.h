/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The sweeper: ends sessions whose time is over, whose object is gone, or that somebody wants flushed. A timer of the kernel runs it, a few
 * hundred sessions at a time, in the order of memory. */
#ifndef SG_ST_SWEEP_H
#define SG_ST_SWEEP_H

#include "st_sess.h"
#include "st_state.h"

#define SG_CLOCK_MONOTONIC 1
#define SG_SWEEP_STEP_NS 20000000ULL
#define SG_SWEEP_STEPS 400	/* of a pass: 8 seconds */
#define SG_SWEEP_STEPS_FLUSH 25 /* while somebody waits for a flush: half a second */

struct sg_st_clock {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_clock);
	__uint(max_entries, 1);
} sg_st_clock SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_sweep);
	__uint(max_entries, 1);
} sg_st_sweep SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_flush);
	__uint(max_entries, 1);
} sg_st_flush SEC(".maps");

SG_INLINE bool sg_st_in_net(const struct sg_addr *a, const struct sg_addr *net, const struct sg_addr *mask)
{
	return !(((a->d[0] ^ net->d[0]) & mask->d[0]) | ((a->d[1] ^ net->d[1]) & mask->d[1]));
}

/* Whether an order to flush means this session. */
SG_GLOBAL int sg_st_flushes(const struct sg_st_flush *f, __u32 id)
{
	struct sg_st_sess *s = sg_st_sess_of(id);
	struct sg_st_map *m = s ? sg_st_map_of(s->map) : NULL;

	if (!f || !s || !m)
		return 0;
	if (f->fields & SG_FLUSH_OBJ && s->obj != f->obj)
		return 0;
	if (f->fields & SG_FLUSH_PROTO && s->proto != f->proto)
		return 0;
	if (f->fields & SG_FLUSH_SVC && m->svc != f->svc + 1)
		return 0;
	if (f->fields & SG_FLUSH_CLIENT && !sg_st_in_net(&m->in, &f->client, &f->client_mask))
		return 0;
	if (f->fields & SG_FLUSH_OUT && !sg_st_same(&m->out, &f->out))
		return 0;
	return !(f->fields & SG_FLUSH_REMOTE) || sg_st_in_net(&s->remote, &f->remote, &f->remote_mask);
}

static long sg_st_sweep_bit(__u32 i, __u32 *key)
{
	struct sg_st_desk *d = bpf_map_lookup_elem(&SG_ST_DESK_MAP, key);
	struct sg_st_broom *b;
	struct sg_st_flush *order = bpf_map_lookup_elem(&sg_st_flush, key);
	__u32 id;
	struct sg_st_sess *s;
	struct sg_st_obj *obj;

	if (!d || !order)
		return 0;
	b = &d->broom;
	if (!(b->word & (1ULL << (i & 63))))
		return 0;
	id = b->base + i;
	s = sg_st_sess_of(id);
	if (!s || s->state == SG_ST_FREE)
		return 0;
	obj = sg_st_obj_of(s->obj);
	if (obj && obj->flags & SG_ST_LIVE && sg_st_alive(s, obj, b->now)) {
		if (!b->flush || !sg_st_flushes(order, id))
			return 0;
		b->flushed++;
	} else {
		SG_ST_COUNT(s->obj, expired);
	}
	if (sg_st_end(id))
		b->removed++;
	return 0;
}

static long sg_st_sweep_word(__u32 i __attribute__((unused)), __u32 *key)
{
	struct sg_st_desk *d = bpf_map_lookup_elem(&SG_ST_DESK_MAP, key);
	struct sg_st_broom *b;
	struct sg_st_ids *ids;
	__u32 entry;

	if (!d)
		return 1;
	b = &d->broom;
	entry = b->at / 8;
	ids = bpf_map_lookup_elem(&sg_st_sids, &entry);
	if (!ids)
		return 1;
	b->word = ids->used[b->at & 7];
	b->base = b->at * 64;
	b->at++;
	if (b->word)
		bpf_loop(64, sg_st_sweep_bit, key, 0);
	return 0;
}

/* Walks over the next part of the table. */
SG_INLINE void sg_st_sweep_step(void)
{
	__u32 zero = 0, entries = sg_cfg.st_ids / 512, n, left;
	struct sg_st_sweep *sweep = bpf_map_lookup_elem(&sg_st_sweep, &zero);
	struct sg_st_flush *order = bpf_map_lookup_elem(&sg_st_flush, &zero);
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_broom *b;
	__u64 began = bpf_ktime_get_ns();

	if (!d || !sweep || !order || !entries)
		return;
	b = &d->broom;
	if (sweep->at >= entries)
		sweep->at = 0;
	if (order->seq != sweep->flushed && order->seq != sweep->flushing) {
		sweep->flushing = order->seq;
		sweep->flush_at = entries; /* left to visit */
	}
	b->removed = 0;
	b->flushed = 0;
	b->now = sg_st_now();
	b->flush = sweep->flushing != sweep->flushed;
	n = entries / (b->flush ? SG_SWEEP_STEPS_FLUSH : SG_SWEEP_STEPS) + 1;
	left = entries - sweep->at;
	n = n < left ? n : left;
	b->at = sweep->at * 8;
	bpf_loop(n * 8, sg_st_sweep_word, &zero, 0);
	sweep->removed += b->removed;
	sweep->flush_removed += b->flushed;
	sweep->at += n;
	if (sweep->at >= entries)
		sweep->passes++;
	if (b->flush) {
		if (sweep->flush_at <= n)
			sweep->flushed = sweep->flushing;
		else
			sweep->flush_at -= n;
	}
	sweep->steps++;
	sweep->ran_ns = began;
	sweep->spent_ns += bpf_ktime_get_ns() - began;
}

static int sg_st_tick(void *map __attribute__((unused)), __u32 *key __attribute__((unused)), struct sg_st_clock *clock)
{
	sg_st_sweep_step();
	bpf_timer_start(&clock->timer, SG_SWEEP_STEP_NS, 0);
	return 0;
}

/* In line, as the step is in the callback: where the verifier does not walk this code (the feature is off), it takes the callback for a call.
 *
 * Keeps the timer running, with the callback of the program that runs now: the first packet of a second that makes a session sees to it. */
SG_INLINE void sg_st_wind(__u32 now)
{
	__u32 zero = 0;
	struct sg_st_sweep *sweep = bpf_map_lookup_elem(&sg_st_sweep, &zero);
	struct sg_st_clock *clock = bpf_map_lookup_elem(&sg_st_clock, &zero);

	if (!sweep || !clock || sweep->armed == now)
		return;
	sweep->armed = now;
	bpf_timer_init(&clock->timer, &sg_st_clock, SG_CLOCK_MONOTONIC);
	bpf_timer_set_callback(&clock->timer, sg_st_tick);
	if (bpf_ktime_get_ns() - sweep->ran_ns > 10 * SG_SWEEP_STEP_NS)
		bpf_timer_start(&clock->timer, SG_SWEEP_STEP_NS, 0);
}

#endif
