/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* `sixgate observe`: what a program does to a packet, seen from outside of it. Off, it costs one load; on, only packets that `sample` and
 * `budget` let through cost more.
 *
 * The beginning of the frame is kept before and after. Why the packet took its way is told by the counters of verdicts: the one that has
 * moved on this CPU meanwhile, so no feature has to know that it is watched. Reading them all takes a microsecond. */
#ifndef SG_OBSERVE_H
#define SG_OBSERVE_H

#include "sg/maps.h"

#define SG_OBS_TICK_NS 100000000ULL

/* Written by whoever looks, for as long as they do: `until` ends it where they were killed. A variable in a section of its own is a map,
 * too, and is read in two instructions, where a look-up takes a dozen. */
volatile struct sg_obs_conf sg_obs_conf SEC(".data.sg_obs_conf") = {};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} sg_obs_ring SEC(".maps");

/* What is kept from the beginning of a program to its end. */
struct sg_obs_cpu {
	__u64 counts[256]; /* as many as sg_metrics has, so that a mask is bound enough */
	__u64 skip;	   /* packets until the next one that is looked at */
	__u64 tick;
	__u64 withheld; /* packets that the budget kept out */
	__u64 lost;	/* events that the ring had no room for */
	__u64 left;	/* of the budget of this tick */
	struct sg_obs_event event;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_obs_cpu);
	__uint(max_entries, 1);
} sg_obs_cpu SEC(".maps");

struct sg_obs_walk {
	struct sg_obs_cpu *cpu;
	__u32 found;
	__u32 compare;
};

static long sg_obs_count(__u32 i, struct sg_obs_walk *w)
{
	__u32 key = i;
	struct sg_count *c;

	i &= 255;
	sg_opaque(i);
	c = bpf_map_lookup_elem(&sg_metrics, &key);
	if (!c)
		return 1;
	if (!w->compare)
		w->cpu->counts[i & 255] = c->packets;
	else if (w->cpu->counts[i & 255] != c->packets &&
		 /* An answer is counted beside what became of the packet itself, which is what is wanted. */
		 (w->found == SG_REASON_MAX || w->found == SG_OK_ICMP_SENT || w->found == SG_OK_FRAGMENT_SENT))
		w->found = i;
	return 0;
}

SG_INLINE bool sg_obs_under(const struct sg_addr *a)
{
	return (a->d[0] & sg_obs_conf.mask.d[0]) == sg_obs_conf.addr.d[0] &&
	       (a->d[1] & sg_obs_conf.mask.d[1]) == sg_obs_conf.addr.d[1];
}

SG_INLINE bool sg_obs_asked_for(const __u8 *frame)
{
	struct sg_addr source = {}, target = {};
	const __u8 *ip = frame + sg_cfg.l2_len;

	if (!sg_obs_conf.by_addr)
		return true;
	if (sg_cfg.l2_len > ETH_HLEN)
		return false;
	if (*ip >> 4 == 6) {
		__builtin_memcpy(&source, ip + offsetof(struct ipv6hdr, saddr), 16);
		__builtin_memcpy(&target, ip + offsetof(struct ipv6hdr, daddr), 16);
	} else {
		source.w[2] = target.w[2] = bpf_htonl(0xffff);
		__builtin_memcpy(&source.w[3], ip + offsetof(struct iphdr, saddr), 4);
		__builtin_memcpy(&target.w[3], ip + offsetof(struct iphdr, daddr), 4);
	}
	return sg_obs_under(&source) || sg_obs_under(&target);
}

/* The first bytes of the frame; how many. */
SG_INLINE __u8 sg_obs_keep(sg_ctx *ctx, __u8 *to)
{
	__u32 len = sg_frame_len(ctx);

	if (!len)
		return 0;
	len = sg_bounded(len > SG_OBS_SNAP ? SG_OBS_SNAP : len, SG_OBS_SNAP);
	return sg_load(ctx, 0, to, len) ? 0 : len;
}

/* 1 where this packet is looked at. */
SG_GLOBAL int sg_obs_begin(sg_ctx *ctx)
{
	struct sg_obs_walk walk = {};
	struct sg_obs_cpu *cpu;
	__u32 zero = 0, sample = sg_obs_conf.sample;
	__u64 now;

	cpu = bpf_map_lookup_elem(&sg_obs_cpu, &zero);
	if (!cpu || !sample)
		return 0;
	/* Gaps are random, `sample` in the mean: packets may come in rhythm. */
	cpu->skip = bpf_get_prandom_u32() % (2 * sample - 1);
	now = bpf_ktime_get_ns();
	if (now > sg_obs_conf.until_ns) {
		sg_obs_conf.sample = 0; /* left by a process that was killed: from now on it costs as little as before */
		return 0;
	}
	cpu->event.before_len = sg_obs_keep(ctx, cpu->event.before);
	if (!sg_obs_asked_for(cpu->event.before))
		return 0;
	if (now - cpu->tick > SG_OBS_TICK_NS) {
		cpu->tick = now;
		cpu->left = sg_obs_conf.budget;
	}
	if (!cpu->left) {
		cpu->withheld++;
		return 0;
	}
	cpu->event.time_ns = now;
	cpu->event.ifindex = sg_ifindex(ctx);
	cpu->event.before_size = sg_frame_len(ctx);
	walk.cpu = cpu;
	bpf_loop(SG_REASON_MAX, sg_obs_count, &walk, 0);
	return 1;
}

SG_GLOBAL int sg_obs_end(sg_ctx *ctx, int verdict, __u32 hook)
{
	struct sg_obs_walk walk = {.found = SG_REASON_MAX, .compare = 1};
	struct sg_obs_cpu *cpu;
	__u32 zero = 0;

	cpu = bpf_map_lookup_elem(&sg_obs_cpu, &zero);
	if (!cpu)
		return 0;
	walk.cpu = cpu;
	bpf_loop(SG_REASON_MAX, sg_obs_count, &walk, 0);
	if (!(sg_obs_conf.reasons[(walk.found >> 6) & 3] & (1ULL << (walk.found & 63))))
		return 0;
	cpu->left--;
	cpu->event.reason = walk.found;
	cpu->event.verdict = verdict;
	cpu->event.hook = hook;
	cpu->event.after_size = sg_frame_len(ctx);
	cpu->event.after_len = sg_obs_keep(ctx, cpu->event.after);
	if (bpf_ringbuf_output(&sg_obs_ring, &cpu->event, sizeof(cpu->event), 0))
		cpu->lost++;
	return 0;
}

/* Whether anybody looks at all, and it is this packet's turn. */
SG_INLINE bool sg_observed(void)
{
	__u32 zero = 0, sample = sg_obs_conf.sample;
	struct sg_obs_cpu *cpu;

	if (likely(!sample))
		return false;
	cpu = bpf_map_lookup_elem(&sg_obs_cpu, &zero);
	if (!cpu)
		return false;
	/* More than this was left by somebody who wanted fewer. */
	if (cpu->skip && cpu->skip < 2ULL * sample) {
		cpu->skip--;
		return false;
	}
	return true;
}

#endif
