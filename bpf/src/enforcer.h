/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The contract between the BPF programs and user space.
 *
 * Every structure here is read or written by both sides. All fields have fixed widths, all padding is named, and
 * all sizes are asserted. Rust takes the map and event types from the skeleton that is generated from this file;
 * only the layout of an image's cells is written a second time (enforcer-core, compile/bpf/image.rs, which must
 * build without clang), and a test there compares each offset with the generated types.
 *
 * ENFORCER_LAYOUT goes into the name of the directory in bpffs: programs and a daemon that disagree about
 * anything in this file never meet.
 */
#ifndef ENFORCER_H
#define ENFORCER_H

#define ENFORCER_LAYOUT 5
#define EVENT_VERSION 2

/* Linux PATH_MAX: what a path given to a system call can hold, the terminating NUL included. */
#define PATH_BYTES 4096
/* NAME_MAX: the longest component that any Linux file system allows. */
#define NAME_BYTES 255
/* A path of PATH_BYTES has at most 2047 components, so no rule is deeper than this. */
#define MAX_COMPONENTS 2048
/* Steps of a walk towards the root. A directory may be nested deeper than PATH_MAX (mkdir and chdir in turn);
 * past this many components and mounts the walk gives up, and the access counts as unresolved. */
#define MAX_WALK 65536
/* cgroup v2 levels that the ancestor search looks at; user space refuses to arm a container below that. */
#define MAX_CGROUP_LEVEL 32
/* Containers at one time. */
#define MAX_CONTAINERS 16384
/* Container ids: containerd and CRI-O use 64 hexadecimal digits. */
#define CONTAINER_ID_BYTES 128

enum enforcer_class {
	CLASS_PROCESS = 0,
	CLASS_FILE = 1,
	CLASS_NETWORK = 2,
	CLASS_CAPABILITY = 3,
	CLASS_SYSCALL = 4,
	CLASS_PRESET = 5,
	CLASS_COUNT = 6,
};
#define CLASS_SLOTS 8 /* of arrays by class: a power of two */
#define CLASS_MASK (CLASS_SLOTS - 1)

/* What a decision says; the order is the order of strength. EFFECT_NONE: the rule does not cover this access. */
enum enforcer_effect {
	EFFECT_NONE = 0,
	EFFECT_ALLOW = 1,
	EFFECT_AUDIT = 2,
	EFFECT_BLOCK = 3,
};

/* Operations, for events. The matcher only knows whether an access writes. */
enum enforcer_op {
	OP_EXEC = 1,
	OP_OPEN_READ = 2,
	OP_OPEN_WRITE = 3,
	OP_CREATE = 4,
	OP_MKDIR = 5,
	OP_RMDIR = 6,
	OP_UNLINK = 7,
	OP_SYMLINK = 8,
	OP_LINK = 9,
	OP_RENAME = 10,
	OP_TRUNCATE = 11,
	OP_CHMOD = 12,
	OP_CHOWN = 13,
	OP_SETATTR = 14,    /* times, extended attributes, ACLs, flags */
	OP_RECEIVE = 15,    /* an open file comes from another process */
	OP_MAP = 16,	    /* a loader maps a file to execute it */
	OP_MOUNT = 17,
	OP_UMOUNT = 18,
	OP_PIVOT_ROOT = 19,
	OP_PTRACE = 20,
	OP_CONNECT_UNIX = 21, /* or sending to it */
	OP_SOCKET_CREATE = 32,
	OP_SOCKET_CONNECT = 33,
	OP_SOCKET_SEND = 34,
	OP_SOCKET_BIND = 35,
	OP_SOCKET_LISTEN = 36,
	OP_SOCKET_ACCEPT = 37,
	OP_CAPABLE = 38,
	OP_SYSCALL = 39,
	OP_PROTECT = 40, /* mprotect that makes memory executable */
	OP_ENTER = 41,   /* a program that is sent into the container from outside */
	OP_HELD = 42,    /* none: a descriptor was found open that the rules, which are newer, deny to open */
	OP_READ = 43,    /* through such a descriptor, or mapping it to read */
	OP_WRITE = 44,
};

