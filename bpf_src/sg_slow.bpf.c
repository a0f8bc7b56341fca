// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The slow path: tc at the far end of the device that uplinks redirect to. Its near end has no offloads, so what arrives here is an ordinary
 * packet: segmented, with a finished checksum. Fragmenting, ICMP errors of our own, and ICMP errors with their embedded packets. */
#include "sg/bpf.h"

#define SG_WORK_MAP sg_work_slow
#define SG_ST_HOLD 1
#define SG_EG_HOMES 0
#define SG_ST_BALANCED 1
#define SG_LB_WORK_MAP sg_lb_work_slow

#include "sg/ctx_skb.h"
#include "lib/send_skb.h"
#include "lib/rewrite.h"
#include "lib/nat.h"
#include "lib/frag.h"
#include "lib/icmp_xlat.h"
#include "lib/observe.h"
#include "lib/lb_send_skb.h"
#include "lib/lb.h"
#include "lib/icmp_same.h"
#include "lib/st_nat.h"

/* An IPv4 packet that does not fit with its outer header, and may be cut (RFC 791): the packet itself, not the outer one, so that the backend's
 * host puts it together, and a decapsulator need not (RFC 4459 3.1 against 3.2, RFC 4963). The pieces come here once more, and find their backend as
 * all fragments do. */
SG_GLOBAL int sg_lb_cut(struct __sk_buff *ctx, struct sg_lb_work *lw)
{
	__u8 *buf = sg_scratch_buf();
	enum sg_reason reason;
	struct sg_frag f = {};
	struct sg_pkt *p;
	__u32 len, stat;

	if (!lw)
		return SG_ACT_DROP;
	p = &lw->pkt;
	stat = lw->stat;
	len = p->end - p->l4;
	reason = SG_DROP_TOO_BIG;
	/* Not every option belongs into every fragment. */
	if (!buf || p->l4 != p->l3 + SG_V4_LEN || lw->mtu < SG_V4_LEN + 8 || !len || len >= SG_BUF_HALF)
		goto out;
	f.ctx = ctx;
	f.l3 = p->l3;
	f.hdr_len = SG_V4_LEN;
	f.total = len;
	f.base = p->frag_off;
	f.more = p->more;
	f.size = (lw->mtu - SG_V4_LEN) & ~7U;
	f.v4 = 1;
	reason = SG_DROP_TRUNCATED;
	if (sg_load(ctx, p->l4, buf, sg_bounded(len, SG_BUF_HALF)))
		goto out;
	bpf_loop(SG_MAX_FRAGMENTS, sg_frag_one, &f, 0);
	reason = f.failed || f.at < f.total ? SG_DROP_RESIZE : SG_OK_FRAGMENTED;
out:
	if (reason != SG_OK_FRAGMENTED)
		return sg_lb_done(SG_ACT_DROP, reason, stat, NULL, 1, len, 0);
	sg_metric(reason, 1, len);
	return TC_ACT_STOLEN;
}

/* Super-packets that were too long for an outer header come cut to size; what does not fit a backend's path is answered. */
SG_GLOBAL int sg_lb_slow(struct __sk_buff *ctx)
{
	__u32 bytes = ctx->len, zero = 0;
	struct sg_work *w = sg_new_work(ctx);
	int act = sg_lb_general(ctx), answer;
	struct sg_lb_work *lw = bpf_map_lookup_elem(&sg_lb_work_slow, &zero);
	bool v4;

	if (act == SG_LB_FOREIGN || !w || !lw || lw->reason != SG_SLOW_ICMP)
		return act;
	v4 = lw->pkt.version == 4;
	if (v4 && !lw->pkt.df)
		return sg_lb_cut(ctx, lw);
	w->pkt = lw->pkt;
	if (v4)
		sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP4_UNREACH, 4, lw->mtu);
	else
		sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP6_TOO_BIG, 0, lw->mtu < SG_IPV6_MIN_MTU ? SG_IPV6_MIN_MTU : lw->mtu);
	answer = sg_send_icmp(ctx, w);
	if (answer)
		sg_metric(answer, 1, bytes);
	return w->act;
}

/* A stateful object's packet; ICMP errors are matched here and written by sg_icmp_xlat(). */
SG_GLOBAL int sg_slow_stateful(struct __sk_buff *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	int reason, answer = 0;
	struct sg_st_obj *obj;

	if (!t || !w)
		return SG_DROP_STALE;
	reason = sg_st_nat(ctx, t, w);
	if (reason == SG_SLOW_REWRITE)
		answer = sg_st_error(ctx, w);
	if (answer)
		return answer;
	obj = sg_st_obj_of(w->st.obj);
	if (obj)
		w->gw = obj->gw;
	return reason;
}

