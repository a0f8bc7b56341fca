/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Random numbers, sums, and what is wrong with a layer-3 packet: for programs that send bent packets. */
#ifndef SIXGATE_TOOLS_PACKET_H
#define SIXGATE_TOOLS_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { P_ICMP = 1, P_IPIP = 4, P_TCP = 6, P_UDP = 17, P_IPV6 = 41, P_ROUTING = 43, P_FRAGMENT = 44, P_ICMP6 = 58, P_DEST = 60 };

/* xorshift64*: fast, and the same everywhere for one seed. */
static uint64_t draw_state;

static inline uint64_t draw(void)
{
	draw_state ^= draw_state >> 12;
	draw_state ^= draw_state << 25;
	draw_state ^= draw_state >> 27;
	return draw_state * 0x2545F4914F6CDD1DULL;
}

static inline uint32_t below(uint32_t limit)
{
	return (uint32_t)((draw() >> 32) * limit >> 32);
}

static inline uint16_t be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline void put16(uint8_t *p, uint16_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static inline uint32_t add_words(uint32_t sum, const uint8_t *data, size_t len)
{
	for (; len > 1; data += 2, len -= 2)
		sum += be16(data);
	if (len)
		sum += (uint32_t)data[0] << 8;
	return sum;
}

static inline uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return (uint16_t)sum;
}

/* Where the upper layer of a packet is. */
struct upper {
	const uint8_t *at;
	size_t len;
	uint8_t proto;
	bool fragment;
	uint32_t pseudo; /* its pseudo-header's sum, 0 for ICMPv4 */
};

/* NULL, or what is wrong with the headers. `frame_len` may exceed the packet only where `padded`. */
static inline const char *headers4(const uint8_t *p, size_t len, bool padded, struct upper *u)
{
	size_t ihl = (size_t)(p[0] & 15) * 4, total;

	if (len < 20 || ihl < 20 || ihl > len)
		return "IPv4 header is cut";
	total = be16(p + 2);
	if (total < ihl || total > len || (total < len && !padded))
		return "IPv4 total length";
	if (fold(add_words(0, p, ihl)) != 0xFFFF)
		return "IPv4 header checksum";
	if (!p[8])
		return "TTL 0";
	u->fragment = be16(p + 6) & 0x3FFF;
	if ((be16(p + 6) & 0x4000) && u->fragment)
		return "fragment with DF";
	u->at = p + ihl;
	u->len = total - ihl;
	u->proto = p[9];
	u->pseudo = u->proto == P_ICMP ? 0 : add_words(u->proto + (uint32_t)u->len, p + 12, 8);
	return NULL;
}

static inline const char *headers6(const uint8_t *p, size_t len, bool padded, struct upper *u)
{
	size_t total, at = 40;
	uint8_t proto = p[6];

	if (len < 40)
		return "IPv6 header is cut";
	total = 40 + (size_t)be16(p + 4);
	if (total > len || (total < len && !padded))
		return "IPv6 payload length";
	if (!p[7])
		return "hop limit 0";
	u->fragment = false;
	while (proto == 0 || proto == P_ROUTING || proto == P_DEST || proto == P_FRAGMENT) {
		if (at + 8 > total)
			return "IPv6 extension header is cut";
		if (proto == P_FRAGMENT) {
			u->fragment = be16(p + at + 2) & 0xFFF9; /* an atomic one (RFC 6946) is a whole packet */
			proto = p[at];
			at += 8;
			break;
		}
		proto = p[at];
		at += ((size_t)p[at + 1] + 1) * 8;
		if (at > total)
			return "IPv6 extension header is cut";
	}
	u->at = p + at;
	u->len = total - at;
	u->proto = proto;
	u->pseudo = add_words(u->proto + (uint32_t)u->len, p + 8, 32);
	return NULL;
}

static inline const char *headers(const uint8_t *p, size_t len, bool padded, struct upper *u)
{
	if (!len)
		return "empty packet";
	if (p[0] >> 4 == 4)
		return headers4(p, len, padded, u);
	if (p[0] >> 4 == 6)
		return headers6(p, len, padded, u);
	return "neither IPv4 nor IPv6";
}

/* Offset of the checksum in an upper layer of at least `*min` bytes; -1 where there is none to judge in this family. */
static inline int checksum_at(uint8_t proto, bool six, size_t *min)
{
	*min = proto == P_TCP ? 20 : 8;
	if (proto == P_TCP)
		return 16;
	if (proto == P_UDP)
		return 6;
	return proto == (six ? P_ICMP6 : P_ICMP) ? 2 : -1;
}

/* The upper layer of a packet whose headers are right. */
static inline const char *upper_fault(const struct upper *u, bool six)
{
	size_t min;
	int at = checksum_at(u->proto, six, &min);

	if (u->fragment || at < 0)
		return NULL;
	if (u->len < min)
		return "upper header is cut";
	if (u->proto == P_UDP && be16(u->at + 4) != u->len)
		return "UDP length";
	if (u->proto == P_UDP && !be16(u->at + 6))
		return six ? "UDP over IPv6 without checksum" : NULL;
	return fold(add_words(u->pseudo, u->at, u->len)) == 0xFFFF ? NULL : "upper checksum";
}

/* Numbers that mean something in the other family only; RFC 7915 copies them, and nothing can be said of what follows. */
static inline bool foreign(const struct upper *u, bool six)
{
	if (six)
		return u->proto == P_ICMP;
	return u->proto == 0 || u->proto == P_ROUTING || u->proto == P_FRAGMENT || u->proto == P_DEST || u->proto == P_ICMP6 ||
	       u->proto == 135 || u->proto == 139 || u->proto == 140;
}

#endif
