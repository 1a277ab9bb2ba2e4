/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The short way: the same answers as judge.bpf.h gives, for accesses that pass without an event, as nearly all do.
 * Plain loads, one look-up each, one attempt, and loops that the verifier follows turn by turn; so it is part of the
 * program for opening files alone. Whatever is unusual is left to the long way, which begins anew.
 */
#ifndef QUICK_BPF_H
#define QUICK_BPF_H

static __always_inline __u32 first_bit(__u64 word, __u32 len)
{
	return (__u32)(mix(word, len) >> 56);
}

static __always_inline __u64 word_at_address(int direct, __u64 address)
{
	__u64 word = 0;

	if (direct)
		return direct_word(address);
	bpf_probe_read_kernel(&word, sizeof(word), (void *)address);
	return word;
}

/* A byte by way of the aligned word that it is in, which is never half in memory. */
static __always_inline __u32 byte_at(int direct, __u64 address)
{
	return word_at_address(direct, address & ~7ULL) >> ((address & 7) * 8) & 255;
}

/* The address of the class's near cells; 0: there are none, or the rules are not there. */
static __always_inline __u64 near_cells(int direct, struct armed *a, __u32 class_)
{
	__u32 place = a->place, zero = 0, cell; /* 6.1 takes no key out of an argument */
	void *image = bpf_map_lookup_elem(&rulesets, &place);
	struct image_block *first;
	__u64 at;

	first = image ? bpf_map_lookup_elem(image, &zero) : 0;
	if (!first || first->cells[0].header.version != IMAGE_VERSION || first->cells[0].header.ruleset != a->ruleset)
		return 0;
	at = (__u64)first;
	cell = first->cells[0].header.classes[class_ & CLASS_MASK];
	if (!cell)
		return 0;
	/* the upper half of a word */
	cell = SECOND(word_at_address(direct, at + (__u64)cell * CELL_BYTES + __builtin_offsetof(struct class_cell, near) - 4));
	return cell ? at + (__u64)cell * CELL_BYTES : 0;
}

static __always_inline int has_bit(int direct, __u64 words, __u32 byte)
{
	return word_at_address(direct, words + byte / 64 * 8) >> (byte % 64) & 1;
}

/* Is the name of `leaf` one that no path ends in which a pattern from "/" on matches? */
static __always_inline int ends_otherwise(int direct, __u64 near, __u64 leaf)
{
	__u32 len = KERNEL_READ(direct, struct dentry, leaf, d_name.len);
	/* read as a number: newer kernels allow no arithmetic on what is read as a pointer */
	__u64 end = word_at_address(direct, leaf + bpf_core_field_offset(struct dentry, d_name.name)) + len;

	if (has_bit(direct, near + __builtin_offsetof(struct near_cells, not_last), byte_at(direct, end - 1)))
		return 1;
	return has_bit(direct, near + __builtin_offsetof(struct near_cells, not_last_but_one),
		       len > 1 ? byte_at(direct, end - 2) : '/');
}

/* The path's last component; 0: not known. Where a mount's own root is opened, that is the mount point. */
static __always_inline __u64 leaf_of(struct scratch *s)
{
	return s->dentries[0] ? s->dentries[0] : s->dentries[1];
}

/* Whether the path's first component `top` and its end tell that it passes, without a look at the rules below. The
 * last component is `leaf` (0: not known), or with `s` the one in it. */
static __always_inline int is_far(int direct, struct armed *a, __u32 class_, __u64 top, __u64 leaf, struct scratch *s)
{
	__u32 len, bit, anywhere = a->hints & HINT_ANYWHERE << class_, spoken_of;
	__u64 word, near;

	len = KERNEL_READ(direct, struct dentry, top, d_name.len);
	if (len - 1 >= 8) /* so long a first component is rare */
		return 0;
	/* names are padded to words */
	word = word_at_address(direct, (__u64)KERNEL_READ(direct, struct dentry, top, d_name.name));
	word = word_cut(word, len);
	if (!word || (word & 0xffff) == 0x2e2e) /* unreadable; or may be a rotating directory */
		return 0;
	bit = first_bit(word, len);
	spoken_of = a->first[class_][(bit >> 6) & (FIRST_WORDS - 1)] >> (bit & 63) & 1;
	if (!spoken_of && !anywhere)
		return 1;
	if (!(a->hints & HINT_NEAR << class_))
		return 0;
	near = near_cells(direct, a, class_);
	if (!near)
		return 0;
	if (spoken_of && word_at_address(direct, near + 8 * (bit & (NEAR_SLOTS - 1))) != word &&
	    word_at_address(direct, near + 8 * (bit / NEAR_SLOTS)) != word)
		return 0;
	if (!anywhere)
		return 1;
	if (s)
		leaf = leaf_of(s);
	return leaf && ends_otherwise(direct, near, leaf);
}

