/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The balancer's place in a hook: is this packet for a VIP, and which backend gets it. The common packet, TCP or UDP without options to a
 * port that has an entry of its own, is answered
 * in line; everything else in sg_lb_general(). */
#ifndef SG_LB_H
#define SG_LB_H

#include "lb_icmp.h"
#include "nat.h"
#if SG_ST_BALANCED
#include "st.h"
#include "st_frag.h"
#endif

#define SG_LB_FOREIGN (-16) /* not for a VIP; nothing was changed */
#define SG_LB_GENERAL (-17) /* not the common packet; nothing was changed */
#define SG_LB_ENGINE (-18)  /* for a VIP in mode NAT: the engine's; what was learnt is in SG_LB_WORK_MAP */
/* Flags that ask nothing more of a packet to a port's entry. */
#define SG_LB_SERVICE_ONLY (SG_LB_SERVICE | SG_LB_RANGES | SG_LB_ECHO | SG_LB_PASS_OTHER)

#define SG_TCP_FIN_SYN_RST_ACK 0x17
#define SG_TCP_SYN 0x02

/* One packet on its way through the general path. */
struct sg_lb_work {
	struct sg_pkt pkt;
	struct sg_lb_pkt out;
	struct sg_lb_ask ask;
	__u32 stat;
	__u32 mtu; /* SG_SLOW_ICMP: what would have fitted */
	__u32 bytes;
	__u32 segs;
	__u32 reason;
	__u32 svc; /* SG_LB_ENGINE: index in sg_st_svcs */
	int act;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_work);
	__uint(max_entries, 1);
} SG_LB_WORK_MAP SEC(".maps");

/* Dropped packets by VIP and reason. */
SG_GLOBAL int sg_lb_count_drop(__u32 stat, __u32 reason, __u32 packets)
{
	struct sg_lb_drop_key key = {.stat = stat, .reason = reason};
	struct sg_lb_stat *s = bpf_map_lookup_elem(&sg_lb_stats, &stat);
	__u64 *n = bpf_map_lookup_elem(&sg_lb_drops, &key), first = packets;

	if (s)
		s->drops += packets;
	if (n)
		*n += packets;
	else
		bpf_map_update_elem(&sg_lb_drops, &key, &first, BPF_ANY);
	return 0;
}

/* What became of a packet: counted for the hook, and for the VIP and its backend where it has come to its end. `act` is the verdict. */
SG_INLINE int sg_lb_done(int act, enum sg_reason reason, __u32 stat, struct sg_lb_cpu *c, __u32 segs, __u32 bytes, bool fresh)
{
	struct sg_lb_stat *s;

	sg_metric(reason, segs, bytes);
	if (unlikely(act == SG_ACT_DROP))
		sg_lb_count_drop(stat, reason, segs);
	if (unlikely(reason != SG_OK_LB && reason != SG_OK_LB_ICMP && reason != SG_OK_LB_ECHO))
		return act;
	s = bpf_map_lookup_elem(&sg_lb_stats, &stat);
	if (s) {
		s->packets += segs;
		s->bytes += bytes;
		s->flows += fresh;
	}
	if (c) {
		c->packets += segs;
		c->bytes += bytes;
		c->flows += fresh;
	}
	return act;
}

SG_INLINE __u8 sg_lb_is_first(__u8 tcp_flags)
{
	return (tcp_flags & SG_TCP_FIN_SYN_RST_ACK) == SG_TCP_SYN;
}

SG_INLINE void sg_lb_ask_chunk(struct sg_lb_ask *a, const struct sg_lb_vip *vip, const struct sg_lb_chunk *chunk,
			       struct sg_lb_slot slot)
{
	a->backend = slot.backend;
	a->former = slot.former;
	a->drain_until_ns = chunk->drain_until_ns;
	a->learn_until_ns = chunk->learn_until_ns;
	a->epoch = chunk->epoch;
	a->table = vip->table;
	if (vip->flags & SG_LB_AFFINITY) {
		a->affinity = vip->affinity;
		a->affinity_ns = vip->affinity_s * 1000000000ULL;
		a->epoch = 0;
	}
}

