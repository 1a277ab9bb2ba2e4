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

struct walk_state {
	struct scratch *scratch;
	__u64 dentry;
	__u64 mount;	/* struct mount that contains dentry's vfsmount */
	__u64 mnt_root;
	__u64 leaf;
	__u32 n;
	__u32 reason;
	__u32 done;
	__u32 pad;
};

struct sequence {
	__u32 rename, mount;
};

static __always_inline struct sequence sequence_read(void)
{
	struct sequence q = {};

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

static long walk_step(__u32 i, struct walk_state *w)
{
	struct scratch *s = w->scratch;
	struct dentry *d;
	__u64 parent;

	if (w->dentry == w->mnt_root) {
		struct mount *m = (struct mount *)w->mount;
		__u64 up = (__u64)BPF_CORE_READ(m, mnt_parent);

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
	parent = (__u64)BPF_CORE_READ(d, d_parent);
	if (!parent) {
		w->reason = REASON_UNREADABLE;
		return 1;
	}
	if (parent == w->dentry) { /* a root, but not this mount's */
		w->reason = REASON_DISCONNECTED;
		return 1;
	}
	if (!w->leaf)
		w->leaf = w->dentry;
	s->dentries[w->n & (MAX_COMPONENTS - 1)] = w->dentry;
	w->n++;
	w->dentry = parent;
	return 0;
}

/* Fills scratch->dentries from `dentry` up. Verified once, on its own. */
__noinline __u32 walk_up(struct walk *w, struct scratch *s)
{
	struct walk_state t = {};
	struct mount *m;

	if (!w || !s)
		return REASON_UNREADABLE;
	t.scratch = s;
	t.dentry = w->dentry;
	t.mount = mount_of(w->mnt);
	m = (struct mount *)t.mount;
	t.mnt_root = (__u64)BPF_CORE_READ(m, mnt.mnt_root);
	t.n = s->zero;
	bpf_loop(MAX_WALK, walk_step, &t, 0);
	if (!t.reason && !t.done)
		t.reason = REASON_TOO_DEEP;
	w->leaf = t.leaf;
	w->n = t.n;
	w->reason = t.reason;
	return t.reason;
}

/* Where a mount is, seen from the container. */
enum mount_place {
	MOUNT_OURS,	/* in the container's mount namespace */
	MOUNT_LAYER,	/* private to a stacked file system: overlayfs opens its layers this way, in the task's name */
	MOUNT_KERNEL,	/* the kernel's own: memfd, pipe, socket; it has no path */
	MOUNT_FOREIGN,	/* another namespace, detached, anonymous: what the path means cannot be said */
};

static __always_inline enum mount_place mount_place(struct vfsmount *mnt, __u32 our_ns)
{
	struct mount *m = (struct mount *)mount_of((__u64)mnt);
	__u64 ns = (__u64)BPF_CORE_READ(m, mnt_ns);

	if (!ns)
		return MOUNT_FOREIGN;
	if (ns >= (__u64)-MAX_ERRNO)
		return BPF_CORE_READ(mnt, mnt_sb, s_flags) & SB_KERNMOUNT ? MOUNT_KERNEL : MOUNT_LAYER;
	return BPF_CORE_READ((struct mnt_namespace *)ns, ns.inum) == our_ns ? MOUNT_OURS : MOUNT_FOREIGN;
}

#endif