/* Why an access could not be resolved to a path or to rules. */
enum enforcer_reason {
	REASON_NONE = 0,
	REASON_RACED = 1,	 /* renames or mounts changed the path in every attempt */
	REASON_TOO_DEEP = 2,	 /* more than MAX_WALK steps to the root */
	REASON_DISCONNECTED = 3, /* a dentry without a way to a root: open_by_handle_at, a directory moved out of a bind mount */
	REASON_FOREIGN_MOUNT = 4,/* on a mount of another mount namespace, a detached or an anonymous one */
	REASON_NO_SCRATCH = 5,	 /* all work areas of this CPU are in use by preempted programs */
	REASON_NO_RULES = 6,	 /* the container's ruleset is not in the kernel, or is damaged */
	REASON_UNREADABLE = 7,	 /* a kernel structure could not be read */
	REASON_NEW_NAMES = 8,	 /* a mount gives other paths to what cannot be said beforehand */
	REASON_FOREIGN_TASK = 9, /* another container's process, or the host's */
};

/* state of a subject; from SUBJECT_ACTIVE on it is judged */
#define SUBJECT_EXEMPT 1u  /* the host's, and left alone for good, as its children are: only a container takes them */
#define SUBJECT_PENDING 2u /* the runtime's own work: not judged until the first exec inside the container */
#define SUBJECT_ACTIVE 3u
#define SUBJECT_HOST 4u /* the host's, and judged: a container may take it */

/* source of a subject whose acting executable is the runtime's, at the container's first exec: nobody's source. No
 * ruleset has the id in its upper half. */
#define SOURCE_RUNTIME 0xffffffff00000000ULL

/* Who a task is: value of task storage, and of the map by task pointer. Absent means "not of an armed container",
 * but never by one map alone (see subject.bpf.h). */
struct subject {
	__u64 container; /* key of the containers map; never 0 */
	__u64 root_ino;	 /* with root_dev: the root directory at arming; 0/0 = armed after pivot_root */
	/* The acting executable as a source of the ruleset, kept in one word so that it is read and written at once:
	 * ruleset id << 32 | index of the source cell. Another ruleset in the upper half, or another `exe` than the
	 * task's, means "not known". */
	__u64 source;
	__u64 exe;	 /* address of the executable's struct file that `source` is about */
	__u32 root_dev;
	__u32 mnt_ns;	 /* inode number of the container's mount namespace */
	__u32 state;	 /* SUBJECT_* */
	__u32 slot;	 /* index in the armed map */
};
_Static_assert(sizeof(struct subject) == 48, "subject");

#define FIRST_WORDS 4

/* What every hook asks about an armed container; index: the subject's slot. */
struct armed {
	__u64 container; /* whose slot it is; another one, or 0: that container has been disarmed */
	__u32 ruleset;	 /* id; 0 = no policy selects the container at present */
	__u32 place;	 /* index of the ruleset in the rulesets and automata maps */
	__u32 classes;	 /* 1 << class for each class with rules: the others' hooks return at once */
	__u32 mnt_ns;	 /* inode number of the container's mount namespace */
	/* For processes and files: a bit for each first component with which a rule's path begins, by first_bit() of it.
	 * Where the bit of a path's first component is clear, no rule speaks about the path, and it passes, unless
	 * patterns that may match anywhere do (HINT_ANYWHERE). All bits are set where that does not follow (a whitelist,
	 * base names, sources, rules about "/"). */
	__u64 first[2][FIRST_WORDS];
	__u32 hints; /* HINT_* << class, for processes and files */
	__u32 held;  /* HELD_*: descriptors may be older than the rules */
};
_Static_assert(sizeof(struct armed) == 96, "armed");
#define HELD_SEARCHED 1u /* those that are denied stand in held_files, once a search has passed */
#define HELD_ALL 2u	 /* all are judged: set by a search that cannot tell which */
#define HINT_NEAR 1u	    /* the image has near cells of the class */
#define HINT_ANYWHERE 0x100u /* patterns begin at "/" */
#define HINT_TOLD 0x10000u   /* a first component may tell that a path passes: without this, only the rules can */
#define HINT_HOST 0x80000000u /* the host: paths are what they are called in whatever mount namespace its task is in */

/* An armed container. Absent means that user space has disarmed it. */
struct container {
	__u32 slot; /* index in the armed map */
	__u32 mnt_ns;
	__u64 cgroup_id; /* 0: the container has no cgroup of its own in the v2 hierarchy */
	__u64 root_ino;
	__u32 root_dev;
	__u32 id_len;
	__u8 id[CONTAINER_ID_BYTES];
};
_Static_assert(sizeof(struct container) == 160, "container");

/* Mount namespaces with armed containers: a bit for each, by the lower bits of its number. Where a task's bit is clear
 * it cannot enter a container. User space sets it before anything says that the container is armed. */
