// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* For benchmarks by BPF_PROG_TEST_RUN: sg_wrap puts the packet back as it was and calls
 * the program under test; sg_floor is the least a translator can do, moving the head by 20 bytes and transmitting. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "wrap.h"

#define FRAME 64 /* bytes of the packet that are put back; the rest is never touched */

struct sg_frame {
	__u32 len;
	__u32 pad;
	__u64 words[FRAME / 8];
};

const volatile struct sg_frame sg_original = {};

SEC("xdp")
int sg_wrap(struct xdp_md *ctx)
{
	void *data, *end;
	int i;

	if (sg_wrap_undo(ctx, sg_original.len))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + FRAME > end)
		return XDP_ABORTED;
	for (i = 0; i < FRAME / 8; i++)
		((__u64 *)data)[i] = sg_original.words[i];
	bpf_tail_call(ctx, &sg_target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int sg_floor(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data, copy;
	void *end = (void *)(long)ctx->data_end;

	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	copy = *eth;
	if (bpf_xdp_adjust_head(ctx, -sg_grow))
		return XDP_ABORTED;
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	*eth = copy;
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
