/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Events: who did what to which path, and which rule answered. Losing one never changes a verdict; it is counted. */
#ifndef EMIT_BPF_H
#define EMIT_BPF_H

struct text {
	struct scratch *scratch;
	__u32 n;
	__u32 base; /* where this text begins in scratch->data */
	__u32 len;
	__u32 truncated;
};

static long text_step(__u32 i, struct text *t)
{
	struct scratch *s = t->scratch;
	struct dentry *d;
	__u32 len, at;

	if (i >= t->n)
		return 1;
	d = (struct dentry *)s->dentries[(t->n - 1 - i) & (MAX_COMPONENTS - 1)];
	if (!d) /* a mount was crossed */
		return 0;
	len = BPF_CORE_READ(d, d_name.len);
	if (len > NAME_BYTES || t->len + 1 + len > PATH_BYTES) {
		t->truncated = 1;
		return 1;
	}
	at = (t->base + t->len) & (2 * PATH_BYTES - 1);
	s->data[at] = '/';
	bpf_probe_read_kernel(&s->data[at + 1], len & NAME_BYTES, BPF_CORE_READ(d, d_name.name));
	t->len += 1 + len;
	return 0;
}

#define TEXT_TRUNCATED 0x80000000u

/* Writes the path in scratch->dentries into scratch->data from `base` on; its length, with TEXT_TRUNCATED. */
__noinline __u32 text_write(struct scratch *s, __u32 n, __u32 base)
{
	struct text t = {.scratch = s, .n = n, .base = base};

	if (!s)
		return 0;
	t.len = s->zero;
	bpf_loop(MAX_COMPONENTS, text_step, &t, 0);
	if (!t.len && !t.truncated) {
		s->data[base & (2 * PATH_BYTES - 1)] = '/';
		return 1;
	}
	return t.truncated ? t.len | TEXT_TRUNCATED : t.len;
}

static __always_inline __u32 pid_in_namespace(struct task_struct *leader)
{
	struct pid *p = BPF_CORE_READ(leader, thread_pid);
	__u32 level = BPF_CORE_READ(p, level);
	__u32 nr = 0;

	bpf_probe_read_kernel(&nr, sizeof(nr),
			      (void *)p + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid) + bpf_core_field_offset(struct upid, nr));
	return nr;
}

/* No rule has to do with it, and it passes: nobody is alerted. */
static __always_inline int is_observation(__u32 decision)
{
	return (decision & DECISION_RULE) == RULE_OBSERVED && (decision >> DECISION_EFFECT_SHIFT & 3) != EFFECT_BLOCK;
}

/* Observations leave half of the ring to what is alerted. The walk of the object is in scratch; afterwards that of the executable is. */
__noinline __u32 emit(struct scratch *s, struct event_facts *f)
{
	struct task_struct *task, *parent;
	struct event *e;
	struct file *exe;
	struct walk w = {};
	__u32 size, len;

	if (!s || !f)
		return 0;
	if (is_observation(f->decision) && bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > RING_BYTES / 2) {
		count(COUNTER_OBSERVATION_DROPPED);
		return 0;
	}
	task = (struct task_struct *)f->task;
	parent = BPF_CORE_READ(task, real_parent);
	e = &s->event;
	e->version = EVENT_VERSION;
	e->flags = f->flags;
	e->time_ns = bpf_ktime_get_boot_ns();
	e->container = f->container;
	e->ruleset = f->ruleset;
	e->class_ = f->class_;
	e->op = f->op;
	e->decision = f->decision;
	e->reason = f->reason;
	e->host_pid = BPF_CORE_READ(task, tgid);
	e->host_tid = BPF_CORE_READ(task, pid);
	e->host_ppid = BPF_CORE_READ(parent, tgid);
	e->pid = pid_in_namespace(BPF_CORE_READ(task, group_leader));
	e->ppid = pid_in_namespace(BPF_CORE_READ(parent, group_leader));
	e->uid = BPF_CORE_READ(task, cred, uid.val);
	BPF_CORE_READ_INTO(&e->comm, task, comm);
	BPF_CORE_READ_INTO(&e->parent_comm, parent, comm);

	e->path_len = 0;
	e->source_len = 0;
	e->text_len = 0;
	e->pad = 0;
	if (!f->has_detail)
		__builtin_memset(&e->detail, 0, sizeof(e->detail));
	if (f->has_path) {
		len = text_write(s, f->n, 0);
		if (len & TEXT_TRUNCATED)
			e->flags |= EVENT_PATH_TRUNCATED;
		e->path_len = len & (2 * PATH_BYTES - 1);
	}
	exe = BPF_CORE_READ(task, mm, exe_file);
	if (exe) {
		w.dentry = (__u64)BPF_CORE_READ(exe, f_path.dentry);
		w.mnt = (__u64)BPF_CORE_READ(exe, f_path.mnt);
		if (!walk_up(&w, s) || w.n) {
			len = text_write(s, w.n, e->path_len);
			if (len & TEXT_TRUNCATED)
				e->flags |= EVENT_SOURCE_TRUNCATED;
			e->source_len = len & (2 * PATH_BYTES - 1);
		}
	}
	size = sizeof(*e) + e->path_len + e->source_len;
	if (size > EVENT_BYTES)
		size = EVENT_BYTES;
	if (bpf_ringbuf_output(&events, e, size, 0))
		count(COUNTER_EVENT_DROPPED);
	return 0;
}

#endif