#define NAMESPACE_BITS 4096
struct namespace_bits {
	__u64 words[NAMESPACE_BITS / 64];
};

/* How a process that enters from outside (exec) is found where the container has no cgroup v2 of its own.
 * Namespace numbers are reused; `seq` of the namespace is not. It is 0 until an armed task has shown it. */
struct entry_ns {
	__u64 container;
	__u64 seq;
};

/* ---- the host: processes outside containers, armed as one container ---- */

/* Who is left alone. The order is the order of strength. */
enum host_exempt {
	HOST_EXEMPT_NOT = 0,
	HOST_EXEMPT_HERE = 1,	    /* as long as it is there: its children are judged once they execute elsewhere */
	HOST_EXEMPT_BELOW = 2,	    /* with all its descendants, wherever they go: a container runtime */
	HOST_EXEMPT_CONTAINERS = 3, /* the same, and so is a process of the host that executes something there, or it */
};

/* Where the host is. 0 in `container`: no host policy is in force. */
struct host {
	__u64 container; /* key of the containers map */
	__u32 mnt_ns;
	__u32 slot;
};
_Static_assert(sizeof(struct host) == 16, "host");

/* A cgroup that is exempt, by its name in another one: services are started anew in a new cgroup of the same name. */
#define EXEMPT_NAME_BYTES 56 /* with the terminating NUL; zero-filled */
#define EXEMPT_LEVELS 8	     /* so far below the root of the hierarchy cgroups are looked at */
struct exempt_cgroup {
	__u64 parent;
	__u8 name[EXEMPT_NAME_BYTES];
};
_Static_assert(sizeof(struct exempt_cgroup) == 64, "exempt_cgroup");

/* A program that is exempt. */
struct exempt_program {
	__u64 inode;
	__u32 device;
	__u32 pad;
};
_Static_assert(sizeof(struct exempt_program) == 16, "exempt_program");

/* ---- descriptors that are older than the rules ---- */

/* One that the rules deny. */
struct held_file {
	__u64 container;  /* in which it was found: the same address in another container is another file */
	__u32 generation; /* of the search that found it last */
	__u32 pad;
};
_Static_assert(sizeof(struct held_file) == 16, "held_file");

/* One search for them through all tasks, asked and answered through the `held` map. */
struct held_search {
	__u32 generation; /* asked: of what is found in held_files */
	__u32 again;	  /* asked: nothing has changed since the last search, so what is only audited is not told again */
	/* answered */
	__u32 found;
	__u32 rings;	  /* what may hold registered files, which cannot be looked at: all of that container's are judged */
	__u32 failed;	  /* descriptors that could not be judged or remembered: the same; counted for people */
	__u32 pad;
};
_Static_assert(sizeof(struct held_search) == 24, "held_search");

/* ---- finding and marking tasks: one run of the task iterator, asked and answered through the `mark` map ---- */

enum mark_mode {
	MARK_FIND = 1,	    /* report on one process */
	MARK_PROCESS = 2,   /* give all its threads the identity */
	MARK_CONTAINER = 3, /* give it to every task in the container's cgroup or below, or in its mount namespace,
			     * that does not have it yet */
	MARK_HOST = 4,	    /* give it to every process of the mount namespace that is of no container and not exempt */
	MARK_LIVES = 5,	    /* count the tasks that live and have it, of one process where one is named */
};

struct mark {
	struct subject subject;
	__u32 mode;
	__u32 pid; /* thread group id, in the pid namespace of the reader */
	/* asked of MARK_CONTAINER, answered by the others */
	__u64 cgroup_id;	/* in the v2 hierarchy */
	__u64 parent_cgroup_id; /* of the parent process: the same means no cgroup of its own */
	__u64 mnt_ns_seq;	/* 0 where the kernel has none */
	__u64 root_ino;
	__u32 root_dev;
	__u32 mnt_ns;
	__u32 cgroup_level; /* 0 = the root of the hierarchy */
	__u32 climb;	    /* asked of MARK_FIND: take the cgroup so many levels above the process's */
	__u32 pad;
	/* answered */
	__u32 found;  /* threads seen */
	__u32 marked; /* threads that got the identity in this run */
	__u32 failed; /* threads that could not get it */
};
_Static_assert(sizeof(struct mark) == 120, "mark");

/* A ruleset in the kernel, for the next daemon. */
struct published {
	__u8 digest[32];
	__u32 place;
	__u32 classes;
	__u64 first[2][FIRST_WORDS];
	__u32 hints;
	__u32 pad;
};
_Static_assert(sizeof(struct published) == 112, "published");

