/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Egress: where pods live, as gateways learn it, and the tunnel there. */
#ifndef SG_EGRESS_HOME_H
#define SG_EGRESS_HOME_H

#include "sg/maps.h"

/* A program has 64 maps at most; one that has no room for another one defines this as 0, and leaves pods to the kernel's own routes. */
#ifndef SG_EG_HOMES
#define SG_EG_HOMES 1
#endif

const struct sg_addr sg_eg_any = {};

/* Bytes before the inner IP header: outer IP, UDP, VXLAN, Ethernet. */
#define SG_EG_OVERHEAD4 50
#define SG_EG_OVERHEAD6 70

/* Pods that are heard from; an entry that is pushed out costs a detour by the kernel's own routes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sg_addr);
	__type(value, struct sg_eg_home);
	__uint(max_entries, 65536);
} sg_eg_home SEC(".maps");

/* Destination and source of the frame inside the tunnel: every sg-egress0 has the first address, so whoever gets the frame is meant. The
 * other must differ: VXLAN takes a frame from its own address for a loop. */
#define SG_EG_MACS                                                                                                                 \
	{                                                                                                                          \
		0x02, 0x53, 0x47, 0x45, 0x47, 0x01, 0x02, 0x53, 0x47, 0x45, 0x47, 0x02                                             \
	}

SG_INLINE const struct sg_eg_home *sg_eg_home_of(const struct sg_addr *pod)
{
	struct sg_addr key = *pod; /* until Linux 6.2, no argument of a function is a key */

	return bpf_map_lookup_elem(&sg_eg_home, &key);
}

SG_INLINE bool sg_eg_node4(const struct sg_eg_node *node)
{
	return !(node->w[0] | node->w[1]) && node->w[2] == bpf_htonl(0xffff);
}

SG_INLINE bool sg_eg_by4(const struct sg_addr *node)
{
	return !node->d[0] && node->w[2] == bpf_htonl(0xffff);
}

/* Addresses of pairs at gateways begin with these three bytes: unicast, and locally administered. */
SG_INLINE bool sg_eg_is_mac(const __u8 *mac)
{
	return mac[0] == 0x06 && mac[1] == 0x53 && mac[2] == 0x47;
}

/* Whether a frame came a direct way, as a request to a gateway or as a reply. Frames between others that a switch floods are seen, too. */
SG_INLINE bool sg_eg_is_direct(const sg_ctx *ctx)
{
	const __u8 *macs = sg_data(ctx);

	return sg_cfg.l2_len == ETH_HLEN && (const void *)(macs + 12) <= sg_data_end(ctx) &&
	       (sg_eg_is_mac(macs) || (sg_eg_is_mac(macs + 6) && !ctx->pkt_type));
}

/* A direct way: nothing but the link addresses is written, so super-packets of any size stay as they are. */
SG_INLINE int sg_eg_send_frame(sg_ctx *ctx, const struct sg_eg_frame *frame)
{
	__u8 macs[12];

	__builtin_memcpy(macs, frame, sizeof(macs));
	if (bpf_skb_store_bytes(ctx, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(frame->ifindex, 0);
}

/* Into the tunnel, to the node with this address. */
SG_GLOBAL int sg_eg_encap(struct __sk_buff *ctx, __u32 id, const struct sg_eg_node *node, __u32 tos)
{
	struct bpf_tunnel_key key = {.tunnel_id = id, .tunnel_ttl = 64, .tunnel_tos = (__u8)tos & 0xfc};
	__u64 flags = 0;
	__u8 macs[12] = SG_EG_MACS;

	if (!node)
		return TC_ACT_SHOT;
	if (sg_eg_node4(node)) {
		key.remote_ipv4 = bpf_ntohl(node->w[3]);
		flags = BPF_F_ZERO_CSUM_TX;
	} else {
		__builtin_memcpy(key.remote_ipv6, node, 16);
		flags = BPF_F_TUNINFO_IPV6;
	}
	if (bpf_skb_store_bytes(ctx, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	if (bpf_skb_set_tunnel_key(ctx, &key, sizeof(key), flags))
		return TC_ACT_SHOT;
	return bpf_redirect(sg_cfg.tunnel_dev, 0);
}

#endif
