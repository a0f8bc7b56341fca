/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Stateful NAT: what user space configures (sg_st_obj, _pool, _own, _vip, _svc, _table, _bind) and what it may read of the state
 * (docs/design/stateful.md). Included by types.h. */
#ifndef SG_TYPES_NAT_H
#define SG_TYPES_NAT_H

#define SG_ST_MAX_OBJ 256   /* objects of a node: entries of sg_st_obj, sg_st_use, sg_st_stats */
#define SG_ST_MAX_POOL 1024 /* entries of sg_st_pool */
#define SG_ST_MAX_SVC 1024  /* entries of sg_st_svcs, sg_st_table */
#define SG_ST_MAX_BACKEND 128
#define SG_ST_RING 16381 /* places of a Maglev table; a prime above 100 * SG_ST_MAX_BACKEND */
#define SG_ST_BLOCK 64	 /* ports in one entry of sg_st_port */
#define SG_ST_NO_OBJ 0xffff
#define SG_ST_PROTOS 3	       /* TCP, UDP, ICMP, in this order in sg_st_port */
#define SG_ST_KEPT_BLOCKS 1024 /* all ports of a protocol: clients that keep their addresses have them for each backend */

/* Bits of sg_st_obj.flags. */
enum sg_st_flag {
	SG_ST_LIVE = 1 << 0,	  /* the object exists; without it its sessions end with the next sweep */
	SG_ST_ADF = 1 << 1,	  /* address-dependent filtering (RFC 4787 REQ-8); else endpoint-independent */
	SG_ST_PAIRED = 1 << 2,	  /* one client, one pool address (RFC 4787 REQ-2) */
	SG_ST_HAIRPIN = 1 << 3,	  /* clients reach each other by pool addresses */
	SG_ST_STATIC = 1 << 4,	  /* sg_st_bind holds bindings of this object */
	SG_ST_CLIENTS = 1 << 5,	  /* a limit per client is set: sg_st_client is kept */
	SG_ST_NO_PARITY = 1 << 6, /* RFC 7857 3: parity of UDP ports need not be kept */
	SG_ST_SAME = 1 << 7,	  /* sessions stay within their family: what has no checksum needs none */
	SG_ST_KEEP = 1 << 8,	  /* of a balancer: clients keep their addresses, backends answer by way of this node */
};

/* Indexes of sg_st_obj.life, seconds each. */
enum sg_st_life {
	SG_LIFE_UDP = 0,
	SG_LIFE_ICMP = 1,
	SG_LIFE_TCP_EST = 2,
	SG_LIFE_TCP_TRANS = 3,
	SG_LIFE_TCP_SYN = 4, /* an unexpected SYN from outside */
	SG_LIFE_FRAGMENT = 5,
	SG_LIFE_REST = 6, /* a released port */
	SG_LIFE_MAX = 7,
};

/* One object that does stateful NAT: a NAT46Gateway's pool or services, an egress gateway. Its index is kept while it lives. */
struct sg_st_obj {
	struct sg_nat_gw gw; /* how packets are written: prefix, flags, low_mtu, tos; stat counts in sg_nat_stats */
	__u32 flags;	     /* enum sg_st_flag */
	__u32 max_sessions;
	__u32 life[SG_LIFE_MAX]; /* enum sg_st_life */
	__u32 client_ports;	 /* per client; 0 is without limit, as for the next two */
	__u32 client_sessions;
	__u32 client_rate; /* new sessions per second */
	__u32 half_base;   /* first place of this object in sg_st_half */
	__u32 half_size;   /* how many places: half-open sessions that the object may have; at most a quarter of its ports */
	__u32 n_addrs;	   /* addresses of all its pools */
	__u16 pool;	   /* its first entry in sg_st_pool */
	__u16 n_pools;
	__u16 block_size; /* ports of a client's block (RFC 7422), a divisor or multiple of 64; 0: single ports */
	__u8 client_len;  /* bits of a client's address, of 128 (IPv4 /n is 96 + n) that make one client */
	__u8 pad[5];
};