/* QUIC (RFC 9000 17): the server id inside a connection id that the server chose, or 0. */
SG_GLOBAL int sg_lb_quic_backend(sg_ctx *ctx, const struct sg_lb_vip *vip, const struct sg_pkt *p)
{
	struct sg_lb_quic_key key = {};
	__u32 at, len, off;
	const __u32 *id;
	__u8 head[6];

	if (!vip || !p)
		return 0;
	at = p->l4 + 8;
	len = vip->quic_len;
	off = vip->quic_off;
	key.group = vip->quic;
	key.len = len;
	if (sg_load(ctx, at, head, 6) || !len || len > 16 || off > 20)
		return 0;
	if (head[0] & 0x80) {
		/* Initial and 0-RTT packets carry what the client made up; version 0 negotiates. */
		if (!(head[0] & 0x20) || !(head[1] | head[2] | head[3] | head[4]) || head[5] < off + len)
			return 0;
		at += 6;
	} else {
		at += 1;
	}
	if (at + off + len > p->end || sg_load(ctx, at + off, key.id, sg_bounded(len, 16)))
		return 0;
	id = bpf_map_lookup_elem(&sg_lb_quic, &key);
	return id && !sg_lb_down(*id, SG_LB_DOWN) ? *id : 0;
}

/* Which backend, after everything that a VIP may ask for. 0 with `reason` set: none. */
SG_INLINE __u32 sg_lb_decide(sg_ctx *ctx, const struct sg_lb_vip *vip, struct sg_lb_work *w, enum sg_reason *reason)
{
	struct sg_lb_ask *a = &w->ask;
	const struct sg_lb_chunk *chunk;
	struct sg_addr none = {};
	__u32 id = 0, at;

	*reason = SG_DROP_LB_SOURCE;
	if (vip->flags & SG_LB_SOURCES && !sg_lb_source_allowed(vip, &a->key.saddr))
		return 0;
	a->hash = sg_lb_hash_flow(vip, &a->key.saddr, &a->key.daddr, a->key.sport | ((__u32)a->key.dport << 16), a->key.proto);
	w->out.spread = a->hash >> 32;
	*reason = SG_DROP_LB_RATE;
	if (a->first && !a->peek && vip->flags & SG_LB_LIMIT && !sg_lb_admit(vip))
		return 0;
	*reason = SG_DROP_LB_NO_BACKEND;
	if (vip->flags & SG_LB_QUIC && a->key.proto == IPPROTO_UDP && !a->peek)
		id = (__u16)sg_lb_quic_backend(ctx, vip, &w->pkt);
	if (id)
		return id;
	chunk = sg_lb_chunk(vip, vip->flags & SG_LB_AFFINITY ? sg_lb_hash(vip->seed, &a->key.saddr, &none, 0) : a->hash, &at);
	if (!chunk)
		return 0;
	sg_lb_ask_chunk(a, vip, chunk, chunk->slot[at]);
	a->fresh = a->first;
	return a->former || a->affinity_ns ? (__u16)sg_lb_track(a) : a->backend;
}

/* The entry that balances a port of an address; `addr` is the address' own entry. */
SG_INLINE const struct sg_lb_vip *sg_lb_find(const struct sg_lb_vip *addr, const struct sg_addr *daddr, __be16 port, __u8 proto)
{
	const struct sg_lb_vip *vip;

	{
		struct sg_lb_key key = {.addr = *daddr, .port = port, .proto = proto};

		vip = bpf_map_lookup_elem(&sg_lb_vip, &key);
	}
	if (!vip && addr->flags & SG_LB_RANGES) {
		struct sg_lb_range_key range = {.prefixlen = 176, .addr = *daddr, .port = port, .proto = proto};

		vip = bpf_map_lookup_elem(&sg_lb_range, &range);
	}
	if (!vip && addr->flags & SG_LB_SERVICE)
		vip = addr;
	return vip;
}

SG_INLINE struct sg_lb_bucket *sg_lb_frag_of(const struct sg_pkt *p, __u32 *tag)
{
	__u64 h = sg_lb_hash(0, &p->saddr, &p->daddr, ((__u64)p->proto << 32) | p->frag_id);
	__u32 i = SG_LB_PENDING + (h & (SG_LB_FRAG - 1));

	*tag = h >> 32;
	return bpf_map_lookup_elem(&sg_lb_pending, &i);
}

