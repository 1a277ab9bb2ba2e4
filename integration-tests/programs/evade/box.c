/* A container, as far as a kernel can tell: namespaces, an overlay as its root, volumes, /proc, /sys, /dev; and a
 * first exec, which is the trick's. Everything before that is not confined, as a runtime's init is not.
 *
 *   box ROOT CGROUP HOSTPID -- ARGS
 *
 * ROOT/lower is the image, ROOT/upper, ROOT/work and ROOT/root are empty. CGROUP is joined. HOSTPID 1: no pid
 * namespace. Prints `pid N` and `ready`, waits for a line, executes /evade ARGS and the helper's pid. The parent stays
 * outside and helps: it has the secret open, and sends it to who asks. */
#include "evade.h"
#include <linux/io_uring.h>
#include <sys/xattr.h>

static void must(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "box: %s: %s\n", what, strerror(errno));
	_exit(3);
}

static void put(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);

	must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && !fchmod(fd, mode), path);
	close(fd);
}

static void keep(int as, int fd, const char *what)
{
	must(fd >= 0 && dup2(fd, as) == as, what);
	close(fd);
}

static int bound(const char *path, int kind)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, kind, 0);

	strcpy(a.sun_path, path);
	must(fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof a), path);
	must(kind != SOCK_STREAM || !listen(fd, 8), path);
	return fd;
}

/* Directories 130 deep with names of 200 bytes: some 26,000 bytes of path. */
static void dig(void)
{
	char name[201];
	int dir, next;

	memset(name, 'd', 200);
	name[200] = 0;
	must(!mkdir(VOLUME "/deep", 0755), "deep");
	dir = open(VOLUME "/deep", O_PATH);
	for (int i = 0; i < 130; i++) {
		must(!mkdirat(dir, name, 0755), "a deep directory");
		next = openat(dir, name, O_PATH);
		close(dir);
		dir = next;
	}
	next = openat(dir, "secret", O_WRONLY | O_CREAT, 0644);
	must(next >= 0 && write(next, CONTENT, sizeof CONTENT - 1) > 0, "the deep secret");
	close(next);
	close(dir);
}

