/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The arguments of a program that is about to be executed, and which lists of rules hold all of them.
 *
 * They are read where the kernel has copied them to: the top of the new program's memory, which no other task knows
 * yet, so nobody can change them between this and the moment when the program sees them. No helper reads that memory
 * before it is the task's own, so its page tables are walked here, and the pages read through the kernel's own mapping
 * of all memory. Only the executing task itself puts pages there. The kernel may take one away meanwhile (to swap);
 * then its entry has changed, and the arguments count as unreadable. It never comes back while this runs.
 *
 * Busybox does what its name says, or its first argument after it: which of its programs that is, is found out here too.
 *
 * Arguments that cannot be read, or are longer together than what is looked at, are on no list: rules that allow
 * with `allowedArgs` do not cover them, and those that block exempt nothing.
 */
#ifndef ARGS_BPF_H
#define ARGS_BPF_H

#define ARGS_PAGE 4096u
#define ARGS_STEPS (ARGS_BYTES / ARGS_PAGE + 1)

#if defined(__TARGET_ARCH_x86)

/* arch/x86/kernel/head64.c, arch/x86/mm/init.c; weak as the locks in walk.bpf.h are */
extern const void page_offset_base __ksym __weak;
extern const void pgdir_shift __ksym __weak;
extern const void physical_mask __ksym __weak;
extern const void xen_domain_type __ksym __weak; /* arch/x86/xen/enlighten.c; only where the kernel can run under Xen */

#define XEN_PV_DOMAIN 1u /* include/xen/xen.h */

#define PAGE_PRESENT 1ULL
#define PAGE_LARGE 0x80ULL
#define PAGE_FRAME 0x000ffffffffff000ULL
#define PAGE_SHIFT 12
#define TABLE_LEVELS 5

struct mapping {
	__u64 at;    /* address of the last table's entry */
	__u64 entry;
	__u64 page;  /* where the kernel sees the page; 0: it is not there */
};

/* Where the page that holds `address` is. `pgd` is the first table of the memory. */
static __always_inline void mapping_find(struct mapping *m, __u64 pgd, __u64 address)
{
	__u64 base = 0, mask = ~0ULL, table = pgd, at, entry;
	__u32 shift = 0, xen = 0, i;

	m->page = 0;
	/* there the entries name the frames of the machine, not those of the kernel's mapping */
	if (&xen_domain_type && (bpf_probe_read_kernel(&xen, sizeof(xen), &xen_domain_type) || xen == XEN_PV_DOMAIN))
		return;
	if (!&page_offset_base || !&pgdir_shift)
		return;
	bpf_probe_read_kernel(&base, sizeof(base), &page_offset_base);
	bpf_probe_read_kernel(&shift, sizeof(shift), &pgdir_shift);
	if (&physical_mask) /* leaves out what encrypted memory marks its pages with */
		bpf_probe_read_kernel(&mask, sizeof(mask), &physical_mask);
	mask &= PAGE_FRAME;
	if (!table || !base)
		return;
	for (i = 0; i < TABLE_LEVELS; i++) {
		at = table + (address >> (shift & 63) & 511) * 8;
		if (bpf_probe_read_kernel(&entry, sizeof(entry), (void *)at) || !(entry & PAGE_PRESENT))
			return;
		table = base + (entry & mask);
		if (shift == PAGE_SHIFT) {
			m->at = at;
			m->entry = entry;
			m->page = table;
			return;
		}
		if (entry & PAGE_LARGE) /* never of such a stack */
			return;
		shift -= 9;
	}
}

static __always_inline int mapping_holds(struct mapping *m)
{
	__u64 entry = 0;

	return !bpf_probe_read_kernel(&entry, sizeof(entry), (void *)m->at) && entry == m->entry;
}

struct reading {
	struct scratch *s;
	__u64 pgd;
	__u64 address;
	__u32 len;    /* bytes read so far */
	__u32 wanted;
	__u32 failed;
	__u32 pad;
};

static long read_step(__u32 i, struct reading *c)
{
	struct mapping m = {};
	__u32 at = c->len, offset = c->address & (ARGS_PAGE - 1), n = ARGS_PAGE - offset;

	if (at >= c->wanted || at > ARGS_BYTES)
		return 1;
	if (n > c->wanted - at)
		n = c->wanted - at;
	asm volatile("" : "+r"(n));
	n = ((n - 1) & (ARGS_PAGE - 1)) + 1; /* as it is: for the verifier's sake */
	c->failed = 1;
	mapping_find(&m, c->pgd, c->address);
	if (!m.page || bpf_probe_read_kernel(&c->s->args[at], n, (void *)(m.page + offset)) || !mapping_holds(&m))
		return 1;
	c->failed = 0;
	c->len = at + n;
	c->address += n;
	return 0;
}

