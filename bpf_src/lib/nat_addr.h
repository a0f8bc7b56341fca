/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which gateway claims an address, and what the address is on the other side: RFC 6052, RFC 7757. */
#ifndef SG_NAT_ADDR_H
#define SG_NAT_ADDR_H

#include "sg/maps.h"

struct sg_nat_inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_nat_table);
	__uint(max_entries, 1);
};

/* Never read: clang describes in BTF only what some variable is made of, and user space builds inner maps from that. */
const struct sg_nat_table sg_nat_layout = {};

/* One slot: a table is built aside and swapped, so that no packet sees half of one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 1);
	__array(values, struct sg_nat_inner);
} sg_nat SEC(".maps");

/* Explicit mappings, and IPv4 ranges that found no room in the table. Twice what a table may hold: two generations. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct sg_map_key);
	__type(value, struct sg_map_val);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sg_nat_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_nat_stat);
	__uint(max_entries, SG_NAT_MAX_STAT);
} sg_nat_stats SEC(".maps");

/* What one address became. */
struct sg_match {
	struct sg_addr addr; /* on the other side */
	__u32 gw;	     /* index in sg_nat_table.gw */
	__u32 eam;	     /* by an explicit mapping */
};

SG_INLINE struct sg_nat_table *sg_nat_table(void)
{
	__u32 zero = 0;
	void *inner = bpf_map_lookup_elem(&sg_nat, &zero);

	return inner ? bpf_map_lookup_elem(inner, &zero) : NULL;
}

SG_INLINE const struct sg_nat_gw *sg_nat_gw(const struct sg_nat_table *t, __u32 i)
{
	i &= SG_NAT_MAX_GW - 1;
	sg_opaque(i);
	return &t->gw[i];
}

SG_INLINE bool sg_is_v4(const struct sg_addr *a)
{
	return !a->d[0] && a->w[2] == bpf_htonl(0xffff);
}

/* RFC 6052 2.2: bits 64 to 71 are skipped, whatever they hold; bits behind the address are ignored. */
SG_INLINE __be32 sg_rfc6052_extract(const struct sg_addr *a, __u8 len)
{
	__u64 hi = bpf_be64_to_cpu(a->d[0]), lo = bpf_be64_to_cpu(a->d[1]);
	__u32 v4;

	if (likely(len == 96))
		return a->w[3];
	switch (len) {
	case 32:
		v4 = (__u32)hi;
		break;
	case 40:
		v4 = (__u32)(hi << 8) | ((lo >> 48) & 0xff);
		break;
	case 48:
		v4 = (__u32)(hi << 16) | ((lo >> 40) & 0xffff);
		break;
	case 56:
		v4 = (__u32)(hi << 24) | ((lo >> 32) & 0xffffff);
		break;
	default:
		v4 = (__u32)(lo >> 24);
	}
	return bpf_htonl(v4);
}

SG_INLINE struct sg_addr sg_rfc6052_embed(const struct sg_nat_gw *gw, __be32 addr)
{
	struct sg_addr a = gw->prefix;
	__u64 v4 = bpf_ntohl(addr);

	switch (gw->prefix_len) {
	case 96:
		a.w[3] = addr;
		break;
	case 32:
		a.w[1] = addr;
		break;
	case 40:
		a.d[0] |= bpf_cpu_to_be64(v4 >> 8);
		a.d[1] = bpf_cpu_to_be64((v4 & 0xff) << 48);
		break;
	case 48:
		a.d[0] |= bpf_cpu_to_be64(v4 >> 16);
		a.d[1] = bpf_cpu_to_be64((v4 & 0xffff) << 40);
		break;
	case 56:
		a.d[0] |= bpf_cpu_to_be64(v4 >> 24);
		a.d[1] = bpf_cpu_to_be64((v4 & 0xffffff) << 32);
		break;
	default:
		a.d[1] = bpf_cpu_to_be64(v4 << 24);
	}
	return a;
}

SG_INLINE bool sg_under_prefix(const struct sg_nat_gw *gw, const struct sg_addr *a)
{
	return !((a->d[0] & gw->mask.d[0]) ^ gw->prefix.d[0]) && !((a->d[1] & gw->mask.d[1]) ^ gw->prefix.d[1]);
}

SG_INLINE bool sg_in_prefix(const struct sg_nat_gw *gw, const struct sg_addr *a)
{
	return gw->flags & SG_GW_PREFIX && sg_under_prefix(gw, a);
}

