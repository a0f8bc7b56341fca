// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* numbered OBJECT DEV COUNT_NETNS COUNT_DEV FRAME_IN_HEX LONGEST LEAST RATE
 *
 * Sends numbered frames (numbered.bpf.c) at DEV, RATE per second, and counts them at COUNT_DEV in the namespace with the path
 * COUNT_NETNS, until SIGTERM has come and LEAST are sent. No more than WINDOW frames are under way: queues of the veths between hold
 * 256 packets, and a core that does something else for a millisecond would lose what overflows there. Frames that do not come
 * within PATIENCE_NS count as lost, and sending goes on.
 *
 * Prints "ready", then {"sent": N, "seconds": S, "received": R, "duplicated": D, "damaged": B, "waits": W}.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAX 128
#define COUNT_MAX (1U << 25)
#define BATCH 64
#define WINDOW 192
#define PATIENCE_NS 200000000ULL
#define NAP_NS 50000

struct constants {
	unsigned int len;
	unsigned char frame[FRAME_MAX];
	unsigned int longest;
};

/* The same as in numbered.bpf.c. */
struct state {
	volatile unsigned int next, received, duplicate, damaged;
};

static volatile sig_atomic_t stop;

static void on_stop(int number)
{
	(void)number;
	stop = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "numbered: %s: %s\n", what, strerror(errno));
	exit(1);
}

static unsigned long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (unsigned long long)t.tv_sec * 1000000000ULL + (unsigned long long)t.tv_nsec;
}

static void nap(void)
{
	struct timespec t = {.tv_nsec = NAP_NS};

	nanosleep(&t, NULL);
}

static struct bpf_object *load(const char *path, const struct constants *values, const struct state **state)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
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
	bpf_object__for_each_map(map, object)
	{
		if (strstr(bpf_map__name(map), ".bss"))
			*state = mmap(NULL, bpf_map__value_size(map), PROT_READ, MAP_SHARED, bpf_map__fd(map), 0);
	}
	if (!*state || *state == MAP_FAILED)
		die("state");
	return object;
}

static int program(struct bpf_object *object, const char *name)
{
	struct bpf_program *found = bpf_object__find_program_by_name(object, name);

	if (!found)
		die(name);
	return bpf_program__fd(found);
}

/* The link ends with this process. */
static void count_at(const char *netns, const char *device, int fd)
{
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), away = open(netns, O_RDONLY | O_CLOEXEC);
	unsigned int index;

	if (home < 0 || away < 0 || setns(away, CLONE_NEWNET))
		die(netns);
	index = if_nametoindex(device);
	if (!index || bpf_link_create(fd, (int)index, BPF_XDP, NULL) < 0)
		die(device);
	if (setns(home, CLONE_NEWNET))
		die("setns");
	close(home);
	close(away);
}

/* A program that is attached somewhere is in the dispatcher of XDP; one that is not is put there and taken out by every test run, at the cost
 * of some 20 ms of RCU. Nothing uses the loopback of this namespace. */
static void keep_known(int fd)
{
	if (bpf_link_create(fd, (int)if_nametoindex("lo"), BPF_XDP, NULL) < 0)
		die("lo");
}

static void send_batch(int fd, const struct constants *values, int index, unsigned int count)
{
	struct xdp_md ctx = {.data_end = values->len, .ingress_ifindex = (unsigned int)index};

	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = values->frame, .data_size_in = values->len, .ctx_in = &ctx,
		    .ctx_size_in = sizeof(ctx), .repeat = (int)count, .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = BATCH);
	if (bpf_prog_test_run_opts(fd, &opts))
		die("run");
}

/* Waits until few frames are under way; 1 where it had to. `lost` grows by what is given up. */
static int settle(const struct state *state, unsigned int *lost)
{
	unsigned long long begin = now_ns();

	if (state->next - state->received - *lost <= WINDOW - BATCH)
		return 0;
	while (state->next - state->received - *lost > WINDOW - BATCH) {
		if (now_ns() - begin > PATIENCE_NS)
			*lost = state->next - state->received;
		else
			nap();
	}
	return 1;
}

int main(int argc, char **argv)
{
	struct sigaction stopping = {.sa_handler = on_stop};
	unsigned long long begin, rate, least, due, waits = 0;
	struct constants values = {0};
	const struct state *state = NULL;
	struct bpf_object *object;
	unsigned int byte, lost = 0, count, i;
	int fd, index;

	if (argc != 9) {
		fprintf(stderr, "usage: numbered OBJECT DEV COUNT_NETNS COUNT_DEV FRAME_IN_HEX LONGEST LEAST RATE\n");
		return 2;
	}
	sigaction(SIGTERM, &stopping, NULL);
	setpriority(PRIO_PROCESS, 0, -10);
	while (values.len < FRAME_MAX && sscanf(argv[5] + 2 * values.len, "%2x", &byte) == 1)
		values.frame[values.len++] = (unsigned char)byte;
	values.longest = (unsigned int)atoi(argv[6]);
	least = strtoull(argv[7], NULL, 10);
	rate = strtoull(argv[8], NULL, 10);
	object = load(argv[1], &values, &state);
	count_at(argv[3], argv[4], program(object, "numbered_count"));
	fd = program(object, "numbered_send");
	keep_known(fd);
	index = (int)if_nametoindex(argv[2]);
	if (!index)
		die(argv[2]);
	printf("ready\n");
	fflush(stdout);
	begin = now_ns();
	while ((!stop || state->next < least) && state->next < COUNT_MAX - BATCH) {
		due = (now_ns() - begin) / 1000 * rate / 1000000;
		if (due <= state->next) {
			nap();
			continue;
		}
		waits += (unsigned int)settle(state, &lost);
		count = due - state->next > BATCH ? BATCH : (unsigned int)(due - state->next);
		send_batch(fd, &values, index, count);
	}
	printf("{\"sent\": %u, \"seconds\": %.6f, ", state->next, (double)(now_ns() - begin) / 1e9);
	for (i = 0; i < 10000 && state->received < state->next; i++)
		nap();
	printf("\"received\": %u, \"duplicated\": %u, \"damaged\": %u, \"waits\": %llu}\n", state->received, state->duplicate,
	       state->damaged, waits);
	return 0;
}