/* The entry of the destination's address, or NULL. */
SG_INLINE const struct sg_lb_vip *sg_lb_claim(sg_ctx *ctx, __be16 proto)
{
	struct sg_lb_key key = {};
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (proto == bpf_htons(ETH_P_IPV6)) {
		if (!sg_reach(ctx, sg_cfg.l2_len + SG_V6_LEN))
			return NULL;
		ip6 = sg_data(ctx) + sg_cfg.l2_len;
		if ((void *)(ip6 + 1) > sg_data_end(ctx) || *(__u8 *)ip6 >> 4 != 6)
			return NULL;
		__builtin_memcpy(&key.addr, &ip6->daddr, 16);
	} else {
		if (proto != bpf_htons(ETH_P_IP) || !sg_reach(ctx, sg_cfg.l2_len + SG_V4_LEN))
			return NULL;
		ip = sg_data(ctx) + sg_cfg.l2_len;
		if ((void *)(ip + 1) > sg_data_end(ctx) || *(__u8 *)ip >> 4 != 4)
			return NULL;
		key.addr = sg_addr4(ip->daddr);
	}
	return bpf_map_lookup_elem(&sg_lb_vip, &key);
}

/* The IP header of a claimed packet. */
SG_INLINE bool sg_lb_parse(sg_ctx *ctx, struct sg_pkt *p, __be16 proto)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	p->l3 = sg_cfg.l2_len;
	if (proto == bpf_htons(ETH_P_IPV6)) {
		ip6 = sg_data(ctx) + p->l3;
		if ((void *)(ip6 + 1) > sg_data_end(ctx))
			return false;
		sg_parse_ip6(p, ip6);
	} else {
		ip = sg_data(ctx) + p->l3;
		if ((void *)(ip + 1) > sg_data_end(ctx))
			return false;
		sg_parse_ip4(p, ip);
	}
	return true;
}

/* Layer 3 of one segment of a super-packet. */
SG_INLINE __u32 sg_lb_segment(sg_ctx *ctx, const struct sg_pkt *p)
{
	__u32 gso = sg_gso_size(ctx), head = p->l4 - p->l3, len = p->end - p->l3;
	__u8 off = 0x20;

	if (sg_lb_is_jumbo(p->version == 6, len, head))
		head -= SG_JUMBO_LEN;
	if (!gso)
		return len;
	if (p->proto == IPPROTO_TCP)
		sg_load(ctx, p->l4 + 12, &off, 1);
	head += (off >> 4) * 4 + gso;
	return head < len ? head : len;
}

/* What must be right before anything else is read. */
SG_INLINE enum sg_reason sg_lb_check(sg_ctx *ctx, struct sg_pkt *p)
{
	__u32 frame = sg_frame_len(ctx);
	int reason;

	if (p->version == 6) {
		/* A super-packet of 64 KB and more has no length of its own. */
		if (p->end == p->l3 + SG_V6_LEN && frame > 65535)
			p->end = frame;
		reason = sg_parse_exthdrs(ctx, p);
		if (reason)
			return reason;
	} else if (p->l4 < p->l3 + SG_V4_LEN) {
		return SG_DROP_BAD_HEADER;
	} else if (p->end == p->l3 && frame > 65535) {
		p->end = frame;
	}
	if (p->end > frame || p->l4 > p->end)
		return SG_DROP_TRUNCATED;
	if (p->version == 4 ? sg_v4_illegal_source(p->saddr.w[3]) : sg_v6_illegal_source(&p->saddr))
		return SG_DROP_SRC_ILLEGAL;
	return 0;
}

SG_INLINE int sg_lb_go(sg_ctx *ctx, struct sg_lb_work *w, __u32 id, struct sg_lb_cpu **cpu, enum sg_reason *reason)
{
#if SG_HOOK_IS_XDP
	return sg_lb_send(ctx, &w->out, id, cpu, reason);
#else
	return sg_lb_send(ctx, &w->out, id, cpu, reason, &w->mtu);
#endif
}

SG_INLINE enum sg_reason sg_lb_other(const struct sg_lb_vip *addr, struct sg_lb_work *w, enum sg_reason reason)
{
	if (!(addr->flags & SG_LB_PASS_OTHER))
		return reason;
	w->act = SG_ACT_PASS;
	return SG_PASS_NO_MATCH;
}

/* A packet for a VIP in mode NAT, once its source may come. The engine is in tc. */
SG_INLINE enum sg_reason sg_lb_to_engine(const struct sg_lb_vip *vip, struct sg_lb_work *w)
{
	if (vip->flags & SG_LB_SOURCES && !sg_lb_source_allowed(vip, &w->ask.key.saddr))
		return SG_DROP_LB_SOURCE;
	if (vip->flags & SG_LB_AFFINITY) {
		w->ask.affinity = vip->affinity;
		w->ask.affinity_ns = vip->affinity_s * 1000000000ULL;
	}
	w->svc = vip->svc;
	w->act = SG_HOOK_IS_XDP ? SG_ACT_PASS : SG_LB_ENGINE;
	return SG_SLOW_XDP;
}

