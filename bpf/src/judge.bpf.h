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

#define ATTEMPTS 16

/* The acting executable as a source cell. What has no path (a memfd, a kernel thread) is nobody's source; where the
 * path cannot be told, query.reason says why, and no rule about sources may be taken for one that does not apply. */
static __always_inline __u32 source_find(struct attempt *a, struct scratch *s)
{
	struct task_struct *task = (struct task_struct *)a->task;
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	struct vfsmount *mnt;

	a->query.reason = 0;
	if (!exe)
		return 0;
	mnt = BPF_CORE_READ(exe, f_path.mnt);
	switch (mount_place(mnt, a->our_ns, a->task_ns)) {
	case MOUNT_KERNEL:
		return 0;
	case MOUNT_OURS:
		break;
	default:
		a->query.reason = REASON_FOREIGN_MOUNT;
		return 0;
	}
	a->walk.dentry = (__u64)BPF_CORE_READ(exe, f_path.dentry);
	a->walk.mnt = (__u64)mnt;
	a->query.reason = walk_up(&a->walk, s);
	if (a->query.reason)
		return 0;
	a->query.n = a->walk.n;
	a->query.leaf = a->walk.leaf;
	return match_source(&a->query, s);
}

static __always_inline __u32 terminal_condition(struct task_struct *task)
{
	return BPF_CORE_READ(task, signal, tty) ? COND_TTY : 0;
}

static __always_inline __u32 owner_condition(struct task_struct *task, __u64 inode)
{
	if (!inode)
		return COND_OWNER;
	return BPF_CORE_READ(task, cred, fsuid.val) == BPF_CORE_READ((struct inode *)inode, i_uid.val) ? COND_OWNER : 0;
}

/* Finds the class's cell in the container's image, for `a`, whose query.class_ is set. 1: found; 0: the rules are not
 * there; -1: nothing applies to the container. */
static __noinline int class_read(struct attempt *a, __u32 slot, __u64 container)
{
	struct armed *armed_ = bpf_map_lookup_elem(&armed, &slot);
	struct query *q = &a->query;
	struct cell *h, *c;
	__u32 zero = 0, class_ = q->class_ & CLASS_MASK;
	struct task_struct *task;
	void *image;

	if (!armed_ || armed_->container != container || !armed_->ruleset)
		return -1;
	a->our_ns = a->task_ns = armed_->mnt_ns;
	if (armed_->hints & HINT_HOST) {
		task = (struct task_struct *)a->task;
		a->task_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	}
	q->ruleset = armed_->ruleset;
	q->place = armed_->place;
	image = bpf_map_lookup_elem(&rulesets, &armed_->place);
	if (!image)
		return 0;
	h = cell_at(image, zero);
	if (!h || h->header.version != IMAGE_VERSION || h->header.ruleset != q->ruleset)
		return 0;
	q->class_cell = h->header.classes[class_];
	if (!q->class_cell)
		return -1;
	c = cell_at(image, q->class_cell);
	if (!c)
		return 0;
	q->image = (__u64)h;
	q->seed = h->header.seed;
	q->table = q->image + (__u64)h->header.table * CELL_BYTES;
	q->mask = h->header.mask;
	q->source_node = h->header.source_node;
	a->otherwise = c->class_.otherwise;
	a->unresolved = c->class_.unresolved;
	a->conditions = c->class_.conditions;
	a->has_source = c->class_.has_source;
	return 1;
}

/* a denial for lack of rules */
#define DECISION_NO_RULES (EFFECT_BLOCK << DECISION_EFFECT_SHIFT | RULE_NONE)

#define DECISION_NOTHING (EFFECT_ALLOW << DECISION_EFFECT_SHIFT | RULE_NONE) /* no such rules */

static __always_inline int nothing_applies(struct attempt *a)
{
	a->decision = DECISION_NOTHING;
	a->reason = 0;
	return 1;
}

/* 1: answered, a->decision and a->reason are set; 0: renames, mounts or a new policy came between, try again: they are
 * what holds should no attempt be answered. `exec`: it may be about a program that is executed, whose arguments can be
 * read; a constant, since what reads them is most of the verifier's work. */
