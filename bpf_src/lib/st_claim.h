/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether a packet is the engine's at all: its addresses and ports, read as far as that takes. */
#ifndef SG_ST_CLAIM_H
#define SG_ST_CLAIM_H

#include "nat.h"
#include "st_frag.h"
#include "st_share.h"

SG_INLINE bool sg_st_icmp_is_error(__u8 version, __u8 type)
{
	return version == 4 ? type == 3 || type == 4 || type == 5 || type == 11 || type == 12 : type < 128;
}

/* Ports behind `k->proto`; of ICMP the identifier. `k->wish` says that they are known. */
SG_INLINE void sg_st_peek_ports(sg_ctx *ctx, __u32 l4, struct sg_st *k)
{
	__u16 b[4];

	if (k->proto == IPPROTO_TCP || k->proto == IPPROTO_UDP) {
		if (sg_load(ctx, l4, b, 4))
			return;
		k->near_port = b[0];
		k->far_port = b[1];
		k->wish = 1;
	} else if (k->proto == IPPROTO_ICMP || k->proto == IPPROTO_ICMPV6) {
		if (sg_load(ctx, l4, b, 8))
			return;
		k->near_port = k->far_port = b[2];
		k->wish = 1;
	}
}

/* The packet embedded in an ICMP error: it went the other way. */
SG_GLOBAL int sg_st_peek_inner(sg_ctx *ctx, const struct sg_pkt *p, struct sg_st *k)
{
	__u32 at;
	struct ipv6hdr ip6;
	struct iphdr ip;
	__be16 port;

	if (!p || !k)
		return 0;
	at = p->l4 + SG_ICMP_LEN;
	if (p->version == 4) {
		if (sg_load(ctx, at, &ip, sizeof(ip)))
			return 0;
		k->near = sg_addr4(ip.daddr);
		k->far = sg_addr4(ip.saddr);
		k->proto = ip.protocol;
		if (*(__u8 *)&ip >> 4 != 4 || ip.frag_off & bpf_htons(SG_IP_OFFSET))
			return 0;
		sg_st_peek_ports(ctx, at + (*(__u8 *)&ip & 15) * 4, k);
	} else {
		if (sg_load(ctx, at, &ip6, sizeof(ip6)))
			return 0;
		__builtin_memcpy(&k->near, &ip6.daddr, 16);
		__builtin_memcpy(&k->far, &ip6.saddr, 16);
		k->proto = ip6.nexthdr;
		sg_st_peek_ports(ctx, at + SG_V6_LEN, k);
	}
	port = k->near_port;
	k->near_port = k->far_port;
	k->far_port = port;
	return 0;
}

/* Reads what says whose packet this is into `w->st`: near and far are source and destination; of an ICMP error, those of the packet embedded in
 * it, turned round. Extension headers are followed here. */