/* Addresses in a row that an object's clients appear as, and their ports. Ports stand in sg_st_port in blocks of 64: those of address
 * number i, protocol number p begin at base + (i * SG_ST_PROTOS + p) * blocks, where the block of port first_block * 64 is. */
struct sg_st_pool {
	struct sg_addr addr; /* the first one */
	__u32 n_addrs;
	__u32 base;
	__u16 first_block; /* port / 64 of the address' first block: pools of one address have it in common */
	__u16 blocks;
	__u16 first; /* ports that this pool gives out, host order */
	__u16 last;
};

/* Bits of sg_st_own.flags. */
enum sg_own_flag {
	SG_OWN_HOST = 1 << 0,	/* the host has this address too: what belongs to no mapping is left to it */
	SG_OWN_STATIC = 1 << 1, /* sg_st_bind has bindings of this address */
	SG_OWN_SAME = 1 << 2,	/* clients are of the same family: nothing for the fast path, which changes it */
};

/* sg_st_own: every address of every pool. Ports outside of its blocks, or reserved in sg_st_resv and not bound, are the host's. */
struct sg_st_own {
	__u32 base; /* as in sg_st_pool, for this very address */
	__u16 first_block;
	__u16 blocks;
	__u16 flags; /* enum sg_own_flag */
	__u16 obj;   /* (one of) the object(s) that the address belongs to */
};

/* Key of sg_st_vip: a virtual address; the value is its index in sg_st_svcs. */
struct sg_st_vip {
	struct sg_addr addr;
	__be16 port;
	__u8 proto;
	__u8 pad[5];
};

/* sg_st_svcs: a service. The index is kept while it lives. Of a balancer it is a virtual address with all its ports (port 0), and its
 * backends are those of the balancer. */
struct sg_st_svc {
	struct sg_st_vip vip;
	__u16 obj;  /* whose pools are the sources that backends see */
	__u16 obj4; /* of a balancer: for IPv4 backends, and for IPv6 ones; SG_ST_NO_OBJ where it has none */
	__u16 obj6;
	__u16 pad;
};

struct sg_st_backend {
	struct sg_addr addr;
	__be16 port;
	__u16 weight; /* for people; the ring decides */
	__u32 pad;
};

/* sg_st_table: backends of a service, swapped as a whole. New sessions take ring[hash % SG_ST_RING]. */
struct sg_st_table {
	__u32 n; /* backends; 0 refuses */
	__u32 pad;
	struct sg_st_backend backend[SG_ST_MAX_BACKEND];
	__u8 ring[SG_ST_RING]; /* Maglev */
	__u8 pad2[3];
};

/* Key of sg_st_bind: static bindings (RFC 6146), each twice, once for either side. */
enum sg_bind_side {
	SG_BIND_INSIDE = 0, /* addr is the client's, obj its object; the value is the pool's address */
	SG_BIND_OUTSIDE = 1 /* addr is the pool's, obj 0; the value is the client's address, and the object */
};

struct sg_st_bind {
	struct sg_addr addr;
	__be16 port;
	__u8 proto;
	__u8 side; /* enum sg_bind_side */
	__u16 obj;
	__u16 pad;
};

struct sg_st_bound {
	struct sg_addr addr;
	__be16 port;
	__u16 obj;
	__u32 pad;
};

/* --- state: only the data plane writes what follows --- */

enum sg_st_state {
	SG_ST_FREE = 0,
	SG_ST_OUT_INIT = 1, /* V6 INIT of RFC 6146: SYN from the client */
	SG_ST_IN_INIT = 2,  /* V4 INIT: SYN from outside */
	SG_ST_EST = 3,
	SG_ST_IN_FIN = 4,  /* V4 FIN RCV */
	SG_ST_OUT_FIN = 5, /* V6 FIN RCV */
	SG_ST_BOTH_FIN = 6,
	SG_ST_TRANS = 7,
	SG_ST_UDP = 8,
	SG_ST_ICMP = 9,
};

