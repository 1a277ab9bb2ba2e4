/* A workload that misbehaves. Static, so that it runs in any root.
 *   probe evade           one line for each attempt to open /etc/passwd in spite of a policy: `NAME<tab>RESULT`,
 *                         RESULT being `opened`, `denied` (EACCES) or what kept the attempt from being made
 *   probe loop SECS N     N processes open /etc/passwd for SECS seconds: `denied N opened N`
 *   probe swap A B SECS   opens A, B, A again: `a N b N both N neither N`, counted where A did not change meanwhile:
 *                         for two policies that each deny one of them, `both` and `neither` are half a policy
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TARGET "/etc/passwd"
#define FIRST "/bin/first"
/* Results of an attempt: 0 opened, EACCES denied, another errno; above all errnos: */
#define CANNOT 250 /* the attempt could not be made; the reason is on stderr */

static int open_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}
static int try_open(void) { return open_path(TARGET); }
static int cannot(const char *what)
{
	int e = errno;

	fprintf(stderr, "%s: %s\n", what, strerror(e));
	return e == EACCES ? EACCES : CANNOT; /* an attempt that was denied half-way was denied */
}
static int status_of(pid_t pid)
{
	int status;

	if (pid < 0)
		return cannot("fork");
	if (waitpid(pid, &status, 0) < 0)
		return cannot("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : cannot("killed");
}
static int exec_first(void)
{
	int null = open("/dev/null", O_WRONLY);

	dup2(null, 1);
	execl(FIRST, "first", (char *)0);
	return cannot("exec");
}

static int by_fork(void) { pid_t p = fork(); if (!p) _exit(try_open()); return status_of(p); }
static int by_vfork(void)
{
	pid_t p = vfork();

	if (!p) {
		execl(FIRST, "first", (char *)0);
		_exit(CANNOT);
	}
	return status_of(p);
}
static int by_spawn(void)
{
	pid_t p;
	char *argv[] = { "first", 0 };

	if ((errno = posix_spawn(&p, FIRST, 0, 0, argv, 0)))
		return cannot("posix_spawn");
	return status_of(p);
}
static int by_orphan(void)
{
	int fds[2];
	unsigned char result = CANNOT;

	if (pipe(fds))
		return cannot("pipe");
	if (!fork()) {
		if (!fork()) {
			usleep(50000); /* until the parent is gone */
			result = (unsigned char)try_open();
			if (write(fds[1], &result, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	close(fds[1]);
	return read(fds[0], &result, 1) == 1 ? result : CANNOT;
}
static void *thread_open(void *result) { *(int *)result = try_open(); return 0; }
static int by_thread(void)
{
	pthread_t t;
	int result = CANNOT;

	if (pthread_create(&t, 0, thread_open, &result))
		return cannot("pthread_create");
	pthread_join(t, 0);
	return result;
}
static void *thread_exec(void *result) { *(int *)result = exec_first(); return 0; }
static int by_thread_exec(void)
{
	pthread_t t;
	int result = CANNOT;

	if (pthread_create(&t, 0, thread_exec, &result))
		return cannot("pthread_create");
	pthread_join(t, 0); /* the exec ends this thread too */
	return result;
}
static int clone_open(void *unused) { (void)unused; return try_open(); }
static int by_clone(int flags)
{
	static char stack[1 << 16] __attribute__((aligned(16)));

	return status_of(clone(clone_open, stack + sizeof stack, flags | SIGCHLD, 0));
}
static int by_clone_vm(void) { return by_clone(CLONE_VM | CLONE_FILES | CLONE_FS); }
static int by_clone_ns(void) { return by_clone(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUSER); }
static int by_unshare(int flags) { return unshare(flags) ? cannot("unshare") : try_open(); }
static int by_mount_ns(void) { return by_unshare(CLONE_NEWNS); }
static int by_user_ns(void) { return by_unshare(CLONE_NEWUSER | CLONE_NEWNS); }
static int by_pid_ns(void) { return unshare(CLONE_NEWPID) ? cannot("unshare") : by_fork(); }
static int by_all_ns(void)
{
	return by_unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP);
}
/* A second mount of the same file system: the file has the same name below another root. */
static int by_chroot(void)
{
	if (unshare(CLONE_NEWNS) || mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) || (mkdir("/tmp/other", 0755) && errno != EEXIST) ||
	    (mkdir("/tmp/other/etc", 0755) && errno != EEXIST) || mount("/etc", "/tmp/other/etc", 0, MS_BIND, 0) || chroot("/tmp/other"))
		return cannot("chroot");
	return try_open();
}
static int join_cgroup(const char *dir)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof path, "%s/cgroup.procs", dir);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		return cannot(path);
	close(fd);
	return 0;
}
/* The cgroup of this process below /sys/fs/cgroup. */
static void own_cgroup(char *path, size_t size)
{
	char line[2048] = "";
	FILE *f = fopen("/proc/self/cgroup", "r");

	while (f && fgets(line, sizeof line, f) && strncmp(line, "0::", 3))
		;
	if (f)
		fclose(f);
	line[strcspn(line, "\n")] = 0;
	snprintf(path, size, "/sys/fs/cgroup%s", strncmp(line, "0::", 3) ? "" : line + 3);
}
static int by_child_cgroup(void)
{
	char path[4096];

	own_cgroup(path, sizeof path - 8);
	strcat(path, "/sub");
	if (mkdir(path, 0755) && errno != EEXIST)
		return cannot(path);
	return join_cgroup(path) ? CANNOT : try_open();
}
static int by_root_cgroup(void) { return join_cgroup("/sys/fs/cgroup") ? CANNOT : try_open(); }
static int by_root_cgroup_exec(void)
{
	if (join_cgroup("/sys/fs/cgroup"))
		return CANNOT;
	return unshare(CLONE_NEWNS | CLONE_NEWUSER) ? cannot("unshare") : exec_first();
}
static int clone_into_root_cgroup(unsigned long flags, int (*then)(void))
{
	struct clone_args args = { .flags = CLONE_INTO_CGROUP | flags, .exit_signal = SIGCHLD };
	int fd = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY);
	pid_t p;

	if (fd < 0)
		return cannot("/sys/fs/cgroup");
	args.cgroup = (unsigned long)fd;
	p = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (!p)
		_exit(then());
	return p < 0 ? cannot("clone3") : status_of(p);
}
static int by_clone_into(void) { return clone_into_root_cgroup(0, try_open); }
static int by_clone_into_exec(void) { return clone_into_root_cgroup(CLONE_NEWNS | CLONE_NEWUSER, exec_first); }

