/* Shared by the files of `evade`, the program of tricks. */
#ifndef EVADE_H
#define EVADE_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a trick is after. The root file system is an overlay; /vol is a tmpfs. */
#define SECRET "/prot/secret"
#define TREE "/prot/tree"
#define VOLUME "/vol"
#define VSECRET "/vol/top/prot/secret"
#define PROG "/prot/prog"
#define DYN "/prot/dyn"
#define SCRIPT "/prot/script"
#define CONTENT "TOP SECRET"
#define RAN 77 /* exit status of PROG and DYN */

/* Results: 0 the goal is reached, else an errno, or above all of them: */
#define CANNOT 250 /* the trick could not be tried; the reason is on stderr */
#define NO_EFFECT 251 /* all calls went well, and yet the goal is not reached */

/* Descriptors that a trick inherits from before the policy. */
#define OLD_READ 20    /* SECRET, O_RDONLY */
#define OLD_WRITE 21   /* SECRET, O_RDWR */
#define OLD_PATH 22    /* SECRET, O_PATH */
#define OLD_DELETED 23 /* TREE/deleted, O_PATH, unlinked since */
#define OLD_SOCKET 24  /* to the helper outside, which sends a descriptor of SECRET for each byte */
#define OLD_CWD 25     /* /prot, O_PATH */
#define OLD_LISTENER 26 /* and 27, 28: unix sockets at TREE/stream, TREE/datagram, /work/stream */
#define OLD_RING 29     /* of REGISTERED only: a ring of io_uring with one registered file: SECRET, O_RDONLY */
#define MANY 66000
#define REGISTERED "old descriptor, registered"
/* The trick that goes to the end of the deepest directory, which is made for it alone. */
#define DEEP "130 directories, 26,000 bytes"
#define RING_PARAMS "/work/ring" /* what the kernel said of that ring */

extern pid_t helper; /* outside, unconfined; its number is of the same pid namespace only for tricks with `host pid` */

struct trick {
	const char *name;
	int (*run)(void);
};
extern const struct trick READ[], WRITE[], EXEC[], HARMLESS[];

int reach(const char *path, int kind, int sends); /* connect to a unix socket, or send to it */
int cannot(const char *what);	   /* EACCES and EPERM are results, all else is CANNOT */
int failed(void);		   /* errno, as a result */
int holds(int fd);		   /* whether the descriptor shows CONTENT; closes it */
int opens(const char *path);	   /* whether the path can be opened and shows CONTENT */
int in_child(int (*run)(void));	   /* the result in a child */
int status_of(pid_t pid);
int ring(unsigned setup, unsigned char flags, const void *sqe); /* one request; its result */
int ring_of_old(const void *sqe);  /* the same by OLD_RING, whose first registered file it is about */
int ring_kept(int file, const void *sqe); /* the same by a ring that has the file and no descriptor; the policy comes between */
void wait_for_policy(void);	   /* says so, and goes on when it has come */
int ring_with(int file, void *params); /* a ring in which the file is registered; -1 = there is no io_uring */
int received(void);		   /* a descriptor from the helper, or -1 */
int box(int argc, char **argv);
int race(int argc, char **argv);
#endif