/* Key of sg_st_fwd: a client's address and port; the value is the mapping's index in sg_st_map. */
struct sg_st_client_port {
	struct sg_addr addr;
	__be16 port;  /* ICMP: identifier */
	__u8 proto;   /* IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP (for ICMPv6 too) */
	__u8 by_svc;  /* dom is a service: a mapping of its own for each service that the client uses */
	__u16 dom;    /* object, or service */
	__be16 vport; /* of a balancer's service: the port of the virtual address that the client talks to; else 0 */
};

/* sg_st_map: one binding (BIB entry) of a client's port to a pool's port. */
struct sg_st_map {
	struct sg_addr in;  /* client */
	struct sg_addr out; /* pool */
	__be16 in_port;
	__be16 out_port;
	__u16 obj;
	__u16 svc;   /* index + 1 where the client talks to a service, else 0 */
	__u32 refs;  /* sessions; 0: not in use */
	__u32 last;  /* index + 1 of the session that was looked up last */
	__u32 block; /* of the port, index in sg_st_port */
	__u8 proto;
	__u8 flags;   /* enum sg_map_flag */
	__be16 vport; /* as in sg_st_client_port */
};

/* Bits of sg_st_map.flags. */
enum sg_map_flag {
	SG_MAP_STATIC = 1 << 0, /* a static binding */
	SG_MAP_SHARED = 1 << 1, /* a service's: its port may be other sessions' of services, too */
};

/* Key of sg_st_find: who a mapping talks to; the value is the session's index in sg_st_sess. */
#define SG_ST_BY_PORT 0x80000000 /* in map: the rest is the port's place, block * 64 + bit of sg_st_port (SG_MAP_SHARED) */
struct sg_st_peer {
	struct sg_addr addr;
	__u32 map;
	__be16 port; /* ICMP: 0 */
	__u16 pad;
};

struct sg_st_sess {
	struct sg_addr remote; /* as the outside sees it: of a service, the backend */
	__be16 rport;
	__u8 proto;
	__u8 reset;    /* a RST was the last that was seen */
	__u32 state;   /* enum sg_st_state */
	__u32 map;     /* index in sg_st_map */
	__u32 expires; /* second of CLOCK_MONOTONIC at which the state's life is over */
	__u32 created;
	__u32 half; /* place + 1 in sg_st_half while half-open, else 0 */
	__u16 obj;
	__u16 backend;	     /* of a balancer: id in sg_lb_backend */
	__u32 told;	     /* second at which another gateway told of it last, else 0 */
	struct sg_count out; /* from the client */
	struct sg_count in;
};

#define SG_ST_TALKS 3 /* answers that make UDP and ICMP a conversation, which is copied with the next one */

#define SG_ST_SHARED 0x80000000 /* in a slot: the rest is how many sessions of services have the port */

/* sg_st_port: 64 ports of one pool address and protocol. Bit i and slot i belong to port 64 * n + i. */
struct sg_st_ports {
	__u64 used;	 /* bound or resting; set by compare-and-swap: who sets it owns it */
	__u64 resting;	 /* slot is the second at which the port was released */
	__u32 rest_next; /* no port of this block comes free before this second */
	__u32 empty; /* of the first block of an address and protocol: mark of a search that found nothing, see sg_st_port_of() */
	__u32 slot[SG_ST_BLOCK]; /* index + 1 in sg_st_map, or SG_ST_SHARED */
};

/* sg_st_sids, sg_st_mids: which indexes of sg_st_sess and sg_st_map are in use. Of sessions of SG_ST_SAME objects also which of them have begun,
 * changed their state or ended since somebody looked (sg_copy_out_tc). */
struct sg_st_ids {
	__u64 used[8];
	__u64 changed[8];
};

/* sg_st_use: how much of what an object has, all CPUs together. */
struct sg_st_use {
	__u32 sessions; /* half-open ones included */
	__u32 half;
	__u32 maps;
	__u32 next;   /* in its part of sg_st_half */
	__u32 asleep; /* sessions are another gateway's, copied: nothing from outside gets through. Of SG_ST_SAME objects */
	__u32 given;  /* ports given back */
};

