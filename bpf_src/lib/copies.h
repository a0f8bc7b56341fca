/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sessions that are copied to another gateway while they live. Programs of this run by the hand of user space (BPF_PROG_TEST_RUN) only.
 *
 * The data plane marks what has changed (sg_st_changed), one bit; a walk over the marked words tells of it. So a connection that is over before
 * anybody looks costs one bit, and nothing that is told too late is lost: the bit stays. What the other side was told stands in sg_eg_shadow, so
 * that it can be told of an end whose session is somebody else's by now. */
#ifndef SG_COPIES_H
#define SG_COPIES_H

#include "egress_home.h"
#include "st_find.h"
#include "st_sess.h"

#define SG_COPY_ROOM (SG_EG_COPIES - 128) /* a word tells of two records for each of its bits at most */
#define SG_COPY_OLD 10			  /* seconds */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_eg_copy);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} sg_eg_copy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_eg_session);
	__uint(max_entries, SG_EG_COPIES);
	__uint(map_flags, BPF_F_MMAPABLE);
} sg_eg_outbox SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_eg_session);
	__uint(max_entries, SG_EG_COPIES);
	__uint(map_flags, BPF_F_MMAPABLE);
} sg_eg_inbox SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_eg_copied);
	__uint(max_entries, SG_ST_MAX_OBJ);
} sg_eg_copied SEC(".maps");

/* What the other gateway was told of each session, by its index; state 0: nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sg_eg_session);
	__uint(max_entries, SG_ST_IDS);
} sg_eg_shadow SEC(".maps");

/* By object: copies that nobody told of since this second are of sessions that are over; 0: all stay. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, SG_ST_MAX_OBJ);
} sg_eg_prune SEC(".maps");

SG_INLINE struct sg_eg_copy *sg_copy_of(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sg_eg_copy, &zero);
}

SG_INLINE struct sg_eg_copied *sg_copied_of(__u32 obj)
{
	return bpf_map_lookup_elem(&sg_eg_copied, &obj);
}

SG_INLINE bool sg_copied_all(__u32 obj)
{
	const struct sg_eg_copied *copied = sg_copied_of(obj);

	return copied && copied->all;
}

/* Whether datagrams and their answers are a conversation. Most are a question with its answer, over before anybody could copy it, but there for
 * minutes: of a resolver's client one for each name (two questions, A and AAAA). */
SG_INLINE bool sg_copy_talks(const struct sg_st_sess *s)
{
	const struct sg_st_obj *obj = sg_st_obj_of(s->obj);

	if (s->told || s->in.packets >= SG_ST_TALKS)
		return true;
	/* Few answers, and the client spoke again long after its first word. */
	return obj && s->in.packets && sg_st_past(s->expires, s->created + sg_st_life(obj, s->state) + SG_COPY_OLD);
}

/* Whether the other side should know of it; `fresh`: it does not yet. What is closing already is not worth beginning with. */
SG_INLINE bool sg_copy_worth(const struct sg_st_sess *s, const struct sg_st_map *m, bool fresh)
{
	const struct sg_eg_copied *copied = sg_copied_of(s->obj);

	if (!m || !m->refs || m->svc || !copied || !copied->on)
		return false;
	switch (s->state) {
	case SG_ST_EST:
	case SG_ST_IN_FIN:
	case SG_ST_OUT_FIN:
		return true;
	case SG_ST_BOTH_FIN:
	case SG_ST_TRANS:
		return !fresh || (s->state == SG_ST_TRANS && !s->reset);
	case SG_ST_UDP:
	case SG_ST_ICMP:
		return !fresh || sg_copy_talks(s);
	default:
		return false;
	}
}

SG_INLINE bool sg_copy_same(const struct sg_eg_session *r, const struct sg_st_sess *s, const struct sg_st_map *m)
{
	return r->near_port == m->in_port && r->far_port == s->rport && r->to_port == m->out_port && r->proto == s->proto &&
	       r->obj == s->obj && sg_st_same(&r->near, &m->in) && sg_st_same(&r->far, &s->remote) && sg_st_same(&r->to, &m->out);
}

SG_INLINE void sg_copy_tell(struct sg_eg_copy *c, const struct sg_eg_session *r, __u32 state)
{
	const struct sg_eg_copied *copied = sg_copied_of(r->obj);
	__u32 n = c->n;
	struct sg_eg_session *out = bpf_map_lookup_elem(&sg_eg_outbox, &n);

	if (!out || !copied || !copied->on)
		return;
	*out = *r;
	out->state = (__u8)state;
	c->n = n + 1;
}

