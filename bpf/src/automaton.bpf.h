/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Patterns: deterministic automata over the bytes of a path. The components of a pattern without a wildcard are in the
 * tree like those of any path; where the first wildcard comes the node has an automaton for the rest. The descent takes
 * down which it met, and each is then run over what follows its directory, and left as soon as it is dead.
 */
#ifndef AUTOMATON_BPF_H
#define AUTOMATON_BPF_H

/* context of the loops; where they are is in scratch->run */
struct running {
	struct scratch *s;
	struct automata_block *a;
};

#define NUMBERS(a) ((__u16 *)(a))
#define NEXT(a, state, byte)                                                                                           \
	(NUMBERS(a)[((state) + ROW_EDGES + (a)->classes[(byte) & 255]) & (BLOCK_NUMBERS - 1)])
#define STEP(a, state, word)                                                                                           \
	do {                                                                                                           \
		(state) = NEXT(a, state, word);                                                                        \
		(word) >>= 8;                                                                                          \
	} while (0)

static __always_inline __u32 run_eight(struct automata_block *a, __u32 state, __u64 word)
{
	STEP(a, state, word);
	STEP(a, state, word);
	STEP(a, state, word);
	STEP(a, state, word);
	STEP(a, state, word);
	STEP(a, state, word);
	STEP(a, state, word);
	STEP(a, state, word);
	return state;
}

/* fewer than eight */
static __always_inline __u32 run_some(struct automata_block *a, __u32 state, __u64 word, __u32 count)
{
	if (count & 4) {
		STEP(a, state, word);
		STEP(a, state, word);
		STEP(a, state, word);
		STEP(a, state, word);
	}
	if (count & 2) {
		STEP(a, state, word);
		STEP(a, state, word);
	}
	if (count & 1)
		STEP(a, state, word);
	return state;
}

static __always_inline __u32 row_of(struct automata_block *a, __u32 state, __u32 column)
{
	return NUMBERS(a)[(state + column) & (BLOCK_NUMBERS - 1)];
}

/* eight bytes of a name after the first word */
static long name_run_step(__u32 i, struct running *r)
{
	struct scratch *s = r->s;
	struct automata_block *a = r->a;
	__u32 state = s->run.state, left;
	__u64 word;

	i++;
	if (i >= NAME_WORDS || i * 8 >= s->name.len || row_of(a, state, ROW_STAYS))
		return 1;
	word = direct_loads ? direct_word(s->name.address + i * 8) : s->name.words[i];
	left = s->name.len - i * 8;
	s->run.state = left >= 8 ? run_eight(a, state, word) : run_some(a, state, word, left);
	return 0;
}

/* What is left of a name after its first word. Verified once, on its own. */
__noinline int name_run(struct scratch *s, struct automata_block *a)
{
	struct running r = {.s = s, .a = a};

	if (s && a)
		bpf_loop(NAME_WORDS, name_run_step, &r, 0);
	return 0;
}

/* One component; 1 = what follows makes no difference. */
static __always_inline long run(int direct, struct running *r)
{
	struct scratch *s = r->s;
	struct automata_block *a = r->a;
	__u32 state = s->run.state, len;
	__u64 dentry, word;

	if (!s->run.n)
		return 1;
	s->run.n--;
	dentry = s->dentries[s->run.n & (MAX_COMPONENTS - 1)];
	if (!dentry)
		return 0;
	state = NEXT(a, state, '/');
	if (row_of(a, state, ROW_STAYS))
		goto stays;
	if (direct) {
		len = DIRECT(struct dentry, dentry)->d_name.len;
		s->name.address = (__u64)DIRECT(struct dentry, dentry)->d_name.name;
		word = direct_word(s->name.address);
	} else {
		len = BPF_CORE_READ((struct dentry *)dentry, d_name.len);
		if (len > NAME_BYTES ||
		    bpf_probe_read_kernel(s->name.bytes, len & NAME_BYTES, BPF_CORE_READ((struct dentry *)dentry, d_name.name)))
			len = 0;
		word = s->name.words[0];
	}
	if (!len || len > NAME_BYTES) {
		s->descent.unreadable = 1;
		return 1;
	}
	STEP(a, state, word);
	if (!row_of(a, state, ROW_STAYS)) {
		/* the word has seven bytes left */
		if (len <= 8) {
			state = run_some(a, state, word, len - 1);
		} else {
			s->name.len = len;
			s->run.state = run_some(a, state, word, 7);
			name_run(s, a);
			state = s->run.state;
		}
	}
stays:
	s->run.state = state;
	return row_of(a, state, ROW_STAYS) == STAYS;
}