/* sg_st_stats, by object and CPU. */
struct sg_st_stat {
	struct sg_count out; /* translated, from clients */
	struct sg_count in;  /* translated, to clients */
	__u64 sessions;	     /* made */
	__u64 maps;	     /* made */
	__u64 full;	     /* refused: as many sessions as allowed, or tables full */
	__u64 no_port;	     /* refused: no free port */
	__u64 client_ports;  /* refused: limit per client */
	__u64 client_sessions;
	__u64 client_rate;
	__u64 half_out;	 /* half-open sessions given up for newer ones */
	__u64 no_state;	 /* dropped: from outside, to no mapping; or from inside, amid a connection nobody knows */
	__u64 filtered;	 /* dropped: RFC 4787 REQ-8 */
	__u64 hairpin;	 /* from client to client */
	__u64 expired;	 /* sessions that ended by time */
	__u64 overflow;	 /* port blocks given to a client beyond its own */
	__u64 fragments; /* fragments that came before their first one */
};

/* Key of sg_st_client, where an object limits clients. */
struct sg_st_client {
	struct sg_addr addr; /* client_len bits */
	__u16 obj;
	__u16 pad;
	__u32 pad2;
};

struct sg_st_client_use {
	__u32 ports;
	__u32 sessions;
	__u64 since_ns; /* of the token bucket of new sessions */
	__u64 tokens_ns;
	__u32 refused;
	__u32 pad;
};

/* sg_st_flush[0], written by user space: sessions to end. The sweeper is done with it when sg_st_sweep[0].flushed is seq. */
enum sg_flush_field {
	SG_FLUSH_OBJ = 1 << 0,
	SG_FLUSH_CLIENT = 1 << 1,
	SG_FLUSH_OUT = 1 << 2,
	SG_FLUSH_REMOTE = 1 << 3,
	SG_FLUSH_PROTO = 1 << 4,
	SG_FLUSH_SVC = 1 << 5,
};

struct sg_st_flush {
	__u32 seq;    /* another number is another order; written last, or all at once */
	__u32 fields; /* enum sg_flush_field: those that must match; 0: everything */
	struct sg_addr client;
	struct sg_addr client_mask;
	struct sg_addr out;
	struct sg_addr remote;
	struct sg_addr remote_mask;
	__u16 obj;
	__u16 svc;
	__u8 proto;
	__u8 pad[3];
};

/* sg_st_sweep[0]: what the sweeper does; only it writes. */
struct sg_st_sweep {
	__u64 ran_ns;	/* CLOCK_MONOTONIC of the last step */
	__u64 spent_ns; /* in steps, all together */
	__u64 steps;
	__u64 passes;	     /* over the whole table */
	__u64 removed;	     /* sessions */
	__u64 flush_removed; /* of them, by order */
	__u32 at;	     /* entry of sg_st_sids that comes next */
	__u32 flush_at;	     /* where the pass of a flush began */
	__u32 flushing;	     /* seq of the order that is carried out */
	__u32 flushed;	     /* seq of the order that was carried out last */
	__u32 armed;	     /* second at which a program last made the timer its own */
	__u32 pad;
};

/* A port block that a client was given or gave back, from the ring buffer sg_st_log (RFC 7422: those that cannot be computed). */
struct sg_st_block_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	struct sg_addr client;
	struct sg_addr out;
	__u16 first; /* ports, host order */
	__u16 last;
	__u16 obj;
	__u8 proto;
	__u8 given; /* 1: given, 0: given back */
};

/* sg_st_blk: whose a port block is. */
struct sg_st_blk_key {
	__u32 block; /* number within the object: address number * blocks per address + block */
	__u16 obj;
	__u8 proto;
	__u8 pad;
};

struct sg_st_blk {
	struct sg_addr client;
	__u32 ports;	/* in use */
	__u32 released; /* second at which the last one was released */
};

#endif
