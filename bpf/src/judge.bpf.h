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
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	struct vfsmount *mnt;

	a->query.reason = 0;
	if (!exe)
		return 0;
	mnt = BPF_CORE_READ(exe, f_path.mnt);
	switch (mount_place(mnt, a->our_ns)) {
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

/* 1: answered, decision or reason is set; 0: renames, mounts or a new policy came between, try again. */
__noinline int attempt(struct attempt *a, struct scratch *s, struct request *r)
{
	struct sequence q = {};
	__u32 no_source = 0;

	if (!a || !s || !r || !sequence_begin(&q))
		return 0;
	a->query.source = 0;
	if (a->has_source && a->cached != SOURCE_RUNTIME) {
		if (a->cached >> 32 == a->query.ruleset) {
			a->query.source = (__u32)a->cached;
		} else {
			a->query.source = source_find(a, s);
			no_source = a->query.reason;
			if (no_source == REASON_NO_RULES || sequence_moved(q))
				return 0;
			if (!no_source)
				a->cached = (__u64)a->query.ruleset << 32 | a->query.source;
		}
	}
	a->walk.dentry = r->dentry;
	a->walk.mnt = r->mnt;
	a->query.reason = walk_up(&a->walk, s);
	if (no_source) {
		a->query.reason = no_source;
	} else if (a->pathless) {
		a->walk.n = a->walk.n ? 1 : 0; /* its own name, for the event */
		a->query.reason = 0;
		a->decision = a->otherwise;
	} else if (!a->query.reason) {
		a->query.n = a->walk.n;
		a->query.leaf = a->walk.leaf;
		a->decision = match_class(&a->query, s);
		if (a->query.reason == REASON_NO_RULES)
			return 0;
	}
	return !sequence_moved(q);
}

static __always_inline __u32 owner_condition(struct task_struct *task, __u64 inode)
{
	if (!inode)
		return COND_OWNER;
	return BPF_CORE_READ(task, cred, fsuid.val) == BPF_CORE_READ((struct inode *)inode, i_uid.val) ? COND_OWNER : 0;
}

/* 1: read; 0: the rules are not there; -1: nothing applies to the container. */
static __noinline int class_read(__u64 key, __u32 class_, struct class_facts *f)
{
	struct container *c = bpf_map_lookup_elem(&containers, &key);
	struct cell *cell;
	void *image;

	if (!c || !c->ruleset)
		return -1;
	f->ruleset = c->ruleset;
	f->our_ns = c->mnt_ns;
	image = bpf_map_lookup_elem(&rulesets, &f->ruleset);
	if (!image)
		return 0;
	cell = cell_at(image, 0);
	if (!cell || cell->header.version != IMAGE_VERSION)
		return 0;
	f->cell = cell->header.classes[class_ & CLASS_MASK];
	f->has_source = cell->header.source_node;
	if (!f->cell)
		return 1;
	cell = cell_at(image, f->cell);
	if (!cell)
		return 0;
	f->unresolved = cell->class_.unresolved;
	f->otherwise = cell->class_.otherwise;
	return 1;
}

/* Verdict for the current task, which is `subject` and active: 0 = go on, else deny. */
__noinline int judge(struct subject *subject, struct request *r)
{
	struct task_struct *task = bpf_get_current_task_btf();
	/* rules that cannot be found deny */
	struct class_facts class_ = {.unresolved = EFFECT_BLOCK};
	struct attempt *a;
	struct event_facts *f;
	struct scratch *s = 0;
	__u32 effect, decision = 0, reason = REASON_NO_RULES, i;
	enum mount_place place = MOUNT_OURS;
	__u64 key;
	int known;

	if (!subject || !r)
		return 1;
	key = subject->container;
	known = class_read(key, r->class_, &class_);
	if (known < 0 || (known && !class_.cell))
		return 0;
	place = mount_place((struct vfsmount *)r->mnt, class_.our_ns);
	if (place == MOUNT_KERNEL && r->class_ == CLASS_FILE && !r->reason)
		return 0;
	s = scratch_take();
	if (!s) {
		reason = REASON_NO_SCRATCH;
		goto judged;
	}
	a = &s->attempt;
	if (r->reason || place == MOUNT_FOREIGN || place == MOUNT_LAYER) {
		a->walk.dentry = r->dentry;
		a->walk.mnt = r->mnt;
		walk_up(&a->walk, s); /* for the event's sake */
		reason = r->reason ? r->reason : REASON_FOREIGN_MOUNT;
		goto judged;
	}
	a->pathless = place == MOUNT_KERNEL;
	a->query.class_ = r->class_;
	a->query.condition = r->condition | owner_condition(task, r->inode);
	for (i = 0; i < ATTEMPTS; i++) {
		if (i) {
			count(COUNTER_RETRIED);
			known = class_read(key, r->class_, &class_);
			if (known < 0 || (known && !class_.cell)) {
				scratch_give(s);
				return 0;
			}
		}
		if (!known)
			continue;
		a->query.ruleset = class_.ruleset;
		a->our_ns = class_.our_ns;
		a->otherwise = class_.otherwise;
		a->has_source = class_.has_source;
		a->cached = subject->source;
		reason = REASON_RACED;
		if (attempt(a, s, r)) {
			reason = a->query.reason;
			decision = a->decision;
			subject->source = a->cached;
			break;
		}
	}

judged:
	if (reason) {
		count(COUNTER_RACED + reason - REASON_RACED);
		decision = class_.unresolved << DECISION_EFFECT_SHIFT | RULE_NONE;
	}
	effect = decision_effect(decision);
	count(effect == EFFECT_BLOCK ? COUNTER_BLOCKED : effect == EFFECT_AUDIT ? COUNTER_AUDITED : COUNTER_ALLOWED);
	if (effect >= EFFECT_AUDIT) {
		if (s) {
			f = &s->facts;
			f->container = key;
			f->ruleset = class_.ruleset;
			f->class_ = r->class_;
			f->op = r->op;
			f->decision = decision;
			f->reason = reason;
			f->has_path = reason != REASON_NO_RULES;
			f->n = s->attempt.walk.n;
			f->has_detail = 0;
			emit(s, f);
		} else {
			count(COUNTER_EVENT_DROPPED);
		}
	}
	if (s)
		scratch_give(s);
	return effect == EFFECT_BLOCK;
}

/* The current task, if it is confined and its workload has begun. */
static __always_inline struct subject *confined(void)
{
	struct subject *s = subject_of(bpf_get_current_task_btf());

	return s && s->state == SUBJECT_ACTIVE ? s : 0;
}

#endif
