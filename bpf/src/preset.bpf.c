/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Presets: protections that are about what a process does, whatever it is called.
 *
 * filelessExec		executing, or mapping as code, what has no file on a disk (bprm_check_security, mmap_file)
 * anonymousMapExec	executable memory that no file backs (mmap_file, file_mprotect)
 * protectProc		/proc/PID of another process (file_open), and whatever looks into one (ptrace_access_check)
 * protectEnv		its environment, and its memory, where that stands (file_open)
 * exec			programs that are sent into the container from outside (the exec barrier)
 */

#define PROC_SUPER_MAGIC 0x9fa0
#define TMPFS_MAGIC 0x01021994
#define RAMFS_MAGIC 0x858458f6
#define HUGETLBFS_MAGIC 0x958458f6
#define S_IFCHR 0020000u
#define DEV_ZERO (1u << 20 | 5)

/* What a preset says. `file` is for the event; 0 = there is none. */
static __noinline int preset_judge(struct subject *s, __u32 preset, __u32 op, __u64 file, __u32 flags)
{
	struct plain_request r = {.class_ = CLASS_PRESET};

	r.number = preset;
	r.op = op;
	r.flags = flags;
	if (file) {
		r.dentry = (__u64)BPF_CORE_READ((struct file *)file, f_path.dentry);
		r.mnt = (__u64)BPF_CORE_READ((struct file *)file, f_path.mnt);
	}
	return judge_plain(s, &r) ? -EPERM : 0;
}

static __always_inline int is_kernels_own(__u64 file)
{
	return (BPF_CORE_READ((struct file *)file, f_inode, i_sb, s_flags) & SB_KERNMOUNT) != 0;
}

/* The root file system of a mount namespace: it stands on the hidden first one, or is that. A container may well have
 * its own root in memory, and then its programs are there. */
static __always_inline int is_root_mount(__u64 vfsmount)
{
	struct mount *m = (struct mount *)mount_of(vfsmount);
	struct mount *up = BPF_CORE_READ(m, mnt_parent);

	return up == m ||
	       (BPF_CORE_READ(up, mnt_parent) == up && BPF_CORE_READ(m, mnt_mountpoint) == BPF_CORE_READ(up, mnt.mnt_root));
}

/* In memory only: memfd and the like, a file that has no name any more, a file system without a disk. */
static __always_inline int is_fileless(__u64 file)
{
	if (is_kernels_own(file) || !BPF_CORE_READ((struct file *)file, f_inode, i_nlink))
		return 1;
	switch (BPF_CORE_READ((struct file *)file, f_inode, i_sb, s_magic)) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case HUGETLBFS_MAGIC:
		return !is_root_mount((__u64)BPF_CORE_READ((struct file *)file, f_path.mnt));
	}
	return 0;
}

/* Memory that only looks like a file's: shared memory, /dev/zero. */
static __always_inline int is_memory(__u64 file)
{
	struct inode *inode = BPF_CORE_READ((struct file *)file, f_inode);

	return is_kernels_own(file) || ((BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFCHR &&
					BPF_CORE_READ(inode, i_rdev) == DEV_ZERO);
}

/* of a program, or of the interpreter of a script */
static __always_inline int preset_exec(struct subject *s, struct file *file)
{
	return is_fileless((__u64)file) ? preset_judge(s, PRESET_FILELESS_EXEC, OP_EXEC, (__u64)file, 0) : 0;
}

/* Is the /proc entry one of the current process, all its threads included? A pid without a task is nobody's. */
static __always_inline int is_own(struct pid *pid)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 first = (__u64)BPF_CORE_READ(pid, tasks[0].first);
	struct task_struct *owner = (struct task_struct *)(first - bpf_core_field_offset(struct task_struct, pid_links));

	return first && BPF_CORE_READ(owner, group_leader) == task->group_leader;
}

