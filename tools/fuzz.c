/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Bent packets into a live gateway, and a look at everything that comes out of it.
 *
 *	fuzz CORPUS PACKETS SEED DEV6 MAC6 DEV4 MAC4 OWN6 OWN4
 *
 * CORPUS holds layer-3 packets, each behind a 16-bit length in network order. Packets are taken from it, bent, given right
 * checksums again where that makes sense, and sent through DEV6 or DEV4 to the gateway's MAC. What comes back on either device
 * is verified: header checksum, lengths, fragment rules, and the upper layer's checksum where the input had a right one or the
 * packet is the gateway's own. Prints one line of JSON; exits with 1 where a packet was damaged.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "packet.h"

#define ETH 14
#define MAX_L3 1500
#define ROOM 65600
#define BATCH 32
#define BURSTS 256   /* batches of one class, faultless or not, in a row */
#define QUIET_MS 100 /* nothing came for so long: nothing is under way */
#define MAX_SHOWN 20
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

struct packet {
	uint16_t len;
	uint8_t *data;
};

struct side {
	int fd;
	uint8_t mac[6];
};

static struct packet *corpus;
static size_t n_corpus;
static struct side sides[2]; /* 0: IPv6, 1: IPv4 */
static uint8_t own6[16], own4[4];
static uint64_t n_in, n_out, n_clean, n_damaged;
static uint8_t last[BATCH][ETH + MAX_L3];
static uint16_t last_len[BATCH];

static void bend(uint8_t *p, size_t *len)
{
	uint32_t times = 1 + below(3);

	while (times--) {
		uint32_t kind = below(10), span = *len < 100 ? (uint32_t)*len : 100;

		if (kind == 0 && *len > 1)
			*len = 1 + below((uint32_t)*len - 1);
		else if (kind == 1 && *len + 40 < MAX_L3)
			for (uint32_t more = 1 + below(40); more; more--)
				p[(*len)++] = (uint8_t)draw();
		else if (kind == 2)
			p[below(span)] = (uint8_t)draw();
		else if (kind == 3)
			p[below((uint32_t)*len)] ^= (uint8_t)(1 << below(8));
		else
			p[below(span)] ^= (uint8_t)(1 << below(8));
	}
}

/* Lengths and checksums made right again, mostly; what is left wrong is told by verifying. */
static void mend(uint8_t *p, size_t len)
{
	struct upper u;
	bool six = p[0] >> 4 == 6;
	size_t min, ihl = (size_t)(p[0] & 15) * 4;
	uint8_t *field;
	int at;

	if (!six && len >= 20 && ihl >= 20 && ihl <= len) {
		if (below(4))
			put16(p + 2, (uint16_t)len);
		put16(p + 10, 0);
		put16(p + 10, (uint16_t)~fold(add_words(0, p, ihl)));
	}
	if (six && len >= 40 && below(4))
		put16(p + 4, (uint16_t)(len - 40));
	if (headers(p, len, true, &u) || u.fragment)
		return;
	at = checksum_at(u.proto, six, &min);
	if (at < 0 || u.len < min)
		return;
	field = p + (u.at - p);
	if (u.proto == P_UDP)
		put16(field + 4, (uint16_t)u.len);
	put16(field + at, 0);
	put16(field + at, (uint16_t)~fold(add_words(u.pseudo, u.at, u.len)));
	if (u.proto == P_UDP && !be16(field + at))
		put16(field + at, 0xFFFF);
}

static bool is_clean(const uint8_t *p, size_t len)
{
	struct upper u;
	bool six = p[0] >> 4 == 6;

	return !headers(p, len, false, &u) && !upper_fault(&u, six) && !foreign(&u, six);
}

static void show(const char *what, const uint8_t *p, size_t len)
{
	fprintf(stderr, "%s ", what);
	for (size_t i = 0; i < len; i++)
		fprintf(stderr, "%02x", p[i]);
	fputc('\n', stderr);
}

static void damaged(const char *fault, const uint8_t *p, size_t len)
{
	if (n_damaged++ >= MAX_SHOWN)
		return;
	fprintf(stderr, "damaged: %s\n", fault);
	show("out", p, len);
	for (int i = 0; i < BATCH; i++)
		if (last_len[i])
			show("in ", last[i] + ETH, last_len[i]);
}

static bool is_own(const uint8_t *p, bool six)
{
	return six ? !memcmp(p + 8, own6, 16) : !memcmp(p + 12, own4, 4);
}

static void look(const uint8_t *p, size_t len, bool clean)
{
	struct upper u;
	bool six = p[0] >> 4 == 6;
	const char *fault = headers(p, len, !clean, &u);

	n_out++;
	/* Garbage may come out with its chain of headers as it went in. */
	if (fault && !clean && strstr(fault, "extension"))
		return;
	if (!fault && (clean || is_own(p, six)))
		fault = upper_fault(&u, six);
	/* RFC 7915 5.5 has no word on an IPv6 checksum of 0, RFC 6935 allows it. */
	if (fault && !strcmp(fault, "UDP over IPv6 without checksum"))
		fault = NULL;
	if (fault)
		damaged(fault, p, len);
}

