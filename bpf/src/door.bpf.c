/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Doors onto the walker and the matcher for tests and benchmarks: SEC("syscall") programs, never attached. A door
 * lays out the given path as a chain of dentries in map memory, with the field offsets of the running kernel, and
 * then goes the very way that a hook goes.
 */

#define FAKE_BYTES 128	 /* holds d_parent and d_name of a struct dentry */
#define FAKE_MOUNT 1024	 /* holds the fields of a struct mount that the walk reads */
#define FAKE_DENTRIES 4096 /* more than a path of PATH_BYTES has components; a power of two for the mask */

struct door_objects {
	char dentries[FAKE_DENTRIES * FAKE_BYTES];
	char mount[FAKE_MOUNT];
	char namespace[FAKE_MOUNT];
	char inode[FAKE_MOUNT];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct door_objects);
} door_objects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct door_paths);
} door_input SEC(".maps");

struct layout {
	struct door_objects *objects;
	__u8 *path;
	__u32 len;
	__u32 begin; /* of the current component */
	__u32 n;
};

static __always_inline char *fake_dentry(struct door_objects *o, __u32 i)
{
	return &o->dentries[(i & (FAKE_DENTRIES - 1)) * FAKE_BYTES];
}

static __always_inline void fake_fill(struct door_objects *o, __u32 i, __u32 parent, __u64 name, __u32 len)
{
	char *d = fake_dentry(o, i), *p = fake_dentry(o, parent);

	*(__u64 *)(d + bpf_core_field_offset(struct dentry, d_parent)) = (__u64)p;
	*(__u32 *)(d + bpf_core_field_offset(struct dentry, d_name.len)) = len;
	*(__u64 *)(d + bpf_core_field_offset(struct dentry, d_name.name)) = name;
}

static long layout_step(__u32 i, struct layout *l)
{
	if (i > l->len || i > PATH_BYTES)
		return 1;
	if (i == l->len || (i < PATH_BYTES && l->path[i] == '/')) {
		if (i > l->begin) {
			l->n++;
			fake_fill(l->objects, l->n, l->n - 1, (__u64)l->path + l->begin, i - l->begin);
		}
		l->begin = i + 1;
	}
	return 0;
}

/* the walk over a laid out path; the reason, 0 = complete */
static __noinline __u32 door_walk(struct walk *w, struct scratch *s, struct door_objects *o, __u8 *path, __u32 len)
{
	struct layout l = {.objects = o, .path = path, .len = len};
	char *root;

	if (!w || !s || !o || !path)
		return REASON_UNREADABLE;
	l.n = s->zero;
	root = fake_dentry(o, 0);
	fake_fill(o, 0, 0, (__u64)path, 1);
	bpf_loop(PATH_BYTES + 1, layout_step, &l, 0);
	*(__u64 *)(o->mount + bpf_core_field_offset(struct mount, mnt_parent)) = (__u64)o->mount;
	*(__u64 *)(o->mount + bpf_core_field_offset(struct mount, mnt.mnt_root)) = (__u64)root;
	*(__u64 *)(o->mount + bpf_core_field_offset(struct mount, mnt_ns)) = (__u64)o->namespace;
	*(__u32 *)(o->namespace + bpf_core_field_offset(struct mnt_namespace, ns.inum)) = DOOR_MOUNT_NAMESPACE;
	*(__u32 *)(o->inode + bpf_core_field_offset(struct inode, i_uid.val)) = (__u32)-2; /* nobody that acts */
	w->dentry = (__u64)fake_dentry(o, l.n);
	w->mnt = (__u64)o->mount + bpf_core_field_offset(struct mount, mnt);
	return walk_up(w, s);
}

/* The arguments that are laid out. A function of its own: stacks are small. */
static __noinline void door_args(struct query *q, struct scratch *s)
{
	__u32 zero = 0;
	struct door_paths *in = bpf_map_lookup_elem(&door_input, &zero);

	args_find(q, s, 0);
	if (in && in->args_count && !bpf_probe_read_kernel(s->args, ARGS_BUFFER, in->args)) {
		q->args = in->args_count;
		q->args_len = in->args_len;
		args_list(q, s);
		applet_list(q, s);
	}
}

static __always_inline __u32 door_once(struct scratch *s, struct door_objects *o, struct door_paths *in,
				       struct door_match *d)
{
	struct attempt *a = &s->attempt;
	struct query *q = &a->query;
	struct walk *w = &a->walk;
	int known;