/* Sources may be represented under a prefix: the gateway's own or that of the one it is joined with. */
SG_INLINE bool sg_has_prefix(const struct sg_nat_gw *gw)
{
	return gw->flags & (SG_GW_PREFIX | SG_GW_JOINED);
}

/* Whether a mapping of the one serves the other. */
SG_INLINE bool sg_nat_joined(const struct sg_nat_table *t, __u32 one, __u32 other)
{
	return one == other || sg_nat_gw(t, one)->flags & sg_nat_gw(t, other)->flags & SG_GW_JOINED;
}

SG_INLINE __u64 sg_low_mask(__u32 bits)
{
	return bits >= 64 ? ~0ULL : (1ULL << bits) - 1;
}

/* 128 bits shifted left by n, 0 to 127, in host order. */
SG_INLINE void sg_shl128(__u64 *hi, __u64 *lo, __u32 n)
{
	if (n >= 64) {
		*hi = *lo << (n - 64);
		*lo = 0;
	} else if (n) {
		*hi = (*hi << n) | (*lo >> (64 - n));
		*lo <<= n;
	}
}

SG_INLINE void sg_shr128(__u64 *hi, __u64 *lo, __u32 n)
{
	if (n >= 64) {
		*lo = *hi >> (n - 64);
		*hi = 0;
	} else if (n) {
		*lo = (*lo >> n) | (*hi << (64 - n));
		*hi >>= n;
	}
}

/* RFC 7757 3.3: the suffix moves from behind one prefix to behind the other; a shorter one is filled up with zeros on the right, a
 * longer one loses its last bits. IPv4 addresses come and go in their 128-bit form. `a` is replaced. */
SG_GLOBAL int sg_eam_map(const struct sg_map_val *m, struct sg_addr *a)
{
	__u64 hi, lo;

	if (!m || !a)
		return -1;
	hi = bpf_be64_to_cpu(a->d[0]);
	lo = bpf_be64_to_cpu(a->d[1]);
	*a = m->to;
	if (m->len < 128 && m->to_len < 128) {
		sg_shl128(&hi, &lo, m->len & 127);
		sg_shr128(&hi, &lo, m->to_len & 127);
		a->d[0] |= bpf_cpu_to_be64(hi);
		a->d[1] |= bpf_cpu_to_be64(lo);
	}
	return 0;
}

SG_INLINE struct sg_map_val *sg_nat_lpm(const struct sg_nat_table *t, const struct sg_addr *a)
{
	struct sg_map_key key = {.prefixlen = 160, .gen = t->gen, .addr = *a};

	return t->n_map ? bpf_map_lookup_elem(&sg_nat_map, &key) : NULL;
}

/* The index of the gateway that holds this IPv4 address for an IPv6 host under its prefix, or -1. */
SG_GLOBAL int sg_nat_range4(const struct sg_nat_table *t, __be32 v4)
{
	__u32 i;

	if (!t)
		return -1;
	for (i = 0; i < SG_NAT_MAX_RANGE; i++) {
		if (i >= t->n_range)
			break;
		if ((v4 & t->range[i].mask) == t->range[i].addr)
			return t->range[i].gw;
	}
	return -1;
}

/* The index of the gateway whose prefix holds this address, or -1. */
SG_GLOBAL int sg_nat_prefix6(const struct sg_nat_table *t, const struct sg_addr *a)
{
	__u32 i;

	if (!t || !a)
		return -1;
	for (i = 0; i < SG_NAT_MAX_GW; i++) {
		if (i >= t->n_gw)
			break;
		if (sg_in_prefix(&t->gw[i], a))
			return i;
	}
	return -1;
}

/* An IPv4 destination: by explicit mapping, or as the address of an IPv6 host under a prefix. */
SG_INLINE bool sg_nat_match4(const struct sg_nat_table *t, __be32 v4, struct sg_match *m)
{
	struct sg_addr a = sg_addr4(v4);
	struct sg_map_val *v = sg_nat_lpm(t, &a);
	int i;

	m->eam = v && v->kind == SG_MAP_EAM;
	i = v ? (int)v->gw : sg_nat_range4(t, v4);
	if (i < 0)
		return false;
	m->gw = i;
	m->addr = a;
	if (m->eam)
		sg_eam_map(v, &m->addr);
	else
		m->addr = sg_rfc6052_embed(sg_nat_gw(t, i), v4);
	return true;
}

