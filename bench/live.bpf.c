// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Writes one frame anew into every buffer and sends it out of the device it is said to have come from: buffers come back as the
 * last receiver left them. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define FRAME_MAX 128

/* Set before loading, as one block; struct constants of live.c. */
const volatile struct {
	__u32 len;
	__u8 frame[FRAME_MAX];
} live;

SEC("xdp")
int live_send(struct xdp_md *ctx)
{
	__u32 len = live.len;

	if (len == 0 || len > FRAME_MAX)
		return XDP_DROP;
	if (bpf_xdp_store_bytes(ctx, 0, (void *)live.frame, len))
		return XDP_DROP;
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
