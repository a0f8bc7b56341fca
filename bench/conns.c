/* SPDX-License-Identifier: Apache-2.0 */
/* TCP connections, opened and closed as fast as two processes can.
 *
 *   conns serve ADDRESS PORT
 *   conns open ADDRESS PORT SECONDS AT_ONCE
 *
 * The server accepts and waits for the end; the client resets each connection as soon as it stands, so that no socket
 * lingers. The client prints {"opened": N, "failed": N, "seconds": S}.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256

static void die(const char *what)
{
	fprintf(stderr, "conns: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct addrinfo *resolve(const char *address, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;

	if (getaddrinfo(address, port, &hints, &found)) {
		fprintf(stderr, "conns: %s port %s is no address\n", address, port);
		exit(2);
	}
	return found;
}

static void watch(int poll, int fd, unsigned int events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};

	if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static void serve(const struct addrinfo *at)
{
	struct epoll_event events[EVENTS];
	int poll = epoll_create1(0), on = 1, listener = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (poll < 0 || listener < 0)
		die("socket");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, at->ai_addr, at->ai_addrlen) || listen(listener, 4096))
		die("listen");
	watch(poll, listener, EPOLLIN);
	for (;;) {
		int count = epoll_wait(poll, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd;

			if (fd != listener) {
				close(fd);
				continue;
			}
			while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
				watch(poll, fd, EPOLLIN | EPOLLRDHUP);
		}
	}
}

static void start(int poll, const struct addrinfo *to, unsigned long *failed)
{
	int fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0)
		die("socket");
	if (connect(fd, to->ai_addr, to->ai_addrlen) && errno != EINPROGRESS) {
		(*failed)++;
		close(fd);
		return;
	}
	watch(poll, fd, EPOLLOUT);
}

static int client(const struct addrinfo *to, double seconds, int at_once)
{
	const struct linger reset = {.l_onoff = 1};
	struct epoll_event events[EVENTS];
	unsigned long opened = 0, failed = 0;
	int poll = epoll_create1(0);
	double begin = now();

	for (int i = 0; i < at_once; i++)
		start(poll, to, &failed);
	while (now() - begin < seconds) {
		int count = epoll_wait(poll, events, EVENTS, 100);

		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd, error = 0;
			socklen_t length = sizeof(error);

			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
			if (error)
				failed++;
			else
				opened++;
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
			close(fd);
			start(poll, to, &failed);
		}
	}
	printf("{\"opened\": %lu, \"failed\": %lu, \"seconds\": %.6f}\n", opened, failed, now() - begin);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "serve"))
		serve(resolve(argv[2], argv[3]));
	if (argc == 6 && !strcmp(argv[1], "open"))
		return client(resolve(argv[2], argv[3]), atof(argv[4]), atoi(argv[5]));
	fprintf(stderr, "usage: conns serve ADDRESS PORT | open ADDRESS PORT SECONDS AT_ONCE\n");
	return 2;
}
