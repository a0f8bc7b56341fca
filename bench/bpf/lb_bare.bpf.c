// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Encapsulates every IPv4 packet and sends it to one place: no VIP, no choice, no counter. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct sg_bare {
	__u32 saddr;
	__u32 daddr;
	__u8 dmac[6];
	__u8 smac[6];
};

const volatile struct sg_bare sg_bare = {};

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} sg_bare_tx SEC(".maps");

SEC("xdp")
int sg_lb_bare(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 sum = 0, len, i;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	len = bpf_ntohs(ip->tot_len);
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return XDP_ABORTED;
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end)
		return XDP_ABORTED;
	for (i = 0; i < 6; i++) {
		eth->h_dest[i] = sg_bare.dmac[i];
		eth->h_source[i] = sg_bare.smac[i];
	}
	eth->h_proto = bpf_htons(ETH_P_IP);
	*(__u16 *)ip = bpf_htons(0x4500);
	ip->tot_len = bpf_htons(len + sizeof(*ip));
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = 4;
	ip->check = 0;
	ip->saddr = sg_bare.saddr;
	ip->daddr = sg_bare.daddr;
	for (i = 0; i < 10; i++)
		sum += ((__u16 *)ip)[i];
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~((sum & 0xffff) + (sum >> 16));
	return bpf_redirect_map(&sg_bare_tx, 0, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
