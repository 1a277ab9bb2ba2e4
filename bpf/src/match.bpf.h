/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a path to a decision.
 *
 * An image holds a tree of path components per class and source. The tree is walked from the root down and left at
 * the first component that no rule continues with, so the cost depends on how far the path agrees with some rule,
 * never on how many rules there are. A node is found by a hash of (parent, component) in one of two slots and then
 * compared byte by byte: the hash only says where to look, so no crafted name can pass for another. Patterns are not
 * in the tree; see automaton.bpf.h.
 *
 * The image and the names are read in place where the kernel allows plain loads; `direct` says so, as a constant.
 */
#ifndef MATCH_BPF_H
#define MATCH_BPF_H

#define NAME_WORDS ((NAME_BYTES + 1) / 8)
#define INLINE_WORDS (NODE_INLINE / 8)

static __always_inline __u64 mix(__u64 a, __u64 b)
{
	a = (a ^ b) * 0x9e3779b97f4a7c15ULL;
	return a ^ (a >> 32);
}

static __always_inline struct cell *cell_at(void *image, __u32 index)
{
	__u32 number = index / BLOCK_CELLS;
	struct image_block *block = bpf_map_lookup_elem(image, &number);

	if (!block)
		return 0;
	asm volatile("" : "+r"(index)); /* no arithmetic on the pointer before it is known to be one */
	return &block->cells[index % BLOCK_CELLS];
}

/* ---- cells of the image whose address is known ---- */

static __always_inline __u64 cell_address(struct query *q, __u32 index)
{
	return q->image + (__u64)index * CELL_BYTES;
}

/* before cell_word */
static __always_inline void cell_open(int direct, struct scratch *s, __u64 address)
{
	if (!direct && bpf_probe_read_kernel(&s->cell, sizeof(s->cell), (void *)address))
		__builtin_memset(&s->cell, 0, sizeof(s->cell));
}

static __always_inline __u64 cell_word(int direct, struct scratch *s, __u64 address, __u32 word)
{
	return direct ? direct_word(address + 8 * word) : s->cell.words[word];
}

/* two 32-bit fields, the first one in the lower half */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "cells are read by words, as a little-endian machine lays them out"
#endif
#define FIRST(word) ((__u32)(word))
#define SECOND(word) ((__u32)((word) >> 32))
#define WORD_OF(cell, field) (__builtin_offsetof(struct cell, field) / 8)

/* ---- names ---- */

static __always_inline __u64 word_cut(__u64 word, __u32 bytes)
{
	return bytes < 8 ? word & ((1ULL << bytes * 8) - 1) : word;
}

/* A number that the verifier keeps no account of: what it knows of one would have it follow the code after it once for
 * each thing that it may be. */
static __always_inline __u32 unaccounted(__u32 *number)
{
	return *(volatile __u32 *)number;
}

/* The part of a name that a node does not hold; the hash with it. Verified once, on its own; a plain loop, since calls
 * nest eight deep at most. */
__noinline __u64 name_tail(struct scratch *s, __u64 hash)
{
	__u64 word, address;
	__u32 w, left;

	if (!s)
		return 0;
	address = s->name.address;
#pragma clang loop unroll(disable)
	for (w = INLINE_WORDS; w < NAME_WORDS; w++) {
		left = unaccounted(&s->name.len) - w * 8;
		if ((__s32)left <= 0)
			break;
		word = s->name.words[w];
		if (direct_loads) {
			word = word_cut(direct_word(address + w * 8), left);
			s->name.words[w] = word;
		}
		hash = mix(hash, word);
	}
	return hash;
}

/* Reads the name of a dentry into scratch->name, with its hash: by words, the last one filled with zeros, and those
 * that a node holds all written. 0: unreadable. */
