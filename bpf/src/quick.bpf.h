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

/* Whether no rule speaks about anything below the path's first component: told by one bit, without its rules. */
static __always_inline int is_far(int direct, struct armed *a, struct request *r)
{
	__u64 dentry = r->dentry, mount = mount_of(r->mnt), up, top = 0, word = 0, name;
	__u64 root = (__u64)KERNEL_READ(direct, struct mount, mount, mnt.mnt_root);
	struct sequence sequence = sequence_read();
	__u32 i, len, bit;

	if (sequence_odd(sequence))
		return 0;
	for (i = 0; i < FAST_STEPS; i++) {
		if (dentry == root) {
			up = (__u64)KERNEL_READ(direct, struct mount, mount, mnt_parent);
			if (up == mount)
				break;
			dentry = (__u64)KERNEL_READ(direct, struct mount, mount, mnt_mountpoint);
			mount = up;
			root = (__u64)KERNEL_READ(direct, struct mount, up, mnt.mnt_root);
			continue;
		}
		up = (__u64)KERNEL_READ(direct, struct dentry, dentry, d_parent);
		if (up == dentry)
			return 0;
		top = dentry;
		dentry = up;
	}
	if (i == FAST_STEPS || !top)
		return 0;
	len = KERNEL_READ(direct, struct dentry, top, d_name.len);
	if (len - 1 >= 8) /* so long a first component is rare */
		return 0;
	name = (__u64)KERNEL_READ(direct, struct dentry, top, d_name.name);
	if (direct)
		word = direct_word(name);
	else if (bpf_probe_read_kernel(&word, sizeof(word), (void *)name)) /* names are padded to words */
		return 0;
	word = word_cut(word, len);
	if ((word & 0xffff) == 0x2e2e) /* may be a rotating directory */
		return 0;
	bit = first_bit(word, len);
	if (a->first[r->class_ & 1][(bit >> 6) & (FIRST_WORDS - 1)] >> (bit & 63) & 1)
		return 0;
	return !sequence_moved(sequence);
}

/* The node of a component with a longer name, or one that may be a rotating directory: its cell's number; 0: none.
 * Verified once, on its own. */
__noinline __u32 node_of_long(struct query *q, struct scratch *s, __u64 dentry, __u32 parent)
{
	__u64 at;

	if (!direct_loads || !q || !s)
		return 0;
	if (!name_read(1, s, dentry, q->seed)) {
		q->reason = REASON_UNREADABLE;
		return 0;
	}
	at = node_next(1, q, s, parent);
	return at ? (at - q->image) / CELL_BYTES : 0;
}

__noinline __u32 base_quickly(struct query *q, struct scratch *s, __u32 base)
{
	return direct_loads && q && s ? base_decide(1, q, s, base) : 0;
}

__noinline __u32 patterns_quickly(struct query *q, struct scratch *s)
{
	return direct_loads && q && s ? patterns_decide(1, q, s) : 0;
}

/* The entry of a decision cell. */
static __always_inline __u32 decision_near(void *image, struct image_block *first, __u32 cell, __u32 condition)
{
	struct cell *c = cell_near(image, first, cell);

	return c ? c->decision.by_condition[condition & (COND_COUNT - 1)] : 0;
}

/* As root_decide (match.bpf.h) answers. */
static __always_inline __u32 root_quickly(void *image, struct image_block *first, struct query *q, struct scratch *s,
					  __u32 root, __u32 table)
{
	struct cell *c = cell_near(image, first, root);
	__u32 condition = q->condition, node, exact, children, deep, base, n = q->n, best = 0, i, d, len, index;
	__u64 leaf = q->leaf, dentry, word, hash, seed = q->seed;
	struct dentry *p;
	int fell = 0;

	if (!c) {
		q->reason = REASON_NO_RULES;
		return 0;
	}
	node = c->root.node;
	base = c->root.base;
	exact = c->root.exact;
	children = c->root.children;
	deep = c->root.deep;
	s->descent.begun = 0;
	s->descent.unreadable = 0;
	s->descent.n = n;
	if (c->root.automata)
		begin(s, c->root.automata);
	for (i = 0; i < FAST_STEPS; i++) {
		if (!n)
			break;
		n--;
		dentry = s->dentries[n & (MAX_COMPONENTS - 1)];
		if (!dentry)
			continue;
		index = dentry == leaf ? children : deep;
		if (index) {
			d = decision_near(image, first, index, condition);
			if (decision_effect(d))
				best = d;
		}
		p = DIRECT(struct dentry, dentry);
		len = p->d_name.len;
		word = word_cut(direct_word((__u64)p->d_name.name), len);
		if (len - 1 < 8 && (word & 0xffff) != 0x2e2e) {
			hash = mix(mix(mix(seed, word), len), node);
			index = table + ((__u32)hash & q->mask);
			c = cell_near(image, first, index);
			if (!c || c->node.parent != node || c->node.name != word || c->node.len != len) {
				index = table + ((__u32)(hash >> 32) & q->mask);
				c = cell_near(image, first, index);
				if (!c || c->node.parent != node || c->node.name != word || c->node.len != len) {
					fell = 1;
					break;
				}
			}
		} else {
			index = node_of_long(q, s, dentry, node);
			c = index ? cell_near(image, first, index) : 0;
			if (!c) {
				fell = 1;
				break;
			}
		}
		node = c->node.node;
		exact = c->node.exact;
		children = c->node.children;
		deep = c->node.deep;
		if (c->node.automata) {
			s->descent.n = n;
			if (begin(s, c->node.automata))
				break;
		}
	}
	if (q->reason || s->descent.unreadable) {
		q->reason = REASON_UNREADABLE;
		return 0;
	}
	if (!fell && !n) {
		d = exact ? decision_near(image, first, exact, condition) : 0;
		if (decision_effect(d))
			return d;
		d = children ? decision_near(image, first, children, condition) : 0;
		if (decision_effect(d))
			best = d;
	}
	if (!fell && n) { /* deeper than the loop goes */
		q->reason = REASON_TOO_DEEP;
		return 0;
	}
	if (base && leaf) {
		d = base_quickly(q, s, base);
		if (q->reason || decision_effect(d))
			return d;
	}
	if (s->descent.begun) {
		d = patterns_quickly(q, s);
		if (q->reason || decision_effect(d))
			return d;
	}
	return best;
}

