/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A confined process must not act through one that is not confined as it is: ptrace, process_vm_writev, pidfd_getfd
 * and /proc/PID/mem all ask ptrace_access_check. Within one container all have the same rules.
 */

#define PTRACE_MODE_ATTACH 2u

static __always_inline int is_foreign(struct subject *s, struct task_struct *task)
{
	struct subject *other = subject_of(task);

	return !other || other->container != s->container || other->state < SUBJECT_ACTIVE;
}

/* Unresolved, of both classes: there is no saying what the other could do. `task` is for the event. */
static __always_inline int judge_control(struct subject *s, struct task_struct *task)
{
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	struct request r = {.class_ = CLASS_FILE, .op = OP_PTRACE, .reason = REASON_FOREIGN_TASK};

	r.dentry = (__u64)BPF_CORE_READ(exe, f_path.dentry);
	r.mnt = (__u64)BPF_CORE_READ(exe, f_path.mnt);
	if (judge(s, &r))
		return -EACCES;
	r.class_ = CLASS_PROCESS;
	return judge(s, &r) ? -EACCES : 0;
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(ptrace_access_check, struct task_struct *child, unsigned int mode, int ret)
{
	struct subject *s;

	if (ret)
		return ret;
	s = confined();
	if (!s)
		return 0;
	if (class_applies(s, CLASS_PRESET)) {
		ret = preset_ptrace(s, mode);
		if (ret)
			return ret;
	}
	return mode & PTRACE_MODE_ATTACH && is_foreign(s, child) ? judge_control(s, child) : 0;
}

/* The tracer is confined, and the current task asks to be traced by it. */
SEC("lsm/ptrace_traceme")
int BPF_PROG(ptrace_traceme, struct task_struct *parent, int ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct subject *s;

	if (ret)
		return ret;
	s = subject_of(parent);
	if (!s || s->state < SUBJECT_ACTIVE)
		return 0;
	return is_foreign(s, task) ? judge_control(s, task) : 0;
}
