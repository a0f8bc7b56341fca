/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Stateful NAT of one packet: whose it is, what the engine says, and which writer writes it. */
#ifndef SG_ST_NAT_H
#define SG_ST_NAT_H

#include "st_check.h"
#include "st_decide.h"
#include "st_write.h"
#if SG_ST_HOLD && SG_HOOK_IS_SLOW
#include "st_wait.h"
#endif

/* Everything of a packet that sg_st_claim() has claimed. SG_PASS_NO_MATCH: it is the host's after all. */
SG_INLINE enum sg_reason sg_st_nat(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w)
{
	int answer = sg_st_ready(ctx, w);

	if (unlikely(answer))
		return answer;
#if SG_ST_HOLD && SG_HOOK_IS_SLOW
	if (w->pkt.fragment && !w->pkt.atomic && !w->pkt.frag_off && sg_st_wait_end(ctx, w))
		return SG_DROP_RESIZE;
#endif
	answer = sg_st_decide(ctx, t, w);
	if (unlikely(w->st.evict) && sg_st_end(w->st.evict - 1))
		SG_ST_COUNT(w->st.obj, half_out);
	if (unlikely(answer == SG_PASS_NO_MATCH))
		return SG_PASS_NO_MATCH;
	if (unlikely(answer))
		return sg_st_refusal(w, answer);
	return sg_st_write(ctx, w);
}

#endif
