/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The common packet of mode NAT in XDP, both ways: TCP or UDP without options or fragments, of a session that stands, between a client and a backend of
 * one family. It is the engine's session that is looked up for every packet; only the way is remembered. Everything else goes on to tc, untouched. */
#ifndef SG_LB_NAT_FAST_H
#define SG_LB_NAT_FAST_H

#include "lb_fast.h"
#include "st_find.h"
#include "st_state.h"

#define SG_LB_WAYS 4096 /* a power of two */
#define SG_LB_WAYS_BITS 12
/* Flags that ask nothing of a packet whose session stands. Limits and server ids are for new flows. */
#define SG_LB_NAT_ONLY (SG_LB_SERVICE_ONLY | SG_LB_NATTED | SG_LB_LIMIT | SG_LB_QUIC)

/* The way of packets with these addresses. */
struct sg_lb_way {
	struct sg_addr saddr; /* as sent */
	struct sg_addr daddr;
	__u64 until;   /* jiffies */
	__u32 version; /* of the table that said that `daddr` is none of our own */
	__u32 in_ifindex;
	__u32 ifindex; /* 0: only tc can go it */
	__u32 mtu;
	__u8 dmac[6];
	__u8 smac[6];
	__u8 tos;
	__u8 no_tx;
	__u8 pad[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_way);
	__uint(max_entries, SG_LB_WAYS);
} sg_lb_way SEC(".maps");

/* A packet, as it came and as it goes. */
struct sg_lb_nat {
	struct sg_st q;
	struct sg_addr saddr; /* new ones */
	struct sg_addr daddr;
	__be32 ports;
	__u32 len; /* of layer 3 */
	__u8 proto;
	__u8 tos;
	__u8 six;
	__u8 out; /* from the client */
	__u32 stat;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_nat);
	__uint(max_entries, 1);
} sg_lb_nat SEC(".maps");

/* Asks for a way anew. 1 where the packet at hand is left to tc, and with it to the kernel's neighbour code: whenever one has expired, but not when
 * another pair of addresses had its place. */
SG_GLOBAL int sg_lb_way_ask(sg_ctx *ctx, struct sg_lb_way *r, const struct sg_lb_nat *n, __u32 version)
{
	bool again;
	struct sg_route rt;

	if (!r || !n)
		return 1;
	again = sg_st_same(&r->daddr, &n->daddr) && sg_st_same(&r->saddr, &n->saddr);
	r->until = 0;
	r->ifindex = 0;
	r->saddr = n->saddr;
	r->daddr = n->daddr;
	r->version = version;
	r->in_ifindex = sg_ifindex(ctx);
	r->tos = n->tos;
	/* Hairpinning is for tc. */
	if (sg_st_own_of(&n->daddr)) {
		r->until = bpf_jiffies64() + SG_NH_LIFETIME_JIFFIES;
		return 1;
	}
	if (sg_route(ctx, &rt, &n->saddr, &n->daddr, !n->six, n->proto, n->tos, 0))
		return 1;
	r->mtu = rt.mtu;
	__builtin_memcpy(r->dmac, rt.fib.dmac, 6);
	__builtin_memcpy(r->smac, rt.fib.smac, 6);
	r->no_tx = sg_no_tx(rt.fib.ifindex);
	/* Ways that only tc can go are remembered as such; one whose neighbour is not known yet is asked for again. */
	if (rt.local || !sg_xdp_sends(ctx, rt.fib.ifindex, r->no_tx)) {
		r->until = bpf_jiffies64() + SG_NH_LIFETIME_JIFFIES;
		return 1;
	}
	if (!(r->dmac[0] | r->dmac[1] | r->dmac[2] | r->dmac[3] | r->dmac[4] | r->dmac[5]))
		return 1;
	r->ifindex = rt.fib.ifindex;
	r->until = bpf_jiffies64() + SG_NH_LIFETIME_JIFFIES;
	return again;
}

