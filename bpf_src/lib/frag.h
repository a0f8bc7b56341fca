/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragmenting by the gateway: IPv4 packets without DF that IPv6 cannot carry whole (RFC 7915 4.1), and small IPv6 packets whose IPv4 form
 * the next hop cannot carry (RFC 7915 5.1.1). Every fragment goes once more through the slow device, marked by its source MAC address,
 * where it is only routed: so the kernel finds the neighbour for each. */
#ifndef SG_FRAG_H
#define SG_FRAG_H

#include "icmp_send.h"
#include "xlat46.h"
#include "xlat64.h"

#define SG_MAX_FRAGMENTS 512

/* Source MAC of frames that are ready and only need sending; locally administered. */
#define SG_READY_MAC                                                                                                               \
	{                                                                                                                          \
		0x02, 's', 'g', 'r', 'd', 'y'                                                                                      \
	}

struct sg_frag {
	sg_ctx *ctx;
	__u32 l3;
	__u32 hdr_len; /* of layer 3, IPv6 with its fragment header */
	__u32 total;   /* payload bytes of the packet */
	__u32 at;      /* bytes already sent */
	__u32 size;    /* payload of a fragment, a multiple of 8 */
	__u32 base;    /* offset of the packet itself, if it was a fragment */
	__u32 more;    /* the last of ours is not the last of all */
	__u32 failed;
	__u32 v4;
	__u32 pad;
};

static long sg_frag_one(__u32 i __attribute__((unused)), struct sg_frag *f)
{
	__u32 len = f->total - f->at, at = f->at;
	bool last = len <= f->size;
	__u8 *buf = sg_scratch_buf();
	__be16 word, off;
	struct iphdr ip;

	if (!buf)
		return 1;
	if (!last)
		len = f->size;
	if (bpf_skb_change_tail(f->ctx, f->l3 + f->hdr_len + len, 0))
		goto fail;
	if (f->v4) {
		off = bpf_htons((__u16)((f->base + at) >> 3) | (!last || f->more ? SG_IP_MF : 0));
		if (sg_load(f->ctx, f->l3, &ip, sizeof(ip)))
			goto fail;
		ip.tot_len = bpf_htons((__u16)(f->hdr_len + len));
		ip.frag_off = off;
		ip.check = 0;
		ip.check = sg_csum_v4(&ip);
		if (sg_store(f->ctx, f->l3, &ip, sizeof(ip)))
			goto fail;
	} else {
		word = bpf_htons((__u16)(SG_FRAG_LEN + len));
		off = bpf_htons((__u16)(f->base + at) | (!last || f->more ? 1 : 0));
		if (sg_store(f->ctx, f->l3 + offsetof(struct ipv6hdr, payload_len), &word, 2) ||
		    sg_store(f->ctx, f->l3 + SG_V6_LEN + 2, &off, 2))
			goto fail;
	}
	len = sg_bounded(len, SG_BUF_HALF);
	sg_opaque(at);
	at &= SG_BUF_HALF - 1;
	if (sg_store(f->ctx, f->l3 + f->hdr_len, buf + at, len))
		goto fail;
	if (bpf_clone_redirect(f->ctx, sg_cfg.slow_dev, 0))
		goto fail;
	f->at += len;
	return last;
fail:
	f->failed = 1;
	return 1;
}

/* Layer 4 in the scratch buffer gets the checksum (and ICMP type) of the other side. */
SG_INLINE void sg_frag_l4(const struct sg_work *w, __u8 *l4, __u8 type, __u64 diff)
{
	__u16 *field;

	if (!w->l4.csum_off)
		return;
	field = (__u16 *)(l4 + (w->l4.csum_off & 30));
	if (w->pkt.proto == IPPROTO_UDP && !*field)
		return;
	if (w->l4.renumber && w->l4.csum_off != 2) {
		diff += sg_number_diff(&w->l4);
		__builtin_memcpy(l4, &w->l4.new_ports, 4);
	} else if (w->l4.renumber) {
		__builtin_memcpy(l4 + 4, &w->l4.new_id, 2);
	}
	*field = sg_csum_update(*field, diff);
	if (w->pkt.proto == IPPROTO_UDP && !*field)
		*field = 0xffff;
	if (w->pkt.proto == IPPROTO_ICMP || w->pkt.proto == IPPROTO_ICMPV6)
		l4[0] = type;
}

