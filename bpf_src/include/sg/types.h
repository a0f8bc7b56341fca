/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every struct that crosses between BPF and user space. Layouts of Python are generated from the BTF of these. */
#ifndef SG_TYPES_H
#define SG_TYPES_H

#include <linux/types.h>

/* A typedef that user space fills with the index of a device it is given by name. */
typedef __u32 sg_ifindex_t;

/* The one address type: IPv4 is stored as ::ffff:a.b.c.d (RFC 4291 2.5.5.2), so one code path serves both families. */
struct sg_addr {
	union {
		__u8 b[16];
		__be32 w[4];
		__be64 d[2];
	};
};

#define SG_NAT_MAX_GW 16
#define SG_NAT_MAX_RANGE 16
#define SG_NAT_MAX_STAT 1024

/* Bits of sg_nat_gw.flags. */
enum sg_gw_flag {
	SG_GW_PREFIX = 1 << 0,	      /* prefix, mask and prefix_len are set */
	SG_GW_WKP_STRICT = 1 << 1,    /* RFC 6052 3.1: non-global IPv4 is not represented under 64:ff9b::/96 */
	SG_GW_ZERO_TC = 1 << 2,	      /* RFC 7915 4.1: traffic class 0 instead of a copy of TOS */
	SG_GW_FIXED_TOS = 1 << 3,     /* RFC 7915 5.1: TOS from the configuration instead of a copy */
	SG_GW_UDP_ZERO_CALC = 1 << 4, /* RFC 7915 4.5 (2): compute a missing UDP checksum instead of dropping */
	SG_GW_MSS_CLAMP = 1 << 5,     /* lower the MSS of TCP SYNs to what both sides can carry */
	SG_GW_ICMP_QUIET = 1 << 6,    /* RFC 7915 4.4: no ICMP error for packets discarded as untranslatable */
	SG_GW_HAIRPIN_OFF = 1 << 7,   /* RFC 7757 4.2.2 explicit mappings are not hairpinned */
	SG_GW_STATEFUL = 1 << 8,      /* destinations under the prefix are for the stateful object `obj` */
	SG_GW_JOINED = 1 << 9,	      /* one prefix and all mappings for all gateways that have it */
};

/* One NAT46Gateway, stateless part. */
struct sg_nat_gw {
	struct sg_addr prefix;	   /* RFC 6052 prefix, zero beyond prefix_len */
	struct sg_addr mask;	   /* prefix_len ones */
	struct sg_addr pool6791;   /* IPv4 sources for ICMP errors of untranslatable routers (RFC 6791), :: where there is none */
	struct sg_addr pool6791_6; /* the same for IPv6 sources of routers that only an IPv4 address has, :: where there is none */
	__u32 flags;		   /* enum sg_gw_flag */
	__u16 low_mtu;		   /* lowest-ipv6-mtu of RFC 7915 4.1, bytes */
	__u16 stat;		   /* index in sg_nat_stats */
	__u8 prefix_len;	   /* bits: 32, 40, 48, 56, 64 or 96 */
	__u8 tos;		   /* with SG_GW_FIXED_TOS */
	__u8 pool6791_len;	   /* IPv4 prefix length of pool6791, 0 to 32 */
	__u8 pool6791_6_len;	   /* IPv6 prefix length of pool6791_6, 64 to 128 */
	__u16 obj;		   /* with SG_GW_STATEFUL: index in sg_st_obj */
	__u8 pad[2];
};

/* IPv4 destinations that are represented under a gateway's prefix. */
struct sg_nat_range {
	__be32 addr;
	__be32 mask;
	__u16 gw; /* index in sg_nat_table.gw */
	__u16 pad;
};

