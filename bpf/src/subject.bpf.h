/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who is a task?
 *
 * The identity sits in task-local storage, set by the task iterator (mark.bpf.c) when the container is armed, and
 * is copied to each child in task_alloc. The confined process can neither read nor write it, and no system call
 * moves it: whatever namespace, root or cgroup the process goes to, it stays who it is.
 *
 * An answer of "nobody" from the task's own storage is not enough: a thread older than the arming has none (its
 * group leader has), and below 6.2 the storage may answer NULL while another task was preempted inside it on the
 * same CPU (spotted with preempt=full), so there a second map by the task's address is asked.
 */
#ifndef SUBJECT_BPF_H
#define SUBJECT_BPF_H

/* set by the loader: the kernel is older than 6.2 */
const volatile __u32 use_pointer_map = 0;

#define BPF_LOCAL_STORAGE_CREATE 1 /* BPF_LOCAL_STORAGE_GET_F_CREATE */

static __always_inline struct subject *subject_of_own(struct task_struct *task)
{
	return bpf_task_storage_get(&task_subjects, task, 0, 0);
}

/* of a task whose own storage says nothing */
static __always_inline struct subject *subject_elsewhere(struct task_struct *task)
{
	struct subject *s;

	if (task->group_leader != task) {
		s = bpf_task_storage_get(&task_subjects, task->group_leader, 0, 0);
		if (s)
			return s;
	}
	if (use_pointer_map) {
		__u64 key = (__u64)task;

		s = bpf_map_lookup_elem(&pointer_subjects, &key);
		if (!s) {
			key = (__u64)task->group_leader;
			s = bpf_map_lookup_elem(&pointer_subjects, &key);
		}
		if (s)
			count(COUNTER_BY_POINTER);
		return s;
	}
	return 0;
}

static __always_inline struct subject *subject_of(struct task_struct *task)
{
	struct subject *s = subject_of_own(task);

	return s ? s : subject_elsewhere(task);
}

/* of the host, be it judged or not: a container may take it */
static __always_inline int is_hosts(struct subject *s)
{
	return s->state == SUBJECT_HOST || s->state == SUBJECT_EXEMPT;
}

static __always_inline int subject_point(struct task_struct *task, struct subject *s, struct subject *value)
{
	__u64 key = (__u64)task;

	return use_pointer_map ? bpf_map_update_elem(&pointer_subjects, &key, value, BPF_ANY) == 0 : s != 0;
}

/* The identity of `task`; where it has none, `value` from now on. Who makes one at the same time (the iterator marks a
 * task that executes) is answered NULL by the kernel (bpf_local_storage_update: -EEXIST, -EAGAIN), and finds the other's. */
static __always_inline struct subject *subject_made(struct task_struct *task, struct subject *value)
{
	struct subject *s = bpf_task_storage_get(&task_subjects, task, value, BPF_LOCAL_STORAGE_CREATE);

	return s ? s : bpf_task_storage_get(&task_subjects, task, 0, 0);
}

/* Gives `task`, which has none and which nobody else sees yet, the identity `value`. False: it could not be stored, and
 * the caller must refuse the operation. Below 6.2 the map by address is the one that must succeed; storage is best
 * effort there, for it may be busy. */
static __always_inline int subject_give(struct task_struct *task, struct subject *value)
{
	return subject_point(task, bpf_task_storage_get(&task_subjects, task, value, BPF_LOCAL_STORAGE_CREATE), value);
}

/* The same for a task that may have one already. */
static __always_inline int subject_set(struct task_struct *task, struct subject *value)
{
	struct subject *s = subject_made(task, value);

	if (s)
		*s = *value;
	return subject_point(task, s, value);
}

/* The same for a task that is somebody else from now on: in its storage too, which is asked first and would say who it
 * was. */
static __always_inline int subject_replace(struct task_struct *task, struct subject *value)
{
	struct subject *s = subject_made(task, value);

	if (!s)
		return 0;
	*s = *value;
	return subject_point(task, s, value);
}

/* plain loads, which any kernel allows from a task that is known to be one; 0 where it has no namespaces any more */
static __always_inline __u32 mount_namespace_of(struct task_struct *task)
{
	return task->nsproxy->mnt_ns->ns.inum;
}

/* Is there an armed container in the task's mount namespace, or in one whose bit is the same? */
static __always_inline int may_enter(struct task_struct *task)
{
	__u32 zero = 0, bit = mount_namespace_of(task) % NAMESPACE_BITS;
	struct namespace_bits *b = bpf_map_lookup_elem(&armed_namespaces, &zero);

	return !b || b->words[bit / 64] >> (bit % 64) & 1;
}

/* The acting executable's file, as a number: while it is open no other file has it. 0: there is none. From a task that is
 * known to be one the verifier looks each field up in all of the kernel's types, by name: not so after a cast. */
static __always_inline __u64 acting_exe(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (direct_loads)
		task = DIRECT(struct task_struct, task);
	return (__u64)task->mm->exe_file;
}

/* What is known of the acting executable as a source; no ruleset's where nothing is. */
static __always_inline __u64 source_known(struct subject *s)
{
	return s->exe == acting_exe() ? s->source : 0;
}

static __always_inline void source_learn(struct subject *s, __u64 source)
{
	s->exe = acting_exe();
	s->source = source;
}

