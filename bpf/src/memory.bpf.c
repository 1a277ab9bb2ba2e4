/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Mapping a file to execute it.
 *
 * mmap_file, file_mprotect
 *
 * `ld.so PROGRAM` executes PROGRAM without execve: the kernel sees ld.so mapping a file. So where the running program
 * has no ELF interpreter of its own, which is what ld.so is like and a shared library's user is not, a file that it
 * maps to execute is judged as if it executed that file. Programs with an interpreter are left alone: what they map
 * are libraries, and no rule is about those.
 */

#define AT_NULL 0
#define AT_BASE 7
#define AUXV_PAIRS 24
#define FMODE_BACKING (3u << 24) /* bit 25 from 6.5 on, bit 24 since 6.11 */

enum interpreter {
	INTERPRETER_UNKNOWN, /* an exec that is under way: the kernel maps program and interpreter; or no ELF program */
	INTERPRETER_NONE,
	INTERPRETER_OTHER,
};

/* What the kernel told the program about its interpreter: AT_BASE of the auxiliary vector, which it keeps. */
static __noinline enum interpreter interpreter_of(struct mm_struct *mm)
{
	__u64 at = (__u64)mm + bpf_core_field_offset(struct mm_struct, saved_auxv);
	__u64 first = 0;

	/* the first entry's type is a small number: with something in its upper half these are 32-bit pairs */
	bpf_probe_read_kernel(&first, sizeof(first), (void *)at);
	if (first >> 32) {
		for (int i = 0; i < AUXV_PAIRS; i++) {
			__u32 pair[2] = {};

			bpf_probe_read_kernel(pair, sizeof(pair), (void *)(at + i * sizeof(pair)));
			if (pair[0] == AT_BASE)
				return pair[1] ? INTERPRETER_OTHER : INTERPRETER_NONE;
			if (pair[0] == AT_NULL)
				break;
		}
		return INTERPRETER_UNKNOWN;
	}
	for (int i = 0; i < AUXV_PAIRS; i++) {
		__u64 pair[2] = {};

		bpf_probe_read_kernel(pair, sizeof(pair), (void *)(at + i * sizeof(pair)));
		if (pair[0] == AT_BASE)
			return pair[1] ? INTERPRETER_OTHER : INTERPRETER_NONE;
		if (pair[0] == AT_NULL)
			break;
	}
	return INTERPRETER_UNKNOWN;
}

/* Does the running program have no interpreter, and no exec is under way? */
static __always_inline int loads_by_itself(struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	__u64 first = mm->saved_auxv[0];

	/* an exec that is under way has no auxiliary vector yet, and nearly all else has an interpreter */
	return first != AT_NULL && interpreter_of(mm) == INTERPRETER_NONE;
}

static __always_inline int judge_mapping(struct subject *s, struct inode *inode, struct dentry *dentry,
					 struct vfsmount *mnt)
{
	struct request r = {.class_ = CLASS_PROCESS, .op = OP_MAP};

	if (inode == bpf_get_current_task_btf()->mm->exe_file->f_inode)
		return 0; /* the program itself, which was judged when it was executed */
	r.dentry = (__u64)dentry;
	r.mnt = (__u64)mnt;
	r.inode = (__u64)inode;
	return judge(s, &r) ? -EACCES : 0;
}

/* `file` is no pointer for the verifier, which would take it for never NULL and drop the test */
SEC("lsm/mmap_file")
int BPF_PROG(mmap_file, struct file *unused, unsigned long asked, unsigned long prot, unsigned long flags, int ret)
{
	struct subject *s;
	struct file *f;
	__u64 file = 0;
	__u32 classes;

	if (ret)
		return ret;
	if (!(prot & PROT_EXEC))
		return 0;
	s = confined();
	if (!s)
		return 0;
	classes = classes_applying(s);
	if (classes >> CLASS_PROCESS & 1 && !loads_by_itself(bpf_get_current_task_btf()))
		classes &= ~(1u << CLASS_PROCESS);
	if (!(classes & (1u << CLASS_PRESET | 1u << CLASS_PROCESS)))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), ctx);
	if (classes >> CLASS_PRESET & 1) {
		ret = preset_mapping(s, file, prot, flags);
		if (ret)
			return ret;
	}
	if (!file || !(classes >> CLASS_PROCESS & 1))
		return 0;
	f = (struct file *)file;
	return judge_mapping(s, BPF_CORE_READ(f, f_inode), BPF_CORE_READ(f, f_path.dentry), BPF_CORE_READ(f, f_path.mnt));
}

SEC("lsm/file_mprotect")
int BPF_PROG(file_mprotect, struct vm_area_struct *vma, unsigned long asked, unsigned long prot, int ret)
{
	struct subject *s;
	struct file *file;
	unsigned int mode;

	if (ret)
		return ret;
	if (!(prot & PROT_EXEC))
		return 0;
	s = confined_by(CLASS_PROCESS);
	if (!s)
		return 0;
	file = BPF_CORE_READ(vma, vm_file);
	if (!file || BPF_CORE_READ(vma, vm_flags) & VM_EXEC || !loads_by_itself(bpf_get_current_task_btf()))
		return 0;
	/* overlayfs maps the layer's file: the path is that of the file above it */
	mode = BPF_CORE_READ(file, f_mode);
	if (bpf_core_type_exists(struct backing_file) && mode & FMODE_NOACCOUNT && mode & FMODE_BACKING) {
		struct backing_file *b = (struct backing_file *)file;
		struct dentry *user = BPF_CORE_READ(b, user_path.dentry);

		return judge_mapping(s, BPF_CORE_READ(user, d_inode), user, BPF_CORE_READ(b, user_path.mnt));
	}
	return judge_mapping(s, BPF_CORE_READ(file, f_inode), BPF_CORE_READ(file, f_path.dentry),
			     BPF_CORE_READ(file, f_path.mnt));
}

/* A program of its own: stacks are too small for both. */
SEC("lsm/file_mprotect")
int BPF_PROG(preset_file_mprotect, struct vm_area_struct *vma, unsigned long asked, unsigned long prot, int ret)
{
	struct subject *s;

	if (ret)
		return ret;
	if (!(prot & PROT_EXEC))
		return 0;
	s = confined_by(CLASS_PRESET);
	return s ? preset_protection(s, vma, prot) : 0;
}
