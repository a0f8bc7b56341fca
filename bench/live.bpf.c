// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Writes one frame anew into every buffer and sends it out of the device it is said to have come from: buffers come back as the
 * last receiver left them. With `count`, a UDP frame gets another source each time. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_MAX 128
#define ETHERTYPE 12 /* its first byte: 8 of IPv4, 0x86 of IPv6 */

/* Set before loading, as one block; struct constants of live.c. */
const volatile struct {
	__u32 len;
	__u8 frame[FRAME_MAX];
	__u32 count; /* flows, round and round; 0: the frame as it is */
	__u32 ports; /* flows of one address */
	__u32 stride;
} live;

static __u32 next;

static __always_inline __u16 sum_with(__be16 check, __u32 what)
{
	__u32 sum = (__u16)~bpf_ntohs(check) + what;

	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Neither the low half of the source nor the port may overflow: checksums are updated by what is added. */
static __always_inline int vary(struct xdp_md *ctx, __u32 source, __u32 udp, __u32 header_check)
{
	__u8 *data = (void *)(long)ctx->data;
	__be16 *check = (void *)(data + udp + 6), *port = (void *)(data + udp);
	__be32 *low = (void *)(data + source);
	__u32 n, address;
	__u16 sum;

	if (data + udp + 8 > (__u8 *)(long)ctx->data_end || !live.count || !live.ports)
		return -1;
	n = (__u32)((__u64)__sync_fetch_and_add(&next, 1) * live.stride % live.count);
	address = n / live.ports;
	*low = bpf_htonl(bpf_ntohl(*low) + address);
	*port = bpf_htons(bpf_ntohs(*port) + n % live.ports);
	sum = sum_with(*check, address + n % live.ports);
	*check = bpf_htons(sum == 0xffff ? sum : (__u16)~sum);
	if (header_check) {
		check = (void *)(data + header_check);
		*check = bpf_htons((__u16)~sum_with(*check, address));
	}
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
	if (live.count && (live.frame[ETHERTYPE] == 8 ? vary(ctx, 14 + 12, 14 + 20, 14 + 10) : vary(ctx, 14 + 8 + 12, 14 + 40, 0)))
		return XDP_DROP;
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