/* Ping and errors. `*id` stays 0 where the packet is finished. */
SG_INLINE enum sg_reason sg_lb_icmp(sg_ctx *ctx, const struct sg_lb_vip *addr, struct sg_lb_work *w, __u32 *id)
{
	struct sg_pkt *p = &w->pkt;
	const struct sg_lb_vip *vip;
	enum sg_reason reason;
	__u32 port_off;
	__u8 type;

	if (p->fragment && !p->atomic)
		return SG_DROP_LB_ICMP;
	if (p->end < p->l4 + SG_ICMP_LEN || sg_load(ctx, p->l4, &type, 1))
		return SG_DROP_TRUNCATED;
	if (p->version == 6 && type >= 133 && type <= 137) {
		w->act = SG_ACT_PASS; /* neighbour discovery is the kernel's */
		return SG_PASS_UNICAST_ONLY;
	}
	if (type == (p->version == 4 ? 8 : 128) && addr->flags & SG_LB_ECHO) {
#if SG_HOOK_IS_XDP
		if (sg_no_tx(sg_ifindex(ctx))) {
			w->act = SG_ACT_PASS;
			return SG_SLOW_XDP;
		}
#endif
		if (!sg_lb_echo(ctx, p))
			return SG_DROP_RESIZE;
#if SG_HOOK_IS_XDP
		w->act = XDP_TX;
#else
		w->act = bpf_redirect(sg_ifindex(ctx), 0);
#endif
		return SG_OK_LB_ECHO;
	}
	if (!sg_lb_is_error(p, type))
		return sg_lb_other(addr, w, SG_DROP_LB_ICMP);
	port_off = (__u32)sg_lb_inner(ctx, p, &w->ask.key);
	if (!port_off)
		return SG_DROP_LB_ICMP;
	vip = sg_lb_find(addr, &p->daddr, w->ask.key.dport, w->ask.key.proto);
	if (!vip)
		return sg_lb_other(addr, w, SG_DROP_LB_ICMP);
	w->ask.peek = 1;
	w->stat = vip->stat;
	if (vip->flags & SG_LB_NATTED)
		return sg_lb_to_engine(vip, w);
	*id = sg_lb_decide(ctx, vip, w, &reason);
	if (!*id)
		return reason;
	w->out.delta = vip->port_delta;
	w->out.dport = w->ask.key.dport;
	w->out.inner = port_off;
	w->out.inner_proto = w->ask.key.proto;
	return SG_OK_LB_ICMP;
}

/* TCP and UDP, whole or a first fragment. */
SG_INLINE enum sg_reason sg_lb_l4(sg_ctx *ctx, const struct sg_lb_vip *addr, struct sg_lb_work *w, __u32 *id)
{
	bool udp = w->pkt.proto == IPPROTO_UDP;
	struct sg_lb_ask *a = &w->ask;
	struct sg_pkt *p = &w->pkt;
	struct sg_lb_bucket *bucket;
	const struct sg_lb_vip *vip;
	enum sg_reason reason;
	__u8 head[14];
	__u32 tag;

	if (p->l4 + (udp ? 8 : 20) > p->end || (udp ? sg_load(ctx, p->l4, head, 8) : sg_load(ctx, p->l4, head, sizeof(head))))
		return SG_DROP_TRUNCATED;
	if (!udp && head[12] >> 4 < 5)
		return SG_DROP_BAD_HEADER;
	a->key.saddr = p->saddr;
	a->key.daddr = p->daddr;
	a->key.proto = p->proto;
	__builtin_memcpy(&a->key.sport, head, 2);
	__builtin_memcpy(&a->key.dport, head + 2, 2);
	a->first = !udp && sg_lb_is_first(head[13]);
	vip = sg_lb_find(addr, &p->daddr, a->key.dport, p->proto);
	if (!vip)
		return sg_lb_other(addr, w, SG_DROP_LB_PORT);
	w->stat = vip->stat;
	if (vip->flags & SG_LB_NATTED)
		return a->key.dport ? sg_lb_to_engine(vip, w) : SG_DROP_LB_PORT;
	w->out.delta = vip->port_delta;
	w->out.dport = a->key.dport;
	*id = sg_lb_decide(ctx, vip, w, &reason);
	if (*id && p->more) {
		bucket = sg_lb_frag_of(p, &tag);
		if (bucket)
			sg_lb_remember(bucket, tag, bpf_ktime_get_ns() >> SG_LB_TICK, *id);
	}
	return *id ? SG_OK_LB : reason;
}