static void keep_ring(void)
{
	struct io_uring_params p = {0};
	int secret = open(SECRET, O_RDONLY), ring = ring_with(secret, &p), fd = open(RING_PARAMS, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	must(ring >= 0 && dup2(ring, OLD_RING) == OLD_RING, "a ring"); /* the kernel's own is closed on exec */
	must(fd >= 0 && write(fd, &p, sizeof p) == sizeof p, RING_PARAMS);
	close(ring);
	close(secret);
	close(fd);
}

static void inside(const char *root, int pipe_end, const char *trick)
{
	/* version 2: owner rw, user 1 r, group r, mask r, others r */
	static const unsigned char acl[] = {2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
					    16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255};
	char options[1024], path[512], go[16];
	int fd;

	must(!mount(0, "/", 0, MS_REC | MS_PRIVATE, 0), "private mounts");
	snprintf(path, sizeof path, "%s/lower" SECRET, root);
	must(!setxattr(path, "security.before", "x", 1, 0), "attribute");
	must(!setxattr(path, "system.posix_acl_access", acl, sizeof acl, 0), "ACL");
	snprintf(options, sizeof options, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", root, root, root);
	snprintf(path, sizeof path, "%s/root", root);
	must(!mount("overlay", path, "overlay", 0, options), "overlay");
	must(!chdir(path), path);
	must(!mount("proc", "proc", "proc", 0, 0), "proc");
	must(!mount("/sys", "sys", 0, MS_BIND | MS_REC, 0), "sys");
	must(!mount("/dev", "dev", 0, MS_BIND | MS_REC, 0), "dev");
	must(!mount("tmpfs", "tmp", "tmpfs", 0, 0), "tmp");
	must(!mount("tmpfs", "vol", "tmpfs", 0, 0), "vol");
	must(!syscall(SYS_pivot_root, ".", "mnt"), "pivot_root");
	must(!chdir("/") && !umount2("/mnt", MNT_DETACH), "the old root");

	must(!mkdir("/vol/top", 0755) && !mkdir("/vol/top/prot", 0755) && !mkdir("/vol/other", 0755), "vol");
	put(VSECRET, CONTENT, 0644);
	if (!strcmp(trick, DEEP)) /* the only one that goes there */
		dig();
	must(!mount("/vol/other", "/alias", 0, MS_BIND, 0), "alias");
	/* what overlayfs did before: a file copied up, one that replaced another, one that is gone but for a descriptor */
	must(!chmod(TREE "/copied", 0640), "copy up");
	must(!unlink(TREE "/recreated"), "whiteout");
	put(TREE "/recreated", CONTENT, 0644);
	keep(OLD_DELETED, open(TREE "/deleted", O_PATH), "deleted");
	must(!unlink(TREE "/deleted"), "deleted");

	keep(OLD_READ, open(SECRET, O_RDONLY), "old descriptor for reading");
	keep(OLD_PATH, open(SECRET, O_PATH), "old O_PATH descriptor");
	keep(OLD_CWD, open("/prot", O_PATH), "old directory");
	keep(OLD_WRITE, open(TREE "/written", O_RDWR), "old descriptor for writing");
	keep(OLD_LISTENER, bound(TREE "/stream", SOCK_STREAM), "socket");
	keep(OLD_LISTENER + 1, bound(TREE "/datagram", SOCK_DGRAM), "socket");
	keep(OLD_LISTENER + 2, bound("/work/stream", SOCK_STREAM), "socket");
	if (!strcmp(trick, REGISTERED))
		keep_ring();
	if (pipe_end != OLD_SOCKET)
		keep(OLD_SOCKET, pipe_end, "socket");
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	must(fd >= 0 && write(fd, "0", 1) == 1, "oom_score_adj");
	close(fd);
	printf("ready\n");
	must(fgets(go, sizeof go, stdin) != 0, "go");
}

/* Sends the container's secret, opened from outside, for each byte; ends with the container. */
static void serve(int socket, pid_t pid)
{
	char path[64], byte;
	int fd;

	must(dup2(open("/corpus-secret", O_RDONLY), OLD_READ) == OLD_READ, "/corpus-secret"); /* for pidfd_getfd */
	while (read(socket, &byte, 1) == 1) {
		char room[CMSG_SPACE(sizeof fd)] = "";
		struct iovec one = {&byte, 1};
		struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);

		snprintf(path, sizeof path, "/proc/%d/root" SECRET, pid);
		fd = open(path, O_RDONLY);
		must(fd >= 0, path);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
		must(sendmsg(socket, &m, 0) == 1, "send a descriptor");
		close(fd);
	}
}

int received(void)
{
	char byte = 0;
	int fd = -1;
	char room[CMSG_SPACE(sizeof fd)] = "";
	struct iovec one = {&byte, 1};
	struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
	struct cmsghdr *c;

	if (write(OLD_SOCKET, &byte, 1) != 1 || recvmsg(OLD_SOCKET, &m, 0) != 1)
		return -1;
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_len != CMSG_LEN(sizeof fd)) { /* the kernel left it out: what it answers a denial with */
		errno = EACCES;
		return -1;
	}
	memcpy(&fd, CMSG_DATA(c), sizeof fd);
	return fd;
}

int box(int argc, char **argv)
{
	char path[512], number[16];
	int pair[2], fd, status = 0, sync[2];
	pid_t pid;

	must(argc >= 5 && !strcmp(argv[3], "--"), "usage");
	must(!unsetenv("LD_PRELOAD") && !pipe(sync), "pipe");
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
	snprintf(number, sizeof number, "%d", getpid());
	pid = fork();
	if (!pid) {
		snprintf(path, sizeof path, "%s/cgroup.procs", argv[1]);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		must(fd >= 0 && write(fd, "0", 1) == 1, path);
		must(!unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | (atoi(argv[2]) ? 0 : CLONE_NEWPID)), "unshare");
		pid = fork(); /* into the pid namespace */
		if (pid) {
			must(write(sync[1], &pid, sizeof pid) == sizeof pid, "pipe");
			_exit(status_of(pid));
		}
		close(pair[0]);
		inside(argv[0], pair[1], argc > 5 ? argv[5] : "");
		for (fd = 3; fd < OLD_READ; fd++)
			close(fd);
		argv[3] = "evade";
		argv = realloc(memcpy(malloc((argc + 2) * sizeof *argv), argv + 3, (argc - 3) * sizeof *argv),
			       (argc + 2) * sizeof *argv);
		argv[argc - 3] = number;
		argv[argc - 2] = 0;
		execv("/evade", argv);
		must(0, "exec /evade");
	}
	close(pair[1]);
	close(sync[1]);
	must(read(sync[0], &fd, sizeof fd) == sizeof fd, "the child's pid");
	printf("pid %d\n", fd);
	serve(pair[0], fd);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
}
