/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Identity over a task's life, the exec barrier, and the judgement of executions.
 *
 * task_alloc		a child is who its parent is
 * bprm_check_security	the barrier: from the first exec inside the container on, the task is judged; then the
 *			judgement: the program, and for a script each interpreter
 * task_free		only below 6.2: the address no longer speaks of this task
 */

SEC("lsm/task_alloc")
int BPF_PROG(task_alloc, struct task_struct *task, unsigned long clone_flags, int ret)
{
	struct subject *s;

	if (ret)
		return ret;
	s = subject_of(bpf_get_current_task_btf());
	if (!s)
		return 0;
	if (!subject_give(task, s)) {
		count(COUNTER_INHERIT_FAILED);
		/* the fork fails, nothing runs unconfined; but what keeps the node alive is not to fail for want of room */
		return s->state == SUBJECT_EXEMPT ? 0 : -EPERM;
	}
	count(COUNTER_INHERITED);
	return 0;
}

static __always_inline int judge_program(struct subject *s, __u32 class_, __u32 op, struct linux_binprm *bprm)
{
	struct file *file = bprm->file;
	struct request r = {.class_ = class_, .op = op};
	struct armed *a = armed_of(s);
	struct climbed c = {};

	if (!a || !(a->classes >> class_ & 1))
		return 0;
	r.dentry = (__u64)file->f_path.dentry;
	r.mnt = (__u64)file->f_path.mnt;
	r.inode = (__u64)file->f_inode;
	if (op == OP_EXEC)
		r.bprm = (__u64)bprm;
	if (judge_quickly(s, a, &r, &c))
		return 0;
	return judge_exec(s, &r) ? -EACCES : 0;
}

enum barrier {
	BARRIER_NOBODY, /* nobody's, or the runtime's own: not judged */
	BARRIER_PAST,	/* begun long since */
	BARRIER_BEGINS, /* this is the workload's first exec */
	BARRIER_ENTERS, /* the first exec of a process that came from outside */
	BARRIER_FAILED,
};

/* A task that is of no container executes a program; `s` is what it was: NULL, or the host's. */
static __noinline enum barrier pass_host(struct task_struct *task, struct subject *s, __u64 file)
{
	__u32 zero = 0, exempt;
	struct host *h = bpf_map_lookup_elem(&host, &zero);
	struct exempt_question q = {.task = (__u64)task};
	struct subject now = {};

	if (!h || !h->container || (s && s->state == SUBJECT_EXEMPT))
		return BARRIER_NOBODY;
	if (s && s->container == h->container) {
		/* it stays wherever it goes, but as a runtime that starts a container */
		q.file = file;
		exempt = exempt_of(&q);
		now = *s;
		now.state = exempt == HOST_EXEMPT_CONTAINERS ? SUBJECT_EXEMPT : SUBJECT_HOST;
		if (!subject_set(task, &now)) {
			count(COUNTER_IDENTIFY_FAILED);
			return now.state == SUBJECT_EXEMPT ? BARRIER_NOBODY : BARRIER_FAILED;
		}
		return now.state == SUBJECT_EXEMPT ? BARRIER_NOBODY : BARRIER_PAST;
	}
	if (mount_namespace_of(task) != h->mnt_ns || is_kernels_or_init(task))
		return BARRIER_NOBODY;
	q.file = file;
	exempt = exempt_of(&q);
	if (exempt == HOST_EXEMPT_HERE)
		return BARRIER_NOBODY;
	now.container = h->container;
	now.mnt_ns = h->mnt_ns;
	now.slot = h->slot;
	now.state = exempt ? SUBJECT_EXEMPT : SUBJECT_HOST;
	if (!(s ? subject_replace(task, &now) : subject_set(task, &now))) {
		count(COUNTER_IDENTIFY_FAILED);
		return exempt ? BARRIER_NOBODY : BARRIER_FAILED;
	}
	if (exempt)
		return BARRIER_NOBODY;
	count(COUNTER_ACTIVATED);
	return BARRIER_BEGINS;
}

static __noinline enum barrier pass_barrier(struct task_struct *task, struct subject *own, __u64 file)
{
	struct subject *was = own ? own : subject_elsewhere(task), *s = was, now;
	enum barrier passed = BARRIER_PAST;

	if (s && !is_hosts(s)) {
		now = *s;
	} else if (subject_entering(task, &now)) {
		s = 0;
	} else {
		return pass_host(task, was, file);
	}
	if (now.state != SUBJECT_ACTIVE) {
		struct entry_ns *e;

		/* the runtime executes its own init: it stays, or is found again, as it is; one that is the host's is the
		 * host's still, whatever cgroup it has gone to */
		if (!subject_begins(task, &now))
			return s || !was ? BARRIER_NOBODY : pass_host(task, was, file);
		now.state = SUBJECT_ACTIVE;
		now.source = SOURCE_RUNTIME;
		now.exe = acting_exe();
		passed = s ? BARRIER_BEGINS : BARRIER_ENTERS;
		count(COUNTER_ACTIVATED);
		e = bpf_map_lookup_elem(&namespace_containers, &now.mnt_ns);
		if (e && !e->seq && e->container == now.container)
			e->seq = namespace_seq_of(task);
	}
	/* also when nothing changed: the task that survives an exec may be a thread whose identity is its leader's */
	if (was && !s ? subject_replace(task, &now) : subject_set(task, &now))
		return passed;
	count(COUNTER_IDENTIFY_FAILED);
	return BARRIER_FAILED;
}

/* The judgement of what came before the barrier: that the program is sent in from outside, and its opening. */
static __always_inline int judge_before(struct subject *s, enum barrier passed, struct linux_binprm *bprm)
{
	int ret = 0;

	if (passed == BARRIER_ENTERS)
		ret = preset_judge(s, PRESET_EXEC, OP_ENTER, (__u64)bprm->file, 0);
	return ret ? ret : judge_program(s, CLASS_FILE, OP_OPEN_READ, bprm);
}

/* Asked before the program's ELF interpreter is opened, and once more for each interpreter of a script. */
SEC("lsm/bprm_check_security")
int BPF_PROG(bprm_check_security, struct linux_binprm *bprm, int ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct subject *s;
	enum barrier passed;

	if (ret)
		return ret;
	s = subject_of_own(task);
	/* its own, and past the barrier, in nearly every exec of a container */
	if (use_pointer_map || !s || s->state != SUBJECT_ACTIVE) {
		passed = pass_barrier(task, s, (__u64)bprm->file);
		if (passed == BARRIER_NOBODY)
			return 0;
		s = passed == BARRIER_FAILED ? 0 : subject_of(task);
		if (!s)
			return -EPERM;
		if (passed != BARRIER_PAST) {
			ret = judge_before(s, passed, bprm);
			if (ret)
				return ret;
		}
	}
	/* what was known of an executable that is gone by now may stand under the address of another one to come */
	if (s->exe != acting_exe())
		s->source = 0;
	ret = class_applies(s, CLASS_PRESET) ? preset_exec(s, bprm->file) : 0;
	return ret ? ret : judge_program(s, CLASS_PROCESS, OP_EXEC, bprm);
}

SEC("lsm/task_free")
int BPF_PROG(task_free, struct task_struct *task)
{
	__u64 key = (__u64)task;

	bpf_map_delete_elem(&pointer_subjects, &key);
	return 0;
}
