/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which backend a flow belongs to: its slot, and just enough tracking while slots change (docs/design/loadbalancer.md has the argument). */
#ifndef SG_LB_TRACK_H
#define SG_LB_TRACK_H

#include "lb_maps.h"

#define SG_LB_TICK 30 /* bits: remembered times count 2^30 ns */
#define SG_LB_PENDING_TICKS 64
#define SG_LB_FRAG_TICKS 32
#define SG_LB_COARSE_NS (1ULL << 30) /* how late `seen_ns` may be, so that a busy flow does not write it */

/* One question: whose is this flow? */
struct sg_lb_ask {
	struct sg_lb_flow_key key; /* as the client sends */
	__u64 hash;
	__u64 drain_until_ns;
	__u64 learn_until_ns;
	__u64 affinity_ns; /* 0: no session affinity */
	__u32 table;
	__u32 epoch;
	__u32 affinity;
	__u16 backend;
	__u16 former;
	__u8 first; /* a SYN */
	__u8 peek;  /* on behalf of an ICMP error: nothing is remembered */
	__u8 fresh; /* answer: a flow begins here */
	__u8 pad[5];
};

/* The same on every node. `low` are the bits that choose the slot; those above are free for other choices. */
SG_INLINE __u64 sg_lb_hash(__u64 seed, const struct sg_addr *saddr, const struct sg_addr *daddr, __u64 rest)
{
	__u64 h = (seed ^ saddr->d[1]) * 0x9e3779b97f4a7c15ULL;

	h = (h ^ (h >> 32) ^ saddr->d[0] ^ (daddr->d[1] >> 8)) * 0xff51afd7ed558ccdULL;
	h = (h ^ (h >> 32) ^ rest) * 0xc4ceb9fe1a85ec53ULL;
	return h ^ (h >> 32);
}

SG_INLINE __u64 sg_lb_hash_flow(const struct sg_lb_vip *vip, const struct sg_addr *saddr, const struct sg_addr *daddr, __u32 ports,
				__u8 proto)
{
	return sg_lb_hash(vip->seed, saddr, daddr, ((__u64)proto << 32) | ports);
}

SG_INLINE const struct sg_lb_chunk *sg_lb_chunk(const struct sg_lb_vip *vip, __u64 hash, __u32 *at)
{
	__u32 slot = ((hash & 0xffffffff) * vip->size) >> 32, table = vip->table, i = slot / SG_LB_CHUNK;
	void *inner = bpf_map_lookup_elem(&sg_lb_table, &table);

	*at = slot % SG_LB_CHUNK;
	return inner ? bpf_map_lookup_elem(inner, &i) : NULL;
}

/* The backend id that a bucket remembers under a tag, or 0. */
SG_GLOBAL int sg_lb_recall(const struct sg_lb_bucket *b, __u32 tag, __u32 now, __u32 ticks)
{
	__u32 found = 0, i;
	__u64 e;

	if (!b)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < 8; i++) {
		e = b->entry[i];
		if ((__u32)(e >> 32) == tag && (__u16)(now - (__u32)e) <= ticks)
			found = (__u16)(e >> 16);
	}
	return found;
}

/* Overwrites the entry of the same tag, or else the oldest. */
SG_GLOBAL int sg_lb_remember(struct sg_lb_bucket *b, __u32 tag, __u32 now, __u32 id)
{
	__u32 oldest = 0, at = 0, age, i;
	__u64 e;

	if (!b)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < 8; i++) {
		e = b->entry[i];
		age = (__u16)(now - (__u32)e) + 1;
		if (!(e >> 16 & 0xffff))
			age = 0x20000;
		if ((__u32)(e >> 32) == tag)
			age = 0x40000;
		if (age > oldest) {
			oldest = age;
			at = i;
		}
	}
	b->entry[at & 7] = ((__u64)tag << 32) | (id << 16) | (__u16)now;
	return 0;
}

SG_INLINE struct sg_lb_bucket *sg_lb_pending_of(const struct sg_lb_ask *a, __u32 *tag)
{
	__u64 h = (a->hash ^ a->epoch) * 0x9e3779b97f4a7c15ULL;
	__u32 i = a->hash & (SG_LB_PENDING - 1);

	*tag = h >> 32;
	return bpf_map_lookup_elem(&sg_lb_pending, &i);
}

/* The second packet of a flow that began in a change. */
SG_INLINE void sg_lb_establish(const struct sg_lb_ask *a, const struct sg_lb_flow_key *key, __u32 id, __u64 now)
{
	struct sg_lb_flow flow = {.seen_ns = now, .backend = id, .table = a->table, .epoch = a->epoch};

	if (!a->peek && bpf_map_update_elem(&sg_lb_flow, key, &flow, BPF_ANY))
		sg_metric(SG_PASS_LB_FULL, 1, 0);
}

SG_INLINE bool sg_lb_down(__u32 id, __u8 flags)
{
	const struct sg_lb_backend *b = bpf_map_lookup_elem(&sg_lb_backend, &id);

	return !b || b->kind == SG_LB_NONE || b->flags & flags;
}

