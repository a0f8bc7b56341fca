/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Mappings: a client's port bound to one of a pool. Made whole or not at all, gone with their last session. */
#ifndef SG_ST_MAP_H
#define SG_ST_MAP_H

#include "st_client.h"
#include "st_share.h"

#define SG_ST_TRIES 8

/* Frees a mapping that nobody uses any more: `refs` went to 0 in the caller's hands. */
SG_GLOBAL int sg_st_unmap(__u32 id, __u32 rest)
{
	struct sg_st_map *m = sg_st_map_of(id);
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	__u32 *known, now;

	if (!m || !d)
		return 0;
	now = sg_st_now();
	d->client.addr = m->in;
	d->client.port = m->in_port;
	d->client.proto = m->proto;
	d->client.by_svc = m->svc != 0;
	d->client.dom = m->svc ? m->svc - 1 : m->obj;
	d->client.vport = m->vport;
	known = bpf_map_lookup_elem(&sg_st_fwd, &d->client);
	if (known && *known == id)
		bpf_map_delete_elem(&sg_st_fwd, &d->client);
	obj = sg_st_obj_of(m->obj);
	use = sg_st_use_of(m->obj);
	if (use)
		sg_st_less(&use->maps);
	if (obj) {
		sg_st_client_less(obj, m->obj, &m->in, true);
		sg_st_block_give(obj, m->obj, m, now);
	}
	m->last = 0;
	/* A static port rests for nobody. */
	if (m->flags & SG_MAP_SHARED)
		sg_st_share_give(m->block, bpf_ntohs(m->out_port));
	else
		sg_st_port_give(m->block, bpf_ntohs(m->out_port), now, rest && !m->flags && obj && obj->life[SG_LIFE_REST]);
	use = sg_st_use_of(m->obj);
	if (use)
		__sync_fetch_and_add(&use->given, 1);
	sg_st_id_give(true, id);
	return 0;
}

SG_INLINE void sg_st_release(__u32 id, bool rest)
{
	struct sg_st_map *m = sg_st_map_of(id);

	if (m && __sync_fetch_and_sub(&m->refs, 1) == 1)
		sg_st_unmap(id, rest);
}

/* One more session: false where the mapping is on its way out. */
SG_INLINE bool sg_st_hold(struct sg_st_map *m)
{
	__u32 refs, i;

	for (i = 0; i < SG_ST_TRIES; i++) {
		refs = m->refs;
		if (!refs)
			return false;
		if (__sync_val_compare_and_swap(&m->refs, refs, refs + 1) == refs)
			return true;
	}
	return false;
}

/* A port that the client must have (static bindings: 1 is returned) or better had (simultaneous open): sets `w->port` where it is free. */
SG_GLOBAL int sg_st_wish(struct sg_st *s, struct sg_st_want *w)
{
	struct sg_st_bind bind = {};
	struct sg_st_bound *bound;
	struct sg_st_own *own;
	struct sg_st_obj *obj;
	int fixed = 0;
	__u32 n;

	if (!s || !w)
		return 0;
	obj = sg_st_obj_of(s->obj);
	if (!obj)
		return 0;
	if (obj->flags & SG_ST_STATIC) {
		bind.addr = s->near;
		bind.port = s->near_port;
		bind.proto = s->proto;
		bind.side = SG_BIND_INSIDE;
		bind.obj = s->obj;
		bound = bpf_map_lookup_elem(&sg_st_bind, &bind);
		if (bound) {
			s->to = bound->addr;
			s->wish = bpf_ntohs(bound->port);
			fixed = 1;
		}
	}
	n = s->wish / SG_ST_BLOCK;
	own = s->wish ? sg_st_own_of(&s->to) : NULL;
	if (!own || n < own->first_block || n >= own->first_block + own->blocks)
		return fixed;
	w->block = own->base + sg_st_proto_number(s->proto) * own->blocks + n - own->first_block;
	if (sg_st_port_exact(w->block, s->wish & 63, s->now, obj->life[SG_LIFE_REST], fixed)) {
		w->port = s->wish;
		w->out = s->to;
	}
	return fixed;
}

