/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Stateful NAT: tables, indexes and time (docs/design/stateful.md). */
#ifndef SG_ST_H
#define SG_ST_H

#include "sg/maps.h"
#include "st_ask.h"
#include "st_desk.h"

/* Sizes here suit tests; the node sets those of its configuration before it loads. */
#define SG_ST_IDS 4096

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_obj);
	__uint(max_entries, SG_ST_MAX_OBJ);
} sg_st_obj SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_pool);
	__uint(max_entries, SG_ST_MAX_POOL);
} sg_st_pool SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_addr);
	__type(value, struct sg_st_own);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_st_own SEC(".maps");

/* A key stands on the stack: until Linux 6.2, what a global function was given a pointer to cannot be one. */
SG_INLINE struct sg_st_own *sg_st_own_of(const struct sg_addr *addr)
{
	struct sg_addr key = *addr;

	return bpf_map_lookup_elem(&sg_st_own, &key);
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 3072);
} sg_st_resv SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_st_vip);
	__type(value, __u32);
	__uint(max_entries, SG_ST_MAX_SVC);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_st_vip SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_svc);
	__uint(max_entries, SG_ST_MAX_SVC);
} sg_st_svcs SEC(".maps");

struct sg_st_inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_table);
	__uint(max_entries, 1);
};

/* Never read: see sg_nat_layout. */
const struct sg_st_table sg_st_layout = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, SG_ST_MAX_SVC);
	__array(values, struct sg_st_inner);
} sg_st_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_st_bind);
	__type(value, struct sg_st_bound);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_st_bind SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_st_client_port);
	__type(value, __u32);
	__uint(max_entries, SG_ST_IDS);
} sg_st_fwd SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_map);
	__uint(max_entries, SG_ST_IDS);
} sg_st_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_st_peer);
	__type(value, __u32);
	__uint(max_entries, SG_ST_IDS);
} sg_st_find SEC(".maps");

/* Addresses that a mapping has sessions with, beside the one in its place, and how many: for address-dependent filtering. Key: port 0. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_st_peer);
	__type(value, __u32);
	__uint(max_entries, SG_ST_IDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_st_seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_sess);
	__uint(max_entries, SG_ST_IDS);
} sg_st_sess SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_ids);
	__uint(max_entries, SG_ST_IDS / 512);
} sg_st_sids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_ids);
	__uint(max_entries, SG_ST_IDS / 512);
} sg_st_mids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_ports);
	__uint(max_entries, 3072);
} sg_st_port SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, SG_ST_IDS);
} sg_st_half SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_use);
	__uint(max_entries, SG_ST_MAX_OBJ);
} sg_st_use SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_stat);
	__uint(max_entries, SG_ST_MAX_OBJ);
} sg_st_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_st_client);
	__type(value, struct sg_st_client_use);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_st_client SEC(".maps");

#define SG_TCP_FIN 0x01
#define SG_TCP_SYN 0x02
#define SG_TCP_RST 0x04
#define SG_TCP_ACK 0x10

SG_INLINE __u32 sg_st_now(void)
{
	return (__u32)(bpf_ktime_get_coarse_ns() / 1000000000ULL);
}

/* True where `a` is at or behind `b`; seconds wrap after 136 years, differences never. */
SG_INLINE bool sg_st_past(__u32 a, __u32 b)
{
	return (__s32)(a - b) >= 0;
}

SG_INLINE struct sg_st_obj *sg_st_obj_of(__u32 i)
{
	return bpf_map_lookup_elem(&sg_st_obj, &i);
}

SG_INLINE struct sg_st_use *sg_st_use_of(__u32 i)
{
	return bpf_map_lookup_elem(&sg_st_use, &i);
}

SG_INLINE struct sg_st_stat *sg_st_stat_of(__u32 i)
{
	return bpf_map_lookup_elem(&sg_st_stats, &i);
}

SG_INLINE struct sg_st_map *sg_st_map_of(__u32 i)
{
	return bpf_map_lookup_elem(&sg_st_map, &i);
}

SG_INLINE struct sg_st_sess *sg_st_sess_of(__u32 i)
{
	return bpf_map_lookup_elem(&sg_st_sess, &i);
}

/* One more in the object's counter FIELD of struct sg_st_stat. */
#define SG_ST_COUNT(obj, field)                                                                                                    \
	do {                                                                                                                       \
		struct sg_st_stat *stat_ = sg_st_stat_of(obj);                                                                     \
		if (stat_)                                                                                                         \
			stat_->field++;                                                                                            \
	} while (0)

/* Takes one from a counter that others change, too, and never below 0. */
SG_INLINE void sg_st_less(__u32 *counter)
{
	if (__sync_fetch_and_sub(counter, 1) == 0)
		__sync_fetch_and_add(counter, 1);
}

