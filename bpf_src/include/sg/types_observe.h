/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What `sixgate observe` asks for and what it gets. Included by types.h. */
#ifndef SG_TYPES_OBSERVE_H
#define SG_TYPES_OBSERVE_H

/* Where a packet was seen. */
enum sg_obs_hook {
	SG_AT_XDP = 0,	/* XDP of an uplink */
	SG_AT_TC = 1,	/* tc ingress of an uplink */
	SG_AT_SLOW = 2, /* slow path */
	SG_AT_POD = 3,	/* tc ingress of a pod's device */
	SG_AT_TUN = 4,	/* tc ingress of a tunnel */
};

#define SG_OBS_SNAP 128 /* bytes of a frame that `sixgate observe` sees */

/* What `sixgate observe` wants to see. */
struct sg_obs_conf {
	__u32 sample;	     /* one packet of so many; 0: nobody looks */
	__u32 budget;	     /* events of one CPU in a tenth of a second */
	__u64 until_ns;	     /* CLOCK_MONOTONIC: nobody looks any more */
	struct sg_addr addr; /* source or destination, with by_addr */
	struct sg_addr mask;
	__u64 reasons[4]; /* bits of enum sg_reason */
	__u32 by_addr;
	__u32 pad;
};

/* One packet before and after a program. */
struct sg_obs_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	sg_ifindex_t ifindex;
	__u32 before_size; /* bytes of the whole frame */
	__u32 after_size;
	__s32 verdict; /* TC_ACT_* or XDP_* */
	__u16 reason;  /* enum sg_reason; SG_REASON_MAX where nothing was counted */
	__u8 hook;     /* enum sg_obs_hook */
	__u8 before_len;
	__u8 after_len;
	__u8 pad[3];
	__u8 before[SG_OBS_SNAP];
	__u8 after[SG_OBS_SNAP];
};

#endif