/* ---- image: a compiled ruleset, an array of 64-byte cells ---- */

#define IMAGE_VERSION 3
#define CELL_BYTES 64
#define CELL_WORDS (CELL_BYTES / 8)
#define NODE_INLINE 32 /* bytes of a component's name that stand in the node itself */

/* cell 0 */
struct header_cell {
	__u32 version;
	__u32 cells;		/* cells in the image, this one included */
	__u32 table;		/* first cell of the node table */
	__u32 mask;		/* slots of the node table - 1; slots are a power of two */
	__u64 seed;		/* of the hash; chosen so that every node has a place */
	__u32 source_node;	/* node id that stands for "/" in the tree of sources; 0 = no rule has a source */
	__u32 ruleset;		/* id under which it is published, so that a place that is used again is noticed */
	__u32 classes[CLASS_SLOTS]; /* class cells; 0 = the class has no rules */
};
_Static_assert(sizeof(struct header_cell) == CELL_BYTES, "header_cell");

struct class_cell {
	__u32 root;	  /* root cell of the rules without a source; 0 = none */
	__u32 otherwise;  /* decision where no rule decides: the posture, or RULE_NONE and allowed */
	__u32 conditions; /* COND_* that matter to some rule; the others need not be found out */
	__u32 has_source; /* some rule of the class has a source */
	__u32 unresolved; /* decision where the path, the actor or the rules cannot be found out: the strongest there is */
	__u32 args;	  /* node id under which the arguments stand that rules list; 0 = no rule lists any */
	__u32 no_arg;	  /* lists cell of the empty argument; 0 = on no list */
	__u32 applets;	  /* node id under which the names stand by which rules tell programs of many names; 0 = none do */
	__u32 doubt;	  /* lists cell of the applets that hold where it cannot be told which one runs; 0 = none do */
	__u32 pad[6];
	__u32 near;	  /* first of the near cells; 0 = none */
};
_Static_assert(sizeof(struct class_cell) == CELL_BYTES, "class_cell");

/* What is known about paths by their first component and their end alone. */
#define NEAR_SLOTS 16
#define NEAR_CELLS 3
struct near_cells {
	/* First components of at most 8 bytes, zero-filled, such that all below and the component itself is allowed whatever
	 * the conditions, unless patterns that may match anywhere say otherwise: each in one of two slots, the lower and
	 * the upper half of its first_bit(). */
	__u64 open[NEAR_SLOTS];
	/* A bit for each byte that cannot be the last one, and the last but one, of a path that such a pattern matches. */
	__u64 not_last[4], not_last_but_one[4];
};
_Static_assert(sizeof(struct near_cells) == NEAR_CELLS * CELL_BYTES, "near_cells");

/* the rules about paths of one class and one source (or none) */
struct root_cell {
	__u32 node;	/* node id of "/" */
	__u32 base;	/* node id under which base names stand; 0 = no rule names one */
	__u32 exact;	/* decision cells for "/" itself, see node_cell */
	__u32 children;
	__u32 deep;
	__u32 automata;	/* see node_cell */
	__u32 pad[10];
};
_Static_assert(sizeof(struct root_cell) == CELL_BYTES, "root_cell");

/* an executable that rules name as their source: the end of a path in the tree of sources */
struct source_cell {
	__u32 roots[CLASS_SLOTS]; /* root cells; 0 = no rule of that class has this source */
	__u32 pad[8];
};
_Static_assert(sizeof(struct source_cell) == CELL_BYTES, "source_cell");

/* One edge of the tree of paths: component `name` under node `parent`. Stands in one of two slots of the table. */
struct node_cell {
	__u32 parent;	/* 0 = empty slot */
	__u32 len;	/* of the name, 1..NAME_BYTES */
	__u64 name;	/* its first 8 bytes, zero-filled */
	__u32 node;
	__u32 more;	/* first of the string cells with the name's bytes from NODE_INLINE on */
	__u32 exact;	/* decision for this very path, or the source cell in the tree of sources; 0 = none. Its
			 * entries with COND_TREE are of another kind: the strongest Block or Audit rule about
			 * something below this path */
	__u32 children; /* decision for this directory itself and what lies directly in it; 0 = none */
	__u32 deep;	/* decision for what lies deeper; 0 = none */
	__u32 automata;	/* cell of the automata that begin here; 0 = no pattern does */
	__u64 name_on[NODE_INLINE / 8 - 1]; /* the next bytes of the name */
};
_Static_assert(sizeof(struct node_cell) == CELL_BYTES, "node_cell");