static __always_inline int attempt_as(int exec, struct subject *subject, struct scratch *s, struct request *r)
{
	struct attempt *a = &s->attempt;
	struct task_struct *task = (struct task_struct *)a->task;
	struct sequence q = {};
	__u32 no_source = 0, decision = 0;
	enum mount_place place;
	int known;

	known = class_read(a, subject->slot, subject->container);
	if (known < 0)
		return nothing_applies(a);
	if (!known)
		return 0;
	a->decision = a->unresolved;
	a->walk.dentry = r->dentry;
	a->walk.mnt = r->mnt;
	place = mount_place((struct vfsmount *)r->mnt, a->our_ns, a->task_ns);
	if (place == MOUNT_KERNEL && r->class_ == CLASS_FILE && !r->reason)
		return nothing_applies(a);
	if (r->reason || place == MOUNT_FOREIGN || place == MOUNT_LAYER) {
		walk_up(&a->walk, s); /* for the event's sake */
		a->reason = r->reason ? r->reason : REASON_FOREIGN_MOUNT;
		return 1;
	}
	a->query.condition = r->condition;
	if (a->conditions & COND_OWNER)
		a->query.condition |= owner_condition(task, r->inode);
	if (a->conditions & COND_TTY)
		a->query.condition |= terminal_condition(task);
	a->cached = a->current_ ? source_known(subject) : 0;
	a->reason = REASON_RACED;
	if (!sequence_begin(&q))
		return 0;
	a->query.source = 0;
	if (a->has_source && a->cached != SOURCE_RUNTIME) {
		if (a->cached >> 32 == a->query.ruleset) {
			a->query.source = (__u32)a->cached;
		} else {
			a->query.source = source_find(a, s);
			no_source = a->query.reason;
			if (sequence_moved(q))
				return 0;
			if (!no_source)
				a->cached = (__u64)a->query.ruleset << 32 | a->query.source;
			a->walk.dentry = r->dentry;
			a->walk.mnt = r->mnt;
		}
	}
	a->query.unseen = 0;
	if (a->conditions & COND_ARGS) {
		if (exec) {
			args_find(&a->query, s, r->op == OP_EXEC ? r->bprm : 0);
			args_list(&a->query, s);
			applet_list(&a->query, s);
		} else {
			args_unknown(&a->query);
		}
	}
	a->query.reason = walk_up(&a->walk, s);
	if (no_source) {
		a->query.reason = no_source;
	} else if (place == MOUNT_KERNEL) { /* memfd and the like: no rule on paths applies */
		a->walk.n = a->walk.n ? 1 : 0; /* its own name, for the event */
		a->query.reason = 0;
		decision = a->otherwise;
	} else if (!a->query.reason) {
		a->query.n = a->walk.n;
		a->query.leaf = a->walk.leaf;
		decision = match_class(&a->query, s);
		if (a->query.reason == REASON_NO_RULES)
			return 0;
	}
	if (sequence_moved(q))
		return 0;
	a->reason = a->query.reason;
	if (!a->reason)
		a->decision = decision;
	if (a->current_ && a->has_source)
		source_learn(subject, a->cached);
	return 1;
}

/* Verified once, on their own: only what tries again is gone through for each attempt. */
__noinline int attempt(struct subject *subject, struct scratch *s, struct request *r)
{
	return subject && s && r ? attempt_as(0, subject, s, r) : 0;
}

__noinline int attempt_exec(struct subject *subject, struct scratch *s, struct request *r)
{
	return subject && s && r ? attempt_as(1, subject, s, r) : 0;
}

/* Reports a decision about what `task` does. */
static __always_inline void tell(struct scratch *s, struct subject *subject, struct request *r, __u32 decision,
				 __u32 reason, __u64 task)
{
	struct event_facts *f = &s->facts;

	f->task = task;
	f->container = subject->container;
	f->ruleset = s->attempt.query.ruleset;
	f->class_ = r->class_;
	f->op = r->op;
	f->decision = decision;
	f->reason = reason;
	f->has_path = reason != REASON_NO_RULES;
	f->n = s->attempt.walk.n;
	f->has_detail = 0;
	f->flags = s->attempt.query.unseen | (r->condition & COND_WRITE ? EVENT_WRITES : 0);
	emit(s, f);
}

