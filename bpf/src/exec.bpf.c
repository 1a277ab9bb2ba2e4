/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Identity over a task's life, the exec barrier, and the judgement of executions.
 *
 * task_alloc		a child is who its parent is
 * bprm_creds_for_exec	the barrier: from the first exec inside the container on, the task is judged
 * bprm_check_security	the judgement: the program, and for a script each interpreter
 * bprm_committed_creds	the acting executable has changed
 * task_free		only below 6.2: the address no longer speaks of this task
 */

SEC("lsm/task_alloc")
int BPF_PROG(task_alloc, struct task_struct *task, unsigned long clone_flags, int ret)
{
	struct subject *s, copy;

	if (ret)
		return ret;
	s = subject_of(bpf_get_current_task_btf());
	if (!s)
		return 0;
	copy = *s;
	if (!subject_set(task, &copy)) {
		count(COUNTER_INHERIT_FAILED);
		return -EPERM; /* the fork fails, nothing runs unconfined */
	}
	count(COUNTER_INHERITED);
	return 0;
}

static __always_inline int judge_program(struct subject *s, __u32 class_, __u32 op, struct linux_binprm *bprm)
{
	struct file *file = bprm->file;
	struct request r = {.class_ = class_, .op = op};

	r.dentry = (__u64)file->f_path.dentry;
	r.mnt = (__u64)file->f_path.mnt;
	r.inode = (__u64)file->f_inode;
	if (op == OP_EXEC)
		r.bprm = (__u64)bprm;
	return judge(s, &r) ? -EACCES : 0;
}

enum barrier {
	BARRIER_NONE,	/* nobody's, the runtime's own, or past the barrier long since */
	BARRIER_BEGINS, /* this is the workload's first exec */
	BARRIER_ENTERS, /* the first exec of a process that came from outside */
	BARRIER_FAILED,
};

static __noinline enum barrier pass_barrier(struct task_struct *task)
{
	struct subject *s, now;
	enum barrier passed = BARRIER_NONE;

	if (!use_pointer_map) {
		s = bpf_task_storage_get(&task_subjects, task, 0, 0);
		if (s && s->state == SUBJECT_ACTIVE)
			return BARRIER_NONE; /* its own, past the barrier: as in nearly every exec */
	}
	s = subject_of(task);
	if (s)
		now = *s;
	else if (!subject_entering(task, &now))
		return BARRIER_NONE;
	if (now.state != SUBJECT_ACTIVE) {
		struct entry_ns *e;

		if (!subject_begins(task, &now))
			return BARRIER_NONE; /* the runtime executes its own init: it stays, or is found again, as it is */
		now.state = SUBJECT_ACTIVE;
		now.source = SOURCE_RUNTIME;
		passed = s ? BARRIER_BEGINS : BARRIER_ENTERS;
		count(COUNTER_ACTIVATED);
		e = bpf_map_lookup_elem(&namespace_containers, &now.mnt_ns);
		if (e && !e->seq && e->container == now.container)
			e->seq = namespace_seq_of(task);
	}
	/* also when nothing changed: the task that survives an exec may be a thread whose identity is its leader's */
	if (subject_set(task, &now))
		return passed;
	count(COUNTER_IDENTIFY_FAILED);
	return BARRIER_FAILED;
}

SEC("lsm/bprm_creds_for_exec")
int BPF_PROG(bprm_creds_for_exec, struct linux_binprm *bprm, int ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	enum barrier passed;
	struct subject *s;

	if (ret)
		return ret;
	passed = pass_barrier(task);
	if (passed == BARRIER_NONE)
		return 0;
	if (passed == BARRIER_FAILED)
		return -EPERM;
	s = subject_of(task);
	if (!s)
		return -EPERM;
	if (passed == BARRIER_ENTERS) {
		ret = preset_judge(s, PRESET_EXEC, OP_ENTER, (__u64)bprm->file, 0);
		if (ret)
			return ret;
	}
	/* the program was opened before the barrier; judge that now */
	return judge_program(s, CLASS_FILE, OP_OPEN_READ, bprm);
}

SEC("lsm/bprm_check_security")
int BPF_PROG(bprm_check_security, struct linux_binprm *bprm, int ret)
{
	struct subject *s;

	if (ret)
		return ret;
	s = confined();
	if (!s)
		return 0;
	ret = class_applies(s, CLASS_PRESET) ? preset_exec(s, bprm->file) : 0;
	return ret ? ret : judge_program(s, CLASS_PROCESS, OP_EXEC, bprm);
}

/* Both copies: an answer may come from either. */
SEC("lsm/bprm_committed_creds")
int BPF_PROG(bprm_committed_creds, struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct subject *s = bpf_task_storage_get(&task_subjects, task, 0, 0);

	if (s)
		s->source = 0;
	if (use_pointer_map) {
		__u64 key = (__u64)task;

		s = bpf_map_lookup_elem(&pointer_subjects, &key);
		if (s)
			s->source = 0;
	}
	return 0;
}

SEC("lsm/task_free")
int BPF_PROG(task_free, struct task_struct *task)
{
	__u64 key = (__u64)task;

	bpf_map_delete_elem(&pointer_subjects, &key);
	return 0;
}
