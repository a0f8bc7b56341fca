/* SPDX-License-Identifier: Apache-2.0 */
/* Numbered UDP packets, sent and counted at the level of frames.
 *
 *   stamp send DEV DST_MAC SRC_IP DST_IP COUNT RATE SECONDS   RATE 0: as fast as it goes; SECONDS 0: until COUNT are sent
 *   stamp recv DEV FAMILY COUNT IDLE_MS                       FAMILY 4 or 6: what a translated packet looks like here
 *
 * Both print one line of JSON. A packet carries a magic number and its own number, 16 bytes, behind a UDP header, so it is
 * 64 bytes of IPv6 or 44 of IPv4. The receiver reads whole frames, whatever the host's stack would make of them: a packet of
 * the wrong family left the gateway untranslated; a wrong checksum or length is a damaged one. It ends when all COUNT packets
 * have arrived, or at SIGTERM, or, once SIGUSR1 has said that all are sent, when none has come for IDLE_MS: how long a sender
 * pauses on a busy machine says nothing.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x5349584741544553ULL /* "SIXGATES" */
#define SPORT 40000
#define DPORT 40001
#define BATCH 32
#define L4_LEN 24 /* UDP header and stamp */

static volatile sig_atomic_t stop, armed;

static void on_stop(int number)
{
	(void)number;
	stop = 1;
}

static void on_arm(int number)
{
	(void)number;
	armed = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "stamp: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static uint32_t sum16(const uint8_t *p, size_t n, uint32_t sum)
{
	size_t i;

	for (i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)p[i] << 8 | p[i + 1];
	if (n & 1)
		sum += (uint32_t)p[n - 1] << 8;
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = v >> 8;
	p[1] = v & 0xff;
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static int packet_socket(const char *dev, int protocol)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("packet socket");
	address.sll_ifindex = (int)if_nametoindex(dev);
	if (!address.sll_ifindex)
		die(dev);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("bind");
	return fd;
}

/* One frame: Ethernet, IP, UDP, magic; the number is filled in later. Returns its length; *l4 is where UDP begins, *base the
 * checksum's sum over everything but the number. */
static size_t build_frame(uint8_t *f, const char *dev, const char *dst_mac, const char *src, const char *dst, size_t *l4,
			  uint32_t *base)
{
	int family = strchr(src, ':') ? AF_INET6 : AF_INET;
	size_t alen = family == AF_INET6 ? 16 : 4, iplen = family == AF_INET6 ? 40 : 20, saddr = 14 + (family == AF_INET6 ? 8 : 12);
	unsigned int m[6];
	struct ifreq ifr = {0};
	uint64_t magic = htobe64(MAGIC);
	int i, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", dev);
	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &ifr))
		die("hardware address");
	close(fd);
	if (sscanf(dst_mac, "%x:%x:%x:%x:%x:%x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]) != 6) {
		errno = EINVAL;
		die(dst_mac);
	}
	for (i = 0; i < 6; i++)
		f[i] = (uint8_t)m[i];
	memcpy(f + 6, ifr.ifr_hwaddr.sa_data, 6);
	put16(f + 12, family == AF_INET6 ? ETH_P_IPV6 : ETH_P_IP);
	if (inet_pton(family, src, f + saddr) != 1 || inet_pton(family, dst, f + saddr + alen) != 1) {
		errno = EINVAL;
		die("address");
	}
	if (family == AF_INET6) {
		f[14] = 0x60;
		put16(f + 18, L4_LEN);
		f[20] = IPPROTO_UDP;
		f[21] = 64;
	} else {
		f[14] = 0x45;
		put16(f + 16, 20 + L4_LEN);
		f[20] = 0x40; /* do not fragment: no identification needed */
		f[22] = 64;
		f[23] = IPPROTO_UDP;
		put16(f + 24, (uint16_t)~fold(sum16(f + 14, 20, 0)));
	}
	*l4 = 14 + iplen;
	put16(f + *l4, SPORT);
	put16(f + *l4 + 2, DPORT);
	put16(f + *l4 + 4, L4_LEN);
	memcpy(f + *l4 + 8, &magic, 8);
	*base = sum16(f + saddr, 2 * alen, sum16(f + *l4, L4_LEN, IPPROTO_UDP + L4_LEN));
	return *l4 + L4_LEN;
}

