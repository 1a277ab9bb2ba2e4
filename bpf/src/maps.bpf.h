/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * All maps, each with what an absent key means. The loader pins those that outlive the daemon (enforcer-core,
 * enforce/load.rs) by name in a directory that carries ENFORCER_LAYOUT, and adopts them when they are there.
 */
#ifndef MAPS_BPF_H
#define MAPS_BPF_H

/* Identity of a task. Absent: ask further (subject.bpf.h). */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct subject);
} task_subjects SEC(".maps");

/* The same by address of the task, for kernels whose task storage may answer NULL under preemption (below 6.2).
 * The loader makes it one entry large elsewhere. Removed in task_free, so an address never speaks of a dead task. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, __u64);
	__type(value, struct subject);
} pointer_subjects SEC(".maps");

/* What hooks ask about an armed container, by the slot that its tasks carry. Another container's key: nothing
 * applies, user space has disarmed it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CONTAINERS);
	__type(key, __u32);
	__type(value, struct armed);
} armed SEC(".maps");

/* Armed containers by a key that is never used twice: what is asked seldom. Absent: user space has disarmed it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CONTAINERS);
	__type(key, __u64);
	__type(value, struct container);
} containers SEC(".maps");

/* Which container a cgroup belongs to. Absent in all levels: the task has not entered an armed container. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CONTAINERS);
	__type(key, __u64);
	__type(value, __u64);
} cgroup_containers SEC(".maps");

/* Which container a mount namespace belongs to, only for containers without a cgroup v2 of their own. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CONTAINERS);
	__type(key, __u32);
	__type(value, struct entry_ns);
} namespace_containers SEC(".maps");

/* Absent: no host policy is in force. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct host);
} host SEC(".maps");

/* How far a cgroup is exempt from the host's policies, enum host_exempt. Absent: not at all. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct exempt_cgroup);
	__type(value, __u32);
} exempt_cgroups SEC(".maps");

/* The same of a program. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct exempt_program);
	__type(value, __u32);
} exempt_programs SEC(".maps");

/* Absent: any task may enter. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct namespace_bits);
} armed_namespaces SEC(".maps");

/* Compiled rulesets by place. Places are used again, ids never: the header says whose place it is. Absent, or another
 * id: the container has been moved to a newer ruleset since; read it again. The same twice: deny. */
struct image {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	/* sizes, not types: 6.1 takes an inner map with type information for another kind than one without */
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct image_block));
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_CONTAINERS);
	__type(key, __u32);
	__array(values, struct image);
} rulesets SEC(".maps");

/* Automata of the rulesets that have patterns, by the same place; in the map before the image is. */
struct automata {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct automata_block));
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_CONTAINERS);
	__type(key, __u32);
	__array(values, struct automata);
} automata SEC(".maps");

/* Each ruleset by id, so that a new daemon knows what an earlier one has loaded. User space only. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CONTAINERS);
	__type(key, __u32);
	__type(value, struct published);
} published SEC(".maps");

/* Descriptors that are older than the rules that deny them: by address of the struct file. Absent: it was judged when it
 * was opened. An address that is used again is harmless: that file is judged once more. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct held_file);
} held_files SEC(".maps");

/* Question and answer of find_held and find_rings. Each daemon has its own. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held_search);
} held SEC(".maps");

#define RING_BYTES (4 << 20)

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Question and answer of mark_tasks. Each daemon has its own. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mark);
} mark SEC(".maps");

/* Work areas. A program keeps its CPU but may be preempted by another task's program on the same CPU, so an area
 * belongs to whoever has set `busy`; four deep, then the access counts as unresolved. */
#define SCRATCH_AREAS 4
/* where a walk is */
struct climb {
	__u64 dentry;
	__u64 mount; /* struct mount that contains dentry's vfsmount */
	__u64 mnt_root;
	__u64 leaf;
	__u32 n;
	__u32 reason;
	__u32 done;
	__u32 pad;
};

/* where the descent through a tree is, and the decisions there */
struct descent {
	__u32 n; /* slots that are still to come */
	__u32 node;
	__u32 exact, children, deep;
	__u32 best; /* decision of the deepest directory so far */
	__u32 fell; /* left the tree before the path's end */
	__u32 unreadable;
	__u32 begun; /* directories with automata that were met */
	__u32 decided; /* what is known before the automata are asked */
	__u32 matched; /* their answer so far */
	__u32 pad;
	struct {
		__u32 automata; /* their cell */
		__u32 n;	/* slots that are still to come */
	} begins[MAX_BEGUN];
};

/* where a run of an automaton is */
struct run {
	__u32 n; /* slots that are still to come */
	__u32 state;
};

struct scratch {
	__u32 busy;
	__u32 zero; /* never written: a start for counters that the verifier must not unroll a loop by */
	union {
		__u64 dentries[MAX_COMPONENTS]; /* leaf first, 0 = an empty slot; a ring: the last ones, nearest to the root, stay */
		char args[ARGS_BUFFER]; /* of a program that is executed, before paths are walked */
	};
	struct {
		union {
			__u64 words[(NAME_BYTES + 1) / 8];
			char bytes[NAME_BYTES + 1];
		};
		__u64 hash;
		__u64 address;
		__u32 len;
		__u32 pad;
	} name; /* the component that is being looked up */
	struct cell cell; /* of the image, where it cannot be read in place */
	struct climb climb;
	struct descent descent;
	struct run run;
	struct attempt attempt;
	struct event_facts facts;
	struct event event;
	char data[3 * PATH_BYTES]; /* path and source of the event; a third part keeps bounded copies inside */
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_AREAS);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* context of loops: everything else is in the work area */
struct in_scratch {
	struct scratch *s;
};

static __noinline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		__sync_fetch_and_add(n, 1); /* per CPU, yet preemption may interleave two programs */
}

static __noinline struct scratch *scratch_take(void)
{
	for (__u32 i = 0; i < SCRATCH_AREAS; i++) {
		__u32 key = i;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &key);

		if (s && __sync_val_compare_and_swap(&s->busy, 0, 1) == 0)
			return s;
	}
	return 0;
}

static __always_inline void scratch_give(struct scratch *s)
{
	__sync_lock_test_and_set(&s->busy, 0);
}

#endif
