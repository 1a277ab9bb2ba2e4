/* Tries what it reads from its input, a line each, and answers each with the errno that it met, or 0: what a process under
 * a policy may do. Static, so that it needs no file of its own. What succeeds is undone; what cannot be undone is answered
 * by 253.
 *
 * visit                 reads lines: read PATH | write PATH | truncate PATH (to the size that it has) | create PATH |
 *                       unlink PATH | rename PATH OTHER | link PATH OTHER | chmod PATH | mkdir PATH |
 *                       exec PATH [ARGUMENT] (without one: `nothing`) | socket FAMILY TYPE PROTOCOL |
 *                       connect ADDRESS PORT (where nobody listens that counts as 0) | bind ADDRESS PORT | chroot / |
 *                       as UID LINE | terminal LINE (by who has one) | put PATH TEXT (with one write) |
 *                       tree DIRECTORY NAME (read NAME in a tree that is cloned and attached nowhere) |
 *                       made PATH (execute this program by PATH in a file system that is made and attached nowhere) |
 *                       handle PATH (read it by its handle) | unshared LINE (in namespaces of users and mounts) |
 *                       label PATH (execute it, and print the label that it has)
 * visit nothing ...     exits with 0
 * visit something ...   the same
 * visit label           prints the label that it has
 * visit through PATH    executes PATH, which reads the input
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int label(void)
{
	char text[512];
	int fd = open("/proc/self/attr/apparmor/current", O_RDONLY);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text));

	if (length < 0)
		return errno;
	fwrite(text, 1, length, stdout);
	return 0;
}

/* executes in a child; its exit status, or the errno that kept it from being executed */
static int executed(const char *path, const char *what)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		execl(path, path, what, NULL);
		_exit(errno);
	}
	return waitpid(child, &status, 0) < 0 ? errno : WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int opened(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);

	return fd < 0 ? errno : (close(fd), 0);
}

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), e;

	if (fd < 0)
		return errno;
	e = write(fd, text, strlen(text)) < 0 ? errno : 0;
	close(fd);
	return e;
}

/* a TCP socket of IPv4, and one of the two things that are done with an address */
static int with_address(int (*act)(int, const struct sockaddr *, socklen_t), const char *address, const char *port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), e;

	if (fd < 0)
		return errno;
	inet_pton(AF_INET, address, &to.sin_addr);
	e = act(fd, (struct sockaddr *)&to, sizeof(to)) ? errno : 0;
	close(fd);
	/* it was let through, and nobody is there, or no way leads there */
	return e == ECONNREFUSED || e == ENETUNREACH ? 0 : e;
}

/* gives this process, which leads no group yet, a controlling terminal, by this path */
static int on_terminal(const char *path)
{
	int unlocked = 0, fd = open(path, O_RDWR | O_NOCTTY), own;

	if (fd < 0 || setsid() < 0 || ioctl(fd, TIOCSPTLCK, &unlocked))
		return errno;
	own = ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	return own < 0 || ioctl(own, TIOCSCTTY, 0) ? errno : 0;
}

static int try(char *line);

/* tries a line in a child, once that is what it has to be */
static int in_child(int (*prepare)(const char *), const char *with, char *line)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		int e = prepare(with);

		_exit(e ? e : try(line));
	}
	return waitpid(child, &status, 0) < 0 ? errno : WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int as_user(const char *uid)
{
	return setresuid(atoi(uid), atoi(uid), atoi(uid)) ? errno : 0;
}

