// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Egress: tc at pod devices, at the tunnel, and at the uplinks' egress. */
#include "sg/bpf.h"

#define SG_WORK_MAP sg_work_eg
#define SG_ST_HOLD 1

#include "sg/ctx_skb.h"
#include "lib/send_skb.h"
#include "lib/big.h"
#include "lib/mss.h"
#include "lib/fast_nops.h"
#include "lib/egress.h"

const volatile __u32 sg_eg_chained = 0; /* whether sg_eg_next has a program */

#include "lib/egress_gw.h"

/* Layer-3 length of what the kernel will make of the packet. */
SG_INLINE __u32 sg_eg_len(sg_ctx *ctx, const struct sg_pkt *p)
{
	__u32 len = p->end - p->l3, gso = sg_gso_size(ctx), head = p->l4 - p->l3;
	__u32 jumbo = sg_is_big6(ctx) && p->proto == SG_NEXTHDR_HOP ? SG_JUMBO_LEN : 0; /* no part of any segment */
	__u8 off = 0;

	if (!gso)
		return len;
	if (p->proto == IPPROTO_TCP || jumbo) {
		if (sg_load(ctx, p->l4 + jumbo + 12, &off, 1))
			return len;
		return head + (off >> 4) * 4 + gso;
	}
	return head + 8 + gso;
}

/* To the slow device, which answers. A function: the compiler would address two inlined uses of the context by a pointer that it has changed. */
SG_GLOBAL int sg_eg_tell(struct __sk_buff *ctx)
{
	__u32 ifindex = ctx->ifindex;

	if (ifindex >> 24)
		return TC_ACT_SHOT;
	ctx->mark = SG_EG_TELL | ifindex;
	return bpf_redirect(sg_cfg.eslow_dev, 0);
}

/* Discards a packet; its sender is told where the object wants that. Never of a spoofed one: nobody knows who that would be. */
SG_INLINE int sg_eg_drop(struct __sk_buff *ctx, enum sg_reason reason, const struct sg_eg_dst *dst, __u32 segs, __u32 bytes)
{
	struct sg_eg_stat *stat = dst ? sg_eg_stat(dst->stat) : NULL;
	__u32 tells = reason == SG_DROP_EGRESS_UNKNOWN ? SG_EG_TELL_NEW : reason == SG_DROP_EGRESS_NO_GW ? SG_EG_TELL_NO_GW : 0;

	if (stat)
		stat->dropped += segs;
	sg_metric(reason, segs, bytes);
	return dst && dst->flags & tells ? sg_eg_tell(ctx) : TC_ACT_SHOT;
}

/* Instead of a verdict: out from here, by the pair in the lower bits. A call of sg_eg_out() at this depth would be one too many. */
#define SG_EG_GO 0x1000000

SG_GLOBAL int sg_eg_from_pod(struct __sk_buff *ctx)
{
	__u32 segs = sg_segments(ctx), bytes = ctx->len, pair;
	const struct sg_eg_dst *dst;
	const struct sg_eg_way *way;
	struct sg_eg_stat *stat;
	struct sg_pkt p = {};
	enum sg_reason reason;
	struct sg_eg_frame frame;
	struct sg_eg_node gateway;
	__u32 mtu, flags, len;

	if (!sg_eg_parse(ctx, &p, sg_eth_proto(ctx)))
		return SG_ACT_PASS;
	reason = sg_eg_claim(&p, ctx->ifindex, &dst);
	if (unlikely(reason))
		return sg_eg_drop(ctx, reason, dst, segs, bytes);
	if (!dst)
		return SG_ACT_PASS;
	pair = dst->pair;
	way = bpf_map_lookup_elem(&sg_eg_way, &pair);
	if (unlikely(!way))
		return sg_eg_drop(ctx, SG_DROP_EGRESS_NO_GW, dst, segs, bytes);
	__builtin_memcpy(&gateway, &way->gateway, sizeof(gateway));
	frame = way->frame;
	mtu = way->mtu;
	flags = way->flags;
	stat = sg_eg_stat(dst->stat);
	if (stat) {
		stat->out_packets += segs;
		stat->out_bytes += bytes - p.l3;
	}
	if (flags & SG_EG_HERE)
		return SG_EG_GO | (int)pair;
	len = sg_eg_len(ctx, &p);
	/* What may be fragmented travels in a fragmented tunnel packet; the kernel does not fragment those of IPv6. */
	if (unlikely(len > mtu && !(p.version == 4 && !p.df && sg_eg_node4(&gateway)))) {
		sg_metric(SG_SLOW_ICMP, segs, bytes);
		ctx->mark = 0;
		return bpf_redirect(sg_cfg.eslow_dev, 0);
	}
	if (p.proto == IPPROTO_TCP && !p.fragment && flags & SG_EG_MSS_CLAMP)
		sg_mss_clamp(ctx, p.l4, mtu - (p.version == 4 ? 40 : 60));
	sg_metric(SG_OK_EGRESS, segs, bytes);
	if (flags & SG_EG_DIRECT && likely(len <= mtu))
		return sg_eg_send_frame(ctx, &frame);
	return sg_eg_encap(ctx, pair, &gateway, p.tos);
}

