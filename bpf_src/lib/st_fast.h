/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The common packet of stateful NAT: TCP or UDP without options or fragments, of an established session, from one family to the other. The
 * session is looked up for every packet, only the route is remembered. Everything else takes the general path, untouched. */
#ifndef SG_ST_FAST_H
#define SG_ST_FAST_H

#include "flow.h"
#include "st_nat.h"

#define SG_ST_ROUTES 4096

/* The way of packets with these addresses. */
struct sg_st_route {
	struct sg_addr saddr; /* as sent */
	struct sg_addr daddr;
	struct sg_flow_hop hop;
	__u64 until;   /* jiffies */
	__u32 version; /* of the table that said that `daddr` is none of our own */
	__u32 in_ifindex;
	__u32 mtu;
	__u8 tos;
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_route);
	__uint(max_entries, SG_ST_ROUTES);
} sg_st_route SEC(".maps");

/* A packet's new addresses, and what else its route may depend on. */
struct sg_st_q5 {
	struct sg_addr saddr;
	struct sg_addr daddr;
	__be32 ports;
	__u32 version;
	__u8 proto;
	__u8 tos;
	__u8 pad[6];
};

/* What this packet asks the kernel the next ones need not. Returns 0 where they may take the same way. */
SG_GLOBAL int sg_st_route_ask(sg_ctx *ctx, struct sg_st_route *r, struct sg_st_q5 *k)
{
	struct sg_hop hop;

	if (!r || !k)
		return -1;
	r->until = 0;
	/* Hairpinning is for the general path. */
	if (sg_st_own_of(&k->daddr))
		return -1;
	if (sg_hop_find(ctx, &hop, &k->saddr, &k->daddr, sg_is_v4(&k->daddr), k->proto, k->tos, k->ports) || hop.local)
		return -1;
	r->saddr = k->saddr;
	r->daddr = k->daddr;
	r->version = k->version;
	r->in_ifindex = sg_ifindex(ctx);
	r->mtu = hop.mtu;
	r->tos = k->tos;
	r->until = sg_flow_keep(&r->hop, &hop);
	return 0;
}