static void set_number(uint8_t *l4, uint64_t number, uint32_t base)
{
	uint64_t be = htobe64(number);
	uint16_t sum;

	memcpy(l4 + 16, &be, 8);
	sum = (uint16_t)~fold(sum16(l4 + 16, 8, base));
	put16(l4 + 6, sum ? sum : 0xffff);
}

static int do_send(char **a)
{
	static uint8_t frames[BATCH][128];
	uint64_t count = strtoull(a[4], NULL, 10), rate = strtoull(a[5], NULL, 10), sent = 0, refused = 0, begin, end;
	double seconds = strtod(a[6], NULL);
	struct mmsghdr msgs[BATCH] = {0};
	struct iovec iov[BATCH];
	size_t len = 0, l4 = 0;
	uint32_t base = 0;
	int i, one = 1, fd = packet_socket(a[0], 0);

	for (i = 0; i < BATCH; i++) {
		len = build_frame(frames[i], a[0], a[1], a[2], a[3], &l4, &base);
		iov[i] = (struct iovec){.iov_base = frames[i], .iov_len = len};
		msgs[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
	}
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
	begin = now_ns();
	end = seconds > 0 ? begin + (uint64_t)(seconds * 1e9) : UINT64_MAX;
	while (sent < count && !stop) {
		uint64_t t = now_ns(), due = count, n;

		if (t >= end)
			break;
		if (rate) {
			due = (t - begin) / 1000 * rate / 1000000;
			if (due <= sent) {
				struct timespec nap = {.tv_nsec = 50000};

				nanosleep(&nap, NULL);
				continue;
			}
		}
		n = (due > count ? count : due) - sent;
		if (n > BATCH)
			n = BATCH;
		for (i = 0; i < (int)n; i++)
			set_number(frames[i] + l4, sent + (uint64_t)i, base);
		i = sendmmsg(fd, msgs, (unsigned int)n, 0);
		if (i < 0 && errno != ENOBUFS && errno != EINTR)
			die("send");
		if (i < 0)
			refused++;
		else
			sent += (uint64_t)i;
	}
	printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent, (unsigned long long)refused,
	       (double)(now_ns() - begin) / 1e9);
	return 0;
}

struct tally {
	uint64_t received, duplicated, reordered, untranslated, damaged, next;
	uint8_t *seen; /* one bit per number */
};

/* Looks at one frame; returns 1 where it carries our stamp. */
static int judge(struct tally *t, const uint8_t *f, size_t len, int family, uint64_t count)
{
	int is6 = len > 14 && get16(f + 12) == ETH_P_IPV6;
	size_t l3 = 14, hlen = is6 ? 40 : 20, l4 = l3 + hlen, total;
	uint64_t magic, number;
	uint32_t sum;

	if (len < l4 + L4_LEN || (!is6 && get16(f + 12) != ETH_P_IP))
		return 0;
	if (is6 ? f[l3 + 6] != IPPROTO_UDP : (f[l3] != 0x45 || f[l3 + 9] != IPPROTO_UDP))
		return 0;
	memcpy(&magic, f + l4 + 8, 8);
	if (magic != htobe64(MAGIC))
		return 0;
	memcpy(&number, f + l4 + 16, 8);
	number = be64toh(number);
	if (is6 != (family == 6)) {
		t->untranslated++;
		return 1;
	}
	total = is6 ? (size_t)get16(f + l3 + 4) : (size_t)get16(f + l3 + 2) - hlen;
	sum = sum16(f + l4, L4_LEN, IPPROTO_UDP + L4_LEN);
	sum = is6 ? sum16(f + l3 + 8, 32, sum) : sum16(f + l3 + 12, 8, sum);
	if (total != L4_LEN || get16(f + l4 + 4) != L4_LEN || fold(sum) != 0xffff || number >= count ||
	    (!is6 && fold(sum16(f + l3, 20, 0)) != 0xffff)) {
		t->damaged++;
		return 1;
	}
	t->received++;
	if (t->seen[number / 8] & 1 << (number & 7))
		t->duplicated++;
	t->seen[number / 8] |= (uint8_t)(1 << (number & 7));
	if (number < t->next)
		t->reordered++;
	else
		t->next = number + 1;
	return 1;
}