/* Where a later fragment goes; `addr` is the address' own entry. In mode NAT the engine knows the ports of a first fragment, and keeps those
 * that overtake it. */
SG_INLINE enum sg_reason sg_lb_later_fragment(const struct sg_lb_vip *addr, struct sg_lb_work *w, __u32 *id)
{
	__u32 tag, now = bpf_ktime_get_ns() >> SG_LB_TICK;
	struct sg_pkt *p = &w->pkt;
	struct sg_lb_bucket *bucket;
#if SG_ST_BALANCED
	const struct sg_lb_vip *vip = NULL;
#endif

	w->ask.key.saddr = p->saddr;
#if SG_ST_BALANCED
	if (addr->flags & SG_LB_NATTED)
		w->ask.key.dport = (__be16)((__u32)sg_st_frag_ports(p, sg_st_now()) >> 16);
	if (w->ask.key.dport)
		vip = sg_lb_find(addr, &p->daddr, w->ask.key.dport, p->proto);
	if (vip && vip->flags & SG_LB_NATTED)
		return sg_lb_to_engine(vip, w);
	w->ask.key.dport = 0;
#endif
	bucket = sg_lb_frag_of(p, &tag);
	if (bucket)
		*id = (__u16)sg_lb_recall(bucket, tag, now, SG_LB_FRAG_TICKS);
	if (!*id && addr->flags & SG_LB_NATTED)
		return sg_lb_to_engine(addr, w);
	return *id ? SG_OK_LB : SG_DROP_LB_FRAGMENT;
}

