/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Matching what has no path: a number in a table, or a socket and perhaps an address. The cost depends on how many
 * lengths of prefixes the rules name and on the logarithm of their ports, not on how many rules there are.
 */
#ifndef PLAIN_BPF_H
#define PLAIN_BPF_H

#define AF_UNSPEC 0
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17
#define AF_SMC 43
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define SOCK_RDM 4
#define SOCK_SEQPACKET 5
#define SOCK_DCCP 6
#define SOCK_PACKET 10
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_MPTCP 262

#define KIND(name) (1u << SOCKET_##name)

static __always_inline __u32 net_kinds(__u32 family, __u32 kind, __u32 protocol)
{
	__u32 kinds = KIND(ALL);
	int inet = family == AF_INET || family == AF_INET6;

	switch (kind) {
	case SOCK_STREAM:
		kinds |= KIND(STREAM);
		if (inet && (!protocol || protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP))
			kinds |= KIND(TCP);
		break;
	case SOCK_DGRAM:
		kinds |= KIND(DGRAM);
		if (inet && (!protocol || protocol == IPPROTO_UDP))
			kinds |= KIND(UDP);
		break;
	case SOCK_RAW:
		kinds |= KIND(RAW);
		break;
	case SOCK_RDM:
		kinds |= KIND(RDM);
		break;
	case SOCK_SEQPACKET:
		kinds |= KIND(SEQPACKET);
		if (inet && !protocol)
			kinds |= KIND(SCTP);
		break;
	case SOCK_DCCP:
		kinds |= KIND(DCCP);
		break;
	case SOCK_PACKET:
		kinds |= KIND(PACKET);
		break;
	}
	if (family == AF_SMC) /* falls back to TCP */
		kinds |= KIND(TCP);
	if (family == AF_PACKET)
		kinds |= KIND(PACKET);
	if (inet && protocol == IPPROTO_SCTP)
		kinds |= KIND(SCTP);
	if (inet && protocol == IPPROTO_DCCP)
		kinds |= KIND(DCCP);
	if (family == AF_INET && protocol == IPPROTO_ICMP)
		kinds |= KIND(ICMP);
	if (family == AF_INET6 && protocol == IPPROTO_ICMPV6)
		kinds |= KIND(ICMPV6);
	return kinds;
}

/* The rules that the request is judged by; NULL: they are gone, read the class again. */
static __always_inline void *plain_image(struct plain_request *r)
{
	__u32 place = r->place;
	void *image = bpf_map_lookup_elem(&rulesets, &place);
	struct cell *h = image ? cell_at(image, 0) : 0;

	if (h && h->header.version == IMAGE_VERSION && h->header.ruleset == r->ruleset)
		return image;
	r->reason = REASON_NO_RULES;
	return 0;
}

/* A cell of the image as 32-bit words; a missing one is a damaged image. */
static __always_inline __u32 *words_at(struct plain_request *r, void *image, __u32 cell)
{
	__u32 *words = (__u32 *)cell_at(image, cell);

	if (!words)
		r->reason = REASON_NO_RULES;
	return words;
}

static __always_inline __u32 word_at(struct plain_request *r, void *image, __u32 word)
{
	__u32 *words = words_at(r, image, word / 16);

	return words ? words[word & 15] : 0;
}

/* Which of two decisions on one object holds: by effect, then the smaller origin, then what does not exempt. */
static __always_inline __u32 decision_rank(__u32 d)
{
	return decision_effect(d) ? decision_effect(d) << 29 | (DECISION_RULE - (d & DECISION_RULE)) << 1 |
					    !(d & DECISION_EXEMPT)
				  : 0;
}

/* The decision on a number. 0 = no rule decides. */
__noinline __u32 table_decide(struct plain_request *r, __u32 root)
{
	struct table_cell *t;
	__u32 word;
	void *image;

	if (!r)
		return 0;
	image = plain_image(r);
	if (!image)
		return 0;
	t = (struct table_cell *)words_at(r, image, root);
	if (!t || r->number >= t->count)
		return 0;
	word = 16 * t->first + r->number;
	if (r->condition & COND_TTY)
		word += t->count;
	return word_at(r, image, word);
}

