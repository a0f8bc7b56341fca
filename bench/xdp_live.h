/* SPDX-License-Identifier: Apache-2.0 */
/* What senders of live XDP frames share: a program of a BPF object runs on buffers of the kernel's own (BPF_F_TEST_XDP_LIVE_FRAMES),
 * which leave as frames of a network card would arrive, with room in front of the packet. */
#ifndef SG_BENCH_XDP_LIVE_H
#define SG_BENCH_XDP_LIVE_H

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define FRAME_MAX 128
#define BATCH 64

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	exit(1);
}

static unsigned long long clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (unsigned long long)t.tv_sec * 1000000000ULL + (unsigned long long)t.tv_nsec;
}

static unsigned long long now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* Bytes of a frame given in hex; returns how many. */
static inline unsigned int read_frame(const char *hex, unsigned char *frame)
{
	unsigned int len = 0, byte;

	while (len < FRAME_MAX && sscanf(hex + 2 * len, "%2x", &byte) == 1)
		frame[len++] = (unsigned char)byte;
	return len;
}

static inline int device(const char *name)
{
	unsigned int index = if_nametoindex(name);

	if (!index)
		die(name);
	return (int)index;
}

/* The object at `path`, loaded with these constants. */
static inline struct bpf_object *load(const char *path, const void *values, size_t size)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_map *map;

	if (!object)
		die(path);
	bpf_object__for_each_map(map, object)
	{
		if (strstr(bpf_map__name(map), ".rodata") && bpf_map__set_initial_value(map, values, size))
			die("constants");
	}
	if (bpf_object__load(object))
		die("load");
	return object;
}

static inline int program(struct bpf_object *object, const char *name)
{
	struct bpf_program *found = bpf_object__find_program_by_name(object, name);

	if (!found)
		die(name);
	return bpf_program__fd(found);
}

/* The program that sends. One that is attached somewhere is in the dispatcher of XDP; one that is not is put there and taken out again by
 * every test run, and the runner sleeps through some 20 ms of RCU each time. Nothing else uses the loopback of this namespace. */
static inline int sender(struct bpf_object *object, const char *name)
{
	int fd = program(object, name);

	if (bpf_link_create(fd, device("lo"), BPF_XDP, NULL) < 0)
		die("lo");
	return fd;
}

/* What a veth passes on, its peer takes in on the same core: all of the work stays on the one where the sender is, and goes before that of
 * other processes, which would be measured, too. */
static inline void have_a_core(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	if (sched_setaffinity(0, sizeof(one), &one) || setpriority(PRIO_PROCESS, 0, -20))
		die("core");
}

/* Runs the program `count` times; its frames seem to come from the device `index`. */
static inline void send_frames(int fd, const unsigned char *frame, unsigned int len, int index, unsigned int count)
{
	struct xdp_md ctx = {.data_end = len, .ingress_ifindex = (unsigned int)index};

	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .data_size_in = len, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx),
		    .repeat = (int)count, .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = BATCH);
	if (bpf_prog_test_run_opts(fd, &opts))
		die("run");
}

#endif
