/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a path to a decision.
 *
 * An image holds a tree of path components per class and source. The tree is walked from the root down and left at
 * the first component that no rule continues with, so the cost depends on how far the path agrees with some rule,
 * never on how many rules there are. A node is found by a hash of (parent, component) in one of two slots and then
 * compared byte by byte: the hash only says where to look, so no crafted name can pass for another.
 */
#ifndef MATCH_BPF_H
#define MATCH_BPF_H

#define NAME_WORDS ((NAME_BYTES + 1) / 8)

static __always_inline __u64 mix(__u64 a, __u64 b)
{
	a = (a ^ b) * 0x9e3779b97f4a7c15ULL;
	return a ^ (a >> 32);
}

static __always_inline struct cell *cell_at(void *image, __u32 index)
{
	return bpf_map_lookup_elem(image, &index);
}

struct rest {
	struct scratch *scratch;
	__u64 hash;
	__u32 words; /* of the name */
};

static long hash_step(__u32 i, struct rest *r)
{
	__u32 w = NODE_INLINE / 8 + i;

	if (w >= r->words || w >= NAME_WORDS)
		return 1;
	r->hash = mix(r->hash, r->scratch->name.words[w]);
	return 0;
}

/* Reads the name of a dentry into scratch->name, with its hash. The words that a node holds, and the last one, are filled with zeros, and the former
 * are hashed and compared whatever the length: straight code for names that are short, as most are. 0: unreadable.
 * Verified once, on its own, as are the other functions here that are not static. */
__noinline int component_read(struct scratch *s, __u64 dentry, __u64 seed)
{
	const unsigned char *name;
	__u64 hash;
	__u32 len, last;

	if (!s)
		return 0;
	len = BPF_CORE_READ((struct dentry *)dentry, d_name.len);
	name = BPF_CORE_READ((struct dentry *)dentry, d_name.name);
	if (len == 0 || len > NAME_BYTES)
		return 0;
	last = (len - 1) / 8;
	if (last >= NAME_WORDS)
		return 0;
	s->name.words[0] = 0;
	s->name.words[1] = 0;
	s->name.words[2] = 0;
	s->name.words[3] = 0;
	s->name.words[last] = 0;
	if (bpf_probe_read_kernel(s->name.bytes, len, name))
		return 0;
	hash = mix(seed, s->name.words[0]);
	hash = mix(hash, s->name.words[1]);
	hash = mix(hash, s->name.words[2]);
	hash = mix(hash, s->name.words[3]);
	if (len > NODE_INLINE) {
		struct rest r = {.scratch = s, .hash = hash, .words = last + 1};

		bpf_loop(NAME_WORDS - NODE_INLINE / 8, hash_step, &r, 0);
		hash = r.hash;
	}
	s->name.hash = mix(hash, len);
	s->name.len = len;
	return 1;
}

struct tail {
	void *image;
	struct scratch *scratch;
	__u32 more;
	__u32 words; /* of the name, NODE_INLINE included */
	__u32 equal;
};

static long tail_step(__u32 i, struct tail *t)
{
	__u32 w = NODE_INLINE / 8 + i;
	struct cell *c;

	if (w >= t->words || w >= NAME_WORDS)
		return 1;
	c = cell_at(t->image, t->more + i / (CELL_BYTES / 8));
	if (c && t->scratch->name.words[w] == c->words[i & (CELL_BYTES / 8 - 1)])
		return 0;
	t->equal = 0;
	return 1;
}

static __always_inline int node_is(void *image, struct scratch *s, struct node_cell *n, __u32 parent)
{
	if (n->parent != parent || n->tag != (__u32)s->name.hash || n->len != s->name.len)
		return 0;
	if (n->name[0] != s->name.words[0] || n->name[1] != s->name.words[1] || n->name[2] != s->name.words[2] ||
	    n->name[3] != s->name.words[3])
		return 0;
	if (s->name.len > NODE_INLINE) {
		struct tail t = {
			.image = image, .scratch = s, .more = n->more, .words = (s->name.len + 7) / 8, .equal = 1};

		bpf_loop(NAME_WORDS - NODE_INLINE / 8, tail_step, &t, 0);
		return t.equal;
	}
	return 1;
}

/* The node for the component in scratch->name under `parent`; NULL: no rule goes on there. */
static __noinline struct node_cell *node_find(void *image, struct scratch *s, __u32 table, __u32 mask,
						   __u32 parent)
{
	__u64 h = mix(s->name.hash, parent);
	struct cell *n = cell_at(image, table + ((__u32)h & mask));

	if (n && node_is(image, s, &n->node, parent))
		return &n->node;
	n = cell_at(image, table + ((__u32)(h >> 32) & mask));
	if (n && node_is(image, s, &n->node, parent))
		return &n->node;
	return 0;
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
	s->name.hash = mix(mix(mix(mix(mix(seed, 0x2e2e), 0), 0), 0), 2);
	return 1;
}

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

/* The entry of a decision cell for an access; 0 (EFFECT_NONE) where there is no such cell. */
static __always_inline __u32 decision_read(void *image, __u32 cell, __u32 condition)
{
	struct cell *c;

	if (!cell)
		return 0;
	c = cell_at(image, cell);
	if (!c)
		return 0;
	return c->decision.by_condition[condition & (COND_COUNT - 1)];
}

struct matching {
	void *image;
	struct scratch *scratch;
	__u64 seed;
	__u64 leaf;
	__u32 table, mask;
	__u32 n;	/* components of the path */
	__u32 condition;
	__u32 node;	/* where the descent is, and its decisions */
	__u32 exact, children, deep;
	__u32 best;	/* decision of the deepest directory so far */
	__u32 fell;	/* left the tree before the path's end */
	__u32 unreadable;
	__u32 pad;
};