/* What is to be told of session `id`. */
SG_GLOBAL int sg_copy_one(__u32 id)
{
	struct sg_eg_copy *c = sg_copy_of();
	struct sg_eg_session *known = bpf_map_lookup_elem(&sg_eg_shadow, &id);
	struct sg_st_sess *s = sg_st_sess_of(id);
	const struct sg_eg_home *home;
	struct sg_st_map *m;
	bool worth;
	__u32 state;

	if (!c || !known || !s)
		return 0;
	state = s->state;
	m = sg_st_map_of(s->map);
	worth = state && sg_copy_worth(s, m, !known->state) && m;
	if (known->state && (!worth || !sg_copy_same(known, s, m))) {
		sg_copy_tell(c, known, SG_ST_FREE);
		known->state = SG_ST_FREE;
		worth = worth && sg_copy_worth(s, m, true);
	}
	if (!worth || !m || (known->state == state && (c->what != SG_COPY_ALL || !sg_copied_all(s->obj))))
		return 0;
	known->near = m->in;
	known->far = s->remote;
	known->to = m->out;
	known->near_port = m->in_port;
	known->far_port = s->rport;
	known->to_port = m->out_port;
	known->obj = s->obj;
	known->proto = s->proto;
	known->left = sg_st_past(c->now, s->expires) ? 1 : s->expires - c->now;
	known->left += c->slack;
	home = sg_eg_home_of(&m->in);
	if (home) {
		known->home = home->node;
		__builtin_memcpy(known->home_mac, home->frame.dmac, 6);
	}
	known->state = (__u8)state;
	sg_copy_tell(c, known, state);
	return 0;
}

/* Ends a copy that the other gateway did not tell of any more. */
SG_GLOBAL int sg_copy_prune(__u32 id)
{
	struct sg_eg_copy *c = sg_copy_of();
	struct sg_st_sess *s = sg_st_sess_of(id);
	const __u32 *since;
	__u32 obj;

	if (!c || !s || s->state == SG_ST_FREE)
		return 0;
	obj = s->obj;
	since = bpf_map_lookup_elem(&sg_eg_prune, &obj);
	if (!since || !*since || sg_st_past(s->told, *since))
		return 0;
	c->ended += (__u32)sg_st_end(id);
	return 0;
}

static long sg_copy_bit(__u32 i __attribute__((unused)), __u32 *key)
{
	struct sg_eg_copy *c = bpf_map_lookup_elem(&sg_eg_copy, key);
	__u32 id;

	if (!c || !c->word)
		return 1;
	id = c->base + sg_st_ffs(c->word);
	c->word &= c->word - 1;
	if (c->what == SG_COPY_PRUNE)
		sg_copy_prune(id);
	else
		sg_copy_one(id);
	return 0;
}

static long sg_copy_word(__u32 i __attribute__((unused)), __u32 *key)
{
	struct sg_eg_copy *c = bpf_map_lookup_elem(&sg_eg_copy, key);
	struct sg_st_ids *ids;
	__u32 entry, k;
	__u64 changed;

	if (!c || c->at >= c->end || c->n > SG_COPY_ROOM)
		return 1;
	entry = c->at / 8;
	ids = bpf_map_lookup_elem(&sg_st_sids, &entry);
	if (!ids)
		return 1;
	k = c->at & 7;
	c->base = c->at * 64;
	c->at++;
	if (c->what == SG_COPY_PRUNE) {
		c->word = ids->used[k];
	} else {
		changed = ids->changed[k] ? __sync_lock_test_and_set(&ids->changed[k], 0) : 0;
		c->word = c->what == SG_COPY_ALL ? changed | ids->used[k] : changed;
	}
	if (c->word)
		bpf_loop(64, sg_copy_bit, key, 0);
	return 0;
}

/* Walks as `c` says. */
SG_INLINE void sg_copy_walk(struct sg_eg_copy *c)
{
	__u32 zero = 0, words = sg_cfg.st_ids / 64;

	c->now = sg_st_now();
	c->n = 0;
	c->ended = 0;
	if (c->end > words)
		c->end = words;
	if (c->at < c->end)
		bpf_loop(c->end - c->at, sg_copy_word, &zero, 0);
}

/* Where the pod of a copied session lives, as far as its gateway knew. */
SG_INLINE void sg_copy_home(const struct sg_eg_session *r)
{
	const struct sg_eg_copied *copied = sg_copied_of(r->obj);
	const struct sg_eg_home *known = sg_eg_home_of(&r->near);
	struct sg_eg_home home = {};
	struct sg_addr key = r->near;

	if (!copied || known)
		return;
	home.pair = copied->pair;
	home.node = r->home;
	if (!(r->home.d[0] | r->home.d[1])) {
		if (!copied->ifindex || !(r->home_mac[0] | r->home_mac[1] | r->home_mac[2] | r->home_mac[3]))
			return;
		__builtin_memcpy(home.frame.dmac, r->home_mac, 6);
		__builtin_memcpy(home.frame.smac, copied->smac, 6);
		home.frame.ifindex = copied->ifindex;
	}
	bpf_map_update_elem(&sg_eg_home, &key, &home, BPF_ANY);
}

#endif
