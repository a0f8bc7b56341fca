/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The balancer's common packet in XDP: TCP or UDP without options, to a port that has an entry of its own. Everything else is sg_lb_general()'s. */
#ifndef SG_LB_FAST_H
#define SG_LB_FAST_H

#include "lb.h"

#define SG_LB_RECENT 1024 /* a power of two */
#define SG_LB_RECENT_BITS 10

/* A copy of a VIP. To find one in a hash map takes three calls, a quarter of what a packet costs. It counts while sg_lb_gen is the number of when it
 * was made, and that is even. */
struct sg_lb_recent {
	__u64 key[3]; /* address; port and protocol */
	struct sg_lb_vip vip;
	__u32 gen;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_recent);
	__uint(max_entries, SG_LB_RECENT);
} sg_lb_recent SEC(".maps");

/* What sg_lb_vip has for these. A key is only made where there is no copy: stored in parts and read as words, it would stall for 7 ns. */
SG_INLINE const struct sg_lb_vip *sg_lb_vip_of(const struct sg_addr *addr, __be16 port, __u8 proto)
{
	__u64 k0 = addr->d[0], k1 = addr->d[1], k2 = port | ((__u64)proto << 16);
	__u32 at = ((k0 ^ k1 ^ k2) * 0x9e3779b97f4a7c15ULL) >> (64 - SG_LB_RECENT_BITS), zero = 0, now;
	struct sg_lb_recent *r = bpf_map_lookup_elem(&sg_lb_recent, &at);
	__u32 *gen = bpf_map_lookup_elem(&sg_lb_gen, &zero);
	struct sg_lb_key key = {};
	const struct sg_lb_vip *vip;

	if (!r || !gen)
		return NULL;
	now = *(volatile __u32 *)gen;
	if (likely(!((r->key[0] ^ k0) | (r->key[1] ^ k1) | (r->key[2] ^ k2)) && r->gen == now && !(now & 1)))
		return &r->vip;
	/* Atomic, for its order: the VIP is read after the number, on every machine. */
	now = __sync_fetch_and_add(gen, 0);
	key.addr = *addr;
	key.port = port;
	key.proto = proto;
	vip = bpf_map_lookup_elem(&sg_lb_vip, &key);
	if (!vip || now & 1)
		return vip;
	r->key[0] = k0;
	r->key[1] = k1;
	r->key[2] = k2;
	r->vip = *vip;
	r->gen = now;
	return vip;
}

/* Addresses and what forwarding must know of a packet of TCP or UDP without options; the offset of layer 4, or 0 where it is another one. */
SG_INLINE __u32 sg_lb_plain4(sg_ctx *ctx, struct sg_addr *saddr, struct sg_addr *daddr, struct sg_lb_pkt *p)
{
	struct iphdr *ip = sg_data(ctx) + ETH_HLEN;

	if ((void *)(ip + 1) > sg_data_end(ctx))
		return 0;
	p->proto = ip->protocol;
	p->len = bpf_ntohs(ip->tot_len);
	p->tos = ip->tos;
	*saddr = sg_addr4(ip->saddr);
	*daddr = sg_addr4(ip->daddr);
	if (*(__u8 *)ip != 0x45 || ip->frag_off & ~bpf_htons(SG_IP_DF) || p->len < SG_V4_LEN + 20 ||
	    sg_v4_illegal_source(ip->saddr))
		return 0;
	return ETH_HLEN + SG_V4_LEN;
}

SG_INLINE __u32 sg_lb_plain6(sg_ctx *ctx, struct sg_addr *saddr, struct sg_addr *daddr, struct sg_lb_pkt *p)
{
	struct ipv6hdr *ip6 = sg_data(ctx) + ETH_HLEN;
	__u8 *b = (__u8 *)ip6;

	if ((void *)(ip6 + 1) > sg_data_end(ctx))
		return 0;
	p->v6 = 1;
	p->proto = ip6->nexthdr;
	p->len = bpf_ntohs(ip6->payload_len) + SG_V6_LEN;
	p->tos = (__u8)(b[0] << 4) | (b[1] >> 4);
	__builtin_memcpy(saddr, &ip6->saddr, 16);
	__builtin_memcpy(daddr, &ip6->daddr, 16);
	if (b[0] >> 4 != 6 || p->len < SG_V6_LEN + 20 || sg_v6_illegal_source(saddr))
		return 0;
	return ETH_HLEN + SG_V6_LEN;
}

