// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sessions of another gateway become sessions here: run by user space (BPF_PROG_TEST_RUN), never attached. The packet is an Ethernet header and
 * a struct sg_eg_session behind it. */
#include "sg/bpf.h"

#define SG_WORK_MAP sg_work_imp

#include "sg/ctx_skb.h"
#include "lib/send_skb.h"
#include "lib/fast_nops.h"
#include "lib/st_nat.h"

enum sg_import {
	SG_IMPORT_DONE = 0,
	SG_IMPORT_KNOWN = 1,  /* was here already */
	SG_IMPORT_TAKEN = 2,  /* another connection has the port */
	SG_IMPORT_FULL = 3,   /* a limit or a full table */
	SG_IMPORT_BROKEN = 4, /* no session, or of no object */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_eg_session);
	__uint(max_entries, 1);
} sg_eg_import SEC(".maps");

/* The mapping, with a reference for the session: found, or made with that very port. */
SG_GLOBAL int sg_import_map(struct sg_st *q)
{
	struct sg_st_map *m;
	__be16 port;

	if (!q)
		return SG_IMPORT_BROKEN;
	port = q->to_port;
	m = sg_st_map_find(q);
	if (m) {
		if (m->out_port != port || !sg_st_same(&m->out, &q->to))
			return SG_IMPORT_TAKEN;
		if (sg_st_sess_find(q, m))
			return SG_IMPORT_KNOWN;
		return sg_st_hold(m) ? SG_IMPORT_DONE : SG_IMPORT_FULL;
	}
	q->wish = bpf_ntohs(port);
	if (sg_st_map_new(q) || !q->map)
		return SG_IMPORT_FULL;
	m = sg_st_map_of(q->map - 1);
	if (m && m->out_port == port)
		return SG_IMPORT_DONE;
	sg_st_release(q->map - 1, false);
	return SG_IMPORT_TAKEN;
}

SEC("tc")
int sg_import_tc(struct __sk_buff *ctx)
{
	__u32 zero = 0;
	struct sg_eg_session *s = bpf_map_lookup_elem(&sg_eg_import, &zero);
	struct sg_work *w = sg_new_work(ctx);
	struct sg_st_obj *obj;
	struct sg_st *q;
	int done;

	if (!w || !s || bpf_skb_load_bytes(ctx, ETH_HLEN, s, sizeof(*s)))
		return SG_IMPORT_BROKEN;
	obj = sg_st_obj_of(s->obj);
	if (!obj || !(obj->flags & SG_ST_LIVE))
		return SG_IMPORT_BROKEN;
	q = &w->st;
	q->near = s->near;
	q->far = s->far;
	q->to = s->to;
	q->near_port = s->near_port;
	q->far_port = s->far_port;
	q->to_port = s->to_port;
	q->obj = s->obj;
	q->proto = s->proto;
	q->now = sg_st_now();
	done = sg_import_map(q);
	if (done)
		return done;
	return sg_st_sess_new(q, s->state, sg_st_life(obj, s->state)) ? SG_IMPORT_FULL : SG_IMPORT_DONE;
}

char _license[] SEC("license") = "Dual BSD/GPL";
