/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Structs of the balancer that cross between BPF and user space; docs/design/loadbalancer.md says who writes which map. Included from
 * types.h. */
#ifndef SG_TYPES_LB_H
#define SG_TYPES_LB_H

#define SG_LB_MAX_VIP 65536	/* entries of sg_lb_vip */
#define SG_LB_MAX_TABLE 16384	/* entries of sg_lb_table, sg_lb_stats and sg_lb_limit */
#define SG_LB_MAX_BACKEND 16384 /* entries of sg_lb_backend and sg_lb_cpu; id 0 means none */
#define SG_LB_CHUNK 256		/* slots in one entry of a table's inner map */
#define SG_LB_PENDING 65536	/* buckets of sg_lb_pending for flows */
#define SG_LB_FRAG 4096		/* buckets of sg_lb_pending behind those, for fragments */

/* Key of sg_lb_vip. Port 0 with protocol 0 is the address itself: every VIP address has such an entry. */
struct sg_lb_key {
	struct sg_addr addr;
	__be16 port;
	__u8 proto; /* IANA number: TCP or UDP */
	__u8 pad[5];
};

/* Key of sg_lb_range, port ranges cut into prefixes: `prefixlen` is 160 + the bits of the port that are fixed. */
struct sg_lb_range_key {
	__u32 prefixlen;
	__u8 proto;
	__u8 pad[3];
	struct sg_addr addr;
	__be16 port;
	__u8 pad2[6];
};

/* Bits of sg_lb_vip.flags. */
enum sg_lb_flag {
	SG_LB_SERVICE = 1 << 0,	    /* the entry balances; of an address: all ports that have no entry of their own */
	SG_LB_RANGES = 1 << 1,	    /* of an address: sg_lb_range knows more ports */
	SG_LB_ECHO = 1 << 2,	    /* of an address: answer ping */
	SG_LB_SOURCES = 1 << 3,	    /* ask sg_lb_source */
	SG_LB_SOURCE_DENY = 1 << 4, /* sources that no range matches are denied, not allowed */
	SG_LB_AFFINITY = 1 << 5,    /* flows of a client stay together */
	SG_LB_QUIC = 1 << 6,	    /* UDP: ask sg_lb_quic by the server id in the connection id */
	SG_LB_LIMIT = 1 << 7,	    /* new flows are limited */
	SG_LB_PASS_OTHER = 1 << 8,  /* of an address: ports that nobody balances are the host's, not dropped */
	SG_LB_NATTED = 1 << 9,	    /* through the engine of stateful NAT, as its service `svc` */
};

/* A virtual address with its port, a range of ports, or an address. */
struct sg_lb_vip {
	__u64 seed;	      /* of the flow hash; the same on every node */
	__u32 table;	      /* key in sg_lb_table */
	__u32 size;	      /* slots of that table, 1 to 65537 */
	__u32 stat;	      /* index in sg_lb_stats */
	__u32 flags;	      /* enum sg_lb_flag */
	__u32 source_gen;     /* generation of its ranges in sg_lb_source */
	__u32 affinity;	      /* group in sg_lb_affinity: VIPs of one object share clients */
	__u32 affinity_s;     /* how long a client is remembered after its last new flow, seconds */
	__u32 limit;	      /* index in sg_lb_limit */
	__u32 limit_gap_ns;   /* 10^9 divided by new flows per second, at least 1 */
	__u32 limit_burst_ns; /* how far new flows may run ahead: gap times burst */
	__u32 quic;	      /* group in sg_lb_quic */
	__u16 port_delta;     /* added to the destination port modulo 2^16: target port minus port; 0 is unmapped */
	__u8 quic_off;	      /* first byte of the server id in the connection id */
	__u8 quic_len;	      /* bytes of the server id, 1 to 16 */
	__u32 svc;	      /* index in sg_st_svcs, where flags say SG_LB_NATTED */
	__u32 pad;
};

/* Where flows of one slot go. `former` is 0 in the steady state; else the backend that the slot had before its backends began to change,
 * to which everything belongs that is neither new nor known. It may equal `backend` (changed and changed back). */
struct sg_lb_slot {
	__u16 backend; /* id, 0: none, new flows are refused */
	__u16 former;
};

/* One entry of a table's inner map: slot i stands in entry i / 256 at i % 256. The head is the same in all entries of a table. */
struct sg_lb_chunk {
	__u64 drain_until_ns; /* CLOCK_MONOTONIC; afterwards former backends count no more */
	__u64 learn_until_ns; /* until then UDP packets of unknown flows are taken for old flows */
	__u32 epoch; /* above 0; differs between two drains that do not overlap; what was tracked in another one is not used */
	__u32 pad;
	struct sg_lb_slot slot[SG_LB_CHUNK];
};

/* How a packet reaches a backend. */
enum sg_lb_kind {
	SG_LB_NONE = 0, /* the id is free */
	SG_LB_IPIP = 1, /* inside an IPv4 or IPv6 packet, as the backend's address is */
	SG_LB_L2 = 2,	/* to the backend's link address, otherwise untouched */
	SG_LB_NAT = 3,	/* by its address alone, both ways through the engine of stateful NAT */
};

enum sg_lb_backend_flag {
	SG_LB_DOWN =
		1 << 0, /* found dead: unknown UDP flows of its former slots, and clients of session affinity, leave it at once */
	SG_LB_NO_NEW = 1 << 1, /* leaving or in maintenance: session affinity sends it no new flows */
	SG_LB_ENDED = 1 << 2,  /* no slot names it, and its drain is over: sessions of NAT with it end */
};