/* The common packet: TCP or UDP without options, to a port that has an entry of its own and asks for a slot and no more. Not a function of its own,
 * which would cost as much as three lookups; and once for each family, which saves registers and with them a fifth of its stores. */
SG_INLINE int sg_lb_fast_of(sg_ctx *ctx, bool v6)
{
	const struct sg_lb_chunk *chunk;
	const struct sg_lb_vip *vip;
	struct sg_lb_cpu *cpu = NULL;
	__u32 id, at, ports, len;
	struct sg_addr saddr, daddr;
	struct sg_lb_pkt p = {};
	struct sg_lb_work *w;
	enum sg_reason reason;
	__u64 hash;
	__u8 *data, *head;
	bool first;
	int act;

	p.l4 = v6 ? sg_lb_plain6(ctx, &saddr, &daddr, &p) : sg_lb_plain4(ctx, &saddr, &daddr, &p);
	data = sg_data(ctx);
	head = data + p.l4;
	if (!p.l4 || (void *)head + 20 > sg_data_end(ctx))
		return SG_LB_GENERAL;
	p.l3 = ETH_HLEN;
	len = sg_frame_len(ctx) - ETH_HLEN;
	if ((p.proto != IPPROTO_TCP && p.proto != IPPROTO_UDP) || p.len > len || *data & 1 ||
	    (p.proto == IPPROTO_TCP && head[12] < 0x50))
		return SG_LB_GENERAL;
	ports = *(const __u32 *)head;
	p.dport = *(__be16 *)(head + 2);
	vip = sg_lb_vip_of(&daddr, p.dport, p.proto);
	/* What takes more than a slot is for the general path. */
	if (!vip || vip->flags & ~SG_LB_SERVICE_ONLY)
		return vip ? SG_LB_GENERAL : SG_LB_NO_PORT;
	first = p.proto == IPPROTO_TCP && sg_lb_is_first(head[13]);
	hash = sg_lb_hash_flow(vip, &saddr, &daddr, ports, p.proto);
	chunk = sg_lb_chunk(vip, hash, &at);
	if (!chunk)
		return SG_LB_GENERAL;
	id = chunk->slot[at].backend;
	if (unlikely(chunk->slot[at].former)) {
		id = 0;
		w = bpf_map_lookup_elem(&SG_LB_WORK_MAP, &id);
		if (!w)
			return SG_LB_GENERAL;
		__builtin_memset(&w->ask, 0, sizeof(w->ask));
		w->ask.key.saddr = saddr;
		w->ask.key.daddr = daddr;
		w->ask.key.sport = ports & 0xffff;
		w->ask.key.dport = p.dport;
		w->ask.key.proto = p.proto;
		w->ask.hash = hash;
		w->ask.first = first;
		sg_lb_ask_chunk(&w->ask, vip, chunk, chunk->slot[at]);
		id = (__u16)sg_lb_track(&w->ask);
		first = w->ask.fresh;
	}
	p.delta = vip->port_delta;
	p.spread = hash >> 32;
	act = sg_lb_send(ctx, &p, id, &cpu, &reason);
	return sg_lb_done(act, reason, vip->stat, cpu, 1, len, first);
}

SG_INLINE int sg_lb_fast(sg_ctx *ctx, __be16 proto)
{
	if (proto == bpf_htons(ETH_P_IP))
		return sg_lb_fast_of(ctx, false);
	return proto == bpf_htons(ETH_P_IPV6) ? sg_lb_fast_of(ctx, true) : SG_LB_FOREIGN;
}

#endif
