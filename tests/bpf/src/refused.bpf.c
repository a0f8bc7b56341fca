// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One program that loads and one that the verifier refuses: reads the packet without a check of its bounds. */
#include "test.h"

MAP(t_array, BPF_MAP_TYPE_ARRAY, __u32, __u64, 8);

SEC("xdp")
int fine_xdp(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;

	return bpf_map_lookup_elem(&t_array, &key) ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int reckless_xdp(struct xdp_md *ctx)
{
	return *(__u8 *)(long)ctx->data;
}

char _license[] SEC("license") = "Dual BSD/GPL";
