// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* XDP of a backend: packets of a balancer lose their outer header before the kernel sees them, which then coalesces them as any others. */
#include "sg/bpf.h"

#include "sg/ctx_xdp.h"
#include "lib/decap.h"

SG_INLINE long sg_decap_strip(sg_ctx *ctx, const struct sg_decap *d)
{
	return sg_resize(ctx, d->cut, 0, d->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP));
}

SEC("xdp")
int sg_unpack_xdp(struct xdp_md *ctx)
{
	return sg_decap(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
