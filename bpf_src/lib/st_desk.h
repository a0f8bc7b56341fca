/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Variables of loops of the stateful engine. They do not stand on the stack, where the verifier would follow every value of theirs; they share one
 * map, because a program may use 64 at most. */
#ifndef SG_ST_DESK_H
#define SG_ST_DESK_H

#include "sg/maps.h"

/* A search for an index that nobody has. */
struct sg_st_search {
	__u32 at;    /* entry of the bitmap */
	__u32 found; /* index + 1 */
	__u32 maps;  /* of mappings, else of sessions */
	__u32 pad;
};

/* A walk over blocks of ports. */
struct sg_st_pick {
	__u32 base;   /* of the blocks of address and protocol */
	__u32 blocks; /* that the walk visits, in a ring */
	__u32 begin;  /* the first of them, relative to base */
	__u32 at;     /* relative to begin */
	__u32 low;    /* ports that will do, counted from the base's first */
	__u32 high;
	__u32 now;
	__u32 rest;
	__u64 parity; /* bits of ports that will do, the same in every block */
	__u32 random;
	__u32 found; /* port + 1, counted from the base's first */
	__u32 block; /* index in sg_st_port */
	__u32 bit;   /* of ports that rest: the next one to look at */
	__u32 seen;  /* blocks looked through */
	__u32 next;  /* the first second at which one of this block is free */
	__u32 nr;    /* of the address in its pool */
	__u32 first; /* ports of all that the client may have */
	__u32 last;
	__u32 pad;
};

/* A walk over random ports for a session of a service. */
struct sg_st_share {
	struct sg_st_peer far; /* the backend */
	__u32 base;	       /* of the blocks of address and protocol */
	__u32 low;	       /* the first port that will do, counted from the base's first */
	__u32 span;	       /* and how many */
	__u32 now;
	__u32 rest;
	__u32 nr;	 /* number of the address among the object's */
	__u32 port;	 /* the one to look at first, or 0 */
	__u32 found;	 /* port + 1, counted from the base's first */
	__u32 block;	 /* index in sg_st_port */
	__u32 done;	 /* index + 1 of a session that is over, and has one of these ports */
	__u32 done_port; /* that port */
	__u32 again;	 /* number + 1 of the address where that port is to be tried first */
};

/* What a port is wanted for, and what was found. */
struct sg_st_want {
	struct sg_addr client; /* as far as it counts: client_len bits */
	struct sg_addr out;
	__u32 low; /* ports of a client's block; 0 and 0: all of the pool */
	__u32 high;
	__u32 nr; /* number of the address among the object's */
	__u32 now;
	__u32 block;   /* index in sg_st_port */
	__u32 port;    /* host order; 0: none */
	__u16 in_port; /* host order */
	__u16 obj;
	__u8 proto;
	__u8 pad[3];
	__u32 mark; /* of this second and the ports given back until now; see sg_st_port_of() */
	__u32 pad2;
};

/* One step of the sweeper. */
struct sg_st_broom {
	__u64 word;
	__u32 base; /* index of the word's first session */
	__u32 at;   /* word of this step */
	__u32 now;
	__u32 flush; /* an order is carried out */
	__u32 removed;
	__u32 flushed;
};

struct sg_st_desk {
	struct sg_st_search search;
	struct sg_st_pick pick;
	struct sg_st_share share;
	struct sg_st_want want;
	struct sg_st_peer both; /* keys; frames have no room for them */
	struct sg_st_client_port client;
	__u32 id;    /* and a value */
	__u32 entry; /* whether a new session has one of sg_st_find */
	struct sg_st_broom broom;
	__u32 hint[2]; /* where the last search of this CPU ended, for sessions and for mappings */
};

/* What user space runs has a desk of its own: the kernel may interrupt it for a packet on the same CPU. */
#ifndef SG_ST_DESK_MAP
#define SG_ST_DESK_MAP sg_st_desk
#endif

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_st_desk);
	__uint(max_entries, 1);
} SG_ST_DESK_MAP SEC(".maps");

SG_INLINE struct sg_st_desk *sg_st_desk_of(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&SG_ST_DESK_MAP, &zero);
}

#endif
