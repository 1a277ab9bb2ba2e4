/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Attributes, whose hooks get no mount: judged as a write under every name of the file (names.bpf.h).
 *
 * inode_setattr		only for times: mode, owner and size have path hooks
 * inode_setxattr, inode_removexattr
 * inode_set_acl, inode_remove_acl	since 6.2; before, ACLs are extended attributes here too
 * inode_file_setattr		since 6.17: flags and project ids
 * file_ioctl			the same by ioctl, in all kernels; and snapshots, which give a tree other names
 */

#define ATTR_SIZE (1u << 3)
#define ATTR_ATIME (1u << 4)
#define ATTR_MTIME (1u << 5)

static __always_inline int judge_attributes(struct dentry *dentry)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct subject *s = confined_by(CLASS_FILE);
	struct request r = {.class_ = CLASS_FILE, .op = OP_SETATTR, .condition = COND_WRITE};

	if (!s)
		return 0;
	if (BPF_CORE_READ(dentry, d_sb, s_flags) & SB_KERNMOUNT)
		return 0;
	r.dentry = (__u64)dentry;
	r.inode = (__u64)BPF_CORE_READ(dentry, d_inode);
	switch (judge_names(s, &r)) {
	case NAMED_ALLOWED:
		return 0;
	case NAMED_NOT:
		/* A layer's file, on which overlayfs does what was judged under the file's own name: it acts with its
		 * mounter's credentials. A workload can make its own look so (io_uring's personalities), but only a
		 * file without a name in the container, and no rule is about such. */
		if (task->cred != task->real_cred)
			return 0;
		r.reason = REASON_FOREIGN_MOUNT;
		return judge(s, &r) ? -EACCES : 0;
	default:
		return -EACCES;
	}
}

static __always_inline int judge_times(struct dentry *dentry, struct iattr *attr)
{
	unsigned int valid = BPF_CORE_READ(attr, ia_valid);

	if (valid & ATTR_SIZE || !(valid & (ATTR_ATIME | ATTR_MTIME)))
		return 0;
	return judge_attributes(dentry);
}

/* Two shapes of one hook; the loader takes the one that the kernel has. */
SEC("lsm/inode_setattr")
int BPF_PROG(inode_setattr, void *idmap, struct dentry *dentry, struct iattr *attr, int ret)
{
	return ret ? ret : judge_times(dentry, attr);
}

/* before 6.9 (314a8dc728d0, "security: Align inode_setattr hook definition with EVM") */
SEC("lsm/inode_setattr")
int BPF_PROG(inode_setattr_plain, struct dentry *dentry, struct iattr *attr, int ret)
{
	return ret ? ret : judge_times(dentry, attr);
}

SEC("lsm/inode_setxattr")
int BPF_PROG(inode_setxattr, void *idmap, struct dentry *dentry, const char *name, const void *value, unsigned long size,
	     int flags, int ret)
{
	return ret ? ret : judge_attributes(dentry);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(inode_removexattr, void *idmap, struct dentry *dentry, const char *name, int ret)
{
	return ret ? ret : judge_attributes(dentry);
}

SEC("lsm/inode_set_acl")
int BPF_PROG(inode_set_acl, void *idmap, struct dentry *dentry, const char *name, void *acl, int ret)
{
	return ret ? ret : judge_attributes(dentry);
}

SEC("lsm/inode_remove_acl")
int BPF_PROG(inode_remove_acl, void *idmap, struct dentry *dentry, const char *name, int ret)
{
	return ret ? ret : judge_attributes(dentry);
}

SEC("lsm/inode_file_setattr")
int BPF_PROG(inode_file_setattr, struct dentry *dentry, void *attr, int ret)
{
	return ret ? ret : judge_attributes(dentry);
}

/* A descriptor for reading is enough for these. */
#define FS_IOC_SETFLAGS 0x40086602u
#define FS_IOC32_SETFLAGS 0x40046602u
#define FS_IOC_FSSETXATTR 0x401c5820u
#define FS_IOC_ENABLE_VERITY 0x40806685u
#define BTRFS_IOC_SNAP_CREATE 0x50009401u
#define BTRFS_IOC_SNAP_CREATE_V2 0x50009417u

static __always_inline int judge_ioctl(struct file *file, unsigned int cmd)
{
	struct request r = {.class_ = CLASS_FILE, .op = OP_SETATTR, .condition = COND_WRITE};
	struct mount *m = (struct mount *)mount_of((__u64)file->f_path.mnt);
	struct subject *s;

	switch (cmd) {
	case FS_IOC_SETFLAGS:
	case FS_IOC32_SETFLAGS:
	case FS_IOC_FSSETXATTR:
	case FS_IOC_ENABLE_VERITY:
		break;
	case BTRFS_IOC_SNAP_CREATE:
	case BTRFS_IOC_SNAP_CREATE_V2:
		r.reason = REASON_NEW_NAMES; /* of which tree, the user's memory says */
		break;
	default:
		return 0;
	}
	s = confined();
	if (!s)
		return 0;
	/* not the layer's file, to which overlayfs passes on what was judged on the user's */
	if ((__u64)BPF_CORE_READ(m, mnt_ns) >= (__u64)-MAX_ERRNO)
		return 0;
	r.dentry = (__u64)file->f_path.dentry;
	r.mnt = (__u64)file->f_path.mnt;
	r.inode = (__u64)file->f_inode;
	return judge(s, &r) ? -EACCES : 0;
}

SEC("lsm/file_ioctl")
int BPF_PROG(file_ioctl, struct file *file, unsigned int cmd, unsigned long arg, int ret)
{
	return ret ? ret : judge_ioctl(file, cmd);
}

/* a 32-bit program's, since 6.8 (f1bb47a31dff, "lsm: new security_file_ioctl_compat() hook") */
SEC("lsm/file_ioctl_compat")
int BPF_PROG(file_ioctl_compat, struct file *file, unsigned int cmd, unsigned long arg, int ret)
{
	return ret ? ret : judge_ioctl(file, cmd);
}
