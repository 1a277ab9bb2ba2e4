/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From an access without a path to a verdict: what judge() is for paths. Here nothing needs to be walked but the acting
 * executable's path, and that only where rules have sources and its answer is not known yet.
 */
#ifndef JUDGE_PLAIN_BPF_H
#define JUDGE_PLAIN_BPF_H

enum plain_answer {
	PLAIN_NOTHING, /* no rule applies to the container */
	PLAIN_ANSWERED, /* r->decision or r->reason is set */
	PLAIN_AGAIN,    /* a new policy came between, or renames, or mounts */
	PLAIN_SOURCE,   /* the acting executable must be known first */
};

/* Finds out which source of the rules in r->ruleset the acting executable is, and remembers it. */
__noinline int plain_source(struct subject *subject, struct plain_request *r)
{
	struct sequence q = {};
	struct scratch *s;
	struct attempt *a;
	__u32 source;

	if (!subject || !r)
		return PLAIN_AGAIN;
	s = scratch_take();
	if (!s) {
		r->reason = REASON_NO_SCRATCH;
		return PLAIN_ANSWERED;
	}
	a = &s->attempt;
	a->task = (__u64)bpf_get_current_task_btf();
	a->query.class_ = r->class_;
	a->query.reason = REASON_RACED;
	if (class_read(a, subject->slot, subject->container) == 1 && a->query.ruleset == r->ruleset &&
	    sequence_begin(&q)) {
		source = source_find(a, s);
		if (sequence_moved(q))
			a->query.reason = REASON_RACED;
		if (!a->query.reason)
			source_learn(subject, (__u64)r->ruleset << 32 | source);
	}
	r->reason = a->query.reason;
	scratch_give(s);
	if (!r->reason || r->reason == REASON_RACED || r->reason == REASON_NO_RULES)
		return PLAIN_AGAIN;
	return PLAIN_ANSWERED; /* it may be one that a rule names */
}

/* Verified once, on its own, as all here that is not static. */
__noinline int plain_attempt(struct subject *subject, struct plain_request *r)
{
	struct armed *a;
	struct cell *h, *c;
	__u32 source = 0, slot, class_cell, has_source;
	__u64 cached;
	void *image;

	if (!subject || !r)
		return PLAIN_AGAIN;
	slot = subject->slot;
	a = bpf_map_lookup_elem(&armed, &slot);
	if (!a || a->container != subject->container || !a->ruleset)
		return PLAIN_NOTHING;
	r->ruleset = a->ruleset;
	r->place = a->place;
	/* rules that cannot be found deny; but system calls are never denied */
	r->unresolved = (r->class_ == CLASS_SYSCALL ? EFFECT_AUDIT : EFFECT_BLOCK) << DECISION_EFFECT_SHIFT | RULE_NONE;
	image = plain_image(r);
	if (!image)
		return PLAIN_AGAIN;
	h = cell_at(image, 0);
	class_cell = h ? h->header.classes[r->class_ & CLASS_MASK] : 0;
	if (!class_cell)
		return PLAIN_NOTHING;
	c = cell_at(image, class_cell);
	if (!c) {
		r->reason = REASON_NO_RULES;
		return PLAIN_AGAIN;
	}
	r->unresolved = c->class_.unresolved;
	has_source = c->class_.has_source;
	if (r->flags & PLAIN_UNREADABLE) {
		r->reason = REASON_UNREADABLE;
		return PLAIN_ANSWERED;
	}
	cached = source_known(subject);
	if (has_source && cached != SOURCE_RUNTIME) {
		if (cached >> 32 != r->ruleset)
			return PLAIN_SOURCE;
		source = (__u32)cached;
	}
	r->decision = plain_decide(r, class_cell, source);
	return r->reason == REASON_NO_RULES ? PLAIN_AGAIN : PLAIN_ANSWERED;
}

/* Tells what happened; the path, if there is one, only for the reader. */
__noinline int plain_report(struct plain_request *r, __u64 container)
{
	struct event_detail *d;
	struct event_facts *f;
	struct scratch *s;
	struct walk *w;

	if (!r)
		return 0;
	s = scratch_take();
	if (!s) {
		count(is_observation(r->decision) ? COUNTER_OBSERVATION_DROPPED : COUNTER_EVENT_DROPPED);
		return 0;
	}
	d = &s->event.detail;
	f = &s->facts;
	w = &s->attempt.walk;
	d->number = r->flags & PLAIN_COMPAT ? r->number | SYSCALL_COMPAT : r->number;
	d->family = r->net.family;
	d->kind = r->net.kind;
	d->protocol = r->net.protocol;
	d->port = r->net.port;
	d->version = r->net.version;
	d->pad = 0;
	*(__u64 *)d->address = bpf_cpu_to_be64(r->net.high);
	*(__u64 *)(d->address + 8) = bpf_cpu_to_be64(r->net.low);
	f->task = (__u64)bpf_get_current_task_btf();
	f->container = container;
	f->ruleset = r->ruleset;
	f->class_ = r->class_;
	f->op = r->op;
	f->decision = r->decision;
	f->reason = r->reason;
	f->has_detail = 1;
	f->flags = 0;
	f->has_path = 0;
	if (r->dentry) {
		w->dentry = r->dentry;
		w->mnt = r->mnt;
		walk_up(w, s);
		f->has_path = 1;
		f->n = w->n;
	}
	emit(s, f);
	scratch_give(s);
	return 0;
}

/* Verdict for the current task, which is `subject` and active: 0 = go on, else deny. */
__noinline int judge_plain(struct subject *subject, struct plain_request *r)
{
	__u32 effect, i;
	int answer;

	if (!subject || !r)
		return 1;
	if (!class_applies(subject, r->class_))
		return 0;
	for (i = 0; i < ATTEMPTS; i++) {
		answer = plain_attempt(subject, r);
		if (answer == PLAIN_NOTHING)
			return 0;
		if (answer == PLAIN_SOURCE)
			answer = plain_source(subject, r);
		if (answer == PLAIN_ANSWERED)
			break;
	}
	if (r->reason) {
		count(COUNTER_RACED + r->reason - REASON_RACED);
		r->decision = r->unresolved;
	}
	effect = decision_effect(r->decision);
	if (effect < EFFECT_AUDIT)
		return 0;
	count(effect == EFFECT_BLOCK ? COUNTER_BLOCKED : COUNTER_AUDITED);
	if (!(r->flags & PLAIN_SILENT))
		plain_report(r, subject->container);
	return effect == EFFECT_BLOCK;
}

#endif