/* The automata for what follows a directory in a path, from the `/` on: `first` is the block in the automata map in the
 * upper half, the first state in the lower; 0 = no more. */
#define MAX_AUTOMATA 8
struct automata_cell {
	__u32 first[MAX_AUTOMATA];
	__u32 pad[8];
};
_Static_assert(sizeof(struct automata_cell) == CELL_BYTES, "automata_cell");
/* directories with automata on the way to one path */
#define MAX_BEGUN 8

/* `allowedArgs`, and the names of programs of many names (applets): an argument is the end of a path in the tree of arguments, in pieces of ARG_PIECE bytes, the last one
 * shorter. In place of a decision its node names this: a bit for each list that it is on. */
#define ARG_PIECE 248
#define LIST_WORDS 8
#define MAX_LISTS (64 * LIST_WORDS)
struct lists_cell {
	__u64 lists[LIST_WORDS];
};
_Static_assert(sizeof(struct lists_cell) == CELL_BYTES, "lists_cell");
/* Bytes of a program's arguments that are looked at, the first one and the zeros at their ends included. */
#define ARGS_BYTES 12288
#define ARGS_BUFFER 16384 /* a third more keeps bounded copies inside */

/* the conditions of an access choose the entry of a decision */
#define COND_WRITE 1u
#define COND_OWNER 2u
#define COND_TREE 4u /* a directory that moves with all that lies below; see node_cell */
#define COND_TTY 8u  /* the task has a controlling terminal */
#define COND_COUNT 16
#define COND_ARGS 16u /* of a class only: some rule lists arguments */

/* entry of a decision: effect in bits 28..29, DECISION_EXEMPT, index of the rule's origin in bits 0..27. With
 * DECISION_ARGS the answer hangs on lists: the effect is the strongest there can be, and in place of the origin stands the
 * word where the alternatives begin, pairs of a condition and a decision. The first one whose condition holds is the
 * answer; where none does, no rule decides. */
#define DECISION_RULE 0x0fffffffu
#define DECISION_EFFECT_SHIFT 28
#define DECISION_ARGS 0x40000000u
#define DECISION_EXEMPT 0x80000000u
#define RULE_POSTURE DECISION_RULE	/* decided by the default posture */
#define RULE_NONE (DECISION_RULE - 1)	/* no rule: allowed, or unresolved */
#define RULE_OBSERVED (DECISION_RULE - 2) /* no rule: it passes, and is reported, since the class is to be seen */

/* condition of an alternative: the number of a list that holds all arguments; with LIST_NOT, of one that does not */
#define LIST_NOT 0x40000000u
#define LIST_ANY 0x80000000u /* whatever the arguments; the last alternative is this with no decision */
#define APPLET_SHIFT 9	     /* above the list: 1 + the number of the applet that runs; 0 = whatever runs */
#define APPLET_MASK 1023u
#define MAX_ALTERNATIVES 256

struct decision_cell {
	__u32 by_condition[COND_COUNT];
};
_Static_assert(sizeof(struct decision_cell) == CELL_BYTES, "decision_cell");

struct cell {
	union {
		struct header_cell header;
		struct class_cell class_;
		struct root_cell root;
		struct source_cell source;
		struct node_cell node;
		struct automata_cell automata;
		struct decision_cell decision;
		struct lists_cell lists;
		__u64 words[CELL_WORDS];
	};
};
_Static_assert(sizeof(struct cell) == CELL_BYTES, "cell");

/* Cells come in blocks of a page: an array's memory is its elements' and no more. They lie one after another, so where
 * plain loads are allowed one look-up finds them all. */
#define BLOCK_CELLS 64
struct image_block {
	struct cell cells[BLOCK_CELLS];
};
_Static_assert(sizeof(struct image_block) == 4096, "image_block");

/* ---- automata: patterns, compiled to deterministic automata over bytes ---- */

/* A block of them, read as a row of 16-bit numbers, BLOCK_NUMBERS of them, its head included. A state is the index of
 * its row there: row[ROW_DECISION] is the decision cell of a path that ends in it, with what the patterns can match
 * below such a path in its entries with COND_TREE, and row[ROW_EDGES + class of a byte] the next state. */