/* The path's first component, by calls that copy; 0: it is not told. */
static __always_inline __u64 top_copying(struct request *r, struct climbed *c)
{
	__u64 mount = mount_of(r->mnt), up, top = c->top;
	__u64 root = (__u64)BPF_CORE_READ((struct mount *)mount, mnt.mnt_root);
	__u64 dentry = top ? root : r->dentry;
	__u32 i;

	for (i = 0; i < FAST_STEPS; i++) {
		if (dentry == root) {
			up = (__u64)BPF_CORE_READ((struct mount *)mount, mnt_parent);
			if (up == mount)
				return top;
			dentry = (__u64)BPF_CORE_READ((struct mount *)mount, mnt_mountpoint);
			mount = up;
			root = (__u64)BPF_CORE_READ((struct mount *)up, mnt.mnt_root);
			continue;
		}
		up = (__u64)BPF_CORE_READ((struct dentry *)dentry, d_parent);
		if (up == dentry)
			return 0;
		top = dentry;
		dentry = up;
	}
	return 0;
}

/* From an open file up to its mount's root, by loads that any kernel allows from what the hook was given. */
static __always_inline void climb_mount(struct file *file, struct climbed *c)
{
	struct dentry *dentry = file->f_path.dentry, *root = file->f_path.mnt->mnt_root, *up;
	__u64 top = 0;
	__u32 i;

	c->begun = sequence_read();
	for (i = 0; i < FAST_STEPS; i++) {
		if (dentry == root) {
			c->top = top;
			return;
		}
		up = dentry->d_parent;
		if (up == dentry)
			return;
		top = (__u64)dentry;
		dentry = up;
	}
}

static __always_inline int passes_copying(struct armed *a, struct request *r, struct climbed *c)
{
	struct sequence sequence = c->top ? c->begun : sequence_read();
	__u32 class_ = r->class_ & 1;
	__u64 top;

	if (sequence_odd(sequence) || !(a->hints & HINT_TOLD << class_))
		return 0;
	top = top_copying(r, c);
	return top && is_far(0, a, class_, top, c->top ? r->dentry : 0, 0) && !sequence_moved(sequence);
}

/* The node of a component with a longer name, or one that may be a rotating directory: its cell's address; 0: none.
 * Verified once, on its own. */
__noinline __u64 node_of_long(struct query *q, struct scratch *s, __u64 dentry, __u32 parent)
{
	if (!direct_loads || !q || !s)
		return 0;
	if (!name_read(1, s, dentry, q->seed)) {
		q->reason = REASON_UNREADABLE;
		return 0;
	}
	return node_next(1, q, s, parent);
}

__noinline __u32 base_quickly(struct query *q, struct scratch *s, __u32 base)
{
	return direct_loads && q && s ? base_decide(1, q, s, base) : 0;
}

__noinline __u32 patterns_quickly(struct query *q, struct scratch *s)
{
	return direct_loads && q && s ? patterns_decide(1, q, s) : 0;
}

/* The node of a short component below `parent`: its cell's address; 0: none. */
static __always_inline __u64 node_of_short(struct query *q, __u64 word, __u32 len, __u32 parent)
{
	__u64 hash = mix(mix(mix(q->seed, word), len), parent), key = (__u64)len << 32 | parent;
	__u64 at = q->table + (__u64)((__u32)hash & q->mask) * CELL_BYTES;

	if (direct_word(at) == key && direct_word(at + 8) == word)
		return at;
	at = q->table + (__u64)((__u32)(hash >> 32) & q->mask) * CELL_BYTES;
	return direct_word(at) == key && direct_word(at + 8) == word ? at : 0;
}

