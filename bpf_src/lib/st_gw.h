/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where the slow path finds how a packet is to be written, stateful or not. */
#ifndef SG_ST_GW_H
#define SG_ST_GW_H

#include "st.h"
#include "xlat.h"

/* How this packet is to be written. */
SG_INLINE const struct sg_nat_gw *sg_gw_of(const struct sg_nat_table *t, const struct sg_work *w)
{
	const struct sg_st_obj *obj;

	if (!sg_feature(SG_F_STATEFUL) || !w->way)
		return sg_nat_gw(t, w->dst.gw);
	obj = sg_st_obj_of(w->st.obj & (SG_ST_MAX_OBJ - 1));
	return obj ? &obj->gw : sg_nat_gw(t, 0);
}

#endif