/* A port for a mapping of `s->near`: in `w`, flags of the mapping are returned. */
SG_INLINE __u8 sg_st_map_port(struct sg_st *s, struct sg_st_want *w, const struct sg_st_obj *obj)
{
	bool shared = s->svc && !obj->block_size;
	struct sg_st_ports *b;

	if (sg_st_wish(s, w))
		return SG_MAP_STATIC;
	if (w->port)
		return 0;
	w->client = sg_st_client_of(obj, &s->near);
	if (!shared) {
		sg_st_port_take(w);
		return 0;
	}
	if (sg_st_share_take(s, w, SG_ST_SHARE_FEW))
		return SG_MAP_SHARED;
	sg_st_port_take(w);
	if (!w->port) {
		sg_st_share_take(s, w, SG_ST_SHARE_MANY);
		return SG_MAP_SHARED;
	}
	b = bpf_map_lookup_elem(&sg_st_port, &w->block);
	if (b)
		b->slot[w->port & 63] = SG_ST_SHARED | 1;
	return SG_MAP_SHARED;
}

/* A new mapping for `s->near` with one reference, which is the caller's; its index + 1 goes to `s->map`. Nobody finds it before sg_st_map_show().
 * The client was admitted; where this fails, its port is taken off again. */
SG_GLOBAL int sg_st_map_new(struct sg_st *s)
{
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st_want *w;
	struct sg_st_obj *obj;
	struct sg_st_use *use;
	struct sg_st_map *m;
	__u32 id;
	__u8 flags;

	if (!s || !d)
		return SG_DROP_STALE;
	w = &d->want;
	obj = sg_st_obj_of(s->obj);
	use = sg_st_use_of(s->obj);
	if (!obj || !use)
		return SG_DROP_STALE;
	id = (__u32)sg_st_id_take(1);
	m = id ? sg_st_map_of(id - 1) : NULL;
	if (!m) {
		sg_st_client_less(obj, s->obj, &s->near, true);
		return SG_DROP_ST_FULL;
	}
	id--;
	__builtin_memset(w, 0, sizeof(*w));
	w->now = s->now;
	w->mark = (s->now * 0x9e3779b1 + use->given * 0x85ebca6b + s->obj) * 0xc2b2ae35 | 1; /* never 0 */
	w->obj = s->obj;
	w->proto = s->proto;
	w->in_port = bpf_ntohs(s->near_port);
	flags = sg_st_map_port(s, w, obj);
	if (!w->port) {
		sg_st_id_give(true, id);
		sg_st_client_less(obj, s->obj, &s->near, true);
		if (!(flags & SG_MAP_SHARED) || !d->share.done)
			return SG_DROP_ST_NO_PORT;
		d->share.again = d->share.nr + 1;
		s->evict = d->share.done;
		return SG_ST_OPEN_AGAIN;
	}
	m->in = s->near;
	m->out = obj->flags & SG_ST_KEEP ? s->near : w->out;
	m->in_port = s->near_port;
	m->out_port = bpf_htons((__u16)w->port);
	m->obj = s->obj;
	m->svc = s->svc;
	m->last = 0;
	m->block = w->block;
	m->proto = s->proto;
	m->flags = flags;
	m->vport = s->vport;
	m->refs = 1;
	__sync_fetch_and_add(&use->maps, 1);
	s->map = id + 1;
	s->fresh = 1;
	return 0;
}

/* From now on others find mapping `m` of `s`, from outside and from inside. False where another CPU was first, or there is no room. */
SG_INLINE bool sg_st_map_show(struct sg_st_desk *d, const struct sg_st *s, const struct sg_st_map *m)
{
	__u32 block = m->block;
	struct sg_st_ports *b = bpf_map_lookup_elem(&sg_st_port, &block);

	if (b && !(m->flags & SG_MAP_SHARED))
		b->slot[bpf_ntohs(m->out_port) & 63] = s->map;
	d->client.addr = s->near;
	d->client.port = s->near_port;
	d->client.proto = s->proto;
	d->client.by_svc = s->svc != 0;
	d->client.dom = s->svc ? s->svc - 1 : s->obj;
	d->client.vport = s->vport;
	d->id = s->map - 1;
	return !bpf_map_update_elem(&sg_st_fwd, &d->client, &d->id, BPF_NOEXIST);
}

#endif