/* As descend (match.bpf.h) does: 1 = the descent ends. What it has come to is in memory, whose contents do not multiply
 * the verifier's work. */
static __always_inline int descend_quickly(struct query *q, struct scratch *s)
{
	struct descent *m = &s->descent;
	__u64 dentry, word, at;
	__u32 n = m->n, len, d;
	struct dentry *p;

	if (!n)
		return 1;
	n--;
	m->n = n;
	dentry = s->dentries[n & (MAX_COMPONENTS - 1)];
	if (!dentry)
		return 0;
	d = dentry == q->leaf ? m->children : m->deep;
	if (d) {
		d = decision_read(1, q, d, q->condition);
		if (decision_effect(d))
			m->best = d;
	}
	p = DIRECT(struct dentry, dentry);
	len = p->d_name.len;
	word = direct_word((__u64)p->d_name.name);
	if (len < 8)
		word &= (1ULL << len * 8) - 1;
	if (len - 1 < 8 && (word & 0xffff) != 0x2e2e)
		at = node_of_short(q, word, len, m->node);
	else
		at = node_of_long(q, s, dentry, m->node);
	if (!at) {
		m->fell = 1;
		return 1;
	}
	m->node = FIRST(direct_word(at + 8 * WORD_OF(cell, node.node)));
	word = direct_word(at + 8 * WORD_OF(cell, node.exact));
	m->exact = FIRST(word);
	m->children = SECOND(word);
	word = direct_word(at + 8 * WORD_OF(cell, node.deep));
	m->deep = FIRST(word);
	return SECOND(word) ? begin(s, SECOND(word)) : 0;
}

/* As root_decide (match.bpf.h) answers. */
static __always_inline __u32 root_quickly(struct query *q, struct scratch *s, __u32 root)
{
	struct descent *m = &s->descent;
	__u64 at = cell_address(q, root), word;
	__u32 i, d, base;

	word = direct_word(at + 8 * WORD_OF(cell, root.node));
	m->node = FIRST(word);
	base = SECOND(word);
	word = direct_word(at + 8 * WORD_OF(cell, root.exact));
	m->exact = FIRST(word);
	m->children = SECOND(word);
	word = direct_word(at + 8 * WORD_OF(cell, root.deep));
	m->deep = FIRST(word);
	m->best = 0;
	m->fell = 0;
	m->begun = 0;
	m->unreadable = 0;
	m->n = q->n;
	if (SECOND(word))
		begin(s, SECOND(word));
	for (i = 0; i < FAST_STEPS; i++)
		if (descend_quickly(q, s))
			break;
	if (q->reason || m->unreadable) {
		q->reason = REASON_UNREADABLE;
		return 0;
	}
	if (!m->fell) {
		if (m->n) { /* deeper than the loop goes */
			q->reason = REASON_TOO_DEEP;
			return 0;
		}
		d = decision_read(1, q, m->exact, q->condition);
		if (decision_effect(d))
			return d;
		d = decision_read(1, q, m->children, q->condition);
		if (decision_effect(d))
			m->best = d;
	}
	if (base && q->leaf) {
		d = base_quickly(q, s, base);
		if (q->reason || decision_effect(d))
			return d;
	}
	if (m->begun) {
		d = patterns_quickly(q, s);
		if (q->reason || decision_effect(d))
			return d;
	}
	return m->best;
}