/* An ICMP error from client to client goes through both translations, with one hop taken off (RFC 5508 REQ-7). */
SG_GLOBAL int sg_slow_hairpin(struct __sk_buff *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	struct sg_st_obj *obj;
	enum sg_reason done = SG_OK_66;
	int reason;
	struct sg_pkt *p;
	struct iphdr ip;

	if (!t || !w)
		return SG_DROP_STALE;
	p = &w->pkt;
	reason = sg_icmp_error64(ctx, t, w, 1);
	if (reason)
		return reason;
	if (sg_load(ctx, p->l3, &ip, sizeof(ip)))
		return SG_DROP_TRUNCATED;
	sg_parse_ip4(p, &ip);
	p->ttl++;
	p->fragment = 0;
	w->way = SG_WAY_IN;
	w->st.svc = 0;
	reason = sg_st_error(ctx, w);
	if (reason)
		return reason;
	obj = sg_st_obj_of(w->st.obj);
	if (!obj)
		return SG_DROP_STALE;
	w->gw = obj->gw;
	reason = sg_icmp_error46(ctx, t, w, 1);
	if (reason)
		return reason;
	SG_ST_COUNT(w->st.obj, hairpin);
	w->act = sg_hop_send(ctx, &w->hop, &done);
	return done;
}

/* Stateless. */
SG_GLOBAL int sg_slow_stateless(struct __sk_buff *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	if (!t || !w || !sg_nat_claim(ctx, t, w, sg_eth_proto(ctx)))
		return SG_DROP_STALE; /* the table changed while the packet was on its way here */
	return w->pkt.version == 6 ? sg_nat64(ctx, t, w) : sg_nat46(ctx, t, w);
}

/* `lw` is what the balancer left of a packet for a VIP in mode NAT, else NULL. */
SG_GLOBAL int sg_slow_claim(struct __sk_buff *ctx, const struct sg_nat_table *t, struct sg_work *w, struct sg_lb_work *lw)
{
	if (!t || !w)
		return false;
	if (!lw)
		return sg_st_claim(ctx, t, w);
	w->pkt = lw->pkt;
	return sg_lb_ask_engine(w, lw);
}

SG_INLINE int sg_slow(struct __sk_buff *ctx)
{
	__be16 proto = sg_eth_proto(ctx);
	const struct sg_nat_table *t = sg_nat_table();
	struct sg_work *w;
	struct sg_lb_work *lw = NULL;
	int act, reason, answer;
	__u32 zero = 0;

	if (sg_feature(SG_F_LB) && !sg_is_ready(ctx)) {
		act = sg_lb_slow(ctx);
		if (act == SG_LB_ENGINE)
			lw = bpf_map_lookup_elem(&SG_LB_WORK_MAP, &zero);
		else if (act != SG_LB_FOREIGN)
			return act == SG_ACT_PASS ? TC_ACT_SHOT : act;
	}
	w = sg_new_work(ctx);
	if (!w || !sg_feature(SG_F_NAT | SG_F_STATEFUL) || (proto != bpf_htons(ETH_P_IP) && proto != bpf_htons(ETH_P_IPV6)))
		return TC_ACT_SHOT;
	if (sg_is_ready(ctx))
		reason = sg_send_ready(ctx, w);
	else if (sg_feature(SG_F_STATEFUL) && t && t->stateful && sg_parse_ip(ctx, w, proto) && sg_slow_claim(ctx, t, w, lw))
		reason = sg_slow_stateful(ctx, t, w);
	else
		reason = sg_slow_stateless(ctx, t, w);
	if (reason == SG_DROP_ST_FRAGMENT)
		reason = sg_st_wait(ctx, w);
	else if (reason == SG_SLOW_FRAGMENT)
		reason = sg_fragment(ctx, t, w);
	else if (reason == SG_SLOW_REWRITE && sg_st_same_family(w))
		reason = sg_icmp_same(ctx, w);
	else if (reason == SG_SLOW_REWRITE && w->way == SG_WAY_OUT && bpf_map_lookup_elem(&sg_st_own, &w->dst.addr))
		reason = sg_slow_hairpin(ctx, t, w);
	else if (reason == SG_SLOW_REWRITE)
		reason = sg_icmp_xlat(ctx, t, w);
	if (w->icmp.send) {
		answer = sg_send_icmp(ctx, w);
		if (answer)
			sg_metric(answer, 1, w->frame_len);
	}
	if (lw)
		sg_lb_natted(w, lw, reason);
	sg_metric(reason, 1, w->frame_len);
	return w->act;
}

SEC("tc")
int sg_slow_tc(struct __sk_buff *ctx)
{
	bool seen = sg_observed() && sg_obs_begin(ctx);
	int act = sg_slow(ctx);

	if (unlikely(seen))
		sg_obs_end(ctx, act, SG_AT_SLOW);
	return act;
}

char _license[] SEC("license") = "Dual BSD/GPL";