static long run_direct(__u32 i, struct running *r)
{
	return run(1, r);
}

static long run_probing(__u32 i, struct running *r)
{
	return run(0, r);
}

/* the same for paths of usual depth, turn by turn */
static __always_inline void run_quickly(struct running *r)
{
	__u32 i;

	for (i = 0; i < FAST_STEPS; i++)
		if (run(1, r))
			break;
}

static __always_inline __u32 automaton(int quickly, struct query *q, struct scratch *s, __u32 first, __u32 n)
{
	struct running r = {.s = s};
	__u32 place, block = first >> 16, below, d;
	void *blocks;

	place = q->place;
	blocks = bpf_map_lookup_elem(&automata, &place);
	r.a = blocks ? bpf_map_lookup_elem(blocks, &block) : 0;
	if (!r.a || r.a->ruleset != q->ruleset) {
		q->reason = REASON_NO_RULES;
		return 0;
	}
	s->run.state = first & 0xffff;
	s->run.n = n;
	below = row_of(r.a, s->run.state, ROW_DECISION);
	if (!q->leaf) /* the path is "/" */
		s->run.state = NEXT(r.a, s->run.state, '/');
	else if (quickly)
		run_quickly(&r);
	else if (direct_loads)
		bpf_loop(MAX_COMPONENTS, run_direct, &r, 0);
	else
		bpf_loop(MAX_COMPONENTS, run_probing, &r, 0);
	if (s->descent.unreadable) {
		q->reason = REASON_UNREADABLE;
		return 0;
	}
	if (s->run.state == STATE_DEAD)
		return 0;
	if (q->leaf && s->run.n && row_of(r.a, s->run.state, ROW_STAYS) != STAYS) { /* deeper than the ring */
		q->reason = REASON_TOO_DEEP;
		return 0;
	}
	if (q->condition & COND_TREE) {
		if (q->leaf)
			below = row_of(r.a, s->run.state, ROW_DECISION);
		d = decision_read(direct_loads, q, below, COND_TREE);
		if (decision_stronger(d, q->below))
			q->below = d;
	}
	d = row_of(r.a, s->run.state, ROW_DECISION);
	return decision_read(direct_loads, q, d, q->condition & ~COND_TREE);
}

/* The stronger effect, then the smaller origin, then the plain one before the exemption. */
static __always_inline int pattern_stronger(__u32 d, __u32 best)
{
	return decision_effect(d) && (!best || decision_stronger(d, best) ||
				      ((d ^ best) == DECISION_EXEMPT && best & DECISION_EXEMPT));
}

/* What one automaton says about the rest of the path in scratch->dentries, the last `n` slots: in scratch->descent.matched,
 * if that is stronger than what is there. 1: q->reason says why it cannot be told. */
static __always_inline int automaton_as(int quickly, struct query *q, struct scratch *s, __u32 first, __u32 n)
{
	__u32 d;

	if (!q || !s)
		return 1;
	d = automaton(quickly, q, s, first, n);
	if (q->reason)
		return 1;
	if (pattern_stronger(d, unaccounted(&s->descent.matched)))
		s->descent.matched = d;
	return 0;
}

/* Verified once, on their own. */
__noinline int automaton_decide(struct query *q, struct scratch *s, __u32 first, __u32 n)
{
	return automaton_as(0, q, s, first, n);
}

__noinline int automaton_quickly(struct query *q, struct scratch *s, __u32 first, __u32 n)
{
	return direct_loads ? automaton_as(1, q, s, first, n) : 0;
}

/* The strongest answer of the automata that the descent met; 0 = no pattern matches. It is in scratch->descent.matched
 * meanwhile, so that the verifier goes through each turn once. */
static __always_inline __u32 patterns_decide(int quickly, struct query *q, struct scratch *s)
{
	__u32 i, k, first;

	s->descent.matched = 0;
	for (i = 0; i < MAX_BEGUN; i++) {
		if (i >= unaccounted(&s->descent.begun))
			break;
		for (k = 0; k < MAX_AUTOMATA; k++) {
			first = image_field(q, s->descent.begins[i].automata, 4 * k);
			if (!first)
				break;
			if (quickly ? automaton_quickly(q, s, first, s->descent.begins[i].n)
				    : automaton_decide(q, s, first, s->descent.begins[i].n))
				return 0;
		}
	}
	return unaccounted(&s->descent.matched);
}

#endif
