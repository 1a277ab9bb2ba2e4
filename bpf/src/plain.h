/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The contract for what is accessed without a path: sockets, capabilities, system calls, presets. Part of enforcer.h.
 *
 * All of it stands in the image's cells. `word` is an index of a 32-bit word, 16 to a cell.
 */
#ifndef PLAIN_H
#define PLAIN_H

/* Presets, as numbered in their table. */
enum enforcer_preset {
	PRESET_FILELESS_EXEC = 0,
	PRESET_ANONYMOUS_MAP_EXEC = 1,
	PRESET_PROTECT_PROC = 2,
	PRESET_PROTECT_ENV = 3,
	PRESET_EXEC = 4,
	PRESET_COUNT = 5,
};

/* Decisions by number: root of the classes capability, syscall and preset. */
struct table_cell {
	__u32 first; /* cell of the first decision; those for a task with a terminal follow after `count` words */
	__u32 count; /* numbers in the table, rounded up to whole cells; what is beyond has no rule */
	__u32 pad[14];
};
_Static_assert(sizeof(struct table_cell) == CELL_BYTES, "table_cell");

/* What kind a socket is: it is of several kinds at once, and a rule names one. Bits of net_access.kinds. */
enum enforcer_socket_kind {
	SOCKET_ALL = 0,
	SOCKET_TCP = 1,
	SOCKET_UDP = 2,
	SOCKET_ICMP = 3,
	SOCKET_ICMPV6 = 4,
	SOCKET_SCTP = 5,
	SOCKET_DCCP = 6,
	SOCKET_RAW = 7,
	SOCKET_STREAM = 8,
	SOCKET_DGRAM = 9,
	SOCKET_RDM = 10,
	SOCKET_SEQPACKET = 11,
	SOCKET_PACKET = 12,
	SOCKET_KINDS = 16, /* room in tables */
};

/* Rules about an address are found by prefix: one way for each direction and family. */
#define WAYS 4
#define WAY_LISTEN 2
#define WAY_V6 1

/* Intervals of ports: `count` elements from the cell `first` on, four to a cell, sorted, the first one from port 0. */
struct ports {
	__u32 first;
	__u32 count; /* 0 = no rules */
};

/* The rules about sockets of one source (or none). */
struct net_root_cell {
	__u32 ways[WAYS];     /* cell << 8 | count of the prefix lengths that occur, a byte each, the longest first */
	struct ports any[2];  /* rules without an address: for those who connect, for those who listen */
	struct ports wild[2]; /* all rules on listening, for those who listen on 0.0.0.0, on :: */
	__u32 tables;	      /* cell of SOCKET_KINDS decisions on sockets, without and with a terminal; then pairs of
			       * rank and decision on creating one, by family, terminal and kind */
	__u32 table;	      /* first cell of the table of prefixes */
	__u32 mask;
	__u32 seed;
};
_Static_assert(sizeof(struct net_root_cell) == CELL_BYTES, "net_root_cell");

/* A prefix; in one of two slots of the table. */
struct net_node_cell {
	__u32 key; /* of the root and the way, see net_key; 0 = empty slot */
	__u32 len; /* bits */
	__u64 high, low; /* the address as a number, its first bit on top */
	struct ports ports;
	__u32 pad[8];
};
_Static_assert(sizeof(struct net_node_cell) == CELL_BYTES, "net_node_cell");

static __inline__ __u32 net_key(__u32 root, __u32 way)
{
	return (root << 2 | way) + 1;
}

struct port_element {
	__u32 from;    /* first port of the interval */
	__u32 list[2]; /* word of the first pair, without and with a terminal; 0 = no rules */
	__u32 pad;
};

/* Pairs of a kind and a decision, of which the first that fits decides. */
#define PAIR_END 0xffffffffu /* in the place of a kind */
#define MAX_PAIRS 16
#define MAX_PORT_STEPS 17    /* halvings of 65,536 intervals */
#define MAX_PREFIXES 129     /* lengths, 0..128 */

#define SYSCALL_COMPAT 0x10000u /* beside a system call's number: it was made in the 32-bit way */

/* What an event says about an access without a path, or beside it. */
struct event_detail {
	__u32 number;	/* capability, system call with SYSCALL_COMPAT, preset */
	__u16 family;	/* of the socket */
	__u16 kind;	/* SOCK_* */
	__u16 protocol;
	__u16 port;
	__u16 version;	/* of the address: 4, 6; 0 = none */
	__u16 pad;
	__u8 address[16]; /* as on the wire */
};
_Static_assert(sizeof(struct event_detail) == 32, "event_detail");

/* A question without a path, for a door. */
struct door_plain {
	__u32 unused;
	__u32 class_;
	__u32 op;
	__u32 condition; /* COND_TTY */
	__u32 number;
	__u32 source_len; /* bytes in door_paths.source; 0 = no known executable */
	__u32 family, kind, protocol;
	__u32 port;
	__u32 version;
	__u32 pad;
	__u64 high, low;
	/* out */
	__u32 decision;
	__u32 reason;
};
_Static_assert(sizeof(struct door_plain) == 72, "door_plain");

#endif
