/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Bent packets through the balancer by BPF_PROG_TEST_RUN, and a look at every verdict and every packet.
 *
 *	lb_fuzz PROGRAM_FD xdp|tc IFINDEX CORPUS PACKETS SEED
 *	lb_fuzz PROGRAM_FD nat IFINDEX CORPUS PACKETS SEED POOL BACKENDS VIPS
 *
 * CORPUS holds frames, each behind a 16-bit length in network order. A packet that is not sent must be as it was; one that is sent is the
 * packet itself (another link header, or a ping turned around), or the packet behind an outer header that is right in every field. In mode
 * NAT (in tc) it goes from the pool to a backend, or from a VIP to somebody else, with checksums that are right where they were; addresses are
 * given in hex, 16 bytes each, IPv4 ones mapped. Prints one line of JSON; exits with 1 where something else came out.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/bpf.h>

#include "packet.h"

#define ETH 14
#define FRAME_MAX 1600
#define ROOM (FRAME_MAX + 512)
#define MAX_SHOWN 10

struct frame {
	uint16_t len;
	uint8_t *data;
};

static struct frame *corpus;
static size_t n_corpus;
static uint64_t n_sent, n_dropped, n_passed, n_wrong, n_refused;

static void die(const char *what)
{
	fprintf(stderr, "lb_fuzz: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void load_corpus(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t head[2];

	if (!file)
		die(path);
	while (fread(head, 2, 1, file) == 1) {
		uint16_t len = (uint16_t)(head[0] << 8 | head[1]);
		uint8_t *data = malloc(len);

		corpus = realloc(corpus, (n_corpus + 1) * sizeof(*corpus));
		if (!data || !corpus || len > FRAME_MAX - 64 || fread(data, len, 1, file) != 1)
			die("corpus");
		corpus[n_corpus++] = (struct frame){len, data};
	}
	fclose(file);
	if (!n_corpus)
		die("corpus is empty");
}

/* Bytes anywhere, but mostly where headers are; lengths, versions, cut and prolonged frames. */
static uint32_t bend(uint8_t *b, uint32_t len)
{
	uint32_t times = draw() % 6, at, i;

	for (i = 0; i < times; i++) {
		at = ETH + draw() % (draw() % 4 ? 64 : len - ETH);
		if (at >= len)
			continue;
		switch (draw() % 5) {
		case 0:
			b[at] = (uint8_t)draw();
			break;
		case 1:
			b[at] ^= (uint8_t)(1 << draw() % 8);
			break;
		case 2:
			b[at] = draw() % 2 ? 0 : 255;
			break;
		case 3:
			b[ETH + (b[ETH] >> 4 == 6 ? 4 : 2) + draw() % 2] = (uint8_t)draw();
			break;
		default:
			b[at] = corpus[draw() % n_corpus].data[ETH + draw() % 20];
		}
	}
	if (!(draw() % 8))
		len = ETH + draw() % (len - ETH + 1);
	if (!(draw() % 16)) {
		memset(b + len, (int)draw(), 40);
		len += draw() % 40;
	}
	return len;
}

static uint32_t sum16(const uint8_t *b, uint32_t len, uint32_t sum)
{
	return fold(add_words(sum, b, len));
}

static bool zero_sum(const uint8_t *b, uint32_t len)
{
	return sum16(b, len, 0) == 0xffff;
}

/* The inner packet is the one that came, but for a mapped port with its checksum: within ten bytes, or in an embedded packet. */
static bool same_inner(const uint8_t *in, const uint8_t *out, uint32_t len)
{
	uint32_t i, first = len, last = 0;

	for (i = 0; i < len; i++) {
		if (in[i] == out[i])
			continue;
		if (i < first)
			first = i;
		last = i;
	}
	return first == len || (first >= 20 && last - first < 64);
}

static const char *check_outer(const uint8_t *in, uint32_t in_len, const uint8_t *out, uint32_t out_len)
{
	uint32_t grown = out_len - in_len, inner = in[ETH] >> 4, len;
	const uint8_t *h = out + ETH;

	len = inner == 4 ? (uint32_t)(in[ETH + 2] << 8 | in[ETH + 3]) : (uint32_t)(in[ETH + 4] << 8 | in[ETH + 5]) + 40;
	if (len > in_len - ETH)
		return "a packet longer than its frame was sent";
	if (grown == 20) {
		if (h[0] != 0x45 || !zero_sum(h, 20) || h[9] != (inner == 4 ? P_IPIP : P_IPV6) || h[8] != 64)
			return "outer IPv4 header";
		if ((uint32_t)(h[2] << 8 | h[3]) != len + 20)
			return "outer IPv4 length";
	} else if (grown == 40) {
		if (h[0] >> 4 != 6 || h[6] != (inner == 4 ? P_IPIP : P_IPV6) || h[7] != 64)
			return "outer IPv6 header";
		if ((uint32_t)(h[4] << 8 | h[5]) != len)
			return "outer IPv6 length";
	} else {
		return "grown by something else than an outer header";
	}
	return same_inner(in + ETH, h + grown, in_len - ETH) ? NULL : "inner packet changed";
}

/* Another link header, or a ping turned around: its checksums are as right, or as wrong, as they were. */
static const char *check_same_size(const uint8_t *in, const uint8_t *out, uint32_t len)
{
	bool v4 = in[ETH] >> 4 == 4;
	uint32_t addr = v4 ? 12 : 8, size = v4 ? 4 : 16, head = v4 ? (in[ETH] & 15) * 4 : 40;

	if (!memcmp(in + ETH, out + ETH, len - ETH))
		return NULL;
	if (memcmp(in + ETH + addr, out + ETH + addr + size, size) || memcmp(in + ETH + addr + size, out + ETH + addr, size))
		return same_inner(in + ETH, out + ETH, len - ETH) ? NULL : "packet of the same size changed";
	if (v4 && zero_sum(in + ETH, head) && !zero_sum(out + ETH, head))
		return "header checksum of a ping's answer";
	return NULL;
}

/* Addresses of mode NAT. */
struct set {
	uint8_t at[16][16];
	uint32_t n;
};

static struct set pool, backends, vips;

static void read_set(struct set *set, const char *hex)
{
	uint32_t i, byte;

	for (i = 0; i < sizeof(set->at) && sscanf(hex + 2 * i, "%2x", &byte) == 1; i++)
		set->at[i / 16][i % 16] = (uint8_t)byte;
	set->n = i / 16;
}

static bool in_set(const struct set *set, const uint8_t *addr)
{
	uint32_t i;

	for (i = 0; i < set->n; i++) {
		if (!memcmp(set->at[i], addr, 16))
			return true;
	}
	return false;
}

/* A packet of layer 3: its addresses, and its layer 4 where that is whole and right behind the header. */
struct seen {
	uint8_t src[16], dst[16];
	const uint8_t *l4;
	uint32_t len, proto;
	bool sound; /* the header, its lengths and its checksum */
};

static void look(struct seen *s, const uint8_t *h, uint32_t len)
{
	uint32_t head = 40, total;

	memset(s, 0, sizeof(*s));
	if (len >= 20 && h[0] >> 4 == 4) {
		head = (h[0] & 15) * 4;
		total = (uint32_t)(h[2] << 8 | h[3]);
		s->src[10] = s->src[11] = s->dst[10] = s->dst[11] = 255;
		memcpy(s->src + 12, h + 12, 4);
		memcpy(s->dst + 12, h + 16, 4);
		s->proto = h[9];
		s->sound = head >= 20 && head <= total && total <= len && zero_sum(h, head);
		if (s->sound && !(h[6] & 0x3f) && !h[7])
			s->l4 = h + head;
	} else if (len >= 40 && h[0] >> 4 == 6) {
		total = (uint32_t)(h[4] << 8 | h[5]) + 40;
		memcpy(s->src, h + 8, 16);
		memcpy(s->dst, h + 24, 16);
		s->proto = h[6];
		s->sound = total <= len;
		if (s->sound)
			s->l4 = h + head;
	} else {
		return;
	}
	s->len = total - head;
}

/* 1: the checksum of layer 4 is right, 0: it is wrong, -1: there is none, or it is not known where. */
static int l4_right(const struct seen *s)
{
	bool v4 = s->src[10] == 255 && s->src[11] == 255 && !s->src[0];
	uint32_t sum = s->proto + s->len;

	if (!s->l4 || s->len < 8 || (s->proto == P_TCP && s->len < 20))
		return -1;
	if (s->proto == P_UDP && ((!s->l4[6] && !s->l4[7]) || (uint32_t)(s->l4[4] << 8 | s->l4[5]) != s->len))
		return -1;
	if (s->proto != P_TCP && s->proto != P_UDP && s->proto != (v4 ? P_ICMP : P_ICMP6))
		return -1;
	if (v4 && s->proto == P_ICMP)
		return zero_sum(s->l4, s->len);
	sum = sum16(s->src + (v4 ? 12 : 0), v4 ? 4 : 16, sum);
	sum = sum16(s->dst + (v4 ? 12 : 0), v4 ? 4 : 16, sum);
	return sum16(s->l4, s->len, sum) == 0xffff;
}

static const char *check_nat(const uint8_t *in, uint32_t in_len, const uint8_t *out, uint32_t out_len)
{
	struct seen was, is;

	if (in_len == out_len && !memcmp(in + ETH, out + ETH, in_len - ETH))
		return NULL; /* to the slow path */
	look(&was, in + ETH, in_len - ETH);
	look(&is, out + ETH, out_len - ETH);
	if (was.sound && !is.sound)
		return "header";
	if (in_set(&pool, is.src)) {
		if (!in_set(&backends, is.dst))
			return "from the pool to no backend";
	} else if (!in_set(&vips, is.src) && is.proto != P_ICMP && is.proto != P_ICMP6) {
		return "from nowhere";
	} else if (in_set(&pool, is.dst)) {
		return "to the pool";
	}
	return l4_right(&was) == 1 && !l4_right(&is) ? "checksum" : NULL;
}

static void wrong(const char *what, const uint8_t *in, uint32_t len, uint32_t verdict)
{
	uint32_t i;

	if (n_wrong++ >= MAX_SHOWN)
		return;
	fprintf(stderr, "%s, verdict %u: ", what, verdict);
	for (i = 0; i < len; i++)
		fprintf(stderr, "%02x", in[i]);
	fprintf(stderr, "\n");
}

static void judge(const char *hook, uint32_t verdict, const uint8_t *in, uint32_t in_len, const uint8_t *out, uint32_t out_len)
{
	bool xdp = !strcmp(hook, "xdp"), nat = !strcmp(hook, "nat");
	bool sent = verdict == (xdp ? XDP_TX : 7), dropped = verdict == (xdp ? XDP_DROP : 2);
	const char *fault = NULL;

	if (sent) {
		n_sent++;
		fault = nat		    ? check_nat(in, in_len, out, out_len)
			: in_len == out_len ? check_same_size(in, out, in_len)
					    : check_outer(in, in_len, out, out_len);
	} else if (dropped || verdict == (xdp ? XDP_PASS : UINT32_MAX)) {
		n_dropped += dropped;
		n_passed += !dropped;
		if (in_len != out_len || memcmp(in, out, in_len))
			fault = "a packet that is not sent was changed";
	} else {
		fault = "verdict";
	}
	if (fault)
		wrong(fault, in, in_len, verdict);
}

int main(int argc, char **argv)
{
	uint8_t in[ROOM], out[ROOM];
	struct xdp_md md = {};
	struct __sk_buff skb = {};
	uint64_t packets, i;
	bool xdp;
	int fd;

	if (argc != 7 && argc != 10) {
		fprintf(stderr, "usage: lb_fuzz PROGRAM_FD xdp|tc|nat IFINDEX CORPUS PACKETS SEED [POOL BACKENDS VIPS]\n");
		return 2;
	}
	if (argc == 10) {
		read_set(&pool, argv[7]);
		read_set(&backends, argv[8]);
		read_set(&vips, argv[9]);
	}
	fd = atoi(argv[1]);
	xdp = !strcmp(argv[2], "xdp");
	load_corpus(argv[4]);
	packets = strtoull(argv[5], NULL, 10);
	draw_state = strtoull(argv[6], NULL, 10) * 0x9e3779b97f4a7c15ULL + 1;
	for (i = 0; i < packets; i++) {
		const struct frame *f = &corpus[draw() % n_corpus];
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = in, .data_out = out, .data_size_out = sizeof(out), .repeat = 1);
		uint32_t len;

		memcpy(in, f->data, f->len);
		len = bend(in, f->len);
		opts.data_size_in = len;
		md.ingress_ifindex = (uint32_t)atoi(argv[3]);
		md.data_end = len;
		skb.ifindex = md.ingress_ifindex;
		opts.ctx_in = xdp ? (void *)&md : (void *)&skb;
		opts.ctx_size_in = xdp ? sizeof(md) : sizeof(skb);
		if (bpf_prog_test_run_opts(fd, &opts)) {
			n_refused++; /* too short for the kernel's own idea of a frame */
			continue;
		}
		judge(argv[2], opts.retval, in, len, out, opts.data_size_out);
	}
	printf("{\"sent\": %lu, \"dropped\": %lu, \"passed\": %lu, \"refused\": %lu, \"wrong\": %lu}\n", n_sent, n_dropped,
	       n_passed, n_refused, n_wrong);
	return n_wrong ? 1 : 0;
}
