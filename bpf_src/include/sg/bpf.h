/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every object includes: kernel ABI, libbpf's helpers, and the few constants that old headers lack. */
#ifndef SG_BPF_H
#define SG_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "drop.h"
#include "types.h"

#define AF_INET 2
#define AF_INET6 10

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define SG_INLINE static __always_inline

/* A function that the verifier checks once by itself: its loops do not multiply with those of its callers. It takes scalars and pointers
 * to whole structs, and returns a scalar. */
#define SG_GLOBAL __attribute__((noinline))

/* Keep a bounded value in one register, or the verifier bounds one copy and the program uses another. */
#define sg_opaque(v) asm volatile("" : "+r"(v))

/* A length of 1 to `max`, a power of two, as the verifier can follow it. Helpers refuse lengths that may be 0, and until Linux 6.8 a
 * comparison with 0 proves nothing. What is larger is wrong afterwards: compare first. */
SG_INLINE __u32 sg_bounded(__u32 len, __u32 max)
{
	sg_opaque(len);
	len = (len - 1) & (max - 1);
	sg_opaque(len);
	return len + 1;
}

#define SG_V6_LEN 40
#define SG_V4_LEN 20
#define SG_FRAG_LEN 8
#define SG_ICMP_LEN 8
#define SG_JUMBO_LEN 8
#define SG_OPT_JUMBO 0xc2 /* RFC 2675 2 */
#define SG_IPV6_MIN_MTU 1280

#define SG_IP_DF 0x4000
#define SG_IP_MF 0x2000
#define SG_IP_OFFSET 0x1fff

#define SG_NEXTHDR_HOP 0
#define SG_NEXTHDR_ROUTING 43
#define SG_NEXTHDR_FRAGMENT 44
#define SG_NEXTHDR_AUTH 51
#define SG_NEXTHDR_DEST 60
#define SG_NEXTHDR_MOBILITY 135
#define SG_NEXTHDR_HIP 139
#define SG_NEXTHDR_SHIM6 140

SG_INLINE struct sg_addr sg_addr4(__be32 a)
{
	struct sg_addr v = {};

	v.w[2] = bpf_htonl(0xffff);
	v.w[3] = a;
	return v;
}

#endif
