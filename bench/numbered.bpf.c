// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Numbered frames, made in the kernel and counted where they end up, both in XDP: so many per second as no socket sends or receives.
 * A frame ends with MAGIC and its number; flows differ in their source port. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_MAX 128
#define COUNT_MAX (1U << 25)
#define MAGIC 0x53495847U
#define SPORT 34 /* of IPv4 without options */
#define FLOWS 1024

/* Set before loading, as one block; struct constants of numbered.c. */
const volatile struct {
	__u32 len;
	__u8 frame[FRAME_MAX];
	__u32 longest; /* of a frame that counts: with an outer header */
} numbered;

/* Read by numbered.c through the memory of the map. */
struct {
	__u32 next;	 /* number of the next frame */
	__u32 received;	 /* different ones */
	__u32 duplicate; /* received before */
	__u32 damaged;	 /* of another length, or with a number that nobody sent */
	__u64 seen[COUNT_MAX / 64];
} state;

struct tail {
	__u32 magic;
	__u32 number;
};

SEC("xdp")
int numbered_send(struct xdp_md *ctx)
{
	struct tail tail = {.magic = MAGIC, .number = __sync_fetch_and_add(&state.next, 1)};
	__u32 len = numbered.len;
	__be16 sport = bpf_htons(1024 + tail.number % FLOWS);

	if (len < SPORT + 16 || len > FRAME_MAX || tail.number >= COUNT_MAX)
		return XDP_DROP;
	if (bpf_xdp_store_bytes(ctx, 0, (void *)numbered.frame, len) || bpf_xdp_store_bytes(ctx, SPORT, &sport, sizeof(sport)) ||
	    bpf_xdp_store_bytes(ctx, len - sizeof(tail), &tail, sizeof(tail)))
		return XDP_DROP;
	return XDP_TX;
}

SEC("xdp")
int numbered_count(struct xdp_md *ctx)
{
	__u32 len = ctx->data_end - ctx->data;
	struct tail tail;
	__u64 bit, old;

	if (len < SPORT + 16 || bpf_xdp_load_bytes(ctx, len - sizeof(tail), &tail, sizeof(tail)) || tail.magic != MAGIC)
		return XDP_PASS;
	if ((len != numbered.len && len != numbered.longest) || tail.number >= COUNT_MAX || tail.number >= state.next) {
		__sync_fetch_and_add(&state.damaged, 1);
		return XDP_DROP;
	}
	bit = 1ULL << (tail.number % 64);
	old = __sync_fetch_and_or(&state.seen[tail.number / 64], bit);
	__sync_fetch_and_add(old & bit ? &state.duplicate : &state.received, 1);
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
