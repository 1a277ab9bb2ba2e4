/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Sockets. What io_uring, sendmmsg and the like do comes through the same hooks.
 *
 * socket_create		every socket that user space asks for, socketpair included
 * socket_connect		also a datagram socket's, whose later packets have no address of their own
 * socket_sendmsg		with an address: datagrams, and TCP that opens and sends at once
 * socket_bind, socket_listen	what is offered, and where
 * socket_accept		what comes in
 * sctp_bind_connect		addresses that SCTP takes by socket options and with the first message
 *
 * The address is read as the protocol will: an AF_UNSPEC address of a datagram or a bind is one of the socket's family,
 * and connecting or sending to the unspecified address reaches the machine itself.
 */

#define SIN_BYTES 16	/* sizeof(struct sockaddr_in) */
#define SIN6_BYTES 24	/* without the scope, as the kernel asks for (SIN6_LEN_RFC2133) */
#define MSG_FASTOPEN 0x20000000u
#define LOOPBACK4 (0x7f000001ULL << 32)

/* the beginning of struct sockaddr_in and of struct sockaddr_in6 */
struct address {
	__u16 family;
	__be16 port;
	__be32 v4; /* of version 6: flow information */
	__be64 v6[2];
};

static __always_inline void net_unmap(struct net_access *n)
{
	if (n->version == 6 && !n->high && n->low >> 32 == 0xffff) {
		n->version = 4;
		n->high = n->low << 32;
		n->low = 0;
	}
}

static __always_inline void net_socket(struct net_access *n, struct sock *sk)
{
	n->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	n->kind = BPF_CORE_READ(sk, sk_type);
	n->protocol = BPF_CORE_READ(sk, sk_protocol);
}

/* The socket's own address. */
static __always_inline void net_local(struct net_access *n, struct sock *sk)
{
	__be64 v6[2] = {};

	if (n->family == AF_INET6 && bpf_core_field_exists(struct sock_common, skc_v6_rcv_saddr)) {
		bpf_core_read(v6, sizeof(v6), &sk->__sk_common.skc_v6_rcv_saddr);
		n->version = 6;
		n->high = bpf_be64_to_cpu(v6[0]);
		n->low = bpf_be64_to_cpu(v6[1]);
		net_unmap(n);
	} else if (n->family == AF_INET || n->family == AF_INET6) {
		n->version = 4;
		n->high = (__u64)bpf_ntohl(BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr)) << 32;
		n->low = 0;
	}
}

/* Fills in the address at `from`; 0: it is too short for its family, and the kernel will say so. */
static __always_inline int net_address(struct net_access *n, struct net_question *q)
{
	struct sock *sk = (struct sock *)q->sk;
	const void *from = (const void *)q->address;
	__u32 op = q->op;
	int len = q->len;
	struct address a = {};
	__u16 family;

	if (len < (int)sizeof(a.family) || bpf_probe_read_kernel(&a.family, sizeof(a.family), from))
		return 0;
	family = a.family;
	if (family == AF_UNSPEC && op != OP_SOCKET_CONNECT)
		family = n->family;
	if (family == AF_INET) {
		if (len < SIN_BYTES || bpf_probe_read_kernel(&a, 8, from))
			return 0;
		n->version = 4;
		n->high = (__u64)bpf_ntohl(a.v4) << 32;
	} else if (family == AF_INET6) {
		if (len < SIN6_BYTES || bpf_probe_read_kernel(&a, sizeof(a), from))
			return 0;
		n->version = 6;
		n->high = bpf_be64_to_cpu(a.v6[0]);
		n->low = bpf_be64_to_cpu(a.v6[1]);
	} else {
		return 1;
	}
	n->port = bpf_ntohs(a.port);
	net_unmap(n);
	if ((op == OP_SOCKET_CONNECT || op == OP_SOCKET_SEND) && !n->high && !n->low) {
		family = n->version;
		net_local(n, sk); /* to its own address, if it has one, else to the loopback address */
		if (n->high || n->low)
			return 1;
		n->version = family;
		if (family == 4)
			n->high = LOOPBACK4;
		else
			n->low = 1;
	}
	return 1;
}

/* Fills in what a request says about a socket. */
__noinline int net_read(struct plain_request *r, struct net_question *q)
{
	struct sock *sk;

	if (!r || !q)
		return 0;
	sk = (struct sock *)q->sk;
	r->op = q->op;
	r->condition = terminal_condition(bpf_get_current_task_btf());
	net_socket(&r->net, sk);
	if (q->address && !net_address(&r->net, q))
		r->flags = PLAIN_UNREADABLE;
	if (q->op == OP_SOCKET_LISTEN) {
		net_local(&r->net, sk);
		if (r->net.version)
			r->net.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	}
	r->net.kinds = net_kinds(r->net.family, r->net.kind, r->net.protocol);
	return 0;
}

/* One judgement of a socket, with or without an address. */
static __always_inline int net_answer(struct subject *s, struct net_question *q)
{
	struct plain_request r = {.class_ = CLASS_NETWORK};

	net_read(&r, q);
	return judge_plain(s, &r);
}

static __always_inline int net_judge(struct subject *s, struct sock *sk, __u32 op, const void *address, int len)
{
	struct net_question q = {.sk = (__u64)sk, .address = (__u64)address, .len = len, .op = op};

	return sk && net_answer(s, &q) ? -EACCES : 0;
}

