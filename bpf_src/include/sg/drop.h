/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Why a packet took the way it took: one number, one counter, one name for every verdict. Numbers never change meaning; new ones are
 * appended before SG_REASON_MAX. PASS: left untouched for the kernel. OK: done. SLOW: handed to the next hook. DROP: dropped. */
#ifndef SG_DROP_H
#define SG_DROP_H

enum sg_reason {
	SG_PASS_NOT_IP = 0,	 /* neither IPv4 nor IPv6, or tagged for another device */
	SG_PASS_NO_MATCH,	 /* no gateway claims source and destination */
	SG_PASS_UNICAST_ONLY,	 /* link-layer broadcast or multicast, or neighbour discovery */
	SG_OK_64,		 /* translated to IPv4 and sent */
	SG_OK_46,		 /* translated to IPv6 and sent */
	SG_OK_64_LOCAL,		 /* translated to IPv4 and left to this host */
	SG_OK_46_LOCAL,		 /* translated to IPv6 and left to this host */
	SG_OK_ICMP_SENT,	 /* an ICMP error of our own was sent */
	SG_OK_FRAGMENTED,	 /* sent as IPv6 fragments */
	SG_SLOW_FRAGMENT,	 /* needs fragmenting by us */
	SG_SLOW_ICMP,		 /* needs an ICMP error of our own */
	SG_SLOW_XDP,		 /* XDP leaves it to tc */
	SG_SLOW_NEIGH,		 /* XDP leaves it to tc to keep the neighbour alive */
	SG_DROP_TRUNCATED,	 /* shorter than its headers say */
	SG_DROP_BAD_HEADER,	 /* version, length or header checksum wrong */
	SG_DROP_BAD_EXTHDR,	 /* extension header chain malformed or too long */
	SG_DROP_ROUTING_HEADER,	 /* RFC 7915 5.1: segments left is not zero */
	SG_DROP_SOURCE_ROUTE,	 /* RFC 7915 4.1: unexpired source route option */
	SG_DROP_TTL,		 /* TTL or hop limit exceeded */
	SG_DROP_TOO_BIG,	 /* larger than the next hop takes, and must not be fragmented */
	SG_DROP_SRC_ILLEGAL,	 /* RFC 7915 4.1, 5.1: a source that must not be translated */
	SG_DROP_SRC_UNMAPPED,	 /* source is in no prefix and no mapping */
	SG_DROP_WKP_NONGLOBAL,	 /* RFC 6052 3.1: non-global IPv4 address under the well-known prefix */
	SG_DROP_UDP_ZERO,	 /* RFC 7915 4.5: IPv4 UDP without checksum */
	SG_DROP_ICMP_TYPE,	 /* RFC 7915 4.2, 5.2: type or code without equivalent */
	SG_DROP_ICMP_POINTER,	 /* RFC 7915 figure 3, 6: pointer without equivalent */
	SG_DROP_ICMP_FRAGMENT,	 /* fragmented ICMP cannot be translated statelessly */
	SG_DROP_ICMP_CSUM,	 /* ICMP checksum of an error is wrong (RFC 5508 3) */
	SG_DROP_ICMP_INNER,	 /* embedded packet malformed, of the wrong addresses, or an error itself */
	SG_DROP_FRAGMENT_EXTHDR, /* RFC 7915 5.1.1: extension header behind the fragment header */
	SG_DROP_FRAGMENT_SIZE,	 /* fragment offset or length impossible in the other family */
	SG_DROP_MAPPING,	 /* the mapped address is unusable (RFC 7757) */
	SG_DROP_NO_ROUTE,	 /* the kernel has no usable route */
	SG_DROP_FORWARDING_OFF,	 /* forwarding is disabled on the device (sysctl) */
	SG_DROP_NO_SOURCE,	 /* no address of this family for an ICMP error of our own */
	SG_DROP_RATE,		 /* ICMP error withheld by the rate limit */
	SG_DROP_RESIZE,		 /* the kernel refused to change the packet's size */
	SG_DROP_REDIRECT,	 /* the kernel refused to send the packet */
	SG_SLOW_REWRITE,	 /* what stands behind the headers must be read or rewritten */
	SG_OK_66,		 /* hairpinned between two IPv6 hosts (RFC 7757 4) */
	SG_OK_FRAGMENT_SENT,	 /* one fragment of ours on its way */
	SG_DROP_STALE,		 /* no gateway claims the packet any more */
	SG_OK_LB,		 /* balanced: sent to a backend */
	SG_OK_LB_ECHO,		 /* ping to a VIP answered */
	SG_OK_LB_ICMP,		 /* ICMP error sent to the backend of the flow that it is about */
	SG_DROP_LB_PORT,	 /* a VIP, but nothing balances this port or protocol */
	SG_DROP_LB_NO_BACKEND,	 /* a VIP without a backend that takes the flow */
	SG_DROP_LB_SOURCE,	 /* the VIP's source ranges deny the client */
	SG_DROP_LB_RATE,	 /* new flow above the VIP's limit */
	SG_DROP_LB_FRAGMENT,	 /* a later fragment whose first one was not seen */
	SG_DROP_LB_ICMP,	 /* ICMP to a VIP that is neither ping nor about a flow */
	SG_PASS_LB_FULL,	 /* sg_lb_flow is full: the flow stays pending */
	SG_OK_EGRESS,		 /* from a pod on its way to the gateway */
	SG_OK_EGRESS_OUT,	 /* from the gateway on its way out */
	SG_OK_EGRESS_BACK,	 /* a reply on its way to the pod's node */
	SG_OK_EGRESS_POD,	 /* a reply on its way into the pod */
	SG_DROP_EGRESS_UNKNOWN,	 /* to a covered destination, from no known pod */
	SG_DROP_EGRESS_SPOOFED,	 /* to a covered destination, with the address of another pod */
	SG_DROP_EGRESS_YOUNG,	 /* to a covered destination, from a device without a program yet */
	SG_DROP_EGRESS_NO_GW,	 /* no gateway of the pair is alive */
	SG_DROP_EGRESS_NOT_OWN,	 /* for a pair that this node does not own */
	SG_DROP_EGRESS_NO_POD,	 /* a reply for a pod that is not here */
	SG_OK_FORWARDED,	 /* an IPv6 super-packet of more than 64 KB forwarded past the kernel, which would drop it */
	SG_OK_DECAP,		 /* unpacked at a backend */
	SG_DROP_DECAP_ECN,	 /* congestion marked on the way, in a packet that cannot say so (RFC 6040) */
	SG_DROP_DECAP_INNER,	 /* unpacked packet malformed or not for a VIP */
	SG_DROP_ST_FULL,	 /* stateful: as many sessions as allowed, or no room in a table */
	SG_DROP_ST_NO_PORT,	 /* stateful: no free port for the client */
	SG_DROP_ST_CLIENT,	 /* stateful: a limit per client is reached */
	SG_DROP_ST_NO_STATE,	 /* stateful: belongs to no mapping or session */
	SG_DROP_ST_FILTERED,	 /* RFC 4787 REQ-8: from an address that the client has not sent to */
	SG_DROP_ST_SYN,		 /* RFC 6146 3.5.2.2: unexpected SYN, kept in mind for a simultaneous open */
	SG_DROP_ST_PROTO,	 /* RFC 6146 3.4: neither TCP, UDP nor ICMP */
	SG_DROP_ST_BACKEND,	 /* stateful: a service without backends */
	SG_DROP_ST_FRAGMENT,	 /* stateful: a fragment whose first one was not seen in time */
	SG_DROP_ST_HAIRPIN,	 /* stateful: from client to client, which the object forbids */
	SG_OK_ST_HELD,		 /* stateful: a fragment that waits for its first one */
	SG_OK_44,		 /* source or destination changed within IPv4 */
	SG_REASON_MAX,
};

#endif
