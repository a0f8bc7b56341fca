// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The same map names as shapes.bpf.c with other layouts, as a later release may have them. */
#include "test.h"

struct value {
	__u64 number;
	__u64 more;
};

MAP(t_array, BPF_MAP_TYPE_ARRAY, __u32, struct value, 16);
MAP(t_lru, BPF_MAP_TYPE_LRU_HASH, __u32, __u64, 64);

SEC("xdp")
int changed_xdp(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	struct value *found = bpf_map_lookup_elem(&t_array, &key);

	return found && bpf_map_lookup_elem(&t_lru, &key) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
