/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A small object with every kind of map and hook that a node agent has to deal with. VERSION, WIDE, PAIR and GROWN make variants of it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

typedef __u32 sg_ifindex_t;

struct sg_addr {
	union {
		__u8 b[16];
		__be32 w[4];
		__be64 d[2];
	};
};

struct sg_dev {
	struct sg_addr addr6;
	struct sg_addr addr4;
	__u32 mtu;
	__u32 pad;
};

struct t_config {
	__u32 features;
	sg_ifindex_t peer;
};

struct t_pair {
	__u32 low;
	__u32 high;
};

const volatile struct t_config t_cfg;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
#ifdef WIDE
	__type(value, struct sg_dev);
#elif defined(PAIR)
	__type(value, struct t_pair);
#else
	__type(value, __u64);
#endif
	__uint(max_entries, 64);
} sg_tab SEC(".maps");

struct t_inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 2);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 4);
	__array(values, struct t_inner);
} sg_out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, sg_ifindex_t);
	__type(value, struct sg_dev);
	__uint(max_entries, 64);
} sg_dev SEC(".maps");

/* State: GROWN has a member more, and another place for one. */
struct t_state {
#ifdef GROWN
	__u64 added;
#endif
	__u32 packets;
	__u32 mark;
#ifdef GROWN
	__u64 last;
#endif
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct t_state);
	__uint(max_entries, 1024);
} sg_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct t_state);
	__uint(max_entries, 8192);
} sg_rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} sg_hits SEC(".maps");

static __always_inline int t_run(int verdict)
{
	__u32 zero = 0, key = t_cfg.features;
	__u64 *hits = bpf_map_lookup_elem(&sg_hits, &zero);
	void *inner = bpf_map_lookup_elem(&sg_out, &zero);
	struct t_state *state;
	__u64 flow = 1;

	if (hits)
		__sync_fetch_and_add(hits, 1);
	state = bpf_map_lookup_elem(&sg_state, &flow);
	if (state)
		state->packets++;
	if (bpf_map_lookup_elem(&sg_rows, &key))
		verdict += 0;
	if (bpf_map_lookup_elem(&sg_tab, &key) || bpf_map_lookup_elem(&sg_dev, &key))
		return verdict;
	return inner && bpf_map_lookup_elem(inner, &zero) ? verdict : verdict + t_cfg.peer * 0;
}

SEC("tc")
int t_tc(struct __sk_buff *skb)
{
	return t_run(-1 + VERSION * 0); /* TC_ACT_UNSPEC: the next program's turn */
}

SEC("xdp")
int t_xdp(struct xdp_md *ctx)
{
	return t_run(XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
const volatile __u32 t_version = VERSION;
