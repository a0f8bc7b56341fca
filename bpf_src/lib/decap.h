/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The backend's end of DSR: takes the outer header off, and remembers which port of the VIP a client of a mapped port asked for. Only
 * packets from a known balancer to an address of this host, with a VIP inside, are touched. */
#ifndef SG_DECAP_H
#define SG_DECAP_H

#include "nat_addr.h"
#include "sg/parse.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_addr);
	__type(value, __u32);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_decap_addr SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct sg_decap_from_key);
	__type(value, __u32);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_decap_from SEC(".maps");

/* Flows of mapped ports, as the client sends them but with the backend's port; the value is the VIP's port. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sg_lb_flow_key);
	__type(value, __u32);
	__uint(max_entries, 65536);
} sg_decap_flow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_decap_port_key);
	__type(value, __u32);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_decap_port SEC(".maps");

SG_INLINE bool sg_decap_is(const struct sg_addr *addr, __u32 role)
{
	const __u32 *roles = bpf_map_lookup_elem(&sg_decap_addr, addr);

	return roles && *roles & role;
}

SG_INLINE bool sg_decap_known(const struct sg_addr *source)
{
	struct sg_decap_from_key key = {.prefixlen = 128, .addr = *source};

	return bpf_map_lookup_elem(&sg_decap_from, &key) != NULL;
}

/* One packet with another inside. */
struct sg_decap {
	struct sg_addr saddr; /* of the inner packet */
	struct sg_addr daddr;
	__u32 cut;   /* bytes of the outer header */
	__u32 len;   /* of the inner packet behind its fixed header, as that says it */
	__u32 l4;    /* first byte of the inner layer 4, counted in the frame as received */
	__be16 port; /* of the VIP where it was mapped, else 0 */
	__u8 v6;     /* inner family */
	__u8 proto;
	__u8 tos; /* of the outer header */
	__u8 inner_tos;
	__u8 whole; /* layer 4 begins here: no later fragment */
	__u8 pad[5];
};

/* Fills what the outer header says. False where it is none of ours. */
SG_INLINE bool sg_decap_outer(sg_ctx *ctx, struct sg_decap *d, __be16 proto)
{
	__u32 l3 = sg_cfg.l2_len;
	struct sg_addr s, dst;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__u8 next;

	if (proto == bpf_htons(ETH_P_IP)) {
		if (!sg_reach(ctx, l3 + SG_V4_LEN))
			return false;
		ip = sg_data(ctx) + l3;
		if ((void *)(ip + 1) > sg_data_end(ctx) || *(__u8 *)ip != 0x45 || ip->frag_off & ~bpf_htons(SG_IP_DF))
			return false;
		next = ip->protocol;
		if (next != IPPROTO_IPIP && next != IPPROTO_IPV6)
			return false;
		s = sg_addr4(ip->saddr);
		dst = sg_addr4(ip->daddr);
		d->cut = SG_V4_LEN;
		d->tos = ip->tos;
		d->port = ip->id;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		if (!sg_reach(ctx, l3 + SG_V6_LEN))
			return false;
		ip6 = sg_data(ctx) + l3;
		if ((void *)(ip6 + 1) > sg_data_end(ctx))
			return false;
		next = ip6->nexthdr;
		if (next != IPPROTO_IPIP && next != IPPROTO_IPV6)
			return false;
		__builtin_memcpy(&s, &ip6->saddr, 16);
		__builtin_memcpy(&dst, &ip6->daddr, 16);
		d->cut = SG_V6_LEN;
		d->tos = (bpf_ntohl(*(__be32 *)ip6) >> 20) & 0xff;
		d->port = bpf_htons((__u16)bpf_ntohl(*(__be32 *)ip6));
	} else {
		return false;
	}
	d->v6 = next == IPPROTO_IPV6;
	return sg_decap_is(&dst, SG_DECAP_SELF) && sg_decap_known(&s);
}