/* The strings of a program's start, the arguments first, into scratch->args; how many bytes, 0 = unreadable. */
static __always_inline __u32 args_read(struct scratch *s, struct linux_binprm *bprm)
{
	struct reading c = {.s = s};
	__u64 end = BPF_CORE_READ(bprm, exec); /* above the arguments and the environment, or a little further */

	c.address = BPF_CORE_READ(bprm, p);
	c.pgd = (__u64)BPF_CORE_READ(bprm, mm, pgd);
	if (end <= c.address)
		return 0;
	c.wanted = end - c.address > ARGS_BYTES ? ARGS_BYTES : end - c.address;
	bpf_loop(ARGS_STEPS, read_step, &c, 0);
	return c.failed ? 0 : c.len;
}

#else

static __always_inline __u32 args_read(struct scratch *s, struct linux_binprm *bprm)
{
	return 0; /* other machines' page tables are not known here */
}

#endif

struct listing {
	struct query *q;
	struct scratch *s;
	__u32 at;    /* in scratch->args */
	__u32 len;   /* bytes there */
	__u32 left;  /* arguments still to come, this one included */
	__u32 first; /* this is argv[0], which no list is about */
	__u32 root;  /* node under which arguments stand */
	__u32 node;  /* where this one has come to */
};

/* Word `i` of a cell of lists at `at`. */
static __always_inline __u64 lists_word(__u64 at, __u32 i)
{
	__u64 word = 0;

	if (direct_loads)
		return direct_word(at + 8 * i);
	bpf_probe_read_kernel(&word, sizeof(word), (void *)(at + 8 * i));
	return word;
}

/* What a cell of lists has in common with what holds so far; whether anything is left. Verified once, on its own. */
__noinline int held_by(struct query *q, __u32 cell)
{
	__u64 at, any = 0;
	__u32 i;

	if (!q)
		return 0;
	at = cell_address(q, cell);
	for (i = 0; i < LIST_WORDS; i++) {
		q->held[i] = cell ? q->held[i] & lists_word(at, i) : 0;
		any |= q->held[i];
	}
	return any != 0;
}

/* q->runs out of a cell; 0 = none */
static __always_inline void runs_read(struct query *q, __u32 cell)
{
	__u64 at = cell_address(q, cell);
	__u32 i;

	for (i = 0; i < LIST_WORDS; i++)
		q->runs[i] = cell ? lists_word(at, i) : 0;
}

/* The hash is worked out as in name_read: in a function for both the compiler loses the bound of `len` on the way to a
 * copy, for the verifier of 6.1.
 *
 * scratch->name from the `len` bytes that have been copied into it, which also stand in scratch->args at `at`. Verified
 * once, on its own. */
__noinline int name_settle(struct scratch *s, __u32 len, __u32 at, __u64 seed)
{
	__u32 last = (len - 1) / 8;
	__u64 hash;

	if (!s || last >= NAME_WORDS || at >= ARGS_BYTES)
		return 0;
	s->name.words[last] = word_cut(s->name.words[last], len - 8 * last);
	if (last < 3)
		s->name.words[3] = 0;
	if (last < 2)
		s->name.words[2] = 0;
	if (last < 1)
		s->name.words[1] = 0;
	s->name.len = len;
	s->name.address = (__u64)&s->args[at];
	hash = mix(seed, s->name.words[0]);
	if (len > 8)
		hash = mix(hash, s->name.words[1]);
	if (len > 16)
		hash = mix(hash, s->name.words[2]);
	if (len > 24)
		hash = mix(hash, s->name.words[3]);
	if (len > NODE_INLINE)
		hash = name_tail(s, hash);
	s->name.hash = mix(hash, len);
	return 0;
}

/* One piece of an argument. Arguments stand in the tree in pieces of ARG_PIECE bytes, the last one shorter. */
static long list_step(__u32 i, struct listing *c)
{
	struct scratch *s = c->s;
	struct query *q = c->q;
	__u32 at = c->at, end;
	__u64 found;
	long n;

	if (!c->left)
		return 1;
	if (at >= c->len || at >= ARGS_BYTES)
		goto unseen;
	n = bpf_probe_read_kernel_str(s->name.bytes, ARG_PIECE + 1, &s->args[at]);
	if (n < 1 || n > ARG_PIECE + 1)
		goto unseen;
	n--;
	end = at + n;
	if (end >= c->len || end >= ARGS_BYTES)
		goto unseen;
	c->at = end;
	if (s->args[end]) {
		if (c->first)
			return 0;
	} else {
		c->at++;
		c->left--;
		if (c->first) {
			c->first = 0;
			return 0;
		}
	}
	if (!n) { /* an empty one; pieces after the first never are, but where the length is a multiple of theirs */
		if (c->node == c->root)
			return !held_by(q, image_field(q, q->class_cell, __builtin_offsetof(struct class_cell, no_arg)));
		goto unseen;
	}
	name_settle(s, n, at, q->seed);
	found = node_find(direct_loads, q, s, c->node);
	if (!found) {
		held_by(q, 0);
		return 1;
	}
	if (s->args[end]) {
		c->node = FIRST(cell_word(direct_loads, s, found, WORD_OF(cell, node.node)));
		return 0;
	}
	c->node = c->root;
	return !held_by(q, FIRST(cell_word(direct_loads, s, found, WORD_OF(cell, node.exact))));
unseen:
	q->unseen = EVENT_ARGS_UNSEEN;
	held_by(q, 0);
	return 1;
}