SG_INLINE int sg_st_peek(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_st *k = &w->st;
	struct sg_pkt *p = &w->pkt;
	__be32 ports;
	__u8 type;

	if (p->version == 6 && sg_is_exthdr(p->proto) && sg_parse_exthdrs(ctx, p))
		return 0;
	k->near = p->saddr;
	k->far = p->daddr;
	k->proto = p->proto;
	if (p->fragment && p->frag_off) {
		ports = (__be32)sg_st_frag_ports(p, sg_st_now());
		k->near_port = (__be16)ports;
		k->far_port = (__be16)(ports >> 16);
		k->wish = ports != 0;
		return 0;
	}
	if (p->proto == (p->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		if (sg_load(ctx, p->l4, &type, 1))
			return 0;
		if (sg_st_icmp_is_error(p->version, type)) {
			sg_st_peek_inner(ctx, p, k);
			return 0;
		}
	}
	sg_st_peek_ports(ctx, p->l4, k);
	return 0;
}

SG_INLINE bool sg_st_has(const struct sg_nat_table *t, const struct sg_pkt *p, __u32 four, __u32 six)
{
	return t->stateful & (p->version == 4 ? four : six);
}

SG_INLINE __u8 sg_st_proto(__u8 proto)
{
	return proto == IPPROTO_ICMPV6 ? IPPROTO_ICMP : proto;
}

/* Index + 1 of the service at this address and port. */
SG_INLINE __u32 sg_st_svc_at(const struct sg_addr *addr, __be16 port, __u8 proto)
{
	struct sg_st_vip key = {};
	__u32 *svc;

	key.addr = *addr;
	key.port = port;
	key.proto = proto;
	svc = bpf_map_lookup_elem(&sg_st_vip, &key);
	return svc ? *svc + 1 : 0;
}

SG_INLINE bool sg_st_is_neighbour(sg_ctx *ctx, const struct sg_pkt *p)
{
	__u8 type = 0;

	return p->version == 6 && p->ttl == 255 && !sg_load(ctx, p->l4, &type, 1) && (type == 135 || type == 136);
}

/* A backend's answer to a client that kept its address: `near` is the backend. Nobody else's packets are touched, although no address of them is
 * this node's: both ends of a session must be right. Sets what a claim sets. */
SG_INLINE bool sg_st_claim_kept(const struct sg_nat_table *t, struct sg_work *w)
{
	struct sg_st_desk *d = sg_st_desk_of();
	struct sg_st *k = &w->st;
	__u32 port = bpf_ntohs(k->far_port), base = w->pkt.version == 4 ? t->kept4 : t->kept6, *id;
	struct sg_st_sess *s;
	struct sg_st_map *m;

	if (!d || (k->proto != IPPROTO_TCP && k->proto != IPPROTO_UDP))
		return false;
	d->both.addr = k->near;
	d->both.port = k->near_port;
	d->both.map = sg_st_by_port(base + sg_st_proto_number(k->proto) * SG_ST_KEPT_BLOCKS + port / SG_ST_BLOCK, port);
	id = bpf_map_lookup_elem(&sg_st_find, &d->both);
	s = id ? sg_st_sess_of(*id) : NULL;
	if (!s || s->state == SG_ST_FREE || s->rport != k->near_port || !sg_st_same(&s->remote, &k->near))
		return false;
	m = sg_st_map_of(s->map);
	if (!m || !m->refs || m->out_port != k->far_port || m->proto != k->proto || !sg_st_same(&m->out, &k->far))
		return false;
	k->kept = 1;
	k->map = s->map + 1;
	k->obj = m->obj;
	w->way = SG_WAY_IN;
	return true;
}

/* Whether the engine uses the port of `own` that a packet is for. */
SG_INLINE bool sg_st_uses(const struct sg_st *k, const struct sg_st_own *own)
{
	__u32 port = bpf_ntohs(k->far_port), n = port / SG_ST_BLOCK, index;
	const struct sg_st_ports *b;

	if (own->flags & SG_OWN_STATIC)
		return true;
	if (n < own->first_block || n >= own->first_block + own->blocks)
		return false;
	index = own->base + sg_st_proto_number(k->proto) * own->blocks + n - own->first_block;
	b = bpf_map_lookup_elem(&sg_st_port, &index);
	return b && b->used & (1ULL << (port & 63));
}

/* Whether a packet to `own` may be the engine's. What is the host's is not looked at any further: it may be of any protocol, have no checksum (as
 * VXLAN), or a TTL of 1. A first fragment's port is noted for those that follow; where some came before it, the engine finds out whose they are. */
SG_INLINE bool sg_st_maybe_ours(const struct sg_pkt *p, const struct sg_st *k, const struct sg_st_own *own)
{
	const struct sg_st_obj *obj;

	if (!(own->flags & SG_OWN_HOST))
		return true;
	if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP && p->proto != IPPROTO_ICMP && p->proto != IPPROTO_ICMPV6)
		return false;
	if (!k->wish)
		return p->fragment && p->frag_off;
	if (sg_st_uses(k, own))
		return true;
	if (!p->fragment || p->atomic || p->frag_off)
		return false;
	obj = sg_st_obj_of(own->obj);
	return obj && sg_st_frag_note(p, k->near_port | ((__u32)k->far_port << 16), sg_st_now(), obj->life[SG_LIFE_FRAGMENT]);
}

/* Whose packet is this: sets `w->way`, and in `w->st` obj and svc. */
SG_GLOBAL int sg_st_claim(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	struct sg_pkt *p;
	struct sg_st_svc *svc;
	struct sg_st_own *own;
	__u32 at;
	int gw;

	if (!t || !w)
		return false;
	p = &w->pkt;
	if (sg_st_has(t, p, SG_ST_HAS_SVC4 | SG_ST_HAS_OWN4 | SG_ST_HAS_KEPT4, SG_ST_HAS_SVC6 | SG_ST_HAS_OWN6 | SG_ST_HAS_KEPT6)) {
		sg_st_peek(ctx, w);
		if (sg_st_has(t, p, SG_ST_HAS_SVC4, SG_ST_HAS_SVC6) && w->st.wish) {
			at = sg_st_svc_at(&w->st.far, w->st.far_port, w->st.proto);
			svc = NULL;
			if (at) {
				at--;
				svc = bpf_map_lookup_elem(&sg_st_svcs, &at);
			}
			if (svc) {
				w->way = SG_WAY_OUT;
				w->st.svc = (__u16)(at + 1);
				w->st.obj = svc->obj;
				return true;
			}
		}
		if (sg_st_has(t, p, SG_ST_HAS_OWN4, SG_ST_HAS_OWN6)) {
			own = sg_st_own_of(&p->daddr);
			/* Whoever has the address answers for it: neighbours ask it directly, too (RFC 4861 7.3.3). */
			if (own && !(p->proto == IPPROTO_ICMPV6 && sg_st_is_neighbour(ctx, p)) &&
			    sg_st_maybe_ours(p, &w->st, own)) {
				w->way = SG_WAY_IN;
				w->st.obj = own->obj;
				return true;
			}
		}
	}
	if (sg_st_has(t, p, SG_ST_HAS_KEPT4, SG_ST_HAS_KEPT6) && w->st.wish && sg_st_claim_kept(t, w))
		return true;
	if (p->version != 6 || !(t->stateful & SG_ST_HAS_GW))
		return false;
	gw = sg_nat_prefix6(t, &p->daddr);
	if (gw < 0 || !(sg_nat_gw(t, gw)->flags & SG_GW_STATEFUL))
		return false;
	w->way = SG_WAY_OUT;
	w->st.obj = sg_nat_gw(t, gw)->obj;
	return true;
}

#endif
