/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What only the slow path does to layer 4: a missing UDP checksum, and the MSS of TCP. */
#ifndef SG_REWRITE_H
#define SG_REWRITE_H

#define SG_HOOK_IS_SLOW 1

/* Verified one by one. */
#define SG_STAGE SG_GLOBAL

#include "scratch.h"
#include "xlat.h"

/* RFC 7915 4.5 (2): gives an IPv4 UDP packet the checksum it lacks; translation then goes on as for any other. */
SG_INLINE enum sg_reason sg_udp_sum(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	__u64 sum = (__u64)p->saddr.w[3] + p->daddr.w[3] + bpf_htons(IPPROTO_UDP);
	__be16 size;
	__u16 csum;

	if (!w->l4.zero || p->proto != IPPROTO_UDP || p->version != 4)
		return 0;
	if (sg_load(ctx, p->l4 + 4, &size, sizeof(size)) || sg_csum_packet(ctx, p->l4, bpf_ntohs(size), &sum))
		return SG_DROP_TRUNCATED;
	sum += size;
	csum = (__u16)~sg_csum_fold(sum);
	if (!csum)
		csum = 0xffff;
	if (sg_store(ctx, p->l4 + w->l4.csum_off, &csum, sizeof(csum)))
		return SG_DROP_RESIZE;
	w->l4.zero = 0;
	return 0;
}

struct sg_mss_walk {
	sg_ctx *ctx;
	__u32 at;
	__u32 end;
	__u32 mss_at; /* offset of the value, 0 where there is none */
	__u32 pad;
};

static long sg_mss_option(__u32 i __attribute__((unused)), struct sg_mss_walk *m)
{
	__u8 b[2];

	if (m->at + 1 >= m->end || sg_load(m->ctx, m->at, b, 2))
		return 1;
	if (b[0] == 0)
		return 1;
	if (b[0] == 1) {
		m->at++;
		return 0;
	}
	if (b[0] == 2 && b[1] == 4 && m->at + 4 <= m->end) {
		m->mss_at = m->at + 2;
		return 1;
	}
	if (b[1] < 2)
		return 1;
	m->at += b[1];
	return 0;
}

/* Lowers the MSS of a SYN to `mss` and to what the way back carries. */
SG_INLINE enum sg_reason sg_mss(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw, __u32 mss)
{
	struct sg_pkt *p = &w->pkt;
	struct sg_mss_walk m = {.ctx = ctx, .at = p->l4 + 20, .end = p->l4 + w->l4.hdr_len};
	bool v4 = p->version == 4;
	struct sg_addr any = {};
	struct sg_route back;
	__be16 old, new;
	__u32 room;

	if (!w->l4.syn || p->fragment || p->l4 + w->l4.hdr_len > p->end || !(gw->flags & SG_GW_MSS_CLAMP))
		return 0;
	if (!sg_route(ctx, &back, &any, &p->saddr, v4, IPPROTO_TCP, 0, 0) && !back.local) {
		room = back.mtu - (v4 ? 40 : 60);
		mss = room < mss ? room : mss;
	}
	bpf_loop(40, sg_mss_option, &m, 0);
	if (!m.mss_at || sg_load(ctx, m.mss_at, &old, sizeof(old)) || bpf_ntohs(old) <= mss)
		return 0;
	new = bpf_htons((__u16)mss);
	/* At an odd offset the checksum sees the bytes swapped. */
	if ((m.mss_at - p->l4) & 1) {
		__u16 swapped_old = __builtin_bswap16(old), swapped_new = __builtin_bswap16(new);

		if (bpf_l4_csum_replace(ctx, p->l4 + 16, swapped_old, swapped_new, 2))
			return SG_DROP_RESIZE;
	} else if (bpf_l4_csum_replace(ctx, p->l4 + 16, old, new, 2)) {
		return SG_DROP_RESIZE;
	}
	return sg_store(ctx, m.mss_at, &new, sizeof(new)) ? SG_DROP_RESIZE : 0;
}

#endif
