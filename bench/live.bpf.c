// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Writes one frame anew into every buffer and sends it out of the device it is said to have come from: buffers come back as the
 * last receiver left them. With `count`, a UDP frame of IPv6 gets a source of its own each time. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_MAX 128

/* Set before loading, as one block; struct constants of live.c. */
const volatile struct {
	__u32 len;
	__u8 frame[FRAME_MAX];
	__u32 count; /* flows, round and round; 0: the frame as it is */
	__u32 ports; /* flows of one address */
	__u32 stride;
} live;

#define SOURCE_LOW (14 + 8 + 12)
#define SPORT (14 + 40)
#define CHECKSUM (14 + 40 + 6)

static __u32 next;

/* Neither the low half of the source nor the port may overflow: the checksum is updated by what is added. */
static __always_inline int vary(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u32 n, sum;
	__be32 *low = (void *)(data + SOURCE_LOW);
	__be16 *port = (void *)(data + SPORT), *check = (void *)(data + CHECKSUM);

	if (data + CHECKSUM + 2 > (__u8 *)(long)ctx->data_end || !live.count || !live.ports)
		return -1;
	n = (__u32)((__u64)__sync_fetch_and_add(&next, 1) * live.stride % live.count);
	sum = (__u16)~bpf_ntohs(*check) + n / live.ports + n % live.ports;
	*low = bpf_htonl(bpf_ntohl(*low) + n / live.ports);
	*port = bpf_htons(bpf_ntohs(*port) + n % live.ports);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*check = bpf_htons(sum == 0xffff ? 0xffff : (__u16)~sum);
	return 0;
}

SEC("xdp")
int live_send(struct xdp_md *ctx)
{
	__u32 len = live.len;

	if (len == 0 || len > FRAME_MAX)
		return XDP_DROP;
	if (bpf_xdp_store_bytes(ctx, 0, (void *)live.frame, len))
		return XDP_DROP;
	if (live.count && vary(ctx))
		return XDP_DROP;
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
