// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Programs whose verdict and packet show what a test run was given. */
#include "test.h"

const volatile __u32 answer = 0;

/* 40 bytes longer in front, filled with the ingress device's index and zeroes. */
SEC("xdp")
int grow_xdp(struct xdp_md *ctx)
{
	__u32 *start, index = ctx->ingress_ifindex;
	int i;

	if (bpf_xdp_adjust_head(ctx, -40))
		return XDP_ABORTED;
	start = (void *)(long)ctx->data;
	if ((void *)(start + 10) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	for (i = 0; i < 10; i++)
		start[i] = i ? 0 : index;
	return XDP_TX;
}

/* Tells of its context in cb and mark, and redirects. */
SEC("tc")
int tell_tc(struct __sk_buff *skb)
{
	skb->cb[0] = skb->ifindex;
	skb->cb[1] = skb->gso_size;
	skb->cb[2] = skb->gso_segs;
	skb->cb[3] = skb->wire_len;
	skb->mark = skb->mark + 1;
	return bpf_redirect(skb->ifindex, 0);
}

/* 20 bytes of room behind the link header. */
SEC("tc")
int grow_tc(struct __sk_buff *skb)
{
	return bpf_skb_adjust_room(skb, 20, BPF_ADJ_ROOM_MAC, 0) ? TC_ACT_SHOT : TC_ACT_OK;
}

/* Constants tell programs of one object apart on a hook. */
SEC("xdp")
int answer_xdp(struct xdp_md *ctx)
{
	return ctx->data == ctx->data_end ? XDP_ABORTED : (int)answer;
}

SEC("tc")
int answer_tc(struct __sk_buff *skb)
{
	return skb->len ? (int)answer : TC_ACT_SHOT;
}

/* A section that says nothing of its type; the loader must. */
SEC("mystery")
int untyped(struct __sk_buff *skb)
{
	return skb->len > 100 ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