SG_INLINE const struct sg_lb_way *sg_lb_way_of(sg_ctx *ctx, const struct sg_lb_nat *n, __u32 version)
{
	__u64 mix =
		(n->daddr.d[0] ^ n->daddr.d[1] ^ ((n->saddr.d[0] ^ n->saddr.d[1]) * 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL;
	__u32 at = mix >> (64 - SG_LB_WAYS_BITS);
	struct sg_lb_way *r = bpf_map_lookup_elem(&sg_lb_way, &at);

	if (!r)
		return NULL;
	if (likely(sg_st_same(&r->daddr, &n->daddr) && sg_st_same(&r->saddr, &n->saddr) && r->version == version &&
		   r->tos == n->tos && r->in_ifindex == sg_ifindex(ctx) && bpf_jiffies64() < r->until))
		return r;
	return sg_lb_way_ask(ctx, r, n, version) ? NULL : r;
}

SG_INLINE bool sg_lb_nat_stands(const struct sg_st_sess *s, const struct sg_st *q)
{
	return (s->state == SG_ST_EST || s->state == SG_ST_UDP) && !sg_st_past(q->now, s->expires);
}

/* Whether a backend still keeps its flows; its id may be another's by now. */
SG_INLINE bool sg_lb_nat_kept(const struct sg_st_sess *s)
{
	__u32 id = s->backend;
	const struct sg_lb_backend *b = bpf_map_lookup_elem(&sg_lb_backend, &id);

	return b && b->kind == SG_LB_NAT && !(b->flags & SG_LB_ENDED) && sg_st_same(&b->addr, &s->remote);
}

/* The session of a client's packet to a virtual address. */
SG_INLINE struct sg_st_sess *sg_lb_nat_out(struct sg_lb_nat *n, const struct sg_lb_vip *vip)
{
	struct sg_st *q = &n->q;
	struct sg_st_sess *s;
	struct sg_st_map *m;

	q->svc = (__u16)(vip->svc + 1);
	q->vport = q->far_port;
	m = sg_st_map_find(q);
	if (!m || !m->last)
		return NULL;
	s = sg_st_sess_of(m->last - 1);
	if (!s || s->map != q->map - 1 || !sg_lb_nat_stands(s, q) || !sg_lb_nat_kept(s))
		return NULL;
	n->stat = vip->stat;
	n->saddr = m->out;
	n->daddr = s->remote;
	n->ports = m->out_port | ((__u32)s->rport << 16);
	return s;
}

/* The session of a backend's packet to `own`. */
SG_INLINE struct sg_st_sess *sg_lb_nat_in(struct sg_lb_nat *n, const struct sg_st_own *own)
{
	struct sg_st *q = &n->q;
	struct sg_st_sess *s;
	struct sg_st_svc *svc;
	struct sg_st_map *m;
	__u32 at;

	m = sg_st_map_of_port(q, own);
	if (!m || !m->svc || !m->vport)
		return NULL;
	q->obj = m->obj;
	s = sg_st_sess_find(q, m);
	at = m->svc - 1;
	svc = bpf_map_lookup_elem(&sg_st_svcs, &at);
	if (!svc || !s || !sg_lb_nat_stands(s, q))
		return NULL;
	n->saddr = svc->vip.addr;
	n->daddr = m->in;
	n->ports = m->vport | ((__u32)m->in_port << 16);
	return s;
}

/* Whose packet this is; `known` says that the destination's port has an entry. */
SG_INLINE struct sg_st_sess *sg_lb_nat_ask(struct sg_lb_nat *n, const struct sg_nat_table *t, bool known)
{
	const struct sg_lb_vip *vip = NULL;
	struct sg_st *q = &n->q;
	const struct sg_st_own *own;
	struct sg_addr near;
	__be16 port;

	if (known)
		vip = sg_lb_vip_of(&q->far, q->far_port, n->proto);
	if (!vip && t->stateful & (n->six ? SG_ST_HAS_OWN6 : SG_ST_HAS_OWN4)) {
		own = sg_st_own_of(&q->far);
		if (own) {
			if (own->flags & SG_OWN_SAME)
				return NULL;
			near = q->far;
			port = q->far_port;
			q->far = q->near;
			q->far_port = q->near_port;
			q->near = near;
			q->near_port = port;
			return sg_lb_nat_in(n, own);
		}
	}
	if (!vip) {
		vip = sg_lb_vip_of(&q->far, 0, 0);
		if (!vip || (vip->flags & (SG_LB_SERVICE | SG_LB_RANGES)) != SG_LB_SERVICE)
			return NULL;
	}
	if (!(vip->flags & SG_LB_NATTED) || vip->flags & ~SG_LB_NAT_ONLY)
		return NULL;
	n->out = 1;
	return sg_lb_nat_out(n, vip);
}

/* Reads a plain packet into `n`; false where it is another one. `sum` is that of its addresses. */
SG_INLINE bool sg_lb_nat_read(sg_ctx *ctx, struct sg_lb_nat *n, __u64 *sum)
{
	struct sg_lb_pkt p = {};
	struct iphdr *ip = sg_data(ctx) + ETH_HLEN;
	__u32 l4, l4_len;
	__u8 *head, *data;
	bool udp;

	l4 = n->six ? sg_lb_plain6(ctx, &n->q.near, &n->q.far, &p) : sg_lb_plain4(ctx, &n->q.near, &n->q.far, &p);
	data = sg_data(ctx);
	head = data + l4;
	if (!l4 || (void *)head + 20 > sg_data_end(ctx) || p.len > sg_frame_len(ctx) - ETH_HLEN || *data & 1)
		return false;
	udp = p.proto == IPPROTO_UDP;
	if (!udp && (p.proto != IPPROTO_TCP || head[12] < 0x50 || head[13] & (SG_TCP_SYN | SG_TCP_FIN | SG_TCP_RST)))
		return false;
	if (n->six) {
		if (((struct ipv6hdr *)ip)->hop_limit <= 1)
			return false;
		*sum = sg_csum_addr(&n->q.near) + sg_csum_addr(&n->q.far);
	} else {
		if (ip->ttl <= 1 || sg_csum_v4(ip))
			return false;
		*sum = (__u64)ip->saddr + ip->daddr;
	}
	/* A device that leaves checksums to the next one, as a veth: the field holds the sum of the pseudo-header. In XDP nobody would finish it. One whole
	 * checksum in 65,536 is the same number. None at all is for tc, too. */
	l4_len = p.len - (l4 - ETH_HLEN);
	if (*(__u16 *)(head + (udp ? 6 : 16)) == sg_csum_fold(*sum + bpf_htons(p.proto) + bpf_htons((__u16)l4_len)) ||
	    (udp && !*(__u16 *)(head + 6)))
		return false;
	n->proto = p.proto;
	n->tos = p.tos;
	n->len = p.len;
	n->q.proto = p.proto;
	n->q.now = sg_st_now();
	n->q.near_port = *(__be16 *)head;
	n->q.far_port = *(__be16 *)(head + 2);
	return true;
}

/* Writes addresses, ports and what covers them. */
SG_INLINE bool sg_lb_nat_write(sg_ctx *ctx, const struct sg_lb_nat *n, const struct sg_lb_way *r, __u64 sum)
{
	bool udp = n->proto == IPPROTO_UDP;
	struct ethhdr *eth = sg_data(ctx);
	struct iphdr *ip = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	__be32 *ports;
	__u16 *field, whole;
	__u64 diff;

	if (n->six) {
		if ((void *)(ip6 + 1) + 20 > sg_data_end(ctx))
			return false;
		ports = (void *)(ip6 + 1);
		diff = sg_csum_neg(sum) + sg_csum_addr(&n->saddr) + sg_csum_addr(&n->daddr);
		ip6->hop_limit--;
		__builtin_memcpy(&ip6->saddr, &n->saddr, 16);
		__builtin_memcpy(&ip6->daddr, &n->daddr, 16);
	} else {
		if ((void *)(ip + 1) + 20 > sg_data_end(ctx))
			return false;
		ports = (void *)(ip + 1);
		diff = sg_csum_neg(sum) + n->saddr.w[3] + n->daddr.w[3];
		/* TTL - 1: the word of TTL and protocol loses 1 in its first byte. */
		ip->check = sg_csum_update(ip->check, diff + sg_csum_neg(ip->ttl) + (__u8)(ip->ttl - 1));
		ip->ttl--;
		ip->saddr = n->saddr.w[3];
		ip->daddr = n->daddr.w[3];
	}
	diff += sg_csum_neg(*ports) + n->ports;
	*ports = n->ports;
	field = (void *)ports + (udp ? 6 : 16);
	whole = sg_csum_update(*field, diff);
	*field = udp && !whole ? 0xffff : whole;
	__builtin_memcpy(eth->h_dest, r->dmac, 6);
	__builtin_memcpy(eth->h_source, r->smac, 6);
	return true;
}

/* What the engine and the balancer count in tc. */
SG_INLINE void sg_lb_nat_count(sg_ctx *ctx, const struct sg_lb_nat *n, struct sg_st_sess *s, const struct sg_st_obj *obj)
{
	__u32 key = obj->gw.stat, stat = n->stat, id = s->backend;
	struct sg_nat_stat *gw = bpf_map_lookup_elem(&sg_nat_stats, &key);
	struct sg_st_stat *of = sg_st_stat_of(n->q.obj);
	__u32 len = sg_frame_len(ctx) - ETH_HLEN;
	struct sg_lb_stat *v;
	struct sg_lb_cpu *c;

	if (of)
		sg_count(n->out ? &of->out : &of->in, 1, n->len);
	if (gw)
		sg_count(n->six ? &gw->to4 : &gw->to6, 1, n->len);
	sg_count(n->out ? &s->out : &s->in, 1, n->len);
	if (!n->out)
		return;
	v = bpf_map_lookup_elem(&sg_lb_stats, &stat);
	c = bpf_map_lookup_elem(&sg_lb_cpu, &id);
	if (v) {
		v->packets++;
		v->bytes += len;
	}
	if (c) {
		c->packets++;
		c->bytes += len;
	}
}

/* SG_LB_GENERAL where the packet is none of these; nothing was changed then. */
SG_GLOBAL int sg_lb_nat_fast(sg_ctx *ctx, __u32 known)
{
	const struct sg_nat_table *t = sg_nat_table();
	const struct sg_st_obj *obj;
	const struct sg_lb_way *r;
	struct sg_st_sess *s;
	struct sg_lb_nat *n;
	__u32 zero = 0;
	__u64 sum = 0;
	long act;

	n = bpf_map_lookup_elem(&sg_lb_nat, &zero);
	if (!t || !n || !t->stateful)
		return SG_LB_GENERAL;
	__builtin_memset(n, 0, sizeof(*n));
	n->six = sg_eth_proto(ctx) == bpf_htons(ETH_P_IPV6);
	if (!sg_lb_nat_read(ctx, n, &sum))
		return SG_LB_GENERAL;
	s = sg_lb_nat_ask(n, t, known);
	obj = s ? sg_st_obj_of(n->q.obj) : NULL;
	if (!s || !obj || obj->flags & SG_ST_SAME || sg_is_v4(&n->saddr) == n->six || sg_is_v4(&n->daddr) == n->six)
		return SG_LB_GENERAL;
	r = sg_lb_way_of(ctx, n, t->version);
	if (!r || !r->ifindex || n->len > r->mtu)
		return SG_LB_GENERAL;
	if (!sg_lb_nat_write(ctx, n, r, sum))
		return SG_LB_GENERAL;
	sg_st_step(s, obj, &n->q, n->out);
	sg_lb_nat_count(ctx, n, s, obj);
	act = sg_xdp_out(ctx, r->ifindex, r->no_tx);
	sg_metric(act == XDP_DROP ? SG_DROP_REDIRECT : n->six ? SG_OK_66 : SG_OK_44, 1, sg_frame_len(ctx));
	return act;
}

#endif