/* 0 where the kernel has no such number */
static __always_inline __u64 namespace_seq_of(struct task_struct *task)
{
	struct mnt_namespace *ns = BPF_CORE_READ(task, nsproxy, mnt_ns);

	if (bpf_core_field_exists(struct mnt_namespace___seq, seq))
		return BPF_CORE_READ((struct mnt_namespace___seq *)ns, seq);
	if (bpf_core_field_exists(struct ns_common___id, ns_id))
		return BPF_CORE_READ((struct mnt_namespace___id *)ns, ns.ns_id);
	return 0;
}

/* The container that the current task has entered by cgroup: its own, or the nearest armed one above it, so that
 * a cgroup made inside the container does not shake the policy off. 0: none. */
static __always_inline __u64 container_by_cgroup(void)
{
	__u64 id = bpf_get_current_cgroup_id();
	__u64 *key = bpf_map_lookup_elem(&cgroup_containers, &id);

	if (key)
		return *key;
	for (int level = 1; level < MAX_CGROUP_LEVEL; level++) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id)
			break;
		key = bpf_map_lookup_elem(&cgroup_containers, &id);
		if (key)
			return *key;
	}
	return 0;
}

/* Where the container has no cgroup v2 of its own: by mount namespace, whose number may be used again once the
 * namespace is gone; its sequence number may not. */
static __always_inline __u64 container_by_namespace(struct task_struct *task)
{
	__u32 ns = mount_namespace_of(task);
	struct entry_ns *e = bpf_map_lookup_elem(&namespace_containers, &ns);

	if (!e)
		return 0;
	if (e->seq && e->seq != namespace_seq_of(task))
		return 0;
	return e->container;
}

/* The identity of a task that enters a container from outside; false: it does not. It has the container's mount
 * namespace by then, which is asked first: nearly all who are asked are the host's. */
static __always_inline int subject_entering(struct task_struct *task, struct subject *out)
{
	struct container *c;
	__u64 key;

	if (!may_enter(task))
		return 0;
	key = container_by_cgroup();
	if (!key)
		key = container_by_namespace(task);
	if (!key)
		return 0;
	c = bpf_map_lookup_elem(&containers, &key);
	if (!c)
		return 0;
	out->container = key;
	out->root_ino = c->root_ino;
	out->source = 0;
	out->exe = 0;
	out->root_dev = c->root_dev;
	out->mnt_ns = c->mnt_ns;
	out->state = SUBJECT_PENDING;
	out->slot = c->slot;
	return 1;
}

/* the cgroup at a level on the way from the root to `cgroup`, which is at that level or deeper */
static __always_inline struct cgroup *ancestor_of(struct cgroup *cgroup, int level)
{
	struct cgroup *above = 0;

	bpf_probe_read_kernel(&above, sizeof(above),
			      (void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors) + level * sizeof(above));
	return above;
}

/* The machine's root: the root of a user namespace has another number. */
static __always_inline int is_root(struct task_struct *task)
{
	return BPF_CORE_READ(task, real_cred, uid.val) == 0;
}

/* How far a task is exempt from the host's policies: by its cgroup, or one above it, and by its program, which exempts
 * root alone, since anyone may execute it. Verified once, on its own. */
__noinline __u32 exempt_of(struct exempt_question *q)
{
	__u32 exempt = HOST_EXEMPT_NOT, *found, level, i;
	struct exempt_program program = {};
	struct exempt_cgroup key = {};
	struct task_struct *task;
	struct cgroup *cgroup, *at;
	struct file *file;

	if (!q)
		return HOST_EXEMPT_NOT;
	task = (struct task_struct *)q->task;
	cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	level = BPF_CORE_READ(cgroup, level);
	at = ancestor_of(cgroup, 0);
	for (i = 1; i <= EXEMPT_LEVELS && i <= level; i++) {
		key.parent = BPF_CORE_READ(at, kn, id);
		at = ancestor_of(cgroup, i);
		__builtin_memset(key.name, 0, sizeof(key.name));
		bpf_probe_read_kernel_str(key.name, sizeof(key.name), BPF_CORE_READ(at, kn, name));
		found = bpf_map_lookup_elem(&exempt_cgroups, &key);
		if (found && *found > exempt)
			exempt = *found;
	}
	if (!q->file || !is_root(task))
		return exempt;
	file = (struct file *)q->file;
	program.inode = BPF_CORE_READ(file, f_inode, i_ino);
	program.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	found = bpf_map_lookup_elem(&exempt_programs, &program);
	return found && *found > exempt ? *found : exempt;
}

/* Not judged, whatever the policies: the first process, and what the kernel itself runs (it has no memory of its own
 * yet when it executes a helper such as modprobe). */
static __always_inline int is_kernels_or_init(struct task_struct *task)
{
	return task->tgid == 1 || !task->mm;
}

/* Has the workload begun? The runtime's init, and whoever it sends in by exec, works in the container's cgroup and
 * namespaces before it executes the container's program; OCI createContainer hooks are executed there too, while
 * the root directory is still the one that init had when it was armed early (createRuntime). Armed after
 * pivot_root, the pair is 0/0 and never equal. */
static __always_inline int subject_begins(struct task_struct *task, struct subject *s)
{
	struct inode *root;

	if (s->mnt_ns != mount_namespace_of(task))
		return 0;
	root = BPF_CORE_READ(task, fs, root.dentry, d_inode);
	return BPF_CORE_READ(root, i_ino) != s->root_ino || BPF_CORE_READ(root, i_sb, s_dev) != s->root_dev;
}

#endif
