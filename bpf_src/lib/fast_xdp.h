/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The common packet in XDP: TCP or UDP between two addresses whose translation is remembered. One slot of a per-CPU table answers every
 * question that only the addresses decide, so that nothing is left but to write headers. What the slot does not know, or what is not a
 * plain packet, takes the general path, which also fills the slot. */
#ifndef SG_FAST_XDP_H
#define SG_FAST_XDP_H

#include "xlat46.h"
#include "xlat64.h"

#define SG_FLOW_SLOTS 4096

struct sg_flow {
	struct sg_addr saddr; /* as received */
	struct sg_addr daddr;
	struct sg_addr new_saddr;
	struct sg_addr new_daddr;
	__u64 until;	/* jiffies; the next hop's lifetime, so that routes and neighbours are asked again in time */
	__u32 version;	/* of the table that this was read from */
	__u32 in_ifindex;
	__u32 ifindex;
	__u32 mtu;
	__u32 csum_diff; /* of the addresses, folded to 32 bits */
	__u32 stat;
	__u32 flags;	/* enum sg_gw_flag */
	__u16 low_mtu;
	__u8 fixed_tos;
	__u8 tos; /* routes may depend on it */
	__u8 dmac[6];
	__u8 smac[6];
	__u8 pad[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_flow);
	__uint(max_entries, SG_FLOW_SLOTS);
} sg_flows SEC(".maps");

