/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet as tc sees it. ctx_xdp.h has the same functions for XDP; a hook includes one of them before any feature. */
#ifndef SG_CTX_H
#define SG_CTX_H

#include "csum.h"

typedef struct __sk_buff sg_ctx;

#define SG_HOOK_IS_XDP 0
/* For whoever comes next on the hook: TC_ACT_OK would end the chain of tcx programs. */
#define SG_ACT_PASS TC_ACT_UNSPEC
#define SG_ACT_DROP TC_ACT_SHOT

SG_INLINE void *sg_data(const sg_ctx *ctx)
{
	return (void *)(long)ctx->data;
}

SG_INLINE void *sg_data_end(const sg_ctx *ctx)
{
	return (void *)(long)ctx->data_end;
}

/* Bytes of the frame, all of it. */
SG_INLINE __u32 sg_frame_len(const sg_ctx *ctx)
{
	return ctx->len;
}

SG_INLINE __u32 sg_ifindex(const sg_ctx *ctx)
{
	return ctx->ifindex;
}

/* True where `len` bytes can be reached through sg_data(); headers that a driver left in page fragments are pulled. */
SG_INLINE bool sg_reach(sg_ctx *ctx, __u32 len)
{
	if (likely(sg_data(ctx) + len <= sg_data_end(ctx)))
		return true;
	if (ctx->len < len || bpf_skb_pull_data(ctx, len))
		return false;
	return sg_data(ctx) + len <= sg_data_end(ctx);
}

SG_INLINE __be16 sg_eth_proto(const sg_ctx *ctx)
{
	/* A tag that hardware took off means that the packet is for a VLAN device above. */
	return ctx->vlan_present ? 0 : (__be16)ctx->protocol;
}

SG_INLINE __u32 sg_gso_size(const sg_ctx *ctx)
{
	return ctx->gso_size;
}

SG_INLINE __u32 sg_segments(const sg_ctx *ctx)
{
	if (!ctx->gso_size)
		return 1;
	/* Unknown where a guest or a program made the super-packet; then at most one too many. */
	return ctx->gso_segs ? ctx->gso_segs : ctx->len / ctx->gso_size + 1;
}

SG_INLINE long sg_load(sg_ctx *ctx, __u32 off, void *to, __u32 len)
{
	return bpf_skb_load_bytes(ctx, off, to, len);
}

/* Keeps skb->csum of CHECKSUM_COMPLETE true. */
SG_INLINE long sg_store(sg_ctx *ctx, __u32 off, const void *from, __u32 len)
{
	return bpf_skb_store_bytes(ctx, off, from, len, BPF_F_RECOMPUTE_CSUM);
}

/* Adds `diff` to a TCP or UDP checksum. With CHECKSUM_PARTIAL the field holds the pseudo header only: the helper knows. */
SG_INLINE long sg_l4_csum(sg_ctx *ctx, __u32 off, __u64 diff, bool udp)
{
	return bpf_l4_csum_replace(ctx, off, 0, sg_csum_fold(diff), BPF_F_PSEUDO_HDR | (udp ? BPF_F_MARK_MANGLED_0 : 0));
}

/* New ports at the head of layer 4, and their part of the checksum, which with CHECKSUM_PARTIAL is not there yet; of CHECKSUM_COMPLETE the two
 * changes cancel out. */
SG_INLINE long sg_l4_ports(sg_ctx *ctx, __u32 l4, __u32 csum_off, __be32 ports, __u64 diff, bool udp)
{
	if (bpf_l4_csum_replace(ctx, l4 + csum_off, 0, sg_csum_fold32(diff), udp ? BPF_F_MARK_MANGLED_0 : 0))
		return -1;
	return bpf_skb_store_bytes(ctx, l4, &ports, sizeof(ports), 0);
}

/* Cuts what stands behind the IP packet (padding of short frames). */
SG_INLINE long sg_trim(sg_ctx *ctx, __u32 len)
{
	return bpf_skb_change_tail(ctx, len, 0);
}

/* Replaces the first `old_len` bytes of layer 3 by `new_len` bytes of undefined content, and the protocol. GSO stays whole. */
SG_INLINE long sg_resize(sg_ctx *ctx, __u32 old_len, __u32 new_len, __be16 proto)
{
	int rest = (int)new_len - (int)old_len;
	long err;

	if (ctx->protocol != proto) {
		rest += proto == bpf_htons(ETH_P_IP) ? 20 : -20;
		/* Segments of a super-packet of 64 KB and more count against no 16-bit length; its jumbo header goes first, or
		 * the kernel would take it for payload. */
		if (rest < 0 && proto == bpf_htons(ETH_P_IP)) {
			err = bpf_skb_adjust_room(ctx, rest, BPF_ADJ_ROOM_NET,
						  BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
			if (err)
				return err;
			rest = 0;
		}
		err = bpf_skb_change_proto(ctx, proto, 0);
		if (err)
			return err;
	}
	if (!rest)
		return 0;
	return bpf_skb_adjust_room(ctx, rest, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
}

#endif
