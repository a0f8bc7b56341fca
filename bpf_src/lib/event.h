/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Discards that an RFC wants to be seen one by one: with addresses and ports (RFC 7915 4.5), or logged (5.1.1). */
#ifndef SG_EVENT_H
#define SG_EVENT_H

#include "xlat.h"

#define SG_EVENTS_PER_SECOND 16 /* of every CPU; further ones are only counted */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} sg_events SEC(".maps");

struct sg_event_rate {
	__u64 second;
	__u64 sent;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_event_rate);
	__uint(max_entries, 1);
} sg_event_rates SEC(".maps");

SG_INLINE bool sg_noteworthy(enum sg_reason reason)
{
	return reason == SG_DROP_UDP_ZERO || reason == SG_DROP_FRAGMENT_EXTHDR;
}

SG_INLINE void sg_note(sg_ctx *ctx, const struct sg_work *w, enum sg_reason reason)
{
	__u32 zero = 0;
	struct sg_event_rate *rate = bpf_map_lookup_elem(&sg_event_rates, &zero);
	__u64 now = bpf_ktime_get_ns();
	struct sg_event *e;

	if (!rate)
		return;
	if (rate->second != now / 1000000000ULL) {
		rate->second = now / 1000000000ULL;
		rate->sent = 0;
	}
	if (rate->sent >= SG_EVENTS_PER_SECOND)
		return;
	rate->sent++;
	e = bpf_ringbuf_reserve(&sg_events, sizeof(*e), 0);
	if (!e)
		return;
	e->time_ns = now;
	e->saddr = w->pkt.saddr;
	e->daddr = w->pkt.daddr;
	e->sport = (__be16)w->l4.ports;
	e->dport = (__be16)(w->l4.ports >> 16);
	e->ifindex = sg_ifindex(ctx);
	e->reason = reason;
	e->proto = w->pkt.proto;
	e->pad = 0;
	bpf_ringbuf_submit(e, 0);
}

#endif
