// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* How large the packets are that pass a device: what `sixgate bigtcp test` looks through. It changes and stops nothing. */
#include "sg/bpf.h"

/* Shorter packets are acknowledgements and do not count. */
const volatile __u32 sg_least = 256;

struct sg_seen {
	__u64 packets;
	__u64 bytes; /* of layer 3 */
	__u64 big;   /* packets of more than 64 KB */
	__u64 largest;
};

/* Key 0 is IPv4, 1 is IPv6. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_seen);
	__uint(max_entries, 2);
} sg_seen SEC(".maps");

SEC("tc")
int sg_count_tc(struct __sk_buff *ctx)
{
	__u32 key = ctx->protocol == bpf_htons(ETH_P_IPV6);
	__u32 len = ctx->len - ETH_HLEN;
	struct sg_seen *seen;

	if (ctx->len < ETH_HLEN + sg_least || (!key && ctx->protocol != bpf_htons(ETH_P_IP)))
		return TC_ACT_UNSPEC;
	seen = bpf_map_lookup_elem(&sg_seen, &key);
	if (!seen)
		return TC_ACT_UNSPEC;
	seen->packets++;
	seen->bytes += len;
	seen->big += len > 65535;
	if (len > seen->largest)
		seen->largest = len;
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