SG_INLINE struct sg_st_route *sg_st_route_of(sg_ctx *ctx, struct sg_st_q5 *k)
{
	__u64 mix =
		(k->daddr.d[0] ^ k->daddr.d[1] ^ ((k->saddr.d[0] ^ k->saddr.d[1]) * 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL;
	__u32 slot = (mix >> 32) & (SG_ST_ROUTES - 1);
	struct sg_st_route *r = bpf_map_lookup_elem(&sg_st_route, &slot);

	if (!r)
		return NULL;
	if (likely(sg_st_same(&r->daddr, &k->daddr) && sg_st_same(&r->saddr, &k->saddr) && r->version == k->version &&
		   r->tos == k->tos && r->in_ifindex == sg_ifindex(ctx) && bpf_jiffies64() < r->until))
		return r;
	return sg_st_route_ask(ctx, r, k) ? NULL : r;
}

/* The session of an outbound packet. */
SG_INLINE struct sg_st_sess *sg_st_fast_out(struct sg_st *q, const struct sg_st_obj *obj)
{
	struct sg_st_map *m = sg_st_map_find(q);
	struct sg_st_sess *s;

	if (!m)
		return NULL;
	if (q->svc) {
		s = m->last ? sg_st_sess_of(m->last - 1) : NULL;
		if (!s || s->map != q->map - 1)
			return NULL;
		q->far = s->remote;
		q->far_port = s->rport;
	} else {
		s = sg_st_sess_find(q, m);
	}
	if (!s || (s->state != SG_ST_EST && s->state != SG_ST_UDP) || sg_st_past(q->now, s->expires))
		return NULL;
	sg_st_step(s, obj, q, true);
	q->to = m->out;
	q->to_port = m->out_port;
	return s;
}

/* The session of an inbound packet; `q->obj` and `q->svc` are known then. */
SG_INLINE struct sg_st_sess *sg_st_fast_in(struct sg_st *q, const struct sg_st_own *own)
{
	struct sg_st_map *m = sg_st_map_of_port(q, own);
	const struct sg_st_obj *obj;
	struct sg_st_sess *s;

	if (!m)
		return NULL;
	q->obj = m->obj;
	q->svc = m->svc;
	q->vport = m->vport;
	obj = sg_st_obj_of(m->obj);
	s = sg_st_sess_find(q, m);
	if (!obj || !s || (s->state != SG_ST_EST && s->state != SG_ST_UDP) || sg_st_past(q->now, s->expires))
		return NULL;
	sg_st_step(s, obj, q, false);
	q->to = m->in;
	q->to_port = m->in_port;
	return s;
}

SG_INLINE void sg_st_fast_count(sg_ctx *ctx, struct sg_st_sess *s, const struct sg_st_obj *obj, __u32 number, bool out, bool to4,
				__u32 len)
{
	__u32 segs = sg_segments(ctx), key = obj->gw.stat;
	struct sg_st_stat *stat = sg_st_stat_of(number);
	struct sg_nat_stat *gw = bpf_map_lookup_elem(&sg_nat_stats, &key);

	if (stat)
		sg_count(out ? &stat->out : &stat->in, segs, len);
	if (gw)
		sg_count(to4 ? &gw->to4 : &gw->to6, segs, len);
	sg_count(out ? &s->out : &s->in, segs, len);
	sg_metric(to4 ? SG_OK_64 : SG_OK_46, segs, len + ETH_HLEN);
}

/* Reads a plain packet's ports and, of TCP, flags. */
SG_INLINE bool sg_st_fast_l4(sg_ctx *ctx, __u32 l4, bool udp, __be32 *ports)
{
	void *data = sg_data(ctx);
	__u8 *b = data + l4;

	if ((void *)b + (udp ? 8 : 20) > sg_data_end(ctx) || *(__u8 *)data & 1)
		return false; /* a frame to more than this machine is for the general path to refuse */
	__builtin_memcpy(ports, b, 4);
	return udp || !(b[13] & (SG_TCP_SYN | SG_TCP_FIN | SG_TCP_RST));
}

/* Addresses and ports as they are sent; `q` has the engine's answer. */
SG_INLINE void sg_st_fast_new(const struct sg_st *q, const struct sg_st_obj *obj, bool out, struct sg_st_q5 *k)
{
	if (out) {
		k->saddr = q->to;
		k->daddr = q->far;
		k->ports = q->to_port | ((__u32)q->far_port << 16);
	} else {
		k->daddr = q->to;
		k->saddr = sg_is_v4(&q->to) ? q->far : sg_st_embed(&obj->gw, &q->far);
		k->ports = q->far_port | ((__u32)q->to_port << 16);
	}
}

/* A client's service is what it talks to, not the backend. */
SG_INLINE bool sg_st_fast_vip(struct sg_st *q)
{
	__u32 at = q->svc - 1;
	struct sg_st_svc *svc = bpf_map_lookup_elem(&sg_st_svcs, &at);

	if (!svc)
		return false;
	q->far = svc->vip.addr;
	q->far_port = q->vport ? q->vport : svc->vip.port;
	return true;
}

/* Who has a plain packet. */
struct sg_st_hit {
	const struct sg_st_obj *obj;
	struct sg_st_sess *sess;
	__be32 ports; /* as it came */
	bool out;
	__u8 pad[3];
};

/* The object that an outbound packet is for: of the service that it goes to, or else of its prefix. */
SG_INLINE bool sg_st_fast_obj(const struct sg_nat_table *t, const struct sg_plain *p, struct sg_st *q, bool six)
{
	__u32 at = q->svc - 1;
	struct sg_st_svc *svc;
	int gw;

	if (q->svc) {
		svc = bpf_map_lookup_elem(&sg_st_svcs, &at);
		if (!svc)
			return false;
		q->obj = svc->obj;
		return true;
	}
	gw = six ? sg_nat_prefix6(t, &p->daddr) : -1;
	if (gw < 0 || !(sg_nat_gw(t, gw)->flags & SG_GW_STATEFUL))
		return false;
	q->obj = sg_nat_gw(t, gw)->obj;
	q->far = sg_addr4(sg_rfc6052_extract(&p->daddr, sg_nat_gw(t, gw)->prefix_len));
	return true;
}

/* Whose packet this is, its session, and what it becomes (`k`); false where the general path has to look at it. */
SG_INLINE bool sg_st_fast_ask(sg_ctx *ctx, const struct sg_nat_table *t, const struct sg_plain *p, struct sg_st *q,
			      struct sg_st_q5 *k, struct sg_st_hit *hit, bool six)
{
	const struct sg_st_own *own = NULL;
	bool udp = p->proto == IPPROTO_UDP;
	__be32 ports;

	if (!sg_st_fast_l4(ctx, ETH_HLEN + (six ? SG_V6_LEN : SG_V4_LEN), udp, &ports))
		return false;
	hit->ports = ports;
	__builtin_memset(q, 0, sizeof(*q));
	q->proto = p->proto;
	q->now = sg_st_now();
	q->near = p->saddr;
	q->near_port = (__be16)ports;
	q->far = p->daddr;
	q->far_port = (__be16)(ports >> 16);
	if (t->stateful & (six ? SG_ST_HAS_SVC6 : SG_ST_HAS_SVC4))
		q->svc = (__u16)sg_st_svc_at(&q->far, q->far_port, q->proto);
	if (!q->svc && t->stateful & (six ? SG_ST_HAS_OWN6 : SG_ST_HAS_OWN4))
		own = bpf_map_lookup_elem(&sg_st_own, &p->daddr);
	hit->out = !own;
	if (own) {
		if (own->flags & SG_OWN_SAME)
			return false;
		q->near = p->daddr;
		q->near_port = (__be16)(ports >> 16);
		q->far = p->saddr;
		q->far_port = (__be16)ports;
		hit->sess = sg_st_fast_in(q, own);
		hit->obj = sg_st_obj_of(q->obj);
		if (!hit->sess || !hit->obj || (q->svc && !sg_st_fast_vip(q)))
			return false;
	} else {
		if (!sg_st_fast_obj(t, p, q, six))
			return false;
		hit->obj = sg_st_obj_of(q->obj);
		hit->sess = hit->obj ? sg_st_fast_out(q, hit->obj) : NULL;
		if (!hit->sess)
			return false;
	}
	sg_st_fast_new(q, hit->obj, hit->out, k);
	k->version = t->version;
	k->proto = p->proto;
	k->tos = p->tos;
	return sg_is_v4(&k->daddr) == six;
}

SG_GLOBAL int sg_st_fast64(sg_ctx *ctx, const struct sg_nat_table *t)
{
	struct sg_st_route *r;
	struct sg_st_q5 k = {};
	struct sg_st_hit hit;
	struct sg_plain p;
	struct sg_st q;
	struct iphdr ip = {};
	__u64 diff;

	if (!t || !sg_plain6(ctx, &p))
		return SG_FLOW_GENERAL;
	if (!sg_st_fast_ask(ctx, t, &p, &q, &k, &hit, true))
		return SG_FLOW_GENERAL;
	r = sg_st_route_of(ctx, &k);
	if (!r || p.seg_len - 20 > r->mtu || p.len - 20 > 65535)
		return SG_FLOW_GENERAL;
	*(__u8 *)&ip = 0x45;
	ip.tos = hit.obj->gw.flags & SG_GW_FIXED_TOS ? hit.obj->gw.tos : p.tos;
	ip.tot_len = bpf_htons((__u16)(p.len - 20));
	if (p.seg_len - 20 > SG_V4_DF_MIN)
		ip.frag_off = bpf_htons(SG_IP_DF);
	else
		ip.id = bpf_htons(sg_new_ipid(k.saddr.w[3], k.daddr.w[3], sg_segments(ctx)));
	ip.ttl = p.ttl - 1;
	ip.protocol = p.proto;
	ip.saddr = k.saddr.w[3];
	ip.daddr = k.daddr.w[3];
	ip.check = sg_csum_v4(&ip);
	sg_st_fast_count(ctx, hit.sess, hit.obj, q.obj, hit.out, true, p.len);
	diff = sg_csum_neg(sg_csum_addr(&p.saddr) + sg_csum_addr(&p.daddr)) + ip.saddr + ip.daddr;
	if (sg_l4_ports(ctx, ETH_HLEN + SG_V6_LEN, p.proto == IPPROTO_UDP ? 6 : 16, k.ports, sg_csum_neg(hit.ports) + k.ports,
			p.proto == IPPROTO_UDP))
		return TC_ACT_SHOT;
	return sg_flow_put4(ctx, &r->hop, &ip, sg_csum_fold32(diff));
}

SG_GLOBAL int sg_st_fast46(sg_ctx *ctx, const struct sg_nat_table *t)
{
	struct sg_st_route *r;
	struct sg_st_q5 k = {};
	struct sg_st_hit hit;
	struct sg_plain p;
	struct sg_st q;
	struct ipv6hdr ip6;
	__u64 diff;
	__u8 *b = (__u8 *)&ip6, tc;

	if (!t || !sg_plain4(ctx, &p) || !sg_st_fast_ask(ctx, t, &p, &q, &k, &hit, false))
		return SG_FLOW_GENERAL;
	r = sg_st_route_of(ctx, &k);
	if (!r || p.seg_len + 20 > (p.df || hit.obj->gw.low_mtu > r->mtu ? r->mtu : hit.obj->gw.low_mtu) || p.len > 65535 - 20)
		return SG_FLOW_GENERAL;
	tc = hit.obj->gw.flags & SG_GW_ZERO_TC ? 0 : p.tos;
	b[0] = 0x60 | (tc >> 4);
	b[1] = (__u8)(tc << 4);
	b[2] = 0;
	b[3] = 0;
	ip6.payload_len = bpf_htons((__u16)(p.len - SG_V4_LEN));
	ip6.nexthdr = p.proto;
	ip6.hop_limit = p.ttl - 1;
	__builtin_memcpy(&ip6.saddr, &k.saddr, 16);
	__builtin_memcpy(&ip6.daddr, &k.daddr, 16);
	sg_st_fast_count(ctx, hit.sess, hit.obj, q.obj, hit.out, false, p.len);
	diff = sg_csum_neg((__u64)p.saddr.w[3] + p.daddr.w[3]) + sg_csum_addr(&k.saddr) + sg_csum_addr(&k.daddr);
	if (sg_l4_ports(ctx, ETH_HLEN + SG_V4_LEN, p.proto == IPPROTO_UDP ? 6 : 16, k.ports, sg_csum_neg(hit.ports) + k.ports,
			p.proto == IPPROTO_UDP))
		return TC_ACT_SHOT;
	return sg_flow_put6(ctx, &r->hop, &ip6, sg_csum_fold32(diff));
}

#endif
