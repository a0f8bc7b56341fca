// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sessions of another gateway become sessions here, those of this one are told: run by user space (BPF_PROG_TEST_RUN), never attached. */
#include "sg/bpf.h"

#define SG_WORK_MAP sg_work_imp
#define SG_ST_DESK_MAP sg_st_desk_imp

#include "sg/ctx_skb.h"
#include "lib/send_skb.h"
#include "lib/fast_nops.h"
#include "lib/st_nat.h"
#include "lib/copies.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_eg_session);
	__uint(max_entries, 1);
} sg_eg_import SEC(".maps");

/* Counts what a client has here, too, so that its limits hold after a takeover. They refuse nothing: the other gateway has let the session in.
 * False where there is no room to count. */
SG_GLOBAL int sg_import_count(const struct sg_addr *client, __u32 number, __u32 port)
{
	struct sg_st_obj *obj = sg_st_obj_of(number);
	struct sg_st_client_use *c;

	if (!obj || !client)
		return 0;
	if (!(obj->flags & SG_ST_CLIENTS))
		return 1;
	c = sg_st_client_made(obj, (__u16)number, client, bpf_ktime_get_coarse_ns());
	if (!c)
		return 0;
	__sync_fetch_and_add(&c->sessions, 1);
	if (port)
		__sync_fetch_and_add(&c->ports, 1);
	return 1;
}

/* The mapping, with a reference for the session: found, or made with that very port. */
SG_GLOBAL int sg_import_map(struct sg_st *q)
{
	struct sg_st_obj *obj;
	struct sg_st_map *m;
	__be16 port;

	if (!q)
		return SG_IMPORT_BROKEN;
	port = q->to_port;
	m = sg_st_map_find(q);
	obj = sg_st_obj_of(q->obj);
	if (!obj)
		return SG_IMPORT_BROKEN;
	if (m) {
		if (m->out_port != port || !sg_st_same(&m->out, &q->to))
			return SG_IMPORT_TAKEN;
		if (sg_st_sess_find(q, m))
			return SG_IMPORT_KNOWN;
		if (!sg_import_count(&q->near, q->obj, 0))
			return SG_IMPORT_FULL;
		if (sg_st_hold(m))
			return SG_IMPORT_DONE;
		sg_st_client_less(obj, q->obj, &q->near, false);
		return SG_IMPORT_FULL;
	}
	if (!sg_import_count(&q->near, q->obj, 1))
		return SG_IMPORT_FULL;
	q->wish = bpf_ntohs(port);
	if (sg_st_map_new(q) || !q->map) {
		sg_st_client_less(obj, q->obj, &q->near, false);
		return SG_IMPORT_FULL;
	}
	m = sg_st_map_of(q->map - 1);
	if (m && m->out_port == port)
		return SG_IMPORT_DONE;
	sg_st_client_less(obj, q->obj, &q->near, false);
	sg_st_release(q->map - 1, false);
	return SG_IMPORT_TAKEN;
}

SG_INLINE bool sg_import_valid(const struct sg_eg_session *r, const struct sg_st_obj *obj)
{
	bool tcp = r->proto == IPPROTO_TCP, udp = r->proto == IPPROTO_UDP, icmp = r->proto == IPPROTO_ICMP;

	if (!obj || !(obj->flags & SG_ST_LIVE) || !(obj->flags & SG_ST_SAME))
		return false;
	if (sg_is_v4(&r->near) != sg_is_v4(&r->to) || sg_is_v4(&r->far) != sg_is_v4(&r->to) || !r->to_port)
		return false;
	if (r->state == SG_ST_UDP)
		return udp;
	if (r->state == SG_ST_ICMP)
		return icmp;
	return r->state == SG_ST_FREE ? tcp || udp || icmp : tcp && r->state >= SG_ST_EST && r->state <= SG_ST_TRANS;
}

SG_INLINE void sg_import_question(struct sg_st *q, const struct sg_eg_session *r)
{
	q->near = r->near;
	q->far = r->far;
	q->to = r->to;
	q->near_port = r->near_port;
	q->far_port = r->far_port;
	q->to_port = r->to_port;
	q->obj = r->obj;
	q->proto = r->proto;
	q->now = sg_st_now();
}