SG_STAGE int sg_fragment(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	__u8 mac[6] = SG_READY_MAC;
	__u8 *buf = sg_scratch_buf();
	const struct sg_nat_gw *gw;
	struct sg_frag f = {};
	struct sg_head6 h6 = {};
	struct sg_pkt *p;
	struct iphdr h4;
	__u32 len, limit;
	__be16 proto;
	__u64 diff;
	__u8 type;

	if (!t || !w)
		return SG_DROP_STALE;
	gw = sg_gw_of(t, w);
	p = &w->pkt;
	f.ctx = ctx;
	f.l3 = p->l3;
	f.total = p->end - p->l4;
	f.base = p->frag_off;
	f.more = p->more;
	f.v4 = p->version == 6;
	len = f.total;
	limit = w->hop.mtu;
	proto = f.v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (!buf || len >= SG_BUF_HALF || !len)
		return SG_DROP_TOO_BIG;
	if (sg_mss(ctx, w, gw, f.v4 ? limit - 40 : limit - 60) || sg_udp_sum(ctx, w))
		return SG_DROP_TRUNCATED;
	if (sg_load(ctx, p->l4, buf, sg_bounded(len, SG_BUF_HALF)))
		return SG_DROP_TRUNCATED;
	if (f.v4) {
		type = w->l4.type == SG_ICMP6_ECHO ? SG_ICMP4_ECHO : SG_ICMP4_ECHOREPLY;
		diff = p->proto == IPPROTO_ICMPV6 ? sg_icmp64_diff(w, type)
						  : sg_csum_neg(sg_csum_addr(&p->saddr) + sg_csum_addr(&p->daddr)) +
							    w->src.addr.w[3] + w->dst.addr.w[3];
		f.hdr_len = SG_V4_LEN;
		sg_header4(ctx, w, gw, &h4);
	} else {
		type = w->l4.type == SG_ICMP4_ECHO ? SG_ICMP6_ECHO : SG_ICMP6_ECHOREPLY;
		diff = p->proto == IPPROTO_ICMP ? sg_icmp46_diff(w, type)
						: sg_csum_neg((__u64)p->saddr.w[3] + p->daddr.w[3]) + sg_csum_addr(&w->src.addr) +
							  sg_csum_addr(&w->dst.addr);
		f.hdr_len = SG_V6_LEN + SG_FRAG_LEN;
		p->fragment = 1;
		sg_header6(w, gw, &h6);
		limit = gw->low_mtu < limit ? gw->low_mtu : limit;
	}
	if (limit < f.hdr_len + 8)
		return SG_DROP_TOO_BIG;
	f.size = (limit - f.hdr_len) & ~7U;
	sg_frag_l4(w, buf, type, diff);
	sg_account(w, gw, ctx, f.v4);
	/* Layer 3 shrinks or grows in one step; what it holds is written by the loop. */
	if (sg_resize(ctx, p->l4 - p->l3, f.hdr_len, proto))
		return SG_DROP_RESIZE;
	sg_set_eth_proto(ctx, proto);
	if (f.v4 ? sg_store(ctx, p->l3, &h4, sizeof(h4)) : sg_store(ctx, p->l3, &h6, sizeof(h6)))
		return SG_DROP_RESIZE;
	if (sg_store(ctx, offsetof(struct ethhdr, h_source), mac, sizeof(mac)))
		return SG_DROP_RESIZE;
	bpf_loop(SG_MAX_FRAGMENTS, sg_frag_one, &f, 0);
	if (f.failed || f.at < f.total)
		return SG_DROP_RESIZE;
	w->act = TC_ACT_STOLEN;
	return SG_OK_FRAGMENTED;
}

/* A frame of ours that is ready: only the route is missing. */
SG_INLINE bool sg_is_ready(sg_ctx *ctx)
{
	struct ethhdr *eth = sg_data(ctx);
	const __u8 mac[6] = SG_READY_MAC;
	__u8 differs = 0;
	int i;

	if ((void *)(eth + 1) > sg_data_end(ctx))
		return false;
	for (i = 0; i < 6; i++)
		differs |= eth->h_source[i] ^ mac[i];
	return !differs;
}

/* A call, for the stack of what the slow path does otherwise. */
SG_GLOBAL int sg_send_ready(sg_ctx *ctx, struct sg_work *w)
{
	enum sg_reason reason;
	struct ipv6hdr *ip6;
	struct sg_pkt *p;
	struct iphdr *ip;

	if (!w)
		return SG_DROP_STALE;
	p = &w->pkt;
	p->l3 = sg_cfg.l2_len;
	if (sg_eth_proto(ctx) == bpf_htons(ETH_P_IPV6)) {
		ip6 = sg_data(ctx) + p->l3;
		if ((void *)(ip6 + 1) > sg_data_end(ctx))
			return SG_DROP_TRUNCATED;
		sg_parse_ip6(p, ip6);
	} else {
		ip = sg_data(ctx) + p->l3;
		if ((void *)(ip + 1) > sg_data_end(ctx))
			return SG_DROP_TRUNCATED;
		sg_parse_ip4(p, ip);
	}
	reason = sg_hop_find(ctx, &w->hop, &p->saddr, &p->daddr, p->version == 4, p->proto, p->tos, 0);
	if (reason)
		return reason;
	reason = SG_OK_FRAGMENT_SENT;
	w->act = sg_hop_send(ctx, &w->hop, &reason);
	return reason;
}

#endif