/* One IORING_OP_OPENAT through a ring of its own. */
static int by_ring(unsigned setup_flags, unsigned char sqe_flags)
{
	struct io_uring_params params = { .flags = setup_flags, .sq_thread_idle = 1000 };
	int ring = (int)syscall(SYS_io_uring_setup, 4, &params), result;
	char *sq, *cq;
	struct io_uring_sqe *sqe;

	if (ring < 0)
		return cannot("io_uring_setup");
	sq = mmap(0, params.sq_off.array + params.sq_entries * sizeof(unsigned), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	cq = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	sqe = mmap(0, params.sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED)
		return cannot("mmap");
	*sqe = (struct io_uring_sqe){ .opcode = IORING_OP_OPENAT, .flags = sqe_flags, .fd = AT_FDCWD, .addr = (unsigned long)TARGET, .open_flags = O_RDONLY };
	*(unsigned *)(sq + params.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, setup_flags & IORING_SETUP_SQPOLL ? 0 : 1, 1,
		    IORING_ENTER_GETEVENTS | (setup_flags & IORING_SETUP_SQPOLL ? IORING_ENTER_SQ_WAKEUP : 0), 0, 0) < 0)
		return cannot("io_uring_enter");
	result = ((struct io_uring_cqe *)(cq + params.cq_off.cqes))->res;
	close(ring);
	return result < 0 ? -result : 0;
}
static int by_io_uring(void) { return by_ring(0, 0); }
static int by_io_uring_async(void) { return by_ring(0, IOSQE_ASYNC); }
static int by_io_uring_sqpoll(void) { return by_ring(IORING_SETUP_SQPOLL, 0); }

