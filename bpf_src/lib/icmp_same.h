/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors of stateful NAT within a family (RFC 5508 4): addresses and numbers change in place, outside and in the packet that is embedded. */
#ifndef SG_ICMP_SAME_H
#define SG_ICMP_SAME_H

#include "icmp_xlat.h"
#include "st_nat.h"

SG_INLINE bool sg_st_same_family(const struct sg_work *w)
{
	return w->way && sg_is_v4(&w->dst.addr) == (w->pkt.version == 4);
}

/* The embedded header: 20 bytes of IPv4 or 40 of IPv6, and 8 or 20 bytes behind it. */
struct sg_same {
	__be32 ip[10];
	__be32 l4[5];
	__u32 ip_len;
	__u32 l4_len;
	__u32 pad;
	__u64 addr_diff;
};

SG_INLINE __u64 sg_same_sum(const struct sg_same *s)
{
	__u64 sum = 0;
	__u32 i;

	for (i = 0; i < 10; i++)
		sum += s->ip[i];
	for (i = 0; i < 5; i++)
		sum += s->l4[i];
	return sum;
}

/* New addresses of the embedded packet. */
SG_INLINE void sg_same_addrs(struct sg_same *s, const struct sg_work *in)
{
	if (in->pkt.version == 4) {
		s->ip[3] = in->src.addr.w[3];
		s->ip[4] = in->dst.addr.w[3];
		/* Of the word of TTL, protocol and checksum, the last half. */
		((__u16 *)s->ip)[5] = sg_csum_update(((__u16 *)s->ip)[5], s->addr_diff);
	} else {
		__builtin_memcpy(s->ip + 2, &in->src.addr, 16);
		__builtin_memcpy(s->ip + 6, &in->dst.addr, 16);
	}
}

/* New numbers of the embedded packet, and its checksum where it is there. */
SG_INLINE void sg_same_l4(struct sg_same *s, const struct sg_work *in)
{
	__u16 *half = (__u16 *)s->l4, old;
	__u8 proto = in->pkt.proto;
	bool udp = proto == IPPROTO_UDP;
	__u64 diff;

	if (in->pkt.frag_off)
		return;
	if (udp || proto == IPPROTO_TCP) {
		diff = s->addr_diff + sg_csum_neg(s->l4[0]) + in->l4.new_ports;
		s->l4[0] = in->l4.new_ports;
		if (udp && half[3]) {
			half[3] = sg_csum_update(half[3], diff);
			half[3] = half[3] ?: 0xffff;
		} else if (!udp && s->l4_len == 20) {
			half[8] = sg_csum_update(half[8], diff);
		}
		return;
	}
	old = half[2];
	half[2] = in->l4.new_id;
	diff = sg_csum_neg(old) + in->l4.new_id;
	half[1] = sg_csum_update(half[1], in->pkt.version == 4 ? diff : diff + s->addr_diff);
}

SG_INLINE bool sg_same_read(sg_ctx *ctx, struct sg_same *s, const struct sg_pkt *p, struct sg_pkt *q)
{
	bool v4 = p->version == 4;
	__u32 have;

	q->l3 = p->l4 + SG_ICMP_LEN;
	s->ip_len = v4 ? SG_V4_LEN : SG_V6_LEN;
	if (v4) {
		if (sg_load(ctx, q->l3, s->ip, SG_V4_LEN) || *(__u8 *)s->ip >> 4 != 4)
			return false;
		sg_parse_ip4(q, (struct iphdr *)s->ip);
	} else {
		if (sg_load(ctx, q->l3, s->ip, SG_V6_LEN) || *(__u8 *)s->ip >> 4 != 6)
			return false;
		sg_parse_ip6(q, (struct ipv6hdr *)s->ip);
	}
	have = p->end > q->l4 ? p->end - q->l4 : 0;
	s->l4_len = have >= 20 ? 20 : 8;
	if (have < 8)
		return false;
	return !(have >= 20 ? sg_load(ctx, q->l4, s->l4, 20) : sg_load(ctx, q->l4, s->l4, 8));
}

/* `w->st` has the engine's answer for the embedded packet, sg_st_error() has found the outer addresses. */
SG_GLOBAL int sg_icmp_same(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_work *in = sg_work(1);
	enum sg_reason reason, done;
	struct sg_same s = {};
	struct sg_pkt *p, *q;
	struct sg_st_obj *obj;
	__u64 sum, diff;
	__u16 csum;
	bool v4;

	if (!w || !in)
		return SG_DROP_STALE;
	obj = sg_st_obj_of(w->st.obj);
	if (!obj)
		return SG_DROP_STALE;
	p = &w->pkt;
	q = &in->pkt;
	v4 = p->version == 4;
	sum = v4 ? 0 : sg_pseudo6(&p->saddr, &p->daddr, p->end - p->l4);
	if (sg_csum_packet(ctx, p->l4, p->end - p->l4, &sum) || sg_csum_fold(sum) != 0xffff)
		return SG_DROP_ICMP_CSUM;
	reason = sg_hop_find(ctx, &w->hop, &w->src.addr, &w->dst.addr, v4, p->proto, p->tos, 0);
	if (reason)
		return reason;
	__builtin_memset(in, 0, sizeof(*in));
	if (!sg_same_read(ctx, &s, p, q))
		return SG_DROP_ICMP_INNER;
	sg_st_inner(w, in, &obj->gw);
	s.addr_diff = sg_csum_neg(sg_csum_addr(&q->saddr) + sg_csum_addr(&q->daddr)) + sg_csum_addr(&in->src.addr) +
		      sg_csum_addr(&in->dst.addr);
	diff = sg_csum_neg(sg_same_sum(&s));
	sg_same_addrs(&s, in);
	sg_same_l4(&s, in);
	diff += sg_same_sum(&s);
	if (!v4)
		diff += sg_csum_neg(sg_csum_addr(&p->saddr) + sg_csum_addr(&p->daddr)) + sg_csum_addr(&w->src.addr) +
			sg_csum_addr(&w->dst.addr);
	if (sg_load(ctx, p->l4 + 2, &csum, sizeof(csum)))
		return SG_DROP_TRUNCATED;
	csum = sg_csum_update(csum, diff);
	if (sg_store(ctx, p->l4 + 2, &csum, sizeof(csum)) ||
	    (v4 ? sg_store(ctx, q->l3, s.ip, SG_V4_LEN) : sg_store(ctx, q->l3, s.ip, SG_V6_LEN)) ||
	    (s.l4_len == 20 ? sg_store(ctx, q->l4, s.l4, 20) : sg_store(ctx, q->l4, s.l4, 8)))
		return SG_DROP_RESIZE;
	w->l4.csum_off = 0; /* that was all of layer 4 */
	reason = v4 ? sg_write44(ctx, w) : sg_write66(ctx, w, &w->src.addr, &w->dst.addr);
	if (reason)
		return reason;
	sg_st_account(ctx, w, &obj->gw);
	done = v4 ? SG_OK_44 : SG_OK_66;
	w->act = sg_hop_send(ctx, &w->hop, &done);
	return done;
}

#endif