/* gives this process, which has one thread, namespaces in which it may mount; its users are as before */
static int on_its_own(const char *unused)
{
	char text[64];
	uid_t uid = getuid();
	gid_t gid = getgid();
	int e;

	(void)unused;
	/* who became another user may not write the files of this process otherwise */
	if (prctl(PR_SET_DUMPABLE, 1) || unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return errno;
	snprintf(text, sizeof(text), "%u %u 1", uid, uid);
	if ((e = put("/proc/self/setgroups", "deny")) || (e = put("/proc/self/uid_map", text)))
		return e;
	snprintf(text, sizeof(text), "%u %u 1", gid, gid);
	return put("/proc/self/gid_map", text);
}

static int in_tree(const char *directory, const char *name)
{
	int tree = syscall(SYS_open_tree, AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	int fd = tree < 0 ? -1 : openat(tree, name, O_RDONLY | O_CLOEXEC);
	int e = fd < 0 ? errno : 0;

	close(fd);
	close(tree);
	return e;
}

/* the directories of a path below one, and this program at its end */
static int copied(int below, const char *path)
{
	char part[512];
	struct stat st;
	int from, to, e;

	for (const char *at = strchr(path, '/'); at; at = strchr(at + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(at - path), path);
		if (mkdirat(below, part, 0755) && errno != EEXIST)
			return errno;
	}
	from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	to = openat(below, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	e = from < 0 || to < 0 || fstat(from, &st) || sendfile(to, from, NULL, st.st_size) != st.st_size ? errno : 0;
	close(from);
	close(to);
	return e;
}

static int in_made(const char *path)
{
	int fs = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC), top, e;
	char name[512];

	if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return errno;
	top = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	if (top < 0)
		return errno;
	e = copied(top, path + 1);
	snprintf(name, sizeof(name), "/proc/self/fd/%d%s", top, path);
	return e ? e : executed(name, "nothing");
}

static int by_handle(const char *path)
{
	struct { struct file_handle head; char rest[MAX_HANDLE_SZ]; } handle = { .head.handle_bytes = MAX_HANDLE_SZ };
	char directory[512];
	int top, id, fd, e;

	if (name_to_handle_at(AT_FDCWD, path, &handle.head, &id, 0))
		return errno;
	snprintf(directory, sizeof(directory), "%.*s", (int)(strrchr(path, '/') - path), path);
	top = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fd = top < 0 ? -1 : open_by_handle_at(top, &handle.head, O_RDONLY | O_CLOEXEC);
	e = fd < 0 ? errno : 0;
	close(fd);
	close(top);
	return e;
}

static int try(char *line)
{
	char *what = strtok(line, " "), *path, *other;
	struct stat st;
	int e, fd;

	if (what && !strcmp(what, "terminal")) {
		other = strtok(NULL, "");
		return other ? in_child(on_terminal, "/dev/ptmx", other) : 254;
	}
	if (what && !strcmp(what, "unshared")) {
		other = strtok(NULL, "");
		return other ? in_child(on_its_own, NULL, other) : 254;
	}
	path = strtok(NULL, " ");
	other = strtok(NULL, "");
	if (!what || !path)
		return 254;
	if (!strcmp(what, "read"))
		return opened(path, O_RDONLY);
	if (!strcmp(what, "write"))
		return opened(path, O_WRONLY);
	if (!strcmp(what, "create")) {
		e = opened(path, O_WRONLY | O_CREAT | O_EXCL);
		/* one that could not be opened may be there all the same */
		return e == EEXIST ? e : unlink(path) && !e ? 253 : e;
	}
	if (!strcmp(what, "unlink"))
		return unlink(path) ? errno : 0;
	if (!strcmp(what, "mkdir"))
		return mkdir(path, 0700) ? errno : rmdir(path) ? 253 : 0;
	if (!strcmp(what, "chmod"))
		return stat(path, &st) || chmod(path, st.st_mode & 07777) ? errno : 0;
	if (!strcmp(what, "truncate"))
		return stat(path, &st) || truncate(path, st.st_size) ? errno : 0;
	if (!strcmp(what, "exec"))
		return executed(path, other ? other : "nothing");
	if (!strcmp(what, "label"))
		return executed(path, "label");
	if (!strcmp(what, "chroot"))
		return chroot(path) ? errno : 0;
	if (!strcmp(what, "made"))
		return in_made(path);
	if (!strcmp(what, "handle"))
		return by_handle(path);
	if (!other)
		return 254;
	if (!strcmp(what, "tree"))
		return in_tree(path, other);
	if (!strcmp(what, "rename"))
		return rename(path, other) ? errno : rename(other, path) ? 253 : 0;
	if (!strcmp(what, "link"))
		return link(path, other) ? errno : unlink(other) ? 253 : 0;
	if (!strcmp(what, "put"))
		return put(path, other);
	if (!strcmp(what, "as"))
		return in_child(as_user, path, other);
	if (!strcmp(what, "connect"))
		return with_address(connect, path, other);
	if (!strcmp(what, "bind"))
		return with_address(bind, path, other);
	if (!strcmp(what, "socket")) {
		char *protocol = strchr(other, ' ');

		fd = socket(atoi(path), atoi(other), protocol ? atoi(protocol) : 0);
		return fd < 0 ? errno : (close(fd), 0);
	}
	return 254;
}

int main(int argc, char **argv)
{
	char line[4096];

	if (argc >= 2 && (!strcmp(argv[1], "nothing") || !strcmp(argv[1], "something")))
		return 0;
	if (argc == 2 && !strcmp(argv[1], "label"))
		return label();
	if (argc == 3 && !strcmp(argv[1], "through")) {
		execl(argv[2], argv[2], NULL);
		return errno;
	}
	while (fgets(line, sizeof(line), stdin)) {
		int e;

		line[strcspn(line, "\n")] = 0;
		e = try(line);
		printf("%d\n", e);
		fflush(stdout);
	}
	return 0;
}
