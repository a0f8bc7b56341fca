/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SG_TEST_H
#define SG_TEST_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define MAP(name, kind, key_type, value_type, entries)                                                                             \
	struct {                                                                                                                   \
		__uint(type, kind);                                                                                                \
		__type(key, key_type);                                                                                             \
		__type(value, value_type);                                                                                         \
		__uint(max_entries, entries);                                                                                      \
	} name SEC(".maps")

#endif
