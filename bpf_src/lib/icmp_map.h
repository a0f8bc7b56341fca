/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Types, codes, pointers and MTUs of ICMP errors: RFC 7915 4.2, 5.2, figures 3 and 6. */
#ifndef SG_ICMP_MAP_H
#define SG_ICMP_MAP_H

#include "xlat.h"

#define SG_NO 0xff

struct sg_icmp_map {
	__u8 type;
	__u8 code;
	__u8 extensible; /* RFC 4884 4: this type can carry an extension */
	__u8 pad;
	__u32 rest; /* second word, host order */
};

/* Not static: libbpf gives offsets in BTF to global variables only.
 * Destination Unreachable by ICMPv4 code, to codes of ICMPv6 type 1. 2 and 4 have rules of their own. */
const __u8 sg_unreach46[16] = {0, 0, SG_NO, 4, SG_NO, 0, 0, 0, 0, 1, 1, 0, 0, 1, SG_NO, 1};
/* The same by ICMPv6 code, to codes of ICMPv4 type 3. */
const __u8 sg_unreach64[8] = {1, 10, 1, 1, 3, SG_NO, SG_NO, SG_NO};
const __u8 sg_pointer46[32] = {0,  1,  4,  4,  SG_NO, SG_NO, SG_NO, SG_NO, 7,	  6,	 SG_NO, SG_NO, 8,     8,     8,	    8,
			       24, 24, 24, 24, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO};
const __u8 sg_pointer64[64] = {0,     1,     SG_NO, SG_NO, 2,	  2,	 9,	8,     12,    12,    12,    12,	   12,
			       12,    12,    12,    12,	   12,	  12,	 12,	12,    12,    12,    12,    16,	   16,
			       16,    16,    16,    16,	   16,	  16,	 16,	16,    16,    16,    16,    16,	   16,
			       16,    SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO,
			       SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO, SG_NO};

/* An entry of a table whose length is a power of two; SG_NO behind `len`. */
SG_INLINE __u8 sg_table(const __u8 *table, __u32 i, __u32 len)
{
	if (i >= len)
		return SG_NO;
	sg_opaque(i); /* or the mask is optimized away, and Linux 6.1 does not remember the comparison */
	i &= len - 1;
	return table[i];
}

SG_INLINE __u32 sg_min(__u32 a, __u32 b)
{
	return a < b ? a : b;
}

SG_INLINE __u32 sg_max(__u32 a, __u32 b)
{
	return a > b ? a : b;
}

/* RFC 1191 7: the largest plateau below the length of the packet in error, for routers that do not report an MTU. */
SG_INLINE __u32 sg_plateau(__u32 total)
{
	const __u32 p[] = {65535, 32000, 17914, 8166, 4352, 2002, 1492};
	__u32 i, best = SG_IPV6_MIN_MTU;

	for (i = 0; i < sizeof(p) / sizeof(p[0]); i++)
		if (p[i] < total && p[i] > best)
			best = p[i];
	return best;
}

/* RFC 7915 4.2. `rest` is the second word as received, host order; the MTUs are those of the next hops on both sides. */
SG_INLINE enum sg_reason sg_icmp_map46(struct sg_icmp_map *m, __u8 type, __u8 code, __u32 rest, __u32 inner_total, __u32 mtu4,
				       __u32 mtu6)
{
	__u32 mtu = rest & 0xffff, pointer = rest >> 24;

	m->rest = 0;
	m->code = 0;
	m->extensible = 0;
	if (type == SG_ICMP4_TIME) {
		m->type = SG_ICMP6_TIME;
		m->code = code;
		m->extensible = 1;
		return 0;
	}
	if (type == SG_ICMP4_PARAM && (code == 0 || code == 2)) {
		m->type = SG_ICMP6_PARAM;
		m->rest = sg_table(sg_pointer46, pointer, 32);
		return m->rest == SG_NO ? SG_DROP_ICMP_POINTER : 0;
	}
	if (type != SG_ICMP4_UNREACH || code > 15)
		return SG_DROP_ICMP_TYPE;
	if (code == 2) {
		m->type = SG_ICMP6_PARAM;
		m->code = 1;
		m->rest = offsetof(struct ipv6hdr, nexthdr);
		return 0;
	}
	if (code == 4) {
		m->type = SG_ICMP6_TOO_BIG;
		mtu = mtu ? mtu + 20 : sg_plateau(inner_total);
		m->rest = sg_max(SG_IPV6_MIN_MTU, sg_min(mtu, sg_min(mtu6, mtu4 + 20)));
		return 0;
	}
	m->type = SG_ICMP6_UNREACH;
	m->code = sg_table(sg_unreach46, code, 16);
	m->extensible = 1;
	return m->code == SG_NO ? SG_DROP_ICMP_TYPE : 0;
}

/* RFC 7915 5.2. A Packet Too Big below 1280 counts as 1280: RFC 8201 4 lets no node believe it. */
SG_INLINE enum sg_reason sg_icmp_map64(struct sg_icmp_map *m, __u8 type, __u8 code, __u32 rest, bool inner_fragment, __u32 mtu4,
				       __u32 mtu6)
{
	__u32 less = inner_fragment ? 28 : 20, pointer;

	m->rest = 0;
	m->code = code;
	m->extensible = 0;
	switch (type) {
	case SG_ICMP6_UNREACH:
		m->type = SG_ICMP4_UNREACH;
		m->code = sg_table(sg_unreach64, code, 8);
		m->extensible = 1;
		return m->code == SG_NO ? SG_DROP_ICMP_TYPE : 0;
	case SG_ICMP6_TOO_BIG:
		m->type = SG_ICMP4_UNREACH;
		m->code = 4;
		m->rest = sg_min(sg_min(sg_max(rest, SG_IPV6_MIN_MTU) - less, mtu4), mtu6 - less);
		m->rest = sg_min(m->rest, 65535);
		return 0;
	case SG_ICMP6_TIME:
		m->type = SG_ICMP4_TIME;
		m->extensible = 1;
		return 0;
	case SG_ICMP6_PARAM:
		if (code == 1) {
			m->type = SG_ICMP4_UNREACH;
			m->code = 2;
			return 0;
		}
		if (code != 0)
			return SG_DROP_ICMP_TYPE;
		m->type = SG_ICMP4_PARAM;
		pointer = sg_table(sg_pointer64, rest, 64);
		if (pointer == SG_NO)
			return SG_DROP_ICMP_POINTER;
		m->rest = pointer << 24;
		return 0;
	default:
		return SG_DROP_ICMP_TYPE;
	}
}

#endif