/* The rules' answer about the path in scratch->dentries, `n` slots: 1 = it passes. */
static __always_inline int rules_quickly(struct subject *subject, struct armed *a, struct request *r, struct scratch *s)
{
	struct query *q = &s->attempt.query;
	struct image_block *first;
	void *image;
	__u32 place = a->place, zero = 0, cell, root, d, found;
	__u64 at, word;
	struct cell *c;

	q->leaf = leaf_of(s);
	if (!q->leaf)
		return 0;
	image = bpf_map_lookup_elem(&rulesets, &place);
	first = image ? bpf_map_lookup_elem(image, &zero) : 0;
	if (!first)
		return 0;
	c = &first->cells[0];
	if (c->header.version != IMAGE_VERSION || c->header.ruleset != a->ruleset)
		return 0;
	cell = c->header.classes[r->class_ & CLASS_MASK];
	if (!cell)
		return 0;
	q->image = (__u64)first;
	q->seed = c->header.seed;
	q->table = q->image + (__u64)c->header.table * CELL_BYTES;
	q->mask = c->header.mask;
	q->ruleset = a->ruleset;
	q->place = a->place;
	q->condition = r->condition;
	q->reason = 0;
	at = cell_address(q, cell);
	word = direct_word(at + 8 * WORD_OF(cell, class_.root));
	root = FIRST(word);
	d = SECOND(word);
	word = direct_word(at + 8 * WORD_OF(cell, class_.conditions));
	if (SECOND(word) && source_known(subject) != (__u64)a->ruleset << 32)
		return 0; /* rules about acting executables, and not known that this is none of them */
	if (FIRST(word) & COND_ARGS)
		return 0; /* the arguments are read in the long way only */
	if (FIRST(word) & COND_OWNER)
		q->condition |= owner_condition(bpf_get_current_task_btf(), r->inode);
	if (FIRST(word) & COND_TTY)
		q->condition |= terminal_condition(bpf_get_current_task_btf());
	if (root) {
		found = root_quickly(q, s, root);
		if (q->reason)
			return 0;
		if (decision_effect(found))
			d = found;
	}
	return decision_effect(d) == EFFECT_ALLOW;
}

/* The same walk as walk_fast, which leaves the leaf to be found out when it is asked for, since that is seldom. What is
 * read from a structure has its type for the verifier, and is followed without another cast. */
static __always_inline int passes_direct(struct subject *subject, struct armed *a, struct request *r, struct scratch *s)
{
	struct mount *mount = DIRECT(struct mount, mount_of(r->mnt)), *parent;
	struct dentry *dentry = DIRECT(struct dentry, r->dentry), *root = mount->mnt.mnt_root, *up;
	struct sequence before = sequence_direct(), after;
	__u32 i, class_ = r->class_ & 1;
	__u64 top = 0;

	if (sequence_odd(before))
		return 0;
	for (i = 0; i < FAST_STEPS; i++) {
		if (dentry == root) {
			s->dentries[i] = 0;
			parent = mount->mnt_parent;
			if (parent == mount)
				break;
			dentry = mount->mnt_mountpoint;
			mount = parent;
			root = mount->mnt.mnt_root;
			continue;
		}
		up = dentry->d_parent;
		if (up == dentry)
			return 0;
		top = (__u64)dentry;
		s->dentries[i] = top;
		dentry = up;
	}
	if (i == FAST_STEPS || !top)
		return 0;
	s->attempt.query.n = i;
	if (!(a->hints & HINT_TOLD << class_ && is_far(1, a, class_, top, 0, s)) && !rules_quickly(subject, a, r, s))
		return 0;
	after = sequence_direct();
	return after.rename == before.rename && after.mount == before.mount;
}

/* 1: it passes; 0: ask judge(). `a` is the subject's, which has rules of the class; `c` may be empty. Verified once, on
 * its own. */
__noinline int judge_quickly(struct subject *subject, struct armed *a, struct request *r, struct climbed *c)
{
	struct scratch *s;
	__u32 zero = 0;
	int passes;
	__u64 mount;

	if (!subject || !a || !r || !c || r->condition & COND_TREE)
		return 0;
	/* an error in place of a namespace reads as one with the number 0 */
	mount = mount_of(r->mnt);
	if (!direct_loads)
		return BPF_CORE_READ((struct mount *)mount, mnt_ns, ns.inum) == a->mnt_ns && passes_copying(a, r, c);
	if (DIRECT(struct mount, mount)->mnt_ns->ns.inum != a->mnt_ns)
		return 0;
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s || __sync_lock_test_and_set(&s->busy, 1))
		return 0;
	passes = passes_direct(subject, a, r, s);
	scratch_give(s);
	return passes;
}

#endif
