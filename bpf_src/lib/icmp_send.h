/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors of our own (RFC 1812 4.3, RFC 4443 2.4): made of the packet that caused them, sent to its source. */
#ifndef SG_ICMP_SEND_H
#define SG_ICMP_SEND_H

#include "scratch.h"
#include "send_skb.h"
#include "xlat.h"

#define SG_ICMP4_MAX 576  /* RFC 1812 4.3.2.3 */
#define SG_ICMP6_MAX 1280 /* RFC 4443 2.4 (c) */
#define SG_ICMP_TTL 64

/* Token bucket per source: an address of IPv4, a /64 of IPv6. */
struct sg_bucket {
	__u64 last_ns;
	__u64 tokens_ns; /* a token is worth NSEC / rate */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sg_addr);
	__type(value, struct sg_bucket);
	__uint(max_entries, 8192);
} sg_icmp_rate SEC(".maps");

#define SG_NSEC 1000000000ULL

SG_INLINE bool sg_icmp_allowed(const struct sg_addr *source)
{
	struct sg_addr key = *source;
	__u64 now = bpf_ktime_get_ns(), cost, cap;
	struct sg_bucket *b, fresh = {};

	if (!sg_cfg.icmp_rate)
		return false;
	if (!sg_is_v4(&key))
		key.d[1] = 0;
	cost = SG_NSEC / sg_cfg.icmp_rate;
	cap = cost * (sg_cfg.icmp_burst ? sg_cfg.icmp_burst : 1);
	b = bpf_map_lookup_elem(&sg_icmp_rate, &key);
	if (!b) {
		fresh.last_ns = now;
		fresh.tokens_ns = cap - cost;
		bpf_map_update_elem(&sg_icmp_rate, &key, &fresh, BPF_ANY);
		return true;
	}
	b->tokens_ns += now - b->last_ns;
	b->last_ns = now;
	if (b->tokens_ns > cap)
		b->tokens_ns = cap;
	if (b->tokens_ns < cost)
		return false;
	b->tokens_ns -= cost;
	return true;
}

/* The gateway's address of this family on the device that leads to the sender, or any. */
SG_INLINE bool sg_own_addr(__u32 ifindex, bool v4, struct sg_addr *addr)
{
	struct sg_dev *dev = bpf_map_lookup_elem(&sg_dev, &ifindex);
	__u32 zero = 0;

	if (dev) {
		*addr = v4 ? dev->addr4 : dev->addr6;
		if (addr->d[0] | addr->d[1])
			return true;
	}
	dev = bpf_map_lookup_elem(&sg_dev, &zero);
	if (!dev)
		return false;
	*addr = v4 ? dev->addr4 : dev->addr6;
	return addr->d[0] | addr->d[1];
}

/* Makes the frame `len` bytes of layer 3 long and fills them from `from`. Offloads of what was there before are gone. */
SG_INLINE enum sg_reason sg_replace(sg_ctx *ctx, __u32 l3, const __u8 *from, __u32 len)
{
	sg_opaque(len);
	len &= 0x7ff;
	if (len < SG_V4_LEN || bpf_skb_change_tail(ctx, l3 + len, 0))
		return SG_DROP_RESIZE;
	return sg_store(ctx, l3, from, len) ? SG_DROP_RESIZE : 0;
}

/* RFC 1122 3.2.2, RFC 4443 2.4 (e): what must not cause an ICMP error. */
SG_INLINE bool sg_may_answer(sg_ctx *ctx, const struct sg_pkt *p)
{
	__u8 type;

	if (p->version == 4) {
		if (p->frag_off || sg_v4_illegal_source(p->saddr.w[3]))
			return false;
		if (p->proto != IPPROTO_ICMP)
			return true;
		if (sg_load(ctx, p->l4, &type, 1))
			return false;
		return type == 0 || type == 8 || type == 13 || type == 14;
	}
	if (sg_v6_illegal_source(&p->saddr))
		return false;
	if (p->proto != IPPROTO_ICMPV6 || p->frag_off)
		return true;
	return !sg_load(ctx, p->l4, &type, 1) && type >= 128 && type != 137;
}