/* What is done about a decision of the current task's: counted, reported; the effect. `s` is NULL where there is no work
 * area. */
static __always_inline __u32 conclude(struct scratch *s, struct subject *subject, struct request *r, __u32 decision,
				      __u32 reason)
{
	__u32 effect;

	if (reason)
		count(COUNTER_RACED + reason - REASON_RACED);
	effect = decision_effect(decision);
	if (effect < EFFECT_AUDIT)
		return effect; /* not counted: this is what happens at nearly every access */
	count(effect == EFFECT_BLOCK ? COUNTER_BLOCKED : COUNTER_AUDITED);
	if (!s) {
		count(COUNTER_EVENT_DROPPED);
		return effect;
	}
	tell(s, subject, r, decision, reason, (__u64)bpf_get_current_task_btf());
	return effect;
}

/* The decision about what `task`, which is `subject`, does; `current_` is 0 for another task than the current one. */
static __always_inline __u32 decide_in(int exec, struct scratch *s, struct subject *subject, struct request *r,
				       struct task_struct *task, int current_)
{
	struct attempt *a = &s->attempt;
	__u32 i;

	a->task = (__u64)task;
	a->current_ = current_;
	a->query.class_ = r->class_;
	a->query.unseen = 0;
	a->decision = DECISION_NO_RULES;
	a->reason = REASON_NO_RULES;
	for (i = 0; i < ATTEMPTS; i++) {
		if (i)
			count(COUNTER_RETRIED);
		if (exec ? attempt_exec(subject, s, r) : attempt(subject, s, r))
			break;
	}
	return a->decision;
}

/* What hooks ask about the subject's container; NULL: it has been disarmed. */
static __always_inline struct armed *armed_of(struct subject *subject)
{
	__u32 slot = subject->slot;
	struct armed *a = bpf_map_lookup_elem(&armed, &slot);

	return a && a->container == subject->container ? a : 0;
}

/* The classes of which the container has rules, a bit for each. */
static __always_inline __u32 classes_applying(struct subject *subject)
{
	struct armed *a = armed_of(subject);

	return a ? a->classes : 0;
}

static __always_inline int class_applies(struct subject *subject, __u32 class_)
{
	return classes_applying(subject) >> class_ & 1;
}

static __always_inline int judge_as(int exec, struct subject *subject, struct request *r)
{
	__u32 decision, effect;
	struct scratch *s;

	if (!class_applies(subject, r->class_))
		return 0;
	s = scratch_take();
	if (!s)
		return conclude(0, subject, r, DECISION_NO_RULES, REASON_NO_SCRATCH) == EFFECT_BLOCK;
	decision = decide_in(exec, s, subject, r, bpf_get_current_task_btf(), 1);
	effect = conclude(s, subject, r, decision, s->attempt.reason);
	scratch_give(s);
	return effect == EFFECT_BLOCK;
}

/* Verdict for the current task, which is `subject` and active: 0 = go on, else deny. */
__noinline int judge(struct subject *subject, struct request *r)
{
	return subject && r ? judge_as(0, subject, r) : 1;
}

/* The same about a program that is executed. */
__noinline int judge_exec(struct subject *subject, struct request *r)
{
	return subject && r ? judge_as(1, subject, r) : 1;
}

/* The current task, if it is confined and its workload has begun. */
static __always_inline struct subject *confined(void)
{
	struct subject *s = subject_of(bpf_get_current_task_btf());

	return s && s->state >= SUBJECT_ACTIVE ? s : 0;
}

/* The same, if its container has rules of the class. */
static __always_inline struct subject *confined_by(__u32 class_)
{
	struct subject *s = confined();

	return s && class_applies(s, class_) ? s : 0;
}

#endif