/* What else wants the packets of pods' devices: stateful NAT64 of this very node. Filled by the node. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} sg_eg_next SEC(".maps");

/* A packet that egress has no say in. */
SG_INLINE int sg_eg_foreign(struct __sk_buff *ctx)
{
	return sg_feature(SG_F_BIG_FORWARD) && sg_is_big6(ctx) ? sg_big_forward(ctx) : SG_ACT_PASS;
}

SEC("tc")
int sg_pod_tc(struct __sk_buff *ctx)
{
	int act;

	if (!sg_feature(SG_F_EGRESS))
		return SG_ACT_PASS;
	act = sg_eg_from_pod(ctx);
	if (act >= SG_EG_GO)
		return sg_eg_out(ctx, (__u32)act & SG_EG_PAIRS);
	if (act != SG_ACT_PASS)
		return act;
	if (sg_eg_chained)
		bpf_tail_call(ctx, &sg_eg_next, 0);
	return sg_eg_foreign(ctx);
}

/* A reply that came through the tunnel, into the pod. */
SG_GLOBAL int sg_eg_into_pod(struct __sk_buff *ctx, __u32 pair)
{
	const struct sg_eg_way *way = bpf_map_lookup_elem(&sg_eg_way, &pair);
	__u32 segs = sg_segments(ctx), bytes = ctx->len;
	struct sg_eg_stat *stat;
	struct sg_work *w = sg_new_work(ctx);
	enum sg_reason reason;
	struct sg_pkt *p;

	if (!w)
		return TC_ACT_SHOT;
	p = &w->pkt;
	if (!sg_eg_parse(ctx, p, sg_eth_proto(ctx)) || !bpf_map_lookup_elem(&sg_eg_pod, &p->daddr)) {
		sg_metric(SG_DROP_EGRESS_NO_POD, segs, bytes);
		return TC_ACT_SHOT;
	}
	reason = sg_hop_route(ctx, &w->hop, &p->saddr, &p->daddr, p->version == 4, p->proto, p->tos, 0);
	if (!reason) {
		reason = SG_OK_EGRESS_POD;
		w->act = sg_hop_send(ctx, &w->hop, &reason);
	}
	stat = way ? sg_eg_stat(way->stat) : NULL;
	if (stat) {
		stat->in_packets += segs;
		stat->in_bytes += p->end - p->l3;
	}
	sg_metric(reason, segs, bytes);
	return w->act;
}

/* The tunnel id of a packet, whose sender is remembered if it is a pod's; negative where it has none. */
SG_GLOBAL int sg_eg_arrived(struct __sk_buff *ctx)
{
	struct bpf_tunnel_key key = {};
	struct sg_eg_home fresh = {};
	__u32 ifindex = ctx->mark;

	if (!bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), 0)) {
		fresh.node = sg_addr4(bpf_htonl(key.remote_ipv4));
	} else if (!bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), BPF_F_TUNINFO_IPV6)) {
		__builtin_memcpy(&fresh.node, key.remote_ipv6, 16);
	} else {
		/* Handed over by sg_uplink_tc. */
		ctx->mark = 0;
		return sg_eg_direct(ctx, ifindex);
	}
	fresh.pair = key.tunnel_id;
	if (!(key.tunnel_id & (SG_EG_REPLY | SG_EG_RELAYED)))
		sg_eg_learn(ctx, &fresh);
	return (int)(key.tunnel_id & 0xffffff);
}

SEC("tc")
int sg_tunnel_tc(struct __sk_buff *ctx)
{
	int id;

	if (!sg_feature(SG_F_EGRESS))
		return SG_ACT_PASS;
	id = sg_eg_arrived(ctx);
	if (id < 0)
		return TC_ACT_SHOT;
	return id & SG_EG_REPLY ? sg_eg_into_pod(ctx, id & SG_EG_PAIRS) : sg_eg_out(ctx, (__u32)id);
}

/* An uplink's ingress, where no other program of ours is: direct ways end here. */
SEC("tc")
int sg_wire_tc(struct __sk_buff *ctx)
{
	int id;

	if (!sg_feature(SG_F_EGRESS))
		return SG_ACT_PASS;
	if (likely(!sg_eg_is_direct(ctx)))
		return sg_eg_foreign(ctx);
	id = sg_eg_direct(ctx, ctx->ifindex);
	if (id < 0)
		return TC_ACT_SHOT;
	return id & SG_EG_REPLY ? sg_eg_into_pod(ctx, id & SG_EG_PAIRS) : sg_eg_out(ctx, (__u32)id);
}

/* At an uplink's egress: what comes from a device that nobody guards does not get to a covered destination. */
SEC("tc")
int sg_guard_tc(struct __sk_buff *ctx)
{
	__u32 iif = ctx->ingress_ifindex;
	struct sg_pkt p = {};

	if (!sg_feature(SG_F_EGRESS) || !iif || iif == ctx->ifindex || bpf_map_lookup_elem(&sg_eg_dev, &iif))
		return SG_ACT_PASS;
	if (!sg_eg_parse(ctx, &p, sg_eth_proto(ctx)) || sg_eg_local(&p.daddr) || !sg_eg_covers(SG_EG_SET_UNKNOWN, &p.daddr))
		return SG_ACT_PASS;
	sg_metric(SG_DROP_EGRESS_YOUNG, sg_segments(ctx), ctx->len);
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