/* Everything that is not the common packet. SG_LB_FOREIGN where the destination is no VIP; else the verdict, counted. */
SG_GLOBAL int sg_lb_general(sg_ctx *ctx)
{
	__be16 proto = sg_eth_proto(ctx);
	const struct sg_lb_vip *addr;
	struct sg_lb_cpu *cpu = NULL;
	enum sg_reason reason, sent;
	struct sg_lb_work *w;
	__u32 zero = 0, id = 0;
	struct sg_pkt *p;

	addr = sg_lb_claim(ctx, proto);
	if (!addr || !sg_is_unicast(ctx))
		return SG_LB_FOREIGN;
	w = bpf_map_lookup_elem(&SG_LB_WORK_MAP, &zero);
	if (!w)
		return SG_LB_FOREIGN;
	__builtin_memset(w, 0, sizeof(*w));
	p = &w->pkt;
	if (!sg_lb_parse(ctx, p, proto))
		return SG_LB_FOREIGN;
	w->stat = addr->stat;
	w->act = SG_ACT_DROP;
	w->segs = sg_segments(ctx);
	w->bytes = sg_frame_len(ctx) - p->l3;
	reason = sg_lb_check(ctx, p);
	if (reason)
		goto out;
	if (p->frag_off)
		reason = sg_lb_later_fragment(addr, w, &id);
	else if (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP)
		reason = sg_lb_l4(ctx, addr, w, &id);
	else if (p->proto == (p->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		reason = sg_lb_icmp(ctx, addr, w, &id);
	else
		reason = sg_lb_other(addr, w, SG_DROP_LB_PORT);
	if (!id || (reason != SG_OK_LB && reason != SG_OK_LB_ICMP))
		goto out;
	w->out.l3 = p->l3;
	w->out.l4 = p->l4;
	w->out.len = p->end - p->l3;
	w->out.seg_len = sg_lb_segment(ctx, p);
	w->out.v6 = p->version == 6;
	w->out.tos = p->tos;
	w->out.proto = p->proto;
	w->act = sg_lb_go(ctx, w, id, &cpu, &sent);
	if (sent != SG_OK_LB)
		reason = sent;
#if !SG_HOOK_IS_XDP
	if (!SG_HOOK_IS_SLOW && (reason == SG_SLOW_ICMP || reason == SG_SLOW_REWRITE))
		w->act = bpf_redirect(sg_cfg.slow_dev, 0);
#endif
out:
	w->reason = reason;
	if (!SG_HOOK_IS_XDP && w->act == SG_LB_ENGINE)
		return SG_LB_ENGINE;
	if (!SG_HOOK_IS_XDP && SG_HOOK_IS_SLOW && reason == SG_SLOW_ICMP) {
		if (p->version == 4 && !p->df)
			return SG_ACT_DROP; /* sg_lb_cut() counts it */
		reason = SG_DROP_TOO_BIG;
	}
	return sg_lb_done(w->act, reason, w->stat, cpu, w->segs, w->bytes, w->ask.fresh);
}

#if SG_HOOK_IS_XDP
/* Source, key and what forwarding must know of a packet of TCP or UDP without options; the offset of layer 4, or 0 where it is another one. */
SG_INLINE __u32 sg_lb_plain4(sg_ctx *ctx, struct sg_lb_key *key, struct sg_addr *saddr, struct sg_lb_pkt *p)
{
	struct iphdr *ip = sg_data(ctx) + ETH_HLEN;

	if ((void *)(ip + 1) > sg_data_end(ctx))
		return 0;
	p->proto = ip->protocol;
	p->len = bpf_ntohs(ip->tot_len);
	p->tos = ip->tos;
	*saddr = sg_addr4(ip->saddr);
	key->addr = sg_addr4(ip->daddr);
	if (*(__u8 *)ip != 0x45 || ip->frag_off & ~bpf_htons(SG_IP_DF) || p->len < SG_V4_LEN + 20 ||
	    sg_v4_illegal_source(ip->saddr))
		return 0;
	return ETH_HLEN + SG_V4_LEN;
}

SG_INLINE __u32 sg_lb_plain6(sg_ctx *ctx, struct sg_lb_key *key, struct sg_addr *saddr, struct sg_lb_pkt *p)
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
	__builtin_memcpy(&key->addr, &ip6->daddr, 16);
	if (b[0] >> 4 != 6 || p->len < SG_V6_LEN + 20 || sg_v6_illegal_source(saddr))
		return 0;
	return ETH_HLEN + SG_V6_LEN;
}

/* The common packet: TCP or UDP without options, to a port that has an entry of its own and asks for a slot and no more. Not a function of its own,
 * which would cost as much as three lookups. */
SG_INLINE int sg_lb_fast(sg_ctx *ctx, __be16 proto)
{
	const struct sg_lb_chunk *chunk;
	const struct sg_lb_vip *vip;
	struct sg_lb_cpu *cpu = NULL;
	__u32 id, at, ports, len;
	struct sg_lb_key key = {};
	struct sg_lb_pkt p = {};
	struct sg_lb_work *w;
	struct sg_addr saddr;
	enum sg_reason reason;
	__u64 hash;
	__u8 *data, *head;
	bool first;
	int act;

	if (proto == bpf_htons(ETH_P_IP))
		p.l4 = sg_lb_plain4(ctx, &key, &saddr, &p);
	else if (proto == bpf_htons(ETH_P_IPV6))
		p.l4 = sg_lb_plain6(ctx, &key, &saddr, &p);
	else
		return SG_LB_FOREIGN;
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
	key.port = *(__be16 *)(head + 2);
	key.proto = p.proto;
	vip = bpf_map_lookup_elem(&sg_lb_vip, &key);
	/* What takes more than a slot is for the general path. */
	if (!vip || vip->flags & ~SG_LB_SERVICE_ONLY)
		return SG_LB_GENERAL;
	first = p.proto == IPPROTO_TCP && sg_lb_is_first(head[13]);
	hash = sg_lb_hash_flow(vip, &saddr, &key.addr, ports, p.proto);
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
		w->ask.key.daddr = key.addr;
		w->ask.key.sport = ports & 0xffff;
		w->ask.key.dport = key.port;
		w->ask.key.proto = p.proto;
		w->ask.hash = hash;
		w->ask.first = first;
		sg_lb_ask_chunk(&w->ask, vip, chunk, chunk->slot[at]);
		id = (__u16)sg_lb_track(&w->ask);
		first = w->ask.fresh;
	}
	p.dport = key.port;
	p.delta = vip->port_delta;
	p.spread = hash >> 32;
	act = sg_lb_send(ctx, &p, id, &cpu, &reason);
	return sg_lb_done(act, reason, vip->stat, cpu, 1, len, first);
}
#endif

#endif
