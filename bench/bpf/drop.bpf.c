// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Where packets end: a device with this program takes frames in and lets go of them at once, as a network card does that has sent them. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int sg_drop(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
