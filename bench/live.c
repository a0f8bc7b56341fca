/* SPDX-License-Identifier: Apache-2.0 */
/* Sends one frame again and again as a network card would deliver it: as XDP frames, with room in front of the packet.
 *
 *   live OBJECT DEV FRAME_IN_HEX SECONDS [COUNT PORTS STRIDE]
 *
 * With COUNT, frames take turns over that many flows: number N * STRIDE % COUNT has the source address + that number / PORTS and the
 * port + that number % PORTS.
 *
 * The kernel runs the program of OBJECT (live.bpf.c) on buffers of its own (BPF_F_TEST_XDP_LIVE_FRAMES) and transmits them at
 * DEV, whose peer must be a veth with GRO switched on. Prints {"runs": N, "seconds": S}.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FRAME_MAX 128
#define BATCH 64
#define REPEAT 16384

struct constants {
	unsigned int len;
	unsigned char frame[FRAME_MAX];
	unsigned int count, ports, stride;
};

static void die(const char *what)
{
	fprintf(stderr, "live: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int load(const char *path, const struct constants *values)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_program *program;
	struct bpf_map *map;

	if (!object)
		die(path);
	bpf_object__for_each_map(map, object)
	{
		if (strstr(bpf_map__name(map), ".rodata") && bpf_map__set_initial_value(map, values, sizeof(*values)))
			die("constants");
	}
	if (bpf_object__load(object))
		die("load");
	program = bpf_object__find_program_by_name(object, "live_send");
	if (!program)
		die("program");
	return bpf_program__fd(program);
}

int main(int argc, char **argv)
{
	struct constants values = {0};
	struct xdp_md ctx = {0};
	unsigned long long runs = 0;
	double begin, end;
	unsigned int byte;
	int fd;

	if (argc != 5 && argc != 8) {
		fprintf(stderr, "usage: live OBJECT DEV FRAME_IN_HEX SECONDS [COUNT PORTS STRIDE]\n");
		return 2;
	}
	if (argc == 8) {
		values.count = (unsigned int)atoi(argv[5]);
		values.ports = (unsigned int)atoi(argv[6]);
		values.stride = (unsigned int)atoi(argv[7]);
	}
	while (values.len < FRAME_MAX && sscanf(argv[3] + 2 * values.len, "%2x", &byte) == 1)
		values.frame[values.len++] = (unsigned char)byte;
	fd = load(argv[1], &values);
	ctx.data_end = values.len;
	ctx.ingress_ifindex = if_nametoindex(argv[2]);
	if (!ctx.ingress_ifindex)
		die(argv[2]);
	begin = now();
	end = begin + strtod(argv[4], NULL);
	while (now() < end) {
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = values.frame, .data_size_in = values.len, .ctx_in = &ctx,
			    .ctx_size_in = sizeof(ctx), .repeat = REPEAT, .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = BATCH);

		if (bpf_prog_test_run_opts(fd, &opts))
			die("run");
		runs += REPEAT;
	}
	printf("{\"runs\": %llu, \"seconds\": %.6f}\n", runs, now() - begin);
	return 0;
}
