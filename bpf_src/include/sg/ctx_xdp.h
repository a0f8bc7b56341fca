/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet as XDP sees it: the functions of ctx_skb.h on a frame without offloads. */
#ifndef SG_CTX_H
#define SG_CTX_H

#include "csum.h"

typedef struct xdp_md sg_ctx;

#define SG_HOOK_IS_XDP 1
#define SG_ACT_PASS XDP_PASS
#define SG_ACT_DROP XDP_DROP

SG_INLINE void *sg_data(const sg_ctx *ctx)
{
	return (void *)(long)ctx->data;
}

SG_INLINE void *sg_data_end(const sg_ctx *ctx)
{
	return (void *)(long)ctx->data_end;
}

SG_INLINE __u32 sg_frame_len(const sg_ctx *ctx)
{
	void *data = sg_data(ctx), *end = sg_data_end(ctx);

	/* In 64 bits: the verifier allows no 32-bit arithmetic on pointers. */
	sg_opaque(end);
	sg_opaque(data);
	return (__u32)(end - data);
}

SG_INLINE __u32 sg_ifindex(const sg_ctx *ctx)
{
	return ctx->ingress_ifindex;
}

SG_INLINE bool sg_reach(sg_ctx *ctx, __u32 len)
{
	return sg_data(ctx) + len <= sg_data_end(ctx);
}

SG_INLINE __be16 sg_eth_proto(const sg_ctx *ctx)
{
	__be16 *proto = sg_data(ctx) + offsetof(struct ethhdr, h_proto); /* packed structs are read by bytes */

	return (void *)(proto + 1) <= sg_data_end(ctx) ? *proto : 0;
}

SG_INLINE __u32 sg_gso_size(const sg_ctx *ctx __attribute__((unused)))
{
	return 0;
}

SG_INLINE __u32 sg_segments(const sg_ctx *ctx __attribute__((unused)))
{
	return 1;
}

SG_INLINE long sg_load(sg_ctx *ctx, __u32 off, void *to, __u32 len)
{
	return bpf_xdp_load_bytes(ctx, off, to, len);
}

SG_INLINE long sg_store(sg_ctx *ctx, __u32 off, const void *from, __u32 len)
{
	return bpf_xdp_store_bytes(ctx, off, (void *)from, len);
}

SG_INLINE long sg_l4_csum(sg_ctx *ctx, __u32 off, __u64 diff, bool udp)
{
	__u16 *p = sg_data(ctx) + (off & 0x7ff);
	__u16 sum;

	if ((void *)(p + 1) > sg_data_end(ctx))
		return -1;
	if (udp && !*p)
		return 0;
	sum = sg_csum_update(*p, diff);
	*p = udp && !sum ? 0xffff : sum;
	return 0;
}

SG_INLINE long sg_l4_ports(sg_ctx *ctx, __u32 l4, __u32 csum_off, __be32 ports, __u64 diff, bool udp)
{
	if (sg_l4_csum(ctx, l4 + csum_off, diff, udp))
		return -1;
	return bpf_xdp_store_bytes(ctx, l4, &ports, sizeof(ports));
}

SG_INLINE long sg_trim(sg_ctx *ctx, __u32 len)
{
	return bpf_xdp_adjust_tail(ctx, (int)len - (int)sg_frame_len(ctx));
}

/* Moves the Ethernet header along, so that MAC addresses survive until the next hop is known. */
SG_INLINE long sg_resize(sg_ctx *ctx, __u32 old_len, __u32 new_len, __be16 proto)
{
	struct ethhdr *eth = sg_data(ctx), copy;

	if ((void *)(eth + 1) > sg_data_end(ctx))
		return -1;
	copy = *eth;
	copy.h_proto = proto;
	if (old_len != new_len && bpf_xdp_adjust_head(ctx, (int)old_len - (int)new_len))
		return -1;
	eth = sg_data(ctx);
	if ((void *)(eth + 1) > sg_data_end(ctx))
		return -1;
	*eth = copy;
	return 0;
}

#endif
