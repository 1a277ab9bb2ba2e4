/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From an access to a verdict: the question that every hook asks.
 *
 * What cannot be finished (no rules, no work area, a path that has no name in the container, renames without end)
 * is answered by the class's own `unresolved` effect: a denial where the class has Block rules or a whitelist with
 * block posture. Never a silent allow.
 */
#ifndef JUDGE_BPF_H
#define JUDGE_BPF_H

#define EACCES 13
#define ATTEMPTS 16

/* The object of an access. dentry and mnt are kernel addresses, read with bpf_probe_read_kernel only. */
struct request {
	__u64 dentry;
	__u64 mnt;
	__u64 inode; /* 0: does not exist yet; its owner will be the creator */
	__u32 class_;
	__u32 op;
	__u32 write; /* COND_WRITE or 0 */
};

struct attempt {
	void *image;
	struct scratch *scratch;
	struct subject *subject;
	struct request *request;
	struct walk walk;
	__u32 ruleset;
	__u32 class_cell;
	__u32 our_ns;
	__u32 condition;
	__u32 pathless; /* memfd and the like: no rule on paths applies */
	__u32 decision;
	__u32 reason;
	__u32 done;
};

/* The acting executable as a source cell, from the subject's cache or by a walk of its own. */
static __always_inline __u32 source_of(struct attempt *a, struct header_cell *h, __u32 *raced)
{
	struct subject *s = a->subject;
	__u64 cached = s->source;
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *exe;
	struct vfsmount *mnt;
	struct matching m;
	struct sequence q;
	__u32 source = 0;

	if (!h->source_node)
		return 0;
	if (cached >> 32 == a->ruleset)
		return (__u32)cached;
	q = sequence_read();
	exe = BPF_CORE_READ(task, mm, exe_file);
	if (exe) {
		mnt = BPF_CORE_READ(exe, f_path.mnt);
		/* an executable outside the container (the runtime's) is nobody's source */
		if (mount_place(mnt, a->our_ns) == MOUNT_OURS &&
		    !walk_up(&a->walk, a->scratch, (__u64)BPF_CORE_READ(exe, f_path.dentry), (__u64)mnt)) {
			match_init(&m, a->image, h, &a->walk, 0);
			source = match_source(&m, h->source_node);
		}
	}
	if (sequence_odd(q) || sequence_moved(q)) {
		*raced = 1;
		return 0;
	}
	s->source = (__u64)a->ruleset << 32 | source;
	return source;
}

static long attempt_step(__u32 i, struct attempt *a)
{
	struct request *r = a->request;
	struct sequence q = sequence_read();
	struct cell *h = cell_at(a->image, 0);
	struct cell *k = cell_at(a->image, a->class_cell);
	__u32 source, raced = 0;
	struct matching m;

	if (i)
		count(COUNTER_RETRIED);
	if (sequence_odd(q))
		return 0;
	if (!h || !k) {
		a->reason = REASON_NO_RULES;
		a->done = 1;
		return 1;
	}
	source = source_of(a, &h->header, &raced);
	if (raced)
		return 0;
	a->reason = walk_up(&a->walk, a->scratch, r->dentry, r->mnt);
	if (a->pathless) {
		a->walk.n = 0;
		a->reason = 0;
		a->decision = k->class_.otherwise;
	} else if (!a->reason) {
		match_init(&m, a->image, &h->header, &a->walk, a->condition);
		a->decision = match_class(&m, &k->class_, r->class_, source);
		if (m.unreadable)
			a->reason = REASON_UNREADABLE;
	}
	if (sequence_moved(q)) {
		a->reason = REASON_RACED;
		return 0;
	}
	a->done = 1;
	return 1;
}

static __always_inline __u32 owner_condition(struct task_struct *task, __u64 inode)
{
	if (!inode)
		return COND_OWNER;
	return BPF_CORE_READ(task, cred, fsuid.val) == BPF_CORE_READ((struct inode *)inode, i_uid.val) ? COND_OWNER : 0;
}

