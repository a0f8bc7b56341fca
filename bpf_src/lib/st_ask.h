/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How the engine of stateful NAT is asked. */
#ifndef SG_ST_ASK_H
#define SG_ST_ASK_H

#include "sg/bpf.h"

/* What is asked of the engine, and its answer. From inside, `near` is the client and `far` the remote or the virtual address; from outside
 * `near` is the pool's address and `far` the remote. The answer: `near` becomes `to`, and `far` what it is on the other side. */
struct sg_st {
	struct sg_addr near;
	struct sg_addr far;
	struct sg_addr to;
	__be16 near_port; /* ICMP: identifier */
	__be16 far_port;  /* ICMP: 0 */
	__be16 to_port;
	__u16 obj;
	__u16 svc;     /* index + 1 where the client talks to a service */
	__u8 proto;    /* IPPROTO_ICMP for ICMPv6, too */
	__u8 tcp;      /* flags of TCP */
	__u32 now;     /* seconds */
	__u32 map;     /* index + 1 of the mapping */
	__u32 sess;    /* index + 1 of the session, 0 where there is none */
	__u8 unseen;   /* do not touch state: an ICMP error, or a fragment that follows */
	__u8 stranger; /* the port is a service's, but its backend is not who sent */
	__u8 kept;     /* a backend's packet to a client that kept its address: `map` is known */
	__u8 fresh;    /* the mapping has just been made, and nobody else can find it yet: see sg_st_sess_new() */
	__u32 evict;   /* index + 1 of a half-open session that has to go for this one: the caller ends it */
	__be16 vport;  /* of a balancer's service: the port that the client talks to; else 0 */
	__u16 backend; /* of a balancer: id in sg_lb_backend */
	__u32 wish;    /* port asked for, network order; 0 for any (static bindings, simultaneous open) */
};

/* Beside reasons, sg_st_out() may say that a session has to be made: by sg_st_open(), which is not called from there, because a chain of
 * calls must not be longer than eight. */
#define SG_ST_OPEN (SG_REASON_MAX + 1)
#define SG_ST_OPEN_KNOWN (SG_REASON_MAX + 2) /* on the mapping that was found */
#define SG_ST_OPEN_ANEW (SG_REASON_MAX + 3)  /* in place of a service's session that was found, and closes */
#define SG_ST_OPEN_AGAIN (SG_REASON_MAX + 4) /* once session `evict` has ended, whose port it gets */

#endif
