/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The parts of kernel structures that the programs read. Only names and types matter: the loader relocates each
 * access to the running kernel's own layout (CO-RE), and refuses to load where a field is gone. That makes the
 * object independent of the machine it was built on, and the list below is all that a new kernel can break.
 */
#ifndef KERNEL_BPF_H
#define KERNEL_BPF_H

#include <linux/types.h>
#include <linux/bpf.h>

#define __kernel_type __attribute__((preserve_access_index))


struct qstr { __u32 len; const unsigned char *name; } __kernel_type;
struct list_head { struct list_head *next; } __kernel_type;
struct super_block { __u32 s_dev; unsigned long s_flags; unsigned long s_magic; int s_stack_depth; struct list_head s_mounts; } __kernel_type;
typedef struct { __u32 val; } kuid_t;
struct inode { __u16 i_mode; kuid_t i_uid; struct super_block *i_sb; unsigned long i_ino; __u32 i_rdev; unsigned int i_nlink; } __kernel_type;
struct dentry { struct dentry *d_parent; struct qstr d_name; struct inode *d_inode; struct super_block *d_sb; } __kernel_type;
struct vfsmount { struct dentry *mnt_root; struct super_block *mnt_sb; } __kernel_type;
struct path { struct vfsmount *mnt; struct dentry *dentry; } __kernel_type;
struct ns_common { unsigned int inum; } __kernel_type;
struct mnt_namespace { struct ns_common ns; } __kernel_type;
/* seq: unique for the life of the machine (fs/namespace.c, alloc_mnt_ns). Later kernels number all namespaces in one
 * row instead (include/linux/ns/ns_common_types.h, ns_id) */
struct mnt_namespace___seq { __u64 seq; } __kernel_type;
struct ns_common___id { __u64 ns_id; } __kernel_type;
struct mnt_namespace___id { struct ns_common___id ns; } __kernel_type;
struct mount { struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; struct mnt_namespace *mnt_ns; struct list_head mnt_instance; } __kernel_type;
/* since 6.18 the mounts of a superblock are a list without a head */
struct super_block___single { struct mount *s_mounts; } __kernel_type;
struct mount___single { struct mount *mnt_next_for_sb; } __kernel_type;
struct file { unsigned int f_mode; unsigned int f_flags; struct path f_path; struct inode *f_inode; } __kernel_type;
/* a layer's file that stands for the user's in mappings; since 6.5 */
struct backing_file { struct file file; struct path user_path; } __kernel_type;
struct vm_area_struct { unsigned long vm_flags; struct file *vm_file; void *anon_vma; } __kernel_type;
struct unix_sock { struct path path; } __kernel_type;
struct iattr { unsigned int ia_valid; } __kernel_type;
struct fs_struct { struct path root; } __kernel_type;
struct nsproxy { struct mnt_namespace *mnt_ns; } __kernel_type;
typedef struct { unsigned long pgd; } pgd_t;
struct mm_struct { pgd_t *pgd; struct file *exe_file; unsigned long saved_auxv[2]; } __kernel_type;
struct cred { kuid_t uid; kuid_t fsuid; } __kernel_type;
struct pid_namespace;
struct upid { int nr; struct pid_namespace *ns; } __kernel_type;
struct hlist_node { struct hlist_node *next; } __kernel_type;
struct hlist_head { struct hlist_node *first; } __kernel_type;
struct pid { unsigned int level; struct hlist_head tasks[1]; struct upid numbers[1]; } __kernel_type;
struct proc_inode { struct pid *pid; struct inode vfs_inode; } __kernel_type;
struct kernfs_node { __u64 id; const char *name; } __kernel_type;
/* ancestors: since 6.1 (7f203bc89eb6, "cgroup: Replace cgroup->ancestor_ids[] with ->ancestors[]") */
struct cgroup { struct kernfs_node *kn; int level; struct cgroup *ancestors[1]; } __kernel_type;
struct css_set { struct cgroup *dfl_cgrp; } __kernel_type;
struct tty_struct;
struct io_uring_task;
struct signal_struct { struct tty_struct *tty; } __kernel_type;
struct task_struct {
	int pid;
	int tgid;
	int exit_state;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct nsproxy *nsproxy;
	struct fs_struct *fs;
	struct mm_struct *mm;
	const struct cred *real_cred;
	const struct cred *cred;
	struct pid *thread_pid;
	struct css_set *cgroups;
	struct signal_struct *signal;
	struct hlist_node pid_links[1];
	struct io_uring_task *io_uring;
	char comm[16];
} __kernel_type;
struct in6_addr;
struct sock_common {
	unsigned short skc_family;
	__u16 skc_num;
	__be32 skc_rcv_saddr;
	struct in6_addr { __u8 bytes[16]; } skc_v6_rcv_saddr;
} __kernel_type;
struct sock { struct sock_common __sk_common; __u16 sk_type; __u16 sk_protocol; } __kernel_type;
struct socket { struct sock *sk; } __kernel_type;
struct sockaddr;
struct msghdr { void *msg_name; int msg_namelen; unsigned int msg_flags; } __kernel_type;
struct user_namespace;
struct linux_binprm { struct mm_struct *mm; unsigned long p; struct file *file; int argc; unsigned long exec; } __kernel_type;
struct bpf_iter_meta { struct seq_file *seq; } __kernel_type;
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; } __kernel_type;
struct bpf_iter__task_file { struct bpf_iter_meta *meta; struct task_struct *task; __u32 fd; struct file *file; } __kernel_type;

typedef __u16 umode_t;
#define S_IFMT 0170000u
#define S_IFDIR 0040000u
#define EPERM 1
#define EACCES 13

#endif
