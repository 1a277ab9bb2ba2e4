/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Finding a container's first process, and giving tasks their identity from outside. The numbers come from the very
 * structures that the hooks read, so they are right whatever user space sees of /proc and of the cgroup file system.
 */

static __always_inline struct upid *upid_at(struct pid *pid, __u32 level)
{
	return (void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
}

/* the task's thread group is number `nr` in the pid namespace of whoever reads the iterator */
static __always_inline int is_process(struct task_struct *task, __u32 nr)
{
	struct pid *mine = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), thread_pid);
	struct pid *theirs = BPF_CORE_READ(task, group_leader, thread_pid);
	__u32 level = BPF_CORE_READ(mine, level);

	if (!theirs || BPF_CORE_READ(theirs, level) < level)
		return 0;
	return BPF_CORE_READ(upid_at(theirs, level), nr) == nr &&
	       BPF_CORE_READ(upid_at(theirs, level), ns) == BPF_CORE_READ(upid_at(mine, level), ns);
}

static __always_inline int is_in_container(struct task_struct *task, struct mark *m)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	int level = m->cgroup_level;

	if (mount_namespace_of(task) == m->mnt_ns && (!m->mnt_ns_seq || m->mnt_ns_seq == namespace_seq_of(task)))
		return 1;
	if (!m->cgroup_id || BPF_CORE_READ(cgroup, level) < level)
		return 0;
	cgroup = ancestor_of(cgroup, level);
	return BPF_CORE_READ(cgroup, kn, id) == m->cgroup_id;
}

static __always_inline void report(struct task_struct *task, struct mark *m)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	__u32 level = BPF_CORE_READ(cgroup, level);

	if (m->climb && m->climb < level) {
		level -= m->climb;
		cgroup = ancestor_of(cgroup, level);
	}
	m->cgroup_id = BPF_CORE_READ(cgroup, kn, id);
	m->cgroup_level = level;
	m->parent_cgroup_id = BPF_CORE_READ(task, real_parent, cgroups, dfl_cgrp, kn, id);
	m->mnt_ns = mount_namespace_of(task);
	m->mnt_ns_seq = namespace_seq_of(task);
	m->root_ino = BPF_CORE_READ(task, fs, root.dentry, d_inode, i_ino);
	m->root_dev = BPF_CORE_READ(task, fs, root.dentry, d_inode, i_sb, s_dev);
}

static __always_inline int mark_one(struct task_struct *task, struct mark *m, struct subject *value)
{
	if (subject_set(task, value)) {
		m->marked++;
	} else {
		m->failed++;
		count(COUNTER_IDENTIFY_FAILED);
	}
	return 0;
}

/* Programs are found by the text of a path, and a process of another mount namespace has a root of its own that it may
 * have filled itself: such a one is nobody to exempt, nor one that a container has, nor one that is judged already, nor
 * one that is not the machine's root. */
static __always_inline int may_be_exempt(struct task_struct *task, struct mark *m)
{
	struct subject *now = subject_of(task);

	if (now && !is_hosts(now))
		return 0;
	if (!m->mnt_ns)
		return 1; /* the daemon, which says this of itself, wherever it runs */
	if (now && now->state == SUBJECT_HOST && now->container == m->subject.container)
		return 0;
	return mount_namespace_of(task) == m->mnt_ns && is_root(task);
}

/* how far up a process is looked for that is exempt with its descendants */
#define EXEMPT_ANCESTORS 16

/* A process of the host that is older than the host's policies. What it was started by is told by who its parents are. */
static __always_inline int mark_host(struct task_struct *task, struct mark *m)
{
	struct exempt_question q = {.task = (__u64)task};
	struct task_struct *of = task;
	__u32 exempt, i;
	struct subject value, *now = subject_of(task);

	if (mount_namespace_of(task) != m->mnt_ns || is_kernels_or_init(task))
		return 0;
	m->found++;
	if (now && (now->state != SUBJECT_HOST || now->container == m->subject.container))
		return 0; /* a container's, or exempt for good */
	value = m->subject;
	q.file = (__u64)BPF_CORE_READ(task, mm, exe_file);
	exempt = exempt_of(&q);
	for (i = 0; i < EXEMPT_ANCESTORS && !exempt; i++) {
		of = BPF_CORE_READ(of, real_parent);
		if (!of || BPF_CORE_READ(of, tgid) <= 1)
			break;
		q.task = (__u64)of;
		q.file = (__u64)BPF_CORE_READ(of, mm, exe_file);
		exempt = exempt_of(&q);
		if (exempt < HOST_EXEMPT_BELOW)
			exempt = 0;
	}
	if (exempt == HOST_EXEMPT_HERE)
		return 0;
	if (exempt)
		value.state = SUBJECT_EXEMPT;
	return mark_one(task, m, &value);
}

/* A dead one that nobody has reaped yet executes nothing. */
static __always_inline int mark_lives(struct task_struct *task, struct mark *m)
{
	struct subject *now;

	if (BPF_CORE_READ(task, exit_state) || (m->pid && !is_process(task, m->pid)))
		return 0;
	now = subject_of(task);
	if (now && now->container == m->subject.container)
		m->found++;
	return 0;
}

SEC("iter/task")
int mark_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct subject value, *now;
	__u32 zero = 0;
	struct mark *m = bpf_map_lookup_elem(&mark, &zero);

	if (!task || !m)
		return 0;
	if (m->mode == MARK_HOST)
		return mark_host(task, m);
	if (m->mode == MARK_LIVES)
		return mark_lives(task, m);
	if (m->mode == MARK_CONTAINER ? !is_in_container(task, m) : !is_process(task, m->pid))
		return 0;
	m->found++;
	if (m->mode == MARK_FIND) {
		if (task->pid == task->tgid)
			report(task, m);
		return 0;
	}
	if (m->subject.state == SUBJECT_EXEMPT && !may_be_exempt(task, m))
		return 0;
	/* What has this identity keeps what is known of its program; one that was thought to be at its start begins now, and
	 * who is to be exempt is, whatever it was. */
	now = bpf_task_storage_get(&task_subjects, task, 0, 0);
	if (now && now->container == m->subject.container && m->subject.state != SUBJECT_EXEMPT &&
	    (now->state != SUBJECT_PENDING || m->subject.state == SUBJECT_PENDING))
		return 0;
	value = m->subject;
	return mark_one(task, m, &value);
}
