/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Room for what does not fit the stack of the slow path, and what works on it. */
#ifndef SG_SCRATCH_H
#define SG_SCRATCH_H

#include "sg/maps.h"

#define SG_BUF_HALF 16384 /* bytes that may be in use; the other half lets the verifier add two bounded values */

struct sg_buf {
	__u8 b[2 * SG_BUF_HALF];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_buf);
	__uint(max_entries, 1);
} sg_scratch SEC(".maps");

SG_INLINE __u8 *sg_scratch_buf(void)
{
	__u32 zero = 0;
	struct sg_buf *buf = bpf_map_lookup_elem(&sg_scratch, &zero);

	return buf ? buf->b : NULL;
}

struct sg_sum {
	sg_ctx *ctx;
	__u64 sum;
	__u32 off;
	__u32 len;
};

#define SG_SUM_CHUNK 32 /* what the stack bears below sg_fragment() */

static long sg_sum_chunk(__u32 i __attribute__((unused)), struct sg_sum *s)
{
	__u32 w[SG_SUM_CHUNK / 4] = {};
	__u32 len = s->len < SG_SUM_CHUNK ? s->len : SG_SUM_CHUNK, k;

	if (!len)
		return 1;
	if (sg_load(s->ctx, s->off, w, sg_bounded(len, SG_SUM_CHUNK)))
		return 1;
	for (k = 0; k < SG_SUM_CHUNK / 4; k++)
		s->sum += w[k];
	s->off += len;
	s->len -= len;
	return 0;
}

/* Sum of `len` bytes of the packet, up to 64 KB; `off` is where a 16-bit word starts. Fails where the packet is shorter. */
SG_INLINE long sg_csum_packet(sg_ctx *ctx, __u32 off, __u32 len, __u64 *sum)
{
	struct sg_sum s = {.ctx = ctx, .off = off, .len = len};

	bpf_loop(65536 / SG_SUM_CHUNK, sg_sum_chunk, &s, 0);
	*sum += s.sum;
	return s.len ? -1 : 0;
}

#endif
