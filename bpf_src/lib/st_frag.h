/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments (RFC 6146 3.4): later ones have no ports and follow the first. */
#ifndef SG_ST_FRAG_H
#define SG_ST_FRAG_H

#include "st.h"
#include "xlat.h"

/* Later fragments wait in the slow path for their first one. */
#ifndef SG_ST_HOLD
#define SG_ST_HOLD 0
#endif

struct sg_st_frag_key {
	struct sg_addr saddr;
	struct sg_addr daddr;
	__u32 id;
	__u8 proto;
	__u8 pad[3];
};

struct sg_st_frag {
	__be32 ports; /* of the first fragment, as it came; 0: later ones came before it, and wait */
	__u32 until;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sg_st_frag_key);
	__type(value, struct sg_st_frag);
	__uint(max_entries, 8192);
} sg_st_frag SEC(".maps");

SG_INLINE void sg_st_frag_key(const struct sg_pkt *p, struct sg_st_frag_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr = p->saddr;
	key->daddr = p->daddr;
	key->id = p->frag_id;
	key->proto = p->proto;
}

/* The ports of the packet that this later fragment belongs to; 0 where its first one has not been seen. */
SG_GLOBAL int sg_st_frag_ports(const struct sg_pkt *p, __u32 now)
{
	struct sg_st_frag_key key;
	struct sg_st_frag *f;

	if (!p)
		return 0;
	sg_st_frag_key(p, &key);
	f = bpf_map_lookup_elem(&sg_st_frag, &key);
	return f && !sg_st_past(now, f->until) ? (int)f->ports : 0;
}

/* Remembers a first fragment's ports. Returns 1 where later ones wait for it. Whoever comes to wait inserts with BPF_NOEXIST as well, after its
 * copy is complete: so one of the two sees the other. */
SG_GLOBAL int sg_st_frag_note(const struct sg_pkt *p, __be32 ports, __u32 now, __u32 life)
{
	struct sg_st_frag f = {.ports = ports, .until = now + life + 1}, *known;
	struct sg_st_frag_key key;
	int waiting;

	if (!p)
		return 0;
	sg_st_frag_key(p, &key);
	if (!bpf_map_update_elem(&sg_st_frag, &key, &f, BPF_NOEXIST))
		return 0;
	known = bpf_map_lookup_elem(&sg_st_frag, &key);
	if (!known)
		return 0;
	waiting = !known->ports && !sg_st_past(now, known->until);
	known->until = f.until;
	known->ports = ports;
	return waiting;
}

#endif