SG_INLINE void sg_own_header4(struct iphdr *ip, __u32 len, __be32 saddr, __be32 daddr)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	*(__u8 *)ip = 0x45;
	ip->tot_len = bpf_htons((__u16)len);
	ip->id = bpf_htons(sg_new_ipid(saddr, daddr, 1));
	ip->ttl = SG_ICMP_TTL;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = saddr;
	ip->daddr = daddr;
	ip->check = sg_csum_v4(ip);
}

SG_INLINE void sg_own_header6(struct ipv6hdr *ip6, __u32 len, const struct sg_addr *saddr, const struct sg_addr *daddr)
{
	__builtin_memset(ip6, 0, sizeof(*ip6));
	*(__u8 *)ip6 = 0x60;
	ip6->payload_len = bpf_htons((__u16)(len - SG_V6_LEN));
	ip6->nexthdr = IPPROTO_ICMPV6;
	ip6->hop_limit = SG_ICMP_TTL;
	__builtin_memcpy(&ip6->saddr, saddr, 16);
	__builtin_memcpy(&ip6->daddr, daddr, 16);
}

SG_INLINE __u64 sg_pseudo6(const struct sg_addr *saddr, const struct sg_addr *daddr, __u32 len)
{
	return sg_csum_addr(saddr) + sg_csum_addr(daddr) + bpf_htonl(len) + bpf_htonl(IPPROTO_ICMPV6);
}

/* Answers the packet of `w` with the error it owes. Returns what became of the answer; `w->act` is the verdict. */
SG_STAGE int sg_send_icmp(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_addr own = {}, any = {};
	__u8 *buf = sg_scratch_buf();
	__u32 keep, hdr, room;
	enum sg_reason reason;
	struct sg_hop *hop;
	struct sg_pkt *p;
	__u64 sum = 0;
	__be32 *icmp;
	bool v4;

	if (!w)
		return SG_DROP_STALE;
	hop = &w->hop;
	p = &w->pkt;
	v4 = p->version == 4;
	hdr = (v4 ? SG_V4_LEN : SG_V6_LEN) + SG_ICMP_LEN;
	room = (v4 ? SG_ICMP4_MAX : SG_ICMP6_MAX) - hdr;
	keep = p->end - p->l3;
	if (!buf || !sg_may_answer(ctx, p))
		return 0;
	if (!sg_icmp_allowed(&p->saddr))
		return SG_DROP_RATE;
	reason = sg_hop_find(ctx, hop, &any, &p->saddr, v4, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, 0, 0);
	if (reason)
		return reason;
	if (!sg_own_addr(hop->rt.fib.ifindex, v4, &own))
		return SG_DROP_NO_SOURCE;
	if (keep > w->frame_len - p->l3)
		keep = w->frame_len - p->l3;
	if (keep > room)
		keep = room;
	if (sg_csum_packet(ctx, p->l3, keep, &sum))
		return SG_DROP_TRUNCATED;
	sg_opaque(keep);
	keep &= 0x7ff;
	if (keep < SG_V4_LEN || sg_load(ctx, p->l3, buf + (v4 ? SG_V4_LEN + SG_ICMP_LEN : SG_V6_LEN + SG_ICMP_LEN), keep))
		return SG_DROP_TRUNCATED;
	icmp = (__be32 *)(buf + (v4 ? SG_V4_LEN : SG_V6_LEN));
	icmp[1] = bpf_htonl(w->icmp.info);
	icmp[0] = w->icmp.type | ((__u32)w->icmp.code << 8);
	sum += (__u64)icmp[0] + icmp[1];
	if (v4)
		sg_own_header4((struct iphdr *)buf, hdr + keep, own.w[3], p->saddr.w[3]);
	else
		sg_own_header6((struct ipv6hdr *)buf, hdr + keep, &own, &p->saddr);
	if (!v4)
		sum += sg_pseudo6(&own, &p->saddr, SG_ICMP_LEN + keep);
	icmp[0] |= (__u32)(__u16)~sg_csum_fold(sum) << 16;
	reason = sg_replace(ctx, p->l3, buf, hdr + keep);
	if (reason)
		return reason;
	reason = SG_OK_ICMP_SENT;
	w->act = sg_hop_send(ctx, hop, &reason);
	return reason;
}

#endif
