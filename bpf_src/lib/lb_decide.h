/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which backend gets a packet, after everything that a VIP may ask for, and what is counted of it. */
#ifndef SG_LB_DECIDE_H
#define SG_LB_DECIDE_H

#include "lb_icmp.h"
#include "nat.h"
#if SG_ST_BALANCED
#include "st.h"
#include "st_frag.h"
#endif

#define SG_LB_FOREIGN (-16) /* not for a VIP; nothing was changed */
#define SG_LB_GENERAL (-17) /* not the common packet; nothing was changed */
#define SG_LB_NO_PORT (-19) /* the same, and no entry has this address and port */
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

#endif
