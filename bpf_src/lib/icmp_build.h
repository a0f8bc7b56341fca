/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Building an ICMP error aside: room for it, what follows the embedded header, and RFC 4884 extensions. */
#ifndef SG_ICMP_BUILD_H
#define SG_ICMP_BUILD_H

#include "icmp_map.h"
#include "scratch.h"
#include "xlat46.h"

#define SG_ICMP_BUF 1344 /* what is built: an IPv6 header and 1280 bytes, to a multiple of 64 */
#define SG_4884_MIN 128

/* The parts of a new ICMP error. Offsets of the old packet count from the start of the frame. */
struct sg_icmp_parts {
	__u32 outer_len;    /* new IP header */
	__u32 inner_len;    /* new embedded IP header */
	__u32 from;	    /* old: what follows the embedded IP header */
	__u32 to;	    /* old: end of the original datagram */
	__u32 ext;	    /* old: bytes of RFC 4884 extension behind it, 0 for none */
	__u32 unit;	    /* new: of the RFC 4884 length attribute, bytes */
	__u32 limit;	    /* new: longest ICMP message */
	__u32 length_shift; /* new: position of the length attribute in the second word */
};

/* Too large for the stack, with all who call each other here. */
struct sg_icmp_desk {
	struct sg_icmp_parts parts;
	struct sg_icmp_map map;
	__u8 h6[sizeof(struct sg_head6)]; /* bytes, because the bit-fields of kernel headers have no place in a map's BTF */
	__u8 ip6[sizeof(struct ipv6hdr)];
	__u8 ip[sizeof(struct iphdr)];
	__u8 icmp[8];
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_icmp_desk);
	__uint(max_entries, 1);
} sg_icmp_desks SEC(".maps");

SG_INLINE struct sg_icmp_desk *sg_icmp_desk(void)
{
	__u32 zero = 0;
	struct sg_icmp_desk *d = bpf_map_lookup_elem(&sg_icmp_desks, &zero);

	if (d)
		__builtin_memset(d, 0, sizeof(*d));
	return d;
}

SG_INLINE __u64 sg_sum_buf(const __u8 *buf)
{
	const __u32 *w = (const __u32 *)buf;
	__u64 sum = 0;
	__u32 i;

	for (i = 0; i < SG_ICMP_BUF / 4; i++)
		sum += w[i];
	return sum;
}

SG_INLINE void sg_zero_buf(__u8 *buf)
{
	volatile __u64 *w = (__u64 *)buf; /* or clang makes a call to memset of it, which BPF does not have */
	__u32 i;

	for (i = 0; i < SG_ICMP_BUF / 8; i++)
		w[i] = 0;
}

/* Copies what follows the embedded header, pads it where an extension needs that, and the extension. The embedded header is written by the
 * caller. Returns the length of the ICMP message, 0 on failure; `map->rest` gains the length attribute. */
SG_GLOBAL int sg_icmp_assemble(sg_ctx *ctx, const struct sg_icmp_parts *a, struct sg_icmp_map *map)
{
	__u8 *buf = sg_scratch_buf();
	__u32 payload, room, at, size, n, m;

	if (!a || !map || !buf || a->to < a->from || a->unit == 0)
		return 0;
	payload = a->to - a->from;
	room = a->limit - SG_ICMP_LEN - a->inner_len;
	n = sg_min(payload, room);
	at = a->outer_len + SG_ICMP_LEN + a->inner_len;
	sg_opaque(at);
	at &= 0x7f;
	if (n && sg_load(ctx, a->from, buf + at, sg_bounded(n, 2048)))
		return 0;
	size = a->inner_len + payload;
	if (!a->ext || !map->extensible)
		return sg_min(a->limit, SG_ICMP_LEN + size);
	size = sg_max(SG_4884_MIN, (size + a->unit - 1) & ~(a->unit - 1));
	if (SG_ICMP_LEN + size >= a->limit)
		return a->limit;
	map->rest |= (a->unit == 8 ? size >> 3 : size >> 2) << a->length_shift;
	m = sg_min(a->ext, a->limit - SG_ICMP_LEN - size);
	at = a->outer_len + SG_ICMP_LEN + size;
	sg_opaque(at);
	at &= 0x7ff;
	if (m && sg_load(ctx, a->to, buf + at, sg_bounded(m, 2048)))
		return 0;
	return SG_ICMP_LEN + size + m;
}

/* RFC 4884 4: where the original datagram ends. An attribute that cannot be true is ignored. */
SG_INLINE void sg_icmp_split(struct sg_icmp_parts *a, const struct sg_pkt *p, __u32 attribute, __u32 unit, bool capable)
{
	__u32 body = p->l4 + SG_ICMP_LEN, length = attribute * unit;

	a->to = p->end;
	a->ext = 0;
	if (!capable || length < SG_4884_MIN || length > p->end - body)
		return;
	a->to = body + length;
	a->ext = p->end - a->to;
}

#endif
