/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Clients of objects that limit them: ports, sessions, and new sessions per second. */
#ifndef SG_ST_CLIENT_H
#define SG_ST_CLIENT_H

#include "st.h"

/* The part of an address that makes a client. */
SG_INLINE struct sg_addr sg_st_client_of(const struct sg_st_obj *obj, const struct sg_addr *a)
{
	struct sg_addr client = *a;
	__u32 len = obj->client_len;

	if (len < 64) {
		client.d[1] = 0;
		client.d[0] &= len ? bpf_cpu_to_be64(~0ULL << ((64 - len) & 63)) : 0;
	} else if (len < 128) {
		client.d[1] &= len > 64 ? bpf_cpu_to_be64(~0ULL << ((128 - len) & 63)) : 0;
	}
	return client;
}

SG_INLINE void sg_st_client_key(const struct sg_st_obj *obj, __u16 number, const struct sg_addr *client, struct sg_st_client *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->addr = sg_st_client_of(obj, client);
	key->obj = number;
}

/* Takes what a client has down by a port or a session; a client with neither is forgotten once its bucket is full again. */
SG_GLOBAL int sg_st_client_take(const struct sg_addr *client, __u32 number, __u32 port)
{
	struct sg_st_obj *obj = sg_st_obj_of(number);
	struct sg_st_client key;
	struct sg_st_client_use *c;

	if (!obj || !client)
		return 0;
	sg_st_client_key(obj, (__u16)number, client, &key);
	c = bpf_map_lookup_elem(&sg_st_client, &key);
	if (!c)
		return 0;
	sg_st_less(port ? &c->ports : &c->sessions);
	if (!c->ports && !c->sessions && bpf_ktime_get_coarse_ns() - c->since_ns > 1000000000ULL)
		bpf_map_delete_elem(&sg_st_client, &key);
	return 0;
}

SG_INLINE void sg_st_client_less(const struct sg_st_obj *obj, __u16 number, const struct sg_addr *client, bool port)
{
	if (obj->flags & SG_ST_CLIENTS)
		sg_st_client_take(client, number, port);
}

/* What a client has, made where it has nothing yet; NULL where there is no room. */
SG_INLINE struct sg_st_client_use *sg_st_client_made(const struct sg_st_obj *obj, __u16 number, const struct sg_addr *client,
						     __u64 now)
{
	struct sg_st_client_use *c, fresh = {};
	struct sg_st_client key;

	sg_st_client_key(obj, number, client, &key);
	c = bpf_map_lookup_elem(&sg_st_client, &key);
	if (c)
		return c;
	fresh.since_ns = now;
	fresh.tokens_ns = 1000000000ULL;
	bpf_map_update_elem(&sg_st_client, &key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&sg_st_client, &key);
}

/* Limits of a client: RFC 6888 REQ-4, REQ-5. Counts the session, and the port where one is needed. */
SG_GLOBAL int sg_st_admit(const struct sg_addr *client, __u32 number, __u32 port)
{
	struct sg_st_obj *obj = sg_st_obj_of(number);
	struct sg_st_client_use *c;
	__u64 now, cost;

	if (!obj || !client)
		return SG_DROP_STALE;
	if (!(obj->flags & SG_ST_CLIENTS))
		return 0;
	now = bpf_ktime_get_coarse_ns();
	c = sg_st_client_made(obj, (__u16)number, client, now);
	if (!c)
		return SG_DROP_ST_FULL;
	if (port && obj->client_ports && c->ports >= obj->client_ports) {
		c->refused++;
		SG_ST_COUNT(number, client_ports);
		return SG_DROP_ST_CLIENT;
	}
	if (obj->client_sessions && c->sessions >= obj->client_sessions) {
		c->refused++;
		SG_ST_COUNT(number, client_sessions);
		return SG_DROP_ST_CLIENT;
	}
	if (obj->client_rate) {
		cost = 1000000000ULL / obj->client_rate;
		c->tokens_ns += now - c->since_ns;
		c->since_ns = now;
		if (c->tokens_ns > 1000000000ULL)
			c->tokens_ns = 1000000000ULL;
		if (c->tokens_ns < cost) {
			c->refused++;
			SG_ST_COUNT(number, client_rate);
			return SG_DROP_ST_CLIENT;
		}
		c->tokens_ns -= cost;
	}
	__sync_fetch_and_add(&c->sessions, 1);
	if (port)
		__sync_fetch_and_add(&c->ports, 1);
	return 0;
}

#endif