#define BLOCK_NUMBERS 16384
#define ROW_DECISION 0
#define ROW_STAYS 1 /* STAYS_* */
#define ROW_EDGES 2
#define STAYS_IN_NAME 1 /* every byte but `/` leads back to this state: the rest of a name need not be looked at */
#define STAYS 2		/* every byte does: nor need the rest of the path */
struct automata_block {
	__u8 classes[256]; /* class of each byte */
	__u32 ruleset;	   /* as in the image's header */
	__u32 pad;
	__u16 rows[BLOCK_NUMBERS - 132];
};
_Static_assert(sizeof(struct automata_block) == 2 * BLOCK_NUMBERS, "automata_block");
#define STATE_DEAD 132u /* the first row: nothing matches any more, and all its edges lead back to it */

#include "plain.h"

/* ---- events ---- */

#define EVENT_PATH_TRUNCATED 1u
#define EVENT_SOURCE_TRUNCATED 2u
/* Rules list arguments, and those of this program were not all looked at, so that they count as not listed: */
#define EVENT_ARGS_UNSEEN 4u	 /* they are longer than ARGS_BYTES */
#define EVENT_ARGS_UNREADABLE 8u /* they could not be read */
#define EVENT_WRITES 16u	 /* a file is opened, or comes, to be written */

/* One record of the ring buffer: this header, then path_len bytes of path, source_len bytes of the acting executable's
 * path and text_len bytes of text, none of them terminated. */
struct event {
	__u32 version; /* EVENT_VERSION */
	__u32 flags;   /* EVENT_* */
	__u64 time_ns; /* CLOCK_BOOTTIME */
	__u64 container;
	__u32 ruleset;
	__u16 class_;
	__u16 op;
	__u32 decision; /* as in a decision cell: effect and rule */
	__u32 reason;	/* enum enforcer_reason */
	__u32 pid;	/* thread group id in the task's own pid namespace */
	__u32 ppid;
	__u32 host_pid;
	__u32 host_tid;
	__u32 host_ppid;
	__u32 uid;	/* real user id in the initial user namespace */
	__u8 comm[16];
	__u8 parent_comm[16];
	__u32 path_len;
	__u32 source_len;
	__u32 text_len; /* of what else there is to say, after the source */
	__u32 pad;
	struct event_detail detail;
};
_Static_assert(sizeof(struct event) == 144, "event");

#define EVENT_BYTES (sizeof(struct event) + 2 * PATH_BYTES)

/* ---- counters: index of the counters map; user space shows them by these names, in lower case ---- */

enum enforcer_counter {
	COUNTER_AUDITED,
	COUNTER_BLOCKED,
	COUNTER_EVENT_DROPPED,	      /* ring buffer full */
	COUNTER_OBSERVATION_DROPPED,  /* ring buffer half full: the rest is for alerts */
	COUNTER_ACTIVATED,	      /* tasks that passed the exec barrier */
	COUNTER_INHERITED,	      /* children that got their parent's identity */
	COUNTER_INHERIT_FAILED,	      /* forks refused because the identity could not be copied */
	COUNTER_IDENTIFY_FAILED,      /* execs refused because the identity could not be stored */
	COUNTER_BY_POINTER,	      /* identities that only the map by task pointer knew */
	COUNTER_RETRIED,	      /* walks done again because of a rename or a mount */
	COUNTER_RACED,		      /* one counter for each enforcer_reason from here on */
	COUNTER_TOO_DEEP,
	COUNTER_DISCONNECTED,
	COUNTER_FOREIGN_MOUNT,
	COUNTER_NO_SCRATCH,
	COUNTER_NO_RULES,
	COUNTER_UNREADABLE,
	COUNTER_NEW_NAMES,
	COUNTER_FOREIGN_TASK,
	COUNTER_COUNT,
};

/* ---- doors: contexts of the SEC("syscall") programs that tests and benchmarks call ---- */

/* key of the container in slot 0 of the armed map whose rules the doors ask */
#define DOOR_CONTAINER 1
#define DOOR_MOUNT_NAMESPACE 1

struct door_match {
	__u32 class_;
	__u32 condition;  /* COND_* */
	__u32 path_len;	  /* bytes in door_paths.path */
	__u32 source_len; /* bytes in door_paths.source; 0 = no known executable */
	/* out */
	__u32 decision;
	__u32 reason;
	__u32 unseen; /* EVENT_ARGS_* */
	__u32 passes; /* the short way's answer: 1 = it passes, 0 = that cannot be told in the short way */
};

struct door_paths {
	__u8 path[PATH_BYTES];
	__u8 source[PATH_BYTES];
	__u8 args[ARGS_BUFFER];
	__u32 args_count; /* strings in args, the first one included; 0 = not known */
	__u32 args_len;	  /* bytes there */
};

#endif