	q->class_ = d->class_;
	known = class_read(a, 0, DOOR_CONTAINER);
	if (!known)
		return REASON_NO_RULES;
	if (known < 0) {
		d->decision = EFFECT_ALLOW << DECISION_EFFECT_SHIFT | RULE_NONE;
		return 0;
	}
	q->condition = d->condition;
	q->source = 0;
	if (a->conditions & COND_ARGS)
		door_args(q, s);
	if (d->source_len && a->has_source) {
		if (door_walk(w, s, o, in->source, d->source_len))
			return w->reason;
		q->n = w->n;
		q->leaf = w->leaf;
		q->source = match_source(q, s);
		if (q->reason)
			return q->reason;
	}
	if (door_walk(w, s, o, in->path, d->path_len))
		return w->reason;
	q->n = w->n;
	q->leaf = w->leaf;
	d->decision = match_class(q, s);
	if (!q->reason && !terminal_condition(bpf_get_current_task_btf())) {
		struct subject subject = {.container = DOOR_CONTAINER};
		struct armed *now;
		struct climbed c = {};
		struct request r = {.dentry = w->dentry, .mnt = w->mnt, .inode = (__u64)o->inode};

		subject.exe = acting_exe();
		subject.source = (__u64)q->ruleset << 32 | q->source;
		r.class_ = d->class_;
		r.condition = d->condition;
		if (!direct_loads && w->n) { /* as climb_mount would have come: all the way */
			c.begun = sequence_read();
			c.top = (__u64)fake_dentry(o, 1);
		}
		now = armed_of(&subject);
		d->passes = now ? judge_quickly(&subject, now, &r, &c) : 0;
	}
	return q->reason;
}

SEC("syscall")
int door_match(struct door_match *ctx)
{
	__u32 zero = 0;
	struct door_objects *o = bpf_map_lookup_elem(&door_objects, &zero);
	struct door_paths *in = bpf_map_lookup_elem(&door_input, &zero);
	__u32 last = SCRATCH_AREAS - 1; /* the short way wants the first one */
	struct scratch *s = bpf_map_lookup_elem(&scratches, &last);
	struct door_match d;

	if (!s || __sync_val_compare_and_swap(&s->busy, 0, 1))
		return -EACCES;
	d.class_ = ctx->class_;
	d.condition = ctx->condition;
	d.path_len = ctx->path_len;
	d.source_len = ctx->source_len;
	s->attempt.query.unseen = 0;
	d.decision = 0;
	d.passes = 0;
	d.reason = REASON_UNREADABLE;
	if (o && in)
		d.reason = door_once(s, o, in, &d);
	ctx->unseen = s->attempt.query.unseen;
	scratch_give(s);
	ctx->decision = d.decision;
	ctx->reason = d.reason;
	ctx->passes = d.passes;
	return 0;
}

/* The source cell of the laid out executable; the reason where there is none to tell. */
static __noinline __u32 door_source(__u32 len, struct scratch *s, __u32 *reason)
{
	__u32 zero = 0;
	struct door_objects *o = bpf_map_lookup_elem(&door_objects, &zero);
	struct door_paths *in = bpf_map_lookup_elem(&door_input, &zero);
	struct query *q = &s->attempt.query;
	struct walk w = {};
	__u32 source;

	*reason = REASON_UNREADABLE;
	if (!o || !in)
		return 0;
	*reason = door_walk(&w, s, o, in->source, len);
	if (*reason)
		return 0;
	q->n = w.n;
	q->leaf = w.leaf;
	source = match_source(q, s);
	*reason = q->reason;
	return source;
}

SEC("syscall")
int door_ask_plain(struct door_plain *ctx)
{
	struct plain_request r = {};
	struct attempt *a;
	struct scratch *s = scratch_take();
	__u32 source = 0;
	int known;

	if (!s)
		return -EACCES;
	a = &s->attempt;
	r.class_ = ctx->class_;
	r.op = ctx->op;
	r.condition = ctx->condition;
	r.number = ctx->number;
	r.net.high = ctx->high;
	r.net.low = ctx->low;
	r.net.version = ctx->version;
	r.net.port = ctx->port;
	r.net.family = ctx->family;
	r.net.kind = ctx->kind;
	r.net.protocol = ctx->protocol;
	r.net.kinds = net_kinds(r.net.family, r.net.kind, r.net.protocol);
	r.decision = EFFECT_ALLOW << DECISION_EFFECT_SHIFT | RULE_NONE;
	a->query.class_ = r.class_;
	known = class_read(a, 0, DOOR_CONTAINER);
	r.reason = known ? 0 : REASON_NO_RULES;
	if (known > 0) {
		r.ruleset = a->query.ruleset;
		r.place = a->query.place;
		if (ctx->source_len && a->has_source)
			source = door_source(ctx->source_len, s, &r.reason);
		if (!r.reason)
			r.decision = plain_decide(&r, a->query.class_cell, source);
	}
	scratch_give(s);
	ctx->decision = r.decision;
	ctx->reason = r.reason;
	return 0;
}