static __always_inline int name_read(int direct, struct scratch *s, __u64 dentry, __u64 seed)
{
	__u64 name, hash, w0, w1 = 0, w2 = 0, w3 = 0;
	__u32 len;

	if (direct) {
		len = DIRECT(struct dentry, dentry)->d_name.len;
		name = (__u64)DIRECT(struct dentry, dentry)->d_name.name;
	} else {
		len = BPF_CORE_READ((struct dentry *)dentry, d_name.len);
		name = (__u64)BPF_CORE_READ((struct dentry *)dentry, d_name.name);
	}
	if (len == 0 || len > NAME_BYTES)
		return 0;
	s->name.len = len;
	if (direct) {
		s->name.address = name;
		name = s->name.address; /* a number, from here on */
		w0 = direct_word(name);
		if (len <= 8) {
			w0 = word_cut(w0, len);
			hash = mix(seed, w0);
		} else {
			w1 = direct_word(name + 8);
			hash = mix(seed, w0);
			if (len <= 16) {
				w1 = word_cut(w1, len - 8);
				hash = mix(hash, w1);
			} else {
				w2 = direct_word(name + 16);
				hash = mix(hash, w1);
				if (len <= 24) {
					w2 = word_cut(w2, len - 16);
					hash = mix(hash, w2);
				} else {
					w3 = direct_word(name + 24);
					hash = mix(hash, w2);
					w3 = word_cut(w3, len - 24);
					hash = mix(hash, w3);
				}
			}
		}
		s->name.words[0] = w0;
		s->name.words[1] = w1;
		s->name.words[2] = w2;
		s->name.words[3] = w3;
	} else {
		__u32 last = (len - 1) / 8;

		if (last >= NAME_WORDS)
			return 0;
		s->name.words[0] = 0;
		s->name.words[1] = 0;
		s->name.words[2] = 0;
		s->name.words[3] = 0;
		s->name.words[last] = 0;
		if (bpf_probe_read_kernel(s->name.bytes, len, (void *)name))
			return 0;
		hash = mix(seed, s->name.words[0]);
		if (len > 8)
			hash = mix(hash, s->name.words[1]);
		if (len > 16)
			hash = mix(hash, s->name.words[2]);
		if (len > 24)
			hash = mix(hash, s->name.words[3]);
	}
	if (len > NODE_INLINE)
		hash = name_tail(s, hash);
	s->name.hash = mix(hash, len);
	return 1;
}

/* ---- nodes ---- */

/* Whether the rest of the name in scratch is that in the string cells at `more`. Verified once, on its own. */
__noinline int tail_equal(struct scratch *s, __u64 more)
{
	__u64 word;
	__u32 w, len;

	if (!s)
		return 0;
	len = s->name.len;
#pragma clang loop unroll(disable)
	for (w = INLINE_WORDS; w < NAME_WORDS; w++) {
		if (w * 8 >= len)
			break;
		word = 0;
		if (direct_loads)
			word = direct_word(more + (w - INLINE_WORDS) * 8);
		else
			bpf_probe_read_kernel(&word, sizeof(word), (void *)(more + (w - INLINE_WORDS) * 8));
		if (s->name.words[w] != word)
			return 0;
	}
	return 1;
}

/* the cell is open */
static __always_inline int node_is(int direct, struct query *q, struct scratch *s, __u64 at, __u32 parent)
{
	if (cell_word(direct, s, at, WORD_OF(cell, node.parent)) != ((__u64)s->name.len << 32 | parent))
		return 0;
	if (cell_word(direct, s, at, WORD_OF(cell, node.name)) != s->name.words[0])
		return 0;
	if (s->name.len <= 8)
		return 1;
	if (cell_word(direct, s, at, WORD_OF(cell, node.name_on[0])) != s->name.words[1] ||
	    cell_word(direct, s, at, WORD_OF(cell, node.name_on[1])) != s->name.words[2] ||
	    cell_word(direct, s, at, WORD_OF(cell, node.name_on[2])) != s->name.words[3])
		return 0;
	if (s->name.len <= NODE_INLINE)
		return 1;
	return tail_equal(s, cell_address(q, SECOND(cell_word(direct, s, at, WORD_OF(cell, node.node)))));
}