static void report(const struct tally *t, uint64_t count, unsigned int missed)
{
	uint64_t distinct = t->received - t->duplicated;

	printf("{\"received\": %llu, \"lost\": %llu, \"duplicated\": %llu, \"reordered\": %llu, \"untranslated\": %llu, "
	       "\"damaged\": %llu, \"missed_by_receiver\": %u}\n",
	       (unsigned long long)t->received, (unsigned long long)(count - distinct), (unsigned long long)t->duplicated,
	       (unsigned long long)t->reordered, (unsigned long long)t->untranslated, (unsigned long long)t->damaged, missed);
}

static int do_recv(char **a)
{
	static uint8_t buffers[BATCH][2048];
	int family = atoi(a[1]), size = 256 << 20, fd = packet_socket(a[0], ETH_P_ALL), i, n;
	uint64_t count = strtoull(a[2], NULL, 10), idle_ns = strtoull(a[3], NULL, 10) * 1000000ULL, last = 0;
	struct tpacket_stats stats = {0};
	socklen_t stats_len = sizeof(stats);
	struct tally t = {0};
	struct mmsghdr msgs[BATCH] = {0};
	struct iovec iov[BATCH];
	struct sockaddr_ll from[BATCH];

	t.seen = calloc(count / 8 + 1, 1);
	if (!t.seen)
		die("memory");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	for (i = 0; i < BATCH; i++)
		iov[i] = (struct iovec){.iov_base = buffers[i], .iov_len = sizeof(buffers[i])};
	printf("ready\n");
	fflush(stdout);
	while (!stop && t.received - t.duplicated + t.untranslated + t.damaged < count) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (armed == 1) {
			armed = 2;
			last = now_ns();
		}
		if (poll(&p, 1, 20) <= 0) {
			if (armed && now_ns() - last > idle_ns)
				break; /* and nothing waits to be read */
			continue;
		}
		for (i = 0; i < BATCH; i++)
			msgs[i].msg_hdr = (struct msghdr){
				.msg_iov = &iov[i], .msg_iovlen = 1, .msg_name = &from[i], .msg_namelen = sizeof(from[i])};
		n = recvmmsg(fd, msgs, BATCH, MSG_DONTWAIT, NULL);
		for (i = 0; i < n; i++)
			if (from[i].sll_pkttype != PACKET_OUTGOING && judge(&t, buffers[i], msgs[i].msg_len, family, count))
				last = now_ns();
	}
	getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &stats_len);
	report(&t, count, stats.tp_drops);
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction stopping = {.sa_handler = on_stop}, arming = {.sa_handler = on_arm};

	sigaction(SIGTERM, &stopping, NULL);
	sigaction(SIGINT, &stopping, NULL);
	sigaction(SIGUSR1, &arming, NULL);
	if (argc == 9 && !strcmp(argv[1], "send"))
		return do_send(argv + 2);
	if (argc == 6 && !strcmp(argv[1], "recv"))
		return do_recv(argv + 2);
	fprintf(stderr, "usage: stamp send DEV DST_MAC SRC_IP DST_IP COUNT RATE SECONDS | stamp recv DEV FAMILY COUNT IDLE_MS\n");
	return 2;
}
