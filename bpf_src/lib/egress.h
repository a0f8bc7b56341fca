/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Egress: maps, and the questions that more than one hook asks of them. docs/design/egress.md says why. */
#ifndef SG_EGRESS_H
#define SG_EGRESS_H

#include "egress_home.h"
#include "sg/parse.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sg_addr);
	__type(value, struct sg_eg_pod);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_eg_pod SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct sg_eg_dst_key);
	__type(value, struct sg_eg_dst);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_eg_dst SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* pair */
	__type(value, struct sg_eg_way);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_eg_way SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* pair */
	__type(value, struct sg_eg_own);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_eg_own SEC(".maps");

/* Devices by role (enum sg_eg_role). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, sg_ifindex_t);
	__type(value, __u32);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_eg_dev SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_eg_stat);
	__uint(max_entries, SG_EG_MAX_STAT);
} sg_eg_stats SEC(".maps");

SG_INLINE struct sg_eg_stat *sg_eg_stat(__u32 stat)
{
	return bpf_map_lookup_elem(&sg_eg_stats, &stat);
}

/* The IP header and what of layer 4 is needed to send it on; false for what is not IP. */
SG_INLINE bool sg_eg_parse(sg_ctx *ctx, struct sg_pkt *p, __be16 proto)
{
	__u32 l3 = sg_cfg.l2_len;
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	p->l3 = l3;
	if (proto == bpf_htons(ETH_P_IPV6)) {
		if (!sg_reach(ctx, l3 + SG_V6_LEN))
			return false;
		ip6 = sg_data(ctx) + l3;
		if ((void *)(ip6 + 1) > sg_data_end(ctx) || (*(__u8 *)ip6 >> 4) != 6)
			return false;
		sg_parse_ip6(p, ip6);
		return true;
	}
	if (proto != bpf_htons(ETH_P_IP) || !sg_reach(ctx, l3 + SG_V4_LEN))
		return false;
	ip = sg_data(ctx) + l3;
	if ((void *)(ip + 1) > sg_data_end(ctx) || (*(__u8 *)ip >> 4) != 4)
		return false;
	sg_parse_ip4(p, ip);
	return true;
}

/* Destinations that no router may pass on, whatever a policy covers: multicast, link-local, broadcast, loopback. */
SG_INLINE bool sg_eg_local(const struct sg_addr *a)
{
	__u32 v4;

	if (!a->d[0] && a->w[2] == bpf_htonl(0xffff)) {
		v4 = bpf_ntohl(a->w[3]);
		return v4 >= 0xe0000000 || v4 >> 16 == 0xa9fe || v4 >> 24 == 127 || !(v4 >> 24);
	}
	return a->b[0] == 0xff || (a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80) || (!a->d[0] && !a->w[2]);
}

SG_INLINE const struct sg_eg_dst *sg_eg_covers(__u32 set, const struct sg_addr *daddr)
{
	struct sg_eg_dst_key key = {.prefixlen = 160, .set = set, .addr = *daddr};
	const struct sg_eg_dst *dst = bpf_map_lookup_elem(&sg_eg_dst, &key);

	return dst && dst->pair ? dst : NULL;
}

/* Whose packet this is. Returns 0 and the destination's entry, or nothing where egress has no say; else why it is dropped. */
SG_INLINE enum sg_reason sg_eg_claim(const struct sg_pkt *p, __u32 ifindex, const struct sg_eg_dst **dst)
{
	const struct sg_eg_pod *pod;
	__u32 *role;

	*dst = NULL;
	if (sg_eg_local(&p->daddr))
		return 0;
	pod = bpf_map_lookup_elem(&sg_eg_pod, &p->saddr);
	if (likely(pod && pod->ifindex == ifindex)) {
		if (pod->set != SG_EG_SET_NONE)
			*dst = sg_eg_covers(pod->set, &p->daddr);
		return 0;
	}
	*dst = sg_eg_covers(SG_EG_SET_UNKNOWN, &p->daddr);
	if (!*dst)
		return 0;
	if (!pod)
		return SG_DROP_EGRESS_UNKNOWN;
	role = bpf_map_lookup_elem(&sg_eg_dev, &ifindex);
	/* A bridge sees what its ports have let pass. */
	if (role && *role == SG_EG_BRIDGE && pod->set == SG_EG_SET_NONE) {
		*dst = NULL;
		return 0;
	}
	return SG_DROP_EGRESS_SPOOFED;
}

#endif