/* Verdict for the current task, which is `s` and active: 0 or -EACCES. */
static __noinline int judge(struct subject *s, struct request *r)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct attempt a = {};
	struct event_facts f = {};
	struct container *c;
	struct cell *cell;
	__u64 key;
	__u32 effect, unresolved = EFFECT_BLOCK;
	enum mount_place place;

	if (!s || !r)
		return -EACCES;
	key = s->container;
	c = bpf_map_lookup_elem(&containers, &key);
	if (!c || !c->ruleset)
		return 0;
	a.ruleset = c->ruleset;
	a.image = bpf_map_lookup_elem(&rulesets, &a.ruleset);
	if (!a.image) { /* replaced since the id was read */
		c = bpf_map_lookup_elem(&containers, &key);
		if (!c || !c->ruleset)
			return 0;
		a.ruleset = c->ruleset;
		a.image = bpf_map_lookup_elem(&rulesets, &a.ruleset);
	}
	a.subject = s;
	a.request = r;
	a.our_ns = c->mnt_ns;
	if (!a.image) {
		a.reason = REASON_NO_RULES;
		goto judged;
	}
	cell = cell_at(a.image, 0);
	if (!cell || cell->header.version != IMAGE_VERSION) {
		a.reason = REASON_NO_RULES;
		goto judged;
	}
	a.class_cell = cell->header.classes[r->class_ & (CLASS_COUNT - 1)];
	if (!a.class_cell)
		return 0;
	cell = cell_at(a.image, a.class_cell);
	if (!cell) {
		a.reason = REASON_NO_RULES;
		goto judged;
	}
	unresolved = cell->class_.unresolved;

	place = mount_place((struct vfsmount *)r->mnt, a.our_ns);
	if (place == MOUNT_KERNEL) {
		if (r->class_ == CLASS_FILE)
			return 0;
		a.pathless = 1;
	}
	a.scratch = scratch_take();
	if (!a.scratch) {
		a.reason = REASON_NO_SCRATCH;
		goto judged;
	}
	if (place == MOUNT_FOREIGN || place == MOUNT_LAYER) {
		walk_up(&a.walk, a.scratch, r->dentry, r->mnt); /* for the event's sake */
		a.reason = REASON_FOREIGN_MOUNT;
		goto judged;
	}
	a.condition = r->write | owner_condition(task, r->inode);
	bpf_loop(ATTEMPTS, attempt_step, &a, 0);
	if (!a.done)
		a.reason = REASON_RACED;

judged:
	if (a.reason) {
		count(COUNTER_RACED + a.reason - REASON_RACED);
		a.decision = unresolved << DECISION_EFFECT_SHIFT | RULE_NONE;
	}
	effect = decision_effect(a.decision);
	count(effect == EFFECT_BLOCK ? COUNTER_BLOCKED : effect == EFFECT_AUDIT ? COUNTER_AUDITED : COUNTER_ALLOWED);
	if (effect >= EFFECT_AUDIT) {
		if (!a.scratch)
			a.scratch = scratch_take();
		if (a.scratch) {
			f.container = key;
			f.ruleset = a.ruleset;
			f.class_ = r->class_;
			f.op = r->op;
			f.decision = a.decision;
			f.reason = a.reason;
			f.has_path = a.walk.dentry != 0;
			emit(a.scratch, &a.walk, &f);
		} else {
			count(COUNTER_EVENT_DROPPED);
		}
	}
	if (a.scratch)
		scratch_give(a.scratch);
	return effect == EFFECT_BLOCK ? -EACCES : 0;
}

/* The current task, if it is confined and its workload has begun. */
static __always_inline struct subject *confined(void)
{
	struct subject *s = subject_of(bpf_get_current_task_btf());

	return s && s->state == SUBJECT_ACTIVE ? s : 0;
}

#endif
