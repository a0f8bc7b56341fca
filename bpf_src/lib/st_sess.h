/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sessions: made whole or not at all, ended by one. */
#ifndef SG_ST_SESS_H
#define SG_ST_SESS_H

#include "st_half.h"
#include "st_map.h"

/* The mapping talks to one remote more of this address, or less. */
SG_INLINE void sg_st_see(struct sg_st_peer *key, bool more)
{
	__u32 one = 1, *count;

	key->port = 0;
	count = bpf_map_lookup_elem(&sg_st_seen, key);
	if (more) {
		if (count)
			__sync_fetch_and_add(count, 1);
		else
			bpf_map_update_elem(&sg_st_seen, key, &one, BPF_NOEXIST);
	} else if (count && __sync_fetch_and_sub(count, 1) <= 1) {
		bpf_map_delete_elem(&sg_st_seen, key);
	}
}

/* Ends a session; 1 where this call did it. */
SG_GLOBAL int sg_st_end(__u32 id)
{
	struct sg_st_sess *s = sg_st_sess_of(id);
	struct sg_st_peer key = {};
	struct sg_st_map *m;
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	__u32 state, *known;
	bool half;

	if (!s)
		return 0;
	state = s->state;
	if (state == SG_ST_FREE || __sync_val_compare_and_swap(&s->state, state, SG_ST_FREE) != state)
		return 0;
	half = s->half;
	m = sg_st_map_of(s->map);
	key.addr = s->remote;
	key.port = s->rport;
	key.map = m && m->flags & SG_MAP_SHARED ? sg_st_by_port(m->block, bpf_ntohs(m->out_port)) : s->map;
	known = bpf_map_lookup_elem(&sg_st_find, &key);
	/* One in its mapping's place has no entries. */
	if (known && *known == id) {
		bpf_map_delete_elem(&sg_st_find, &key);
		if (!(key.map & SG_ST_BY_PORT))
			sg_st_see(&key, false);
	}
	use = sg_st_use_of(s->obj);
	if (use) {
		sg_st_less(&use->sessions);
		if (half)
			sg_st_less(&use->half);
	}
	obj = sg_st_obj_of(s->obj);
	if (obj && m)
		sg_st_client_less(obj, s->obj, &m->in, false);
	if (obj && obj->flags & SG_ST_SAME)
		sg_st_changed(id);
	/* RFC 6888 REQ-8 is about ports that somebody outside knows. */
	sg_st_release(s->map, !half);
	sg_st_id_give(false, id);
	return 1;
}

/* A new session of mapping `s->map` with `s->far`. The mapping's reference is the session's from now on, or given back.
 *
 * The session that a mapping is made for has its place: the same index in sg_st_sess. There everybody looks first, so it is found without an entry of
 * sg_st_find or sg_st_seen, and without waiting for what the mapping says. As the mapping is shown once that session is whole, nobody can make the same one
 * meanwhile. Sessions of services are found from outside by both ends, and have an entry always. */
SG_GLOBAL int sg_st_sess_new(struct sg_st *s, __u32 state, __u32 life)
{
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_peer *key;
	struct sg_st_sess *n;
	struct sg_st_map *m;
	struct sg_st_use *use;
	struct sg_st_obj *obj;
	__u32 id, map;

	if (!s || !s->map || !d)
		return SG_DROP_STALE;
	key = &d->both;
	map = s->map - 1;
	use = sg_st_use_of(s->obj);
	m = sg_st_map_of(map);
	if (!use || !m)
		goto full;
	d->entry = !s->fresh || m->flags & SG_MAP_SHARED;
	id = map;
	if (!s->fresh || !sg_st_id_claim(id)) {
		d->entry = 1;
		id = (__u32)sg_st_id_take(0);
		if (!id)
			goto full;
		id--;
	}
	n = sg_st_sess_of(id);
	if (!n)
		goto full;
	n->remote = s->far;
	n->rport = s->far_port;
	n->proto = s->proto;
	n->map = map;
	n->created = s->now;
	n->expires = s->now + life + 1;
	n->half = 0;
	n->reset = 0;
	n->told = 0;
	n->obj = s->obj;
	n->backend = s->backend;
	__builtin_memset(&n->out, 0, sizeof(n->out));
	__builtin_memset(&n->in, 0, sizeof(n->in));
	n->state = state;
	key->addr = s->far;
	key->port = s->far_port;
	key->map = m->flags & SG_MAP_SHARED ? sg_st_by_port(m->block, bpf_ntohs(m->out_port)) : map;
	d->id = id;
	if (d->entry && bpf_map_update_elem(&sg_st_find, key, &d->id, BPF_NOEXIST))
		goto none;
	m->last = id + 1;
	if (s->fresh) {
		if (!sg_st_map_show(d, s, m))
			goto hidden;
		SG_ST_COUNT(s->obj, maps);
	}
	__sync_fetch_and_add(&use->sessions, 1);
	obj = sg_st_obj_of(s->obj);
	if (d->entry && obj && obj->flags & SG_ST_ADF && !(key->map & SG_ST_BY_PORT))
		sg_st_see(key, true);
	s->sess = id + 1;
	if (state == SG_ST_OUT_INIT || state == SG_ST_IN_INIT)
		s->evict = sg_st_half_put(id, s->obj);
	SG_ST_COUNT(s->obj, sessions);
	return 0;
hidden:
	if (d->entry)
		bpf_map_delete_elem(&sg_st_find, key);
none:
	n->state = SG_ST_FREE;
	sg_st_id_give(false, id);
full:
	obj = sg_st_obj_of(s->obj);
	m = sg_st_map_of(map);
	if (obj && m)
		sg_st_client_less(obj, s->obj, &m->in, false);
	sg_st_release(map, false);
	return SG_DROP_ST_FULL;
}

#endif