/* Bits of sg_nat_table.stateful: what need not be looked up where there is none of it. */
enum sg_st_has {
	SG_ST_HAS_GW = 1 << 0,	 /* a gateway with SG_GW_STATEFUL */
	SG_ST_HAS_SVC4 = 1 << 1, /* sg_st_vip has IPv4 addresses */
	SG_ST_HAS_SVC6 = 1 << 2,
	SG_ST_HAS_OWN4 = 1 << 3, /* sg_st_own has IPv4 addresses */
	SG_ST_HAS_OWN6 = 1 << 4,
	SG_ST_HAS_KEPT4 = 1 << 5, /* balancers whose IPv4 clients keep their addresses */
	SG_ST_HAS_KEPT6 = 1 << 6,
};

/* Everything that decides a translation, but for explicit mappings; swapped as a whole. */
struct sg_nat_table {
	__u32 n_gw;
	__u32 n_range;
	__u32 gen;   /* generation of the mappings in sg_nat_map that belong to this table */
	__u32 n_map; /* how many there are; 0 saves the look-up */
	__u32 version; /* differs between any two tables that follow each other: what was remembered from one is not used with another */
	__u32 stateful; /* enum sg_st_has */
	__u32 kept4;	/* where in sg_st_port the ports of IPv4 clients begin that keep their addresses, and of IPv6 ones */
	__u32 kept6;
	struct sg_nat_range range[SG_NAT_MAX_RANGE];
	struct sg_nat_gw gw[SG_NAT_MAX_GW];
};

enum sg_map_kind {
	SG_MAP_EAM = 0,	  /* RFC 7757 explicit address mapping */
	SG_MAP_RANGE = 1, /* an IPv4 range beyond SG_NAT_MAX_RANGE */
};

/* Longest-prefix key: `prefixlen` counts gen's 32 bits and the address' bits (IPv4 /n is 32 + 96 + n). */
struct sg_map_key {
	__u32 prefixlen;
	__u32 gen;
	struct sg_addr addr;
};

struct sg_map_val {
	struct sg_addr to; /* first address of the other side's prefix */
	__u8 len;	   /* bits of this side's prefix within 128 (IPv4 /n is 96 + n) */
	__u8 to_len;	   /* the same of the other side's */
	__u8 kind;	   /* enum sg_map_kind */
	__u8 pad;
	__u16 gw;
	__u16 pad2;
};

/* Bits of sg_dev.flags. */
enum sg_dev_flag {
	SG_DEV_NO_TX = 1 << 0, /* XDP sends frames back out of it by redirect only */
};

/* What the gateway needs to know of a device; filled by the node for every device with an address or a flag. Key 0 holds the node's
 * default. */
struct sg_dev {
	struct sg_addr addr6; /* a global IPv6 address of the device, :: where it has none */
	struct sg_addr addr4; /* the same for IPv4, as ::ffff:a.b.c.d */
	__u32 mtu;
	__u32 flags; /* enum sg_dev_flag */
};

/* Bits of sg_big_dev.flags. */
enum sg_big_flag {
	SG_BIG_FORWARD = 1 << 0, /* IPv6 super-packets of more than 64 KB that arrive here are forwarded by the program */
	SG_BIG_PEER = 1 << 1,	 /* its other end is a pod's, and takes super-packets without their being transmitted */
};

/* What may be done with super-packets of more than 64 KB at one device; filled by the node. */
struct sg_big_dev {
	__u32 flags; /* enum sg_big_flag */
};

struct sg_count {
	__u64 packets; /* segments of a GSO super-packet count one each */
	__u64 bytes;   /* of layer 3, as received */
};

struct sg_nat_stat {
	struct sg_count to4; /* IPv6 to IPv4, translated */
	struct sg_count to6; /* IPv4 to IPv6, translated */
};

/* One packet that was discarded and is worth a line in a log; read from the ring buffer sg_events. */
struct sg_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	struct sg_addr saddr;
	struct sg_addr daddr;
	__be16 sport; /* 0 where there is none */
	__be16 dport;
	sg_ifindex_t ifindex;
	__u16 reason; /* enum sg_reason */
	__u8 proto;
	__u8 pad;
	__u32 pad2;
};

#include "types_lb.h"
#include "types_nat.h"
#include "types_egress.h"
#include "types_observe.h"

#endif