/* An end that was told of. */
SG_INLINE int sg_import_end(struct sg_st *q)
{
	struct sg_st_map *m = sg_st_map_find(q);

	if (!m || m->out_port != q->to_port || !sg_st_same(&m->out, &q->to) || !sg_st_sess_find(q, m))
		return SG_IMPORT_KNOWN;
	return sg_st_end(q->sess - 1) ? SG_IMPORT_DONE : SG_IMPORT_KNOWN;
}

/* A session that is here is as young as the other gateway says. */
SG_INLINE void sg_import_refresh(const struct sg_st *q, const struct sg_eg_session *r)
{
	struct sg_st_sess *s = q->sess ? sg_st_sess_of(q->sess - 1) : NULL;
	__u32 state = s ? s->state : SG_ST_FREE;

	if (!s || state == SG_ST_FREE)
		return;
	s->told = q->now;
	if (!r->left)
		return;
	/* The sweeper may have ended it just now. */
	if (__sync_val_compare_and_swap(&s->state, state, r->state) != state)
		return;
	sg_st_whole(s);
	s->expires = q->now + r->left + 1;
}

SG_INLINE int sg_import(struct __sk_buff *ctx, const struct sg_eg_session *r)
{
	const struct sg_st_obj *obj = sg_st_obj_of(r->obj);
	struct sg_work *w = sg_new_work(ctx);
	struct sg_st *q;
	int done;

	if (!w || !sg_import_valid(r, obj))
		return SG_IMPORT_BROKEN;
	q = &w->st;
	sg_import_question(q, r);
	if (r->state == SG_ST_FREE)
		return sg_import_end(q);
	done = sg_import_map(q);
	if (!done) {
		if (sg_st_sess_new(q, r->state, r->left ? r->left : sg_st_life(obj, r->state)))
			return SG_IMPORT_FULL;
		/* What one gateway has handed over is for that one's standby, too. */
		sg_st_changed(q->sess - 1);
	}
	if (done == SG_IMPORT_DONE || done == SG_IMPORT_KNOWN)
		sg_import_refresh(q, r);
	return done;
}

/* The packet is an Ethernet header and a struct sg_eg_session behind it. */
SEC("tc")
int sg_import_tc(struct __sk_buff *ctx)
{
	__u32 zero = 0;
	struct sg_eg_session *r = bpf_map_lookup_elem(&sg_eg_import, &zero);

	if (!r || bpf_skb_load_bytes(ctx, ETH_HLEN, r, sizeof(*r)))
		return SG_IMPORT_BROKEN;
	return sg_import(ctx, r);
}

/* Copies: the next record of sg_eg_inbox, one at each run. */
SEC("tc")
int sg_copy_in_tc(struct __sk_buff *ctx)
{
	struct sg_eg_copy *c = sg_copy_of();
	struct sg_eg_session *r;
	__u32 at;
	int done;

	if (!c)
		return SG_IMPORT_BROKEN;
	at = c->at;
	r = bpf_map_lookup_elem(&sg_eg_inbox, &at);
	if (!r)
		return SG_IMPORT_BROKEN;
	c->at = at + 1;
	done = sg_import(ctx, r);
	if (done == SG_IMPORT_DONE && r->state)
		sg_copy_home(r);
	c->done[done & 7]++;
	return done;
}

/* Copies: tells of sessions, or does what else sg_eg_copy asks for. */
SEC("tc")
int sg_copy_out_tc(struct __sk_buff *ctx __attribute__((unused)))
{
	struct sg_eg_copy *c = sg_copy_of();
	struct sg_st_use *use;

	if (!c)
		return SG_IMPORT_BROKEN;
	if (c->what == SG_COPY_SLEEP || c->what == SG_COPY_WAKE) {
		use = sg_st_use_of(c->obj);
		if (use)
			use->asleep = c->what == SG_COPY_SLEEP;
		return SG_IMPORT_DONE;
	}
	sg_copy_walk(c);
	return SG_IMPORT_DONE;
}

char _license[] SEC("license") = "Dual BSD/GPL";
