/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Unix sockets that stand in a file system: connecting to one, or sending to it, is a write to its path, as it is for
 * the permissions of files. The hooks show the other side's socket, which knows the dentry it was bound to, perhaps in
 * another namespace: it is judged under all the names that it has in the container (names.bpf.h).
 *
 * unix_stream_connect, unix_may_send
 */

static __always_inline int judge_peer(struct sock *other)
{
	struct request r = {.class_ = CLASS_FILE, .op = OP_CONNECT_UNIX, .condition = COND_WRITE};
	struct subject *s = confined_by(CLASS_FILE);
	struct dentry *dentry;

	if (!s)
		return 0;
	dentry = BPF_CORE_READ((struct unix_sock *)other, path.dentry);
	if (!dentry) /* abstract, or a pair */
		return 0;
	r.dentry = (__u64)dentry;
	r.inode = (__u64)BPF_CORE_READ(dentry, d_inode);
	switch (judge_names(s, &r)) {
	case NAMED_ALLOWED:
		return 0;
	case NAMED_NOT:
		r.mnt = (__u64)BPF_CORE_READ((struct unix_sock *)other, path.mnt);
		r.reason = REASON_FOREIGN_MOUNT;
		return judge(s, &r) ? -EACCES : 0;
	default:
		return -EACCES;
	}
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(unix_stream_connect, struct sock *sock, struct sock *other, struct sock *new, int ret)
{
	return ret ? ret : judge_peer(other);
}

/* at connect, and at each datagram */
SEC("lsm/unix_may_send")
int BPF_PROG(unix_may_send, struct socket *sock, struct socket *other, int ret)
{
	return ret ? ret : judge_peer(BPF_CORE_READ(other, sk));
}
