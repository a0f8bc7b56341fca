/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Sums are unfolded and in memory byte order. */
#ifndef SG_CSUM_H
#define SG_CSUM_H

#include "bpf.h"

SG_INLINE __u16 sg_csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* Down to 32 bits, for helpers that take a __wsum. */
SG_INLINE __u32 sg_csum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum;
}

SG_INLINE __u64 sg_csum_addr(const struct sg_addr *a)
{
	return (__u64)a->w[0] + a->w[1] + a->w[2] + a->w[3];
}

/* The opposite of a folded sum: adding it takes the sum away. */
SG_INLINE __u64 sg_csum_neg(__u64 sum)
{
	return (__u16)~sg_csum_fold(sum);
}

/* New value of a checksum field after `diff` was added to the data it covers. */
SG_INLINE __u16 sg_csum_update(__u16 field, __u64 diff)
{
	return (__u16)~sg_csum_fold((__u16)~field + diff);
}

SG_INLINE __u16 sg_csum_v4(const struct iphdr *ip)
{
	const __u32 *w = (const __u32 *)ip;

	return (__u16)~sg_csum_fold((__u64)w[0] + w[1] + w[2] + w[3] + w[4]);
}

#endif
