/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet whose new addresses are known is written, sent and counted. Equal families have writers here. */
#ifndef SG_ST_WRITE_H
#define SG_ST_WRITE_H

#include "nat.h"
#include "st.h"

SG_INLINE enum sg_reason sg_go66(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason = sg_hop_find(ctx, &w->hop, &w->src.addr, &w->dst.addr, false, p->proto, p->tos, w->l4.ports);
	__u32 jumbo;

	if (reason)
		return reason;
	/* Segments of a super-packet of more than 64 KB have no jumbo header. */
	jumbo = p->end - p->l4 > 65535 && p->l4 - p->l3 > SG_V6_LEN ? SG_JUMBO_LEN : 0;
	if (p->l4 - p->l3 - jumbo + w->seg_len > w->hop.mtu)
		return sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP6_TOO_BIG, 0, w->hop.mtu);
	return sg_write66(ctx, w, &w->src.addr, &w->dst.addr);
}

SG_INLINE enum sg_reason sg_write44(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	__be32 pair[2] = {w->src.addr.w[3], w->dst.addr.w[3]};
	__u64 diff = sg_csum_neg((__u64)p->saddr.w[3] + p->daddr.w[3]) + pair[0] + pair[1];
	struct iphdr ip;

	if (sg_load(ctx, p->l3, &ip, sizeof(ip)))
		return SG_DROP_TRUNCATED;
	/* TTL - 1: the word of TTL and protocol loses 1 in its first byte. */
	ip.check = sg_csum_update(ip.check, diff + sg_csum_neg(ip.ttl) + (__u8)(ip.ttl - 1));
	ip.ttl--;
	ip.saddr = pair[0];
	ip.daddr = pair[1];
	if (sg_store(ctx, p->l3 + offsetof(struct iphdr, ttl), &ip.ttl, sizeof(ip) - offsetof(struct iphdr, ttl)))
		return SG_DROP_RESIZE;
	if (!w->l4.csum_off)
		return 0;
	if (p->proto == IPPROTO_ICMP)
		return sg_store_echo(ctx, p->l4, &w->l4, w->l4.type, sg_number_diff(&w->l4)) ? SG_DROP_RESIZE : 0;
	return sg_store_l4(ctx, p->l4, &w->l4, p->proto == IPPROTO_UDP, diff);
}

SG_INLINE enum sg_reason sg_go44(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	enum sg_reason reason = sg_hop_find(ctx, &w->hop, &w->src.addr, &w->dst.addr, true, p->proto, p->tos, w->l4.ports);

	if (reason)
		return reason;
	if (p->l4 - p->l3 + w->seg_len > w->hop.mtu) {
		/* A tunnel over IPv4 is fragmented itself, one over IPv6 is not. */
		if (p->df || (w->hop.home && !sg_eg_node4(&w->hop.node)))
			return sg_owe(w, SG_DROP_TOO_BIG, SG_ICMP4_UNREACH, 4, w->hop.mtu);
		w->hop.local = true; /* the kernel forwards, and fragments */
	}
	return sg_write44(ctx, w);
}

SG_INLINE void sg_st_account(sg_ctx *ctx, struct sg_work *w, const struct sg_nat_gw *gw)
{
	__u32 segs = sg_segments(ctx), bytes = w->pkt.end - w->pkt.l3;
	bool out = w->way == SG_WAY_OUT;
	struct sg_st_sess *s = w->st.sess ? sg_st_sess_of(w->st.sess - 1) : NULL;
	struct sg_st_stat *stat = sg_st_stat_of(w->st.obj);

	if (stat)
		sg_count(out ? &stat->out : &stat->in, segs, bytes);
	if (s)
		sg_count(out ? &s->out : &s->in, segs, bytes);
	sg_account(w, gw, ctx, w->pkt.version == 6);
}

/* Writes and sends a packet whose new addresses are known. */
SG_GLOBAL int sg_st_write(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_st_obj *obj = w ? sg_st_obj_of(w->st.obj) : NULL;
	const struct sg_nat_gw *gw;
	enum sg_reason reason, done;
	bool from6, to6;

	if (!w || !obj)
		return SG_DROP_STALE;
	gw = &obj->gw;
	from6 = w->pkt.version == 6;
	to6 = !sg_is_v4(&w->dst.addr);
	if (from6 && to6) {
		reason = sg_go66(ctx, w);
		done = SG_OK_66;
	} else if (from6) {
		reason = sg_go64(ctx, w, gw);
		done = w->hop.local ? SG_OK_64_LOCAL : SG_OK_64;
	} else if (to6) {
		reason = sg_go46(ctx, w, gw);
		done = w->hop.local ? SG_OK_46_LOCAL : SG_OK_46;
	} else {
		reason = sg_go44(ctx, w);
		done = SG_OK_44;
	}
	if (unlikely(reason))
		return reason;
	sg_st_account(ctx, w, gw);
	w->act = sg_hop_send(ctx, &w->hop, &done);
	return done;
}

#endif
