// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* For floods by BPF_PROG_TEST_RUN, which does not restore a packet between repeats: sg_wrap_tc puts an IPv6 packet back as it was, gives it
 * another source, and calls the program under test. sg_floor_tc only changes the family. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME 128
#define SOURCE 30 /* last 8 bytes of the source address */
#define SPORT 54

struct sg_tc_frame {
	__u32 len;
	__u32 pad;
	__u8 bytes[FRAME];
};

const volatile struct sg_tc_frame sg_tc_original = {};

/* Sources: of client number n / ports, port 1024 + n % ports, where n goes from `first` round `count`; or random ones. */
struct sg_vary {
	__u32 random;
	__u32 first;
	__u32 count;
	__u32 ports;
	__u32 next;
	__u32 stride; /* between two packets: 1, or a number without a divisor in common with `count` */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_vary);
	__uint(max_entries, 1);
} sg_vary SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} sg_target SEC(".maps");

SEC("tc")
int sg_wrap_tc(struct __sk_buff *ctx)
{
	__u32 zero = 0, n, len = sg_tc_original.len;
	struct sg_vary *v = bpf_map_lookup_elem(&sg_vary, &zero);
	__u32 source[2];
	__be16 port;

	if (!v || len > FRAME || len < 64)
		return TC_ACT_SHOT;
	if (ctx->protocol != bpf_htons(ETH_P_IPV6) && bpf_skb_change_proto(ctx, bpf_htons(ETH_P_IPV6), 0))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(ctx, 0, (const void *)sg_tc_original.bytes, len, 0))
		return TC_ACT_SHOT;
	if (v->random) {
		source[0] = bpf_get_prandom_u32();
		source[1] = bpf_get_prandom_u32();
		port = bpf_htons(1024 + (bpf_get_prandom_u32() & 32767));
	} else {
		n = v->first + v->next;
		v->next = (v->next + v->stride) % (v->count ? v->count : 1);
		source[0] = 0;
		source[1] = bpf_htonl(1 + n / (v->ports ? v->ports : 1));
		port = bpf_htons(1024 + n % (v->ports ? v->ports : 1));
	}
	bpf_skb_store_bytes(ctx, SOURCE, source, sizeof(source), 0);
	bpf_skb_store_bytes(ctx, SPORT, &port, sizeof(port), 0);
	bpf_tail_call(ctx, &sg_target, 0);
	return TC_ACT_SHOT;
}

/* What any translator does. */
SEC("tc")
int sg_floor_tc(struct __sk_buff *ctx)
{
	return bpf_skb_change_proto(ctx, bpf_htons(ETH_P_IP), 0) ? TC_ACT_SHOT : TC_ACT_REDIRECT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