SG_INLINE __u32 sg_st_proto_number(__u8 proto)
{
	return proto == IPPROTO_TCP ? 0 : proto == IPPROTO_UDP ? 1 : 2;
}

SG_INLINE bool sg_st_same(const struct sg_addr *a, const struct sg_addr *b)
{
	return !((a->d[0] ^ b->d[0]) | (a->d[1] ^ b->d[1]));
}

SG_INLINE __u32 sg_st_hash(const struct sg_addr *a, __u32 salt)
{
	__u64 mix = (a->d[0] + salt) * 0x9e3779b97f4a7c15ULL;

	mix = (mix ^ (mix >> 29) ^ a->d[1]) * 0xff51afd7ed558ccdULL;
	mix = (mix ^ (mix >> 32)) * 0xc4ceb9fe1a85ec53ULL;
	return (__u32)(mix >> 32);
}

/* The first bit that is set; `v` is not 0. */
SG_INLINE __u32 sg_st_ffs(__u64 v)
{
	__u32 n = 0;

	if (!(v & 0xffffffff)) {
		n += 32;
		v >>= 32;
	}
	if (!(v & 0xffff)) {
		n += 16;
		v >>= 16;
	}
	if (!(v & 0xff)) {
		n += 8;
		v >>= 8;
	}
	if (!(v & 0xf)) {
		n += 4;
		v >>= 4;
	}
	if (!(v & 3)) {
		n += 2;
		v >>= 2;
	}
	return n + !(v & 1);
}

static long sg_st_id_try(__u32 i __attribute__((unused)), __u32 *key)
{
	struct sg_st_desk *d = bpf_map_lookup_elem(&SG_ST_DESK_MAP, key);
	struct sg_st_search *s;
	struct sg_st_ids *ids;
	__u64 bit, free;
	__u32 k, at, n;

	if (!d)
		return 1;
	s = &d->search;
	n = sg_cfg.st_ids / 512;
	if (s->at >= n)
		s->at = 0;
	/* Sessions that do not stand in their mapping's place begin in the middle, where few mappings are. */
	at = s->maps ? s->at : s->at + n / 2;
	if (at >= n)
		at -= n;
	ids = s->maps ? bpf_map_lookup_elem(&sg_st_mids, &at) : bpf_map_lookup_elem(&sg_st_sids, &at);
	if (!ids)
		return 1;
	for (k = 0; k < 8; k++) {
		free = ~ids->used[k];
		if (!free)
			continue;
		n = sg_st_ffs(free);
		bit = 1ULL << (n & 63);
		if (__sync_fetch_and_or(&ids->used[k], bit) & bit)
			continue;
		s->found = at * 512 + k * 64 + n + 1;
		return 1;
	}
	s->at++;
	return 0;
}

/* An index + 1 of sg_st_map or sg_st_sess, or 0. */
SG_GLOBAL int sg_st_id_take(int maps)
{
	__u32 key = !!maps, zero = 0;
	struct sg_st_desk *d = sg_st_desk_of();

	if (!d)
		return 0;
	d->search.maps = key;
	d->search.found = 0;
	d->search.at = d->hint[key];
	bpf_loop(sg_cfg.st_ids / 512 + 1, sg_st_id_try, &zero, 0);
	d->hint[key] = d->search.at;
	return (int)d->search.found;
}

/* This very index of sg_st_sess, where nobody has it. */
SG_INLINE bool sg_st_id_claim(__u32 i)
{
	__u32 at = i / 512;
	struct sg_st_ids *ids = bpf_map_lookup_elem(&sg_st_sids, &at);
	__u64 bit = 1ULL << (i & 63);

	return ids && !(__sync_fetch_and_or(&ids->used[(i / 64) & 7], bit) & bit);
}

SG_INLINE void sg_st_id_give(bool maps, __u32 i)
{
	__u32 at = i / 512;
	struct sg_st_ids *ids = maps ? bpf_map_lookup_elem(&sg_st_mids, &at) : bpf_map_lookup_elem(&sg_st_sids, &at);

	if (ids)
		__sync_fetch_and_and(&ids->used[(i / 64) & 7], ~(1ULL << (i & 63)));
}

/* Somebody who copies sessions should look at this one. */
SG_GLOBAL int sg_st_changed(__u32 id)
{
	__u32 at = id / 512;
	struct sg_st_ids *ids = bpf_map_lookup_elem(&sg_st_sids, &at);

	if (ids)
		__sync_fetch_and_or(&ids->changed[(id / 64) & 7], 1ULL << (id & 63));
	return 0;
}

#endif
