/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The common packet: TCP or UDP between two addresses whose translation is remembered. One slot of a per-CPU table answers every question
 * that only the addresses decide, so that nothing is left but to write headers. What the slot does not know, or what is not a plain packet,
 * takes the general path, which also fills the slot. flow_xdp.h and flow_skb.h say how each hook moves and sends. */
#ifndef SG_FLOW_H
#define SG_FLOW_H

#include "nat.h"

#define SG_FLOW_SLOTS 4096
#define SG_FLOW_GENERAL (-1) /* for the general path; nothing was changed */

struct sg_flow {
	struct sg_addr saddr; /* as received */
	struct sg_addr daddr;
	struct sg_addr new_saddr;
	struct sg_addr new_daddr;
	struct sg_flow_hop hop;
	__u64 until;   /* jiffies; routes are asked again then */
	__u32 version; /* of the table that this was read from */
	__u32 in_ifindex;
	__u32 mtu;
	__u32 csum_diff; /* of the addresses */
	__u32 stat;
	__u32 flags; /* enum sg_gw_flag */
	__u16 low_mtu;
	__u8 fixed_tos;
	__u8 tos; /* as received; routes may depend on it */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_flow);
	__uint(max_entries, SG_FLOW_SLOTS);
} SG_FLOW_MAP SEC(".maps");

/* What a plain packet looks like: no options, no extension headers, no fragment, a checksum, a TTL to spare. */
struct sg_plain {
	struct sg_addr saddr;
	struct sg_addr daddr;
	__u32 len;     /* of layer 3 */
	__u32 seg_len; /* of layer 3 in one segment of a super-packet; of the packet otherwise */
	__u8 proto;
	__u8 tos;
	__u8 ttl;
	__u8 df;
	__u32 pad;
};