/* Where the search for a busybox's own name is: it is what follows the last slash of the first argument, after the dash of a
 * login shell; where that is `busybox...`, of the next one, and so on (libbb/appletlib.c). */
struct naming {
	struct scratch *s;
	__u32 at;
	__u32 len;
	__u32 left;  /* arguments still to come, this one included */
	__u32 begin; /* of the name */
	__u32 n;     /* bytes of the name that was found */
	__u32 known; /* what it is, or that there is none, has been found out */
};

#define OWN_NAME 7 /* bytes of "busybox" */

static long naming_step(__u32 i, struct naming *c)
{
	struct scratch *s = c->s;
	__u32 at = c->at, begin = c->begin;
	char byte;

	if (at >= c->len || at >= ARGS_BYTES)
		return 1;
	byte = s->args[at];
	c->at = at + 1;
	if (byte == '/' || (byte == '-' && !at))
		c->begin = at + 1;
	if (byte)
		return 0;
	if (begin < ARGS_BYTES && at - begin >= OWN_NAME && s->args[begin] == 'b' && s->args[begin + 1] == 'u' &&
	    s->args[begin + 2] == 's' && s->args[begin + 3] == 'y' && s->args[begin + 4] == 'b' &&
	    s->args[begin + 5] == 'o' && s->args[begin + 6] == 'x') {
		c->begin = at + 1;
		c->left--;
		c->known = !c->left;
		return c->known;
	}
	c->n = at - begin;
	c->known = 1;
	return 1;
}

/* Which applets the program in scratch->args is, should it be busybox: in q->runs. */
static __always_inline void applet_find(struct query *q, struct scratch *s)
{
	struct naming c = {.s = s};
	__u32 root = image_field(q, q->class_cell, __builtin_offsetof(struct class_cell, applets));
	__u64 found;
	__u32 begin, n;

	if (!root)
		return;
	c.left = q->args;
	c.len = q->args_len;
	c.at = s->zero;
	bpf_loop(ARGS_BYTES, naming_step, &c, 0);
	if (!c.known) /* longer than what is looked at */
		return;
	runs_read(q, 0);
	begin = c.begin;
	n = c.n;
	if (!n || n > ARG_PIECE || begin >= ARGS_BYTES)
		return;
	if (bpf_probe_read_kernel_str(s->name.bytes, ARG_PIECE + 1, &s->args[begin]) < 0)
		return;
	name_settle(s, n, begin, q->seed);
	found = node_find(direct_loads, q, s, root);
	if (found)
		runs_read(q, FIRST(cell_word(direct_loads, s, found, WORD_OF(cell, node.exact))));
}

/* Which lists hold all arguments in scratch->args but the first: in q->held. Verified once, on its own, as all that follows. */
__noinline int args_list(struct query *q, struct scratch *s)
{
	struct listing c = {.q = q, .s = s, .first = 1};
	__u32 i;

	if (!q || !s || !q->args)
		return 0;
	for (i = 0; i < LIST_WORDS; i++)
		q->held[i] = ~0ULL;
	c.root = image_field(q, q->class_cell, __builtin_offsetof(struct class_cell, args));
	c.node = c.root;
	c.left = q->args;
	c.len = q->args_len;
	c.at = s->zero;
	if (c.left > 1)
		bpf_loop(ARGS_BYTES + 1, list_step, &c, 0);
	if (q->args > 1 && c.left && !q->unseen) /* not at the end: one of them is on no list */
		held_by(q, 0);
	return 0;
}

__noinline int applet_list(struct query *q, struct scratch *s)
{
	if (q && s && q->args)
		applet_find(q, s);
	return 0;
}

/* Nothing is known of the arguments: no list holds them, and which applet it is cannot be told. */
__noinline int args_unknown(struct query *q)
{
	__u32 i;

	if (!q)
		return 0;
	q->args = 0;
	for (i = 0; i < LIST_WORDS; i++)
		q->held[i] = 0;
	runs_read(q, image_field(q, q->class_cell, __builtin_offsetof(struct class_cell, doubt)));
	return 0;
}

/* Reads the arguments of a program that is being executed; 0: none is. Nothing more is known of them yet. */
__noinline int args_find(struct query *q, struct scratch *s, __u64 address)
{
	struct linux_binprm *bprm = (struct linux_binprm *)address;
	int count;

	if (!q || !s)
		return 0;
	args_unknown(q);
	if (!bprm)
		return 0;
	q->args_len = args_read(s, bprm);
	count = BPF_CORE_READ(bprm, argc);
	if (q->args_len && count > 0)
		q->args = count;
	else
		q->unseen = EVENT_ARGS_UNREADABLE;
	return 0;
}

#endif