/* The node for the component in scratch->name under `parent`: its address, the cell open; 0: no rule goes on there. */
static __always_inline __u64 node_find(int direct, struct query *q, struct scratch *s, __u32 parent)
{
	__u64 h = mix(s->name.hash, parent);
	__u64 at = q->table + (__u64)((__u32)h & q->mask) * CELL_BYTES;

	cell_open(direct, s, at);
	if (node_is(direct, q, s, at, parent))
		return at;
	at = q->table + (__u64)((__u32)(h >> 32) & q->mask) * CELL_BYTES;
	cell_open(direct, s, at);
	return node_is(direct, q, s, at, parent) ? at : 0;
}

/* A name that begins with ".." may be that of a directory which is replaced while the container runs; rules about
 * those stand under "..", which no dentry is called. 1: scratch->name is that now. */
static __always_inline int rotating(struct scratch *s, __u64 seed)
{
	if ((s->name.words[0] & 0xffff) != 0x2e2e)
		return 0;
	s->name.words[0] = 0x2e2e;
	s->name.words[1] = 0;
	s->name.words[2] = 0;
	s->name.words[3] = 0;
	s->name.len = 2;
	s->name.hash = mix(mix(seed, 0x2e2e), 2);
	return 1;
}

/* The node of the next component, or of the directory that it may be. */
static __always_inline __u64 node_next(int direct, struct query *q, struct scratch *s, __u32 parent)
{
	__u64 at = node_find(direct, q, s, parent);

	if (!at && rotating(s, q->seed))
		at = node_find(direct, q, s, parent);
	return at;
}

/* ---- decisions ---- */

static __always_inline __u32 decision_effect(__u32 decision)
{
	return (decision >> DECISION_EFFECT_SHIFT) & 3;
}

/* by effect, then by the smaller origin */
static __always_inline int decision_stronger(__u32 a, __u32 b)
{
	__u32 ea = decision_effect(a), eb = decision_effect(b);

	return ea > eb || (ea == eb && (a & DECISION_RULE) < (b & DECISION_RULE));
}

struct choosing {
	struct query *q;
	__u64 at;
	__u32 answer;
};

static long alternative_step(__u32 i, struct choosing *c)
{
	struct query *q = c->q;
	__u64 word = LIST_ANY, held, runs;
	__u32 list, applet;

	if (direct_loads)
		word = direct_word(c->at + 8 * (__u64)i);
	else
		bpf_probe_read_kernel(&word, sizeof(word), (void *)(c->at + 8 * (__u64)i));
	list = FIRST(word);
	applet = (list >> APPLET_SHIFT) & APPLET_MASK; /* 1 and on; 0 = any */
	held = q->held[(list >> 6) & (LIST_WORDS - 1)] >> (list & 63);
	runs = q->runs[((applet - 1) >> 6) & (LIST_WORDS - 1)] >> ((applet - 1) & 63);
	held = (held ^ list / LIST_NOT) | list / LIST_ANY; /* in its last bit */
	runs |= (__u64)((__s64)(__u64)applet - 1) >> 63;
	if (!(held & runs & 1))
		return 0;
	c->answer = SECOND(word);
	return 1;
}

/* The answer of a decision that hangs on arguments; 0: there is none, the compiler refuses such rules. Verified once, on
 * its own. */
__noinline __u32 alternative(struct query *q, __u32 decision)
{
	struct choosing c = {.q = q};

	if (!q)
		return 0;
	c.at = q->image + 4 * (__u64)(decision & DECISION_RULE);
	bpf_loop(MAX_ALTERNATIVES, alternative_step, &c, 0);
	return c.answer;
}

/* The entry of a decision cell for an access; 0 (EFFECT_NONE) where there is no such cell. */
static __always_inline __u32 decision_read(int direct, struct query *q, __u32 cell, __u32 condition)
{
	__u64 at = cell_address(q, cell) + 4 * (condition & (COND_COUNT - 1));
	__u32 d = 0;

	if (!cell)
		return 0;
	if (direct) /* on its 4 bytes; a word read there may reach into the next cell, which does no harm */
		d = FIRST(direct_word(at));
	else
		bpf_probe_read_kernel(&d, sizeof(d), (void *)at);
	return d & DECISION_ARGS ? alternative(q, d) : d;
}

