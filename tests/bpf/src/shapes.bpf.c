// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Every kind of map, type and constant that the binding must handle. */
#include "test.h"
#include <linux/ip.h>

enum shade {
	SHADE_DARK = 1,
	SHADE_LIGHT = 5,
	SHADE_NONE = 200,
};

struct point {
	__u16 x;
	__s16 y;
};

struct sg_addr {
	union {
		__u8 b[16];
		__be32 w[4];
		__be64 d[2];
	};
};

typedef __u32 sg_ifindex_t;

struct everything {
	__u64 big;
	__s64 minus;
	struct sg_addr addr;
	__be16 port;
	__u16 half;
	__be32 v4;
	__be64 cookie;
	sg_ifindex_t dev;
	enum shade shade;
	struct point points[3];
	union {
		__u32 whole;
		__u16 parts[2];
	};
	union {
		__u64 a;
		struct point b[2];
	} named;
	char label[8];
	__u8 mac[6];
	_Bool yes;
	__u8 pad;
};

struct settings {
	__u32 features;
	sg_ifindex_t dev;
	struct point corner[2];
	struct sg_addr prefix;
};

struct lpm_key {
	__u32 prefixlen;
	__u32 gen;
	struct sg_addr addr;
};

struct value {
	__u32 number;
	__u32 pad;
};

/* clang describes what is only behind the pointers of inner maps as a forward declaration, unless a variable is made of it. */
const struct value value_layout = {};

/* Kernel headers in a scratch map have bit-fields. */
struct scratch {
	struct iphdr header;
	__u32 length;
};

const volatile struct settings cfg = {.features = 7};
const volatile __u32 verdict = 2;
const volatile __u16 ports[4] = {1, 2, 3, 4};

MAP(t_hash, BPF_MAP_TYPE_HASH, __u32, struct everything, 64);
MAP(t_lru, BPF_MAP_TYPE_LRU_HASH, __u32, struct value, 64);
MAP(t_array, BPF_MAP_TYPE_ARRAY, __u32, struct value, 8);
MAP(t_pcpu_array, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct point, 4);
MAP(t_pcpu_hash, BPF_MAP_TYPE_PERCPU_HASH, __u32, struct point, 8);
MAP(t_scratch, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct scratch, 1);
MAP(t_large, BPF_MAP_TYPE_HASH, __u64, __u64, 20000);
MAP(t_devmap, BPF_MAP_TYPE_DEVMAP_HASH, sg_ifindex_t, sg_ifindex_t, 8);

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct lpm_key);
	__type(value, struct value);
	__uint(max_entries, 32);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} t_lpm SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct value);
	__uint(max_entries, 4);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 2);
	__array(values, struct inner);
} t_tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__type(key, struct sg_addr);
	__uint(max_entries, 4);
	__array(values, struct inner);
} t_by_addr SEC(".maps");

/* Counts in a per-CPU map and answers with number 0 of table 0, else with the constant. */
SEC("xdp")
int shape_xdp(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct point *count = bpf_map_lookup_elem(&t_pcpu_array, &zero);
	void *table = bpf_map_lookup_elem(&t_tables, &zero);
	struct value *found = table ? bpf_map_lookup_elem(table, &zero) : 0;

	if (count)
		count->x++;
	if (ctx->data_end - ctx->data > 2000 && cfg.features & 8)
		return XDP_ABORTED;
	if (ctx->rx_queue_index == 77)
		return bpf_redirect_map(&t_devmap, ctx->ingress_ifindex, 0);
	return found ? (int)found->number : (int)verdict;
}

/* Uses every other map, so that each is created as the object's own. */
SEC("tc")
int shape_tc(struct __sk_buff *skb)
{
	struct lpm_key lpm = {.prefixlen = 160};
	__u32 key = skb->mark + ports[1];
	__u64 wide = key;
	struct everything *all = bpf_map_lookup_elem(&t_hash, &key);
	void *seen = bpf_map_lookup_elem(&t_lru, &key);
	void *more = bpf_map_lookup_elem(&t_lpm, &lpm);
	void *slots = bpf_map_lookup_elem(&t_array, &key);
	void *cpus = bpf_map_lookup_elem(&t_pcpu_hash, &key);
	void *table = bpf_map_lookup_elem(&t_by_addr, &lpm.addr);
	void *scratch = bpf_map_lookup_elem(&t_scratch, &key);
	void *large = bpf_map_lookup_elem(&t_large, &wide);

	return all || scratch || seen || more || slots || cpus || table || large ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
