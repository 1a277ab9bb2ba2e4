/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Mounts: what hides a tree, brings another in its place, or gives it other names.
 *
 * sb_mount		mount(2)
 * move_mount		what fsmount(2) or open_tree(2) made, or an attached mount
 * sb_umount, sb_pivotroot
 *
 * The mount point is written to, with all that lies below it. What is mounted there gets new names, as by a rename:
 * where the hook shows what it is, each of its names is judged so; where it does not (mount(2) knows its source by a
 * string only) the access is unresolved, and denied where the class blocks. Programs can be had by other names as
 * well as files, so process rules are asked too.
 *
 * Not judged: propagation, remounting, mount_setattr(2), chroot(2), which change no path as it is seen from the root
 * of the mount namespace. Files on a mount that is not attached, or in another mount namespace, are unresolved.
 */

#define MS_REMOUNT (1u << 5)
#define MS_BIND (1u << 12)
#define MS_MOVE (1u << 13)
#define MS_PROPAGATION (0xfu << 17) /* unbindable, private, slave, shared */

/* One request for all that is asked, since stacks are small. */
static __always_inline void about(struct request *r, struct dentry *dentry, struct vfsmount *mnt)
{
	r->dentry = (__u64)dentry;
	r->mnt = (__u64)mnt;
	r->inode = (__u64)BPF_CORE_READ(dentry, d_inode);
}

/* something, which cannot be said, gets other names */
static __always_inline int judge_unnamed(struct subject *s, struct request *r)
{
	r->reason = REASON_NEW_NAMES;
	r->class_ = CLASS_FILE;
	if (judge(s, r))
		return -EACCES;
	r->class_ = CLASS_PROCESS;
	return judge(s, r) ? -EACCES : 0;
}

static __always_inline int same(const char a[8], const char b[8])
{
#pragma unroll
	for (int i = 0; i < 8; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

/* File systems that mount(2) makes new and empty each time: nothing in them has a name yet. */
static __always_inline int is_new(const char *type)
{
	char name[8] = {};

	if (bpf_probe_read_kernel_str(name, sizeof(name), type) < 0)
		return 0;
	return same(name, "tmpfs\0\0") || same(name, "ramfs\0\0") || same(name, "devpts\0");
}

#define WHOLE_TREE .class_ = CLASS_FILE, .condition = COND_WRITE | COND_TREE

SEC("lsm/sb_mount")
int BPF_PROG(sb_mount, const char *device, const struct path *path, const char *type, unsigned long flags, void *data,
	     int ret)
{
	struct subject *s = confined();
	struct request r = {WHOLE_TREE, .op = OP_MOUNT};

	if (ret || !s)
		return ret;
	/* in the kernel's order, see path_mount() in fs/namespace.c */
	if (flags & MS_REMOUNT)
		return 0;
	if (!(flags & MS_BIND) && flags & MS_PROPAGATION)
		return 0;
	about(&r, path->dentry, path->mnt);
	if (judge(s, &r))
		return -EACCES;
	if (!(flags & (MS_BIND | MS_MOVE)) && is_new(type))
		return 0;
	return judge_unnamed(s, &r);
}

/* All that is below the source gets other names. It is judged under all that it has: an attached mount has the one
 * that it loses, a clone those of the tree that it was made from. */
SEC("lsm/move_mount")
int BPF_PROG(move_mount, const struct path *from, const struct path *to, int ret)
{
	struct subject *s = confined();
	struct request r = {WHOLE_TREE, .op = OP_MOUNT};
	struct dentry *d;

	if (ret || !s)
		return ret;
	about(&r, to->dentry, to->mnt);
	if (judge(s, &r))
		return -EACCES;
	about(&r, from->dentry, from->mnt);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 2; i++) {
		r.class_ = i ? CLASS_PROCESS : CLASS_FILE;
		switch (judge_names(s, &r)) {
		case NAMED_ALLOWED:
			break;
		case NAMED_NOT:
			/* a file system that is new here; one that shows another's files gives them other names */
			d = (struct dentry *)r.dentry;
			return BPF_CORE_READ(d, d_sb, s_stack_depth) ? judge_unnamed(s, &r) : 0;
		default:
			return -EACCES;
		}
	}
	return 0;
}

/* what was hidden shows again */
SEC("lsm/sb_umount")
int BPF_PROG(sb_umount, struct vfsmount *mnt, int flags, int ret)
{
	struct subject *s = confined();
	struct request r = {WHOLE_TREE, .op = OP_UMOUNT};

	if (ret || !s)
		return ret;
	about(&r, mnt->mnt_root, mnt);
	return judge(s, &r) ? -EACCES : 0;
}

/* every path there is changes */
SEC("lsm/sb_pivotroot")
int BPF_PROG(sb_pivotroot, const struct path *old, const struct path *new, int ret)
{
	struct subject *s = confined();
	struct request r = {WHOLE_TREE, .op = OP_PIVOT_ROOT};

	if (ret || !s)
		return ret;
	about(&r, new->dentry, new->mnt);
	return judge_unnamed(s, &r);
}
