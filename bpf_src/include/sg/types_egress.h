/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Egress: types shared with user space. Included from types.h. */
#ifndef SG_TYPES_EGRESS_H
#define SG_TYPES_EGRESS_H

#define SG_EG_REPLY 0x800000   /* bit of the tunnel id: from the gateway to the pod's node */
#define SG_EG_RELAYED 0x400000 /* from a gateway that does not have the pair any more; not to be sent on once more */
#define SG_EG_PAIRS 0x3fffff   /* bits of it that are the pair's number */
#define SG_EG_MARK 0x53000000  /* mark of a packet between sg_tunnel_tc and sg_eslow_tc, above the pair's number */
#define SG_EG_TELL                                                                                                                 \
	0x54000000	 /* mark of a refused packet on its way to sg_eslow_tc, above the ifindex of the device that it came by */
#define SG_EG_SET_NONE 0 /* a pod that no policy selects */
#define SG_EG_SET_UNKNOWN 1 /* the union of all policies, for senders that are not known */
#define SG_EG_MAX_STAT 4096

/* What a device is to egress. */
enum sg_eg_role {
	SG_EG_PORT = 1,	   /* leads to one pod, and runs sg_pod_tc */
	SG_EG_BRIDGE = 2,  /* joins such devices, and runs sg_pod_tc */
	SG_EG_TRUSTED = 3, /* leads to no pod: uplinks, tunnels */
};

/* A pod's address. */
struct sg_eg_pod {
	sg_ifindex_t ifindex; /* the device that leads to it; 0 while it is not known */
	__u32 set;	      /* which policies and pairs it has: key of sg_eg_dst */
};

/* Longest-prefix key: `prefixlen` counts the set's 32 bits and the address' bits (IPv4 /n is 32 + 96 + n). */
struct sg_eg_dst_key {
	__u32 prefixlen;
	__u32 set;
	struct sg_addr addr;
};

enum sg_eg_dst_flag {
	SG_EG_TELL_NEW = 1 << 0,   /* senders that are not known are told that their packets are refused */
	SG_EG_TELL_NO_GW = 1 << 1, /* the same, where no gateway is known */
};

struct sg_eg_dst {
	__u32 pair;  /* 0: reached as if egress were not there */
	__u32 stat;  /* index in sg_eg_stats */
	__u32 flags; /* enum sg_eg_dst_flag */
};

enum sg_eg_way_flag {
	SG_EG_HERE = 1 << 0,	  /* this node is the owner: no tunnel */
	SG_EG_MSS_CLAMP = 1 << 1, /* lower the MSS of TCP SYNs to what the way carries */
	SG_EG_DIRECT = 1 << 2,	  /* the owner is on this segment: `frame` is written, and nothing else */
};

/* Frames of a direct way. The address of a pair at a gateway says which pair the packet is of: requests are sent to it, replies come from it. */
struct sg_eg_frame {
	__u8 dmac[6];
	__u8 smac[6];
	__u32 ifindex; /* 0: no direct way */
};

/* Where a pair's packets go. No entry: nowhere, they are dropped. */
struct sg_eg_way {
	struct sg_addr gateway;	  /* node address of the owner */
	__u32 mtu;		  /* of the way, bytes of layer 3 */
	__u32 flags;		  /* enum sg_eg_way_flag */
	struct sg_eg_frame frame; /* with SG_EG_DIRECT */
	__u32 stat;		  /* index in sg_eg_stats, for replies */
	__u32 pad;
};

/* Key of sg_eg_mac: a pair's address at a gateway. */
struct sg_eg_mac {
	__u8 mac[6];
	__u8 pad[2];
};

enum sg_eg_own_flag {
	SG_EG_OWNER = 1 << 0, /* new connections are taken; without it only those that are there already */
};

/* A pair whose packets this node takes out just now, as owner or while it drains. */
struct sg_eg_own {
	__u32 flags; /* enum sg_eg_own_flag */
	__u32 epoch; /* how often the pair has changed hands; kept here for an agent that is started again */
};

/* The NAT engine's objects of a pair on a gateway, whoever owns it: indexes in sg_st_obj. */
struct sg_eg_obj {
	__u16 obj4;
	__u16 obj6;
	__u32 families; /* 1: obj4 is set, 2: obj6 is */
	__u32 stat;	/* index in sg_eg_stats */
};

/* One connection on its way from gateway to gateway. `state` is enum sg_st_state, SG_ST_FREE where it has ended; `obj` is the receiver's number. */
struct sg_eg_session {
	struct sg_addr near; /* the pod */
	struct sg_addr far;
	struct sg_addr to;   /* the source address */
	struct sg_addr home; /* of the pod's node, where it is known */
	__be16 near_port;
	__be16 far_port;
	__be16 to_port;
	__u16 obj;
	__u8 proto;
	__u8 state;
	__u8 home_mac[6]; /* of the pod's node, if its frames come a direct way */
	__u32 left;	  /* seconds it lives on if nothing is sent; 0: what its state gives */
	__u32 pad;
};

/* What became of a record. */
enum sg_import {
	SG_IMPORT_DONE = 0,
	SG_IMPORT_KNOWN = 1,  /* was here already */
	SG_IMPORT_TAKEN = 2,  /* another connection has the port */
	SG_IMPORT_FULL = 3,   /* a limit or a full table */
	SG_IMPORT_BROKEN = 4, /* no session, or of no object */
};

#define SG_EG_COPIES 2048 /* records that one run of sg_copy_out_tc or sg_copy_in_tc handles at most */

/* sg_eg_copied, by number of an engine's object. */
struct sg_eg_copied {
	__u32 on; /* sg_copy_out_tc tells of its sessions */
	__u32 pair;
	__u32 ifindex; /* of this gateway's end of direct ways, else 0 */
	__u8 smac[6];  /* the pair's address at this gateway */
	__u8 all;      /* SG_COPY_ALL tells of what has not changed, too */
	__u8 pad;
};

enum sg_copy_what {
	SG_COPY_CHANGED = 0, /* what has changed since it was asked last */
	SG_COPY_ALL = 1,     /* all that is worth it */
	SG_COPY_PRUNE =
		2, /* tell nothing; end sessions that nobody told of since the second that sg_eg_prune has for their object */
	SG_COPY_SLEEP = 3, /* set sg_st_use.asleep of `obj` */
	SG_COPY_WAKE = 4,  /* clear it */
};

/* sg_eg_copy[0]: what a run is asked for, and its answer. */
struct sg_eg_copy {
	__u32 what;  /* enum sg_copy_what */
	__u32 at;    /* word of sg_st_sids, or record of sg_eg_inbox: where it begins, and then where it has ended */
	__u32 end;   /* the word behind the last one */
	__u32 n;     /* records in sg_eg_outbox */
	__u32 slack; /* seconds that copies live longer than what they are copied from */
	__u32 obj;
	__u32 ended; /* sessions */
	__u32 pad;
	__u32 done[8]; /* records taken, by enum sg_import */
	__u64 word;    /* of the walk */
	__u32 base;
	__u32 now;
};

/* An address in words, for structs that must not be aligned to more. */
struct sg_eg_node {
	__be32 w[4];
};

/* The node of a pod, learnt from its packets: where the tunnel leads to, or how its frames are answered. */
struct sg_eg_home {
	struct sg_addr node;
	struct sg_eg_frame frame;
	__u32 pair;
	__u32 pad;
};

struct sg_eg_stat {
	__u64 out_packets; /* segments of a super-packet count one each */
	__u64 out_bytes;
	__u64 in_packets;
	__u64 in_bytes;
	__u64 dropped;
};

#endif