/* Fills what the inner header says. */
SG_INLINE enum sg_reason sg_decap_inner(sg_ctx *ctx, struct sg_decap *d)
{
	__u32 at = sg_cfg.l2_len + d->cut;
	struct ipv6hdr ip6;
	struct iphdr ip;
	__u8 first;

	if (d->v6) {
		if (sg_load(ctx, at, &ip6, sizeof(ip6)) || *(__u8 *)&ip6 >> 4 != 6)
			return SG_DROP_DECAP_INNER;
		__builtin_memcpy(&d->saddr, &ip6.saddr, 16);
		__builtin_memcpy(&d->daddr, &ip6.daddr, 16);
		d->proto = ip6.nexthdr;
		d->inner_tos = (bpf_ntohl(*(__be32 *)&ip6) >> 20) & 0xff;
		d->l4 = at + SG_V6_LEN;
		d->len = bpf_ntohs(ip6.payload_len);
		d->whole = 1;
	} else {
		if (sg_load(ctx, at, &ip, sizeof(ip)))
			return SG_DROP_DECAP_INNER;
		first = *(__u8 *)&ip;
		if (first >> 4 != 4 || (first & 15) < 5)
			return SG_DROP_DECAP_INNER;
		d->saddr = sg_addr4(ip.saddr);
		d->daddr = sg_addr4(ip.daddr);
		d->proto = ip.protocol;
		d->inner_tos = ip.tos;
		d->l4 = at + (first & 15) * 4;
		d->len = bpf_ntohs(ip.tot_len) - (first & 15) * 4;
		d->whole = !(ip.frag_off & bpf_htons(SG_IP_OFFSET));
	}
	return sg_decap_is(&d->daddr, SG_DECAP_VIP) ? 0 : SG_DROP_DECAP_INNER;
}

#define SG_TCP_SYN 0x02

/* Whether the outer header says what the balancer wrote. Whoever cuts a super-packet counts the identifications of IPv4 up, so segments with data
 * may say anything. */
SG_INLINE bool sg_decap_said(sg_ctx *ctx, const struct sg_decap *d)
{
	__u8 b[2];

	return d->cut != SG_V4_LEN || d->proto != IPPROTO_TCP ||
	       (!sg_load(ctx, d->l4 + 12, b, sizeof(b)) && (b[1] & SG_TCP_SYN || d->len == (b[0] >> 4) * 4));
}

/* The balancer mapped the port: replies get the VIP's back. */
SG_INLINE void sg_decap_learn(sg_ctx *ctx, const struct sg_decap *d)
{
	struct sg_lb_flow_key key = {.saddr = d->saddr, .daddr = d->daddr, .proto = d->proto};
	__u32 port = bpf_ntohs(d->port), *known;
	__be16 ports[2];

	if (!port || !d->whole || (d->proto != IPPROTO_TCP && d->proto != IPPROTO_UDP) || sg_load(ctx, d->l4, ports, 4) ||
	    !sg_decap_said(ctx, d))
		return;
	key.sport = ports[0];
	key.dport = ports[1];
	known = bpf_map_lookup_elem(&sg_decap_flow, &key);
	if (!known || *known != port)
		bpf_map_update_elem(&sg_decap_flow, &key, &port, BPF_ANY);
}

/* RFC 6040 4.2: congestion that was experienced in the tunnel reaches the inner packet. `l3` is its header, the outer one being gone. */
SG_INLINE bool sg_decap_congested(sg_ctx *ctx, const struct sg_decap *d)
{
	__u32 l3 = sg_cfg.l2_len;
	__be32 word, marked;
	__u16 sum;
	__u8 tos;

	if (d->v6) {
		if (sg_load(ctx, l3, &word, 4))
			return false;
		marked = word | bpf_htonl(3 << 20);
		return !sg_store(ctx, l3, &marked, 4);
	}
	tos = d->inner_tos | 3;
	if (sg_load(ctx, l3 + 10, &sum, 2))
		return false;
	sum = sg_csum_update(sum, sg_csum_neg(bpf_htons(d->inner_tos)) + bpf_htons(tos));
	return !sg_store(ctx, l3 + 1, &tos, 1) && !sg_store(ctx, l3 + 10, &sum, 2);
}

SG_INLINE long sg_decap_strip(sg_ctx *ctx, const struct sg_decap *d);

/* The verdict: the kernel gets the inner packet, or the packet as it came where it is none of ours. */
SG_INLINE int sg_decap(sg_ctx *ctx)
{
	bool marked;
	struct sg_decap d = {};
	enum sg_reason reason;
	__u32 bytes = sg_frame_len(ctx);

	if (!sg_decap_outer(ctx, &d, sg_eth_proto(ctx)))
		return SG_ACT_PASS;
	reason = sg_decap_inner(ctx, &d);
	marked = (d.tos & 3) == 3 && (d.inner_tos & 3) != 3;
	if (!reason && marked && !(d.inner_tos & 3))
		reason = SG_DROP_DECAP_ECN;
	if (!reason) {
		sg_decap_learn(ctx, &d);
		reason = SG_OK_DECAP;
		if (sg_decap_strip(ctx, &d) || (marked && !sg_decap_congested(ctx, &d)))
			reason = SG_DROP_RESIZE;
	}
	sg_metric(reason, sg_segments(ctx), bytes);
	return reason == SG_OK_DECAP ? SG_ACT_PASS : SG_ACT_DROP;
}

#endif