SG_INLINE struct sg_flow *sg_flow_slot(const struct sg_addr *saddr, const struct sg_addr *daddr)
{
	__u64 mix = (daddr->d[0] ^ daddr->d[1] ^ ((saddr->d[0] ^ saddr->d[1]) * 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL;
	__u32 slot = (mix >> 32) & (SG_FLOW_SLOTS - 1);

	return bpf_map_lookup_elem(&SG_FLOW_MAP, &slot);
}

SG_INLINE struct sg_flow *sg_flow_find(sg_ctx *ctx, const struct sg_plain *p, __u32 version)
{
	struct sg_flow *f = sg_flow_slot(&p->saddr, &p->daddr);

	if (!f || (f->saddr.d[0] ^ p->saddr.d[0]) | (f->saddr.d[1] ^ p->saddr.d[1]) | (f->daddr.d[0] ^ p->daddr.d[0]) |
			  (f->daddr.d[1] ^ p->daddr.d[1]))
		return NULL;
	if (f->version != version || f->tos != p->tos || f->in_ifindex != sg_ifindex(ctx) || bpf_jiffies64() >= f->until)
		return NULL;
	return f;
}

/* After the general path has translated: what the next packet of these addresses need not ask. */
SG_INLINE void sg_flow_learn(sg_ctx *ctx, const struct sg_nat_table *t, const struct sg_work *w)
{
	const struct sg_nat_gw *gw = sg_nat_gw(t, w->dst.gw);
	struct sg_flow *f = sg_flow_slot(&w->pkt.saddr, &w->pkt.daddr);
	bool v6 = w->pkt.version == 6;
	__u64 diff;

	if (!f || gw->flags & SG_GW_MSS_CLAMP || w->hop.local)
		return;
	diff = sg_csum_neg(v6 ? sg_csum_addr(&w->pkt.saddr) + sg_csum_addr(&w->pkt.daddr)
			      : (__u64)w->pkt.saddr.w[3] + w->pkt.daddr.w[3]);
	diff += v6 ? (__u64)w->src.addr.w[3] + w->dst.addr.w[3] : sg_csum_addr(&w->src.addr) + sg_csum_addr(&w->dst.addr);
	f->until = 0;
	f->saddr = w->pkt.saddr;
	f->daddr = w->pkt.daddr;
	f->new_saddr = w->src.addr;
	f->new_daddr = w->dst.addr;
	f->version = t->version;
	f->in_ifindex = sg_ifindex(ctx);
	f->mtu = w->hop.mtu;
	f->csum_diff = sg_csum_fold32(diff);
	f->stat = gw->stat;
	f->flags = gw->flags;
	f->low_mtu = gw->low_mtu;
	f->fixed_tos = gw->tos;
	f->tos = w->pkt.tos;
	f->until = sg_flow_keep(&f->hop, &w->hop);
}

/* Length of layer 3 in one segment of a super-packet: `l4` is where TCP or UDP begins. */
SG_INLINE __u32 sg_plain_segment(sg_ctx *ctx, const __u8 *l4, bool udp, __u32 hdr_len, __u32 len)
{
	__u32 gso = sg_gso_size(ctx), seg;

	if (!gso)
		return len;
	seg = hdr_len + (udp ? 8 : (l4[12] >> 4) * 4) + gso;
	return seg < len ? seg : len;
}

SG_INLINE bool sg_plain6(sg_ctx *ctx, struct sg_plain *p)
{
	void *data = sg_data(ctx), *end = sg_data_end(ctx);
	struct ipv6hdr *ip6 = data + ETH_HLEN;
	__u8 *b = (__u8 *)ip6, *l4 = (__u8 *)(ip6 + 1);
	bool udp;

	p->len = sg_frame_len(ctx) - ETH_HLEN;
	if ((void *)l4 + 8 > end)
		return false;
	p->proto = ip6->nexthdr;
	p->ttl = ip6->hop_limit;
	udp = p->proto == IPPROTO_UDP;
	if ((!udp && p->proto != IPPROTO_TCP) || b[0] >> 4 != 6 || bpf_ntohs(ip6->payload_len) + SG_V6_LEN != p->len || p->ttl <= 1)
		return false;
	if (udp ? !(l4[6] | l4[7]) : (void *)l4 + 20 > end)
		return false;
	p->seg_len = sg_plain_segment(ctx, l4, udp, SG_V6_LEN, p->len);
	p->tos = (__u8)(b[0] << 4) | (b[1] >> 4);
	__builtin_memcpy(&p->saddr, &ip6->saddr, 16);
	__builtin_memcpy(&p->daddr, &ip6->daddr, 16);
	return true;
}

SG_INLINE bool sg_plain4(sg_ctx *ctx, struct sg_plain *p)
{
	void *data = sg_data(ctx), *end = sg_data_end(ctx);
	struct iphdr *ip = data + ETH_HLEN;
	__u8 *l4 = (__u8 *)(ip + 1);
	bool udp;

	p->len = sg_frame_len(ctx) - ETH_HLEN;
	if ((void *)l4 + 8 > end)
		return false;
	p->proto = ip->protocol;
	p->ttl = ip->ttl;
	udp = p->proto == IPPROTO_UDP;
	/* Frames longer than their packet are trimmed by the general path. */
	if ((!udp && p->proto != IPPROTO_TCP) || *(__u8 *)ip != 0x45 || bpf_ntohs(ip->tot_len) != p->len || p->ttl <= 1 ||
	    ip->frag_off & ~bpf_htons(SG_IP_DF) || sg_csum_v4(ip))
		return false;
	if (udp ? !(l4[6] | l4[7]) : (void *)l4 + 20 > end)
		return false;
	p->seg_len = sg_plain_segment(ctx, l4, udp, SG_V4_LEN, p->len);
	p->tos = ip->tos;
	p->df = ip->frag_off != 0;
	p->saddr = sg_addr4(ip->saddr);
	p->daddr = sg_addr4(ip->daddr);
	return true;
}

SG_INLINE void sg_flow_count(sg_ctx *ctx, const struct sg_flow *f, bool to4, __u32 len)
{
	struct sg_nat_stat *s = bpf_map_lookup_elem(&sg_nat_stats, &f->stat);
	__u32 segs = sg_segments(ctx);

	if (s)
		sg_count(to4 ? &s->to4 : &s->to6, segs, len);
	sg_metric(to4 ? SG_OK_64 : SG_OK_46, segs, len + ETH_HLEN);
}

SG_FLOW_PATH int sg_flow64(sg_ctx *ctx, __u32 version)
{
	struct iphdr ip = {};
	struct sg_plain p;
	struct sg_flow *f;

	if (!sg_plain6(ctx, &p))
		return SG_FLOW_GENERAL;
	f = sg_flow_find(ctx, &p, version);
	if (!f || p.seg_len - 20 > f->mtu || p.len - 20 > 65535)
		return SG_FLOW_GENERAL;
	*(__u8 *)&ip = 0x45;
	ip.tos = f->flags & SG_GW_FIXED_TOS ? f->fixed_tos : p.tos;
	ip.tot_len = bpf_htons((__u16)(p.len - 20));
	if (p.seg_len - 20 > SG_V4_DF_MIN)
		ip.frag_off = bpf_htons(SG_IP_DF);
	else
		ip.id = bpf_htons(sg_new_ipid(f->new_saddr.w[3], f->new_daddr.w[3], sg_segments(ctx)));
	ip.ttl = p.ttl - 1;
	ip.protocol = p.proto;
	ip.saddr = f->new_saddr.w[3];
	ip.daddr = f->new_daddr.w[3];
	ip.check = sg_csum_v4(&ip);
	sg_flow_count(ctx, f, true, p.len);
	return sg_flow_put4(ctx, &f->hop, &ip, f->csum_diff);
}

SG_FLOW_PATH int sg_flow46(sg_ctx *ctx, __u32 version)
{
	struct ipv6hdr ip6;
	struct sg_plain p;
	struct sg_flow *f;
	__u8 *b = (__u8 *)&ip6, tc;

	if (!sg_plain4(ctx, &p))
		return SG_FLOW_GENERAL;
	f = sg_flow_find(ctx, &p, version);
	if (!f || p.seg_len + 20 > (p.df || f->low_mtu > f->mtu ? f->mtu : f->low_mtu) || p.len > 65535 - 20)
		return SG_FLOW_GENERAL;
	tc = f->flags & SG_GW_ZERO_TC ? 0 : p.tos;
	b[0] = 0x60 | (tc >> 4);
	b[1] = (__u8)(tc << 4);
	b[2] = 0;
	b[3] = 0;
	ip6.payload_len = bpf_htons((__u16)(p.len - SG_V4_LEN));
	ip6.nexthdr = p.proto;
	ip6.hop_limit = p.ttl - 1;
	__builtin_memcpy(&ip6.saddr, &f->new_saddr, 16);
	__builtin_memcpy(&ip6.daddr, &f->new_daddr, 16);
	sg_flow_count(ctx, f, false, p.len);
	return sg_flow_put6(ctx, &f->hop, &ip6, f->csum_diff);
}

#endif
