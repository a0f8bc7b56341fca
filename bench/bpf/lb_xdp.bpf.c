// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* For the balancer's benchmarks by BPF_PROG_TEST_RUN. sg_lb_wrap puts the packet back as it was, gives it another source and calls the program
 * under test. sg_lb_floor is the least that a balancer can do: VIP by hash, ring, backend, two
 * counters per CPU, IPIP. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "wrap.h"

#define RING 65537

struct sg_wrap {
	__u32 len;	/* of the frame */
	__u32 mask;	/* flows - 1 */
	__u32 addr_off; /* of the last four bytes of the source address */
	__u32 pad;
	__u64 head[2]; /* first 16 bytes of the frame; headers in front overwrite no more */
};

const volatile struct sg_wrap sg_wrap_cfg = {};
__u32 sg_turn = 0;

SEC("xdp")
int sg_lb_wrap(struct xdp_md *ctx)
{
	void *data, *end;
	__u32 flow;

	if (sg_wrap_undo(ctx, sg_wrap_cfg.len))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 64 > end || sg_wrap_cfg.addr_off > 60)
		return XDP_ABORTED;
	((__u64 *)data)[0] = sg_wrap_cfg.head[0];
	((__u64 *)data)[1] = sg_wrap_cfg.head[1];
	/* An odd factor visits all flows once before any of them again, in no order. */
	flow = (sg_turn++ * 0x9e3779b1U) & sg_wrap_cfg.mask;
	*(__be32 *)(data + sg_wrap_cfg.addr_off) = bpf_htonl(0x0b000000 | flow);
	bpf_tail_call(ctx, &sg_target, 0);
	return XDP_ABORTED;
}

/* What the wrapper calls to find its own cost, beside nothing. */
SEC("xdp")
int sg_lb_move(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -sg_grow) ? XDP_ABORTED : XDP_TX;
}

struct vip_key {
	__u32 addr[4];
	__be16 port;
	__u16 proto;
	__u32 pad;
};

struct vip {
	__u32 ring;
	__u32 stat;
};

struct real {
	__u32 addr[4];
	__u8 dmac[6];
	__u8 smac[6];
	__u32 pad;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct vip_key);
	__type(value, struct vip);
	__uint(max_entries, 512);
} floor_vip SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, RING);
} floor_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct real);
	__uint(max_entries, 512);
} floor_real SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counter);
	__uint(max_entries, 512);
} floor_count SEC(".maps");

static __always_inline void count(__u32 key, __u32 bytes)
{
	struct counter *c = bpf_map_lookup_elem(&floor_count, &key);

	if (c) {
		c->packets++;
		c->bytes += bytes;
	}
}

static __always_inline const struct real *pick(struct vip_key *key, __u64 source, __u32 ports, __u32 len)
{
	struct vip *vip = bpf_map_lookup_elem(&floor_vip, key);
	__u32 at, *real;
	__u64 hash;

	if (!vip)
		return NULL;
	hash = (source ^ ports) * 0x9e3779b97f4a7c15ULL;
	hash = (hash ^ (hash >> 32)) * 0xff51afd7ed558ccdULL;
	at = ((hash >> 32) * RING) >> 32;
	real = bpf_map_lookup_elem(&floor_ring, &at);
	if (!real)
		return NULL;
	count(vip->stat, len);
	count(*real, len);
	return bpf_map_lookup_elem(&floor_real, real);
}

static __always_inline struct ethhdr *link(struct xdp_md *ctx, const struct real *r, int room, __be16 proto)
{
	struct ethhdr *eth;

	if (bpf_xdp_adjust_head(ctx, -room))
		return NULL;
	eth = (void *)(long)ctx->data;
	if ((void *)eth + ETH_HLEN + room > (void *)(long)ctx->data_end)
		return NULL;
	__builtin_memcpy(eth->h_dest, r->dmac, 6);
	__builtin_memcpy(eth->h_source, r->smac, 6);
	eth->h_proto = proto;
	return eth;
}

SEC("xdp")
int sg_lb_floor4(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETH_HLEN, *out;
	__u32 *ports = (void *)(ip + 1), len, i, sum = 0;
	struct vip_key key = {};
	const struct real *r;
	struct ethhdr *eth = data;

	if ((void *)(ports + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)ip != 0x45)
		return XDP_PASS;
	key.addr[3] = ip->daddr;
	key.port = *ports >> 16;
	key.proto = ip->protocol;
	len = bpf_ntohs(ip->tot_len);
	r = pick(&key, ip->saddr, *ports, len);
	if (!r)
		return XDP_PASS;
	eth = link(ctx, r, sizeof(*ip), bpf_htons(ETH_P_IP));
	if (!eth)
		return XDP_ABORTED;
	out = (void *)(eth + 1);
	*(__u16 *)out = bpf_htons(0x4500);
	out->tot_len = bpf_htons(len + sizeof(*ip));
	out->id = 0;
	out->frag_off = bpf_htons(0x4000);
	out->ttl = 64;
	out->protocol = 4;
	out->check = 0;
	out->saddr = bpf_htonl(0xc0000264);
	out->daddr = r->addr[3];
	for (i = 0; i < 10; i++)
		sum += ((__u16 *)out)[i];
	sum = (sum & 0xffff) + (sum >> 16);
	out->check = ~((sum & 0xffff) + (sum >> 16));
	return XDP_TX;
}

SEC("xdp")
int sg_lb_floor6(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip6 = data + ETH_HLEN, *out;
	__u32 *ports = (void *)(ip6 + 1), len;
	struct vip_key key = {};
	const struct real *r;
	struct ethhdr *eth = data;

	if ((void *)(ports + 1) > end || eth->h_proto != bpf_htons(ETH_P_IPV6))
		return XDP_PASS;
	__builtin_memcpy(key.addr, &ip6->daddr, 16);
	key.port = *ports >> 16;
	key.proto = ip6->nexthdr;
	len = bpf_ntohs(ip6->payload_len) + sizeof(*ip6);
	r = pick(&key, *(__u64 *)&ip6->saddr.in6_u.u6_addr32[2] ^ *(__u64 *)&ip6->saddr, *ports, len);
	if (!r)
		return XDP_PASS;
	eth = link(ctx, r, sizeof(*ip6), bpf_htons(ETH_P_IPV6));
	if (!eth)
		return XDP_ABORTED;
	out = (void *)(eth + 1);
	*(__be32 *)out = bpf_htonl(0x60000000);
	out->payload_len = bpf_htons(len);
	out->nexthdr = 41;
	out->hop_limit = 64;
	__builtin_memset(&out->saddr, 0x20, 16);
	__builtin_memcpy(&out->daddr, r->addr, 16);
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
