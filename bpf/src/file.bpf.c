/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Files: opening, and everything that makes, changes or removes a name.
 *
 * file_open		reading and writing; the open of a program that is executed counts as reading
 * path_mknod		creation by open(O_CREAT), mknod: before the file exists, so nothing is left behind
 * path_mkdir, path_rmdir, path_unlink, path_symlink, path_link, path_rename
 * path_truncate, file_truncate (6.2), path_chmod, path_chown
 * file_receive		a descriptor that another process has sent, or that was taken from it: as if it were opened here
 */

#define FMODE_WRITE 2u
#define FMODE_PATH (1u << 14)
#define FMODE_NOACCOUNT (1u << 29) /* a stacked file system's own open; the user's has a call of its own */
#define O_TRUNC 01000u

static __always_inline int judge_file(__u32 op, const struct path *path)
{
	struct subject *s = confined();
	struct request r = {.class_ = CLASS_FILE, .op = op, .condition = COND_WRITE};

	if (!s)
		return 0;
	r.dentry = (__u64)path->dentry;
	r.mnt = (__u64)path->mnt;
	r.inode = (__u64)BPF_CORE_READ(path->dentry, d_inode);
	return judge(s, &r) ? -EACCES : 0;
}

/* a name in a directory; `tree` is COND_TREE or 0 */
static __always_inline int judge_name(__u32 op, __u32 tree, const struct path *dir, struct dentry *dentry)
{
	struct subject *s = confined();
	struct request r = {.class_ = CLASS_FILE, .op = op, .condition = COND_WRITE | tree};

	if (!s)
		return 0;
	r.dentry = (__u64)dentry;
	r.mnt = (__u64)dir->mnt;
	r.inode = (__u64)BPF_CORE_READ(dentry, d_inode);
	return judge(s, &r) ? -EACCES : 0;
}

static __always_inline int open_confined(struct subject *s, struct file *file)
{
	struct request r = {.class_ = CLASS_FILE};
	struct armed *a = armed_of(s);
	struct climbed c = {};
	int denied;
	__u64 ns;

	if (!a)
		return 0;
	if (a->classes >> CLASS_PRESET & 1) {
		denied = preset_open(s, file);
		if (denied)
			return denied;
	}
	if (!(a->classes >> CLASS_FILE & 1))
		return 0;
	r.condition = file->f_mode & FMODE_WRITE || file->f_flags & O_TRUNC ? COND_WRITE : 0;
	r.op = r.condition ? OP_OPEN_WRITE : OP_OPEN_READ;
	r.dentry = (__u64)file->f_path.dentry;
	r.mnt = (__u64)file->f_path.mnt;
	r.inode = (__u64)file->f_inode;
	if (!direct_loads)
		climb_mount(file, &c);
	if (judge_quickly(s, a, &r, &c))
		return 0;
	/* a layer that overlayfs opens in the task's name, on a mount that nobody else can hold */
	ns = (__u64)KERNEL_READ(direct_loads, struct mount, mount_of(r.mnt), mnt_ns);
	if (ns >= (__u64)-MAX_ERRNO && !(BPF_CORE_READ(file, f_path.mnt, mnt_sb, s_flags) & SB_KERNMOUNT))
		return 0;
	return judge(s, &r) ? -EACCES : 0;
}

SEC("lsm/file_open")
int BPF_PROG(file_open, struct file *file, int ret)
{
	struct subject *s;

	if (ret)
		return ret;
	if (file->f_mode & FMODE_NOACCOUNT)
		return 0;
	s = confined();
	return s ? open_confined(s, file) : 0;
}

/* O_PATH gives nothing yet: what it is opened for later is judged then. */
SEC("lsm/file_receive")
int BPF_PROG(file_receive, struct file *file, int ret)
{
	struct request r = {.class_ = CLASS_FILE, .op = OP_RECEIVE};
	struct subject *s;

	if (ret)
		return ret;
	if (file->f_mode & FMODE_PATH)
		return 0;
	s = confined();
	if (!s)
		return 0;
	r.condition = file->f_mode & FMODE_WRITE ? COND_WRITE : 0;
	r.dentry = (__u64)file->f_path.dentry;
	r.mnt = (__u64)file->f_path.mnt;
	r.inode = (__u64)file->f_inode;
	return judge(s, &r) ? -EACCES : 0;
}

SEC("lsm/path_mknod")
int BPF_PROG(path_mknod, const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int dev, int ret)
{
	return ret ? ret : judge_name(OP_CREATE, 0, dir, dentry);
}

SEC("lsm/path_mkdir")
int BPF_PROG(path_mkdir, const struct path *dir, struct dentry *dentry, umode_t mode, int ret)
{
	return ret ? ret : judge_name(OP_MKDIR, 0, dir, dentry);
}

SEC("lsm/path_rmdir")
int BPF_PROG(path_rmdir, const struct path *dir, struct dentry *dentry, int ret)
{
	return ret ? ret : judge_name(OP_RMDIR, 0, dir, dentry);
}

SEC("lsm/path_unlink")
int BPF_PROG(path_unlink, const struct path *dir, struct dentry *dentry, int ret)
{
	return ret ? ret : judge_name(OP_UNLINK, 0, dir, dentry);
}

SEC("lsm/path_symlink")
int BPF_PROG(path_symlink, const struct path *dir, struct dentry *dentry, const char *old_name, int ret)
{
	return ret ? ret : judge_name(OP_SYMLINK, 0, dir, dentry);
}

/* Both names: the new one is made, and through it the old one's contents could be had. A link stays on one mount,
 * so the new directory's serves the old name too. */
SEC("lsm/path_link")
int BPF_PROG(path_link, struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry, int ret)
{
	if (ret)
		return ret;
	ret = judge_name(OP_LINK, 0, new_dir, old_dentry);
	return ret ? ret : judge_name(OP_LINK, 0, new_dir, new_dentry);
}

static __always_inline __u32 tree_of(struct dentry *dentry)
{
	return (BPF_CORE_READ(dentry, d_inode, i_mode) & S_IFMT) == S_IFDIR ? COND_TREE : 0;
}

/* Both names, which also covers RENAME_EXCHANGE. A directory takes along all that lies below it: under either name
 * that is a write to every path there. */
SEC("lsm/path_rename")
int BPF_PROG(path_rename, const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir,
	     struct dentry *new_dentry, unsigned int flags, int ret)
{
	__u32 tree;

	if (ret)
		return ret;
	tree = tree_of(old_dentry) | tree_of(new_dentry);
	ret = judge_name(OP_RENAME, tree, old_dir, old_dentry);
	return ret ? ret : judge_name(OP_RENAME, tree, new_dir, new_dentry);
}

SEC("lsm/path_truncate")
int BPF_PROG(path_truncate, const struct path *path, int ret)
{
	return ret ? ret : judge_file(OP_TRUNCATE, path);
}

/* since 6.2 (3350607dc563, "security: Create file_truncate hook from path_truncate hook") */
SEC("lsm/file_truncate")
int BPF_PROG(file_truncate, struct file *file, int ret)
{
	return ret ? ret : judge_file(OP_TRUNCATE, &file->f_path);
}

SEC("lsm/path_chmod")
int BPF_PROG(path_chmod, const struct path *path, umode_t mode, int ret)
{
	return ret ? ret : judge_file(OP_CHMOD, path);
}

SEC("lsm/path_chown")
int BPF_PROG(path_chown, const struct path *path, __u64 uid, __u64 gid, int ret)
{
	return ret ? ret : judge_file(OP_CHOWN, path);
}