/* An IPv4 source, for the gateway that claimed the destination. */
SG_INLINE bool sg_nat_src4(const struct sg_nat_table *t, __be32 v4, struct sg_match *m)
{
	const struct sg_nat_gw *gw = sg_nat_gw(t, m->gw);
	struct sg_addr a = sg_addr4(v4);
	struct sg_map_val *v = sg_nat_lpm(t, &a);

	m->eam = v && v->kind == SG_MAP_EAM && sg_nat_joined(t, v->gw, m->gw);
	m->addr = a;
	if (m->eam)
		sg_eam_map(v, &m->addr);
	else if (sg_has_prefix(gw))
		m->addr = sg_rfc6052_embed(gw, v4);
	else
		return false;
	return true;
}

/* An IPv6 destination. False also where it is an IPv6 host's own address: under the prefix, with an IPv4 address of our ranges. */
SG_INLINE bool sg_nat_match6(const struct sg_nat_table *t, const struct sg_addr *a, struct sg_match *m)
{
	struct sg_map_val *v = sg_nat_lpm(t, a);
	__be32 v4;
	int i;

	m->eam = v != NULL;
	if (v) {
		m->addr = *a;
		sg_eam_map(v, &m->addr);
		m->gw = v->gw;
		return sg_is_v4(&m->addr);
	}
	i = sg_nat_prefix6(t, a);
	if (i < 0)
		return false;
	m->gw = i;
	v4 = sg_rfc6052_extract(a, sg_nat_gw(t, i)->prefix_len);
	m->addr = sg_addr4(v4);
	if (sg_nat_range4(t, v4) == i)
		return false;
	v = sg_nat_lpm(t, &m->addr);
	return !(v && v->kind == SG_MAP_RANGE && v->gw == i);
}

SG_INLINE bool sg_nat_src6(const struct sg_nat_table *t, const struct sg_addr *a, struct sg_match *m)
{
	const struct sg_nat_gw *gw = sg_nat_gw(t, m->gw);
	struct sg_map_val *v = sg_nat_lpm(t, a);

	m->eam = v && sg_nat_joined(t, v->gw, m->gw);
	m->addr = *a;
	if (m->eam)
		sg_eam_map(v, &m->addr);
	else if (sg_has_prefix(gw) && sg_under_prefix(gw, a))
		m->addr = sg_addr4(sg_rfc6052_extract(a, gw->prefix_len));
	else
		return false;
	return sg_is_v4(&m->addr);
}

SG_INLINE bool sg_is_wkp(const struct sg_nat_gw *gw)
{
	return sg_has_prefix(gw) && gw->prefix_len == 96 && gw->prefix.w[0] == bpf_htonl(0x0064ff9b) && !gw->prefix.w[1] &&
	       !gw->prefix.w[2];
}

/* IPv4 addresses that are not globally reachable (IANA special-purpose registry, RFC 6890). */
SG_INLINE bool sg_v4_nonglobal(__be32 addr)
{
	__u32 a = bpf_ntohl(addr);
	__u32 a8 = a >> 24, a16 = a >> 16, a24 = a >> 8;

	return a8 == 0 || a8 == 10 || a8 == 127 || a8 >= 224 || (a >> 22) == (100 << 2 | 1) || a16 == 0xa9fe ||
	       (a >> 20) == 0xac1 || a24 == 0xc00000 || a24 == 0xc00002 || a16 == 0xc0a8 || (a >> 17) == (0xc612 >> 1) ||
	       a24 == 0xc63364 || a24 == 0xcb0071;
}

/* RFC 6052 3.1; explicit mappings do not represent addresses under the prefix. */
SG_INLINE bool sg_wkp_refuses(const struct sg_nat_gw *gw, const struct sg_match *m, __be32 v4)
{
	return !m->eam && gw->flags & SG_GW_WKP_STRICT && sg_is_wkp(gw) && sg_v4_nonglobal(v4);
}

/* RFC 7915 4.1 with RFC 1812 5.3.7: not a source of anything but an ICMP error. */
SG_INLINE bool sg_v4_illegal_source(__be32 addr)
{
	__u32 a = bpf_ntohl(addr) >> 24;

	return a == 0 || a == 127 || (a >= 224 && a <= 239) || addr == 0xffffffff;
}

SG_INLINE bool sg_v6_illegal_source(const struct sg_addr *a)
{
	if (a->b[0] == 0xff || (a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80))
		return true;					/* multicast, link-local */
	return !a->d[0] && !a->w[2] && bpf_ntohl(a->w[3]) <= 1; /* ::, ::1 */
}

#endif
