// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Builds weighted Maglev tables (Eisenbud et al., NSDI 2016, 3.4): never attached, run by BPF_PROG_TEST_RUN. A node has no compiler, the
 * work is a million dependent steps, and a program that goes through the verifier needs no packaging of its own. */
#include "sg/bpf.h"

#define SG_MG_STEPS (1 << 20) /* of one run, some milliseconds; the caller runs it again until all slots are taken */
#define SG_MG_TURNS 32

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_mg_backends);
	__uint(max_entries, 1);
} sg_mg_backend SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_mg_state);
	__uint(max_entries, 1);
} sg_mg_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_mg_table);
	__uint(max_entries, 1);
} sg_mg_table SEC(".maps");

struct sg_mg_run {
	struct sg_mg_state *state;
	struct sg_mg_table *table;
	struct sg_mg_backends *backends;
};

SG_INLINE struct sg_mg_backend *sg_mg_of(const struct sg_mg_run *run, __u32 turn)
{
	sg_opaque(turn);
	turn &= SG_MG_MAX_BACKEND - 1;
	return &run->backends->at[turn];
}

/* Every round of turns gives a backend its weight in credit, and the largest weight buys a slot: so shares follow the weights to one slot,
 * and the heaviest backend takes one in every round, as in the unweighted algorithm. True where somebody can buy. */
SG_INLINE bool sg_mg_turns(const struct sg_mg_run *run)
{
	struct sg_mg_state *s = run->state;
	__u32 turn = s->turn, backends = s->backends, largest = s->largest, i;
	struct sg_mg_backend *b;

	for (i = 0; i < SG_MG_TURNS; i++) {
		b = sg_mg_of(run, turn);
		b->credit += b->weight;
		if (b->credit >= largest)
			break;
		turn = turn + 1 < backends ? turn + 1 : 0;
	}
	s->turn = turn;
	if (i == SG_MG_TURNS)
		return false;
	b->credit -= largest;
	s->asking = 1;
	return true;
}

/* Asks for one slot, after the turns of those who cannot buy one. */
static long sg_mg_step(__u32 i __attribute__((unused)), struct sg_mg_run *run)
{
	struct sg_mg_state *s = run->state;
	struct sg_mg_backend *b;
	__u32 at, turn, size = s->size;

	if (s->filled >= size)
		return 1;
	if (!s->asking && !sg_mg_turns(run))
		return 0;
	turn = s->turn;
	b = sg_mg_of(run, turn);
	at = b->at;
	b->at = at + b->skip < size ? at + b->skip : at + b->skip - size;
	if (at >= SG_MG_MAX_SLOT)
		return 1;
	if (run->table->slot[at] != SG_MG_FREE)
		return 0;
	run->table->slot[at] = (__u16)turn;
	s->filled++;
	s->asking = 0;
	s->turn = turn + 1 < s->backends ? turn + 1 : 0;
	return 0;
}

/* XDP_PASS: the table is complete; XDP_DROP: to be run again. */
SEC("xdp")
int sg_mg_build(struct xdp_md *ctx __attribute__((unused)))
{
	__u32 zero = 0;
	struct sg_mg_run run = {
		.state = bpf_map_lookup_elem(&sg_mg_state, &zero),
		.table = bpf_map_lookup_elem(&sg_mg_table, &zero),
		.backends = bpf_map_lookup_elem(&sg_mg_backend, &zero),
	};

	if (!run.state || !run.table || !run.backends)
		return XDP_ABORTED;
	bpf_loop(SG_MG_STEPS, sg_mg_step, &run, 0);
	return run.state->filled >= run.state->size ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