struct net_search {
	void *image;
	struct plain_request *r;
	__u32 first; /* word of what is looked through */
	__u32 low, high;
	__u32 decision;
	__u32 rank;
	__u32 pad;
};

static long net_port_step(__u32 i, struct net_search *t)
{
	__u32 middle = (t->low + t->high) / 2;

	if (t->high - t->low <= 1)
		return 1;
	if (word_at(t->r, t->image, t->first + 4 * middle) > t->r->net.port)
		t->high = middle;
	else
		t->low = middle;
	return 0;
}

static long net_pair_step(__u32 i, struct net_search *t)
{
	__u32 kind = word_at(t->r, t->image, t->first + 2 * i);

	if (t->r->reason || kind == PAIR_END)
		return 1;
	if (!(t->r->net.kinds & (1u << (kind & 31))))
		return 0;
	t->decision = word_at(t->r, t->image, t->first + 2 * i + 1);
	return 1;
}

/* The decision of rules about ports. Verified once, on its own, as all here that is not static. */
__noinline __u32 net_ports(struct plain_request *r, __u32 first, __u32 count)
{
	struct net_search t = {};

	if (!r || !count)
		return 0;
	t.r = r;
	t.image = plain_image(r);
	if (!t.image)
		return 0;
	t.first = 16 * first;
	t.high = count;
	bpf_loop(MAX_PORT_STEPS, net_port_step, &t, 0);
	t.first = word_at(r, t.image, t.first + 4 * t.low + (r->condition & COND_TTY ? 2 : 1));
	if (!t.first)
		return 0;
	bpf_loop(MAX_PAIRS, net_pair_step, &t, 0);
	return t.decision;
}

struct net_prefixes {
	void *image;
	struct plain_request *r;
	__u32 first, count; /* prefix lengths */
	__u32 table, mask, seed;
	__u32 key;
	__u32 decision;
	__u32 pad;
};

static __always_inline int net_node_is(struct net_node_cell *n, __u32 key, __u32 len, __u64 high, __u64 low)
{
	return n && n->key == key && n->len == len && n->high == high && n->low == low;
}

static long net_prefix_step(__u32 i, struct net_prefixes *p)
{
	struct plain_request *r = p->r;
	struct net_node_cell *n;
	__u64 high = r->net.high, low = r->net.low, h;
	__u8 *lens;
	__u32 len;

	if (i >= p->count)
		return 1;
	lens = (__u8 *)words_at(r, p->image, p->first + i / CELL_BYTES);
	if (!lens)
		return 1;
	len = lens[i & (CELL_BYTES - 1)];
	if (len <= 64) {
		low = 0;
		high &= len ? ~0ULL << ((64 - len) & 63) : 0;
	} else {
		low &= ~0ULL << ((128 - len) & 63);
	}
	h = mix(mix(mix(p->seed, (__u64)p->key << 8 | len), high), low);
	n = (struct net_node_cell *)words_at(r, p->image, p->table + ((__u32)h & p->mask));
	if (!net_node_is(n, p->key, len, high, low))
		n = (struct net_node_cell *)words_at(r, p->image, p->table + ((__u32)(h >> 32) & p->mask));
	if (!net_node_is(n, p->key, len, high, low))
		return r->reason != 0;
	p->decision = net_ports(r, n->ports.first, n->ports.count);
	return decision_effect(p->decision) || r->reason;
}

static long net_socket_step(__u32 i, struct net_search *t)
{
	__u32 d;

	if (!(t->r->net.kinds & (1u << (i & 31))))
		return 0;
	d = word_at(t->r, t->image, t->first + i);
	if (decision_rank(d) > decision_rank(t->decision))
		t->decision = d;
	return 0;
}

static long net_create_step(__u32 i, struct net_search *t)
{
	__u32 rank, d;

	if (!(t->r->net.kinds & (1u << (i & 31))))
		return 0;
	rank = word_at(t->r, t->image, t->first + 2 * i);
	d = word_at(t->r, t->image, t->first + 2 * i + 1);
	if (!decision_effect(d))
		return 0;
	if (rank > t->rank || (rank == t->rank && decision_rank(d) > decision_rank(t->decision))) {
		t->rank = rank;
		t->decision = d;
	}
	return 0;
}

