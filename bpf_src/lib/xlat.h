/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Stateless translation of one packet (RFC 7915): everything is decided first, then written. What must read or rewrite more than headers
 * stops with a SG_SLOW_ reason; what is discarded leaves in `icmp` the error that its sender is owed. */
#ifndef SG_XLAT_H
#define SG_XLAT_H

#include "nat_addr.h"
#include "st_ask.h"
#include "sg/parse.h"

#define SG_ICMP4_ECHOREPLY 0
#define SG_ICMP4_UNREACH 3
#define SG_ICMP4_ECHO 8
#define SG_ICMP4_TIME 11
#define SG_ICMP4_PARAM 12
#define SG_ICMP6_UNREACH 1
#define SG_ICMP6_TOO_BIG 2
#define SG_ICMP6_TIME 3
#define SG_ICMP6_PARAM 4
#define SG_ICMP6_ECHO 128
#define SG_ICMP6_ECHOREPLY 129

#define SG_V4_DF_MIN 1260 /* RFC 7915 5.1: larger IPv4 packets carry DF */

/* An ICMP error owed to the sender, in the sender's family. */
struct sg_icmp_req {
	__u8 send;
	__u8 type;
	__u8 code;
	__u8 pad;
	__u32 info; /* second word of the ICMP header, host order: MTU or pointer */
};

enum sg_udp_zero {
	SG_UDP_SUM = 0,	     /* has a checksum */
	SG_UDP_ZERO = 1,     /* has none */
	SG_UDP_ZERO_BAD = 2, /* nor a length to compute one by */
};

struct sg_l4 {
	__u32 hdr_len;	/* of TCP, 8 otherwise */
	__be32 ports;	/* as in the packet, 0 where there are none */
	__u16 csum_off; /* of the checksum field in layer 4, 0 where it must stay */
	__u8 type;	/* ICMP */
	__u8 code;
	__u8 syn;   /* TCP SYN that may carry an MSS */
	__u8 error; /* ICMP error message */
	__u8 zero;  /* UDP without checksum: enum sg_udp_zero */
	__u8 tcp;   /* flags */
	__be16 id;  /* of ICMP echo */
	__u16 pad;
	__be32 new_ports; /* with `renumber`: what ports become */
	__be16 new_id;	  /* the same of id */
	__u8 renumber;	  /* ports or id change (stateful) */
	__u8 pad2;
};

enum sg_way {
	SG_WAY_STATELESS = 0,
	SG_WAY_OUT = 1, /* stateful, from inside */
	SG_WAY_IN = 2,	/* stateful, from outside */
};

struct sg_work {
	struct sg_pkt pkt;
	struct sg_match dst;
	struct sg_match src;
	struct sg_l4 l4;
	struct sg_icmp_req icmp;
	struct sg_hop hop;
	__u32 way;	     /* enum sg_way */
	struct sg_nat_gw gw; /* stateful: of its object, for what follows the engine in the slow path */
	struct sg_st st;     /* stateful: what was asked of the engine, and its answer */
	__u64 header_sum;    /* of the fixed IPv4 header */
	__u32 frame_len;
	__u32 seg_len;	    /* of layer 4 in one segment of a super-packet; of the packet otherwise */
	__u32 src_unmapped; /* an ICMP error from a router without address on the other side */
	int act;	    /* the verdict */
};

/* Too large for the stack. Index 0: the packet itself; 1: the one embedded in it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_work);
	__uint(max_entries, 2);
} SG_WORK_MAP SEC(".maps");

SG_INLINE struct sg_work *sg_work(__u32 i)
{
	return bpf_map_lookup_elem(&SG_WORK_MAP, &i);
}

/* A packet nothing is known of yet. */
SG_INLINE struct sg_work *sg_new_work(sg_ctx *ctx)
{
	struct sg_work *w = sg_work(0);

	if (!w)
		return NULL;
	__builtin_memset(w, 0, sizeof(*w));
	w->act = SG_ACT_DROP;
	w->frame_len = sg_frame_len(ctx);
	return w;
}

SG_INLINE enum sg_reason sg_owe(struct sg_work *w, enum sg_reason reason, __u8 type, __u8 code, __u32 info)
{
	w->icmp.send = 1;
	w->icmp.type = type;
	w->icmp.code = code;
	w->icmp.info = info;
	return reason;
}

/* RFC 7915 4.4, 5.4: discarded as untranslatable, answered with "administratively prohibited". */
SG_INLINE enum sg_reason sg_refuse(struct sg_work *w, const struct sg_nat_gw *gw, enum sg_reason reason)
{
	if (gw->flags & SG_GW_ICMP_QUIET)
		return reason;
	return w->pkt.version == 4 ? sg_owe(w, reason, SG_ICMP4_UNREACH, 13, 0) : sg_owe(w, reason, SG_ICMP6_UNREACH, 1, 0);
}