/* The backend that a client of session affinity had, or 0. Reading only. */
SG_GLOBAL int sg_lb_affine(const struct sg_lb_ask *a, __u64 now)
{
	struct sg_lb_affinity_key key = {};
	const struct sg_lb_affinity_val *v;

	if (!a)
		return 0;
	key.client = a->key.saddr;
	key.group = a->affinity;
	v = bpf_map_lookup_elem(&sg_lb_affinity, &key);
	if (!v || now - v->seen_ns > a->affinity_ns || sg_lb_down(v->backend, SG_LB_DOWN | SG_LB_NO_NEW))
		return 0;
	return v->backend;
}

/* A client is put down once it has answered, so that forged SYNs push nobody out. */
SG_GLOBAL int sg_lb_attach(const struct sg_lb_ask *a, __u32 id, __u64 now)
{
	struct sg_lb_affinity_val *v, fresh = {.seen_ns = now, .backend = id};
	struct sg_lb_affinity_key key = {};

	if (!a || a->peek || !id)
		return 0;
	key.client = a->key.saddr;
	key.group = a->affinity;
	v = bpf_map_lookup_elem(&sg_lb_affinity, &key);
	if (!v || (v->backend != id && (now - v->seen_ns > a->affinity_ns || sg_lb_down(v->backend, SG_LB_DOWN | SG_LB_NO_NEW)))) {
		bpf_map_update_elem(&sg_lb_affinity, &key, &fresh, BPF_ANY);
	} else if (v->backend == id && now - v->seen_ns > SG_LB_COARSE_NS) {
		v->seen_ns = now;
	}
	return 0;
}

/* What a flow gets that nothing is known of and that does not begin here. */
SG_INLINE __u32 sg_lb_unknown(const struct sg_lb_ask *a, __u64 now)
{
	if (!a->former || now >= a->drain_until_ns)
		return a->backend;
	if (a->key.proto == IPPROTO_TCP)
		return a->former;
	return now < a->learn_until_ns && !sg_lb_down(a->former, SG_LB_DOWN) ? a->former : a->backend;
}

/* The backend id of a flow, 0 where there is none: of a changed slot, or with session affinity. */
SG_GLOBAL int sg_lb_track(struct sg_lb_ask *a)
{
	struct sg_lb_flow_key key;
	struct sg_lb_bucket *bucket;
	struct sg_lb_flow *f;
	bool udp, steady;
	__u32 id, tag, tick;
	__u64 now;

	if (!a)
		return 0;
	now = bpf_ktime_get_ns();
	tick = now >> SG_LB_TICK;
	udp = a->key.proto == IPPROTO_UDP;
	steady = !a->former || now >= a->drain_until_ns;
	a->fresh = a->first;
	if (steady && !a->affinity_ns)
		return a->backend;
	key = a->key; /* until Linux 6.2, no argument of a function is a key */
	f = bpf_map_lookup_elem(&sg_lb_flow, &key);
	if (f && f->epoch == a->epoch && f->table == a->table) {
		if (now - f->seen_ns > SG_LB_COARSE_NS)
			f->seen_ns = now;
		id = f->backend;
		a->fresh = 0;
		goto known;
	}
	bucket = sg_lb_pending_of(a, &tag);
	if (!bucket)
		return 0;
	if (!a->first) {
		id = sg_lb_recall(bucket, tag, tick, SG_LB_PENDING_TICKS);
		if (id) {
			sg_lb_establish(a, &key, id, now);
			goto known;
		}
	}
	id = a->affinity_ns && (a->first || udp) ? (__u32)sg_lb_affine(a, now) : 0;
	if (!id)
		id = a->first ? a->backend : sg_lb_unknown(a, now);
	/* UDP in a change: every flow is remembered, for what it is taken for depends on the time. */
	if (id && !a->peek && ((a->first && id != sg_lb_unknown(a, now)) || (udp && !steady))) {
		sg_lb_remember(bucket, tag, tick, id);
		a->fresh |= udp;
	}
known:
	if (a->affinity_ns && !a->first)
		sg_lb_attach(a, id, now);
	return id;
}

/* True where a new flow may begin: one every `gap`, in bursts. Generic cell rate algorithm; one word for all CPUs. */
SG_INLINE bool sg_lb_admit(const struct sg_lb_vip *vip)
{
	__u32 key = vip->limit, i;
	__u64 *word = bpf_map_lookup_elem(&sg_lb_limit, &key);
	__u64 now = bpf_ktime_get_ns(), was, due;

	if (!word)
		return false;
#pragma unroll
	for (i = 0; i < 4; i++) {
		was = *(volatile __u64 *)word;
		due = was > now ? was : now;
		if (due - now > vip->limit_burst_ns)
			return false;
		if (__sync_val_compare_and_swap(word, was, due + vip->limit_gap_ns) == was)
			return true;
	}
	return false; /* that many CPUs at once */
}

SG_INLINE bool sg_lb_source_allowed(const struct sg_lb_vip *vip, const struct sg_addr *saddr)
{
	struct sg_lb_source_key key = {.prefixlen = 160, .gen = vip->source_gen, .addr = *saddr};
	const __u32 *allowed = bpf_map_lookup_elem(&sg_lb_source, &key);

	return allowed ? *allowed : !(vip->flags & SG_LB_SOURCE_DENY);
}

#endif
