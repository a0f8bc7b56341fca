/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Load-time constants. The verifier removes what is switched off. */
#ifndef SG_CONFIG_H
#define SG_CONFIG_H

#include "types.h"

enum sg_feature {
	SG_F_NAT = 1 << 0,	    /* stateless NAT46/64 */
	SG_F_STATEFUL = 1 << 1,	    /* stateful NAT */
	SG_F_LB = 1 << 4,	    /* balancing of virtual addresses */
	SG_F_EGRESS = 1 << 8,	    /* fixed source addresses of pods */
	SG_F_BIG_FORWARD = 1 << 12, /* forwards IPv6 super-packets of more than 64 KB that nothing else claims */
};

struct sg_config {
	__u32 features;	       /* enum sg_feature */
	sg_ifindex_t slow_dev; /* where packets go that need fragmenting or an ICMP error of our own */
	__u32 l2_len;	       /* bytes of link header on the devices this program serves: 14, or 0 on layer-3 devices */
	__u32 icmp_rate;       /* ICMP errors of our own per second and source; 0 means none are sent */
	__u32 icmp_burst;
	__u32 st_ids;		 /* entries of sg_st_sess and sg_st_map, a multiple of 512: sessions that this node can have */
	sg_ifindex_t tunnel_dev; /* VXLAN with external metadata, 0 where there is no egress */
	sg_ifindex_t eslow_dev;	 /* the slow device of egress */
};

#endif