/* The part of layer 4 that translation touches. Later fragments have none. */
SG_INLINE enum sg_reason sg_parse_l4(sg_ctx *ctx, struct sg_work *w)
{
	struct sg_pkt *p = &w->pkt;
	struct sg_l4 *l = &w->l4;
	__u32 len = p->end - p->l4;
	__u8 b[16];
	__u16 csum;
	__be16 size;

	l->hdr_len = 0;
	if (p->proto == (p->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		if (p->fragment && !p->atomic)
			return SG_DROP_ICMP_FRAGMENT;
		if (len < SG_ICMP_LEN)
			return SG_DROP_TRUNCATED;
		if (sg_load(ctx, p->l4, b, 8))
			return SG_DROP_TRUNCATED;
		l->type = b[0];
		l->code = b[1];
		__builtin_memcpy(&l->id, b + 4, 2);
		l->csum_off = 2;
		l->error = p->version == 4 ? b[0] == 3 || b[0] == 4 || b[0] == 5 || b[0] == 11 || b[0] == 12 : b[0] < 128;
		return 0;
	}
	if (p->frag_off)
		return 0;
	if (p->proto == IPPROTO_TCP) {
		/* A first fragment that ends before the checksum cannot be translated. */
		if (len < 20)
			return SG_DROP_TRUNCATED;
		if (sg_load(ctx, p->l4, b, 16))
			return SG_DROP_TRUNCATED;
		l->hdr_len = (b[12] >> 4) * 4;
		l->csum_off = 16;
		l->tcp = b[13];
		l->syn = b[13] & 0x02;
		__builtin_memcpy(&l->ports, b, 4);
	} else if (p->proto == IPPROTO_UDP) {
		if (len < 8)
			return SG_DROP_TRUNCATED;
		if (sg_load(ctx, p->l4, b, 8))
			return SG_DROP_TRUNCATED;
		l->hdr_len = 8;
		l->csum_off = 6;
		__builtin_memcpy(&l->ports, b, 4);
		__builtin_memcpy(&csum, b + 6, 2);
		__builtin_memcpy(&size, b + 4, 2);
		if (unlikely(!csum))
			l->zero = bpf_ntohs(size) >= 8 && bpf_ntohs(size) <= len ? SG_UDP_ZERO : SG_UDP_ZERO_BAD;
	}
	return 0;
}

/* Length of layer 4 as the next hop will count it. */
SG_INLINE void sg_segment(sg_ctx *ctx, struct sg_work *w)
{
	__u32 gso = sg_gso_size(ctx);

	w->seg_len = w->pkt.end - w->pkt.l4;
	if (gso && gso + w->l4.hdr_len < w->seg_len)
		w->seg_len = gso + w->l4.hdr_len;
}

/* How this packet is to be written. */
SG_INLINE const struct sg_nat_gw *sg_gw_of(const struct sg_nat_table *t, const struct sg_work *w)
{
	return sg_feature(SG_F_STATEFUL) && w->way ? &w->gw : sg_nat_gw(t, w->dst.gw);
}

SG_INLINE void sg_account(const struct sg_work *w, const struct sg_nat_gw *gw, sg_ctx *ctx, bool to4)
{
	__u32 key = gw->stat;
	struct sg_nat_stat *s = bpf_map_lookup_elem(&sg_nat_stats, &key);

	if (s)
		sg_count(to4 ? &s->to4 : &s->to6, sg_segments(ctx), w->pkt.end - w->pkt.l3);
}

/* Identification of packets that a router may fragment (RFC 6864, RFC 7857 10): a counter per CPU, offset by a keyed hash of the
 * addresses, so that one destination learns nothing of the others'. */
struct sg_ipid {
	__u32 next;
	__u32 key;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_ipid);
	__uint(max_entries, 1);
} sg_ipid SEC(".maps");

SG_INLINE __u16 sg_new_ipid(__be32 saddr, __be32 daddr, __u32 segs)
{
	__u32 zero = 0, mix;
	struct sg_ipid *id = bpf_map_lookup_elem(&sg_ipid, &zero);

	if (!id)
		return 1;
	if (unlikely(!id->key))
		id->key = bpf_get_prandom_u32() | 1;
	mix = (saddr ^ (daddr * 0x9e3779b1)) * id->key;
	mix = (__u16)(id->next + 1 + (mix >> 16));
	id->next += segs;     /* the kernel counts on from the first segment's */
	return mix ? mix : 1; /* 0 is for packets with DF */
}

/* What ports and identifiers gain where they change. */
SG_INLINE __u64 sg_number_diff(const struct sg_l4 *l)
{
	if (!l->renumber)
		return 0;
	return sg_csum_neg((__u64)l->ports + l->id) + l->new_ports + l->new_id;
}

/* ICMP echo: type, checksum and identifier in one store. `diff` includes the identifier's. */
SG_INLINE long sg_store_echo(sg_ctx *ctx, __u32 l4, const struct sg_l4 *l, __u8 type, __u64 diff)
{
	__u8 b[6];
	__u16 csum;

	if (sg_load(ctx, l4, b, 6))
		return -1;
	if (l->renumber)
		__builtin_memcpy(b + 4, &l->new_id, 2);
	__builtin_memcpy(&csum, b + 2, 2);
	csum = sg_csum_update(csum, diff);
	b[0] = type;
	__builtin_memcpy(b + 2, &csum, 2);
	return sg_store(ctx, l4, b, 6);
}

/* TCP or UDP whose addresses changed by `diff`: checksum and ports. */
SG_INLINE enum sg_reason sg_store_l4(sg_ctx *ctx, __u32 l4, const struct sg_l4 *l, bool udp, __u64 diff)
{
	if (sg_l4_csum(ctx, l4 + l->csum_off, diff, udp))
		return SG_DROP_RESIZE;
	if (l->renumber && sg_l4_ports(ctx, l4, l->csum_off, l->new_ports, sg_number_diff(l), udp))
		return SG_DROP_RESIZE;
	return 0;
}

#endif
