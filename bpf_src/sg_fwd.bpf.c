// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tc at the ingress of devices that a BIGTCPPolicy selects and no gateway has: forwards IPv6 super-packets of more than 64 KB. */
#include "sg/bpf.h"

#include "sg/ctx_skb.h"
#include "lib/big.h"

SEC("tc")
int sg_fwd_tc(struct __sk_buff *ctx)
{
	return sg_is_big6(ctx) ? sg_big_forward(ctx) : SG_ACT_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
