/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The balancer's place in a hook: is this packet for a VIP, and which backend gets it. XDP has the common packet in line (lb_fast.h);
 * everything else is in sg_lb_general(). */
#ifndef SG_LB_H
#define SG_LB_H

#include "lb_decide.h"

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

#endif
