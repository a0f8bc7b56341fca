/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Hooks that leave payloads to the slow path have nothing to do here. */
#ifndef SG_REWRITE_H
#define SG_REWRITE_H

#define SG_HOOK_IS_SLOW 0

/* Part of the general path, which is verified as one. */
#define SG_STAGE static __always_inline

#include "xlat.h"

SG_INLINE enum sg_reason sg_mss(sg_ctx *ctx __attribute__((unused)), struct sg_work *w __attribute__((unused)),
				const struct sg_nat_gw *gw __attribute__((unused)), __u32 mss __attribute__((unused)))
{
	return 0;
}

SG_INLINE enum sg_reason sg_udp_sum(sg_ctx *ctx __attribute__((unused)), struct sg_work *w __attribute__((unused)))
{
	return 0;
}

#endif