SEC("lsm/socket_create")
int BPF_PROG(socket_create, int family, int type, int protocol, int kern, int ret)
{
	struct plain_request r = {.class_ = CLASS_NETWORK, .op = OP_SOCKET_CREATE};
	struct subject *s;

	if (ret)
		return ret;
	if (kern)
		return 0;
	s = confined_by(CLASS_NETWORK);
	if (!s)
		return 0;
	r.condition = terminal_condition(bpf_get_current_task_btf());
	r.net.family = family;
	r.net.kind = type;
	r.net.protocol = protocol;
	r.net.kinds = net_kinds(family, type, protocol);
	return judge_plain(s, &r) ? -EACCES : 0;
}

SEC("lsm/socket_connect")
int BPF_PROG(socket_connect, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
	struct subject *s;
	__u16 family = 0;

	if (ret)
		return ret;
	s = confined_by(CLASS_NETWORK);
	if (!s)
		return 0;
	/* AF_UNSPEC ends a connection */
	if (addrlen >= (int)sizeof(family) && !bpf_probe_read_kernel(&family, sizeof(family), address) &&
	    family == AF_UNSPEC)
		return 0;
	return net_judge(s, BPF_CORE_READ(sock, sk), OP_SOCKET_CONNECT, address, addrlen);
}

SEC("lsm/socket_sendmsg")
int BPF_PROG(socket_sendmsg, struct socket *sock, struct msghdr *msg, int size, int ret)
{
	struct subject *s;
	struct sock *sk;
	__u32 family;

	if (ret)
		return ret;
	if (!msg->msg_name || msg->msg_namelen <= 0)
		return 0;
	s = confined_by(CLASS_NETWORK);
	if (!s)
		return 0;
	sk = BPF_CORE_READ(sock, sk);
	/* TCP looks at an address only to open a connection */
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (!(msg->msg_flags & MSG_FASTOPEN) &&
	    net_kinds(family, BPF_CORE_READ(sk, sk_type), BPF_CORE_READ(sk, sk_protocol)) & KIND(TCP))
		return 0;
	return net_judge(s, sk, OP_SOCKET_SEND, msg->msg_name, msg->msg_namelen);
}

SEC("lsm/socket_bind")
int BPF_PROG(socket_bind, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
	struct subject *s;

	if (ret)
		return ret;
	s = confined_by(CLASS_NETWORK);
	return s ? net_judge(s, BPF_CORE_READ(sock, sk), OP_SOCKET_BIND, address, addrlen) : 0;
}

SEC("lsm/socket_listen")
int BPF_PROG(socket_listen, struct socket *sock, int backlog, int ret)
{
	struct subject *s;

	if (ret)
		return ret;
	s = confined_by(CLASS_NETWORK);
	return s ? net_judge(s, BPF_CORE_READ(sock, sk), OP_SOCKET_LISTEN, 0, 0) : 0;
}

SEC("lsm/socket_accept")
int BPF_PROG(socket_accept, struct socket *sock, struct socket *newsock, int ret)
{
	struct subject *s;

	if (ret)
		return ret;
	s = confined_by(CLASS_NETWORK);
	return s ? net_judge(s, BPF_CORE_READ(sock, sk), OP_SOCKET_ACCEPT, 0, 0) : 0;
}

/* include/uapi/linux/sctp.h, include/linux/sctp.h */
#define SCTP_SOCKOPT_BINDX_ADD 100
#define SCTP_SOCKOPT_CONNECTX_OLD 107
#define SCTP_SOCKOPT_CONNECTX 110
#define SCTP_SENDMSG_CONNECT 4
#define SCTP_ADDRESSES 8 /* that are looked at; a list with more is denied where the class can deny */

/* A packed list of addresses. What the peer's chunks ask for is the kernel's own doing, not the task's. */
SEC("lsm/sctp_bind_connect")
int BPF_PROG(sctp_bind_connect, struct sock *sk, int optname, struct sockaddr *address, int addrlen, int ret)
{
	struct net_question q = {};
	struct subject *s;
	__u16 family;
	int left, i;

	if (ret)
		return ret;
	switch (optname) {
	case SCTP_SOCKOPT_BINDX_ADD:
		q.op = OP_SOCKET_BIND;
		break;
	case SCTP_SOCKOPT_CONNECTX:
	case SCTP_SOCKOPT_CONNECTX_OLD:
	case SCTP_SENDMSG_CONNECT:
		q.op = OP_SOCKET_CONNECT;
		break;
	default:
		return 0;
	}
	s = confined_by(CLASS_NETWORK);
	if (!s)
		return 0;
	/* as numbers, for the verifier: where a list goes on is no constant */
	bpf_probe_read_kernel(&q.sk, sizeof(q.sk), &ctx[0]);
	bpf_probe_read_kernel(&q.address, sizeof(q.address), &ctx[2]);
	left = addrlen;
	for (i = 0; i < SCTP_ADDRESSES; i++) {
		if (left <= 0)
			return 0;
		family = 0;
		bpf_probe_read_kernel(&family, sizeof(family), (void *)q.address);
		q.len = family == AF_INET6 ? 28 : SIN_BYTES;
		if (q.len > left)
			q.len = left;
		if (net_answer(s, &q))
			return -EACCES;
		q.address += q.len;
		left -= q.len;
	}
	q.len = 1; /* too short: unresolved */
	return left > 0 && net_answer(s, &q) ? -EACCES : 0;
}
