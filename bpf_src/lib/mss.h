/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The MSS option of TCP SYNs in tc. */
#ifndef SG_MSS_H
#define SG_MSS_H

#include "sg/parse.h"

#define SG_TCP_SYN 0x02

struct sg_mss_at {
	sg_ctx *ctx;
	__u32 at;
	__u32 end;
	__u32 found; /* offset of the value, 0 where there is none */
	__u32 pad;
};

static long sg_mss_seek(__u32 i __attribute__((unused)), struct sg_mss_at *m)
{
	__u8 b[2];

	if (m->at + 1 >= m->end || sg_load(m->ctx, m->at, b, 2) || b[0] == 0)
		return 1;
	if (b[0] == 1) {
		m->at++;
		return 0;
	}
	if (b[0] == 2 && b[1] == 4 && m->at + 4 <= m->end) {
		m->found = m->at + 2;
		return 1;
	}
	if (b[1] < 2)
		return 1;
	m->at += b[1];
	return 0;
}

/* Lowers the MSS of the SYN whose TCP header begins at `l4` to `mss`. A packet without the option is left alone: its 536 bytes fit. */
SG_GLOBAL int sg_mss_clamp(struct __sk_buff *ctx, __u32 l4, __u32 mss)
{
	struct sg_mss_at m = {.ctx = ctx, .at = l4 + 20};
	__be16 old, new;
	__u8 b[2];

	if (sg_load(ctx, l4 + 12, b, 2) || !(b[1] & SG_TCP_SYN))
		return 0;
	m.end = l4 + (b[0] >> 4) * 4;
	bpf_loop(40, sg_mss_seek, &m, 0);
	if (!m.found || sg_load(ctx, m.found, &old, sizeof(old)) || bpf_ntohs(old) <= mss)
		return 0;
	new = bpf_htons((__u16)mss);
	if ((m.found - l4) & 1) { /* at an odd offset the checksum sees the bytes swapped */
		if (bpf_l4_csum_replace(ctx, l4 + 16, __builtin_bswap16(old), __builtin_bswap16(new), 2))
			return -1;
	} else if (bpf_l4_csum_replace(ctx, l4 + 16, old, new, 2)) {
		return -1;
	}
	return sg_store(ctx, m.found, &new, sizeof(new)) ? -1 : 0;
}

#endif