/* The decision of rules about sockets of any address: for creating one, first what rules about addresses imply. */
__noinline __u32 net_sockets(struct plain_request *r, __u32 tables)
{
	struct net_search t = {};
	__u32 terminal, block;

	if (!r)
		return 0;
	t.r = r;
	t.image = plain_image(r);
	if (!t.image)
		return 0;
	terminal = r->condition & COND_TTY ? 1 : 0;
	/* an IPv6 socket reaches IPv4 addresses, too */
	block = r->net.family == AF_INET ? 0 : r->net.family == AF_INET6 || r->net.family == AF_SMC ? 1 : 2;
	if (r->op == OP_SOCKET_CREATE && block < 2) {
		t.first = 16 * tables + 2 * SOCKET_KINDS + 2 * SOCKET_KINDS * (2 * block + terminal);
		bpf_loop(SOCKET_KINDS, net_create_step, &t, 0);
		if (decision_effect(t.decision))
			return t.decision;
	}
	t.first = 16 * tables + SOCKET_KINDS * terminal;
	bpf_loop(SOCKET_KINDS, net_socket_step, &t, 0);
	return t.decision;
}

/* The decision of the rules about sockets of one source. 0 = none of them decides. */
__noinline __u32 net_decide(struct plain_request *r, __u32 root)
{
	struct net_prefixes p = {};
	struct net_root_cell *c;
	struct ports any;
	__u32 way, lens, tables, d;

	if (!r)
		return 0;
	p.image = plain_image(r);
	if (!p.image)
		return 0;
	c = (struct net_root_cell *)words_at(r, p.image, root);
	if (!c)
		return 0;
	tables = c->tables;
	way = r->op == OP_SOCKET_BIND || r->op == OP_SOCKET_LISTEN ? WAY_LISTEN : 0;
	if (r->net.version && (way || r->op == OP_SOCKET_CONNECT || r->op == OP_SOCKET_SEND)) {
		any = c->any[way / WAY_LISTEN];
		if (way && !r->net.high && !r->net.low) {
			any = c->wild[r->net.version == 6];
			lens = 0;
		} else {
			if (r->net.version == 6)
				way |= WAY_V6;
			lens = c->ways[way & (WAYS - 1)];
		}
		p.count = lens & 0xff;
		if (p.count) {
			p.r = r;
			p.first = lens >> 8;
			p.table = c->table;
			p.mask = c->mask;
			p.seed = c->seed;
			p.key = net_key(root, way);
			bpf_loop(MAX_PREFIXES, net_prefix_step, &p, 0);
			if (decision_effect(p.decision) || r->reason)
				return p.decision;
		}
		d = net_ports(r, any.first, any.count);
		if (decision_effect(d) || r->reason)
			return d;
	}
	return net_sockets(r, tables);
}

static __always_inline __u32 plain_root_decide(struct plain_request *r, __u32 root)
{
	return r->class_ == CLASS_NETWORK ? net_decide(r, root) : table_decide(r, root);
}

/* The rules' answer: those of the acting executable, those without a source, then what the class says otherwise. */
static __always_inline __u32 plain_decide(struct plain_request *r, __u32 class_cell, __u32 source)
{
	struct class_cell *k;
	struct source_cell *c;
	__u32 d = 0, root, otherwise;
	void *image;

	r->reason = 0;
	image = plain_image(r);
	if (!image)
		return 0;
	k = (struct class_cell *)words_at(r, image, class_cell);
	if (!k)
		return 0;
	root = k->root;
	otherwise = k->otherwise;
	if (source) {
		c = (struct source_cell *)words_at(r, image, source);
		if (c && c->roots[r->class_ & CLASS_MASK])
			d = plain_root_decide(r, c->roots[r->class_ & CLASS_MASK]);
	}
	if (root && !decision_effect(d) && !r->reason)
		d = plain_root_decide(r, root);
	return decision_effect(d) ? d : otherwise;
}

#endif