static const struct { const char *name; int (*attempt)(void); } ATTEMPTS[] = {
	{ "plain", try_open }, { "fork", by_fork }, { "vfork and exec", by_vfork }, { "posix_spawn", by_spawn },
	{ "orphan", by_orphan }, { "thread", by_thread }, { "exec by a thread", by_thread_exec },
	{ "clone VM, FILES, FS", by_clone_vm }, { "clone NEWNS, NEWPID, NEWUSER", by_clone_ns },
	{ "new mount namespace", by_mount_ns }, { "new user and mount namespace", by_user_ns },
	{ "new pid namespace", by_pid_ns }, { "all new namespaces", by_all_ns }, { "chroot to a bind mount", by_chroot },
	{ "child cgroup", by_child_cgroup }, { "root cgroup", by_root_cgroup },
	{ "root cgroup, new namespaces, exec", by_root_cgroup_exec }, { "clone into the root cgroup", by_clone_into },
	{ "the same, new namespaces, exec", by_clone_into_exec }, { "io_uring", by_io_uring },
	{ "io_uring, worker", by_io_uring_async }, { "io_uring, kernel thread", by_io_uring_sqpoll },
};

static int evade(void)
{
	for (unsigned i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++) {
		pid_t p = fork(); /* what an attempt does to its process must not reach the next one */
		int r;

		if (!p)
			_exit(ATTEMPTS[i].attempt());
		r = status_of(p);
		printf("%s\t%s\n", ATTEMPTS[i].name, r == 0 ? "opened" : r == EACCES ? "denied" : r >= CANNOT ? "cannot" : strerror(r));
		fflush(stdout);
	}
	return 0;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int loop(double seconds, int processes)
{
	struct { unsigned long denied, opened; } *count = mmap(0, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (count == MAP_FAILED)
		return cannot("mmap");
	for (int i = 0; i < processes; i++)
		if (!fork()) {
			unsigned long denied = 0, opened = 0;

			for (double end = now() + seconds; now() < end;)
				for (int k = 0; k < 50; k++) {
					int r = try_open();

					denied += r == EACCES;
					opened += r == 0;
				}
			__atomic_fetch_add(&count->denied, denied, __ATOMIC_RELAXED);
			__atomic_fetch_add(&count->opened, opened, __ATOMIC_RELAXED);
			_exit(0);
		}
	while (wait(0) > 0)
		;
	printf("denied %lu opened %lu\n", count->denied, count->opened);
	return 0;
}

static int swap(const char *a, const char *b, double seconds)
{
	unsigned long only_a = 0, only_b = 0, both = 0, neither = 0;

	for (double end = now() + seconds; now() < end;) {
		int before = open_path(a) == EACCES, other = open_path(b) == EACCES, after = open_path(a) == EACCES;

		if (before != after)
			continue; /* the policy changed in between: nothing is known about B */
		only_a += before && !other;
		only_b += !before && other;
		both += before && other;
		neither += !before && !other;
	}
	printf("a %lu b %lu both %lu neither %lu\n", only_a, only_b, both, neither);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "evade"))
		return evade();
	if (argc == 4 && !strcmp(argv[1], "loop"))
		return loop(atof(argv[2]), atoi(argv[3]));
	if (argc == 5 && !strcmp(argv[1], "swap"))
		return swap(argv[2], argv[3], atof(argv[4]));
	fprintf(stderr, "usage: probe evade | loop SECONDS PROCESSES | swap A B SECONDS\n");
	return 2;
}
