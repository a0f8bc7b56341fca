/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Mappings and sessions that are there: by a client's port, by a port of a pool, by the remote. */
#ifndef SG_ST_FIND_H
#define SG_ST_FIND_H

#include "st_share.h"

/* The session of mapping `m` with `q->far`; its index + 1 goes to `q->sess`. */
SG_INLINE struct sg_st_sess *sg_st_sess_find(struct sg_st *q, struct sg_st_map *m)
{
	struct sg_st_peer key = {};
	struct sg_st_sess *s;
	__u32 map = q->map - 1, *id, last;

	/* In its mapping's place: that can be fetched beside the mapping, and need not wait for it. */
	s = sg_st_sess_of(map);
	if (likely(s && s->map == map && s->rport == q->far_port && sg_st_same(&s->remote, &q->far) && s->state != SG_ST_FREE)) {
		q->sess = map + 1;
		return s;
	}
	last = m->last;
	if (last && last != map + 1) {
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

#endif
