// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A program that sends its packet's first bytes to a ring buffer of one page; a full buffer is its verdict. */
#include "test.h"

#define RECORD_BYTES 56

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} t_events SEC(".maps");

MAP(t_table, BPF_MAP_TYPE_ARRAY, __u32, __u32, 1);

SEC("xdp")
int send_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *record;

	if (data + RECORD_BYTES > end)
		return XDP_ABORTED;
	record = bpf_ringbuf_reserve(&t_events, RECORD_BYTES, 0);
	if (!record)
		return XDP_DROP;
	__builtin_memcpy(record, data, RECORD_BYTES);
	bpf_ringbuf_submit(record, 0);
	return XDP_PASS;
}

SEC("xdp")
int table_xdp(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;

	return bpf_map_lookup_elem(&t_table, &key) ? XDP_PASS : XDP_DROP;
}
