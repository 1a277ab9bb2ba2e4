/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a dentry to the root of its mount namespace.
 *
 * The walk goes up to the root of the mount namespace and not to the task's root directory, so a chroot does not
 * change what a path is called. It takes no locks: a rename or a mount meanwhile could show a mixture of two
 * paths, so the sequence counts of rename_lock and mount_lock are read before and after (as d_absolute_path does,
 * fs/d_path.c), and the whole judgement is done again when they moved.
 */
#ifndef WALK_BPF_H
#define WALK_BPF_H

/* fs/dcache.c, fs/namespace.c; both seqlock_t, which begin with the sequence. Weak: a kernel without
 * CONFIG_KALLSYMS_ALL does not show their addresses, and `nri-enforcer probe` says so. */
extern const void rename_lock __ksym __weak;
extern const void mount_lock __ksym __weak;

#define SB_KERNMOUNT (1UL << 22) /* include/linux/fs.h */
#define MAX_ERRNO 4095

/* no address is taken here: what stands in registers is cheap */
static __always_inline struct sequence sequence_direct(void)
{
	__u32 rename = &rename_lock ? (__u32)direct_word((__u64)&rename_lock) : 0;
	__u32 mount = &mount_lock ? (__u32)direct_word((__u64)&mount_lock) : 0;

	return (struct sequence){.rename = rename, .mount = mount};
}

static __always_inline struct sequence sequence_read(void)
{
	struct sequence q = {};

	if (direct_loads)
		return sequence_direct();
	if (&rename_lock)
		bpf_probe_read_kernel(&q.rename, sizeof(q.rename), &rename_lock);
	if (&mount_lock)
		bpf_probe_read_kernel(&q.mount, sizeof(q.mount), &mount_lock);
	return q;
}

static __always_inline int sequence_odd(struct sequence q)
{
	return (q.rename | q.mount) & 1;
}

/* A writer is inside while a sequence is odd: readers in the kernel wait for it, without a bound. Here the bound is some
 * tens of milliseconds, since a virtual CPU that holds the lock may not be running. */
#define SEQUENCE_SPINS (1 << 17)

static long sequence_step(__u32 i, struct sequence *q)
{
	*q = sequence_read();
	return !sequence_odd(*q);
}

static __noinline int sequence_begin(struct sequence *q)
{
	*q = sequence_read();
	if (sequence_odd(*q))
		bpf_loop(SEQUENCE_SPINS, sequence_step, q, 0);
	return !sequence_odd(*q);
}

static __always_inline int sequence_moved(struct sequence q)
{
	struct sequence now = sequence_read();

	return now.rename != q.rename || now.mount != q.mount;
}

static __always_inline __u64 mount_of(__u64 vfsmount)
{
	return vfsmount - bpf_core_field_offset(struct mount, mnt);
}

static long walk_step(__u32 i, struct in_scratch *c)
{
	struct scratch *s = c->s;
	struct climb *w = &s->climb;
	struct dentry *d;
	__u64 up;

	if (w->dentry == w->mnt_root) {
		struct mount *m = (struct mount *)w->mount;

		up = (__u64)BPF_CORE_READ(m, mnt_parent);
		if (up == w->mount) { /* the namespace's root mount is its own parent */
			w->done = 1;
			return 1;
		}
		w->dentry = (__u64)BPF_CORE_READ(m, mnt_mountpoint);
		w->mount = up;
		w->mnt_root = (__u64)BPF_CORE_READ((struct mount *)up, mnt.mnt_root);
		return 0;
	}
	d = (struct dentry *)w->dentry;
	up = (__u64)BPF_CORE_READ(d, d_parent);
	if (!up) {
		w->reason = REASON_UNREADABLE;
		return 1;
	}
	if (up == w->dentry) { /* a root, but not this mount's */
		w->reason = REASON_DISCONNECTED;
		return 1;
	}
	if (!w->leaf)
		w->leaf = w->dentry;
	s->dentries[w->n & (MAX_COMPONENTS - 1)] = w->dentry;
	w->n++;
	w->dentry = up;
	return 0;
}

/* Steps of the fast walk, which the verifier follows one by one. */
#define FAST_STEPS 40

/* The same by plain loads, for paths of usual depth. The index is the loop's own counter, for another one would
 * multiply the verifier's work: where a mount is crossed a slot stays empty. 0: the path is longer. */
static __always_inline int walk_fast(struct walk *w, struct scratch *s)
{
	struct mount *mount = DIRECT(struct mount, mount_of(w->mnt)), *parent;
	struct dentry *dentry = DIRECT(struct dentry, w->dentry), *root = mount->mnt.mnt_root, *up;
	__u32 i;

	s->climb.leaf = 0;
	for (i = 0; i < FAST_STEPS; i++) {
		if (dentry == root) {
			s->dentries[i] = 0;
			parent = mount->mnt_parent;
			if (parent == mount) {
				w->n = i;
				w->leaf = s->climb.leaf;
				w->reason = 0;
				return 1;
			}
			dentry = mount->mnt_mountpoint;
			mount = parent;
			root = mount->mnt.mnt_root;
			continue;
		}
		up = dentry->d_parent;
		if (up == dentry)
			return 0;
		s->dentries[i] = (__u64)dentry;
		if (!s->climb.leaf)
			s->climb.leaf = (__u64)dentry;
		dentry = up;
	}
	return 0;
}

/* Fills scratch->dentries from `dentry` up: `n` slots, of which empty ones do not count. Verified once, on its own. */
__noinline __u32 walk_up(struct walk *w, struct scratch *s)
{
	struct in_scratch c = {};
	struct mount *m;
	struct climb *t;

	if (!w || !s)
		return REASON_UNREADABLE;
	if (direct_loads && walk_fast(w, s))
		return 0;
	c.s = s;
	t = &s->climb;
	t->dentry = w->dentry;
	m = (struct mount *)mount_of(w->mnt);
	t->mount = (__u64)m;
	t->mnt_root = (__u64)BPF_CORE_READ(m, mnt.mnt_root);
	t->leaf = 0;
	t->n = s->zero;
	t->reason = 0;
	t->done = 0;
	bpf_loop(MAX_WALK, walk_step, &c, 0);
	if (!t->reason && !t->done)
		t->reason = REASON_TOO_DEEP;
	w->leaf = t->leaf;
	w->n = t->n;
	w->reason = t->reason;
	return t->reason;
}

/* Where a mount is, seen from the container. */
enum mount_place {
	MOUNT_OURS,	/* in the container's mount namespace */
	MOUNT_LAYER,	/* private to a stacked file system: overlayfs opens its layers this way, in the task's name */
	MOUNT_KERNEL,	/* the kernel's own: memfd, pipe, socket; it has no path */
	MOUNT_FOREIGN,	/* another namespace, detached, anonymous: what the path means cannot be said */
};

static __always_inline enum mount_place mount_place(struct vfsmount *mnt, __u32 our_ns, __u32 or_ns)
{
	__u64 ns = (__u64)KERNEL_READ(direct_loads, struct mount, mount_of((__u64)mnt), mnt_ns);
	__u32 inum;

	if (!ns)
		return MOUNT_FOREIGN;
	if (ns >= (__u64)-MAX_ERRNO)
		return BPF_CORE_READ(mnt, mnt_sb, s_flags) & SB_KERNMOUNT ? MOUNT_KERNEL : MOUNT_LAYER;
	inum = KERNEL_READ(direct_loads, struct mnt_namespace, ns, ns.inum);
	return inum == our_ns || inum == or_ns ? MOUNT_OURS : MOUNT_FOREIGN;
}

#endif