/* ---- the descent ---- */

struct descending {
	struct query *q;
	struct scratch *s;
};

/* takes down that automata begin where the descent is */
static __always_inline long begin(struct scratch *s, __u32 automata)
{
	__u32 i = s->descent.begun;

	if (i >= MAX_BEGUN) { /* the compiler refuses such rules */
		s->descent.unreadable = 1;
		return 1;
	}
	s->descent.begins[i].automata = automata;
	s->descent.begins[i].n = s->descent.n;
	s->descent.begun = i + 1;
	return 0;
}

static __always_inline long descend(int direct, struct query *q, struct scratch *s)
{
	struct descent *m = &s->descent;
	__u64 dentry, at, word;
	__u32 d, decision;

	if (!m->n)
		return 1;
	m->n--;
	dentry = s->dentries[m->n & (MAX_COMPONENTS - 1)];
	if (!dentry) /* a mount was crossed */
		return 0;
	/* the directory reached so far, as the parent of what is left of the path */
	decision = dentry == q->leaf ? m->children : m->deep;
	if (decision) {
		d = decision_read(direct, q, decision, q->condition & ~COND_TREE);
		if (decision_effect(d))
			m->best = d;
	}
	if (!name_read(direct, s, dentry, q->seed)) {
		m->unreadable = 1;
		return 1;
	}
	at = node_next(direct, q, s, m->node);
	if (!at) {
		m->fell = 1;
		return 1;
	}
	m->node = FIRST(cell_word(direct, s, at, WORD_OF(cell, node.node)));
	word = cell_word(direct, s, at, WORD_OF(cell, node.exact));
	m->exact = FIRST(word);
	m->children = SECOND(word);
	word = cell_word(direct, s, at, WORD_OF(cell, node.deep));
	m->deep = FIRST(word);
	if (SECOND(word))
		return begin(s, SECOND(word));
	return 0;
}

static long descend_direct(__u32 i, struct descending *c)
{
	return descend(1, c->q, c->s);
}

static long descend_probing(__u32 i, struct descending *c)
{
	return descend(0, c->q, c->s);
}

/* From the node in scratch->descent down the path in scratch->dentries. In line, for calls nest eight deep at most. */
static __always_inline int descend_all(struct query *q, struct scratch *s)
{
	struct descending c = {.q = q, .s = s};

	s->descent.best = 0;
	s->descent.fell = 0;
	s->descent.unreadable = 0;
	/* a path with more components than the deepest rule can have leaves the tree before the ring's end */
	if (direct_loads)
		bpf_loop(MAX_COMPONENTS, descend_direct, &c, 0);
	else
		bpf_loop(MAX_COMPONENTS, descend_probing, &c, 0);
	return !s->descent.fell && !s->descent.unreadable && !s->descent.n;
}

static __always_inline __u32 image_field(struct query *q, __u32 cell, __u32 offset)
{
	__u64 at = cell_address(q, cell) + offset;
	__u32 value = 0;

	if (direct_loads)
		return FIRST(direct_word(at));
	bpf_probe_read_kernel(&value, sizeof(value), (void *)at);
	return value;
}

#include "automaton.bpf.h"

/* Decision of the rules about a base name; 0 = none decides. */
static __always_inline __u32 base_decide(int direct, struct query *q, struct scratch *s, __u32 base)
{
	__u64 at;

	if (!name_read(direct, s, q->leaf, q->seed)) {
		q->reason = REASON_UNREADABLE;
		return 0;
	}
	at = node_find(direct, q, s, base);
	if (!at)
		return 0;
	return decision_read(direct, q, FIRST(cell_word(direct, s, at, WORD_OF(cell, node.exact))),
			     q->condition & ~COND_TREE);
}

