/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Balancing through NAT: a flow is a session of the stateful engine, which knows its backend from then on. Who gets a new one is decided here, as
 * for any flow of a balancer; nothing has to be tracked beside sessions. */
#ifndef SG_LB_NAT_H
#define SG_LB_NAT_H

#include "lb.h"

/* The backend's id for a new flow, from what sg_lb_general() left in `w`; 0 with `reason` set. */
SG_INLINE __u32 sg_lb_pick_id(sg_ctx *ctx, const struct sg_lb_vip *vip, struct sg_lb_work *w, enum sg_reason *reason)
{
	struct sg_lb_ask *a = &w->ask;
	const struct sg_lb_chunk *chunk;
	struct sg_addr none = {};
	__u32 id = 0, at;

	*reason = SG_DROP_LB_RATE;
	if (vip->flags & SG_LB_LIMIT && !sg_lb_admit(vip))
		return 0;
	*reason = SG_DROP_LB_NO_BACKEND;
	if (vip->flags & SG_LB_QUIC && a->key.proto == IPPROTO_UDP)
		id = sg_lb_quic_backend(ctx, vip, &w->pkt);
	if (id)
		return id;
	if (a->affinity_ns)
		id = sg_lb_affine(a, bpf_ktime_get_ns());
	if (id)
		return id;
	if (a->affinity_ns)
		a->hash = sg_lb_hash(vip->seed, &a->key.saddr, &none, 0);
	else
		a->hash = sg_lb_hash_flow(vip, &a->key.saddr, &a->key.daddr, a->key.sport | ((__u32)a->key.dport << 16),
					  a->key.proto);
	chunk = sg_lb_chunk(vip, a->hash, &at);
	return chunk ? chunk->slot[at].backend : 0;
}

/* A new flow's backend: address, port and object of the source go to `q`. Returns 0, or why there is none. */
SG_GLOBAL int sg_lb_pick(sg_ctx *ctx, struct sg_st *q)
{
	__u32 zero = 0, svc_at, id;
	struct sg_lb_work *w = bpf_map_lookup_elem(&SG_LB_WORK_MAP, &zero);
	const struct sg_lb_vip *addr, *vip;
	const struct sg_lb_backend *b;
	struct sg_lb_key key = {};
	enum sg_reason reason;
	struct sg_st_svc *svc;
	struct sg_st_obj *obj;

	if (!w || !q)
		return SG_DROP_STALE;
	key.addr = w->ask.key.daddr;
	addr = bpf_map_lookup_elem(&sg_lb_vip, &key);
	vip = addr ? sg_lb_find(addr, &w->ask.key.daddr, w->ask.key.dport, w->ask.key.proto) : NULL;
	svc_at = (__u32)q->svc - 1;
	svc = bpf_map_lookup_elem(&sg_st_svcs, &svc_at);
	if (!vip || !svc || !(vip->flags & SG_LB_NATTED))
		return SG_DROP_STALE;
	id = sg_lb_pick_id(ctx, vip, w, &reason);
	b = id ? bpf_map_lookup_elem(&sg_lb_backend, &id) : NULL;
	if (!b || b->kind != SG_LB_NAT)
		return id ? SG_DROP_LB_NO_BACKEND : reason;
	q->far = b->addr;
	q->far_port = bpf_htons((__u16)(bpf_ntohs(w->ask.key.dport) + vip->port_delta));
	q->backend = (__u16)id;
	q->obj = sg_is_v4(&q->far) ? svc->obj4 : svc->obj6;
	w->ask.fresh = 1;
	obj = sg_st_obj_of(q->obj);
	/* Who keeps its address cannot be seen by another family. */
	if (!obj || (obj->flags & SG_ST_KEEP && sg_is_v4(&q->far) != sg_is_v4(&q->near)))
		return SG_DROP_LB_NO_BACKEND;
	return 0;
}

/* Hands a packet that sg_lb_general() has kept to the engine. */
SG_INLINE bool sg_lb_ask_engine(struct sg_work *w, const struct sg_lb_work *lw)
{
	struct sg_st_svc *svc;
	__u32 at = lw->svc;

	svc = bpf_map_lookup_elem(&sg_st_svcs, &at);
	if (!svc)
		return false;
	w->way = SG_WAY_OUT;
	w->st.svc = (__u16)(at + 1);
	w->st.obj = svc->obj;
	w->st.vport = lw->ask.key.dport;
	return true;
}

SG_INLINE bool sg_lb_is_sent(enum sg_reason reason)
{
	return reason == SG_OK_44 || reason == SG_OK_66 || reason == SG_OK_46 || reason == SG_OK_64 || reason == SG_OK_46_LOCAL ||
	       reason == SG_OK_64_LOCAL;
}

/* What became of the packet in the end, for the VIP and its backend. */
SG_GLOBAL int sg_lb_natted(const struct sg_work *w, struct sg_lb_work *lw, __u32 reason)
{
	__u32 stat, id;
	struct sg_lb_stat *s;
	struct sg_lb_cpu *c;

	if (!w || !lw)
		return 0;
	stat = lw->stat;
	id = w->st.backend;
	if (!sg_lb_is_sent(reason)) {
		if (w->act == SG_ACT_DROP)
			sg_lb_count_drop(stat, reason, lw->segs);
		return 0;
	}
	/* Forged SYNs put no client down. */
	if (lw->ask.affinity_ns && !lw->ask.first)
		sg_lb_attach(&lw->ask, id, bpf_ktime_get_ns());
	s = bpf_map_lookup_elem(&sg_lb_stats, &stat);
	c = bpf_map_lookup_elem(&sg_lb_cpu, &id);
	if (s) {
		s->packets += lw->segs;
		s->bytes += lw->bytes;
		s->flows += lw->ask.fresh;
	}
	if (c) {
		c->packets += lw->segs;
		c->bytes += lw->bytes;
		c->flows += lw->ask.fresh;
	}
	return 0;
}

#endif
