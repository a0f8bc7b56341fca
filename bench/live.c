/* SPDX-License-Identifier: Apache-2.0 */
/* Sends one frame again and again as a network card would deliver it: as XDP frames, with room in front of the packet.
 *
 *   live OBJECT DEV FRAME_IN_HEX SECONDS [COUNT PORTS STRIDE]
 *
 * With COUNT, frames take turns over that many flows: number N * STRIDE % COUNT has the source address + that number / PORTS and the
 * port + that number % PORTS.
 *
 * The program of OBJECT is live.bpf.c's. Frames leave at DEV, whose peer must be a veth with GRO switched on, or with an XDP program.
 * Prints {"runs": N, "seconds": S, "core": C}: what happens to a
 * frame before it is at rest happens in this process, C are seconds that it had the core.
 */
#define _GNU_SOURCE
#include "xdp_live.h"

#define REPEAT 16384

struct constants {
	unsigned int len;
	unsigned char frame[FRAME_MAX];
	unsigned int count, ports, stride;
};

int main(int argc, char **argv)
{
	struct constants values = {0};
	unsigned long long runs = 0, begin, end, core;
	int fd, index;

	if (argc != 5 && argc != 8) {
		fprintf(stderr, "usage: live OBJECT DEV FRAME_IN_HEX SECONDS [COUNT PORTS STRIDE]\n");
		return 2;
	}
	if (argc == 8) {
		values.count = (unsigned int)atoi(argv[5]);
		values.ports = (unsigned int)atoi(argv[6]);
		values.stride = (unsigned int)atoi(argv[7]);
	}
	values.len = read_frame(argv[3], values.frame);
	index = device(argv[2]);
	have_a_core();
	fd = sender(load(argv[1], &values, sizeof(values)), "live_send");
	begin = now_ns();
	core = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	end = begin + (unsigned long long)(strtod(argv[4], NULL) * 1e9);
	while (now_ns() < end) {
		send_frames(fd, values.frame, values.len, index, REPEAT);
		runs += REPEAT;
	}
	core = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - core;
	printf("{\"runs\": %llu, \"seconds\": %.6f, \"core\": %.6f}\n", runs, (double)(now_ns() - begin) / 1e9, (double)core / 1e9);
	return 0;
}
