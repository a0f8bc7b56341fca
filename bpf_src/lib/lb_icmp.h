/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP to a VIP: ping is answered here, errors go to the backend that owns the flow that they are about. */
#ifndef SG_LB_ICMP_H
#define SG_LB_ICMP_H

#include "lb_encap.h"
#include "sg/parse.h"

#define SG_LB_ECHO_TTL 64

/* Turns a ping around: addresses, type, checksum, TTL. The identifier and the payload stay. */
SG_INLINE bool sg_lb_echo(sg_ctx *ctx, const struct sg_pkt *p)
{
	struct sg_addr src = p->daddr, dst = p->saddr;
	__u8 macs[12], ttl = SG_LB_ECHO_TTL, type = p->version == 4 ? 0 : 129;
	__u16 sum, ttl_old, ttl_new;
	__u64 swap;

	/* A change of type from 8 to 0, or from 128 to 129, in the first half of a word. */
	if (sg_load(ctx, p->l4 + 2, &sum, 2))
		return false;
	swap = p->version == 4 ? sg_csum_neg(bpf_htons(0x0800)) : bpf_htons(0x0100);
	sum = sg_csum_update(sum, swap);
	if (sg_store(ctx, p->l4, &type, 1) || sg_store(ctx, p->l4 + 2, &sum, 2))
		return false;
	if (p->version == 4) {
		ttl_old = bpf_htons((__u16)(p->ttl << 8));
		ttl_new = bpf_htons((__u16)(ttl << 8));
		if (sg_load(ctx, p->l3 + 10, &sum, 2))
			return false;
		sum = sg_csum_update(sum, sg_csum_neg(ttl_old) + ttl_new);
		if (sg_store(ctx, p->l3 + 8, &ttl, 1) || sg_store(ctx, p->l3 + 10, &sum, 2) ||
		    sg_store(ctx, p->l3 + 12, &src.w[3], 4) || sg_store(ctx, p->l3 + 16, &dst.w[3], 4))
			return false;
	} else if (sg_store(ctx, p->l3 + 7, &ttl, 1) || sg_store(ctx, p->l3 + 8, &src, 16) || sg_store(ctx, p->l3 + 24, &dst, 16)) {
		return false;
	}
	if (sg_cfg.l2_len != ETH_HLEN)
		return true;
	return !sg_load(ctx, 6, macs, 6) && !sg_load(ctx, 0, macs + 6, 6) && !sg_store(ctx, 0, macs, 12);
}

/* The flow that an error is about, as the client sends it; `sport` of the embedded packet is the VIP's. Returns where its ports stand, or 0. */
SG_GLOBAL int sg_lb_inner(sg_ctx *ctx, const struct sg_pkt *p, struct sg_lb_flow_key *key)
{
	struct ipv6hdr ip6;
	__be16 ports[2];
	struct iphdr ip;
	__u32 at, l4;

	if (!p || !key)
		return 0;
	at = p->l4 + SG_ICMP_LEN;
	if (p->version == 4) {
		if (sg_load(ctx, at, &ip, sizeof(ip)) || *(__u8 *)&ip >> 4 != 4 || (*(__u8 *)&ip & 15) < 5 ||
		    ip.frag_off & bpf_htons(SG_IP_OFFSET))
			return 0;
		key->saddr = sg_addr4(ip.daddr);
		key->daddr = sg_addr4(ip.saddr);
		key->proto = ip.protocol;
		l4 = at + (*(__u8 *)&ip & 15) * 4;
	} else {
		if (sg_load(ctx, at, &ip6, sizeof(ip6)) || *(__u8 *)&ip6 >> 4 != 6)
			return 0;
		__builtin_memcpy(&key->saddr, &ip6.daddr, 16);
		__builtin_memcpy(&key->daddr, &ip6.saddr, 16);
		key->proto = ip6.nexthdr;
		l4 = at + SG_V6_LEN;
	}
	if ((key->proto != IPPROTO_TCP && key->proto != IPPROTO_UDP) || sg_load(ctx, l4, ports, 4) || l4 + 8 > p->end)
		return 0;
	if ((key->daddr.d[0] ^ p->daddr.d[0]) | (key->daddr.d[1] ^ p->daddr.d[1]))
		return 0;
	key->sport = ports[1];
	key->dport = ports[0];
	return (int)l4;
}

SG_INLINE bool sg_lb_is_error(const struct sg_pkt *p, __u8 type)
{
	return p->version == 4 ? type == 3 || type == 4 || type == 11 || type == 12 : type >= 1 && type <= 4;
}

#endif
