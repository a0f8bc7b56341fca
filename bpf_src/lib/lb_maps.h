/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The balancer's maps: docs/design/loadbalancer.md says who writes and who reads them. */
#ifndef SG_LB_MAPS_H
#define SG_LB_MAPS_H

#include "sg/maps.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_lb_key);
	__type(value, struct sg_lb_vip);
	__uint(max_entries, SG_LB_MAX_VIP);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_lb_vip SEC(".maps");

/* Odd while the node changes sg_lb_vip, another number afterwards: see sg_lb_recent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} sg_lb_gen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct sg_lb_range_key);
	__type(value, struct sg_lb_vip);
	__uint(max_entries, SG_LB_MAX_VIP);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_lb_range SEC(".maps");

/* As many entries as the table's slots need. */
struct sg_lb_inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_chunk);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
};

/* Never read: see sg_nat_layout. */
const struct sg_lb_chunk sg_lb_layout = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, SG_LB_MAX_TABLE);
	__array(values, struct sg_lb_inner);
} sg_lb_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_backend);
	__uint(max_entries, SG_LB_MAX_BACKEND);
} sg_lb_backend SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_cpu);
	__uint(max_entries, SG_LB_MAX_BACKEND);
} sg_lb_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_stat);
	__uint(max_entries, SG_LB_MAX_TABLE);
} sg_lb_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, struct sg_lb_drop_key);
	__type(value, __u64);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_lb_drops SEC(".maps");

/* The last SG_LB_FRAG buckets are for fragments: a program may use 64 maps, and many features want some. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_lb_bucket);
	__uint(max_entries, SG_LB_PENDING + SG_LB_FRAG);
} sg_lb_pending SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_lb_flow_key);
	__type(value, struct sg_lb_flow);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_lb_flow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct sg_lb_source_key);
	__type(value, __u32);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_lb_source SEC(".maps");

/* When the next new flow is due, CLOCK_MONOTONIC (GCRA). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, SG_LB_MAX_TABLE);
} sg_lb_limit SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sg_lb_affinity_key);
	__type(value, struct sg_lb_affinity_val);
	__uint(max_entries, 65536);
} sg_lb_affinity SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_lb_quic_key);
	__type(value, __u32);
	__uint(max_entries, SG_LB_MAX_BACKEND);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_lb_quic SEC(".maps");

#endif
