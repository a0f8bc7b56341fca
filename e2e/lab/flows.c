/* SPDX-License-Identifier: Apache-2.0 */
/* Many UDP flows through a gateway that hides their sources, each with a number, and who the receiver takes each for.
 *
 *   flows send DEV GATEWAY_MAC SOURCE6 DESTINATION6 FIRST COUNT RATE ROUNDS
 *   flows recv DEV COUNT FILE IDLE_MS
 *
 * Flow N comes from SOURCE6 + N / 5000, port 10000 + N % 5000, and goes to port 4001. The receiver sees IPv4; it writes
 * for each flow 8 bytes to FILE, address and port of the source of its last packet, zero for a flow that was not seen, when
 * it gets SIGUSR1 and then nothing for IDLE_MS. It prints "ready", and at the end {"flows": N, "packets": N, "moved": N}, where
 * `moved` counts flows whose source changed meanwhile. It sees what comes in before a filter at the device drops it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORTS 5000
#define FIRST_PORT 10000
#define MAGIC 0x53474e41
#define BATCH 64
#define PACKET (14 + 40 + 8 + 8)

static volatile sig_atomic_t ending;

static void die(const char *what)
{
	fprintf(stderr, "flows: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int packet_socket(const char *dev, int protocol)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = (int)if_nametoindex(dev)};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(protocol)), size = 256 << 20;

	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)))
		die(dev);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	return fd;
}

static unsigned int sum(const unsigned char *data, int length, unsigned int total)
{
	for (int i = 0; i < length; i += 2)
		total += (unsigned int)data[i] << 8 | data[i + 1];
	return total;
}

static void put16(unsigned char *at, unsigned int value)
{
	at[0] = (unsigned char)(value >> 8);
	at[1] = (unsigned char)value;
}

static void put32(unsigned char *at, unsigned int value)
{
	put16(at, value >> 16);
	put16(at + 2, value);
}

/* The frame of flow `n`; `frame` holds what all have in common. */
static void fill(unsigned char *frame, const unsigned char *source, unsigned int n)
{
	unsigned char *ip = frame + 14, *udp = ip + 40;
	unsigned int total;

	memcpy(ip + 8, source, 16);
	put32(ip + 20,
	      ((unsigned int)source[12] << 24 | (unsigned int)source[13] << 16 | (unsigned int)source[14] << 8 | source[15]) +
		      n / PORTS);
	put16(udp, FIRST_PORT + n % PORTS);
	put32(udp + 8, MAGIC);
	put32(udp + 12, n);
	put16(udp + 6, 0);
	total = sum(ip + 8, 32, 17 + 16);
	total = sum(udp, 16, total);
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	put16(udp + 6, ~total & 0xffff ? ~total & 0xffff : 0xffff);
}

static int sender(char **argv)
{
	static unsigned char frames[BATCH][PACKET];
	struct mmsghdr messages[BATCH] = {0};
	struct iovec parts[BATCH];
	unsigned int mac[6], first = (unsigned int)atoi(argv[4]), count = (unsigned int)atoi(argv[5]);
	double rate = atof(argv[6]), begin = now();
	unsigned char source[16], target[16];
	int fd = packet_socket(argv[0], ETH_P_IPV6), rounds = atoi(argv[7]);
	unsigned long sent = 0;

	if (sscanf(argv[1], "%x:%x:%x:%x:%x:%x", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6 ||
	    inet_pton(AF_INET6, argv[2], source) != 1 || inet_pton(AF_INET6, argv[3], target) != 1)
		die("address");
	for (int i = 0; i < BATCH; i++) {
		unsigned char *frame = frames[i], *ip = frame + 14;

		for (int j = 0; j < 6; j++)
			frame[j] = (unsigned char)mac[j];
		frame[6] = 2;
		put16(frame + 12, ETH_P_IPV6);
		ip[0] = 0x60;
		put16(ip + 4, 16);
		ip[6] = 17;
		ip[7] = 64;
		memcpy(ip + 24, target, 16);
		put16(ip + 42, 4001);
		put16(ip + 44, 16);
		parts[i] = (struct iovec){frame, PACKET};
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (int round = 0; !rounds || round < rounds; round++) {
		for (unsigned int at = 0; at < count;) {
			unsigned int many = count - at < BATCH ? count - at : BATCH;

			for (unsigned int i = 0; i < many; i++)
				fill(frames[i], source, first + at + i);
			for (unsigned int done = 0; done < many;) {
				int part = sendmmsg(fd, messages + done, many - done, 0);

				if (part > 0)
					done += (unsigned int)part;
				else if (errno != ENOBUFS && errno != EAGAIN)
					die("sendmmsg");
			}
			at += many;
			sent += many;
			while (rate && (double)sent / rate > now() - begin)
				usleep(100);
		}
	}
	printf("{\"sent\": %lu, \"seconds\": %.6f}\n", sent, now() - begin);
	return 0;
}

static void on_signal(int number)
{
	(void)number;
	ending = 1;
}

static int receiver(char **argv)
{
	unsigned int count = (unsigned int)atoi(argv[1]), flows = 0;
	unsigned char *seen = calloc(count, 8), data[2048];
	unsigned long packets = 0, moved = 0;
	int fd = packet_socket(argv[0], ETH_P_ALL), idle = atoi(argv[3]);
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	FILE *file;

	if (!seen)
		die("memory");
	signal(SIGUSR1, on_signal);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		ssize_t length;
		unsigned char *ip = data + 14, *udp = ip + 20, source[8] = {0};
		unsigned int n;

		if (poll(&wait, 1, idle) == 0) {
			if (ending)
				break;
			continue;
		}
		length = recv(fd, data, sizeof(data), MSG_DONTWAIT);
		if (length < 14 + 20 + 16 || data[12] != 8 || data[13] || ip[0] != 0x45 || ip[9] != 17 ||
		    ntohl(*(unsigned int *)(void *)(udp + 8)) != MAGIC)
			continue;
		n = ntohl(*(unsigned int *)(void *)(udp + 12));
		if (n >= count)
			continue;
		packets++;
		memcpy(source, ip + 12, 4);
		memcpy(source + 4, udp, 2);
		if (!seen[8 * n])
			flows++;
		else if (memcmp(seen + 8 * n, source, 8))
			moved++;
		memcpy(seen + 8 * n, source, 8);
	}
	file = fopen(argv[2], "wb");
	if (!file || fwrite(seen, 8, count, file) != count || fclose(file))
		die(argv[2]);
	printf("{\"flows\": %u, \"packets\": %lu, \"moved\": %lu}\n", flows, packets, moved);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 10 && !strcmp(argv[1], "send"))
		return sender(argv + 2);
	if (argc == 6 && !strcmp(argv[1], "recv"))
		return receiver(argv + 2);
	fprintf(stderr, "usage: see the comment at the top of flows.c\n");
	return 2;
}
