/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps that every hook shares; a feature's own maps stand in its header. */
#ifndef SG_MAPS_H
#define SG_MAPS_H

#include "bpf.h"

const volatile struct sg_config sg_cfg = {};

/* Verdicts by reason (enum sg_reason). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_count);
	__uint(max_entries, 256);
} sg_metrics SEC(".maps");

/* Addresses of devices for the gateway's own packets; filled by the node. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, sg_ifindex_t);
	__type(value, struct sg_dev);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_dev SEC(".maps");

SG_INLINE void sg_count(struct sg_count *c, __u64 packets, __u64 bytes)
{
	c->packets += packets;
	c->bytes += bytes;
}

SG_INLINE void sg_metric(enum sg_reason reason, __u64 packets, __u64 bytes)
{
	__u32 key = reason;
	struct sg_count *c = bpf_map_lookup_elem(&sg_metrics, &key);

	if (c)
		sg_count(c, packets, bytes);
}

SG_INLINE bool sg_feature(__u32 bit)
{
	return sg_cfg.features & bit;
}

#endif
