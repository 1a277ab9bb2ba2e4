/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a dentry to all its names in the container.
 *
 * Some hooks get a dentry without the mount that it was reached through, so which of its paths was used cannot be
 * said. What they are about (times, extended attributes, the source of a new mount) belongs to the file whatever its
 * name, so it is judged under each: every mount of the file's superblock that stands in the container's mount
 * namespace and has the dentry below its root gives one.
 */
#ifndef NAMES_BPF_H
#define NAMES_BPF_H

#define MAX_NAMES 16		   /* beyond these the access counts as unresolved */
#define MAX_SB_MOUNTS (1 << 16)	   /* of one superblock, in all namespaces; likewise */
#define NAME_NONE 0
#define NAME_UNKNOWN 1 /* the search could not be finished */

struct ascent {
	__u64 dentry, to;
	__u32 arrived, done;
};

static long ascent_step(__u32 i, struct ascent *c)
{
	struct dentry *d = (struct dentry *)c->dentry;
	__u64 parent;

	c->arrived = c->dentry == c->to;
	if (!c->arrived) {
		parent = (__u64)BPF_CORE_READ(d, d_parent);
		if (parent && parent != c->dentry) {
			c->dentry = parent;
			return 0;
		}
	}
	c->done = 1;
	return 1;
}

struct search {
	__u64 dentry;
	__u64 at;  /* struct mount */
	__u64 end; /* what stands for the list's head; 0 = none */
	__u64 found;
	__u32 our_ns;
	__u32 skip;
	__u32 done, unknown;
};

static __always_inline __u64 next_of(__u64 mount)
{
	struct mount *m = (struct mount *)mount;

	if (bpf_core_field_exists(struct mount, mnt_instance))
		return (__u64)BPF_CORE_READ(m, mnt_instance.next) - bpf_core_field_offset(struct mount, mnt_instance);
	return (__u64)BPF_CORE_READ((struct mount___single *)m, mnt_next_for_sb);
}

static long search_step(__u32 i, struct search *s)
{
	struct ascent c = {.dentry = s->dentry};
	struct mount *m = (struct mount *)s->at;
	__u64 ns;

	if (!m || s->at == s->end) {
		s->done = 1;
		return 1;
	}
	ns = (__u64)BPF_CORE_READ(m, mnt_ns);
	if (ns && ns < (__u64)-MAX_ERRNO && BPF_CORE_READ((struct mnt_namespace *)ns, ns.inum) == s->our_ns) {
		c.to = (__u64)BPF_CORE_READ(m, mnt.mnt_root);
		bpf_loop(MAX_WALK, ascent_step, &c, 0);
		if (!c.done)
			s->unknown = 1;
		if (c.arrived && s->skip-- == 0) {
			s->found = s->at + bpf_core_field_offset(struct mount, mnt);
			return 1;
		}
	}
	s->at = next_of(s->at);
	return 0;
}

/* The vfsmount of r->dentry's name number r->nth in the namespace, 0: the task's own; or NAME_NONE, NAME_UNKNOWN. Verified once, on its own. */
__noinline __u64 name_of(struct request *r, __u32 our_ns)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct search s = {.our_ns = our_ns ? our_ns : mount_namespace_of(task)};
	struct super_block *sb;
	struct dentry *d;

	if (!r)
		return NAME_UNKNOWN;
	s.dentry = r->dentry;
	s.skip = r->nth;
	d = (struct dentry *)s.dentry;
	sb = BPF_CORE_READ(d, d_sb);
	if (!sb)
		return NAME_UNKNOWN;
	if (bpf_core_field_exists(struct mount, mnt_instance)) {
		__u64 instance = bpf_core_field_offset(struct mount, mnt_instance);

		s.at = (__u64)BPF_CORE_READ(sb, s_mounts.next) - instance;
		s.end = (__u64)sb + bpf_core_field_offset(struct super_block, s_mounts) - instance;
	} else {
		s.at = (__u64)BPF_CORE_READ((struct super_block___single *)sb, s_mounts);
	}
	bpf_loop(MAX_SB_MOUNTS, search_step, &s, 0);
	if (s.found)
		return s.found;
	return s.unknown || !s.done ? NAME_UNKNOWN : NAME_NONE;
}

enum named {
	NAMED_ALLOWED,
	NAMED_DENIED,
	NAMED_NOT, /* it has no name in the container */
};

/* The verdict on r->dentry under each of its names; r->mnt is filled in. In line, for eight calls may be nested. */
static __always_inline enum named judge_names(struct subject *subject, struct request *r)
{
	__u32 our_ns = subject->state == SUBJECT_HOST ? 0 : subject->mnt_ns;
	struct sequence q = {};
	__u64 mnt;
	__u32 i; /* which attempt, and in its lower digits which name: one counter, since stacks are small */

#pragma clang loop unroll(disable)
	for (i = 0; i < 4 * MAX_NAMES; i++) {
		r->nth = i % MAX_NAMES;
		if (!r->nth && !sequence_begin(&q))
			break;
		mnt = name_of(r, our_ns);
		if (mnt != NAME_NONE && mnt != NAME_UNKNOWN) {
			r->mnt = mnt;
			if (judge(subject, r))
				return NAMED_DENIED;
		} else if (sequence_moved(q)) {
			i |= MAX_NAMES - 1; /* the next attempt */
		} else if (mnt == NAME_NONE) {
			return i % MAX_NAMES ? NAMED_ALLOWED : NAMED_NOT;
		} else {
			break;
		}
	}
	r->reason = REASON_RACED; /* or too many names */
	return judge(subject, r) ? NAMED_DENIED : NAMED_ALLOWED;
}

#endif