/* Decision of the rules below one root cell; 0 = none of them decides. */
static __always_inline __u32 root_decide(int direct, struct query *q, struct scratch *s, __u32 root)
{
	struct descent *m = &s->descent;
	__u64 at = cell_address(q, root), word;
	__u32 d, base, reached, condition = q->condition & ~COND_TREE;

	q->reason = 0;
	m->n = q->n;
	m->begun = 0;
	cell_open(direct, s, at);
	word = cell_word(direct, s, at, WORD_OF(cell, root.node));
	m->node = FIRST(word);
	base = SECOND(word);
	word = cell_word(direct, s, at, WORD_OF(cell, root.exact));
	m->exact = FIRST(word);
	m->children = SECOND(word);
	word = cell_word(direct, s, at, WORD_OF(cell, root.deep));
	m->deep = FIRST(word);
	if (SECOND(word))
		begin(s, SECOND(word));

	reached = descend_all(q, s);
	if (m->unreadable)
		goto unreadable;
	if (reached) {
		if (q->condition & COND_TREE) {
			d = decision_read(direct, q, m->exact, COND_TREE);
			if (decision_stronger(d, q->below))
				q->below = d;
		}
		d = decision_read(direct, q, m->exact, condition);
		if (decision_effect(d))
			goto decided;
		d = decision_read(direct, q, m->children, condition);
		if (decision_effect(d))
			m->best = d;
	}
	d = base && q->leaf ? base_decide(direct, q, s, base) : 0;
	if (q->reason)
		return 0;
decided:
	if (m->begun && (!decision_effect(d) || q->condition & COND_TREE)) {
		__u32 matched;

		m->decided = d;
		matched = patterns_decide(0, q, s);
		d = unaccounted(&m->decided);
		if (!decision_effect(d))
			d = matched;
	}
	return decision_effect(d) ? d : m->best;

unreadable:
	q->reason = REASON_UNREADABLE;
	return 0;
}

/* Verified once, on its own. */
__noinline __u32 match_root(struct query *q, struct scratch *s, __u32 root)
{
	if (!q || !s)
		return 0;
	return direct_loads ? root_decide(1, q, s, root) : root_decide(0, q, s, root);
}

/* The path in scratch->dentries as an executable that rules name: the source cell, 0 = none of them. */
__noinline __u32 match_source(struct query *q, struct scratch *s)
{
	int reached;

	if (!q || !s)
		return 0;
	q->reason = 0;
	if (!q->source_node)
		return 0;
	s->descent.n = q->n;
	s->descent.begun = 0;
	s->descent.node = q->source_node;
	s->descent.exact = 0;
	s->descent.children = 0;
	s->descent.deep = 0;
	reached = descend_all(q, s);
	if (s->descent.unreadable)
		q->reason = REASON_UNREADABLE;
	return reached && q->leaf ? s->descent.exact : 0;
}

/* The rules' answer for one class: first those of the acting executable, then those without a source, then what
 * the class says otherwise. Never EFFECT_NONE, unless there is a reason. */
static __always_inline __u32 match_class(struct query *q, struct scratch *s)
{
	__u32 d = 0, root;

	q->reason = 0;
	q->below = 0;
	if (q->source) {
		root = image_field(q, q->source, 4 * (q->class_ & CLASS_MASK));
		if (root)
			d = match_root(q, s, root);
	}
	root = image_field(q, q->class_cell, __builtin_offsetof(struct class_cell, root));
	if (!q->reason && root && (!decision_effect(d) || q->condition & COND_TREE)) {
		__u32 any = match_root(q, s, root);

		if (!decision_effect(d))
			d = any;
	}
	if (!q->reason && !decision_effect(d))
		d = image_field(q, q->class_cell, __builtin_offsetof(struct class_cell, otherwise));
	/* what is only observed is weaker than what an Audit rule says of something below */
	if (q->below && (decision_effect(q->below) > decision_effect(d) || (d & DECISION_RULE) == RULE_OBSERVED))
		d = q->below;
	return d;
}

#endif
