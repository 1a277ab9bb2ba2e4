/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Descriptors that are older than the rules: a container's rules change while it runs, or it ran before it was armed.
 * A search through all open files judges those as if they were opened now, and remembers the ones that are denied.
 *
 * find_held, find_rings	the search
 * file_permission		reading, writing, listing, fallocate, splice and the like, through a descriptor
 * held_mmap_file		mapping one
 *
 * The hooks are asked at each read and write of every process of the node, so they are attached only while a search has
 * found something. A mapping that exists already needs no hook of the kernel any more, and stays.
 */

#define FMODE_READ 1u
#define MAP_SHARED 1u
#define MAY_WRITE 2
#define MAY_APPEND 8

/* Whose descriptors are looked at; NULL: not this task's. */
static __always_inline struct armed *searched(struct subject *s)
{
	struct armed *a = s && s->state >= SUBJECT_ACTIVE ? armed_of(s) : 0;

	return a && a->held && a->classes >> CLASS_FILE & 1 ? a : 0;
}

/* Does the file stand for a ring of io_uring? Its name says so, and on a mount of the kernel's own only the kernel gives
 * such names. */
static __always_inline int is_ring(struct file *file)
{
	char name[8] = {};

	bpf_probe_read_kernel(name, sizeof(name), file->f_path.dentry->d_name.name);
	return *(__u64 *)name == 0x6e6972755f6f695bULL; /* "[io_urin" */
}

/* Has a search found the file in this container? */
static __always_inline int is_known(struct armed *a, struct file *file)
{
	__u64 key = (__u64)file;
	struct held_file *known = bpf_map_lookup_elem(&held_files, &key);

	return known && known->container == a->container;
}

/* 1: the rules deny to open the file in this way. Told unless it is known. */
static __always_inline int is_denied(struct scratch *scratch, struct subject *s, struct armed *a, struct task_struct *task,
				     struct file *file, __u32 condition, struct held_search *h)
{
	struct request r = {.class_ = CLASS_FILE, .op = OP_HELD, .condition = condition};
	__u32 decision, effect;

	r.dentry = (__u64)file->f_path.dentry;
	r.mnt = (__u64)file->f_path.mnt;
	r.inode = (__u64)file->f_inode;
	decision = decide_in(0, scratch, s, &r, task, 0);
	effect = decision_effect(decision);
	if (effect == EFFECT_BLOCK ? !is_known(a, file) : effect == EFFECT_AUDIT && !h->again)
		tell(scratch, s, &r, decision, scratch->attempt.reason, (__u64)task);
	return effect == EFFECT_BLOCK;
}

SEC("iter/task_file")
int find_held(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct held_search *h;
	struct scratch *scratch;
	struct subject *s;
	struct armed *a;
	struct held_file value = {};
	__u32 zero = 0;
	enum mount_place place;
	__u64 key = (__u64)file;
	int denied = 0;

	if (!task || !file)
		return 0;
	s = subject_of(task);
	a = searched(s);
	h = bpf_map_lookup_elem(&held, &zero);
	if (!a || !h || file->f_mode & (FMODE_PATH | FMODE_NOACCOUNT))
		return 0;
	place = mount_place(file->f_path.mnt, a->mnt_ns, a->mnt_ns);
	if (place == MOUNT_KERNEL && is_ring(file)) {
		h->rings++;
		a->held |= HELD_ALL;
		return 0;
	}
	if (place != MOUNT_OURS) /* what the runtime has handed in: output, pipes */
		return 0;
	scratch = scratch_take();
	if (!scratch) {
		h->failed++;
		a->held |= HELD_ALL;
		return 0;
	}
	if (file->f_mode & FMODE_WRITE)
		denied = is_denied(scratch, s, a, task, file, COND_WRITE, h);
	if (!denied && file->f_mode & FMODE_READ)
		denied = is_denied(scratch, s, a, task, file, 0, h);
	scratch_give(scratch);
	if (!denied)
		return 0;
	value.container = a->container;
	value.generation = h->generation;
	if (bpf_map_update_elem(&held_files, &key, &value, BPF_ANY)) {
		h->failed++;
		a->held |= HELD_ALL;
	} else {
		h->found++;
	}
	return 0;
}

/* A ring may hold files that no descriptor stands for, and a task may keep a ring without one. */
SEC("iter/task")
int find_rings(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct held_search *h;
	struct armed *a;
	__u32 zero = 0;

	if (!task || !bpf_core_field_exists(task->io_uring) || !BPF_CORE_READ(task, io_uring))
		return 0;
	a = searched(subject_of(task));
	h = bpf_map_lookup_elem(&held, &zero);
	if (!a || !h)
		return 0;
	h->rings++;
	a->held |= HELD_ALL;
	return 0;
}

/* The current task goes on with a descriptor. */
static __always_inline int judge_held(struct subject *s, struct armed *a, __u64 file, __u32 condition)
{
	struct request r = {.class_ = CLASS_FILE, .op = OP_READ};
	struct file *f = (struct file *)file;

	/* a layer's own file under the user's, which has been asked about */
	if (BPF_CORE_READ(f, f_mode) & FMODE_NOACCOUNT)
		return 0;
	if (!(a->held & HELD_ALL) && !bpf_map_lookup_elem(&held_files, &file))
		return 0;
	r.mnt = (__u64)BPF_CORE_READ(f, f_path.mnt);
	if (mount_place((struct vfsmount *)r.mnt, a->mnt_ns, a->mnt_ns) != MOUNT_OURS)
		return 0;
	r.dentry = (__u64)BPF_CORE_READ(f, f_path.dentry);
	r.inode = (__u64)BPF_CORE_READ(f, f_inode);
	r.condition = condition;
	if (condition)
		r.op = OP_WRITE;
	return judge(s, &r) ? -EACCES : 0;
}

SEC("lsm/file_permission")
int BPF_PROG(file_permission, struct file *file, int mask, int ret)
{
	struct subject *s;
	struct armed *a;

	if (ret)
		return ret;
	s = confined();
	a = searched(s);
	return a ? judge_held(s, a, (__u64)file, mask & (MAY_WRITE | MAY_APPEND) ? COND_WRITE : 0) : 0;
}

/* `file` is no pointer for the verifier, as in mmap_file. A private mapping is not written back. */
SEC("lsm/mmap_file")
int BPF_PROG(held_mmap_file, struct file *unused, unsigned long asked, unsigned long prot, unsigned long flags, int ret)
{
	struct subject *s;
	struct armed *a;
	__u64 file = 0;

	if (ret)
		return ret;
	s = confined();
	a = searched(s);
	if (!a)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), ctx);
	/* one that is shared may be made writable later, if the descriptor is */
	return file ? judge_held(s, a, file,
				 flags & MAP_SHARED && BPF_CORE_READ((struct file *)file, f_mode) & FMODE_WRITE ? COND_WRITE : 0)
		    : 0;
}
