/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the functions hand to each other. Functions that are not static are verified once, on their own, whoever
 * calls them; that keeps the verifier's work small, and asks for arguments that are plain data.
 */
#ifndef SHAPES_BPF_H
#define SHAPES_BPF_H

/* The counts of renames and of changes to mounts. */
struct sequence {
	__u32 rename, mount;
};

/* The object of an access. dentry and mnt are kernel addresses, read with bpf_probe_read_kernel only. */
struct request {
	__u64 dentry;
	__u64 mnt;
	__u64 inode; /* 0: does not exist yet; its owner will be the creator */
	__u32 class_;
	__u32 op;
	__u32 condition; /* COND_WRITE, COND_TREE; the owner is added */
	__u32 reason;	 /* not 0: no path says what this is about (REASON_*); dentry and mnt are for the event only */
	union {		 /* one place for both, since stacks are small */
		__u64 bprm; /* of OP_EXEC: the struct linux_binprm */
		__u32 nth;  /* of other operations: which of dentry's names, while it is judged under all (names.bpf.h) */
	};
};

/* How far a walk has come that began with this sequence, where plain loads are allowed to some addresses only. */
struct climbed {
	__u64 top; /* the last component below the mount's root; 0 = it has not come there */
	struct sequence begun;
};

/* A walk asked for and answered: plain data, since it is handed to a function that is verified on its own. */
struct walk {
	__u64 dentry; /* in: where to begin; kernel addresses */
	__u64 mnt;
	__u64 leaf;   /* out: the first component; 0: the path is "/" */
	__u32 n;      /* out: slots of scratch->dentries in use, as far as the walk came */
	__u32 reason; /* out: why it is not complete; 0 = it is */
};

/* One question to the trees: plain data, for functions that are verified on their own. */
struct query {
	__u64 image;	 /* address of its first cell */
	__u64 seed;	 /* from the image's header */
	__u64 table;	 /* address */
	__u64 leaf;
	__u32 mask;
	__u32 ruleset;
	__u32 place;
	__u32 n;	 /* slots in scratch->dentries */
	__u32 condition;
	__u32 class_;
	__u32 class_cell;
	__u32 source_node;
	__u32 source;	 /* source cell of the acting executable; 0 = none that rules name */
	__u32 reason;	 /* out; REASON_NO_RULES: the automata are gone */
	__u32 below;	 /* out, with COND_TREE: the strongest decision about something below the path */
	__u32 unseen;	 /* out: EVENT_ARGS_* */
	__u32 args;	 /* strings in scratch->args: the program's arguments; 0 = they are not known */
	__u32 args_len;	 /* bytes there */
	__u64 held[LIST_WORDS]; /* the lists that hold all arguments of the program */
	__u64 runs[LIST_WORDS]; /* the applets that it is, if it is a program of many names */
};

/* One attempt at an answer: plain data, for a function that is verified on its own. */
struct attempt {
	struct query query;
	struct walk walk;
	__u64 task;	  /* who acts; a kernel address */
	__u64 cached;	  /* the subject's source; out: the source found out now, or the same */
	__u32 our_ns;
	__u32 task_ns;	  /* of the task, where its paths count as they are called there; else our_ns */
	__u32 current_;	  /* that is the current task */
	__u32 has_source; /* some rule has a source */
	__u32 otherwise;  /* the class's decision where no rule decides */
	__u32 unresolved;
	__u32 conditions; /* that matter */
	__u32 decision;	  /* out */
	__u32 reason;	  /* out: why the class's unresolved effect is the decision; 0 = it is not */
	__u32 pad;
};

/* Who may be exempt from the host's policies: kernel addresses. */
struct exempt_question {
	__u64 task;
	__u64 file; /* the program that it runs, or is to run; 0 = not asked about */
};

/* A socket, and the address that is spoken to or offered. */
struct net_access {
	__u64 high, low; /* the address as a number, its first bit on top */
	__u32 version;	 /* 4, 6; 0 = no address, or one that is no IP address */
	__u32 port;
	__u32 family;
	__u32 kind;
	__u32 protocol;
	__u32 kinds; /* 1 << SOCKET_* */
};

/* An address that a program was given, with its socket: kernel addresses. */
struct net_question {
	__u64 sk;
	__u64 address; /* 0 = none */
	int len;
	__u32 op;
};

#define PLAIN_SILENT 1u	    /* no event */
#define PLAIN_UNREADABLE 2u /* the object is not known */
#define PLAIN_COMPAT 4u	    /* a system call made in the 32-bit way; number is that of the 64-bit call */

/* An access without a path. */
struct plain_request {
	__u32 class_;
	__u32 op;
	__u32 condition; /* COND_TTY */
	__u32 number;	 /* capability, system call, preset */
	__u32 flags;	 /* PLAIN_* */
	__u32 ruleset;	 /* these are filled in by the judge */
	__u32 place;
	__u32 reason;
	__u32 decision;
	__u32 unresolved;
	__u32 pad;
	__u64 dentry;	 /* for the event, where a file is concerned; 0 = none */
	__u64 mnt;
	struct net_access net;
};

/* What an event says beside the task. */
struct event_facts {
	__u64 container;
	__u32 ruleset;
	__u32 class_;
	__u32 op;
	__u32 decision;
	__u32 reason;
	__u32 has_path;
	__u32 n; /* components of the path, in scratch */
	__u32 has_detail; /* event.detail has been filled in */
	__u32 flags; /* EVENT_* */
	__u32 pad;
	__u64 task; /* who acts; a kernel address */
};

#endif