static long match_step(__u32 i, struct matching *m)
{
	struct scratch *s = m->scratch;
	struct node_cell *n;
	__u32 d;

	if (i >= m->n)
		return 1;
	/* the directory reached so far, as the parent of what is left of the path */
	d = decision_read(m->image, i + 1 == m->n ? m->children : m->deep, m->condition);
	if (decision_effect(d))
		m->best = d;
	if (!component_read(s, s->dentries[(m->n - 1 - i) & (MAX_COMPONENTS - 1)], m->seed)) {
		m->unreadable = 1;
		return 1;
	}
	n = node_find(m->image, s, m->table, m->mask, m->node);
	if (!n && rotating(s, m->seed))
		n = node_find(m->image, s, m->table, m->mask, m->node);
	if (!n) {
		m->fell = 1;
		return 1;
	}
	m->node = n->node;
	m->exact = n->exact;
	m->children = n->children;
	m->deep = n->deep;
	return 0;
}

static __always_inline int match_begin(struct matching *m, struct query *q, struct scratch *s, struct header_cell *h)
{
	m->scratch = s;
	m->seed = h->seed;
	m->leaf = q->leaf;
	m->table = h->table;
	m->mask = h->mask;
	m->n = q->n;
	m->condition = q->condition & ~COND_TREE;
	return h->version == IMAGE_VERSION;
}

/* Decision of the rules below one root cell; 0 = none of them decides. */
__noinline __u32 match_root(struct query *q, struct scratch *s, __u32 root)
{
	struct matching m = {};
	struct cell *h, *r;
	__u32 d, base, id;

	if (!q || !s)
		return 0;
	id = q->ruleset;
	q->reason = REASON_NO_RULES;
	m.image = bpf_map_lookup_elem(&rulesets, &id);
	if (!m.image)
		return 0;
	h = cell_at(m.image, 0);
	r = cell_at(m.image, root);
	if (!h || !r || !match_begin(&m, q, s, &h->header))
		return 0;
	q->reason = 0;
	m.node = r->root.node;
	m.exact = r->root.exact;
	m.children = r->root.children;
	m.deep = r->root.deep;
	base = r->root.base;
	/* a path with more components than the deepest rule can have leaves the tree before the ring's end */
	bpf_loop(MAX_COMPONENTS, match_step, &m, 0);
	if (m.unreadable)
		goto unreadable;
	if (!m.fell && m.n <= MAX_COMPONENTS) {
		if (q->condition & COND_TREE) {
			d = decision_read(m.image, m.exact, COND_TREE);
			if (decision_stronger(d, q->below))
				q->below = d;
		}
		d = decision_read(m.image, m.exact, m.condition);
		if (decision_effect(d))
			return d;
		d = decision_read(m.image, m.children, m.condition);
		if (decision_effect(d))
			m.best = d;
	}
	if (base && m.leaf) {
			struct node_cell *n;

		if (!component_read(s, m.leaf, m.seed))
			goto unreadable;
		n = node_find(m.image, s, m.table, m.mask, base);
		if (n) {
			d = decision_read(m.image, n->exact, m.condition);
			if (decision_effect(d))
				return d;
		}
	}
	return m.best;

unreadable:
	q->reason = REASON_UNREADABLE;
	return 0;
}

/* The path in scratch->dentries as an executable that rules name: the source cell, 0 = none of them. */
__noinline __u32 match_source(struct query *q, struct scratch *s)
{
	struct matching m = {};
	struct cell *h;
	__u32 id;

	if (!q || !s)
		return 0;
	id = q->ruleset;
	q->reason = REASON_NO_RULES;
	m.image = bpf_map_lookup_elem(&rulesets, &id);
	if (!m.image)
		return 0;
	h = cell_at(m.image, 0);
	if (!h || !match_begin(&m, q, s, &h->header))
		return 0;
	q->reason = 0;
	m.node = h->header.source_node;
	if (!m.node)
		return 0;
	bpf_loop(MAX_COMPONENTS, match_step, &m, 0);
	if (m.unreadable)
		q->reason = REASON_UNREADABLE;
	if (m.unreadable || m.fell || m.n > MAX_COMPONENTS || !m.n)
		return 0;
	return m.exact;
}

/* The rules' answer for one class: first those of the acting executable, then those without a source, then what
 * the class says otherwise. Never EFFECT_NONE, unless there is a reason. */
static __always_inline __u32 match_class(struct query *q, struct scratch *s)
{
	struct cell *h, *k, *c;
	void *image;
	__u32 id, d = 0, root, otherwise;

	if (!q || !s)
		return 0;
	id = q->ruleset;
	q->reason = REASON_NO_RULES;
	image = bpf_map_lookup_elem(&rulesets, &id);
	if (!image)
		return 0;
	h = cell_at(image, 0);
	if (!h)
		return 0;
	k = cell_at(image, h->header.classes[q->class_ & CLASS_MASK]);
	if (!k)
		return 0;
	root = k->class_.root;
	otherwise = k->class_.otherwise;
	q->reason = 0;
	q->below = 0;
	if (q->source) {
		c = cell_at(image, q->source);
		if (c && c->source.roots[q->class_ & CLASS_MASK])
			d = match_root(q, s, c->source.roots[q->class_ & CLASS_MASK]);
	}
	if (!q->reason && root && (!decision_effect(d) || q->condition & COND_TREE)) {
		__u32 any = match_root(q, s, root);

		if (!decision_effect(d))
			d = any;
	}
	if (!q->reason && !decision_effect(d))
		d = otherwise;
	if (decision_effect(q->below) > decision_effect(d))
		d = q->below;
	return d;
}

#endif