static void drain(bool clean, int wait_ms)
{
	static uint8_t buffer[ROOM];
	struct pollfd polls[2] = {{.fd = sides[0].fd, .events = POLLIN}, {.fd = sides[1].fd, .events = POLLIN}};

	while (poll(polls, 2, wait_ms) > 0)
		for (int i = 0; i < 2; i++)
			for (;;) {
				ssize_t got = recv(sides[i].fd, buffer, sizeof(buffer), MSG_DONTWAIT);

				if (got < ETH)
					break;
				if (!(buffer[0] & 1)) /* link-layer multicast is the kernel's own */
					look(buffer + ETH, (size_t)got - ETH, clean);
			}
}

static void send_one(int slot, bool want_clean)
{
	uint8_t *frame = last[slot], *p = frame + ETH;
	bool six;
	size_t len;

	for (int tries = 0;; tries++) {
		const struct packet *from = &corpus[below((uint32_t)n_corpus)];

		len = from->len;
		memcpy(p, from->data, len);
		if (!want_clean || below(4))
			bend(p, &len);
		mend(p, len);
		if (is_clean(p, len) == want_clean || tries == 1000)
			break;
	}
	six = p[0] >> 4 == 6;
	last_len[slot] = (uint16_t)len;
	memcpy(frame, sides[six ? 0 : 1].mac, 6);
	memset(frame + 6, 2, 6);
	put16(frame + 12, six ? ETHERTYPE_IPV6 : ETHERTYPE_IP);
	if (send(sides[six ? 0 : 1].fd, frame, ETH + len, 0) >= 0) {
		n_in++;
		n_clean += want_clean;
	}
}

static int open_side(struct side *side, const char *device, const char *mac)
{
	struct sockaddr_ll addr = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	int one = 1, room = 1 << 24;
	unsigned int m[6];

	side->fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	addr.sll_ifindex = (int)if_nametoindex(device);
	if (side->fd < 0 || !addr.sll_ifindex || bind(side->fd, (struct sockaddr *)&addr, sizeof(addr))) {
		fprintf(stderr, "device %s cannot be opened: %s\n", device, strerror(errno));
		return -1;
	}
	setsockopt(side->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
	setsockopt(side->fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (sscanf(mac, "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6) {
		fprintf(stderr, "%s is no link-layer address\n", mac);
		return -1;
	}
	for (int i = 0; i < 6; i++)
		side->mac[i] = (uint8_t)m[i];
	return 0;
}

static int read_corpus(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t head[2];

	if (!file) {
		fprintf(stderr, "corpus %s cannot be read: %s\n", path, strerror(errno));
		return -1;
	}
	while (fread(head, 1, 2, file) == 2) {
		struct packet *grown = realloc(corpus, (n_corpus + 1) * sizeof(*corpus));
		uint16_t len = be16(head);

		if (!grown)
			break;
		corpus = grown;
		corpus[n_corpus].data = malloc(len ? len : 1);
		corpus[n_corpus].len = len;
		if (!corpus[n_corpus].data || !len || len > MAX_L3 || fread(corpus[n_corpus].data, 1, len, file) != len) {
			fprintf(stderr, "corpus %s: packet %zu is cut, empty or longer than %d bytes\n", path, n_corpus, MAX_L3);
			fclose(file);
			return -1;
		}
		n_corpus++;
	}
	fclose(file);
	return n_corpus ? 0 : -1;
}

int main(int argc, char **argv)
{
	uint64_t packets;

	if (argc != 10) {
		fprintf(stderr, "usage: fuzz CORPUS PACKETS SEED DEV6 MAC6 DEV4 MAC4 OWN6 OWN4\n");
		return 2;
	}
	packets = strtoull(argv[2], NULL, 10);
	draw_state = strtoull(argv[3], NULL, 10) * 2 + 1;
	if (read_corpus(argv[1]) || open_side(&sides[0], argv[4], argv[5]) || open_side(&sides[1], argv[6], argv[7]) ||
	    inet_pton(AF_INET6, argv[8], own6) != 1 || inet_pton(AF_INET, argv[9], own4) != 1)
		return 2;
	while (n_in < packets) {
		bool clean = below(2);

		for (int burst = 0; burst < BURSTS && n_in < packets; burst++) {
			for (int slot = 0; slot < BATCH; slot++)
				send_one(slot, clean);
			drain(clean, 0);
		}
		drain(clean, QUIET_MS); /* late packets are looked at as what they are */
	}
	printf("{\"in\": %llu, \"clean\": %llu, \"out\": %llu, \"damaged\": %llu}\n", (unsigned long long)n_in,
	       (unsigned long long)n_clean, (unsigned long long)n_out, (unsigned long long)n_damaged);
	return n_damaged ? 1 : 0;
}
