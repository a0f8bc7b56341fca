/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The frame of a wrapper in XDP. BPF_PROG_TEST_RUN does not restore a packet between repeats, so a wrapper does, and calls the program under test; what
 * that costs is measured with programs that do nothing. */
#ifndef SG_BENCH_WRAP_H
#define SG_BENCH_WRAP_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile int sg_grow = 0; /* bytes, of programs that only move the head */

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} sg_target SEC(".maps");

/* Makes the packet as long as it was; what was written into it stays. */
static __always_inline long sg_wrap_undo(struct xdp_md *ctx, __u32 len)
{
	long delta = ((long)ctx->data_end - (long)ctx->data) - (long)len;

	return delta ? bpf_xdp_adjust_head(ctx, (int)delta) : 0;
}

/* The wrapper's own cost. */
SEC("xdp")
int sg_nothing(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_TX;
}

#endif
