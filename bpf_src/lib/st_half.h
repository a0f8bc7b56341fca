/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Half-open sessions: a ring of places per object, in which a flood pushes out its own kind only. */
#ifndef SG_ST_HALF_H
#define SG_ST_HALF_H

#include "st.h"

#define SG_ST_HALF_TRIES 8

/* Half-open no more. */
SG_INLINE void sg_st_whole(struct sg_st_sess *s)
{
	struct sg_st_use *use = sg_st_use_of(s->obj);

	if (!s->half)
		return;
	s->half = 0;
	if (use)
		sg_st_less(&use->half);
}

SG_INLINE bool sg_st_holds(__u32 id, __u32 place)
{
	struct sg_st_sess *s = id ? sg_st_sess_of(id - 1) : NULL;

	return s && s->half == place + 1 && (s->state == SG_ST_OUT_INIT || s->state == SG_ST_IN_INIT);
}

/* Puts a half-open session into its object's ring: into a place that nobody holds, or else the oldest one's, whose index + 1 is returned. */
SG_INLINE __u32 sg_st_half_put(__u32 id, __u32 number)
{
	struct sg_st_obj *obj = sg_st_obj_of(number);
	struct sg_st_use *use = sg_st_use_of(number);
	struct sg_st_sess *s = sg_st_sess_of(id);
	__u32 i, first = 0, place, *p;

	if (!obj || !use || !s || !obj->half_size)
		return 0;
	for (i = 0; i < SG_ST_HALF_TRIES; i++) {
		place = obj->half_base + __sync_fetch_and_add(&use->next, 1) % obj->half_size;
		if (!i)
			first = place;
		p = bpf_map_lookup_elem(&sg_st_half, &place);
		if (!p)
			return 0;
		if (!sg_st_holds(*p, place))
			goto put;
	}
	/* What was passed over is not lost: the places behind are older than what comes after them. */
	__sync_fetch_and_sub(&use->next, SG_ST_HALF_TRIES - 1);
	place = first;
	p = bpf_map_lookup_elem(&sg_st_half, &place);
	if (!p)
		return 0;
put:
	s->half = place + 1;
	__sync_fetch_and_add(&use->half, 1);
	i = __sync_lock_test_and_set(p, id + 1);
	return sg_st_holds(i, place) && i != id + 1 ? i : 0;
}

#endif