/* d_name is "environ", or "mem": memory holds the environment */
static __always_inline int shows_environment(struct dentry *dentry)
{
	char name[8] = {};
	__u32 len = BPF_CORE_READ(dentry, d_name.len);

	if (len >= sizeof(name) || bpf_probe_read_kernel(name, sizeof(name) - 1, BPF_CORE_READ(dentry, d_name.name)))
		return 0;
	if (len == 3)
		return name[0] == 'm' && name[1] == 'e' && name[2] == 'm';
	return len == 7 && name[0] == 'e' && name[1] == 'n' && name[2] == 'v' && name[3] == 'i' && name[4] == 'r' &&
	       name[5] == 'o' && name[6] == 'n';
}

/* Opening something of /proc/PID. The links there lead elsewhere, and following them is looking into the process. */
static __always_inline int preset_open(struct subject *s, struct file *file)
{
	__u64 inode = (__u64)file->f_inode;
	struct proc_inode *proc = (struct proc_inode *)(inode - bpf_core_field_offset(struct proc_inode, vfs_inode));
	struct pid *pid;
	int ret;

	if (BPF_CORE_READ((struct inode *)inode, i_sb, s_magic) != PROC_SUPER_MAGIC)
		return 0;
	pid = BPF_CORE_READ(proc, pid);
	if (!pid || is_own(pid))
		return 0;
	if (shows_environment(BPF_CORE_READ(file, f_path.dentry))) {
		ret = preset_judge(s, PRESET_PROTECT_ENV, OP_OPEN_READ, (__u64)file, 0);
		if (ret)
			return ret;
	}
	return preset_judge(s, PRESET_PROTECT_PROC, OP_OPEN_READ, (__u64)file, 0);
}

#define PTRACE_MODE_NOAUDIT 4u

/* ptrace, process_vm_readv, pidfd_getfd, and the links of /proc/PID (root, cwd, exe, fd): never asked for the own
 * process. */
static __always_inline int preset_ptrace(struct subject *s, unsigned int mode)
{
	return preset_judge(s, PRESET_PROTECT_PROC, OP_PTRACE, 0, mode & PTRACE_MODE_NOAUDIT ? PLAIN_SILENT : 0);
}

/* ---- memory that can be executed ---- */

#define PROT_WRITE 2u
#define PROT_EXEC 4u
#define MAP_TYPE 0xfu
#define MAP_PRIVATE 2u
#define VM_EXEC 4u
#define VM_SHARED 8u

static __always_inline int preset_mapping(struct subject *s, __u64 file, unsigned long prot, unsigned long flags)
{
	int ret;

	if (file && is_fileless(file)) {
		ret = preset_judge(s, PRESET_FILELESS_EXEC, OP_MAP, file, 0);
		if (ret)
			return ret;
	}
	/* what is written into a private mapping of a file is memory of its own */
	if (!file || is_memory(file) || ((flags & MAP_TYPE) == MAP_PRIVATE && prot & PROT_WRITE))
		return preset_judge(s, PRESET_ANONYMOUS_MAP_EXEC, OP_MAP, file, 0);
	return 0;
}

/* Bit 29 of the file's mode must not be asked for here: overlayfs sets it on the user's own mapping. */
static __always_inline int preset_protection(struct subject *s, struct vm_area_struct *vma, unsigned long prot)
{
	unsigned long flags = BPF_CORE_READ(vma, vm_flags);
	__u64 file = (__u64)BPF_CORE_READ(vma, vm_file);
	int ret, becomes = !(flags & VM_EXEC);

	if (file && becomes && is_fileless(file)) {
		ret = preset_judge(s, PRESET_FILELESS_EXEC, OP_PROTECT, file, 0);
		if (ret)
			return ret;
	}
	if (!file || is_memory(file)) {
		if (!becomes)
			return 0;
	} else if (flags & VM_SHARED || !(prot & PROT_WRITE || (becomes && BPF_CORE_READ(vma, anon_vma)))) {
		return 0; /* still what the file holds */
	}
	return preset_judge(s, PRESET_ANONYMOUS_MAP_EXEC, OP_PROTECT, file, 0);
}