/* One backend of one object. */
struct sg_lb_backend {
	struct sg_addr addr;
	struct sg_addr src; /* outer source, zero where src_mask is one */
	__u32 src_mask;	    /* last 32 bits of the source that are chosen by the flow, host order */
	__u32 version;	    /* differs between any two contents that follow each other under one id */
	__u8 kind;	    /* enum sg_lb_kind */
	__u8 flags;	    /* enum sg_lb_backend_flag */
	__u8 ttl;	    /* of the outer header */
	__u8 pad[5];
};

/* What each CPU counts and remembers for one backend. Only the counters are for user space. */
struct sg_lb_cpu {
	__u64 packets; /* segments of a GSO super-packet count one each */
	__u64 bytes;   /* of layer 3, as received */
	__u64 flows;   /* new flows: SYNs, and first UDP packets where they can be told */
	__u64 until;   /* jiffies: how long the rest holds */
	__u32 version; /* of the backend that the rest belongs to */
	__u32 ifindex;
	__u32 mtu;
	__u32 v4; /* the backend has an IPv4 address */
	__u8 dmac[6];
	__u8 smac[6];
	__u32 no_tx; /* XDP: see SG_DEV_NO_TX */
};

/* What each CPU counts for one VIP entry. */
struct sg_lb_stat {
	__u64 packets;
	__u64 bytes;
	__u64 flows;
	__u64 drops; /* by reason in sg_lb_drops */
};

/* Key of sg_lb_drops; its values are packets per CPU. */
struct sg_lb_drop_key {
	__u32 stat;
	__u32 reason; /* enum sg_reason */
};

/* Key of sg_lb_flow: established flows that began while their slot was changed. */
struct sg_lb_flow_key {
	struct sg_addr saddr;
	struct sg_addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

struct sg_lb_flow {
	__u64 seen_ns; /* CLOCK_MONOTONIC, to about a second */
	__u32 backend; /* id */
	__u32 table;   /* of the VIP */
	__u32 epoch; /* of the drain: the entry may go when that is over. 0: because of session affinity; it may go when it has been idle */
	__u32 pad;
};

/* Entries of sg_lb_pending: eight to a cache line, the oldest is overwritten. An entry is one word, so that CPUs need no
 * lock: tag (32 bits), backend id (16), time in units of 2^30 ns (16). */
struct sg_lb_bucket {
	__u64 entry[8];
};

/* Longest-prefix key of sg_lb_source: `prefixlen` counts gen's 32 bits and the address' bits (IPv4 /n is 32 + 96 + n). The value is 1
 * for allowed, 0 for denied. */
struct sg_lb_source_key {
	__u32 prefixlen;
	__u32 gen;
	struct sg_addr addr;
};

/* Key of sg_lb_quic; the value is a backend id. */
struct sg_lb_quic_key {
	__u32 group;
	__u32 len; /* bytes of the id that count; the rest is zero */
	__u8 id[16];
};

struct sg_lb_affinity_key {
	struct sg_addr client;
	__u32 group;
	__u32 pad;
};

struct sg_lb_affinity_val {
	__u64 seen_ns; /* CLOCK_MONOTONIC, of the last new flow */
	__u32 backend; /* id */
	__u32 pad;
};

/* Values of sg_decap_addr, by address: bits of what it is. */
enum sg_decap_role {
	SG_DECAP_SELF = 1 << 0, /* outer destination: an address of this backend */
	SG_DECAP_VIP = 1 << 1,	/* inner destination, and source of replies */
};

/* Longest-prefix key of sg_decap_from, the outer sources that are believed (IPv4 /n is 96 + n). The value is 1. */
struct sg_decap_from_key {
	__u32 prefixlen;
	__u32 pad;
	struct sg_addr addr;
};

/* Key of sg_decap_port, for balancers that cannot say which port was mapped (L2). The value is the VIP's port, a __u32 in host order. */
struct sg_decap_port_key {
	struct sg_addr vip;
	__be16 port; /* of the backend */
	__u8 proto;
	__u8 pad[5];
};

struct sg_decap_config {
	__u32 mtu; /* between balancer and backend: SYNs of replies ask for segments that fit it with any outer header; 0: as they are */
	__u32 pad;
};

/* sg_maglev builds tables by these; nothing else uses them. */
#define SG_MG_MAX_SLOT 65537
#define SG_MG_MAX_BACKEND 4096 /* a power of two */
#define SG_MG_FREE 0xffff

/* One backend's walk through the slots. */
struct sg_mg_backend {
	__u32 at;     /* the slot that it asks for next */
	__u32 skip;   /* 1 to size - 1 */
	__u32 weight; /* at least 1 */
	__u32 credit; /* one slot is worth the largest weight */
};

struct sg_mg_backends {
	struct sg_mg_backend at[SG_MG_MAX_BACKEND];
};

struct sg_mg_state {
	__u32 size;	/* of the table, a prime */
	__u32 backends; /* how many there are */
	__u32 turn;	/* whose turn it is */
	__u32 filled;	/* slots that are taken; done when that is `size` */
	__u32 largest;	/* weight */
	__u32 asking;	/* the backend has its credit and looks for a free slot */
};

struct sg_mg_table {
	__u16 slot[SG_MG_MAX_SLOT + 1]; /* index of a backend, SG_MG_FREE: not taken yet */
};

#endif