/* 1: it passes; 0: ask judge(). Verified once, on its own. */
__noinline int judge_quickly(struct subject *subject, struct request *r)
{
	struct sequence sequence;
	struct image_block *first;
	struct scratch *s;
	struct armed *a;
	struct query *q;
	struct cell *c;
	void *image;
	__u32 key, d, found, root;
	__u64 ns, mnt;
	int passes = 0;

	if (!subject || !r || r->condition & COND_TREE)
		return 0;
	mnt = r->mnt;
	key = subject->slot;
	a = bpf_map_lookup_elem(&armed, &key);
	if (!a || a->container != subject->container || !(a->classes >> r->class_ & 1))
		return 1; /* disarmed, or no such rules */
	ns = (__u64)KERNEL_READ(direct_loads, struct mount, mount_of(mnt), mnt_ns);
	if (KERNEL_READ(direct_loads, struct mnt_namespace, ns, ns.inum) != a->mnt_ns)
		return 0; /* also where ns is an error: that reads as 0 */
	if (a->first[r->class_ & 1][0] != ~0ULL && (direct_loads ? is_far(1, a, r) : is_far(0, a, r)))
		return 1;
	if (!direct_loads)
		return 0;
	image = bpf_map_lookup_elem(&rulesets, &a->place);
	key = 0;
	first = image ? bpf_map_lookup_elem(image, &key) : 0;
	if (!first)
		return 0;
	c = &first->cells[0];
	if (c->header.version != IMAGE_VERSION || c->header.ruleset != a->ruleset)
		return 0;
	s = bpf_map_lookup_elem(&scratches, &key);
	if (!s || __sync_val_compare_and_swap(&s->busy, 0, 1))
		return 0;
	q = &s->attempt.query;
	q->image = (__u64)first;
	q->seed = c->header.seed;
	q->table = q->image + (__u64)c->header.table * CELL_BYTES;
	q->mask = c->header.mask;
	q->ruleset = a->ruleset;
	q->place = a->place;
	q->condition = r->condition;
	q->reason = 0;
	c = cell_near(image, first, c->header.classes[r->class_ & CLASS_MASK]);
	if (!c)
		goto out;
	root = c->class_.root;
	d = c->class_.otherwise;
	if (c->class_.has_source && source_known(subject) != (__u64)a->ruleset << 32)
		goto out; /* rules about acting executables, and not known that this is none of them */
	if (c->class_.conditions & COND_OWNER)
		q->condition |= owner_condition(bpf_get_current_task_btf(), r->inode);
	if (c->class_.conditions & COND_TTY)
		q->condition |= terminal_condition(bpf_get_current_task_btf());
	sequence = sequence_read();
	if (sequence_odd(sequence))
		goto out;
	s->attempt.walk.dentry = r->dentry;
	s->attempt.walk.mnt = r->mnt;
	if (!walk_fast(&s->attempt.walk, s))
		goto out;
	q->n = s->attempt.walk.n;
	q->leaf = s->attempt.walk.leaf;
	if (root) {
		found = root_quickly(image, first, q, s, root, first->cells[0].header.table);
		if (q->reason)
			goto out;
		if (decision_effect(found))
			d = found;
	}
	passes = decision_effect(d) == EFFECT_ALLOW && !(d & DECISION_ARGS) && !sequence_moved(sequence);
out:
	scratch_give(s);
	return passes;
}

#endif
