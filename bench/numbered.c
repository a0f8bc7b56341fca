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
#include "xdp_live.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNT_MAX (1U << 25)
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

static void nap(void)
{
	struct timespec t = {.tv_nsec = NAP_NS};

	nanosleep(&t, NULL);
}

/* The program's counters. */
static const struct state *state_of(struct bpf_object *object)
{
	void *state = MAP_FAILED;
	struct bpf_map *map;

	bpf_object__for_each_map(map, object)
	{
		if (strstr(bpf_map__name(map), ".bss"))
			state = mmap(NULL, bpf_map__value_size(map), PROT_READ, MAP_SHARED, bpf_map__fd(map), 0);
	}
	if (state == MAP_FAILED)
		die("state");
	return state;
}

/* The link ends with this process. */
static void count_at(const char *netns, const char *name, int fd)
{
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), away = open(netns, O_RDONLY | O_CLOEXEC);

	if (home < 0 || away < 0 || setns(away, CLONE_NEWNET))
		die(netns);
	if (bpf_link_create(fd, device(name), BPF_XDP, NULL) < 0)
		die(name);
	if (setns(home, CLONE_NEWNET))
		die("setns");
	close(home);
	close(away);
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
	const struct state *state;
	struct bpf_object *object;
	unsigned int lost = 0, count, i;
	int fd, index;

	if (argc != 9) {
		fprintf(stderr, "usage: numbered OBJECT DEV COUNT_NETNS COUNT_DEV FRAME_IN_HEX LONGEST LEAST RATE\n");
		return 2;
	}
	sigaction(SIGTERM, &stopping, NULL);
	setpriority(PRIO_PROCESS, 0, -10);
	values.len = read_frame(argv[5], values.frame);
	values.longest = (unsigned int)atoi(argv[6]);
	least = strtoull(argv[7], NULL, 10);
	rate = strtoull(argv[8], NULL, 10);
	index = device(argv[2]);
	object = load(argv[1], &values, sizeof(values));
	state = state_of(object);
	count_at(argv[3], argv[4], program(object, "numbered_count"));
	fd = sender(object, "numbered_send");
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
		send_frames(fd, values.frame, values.len, index, count);
	}
	printf("{\"sent\": %u, \"seconds\": %.6f, ", state->next, (double)(now_ns() - begin) / 1e9);
	for (i = 0; i < 10000 && state->received < state->next; i++)
		nap();
	printf("\"received\": %u, \"duplicated\": %u, \"damaged\": %u, \"waits\": %llu}\n", state->received, state->duplicate,
	       state->damaged, waits);
	return 0;
}