SG_INLINE struct sg_flow *sg_flow_slot(const struct sg_addr *saddr, const struct sg_addr *daddr)
{
	__u64 mix = (daddr->d[0] ^ daddr->d[1] ^ ((saddr->d[0] ^ saddr->d[1]) * 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL;
	__u32 slot = (mix >> 32) & (SG_FLOW_SLOTS - 1);

	return bpf_map_lookup_elem(&sg_flows, &slot);
}

/* After the general path has decided and before it is sent: what the next packet of these addresses need not ask. */
SG_INLINE void sg_flow_learn(sg_ctx *ctx, const struct sg_nat_table *t, const struct sg_work *w)
{
	const struct sg_nat_gw *gw = sg_nat_gw(t, w->dst.gw);
	const struct sg_nexthop *nh = w->hop.nh;
	struct sg_flow *f = sg_flow_slot(&w->pkt.saddr, &w->pkt.daddr);
	__u64 diff;

	if (!f || gw->flags & SG_GW_MSS_CLAMP)
		return;
	diff = sg_csum_neg(w->pkt.version == 6 ? sg_csum_addr(&w->pkt.saddr) + sg_csum_addr(&w->pkt.daddr) :
						 (__u64)w->pkt.saddr.w[3] + w->pkt.daddr.w[3]);
	diff += w->pkt.version == 6 ? (__u64)w->src.addr.w[3] + w->dst.addr.w[3] :
				      sg_csum_addr(&w->src.addr) + sg_csum_addr(&w->dst.addr);
	f->until = 0;
	f->saddr = w->pkt.saddr;
	f->daddr = w->pkt.daddr;
	f->new_saddr = w->src.addr;
	f->new_daddr = w->dst.addr;
	f->version = t->version;
	f->in_ifindex = sg_ifindex(ctx);
	f->ifindex = nh->ifindex;
	f->mtu = nh->mtu;
	f->csum_diff = sg_csum_fold32(diff);
	f->stat = gw->stat;
	f->flags = gw->flags;
	f->low_mtu = gw->low_mtu;
	f->fixed_tos = gw->tos;
	f->tos = w->pkt.tos;
	__builtin_memcpy(f->dmac, nh->dmac, 6);
	__builtin_memcpy(f->smac, nh->smac, 6);
	f->until = nh->until;
}

SG_INLINE bool sg_flow_fits(sg_ctx *ctx, const struct sg_flow *f, const struct sg_addr *saddr, const struct sg_addr *daddr, __u32 version,
			    __u8 tos)
{
	return !((f->saddr.d[0] ^ saddr->d[0]) | (f->saddr.d[1] ^ saddr->d[1]) | (f->daddr.d[0] ^ daddr->d[0]) |
		 (f->daddr.d[1] ^ daddr->d[1])) &&
	       f->version == version && f->tos == tos && f->in_ifindex == sg_ifindex(ctx) && bpf_jiffies64() < f->until;
}

/* Frame, header and layer 4 in place; `room` is what the head moves by. Returns the new Ethernet header. */
SG_INLINE void *sg_flow_move(sg_ctx *ctx, const struct sg_flow *f, int room, __u32 need, __be16 proto)
{
	struct ethhdr *eth;

	if (bpf_xdp_adjust_head(ctx, room))
		return NULL;
	eth = sg_data(ctx);
	if ((void *)eth + need > sg_data_end(ctx))
		return NULL;
	__builtin_memcpy(eth->h_dest, f->dmac, 6);
	__builtin_memcpy(eth->h_source, f->smac, 6);
	eth->h_proto = proto;
	return eth;
}

SG_INLINE int sg_flow_send(sg_ctx *ctx, const struct sg_flow *f, bool to4, __u32 bytes)
{
	struct sg_nat_stat *s = bpf_map_lookup_elem(&sg_nat_stats, &f->stat);

	if (s)
		sg_count(to4 ? &s->to4 : &s->to6, 1, bytes - ETH_HLEN);
	sg_metric(to4 ? SG_OK_64 : SG_OK_46, 1, bytes);
	return f->ifindex == sg_ifindex(ctx) ? XDP_TX : bpf_redirect_map(&sg_tx, f->ifindex, XDP_DROP);
}

/* TCP and UDP checksum at a fixed place behind the new header. */
SG_INLINE bool sg_flow_csum(sg_ctx *ctx, void *l4, bool udp, __u32 diff)
{
	__u16 *field = l4 + (udp ? 6 : 16), sum;

	if ((void *)(field + 1) > sg_data_end(ctx))
		return false;
	sum = sg_csum_update(*field, diff);
	*field = udp && !sum ? 0xffff : sum;
	return true;
}

#define SG_FLOW_GENERAL (-1) /* for the general path; nothing was changed */

SG_INLINE int sg_flow64(sg_ctx *ctx, __u32 version)
{
	void *data = sg_data(ctx), *end = sg_data_end(ctx);
	struct ipv6hdr *ip6 = data + ETH_HLEN;
	__u32 len = sg_frame_len(ctx), l3 = len - ETH_HLEN;
	struct sg_addr saddr, daddr;
	struct iphdr ip = {}, *out;
	struct sg_flow *f;
	__u8 tos, proto;
	__u16 *csum;
	bool udp;

	if (data + ETH_HLEN + SG_V6_LEN + 8 > end)
		return SG_FLOW_GENERAL;
	proto = ip6->nexthdr;
	udp = proto == IPPROTO_UDP;
	if ((!udp && proto != IPPROTO_TCP) || *(__u8 *)ip6 >> 4 != 6 || bpf_ntohs(ip6->payload_len) + SG_V6_LEN != l3 || ip6->hop_limit <= 1)
		return SG_FLOW_GENERAL;
	csum = (void *)(ip6 + 1) + 6;
	if (udp ? !*csum : data + ETH_HLEN + SG_V6_LEN + 18 > end)
		return SG_FLOW_GENERAL;
	__builtin_memcpy(&saddr, &ip6->saddr, 16);
	__builtin_memcpy(&daddr, &ip6->daddr, 16);
	tos = (__u8)(((__u8 *)ip6)[0] << 4) | (((__u8 *)ip6)[1] >> 4);
	f = sg_flow_slot(&saddr, &daddr);
	if (!f || !sg_flow_fits(ctx, f, &saddr, &daddr, version, tos) || l3 - 20 > f->mtu)
		return SG_FLOW_GENERAL;
	*(__u8 *)&ip = 0x45;
	ip.tos = f->flags & SG_GW_FIXED_TOS ? f->fixed_tos : tos;
	ip.tot_len = bpf_htons((__u16)(l3 - 20));
	if (l3 - 20 > SG_V4_DF_MIN)
		ip.frag_off = bpf_htons(SG_IP_DF);
	else
		ip.id = bpf_htons(sg_new_ipid(f->new_saddr.w[3], f->new_daddr.w[3]));
	ip.ttl = ip6->hop_limit - 1;
	ip.protocol = proto;
	ip.saddr = f->new_saddr.w[3];
	ip.daddr = f->new_daddr.w[3];
	ip.check = sg_csum_v4(&ip);
	data = sg_flow_move(ctx, f, 20, ETH_HLEN + SG_V4_LEN, bpf_htons(ETH_P_IP));
	if (!data)
		return XDP_DROP;
	out = data + ETH_HLEN;
	*out = ip;
	if (!sg_flow_csum(ctx, out + 1, udp, f->csum_diff))
		return XDP_DROP;
	return sg_flow_send(ctx, f, true, len);
}

SG_INLINE int sg_flow46(sg_ctx *ctx, __u32 version)
{
	void *data = sg_data(ctx), *end = sg_data_end(ctx);
	struct iphdr *ip = data + ETH_HLEN;
	struct ipv6hdr *out;
	struct sg_addr saddr, daddr;
	struct sg_flow *f;
	__u8 tos, proto, ttl, tc;
	__u32 len, tot, limit;
	__u16 *csum;
	__u8 *b;
	bool udp, df;

	if (data + ETH_HLEN + SG_V4_LEN + 8 > end)
		return SG_FLOW_GENERAL;
	proto = ip->protocol;
	udp = proto == IPPROTO_UDP;
	tot = bpf_ntohs(ip->tot_len);
	len = sg_frame_len(ctx);
	ttl = ip->ttl;
	/* Frames longer than their packet are trimmed elsewhere. */
	if ((!udp && proto != IPPROTO_TCP) || *(__u8 *)ip != 0x45 || tot + ETH_HLEN != len || ttl <= 1 ||
	    ip->frag_off & ~bpf_htons(SG_IP_DF) || sg_csum_v4(ip))
		return SG_FLOW_GENERAL;
	csum = (void *)(ip + 1) + 6;
	if (udp ? !*csum : data + ETH_HLEN + SG_V4_LEN + 18 > end)
		return SG_FLOW_GENERAL;
	saddr = sg_addr4(ip->saddr);
	daddr = sg_addr4(ip->daddr);
	tos = ip->tos;
	df = ip->frag_off != 0;
	f = sg_flow_slot(&saddr, &daddr);
	if (!f || !sg_flow_fits(ctx, f, &saddr, &daddr, version, tos))
		return SG_FLOW_GENERAL;
	limit = df || f->low_mtu > f->mtu ? f->mtu : f->low_mtu;
	if (tot + 20 > limit)
		return SG_FLOW_GENERAL;
	data = sg_flow_move(ctx, f, -20, ETH_HLEN + SG_V6_LEN, bpf_htons(ETH_P_IPV6));
	if (!data)
		return XDP_DROP;
	out = data + ETH_HLEN;
	tc = f->flags & SG_GW_ZERO_TC ? 0 : tos;
	b = (__u8 *)out;
	b[0] = 0x60 | (tc >> 4);
	b[1] = (__u8)(tc << 4);
	b[2] = 0;
	b[3] = 0;
	out->payload_len = bpf_htons((__u16)(tot - SG_V4_LEN));
	out->nexthdr = proto;
	out->hop_limit = ttl - 1;
	__builtin_memcpy(&out->saddr, &f->new_saddr, 16);
	__builtin_memcpy(&out->daddr, &f->new_daddr, 16);
	if (!sg_flow_csum(ctx, out + 1, udp, f->csum_diff))
		return XDP_DROP;
	return sg_flow_send(ctx, f, false, len);
}

#endif
