/* Does one thing and exits with 0, or with the errno that it met: what tests of network, capability, preset and system
 * call rules run in a container.
 *
 * act socket FAMILY TYPE PROTOCOL | connect ADDRESS PORT | connect-udp ADDRESS PORT | send ADDRESS PORT |
 *     send-unspec ADDRESS PORT | fastopen ADDRESS PORT | bind ADDRESS PORT | listen ADDRESS PORT | accept |
 *     disconnect | chroot | memfd-exec | run-copy PATH | map-anonymous | map-shared | map-zero | map-memfd |
 *     map-write-exec PATH | map-file PATH | protect-anonymous | protect-written PATH | protect-read PATH |
 *     open PATH | tty COMMAND... | unlink PATH | unlink-32 | unlink-x32 | socket-32 | msgget-32 | stat64-32 | rt_sigaction-x32 | peek PID
 *
 * FAMILY, TYPE and PROTOCOL are numbers.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int done(long result)
{
	return result < 0 ? errno : 0;
}

static socklen_t address(struct sockaddr_storage *out, const char *text, const char *port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

	memset(out, 0, sizeof(*out));
	if (strchr(text, ':')) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(atoi(port));
		inet_pton(AF_INET6, text, &v6->sin6_addr);
		return sizeof(*v6);
	}
	v4->sin_family = AF_INET;
	v4->sin_port = htons(atoi(port));
	inet_pton(AF_INET, text, &v4->sin_addr);
	return sizeof(*v4);
}

/* connecting: what matters is whether it was refused by a policy, not by an absent server */
static int reached(long result)
{
	return result < 0 && errno == EACCES ? EACCES : 0;
}

static int network(const char *what, char **args)
{
	struct sockaddr_storage to;
	socklen_t len = address(&to, args[0], args[1]);
	int datagram = !strncmp(what, "send", 4) || !strcmp(what, "connect-udp");
	int s = socket(to.ss_family, datagram ? SOCK_DGRAM : SOCK_STREAM, 0);

	if (s < 0)
		return 100 + errno;
	if (!strncmp(what, "connect", 7))
		return reached(connect(s, (void *)&to, len));
	if (!strcmp(what, "send-unspec"))
		to.ss_family = AF_UNSPEC;
	if (!strncmp(what, "send", 4))
		return reached(sendto(s, "x", 1, 0, (void *)&to, len));
	if (!strcmp(what, "fastopen"))
		return reached(sendto(s, "x", 1, MSG_FASTOPEN, (void *)&to, len));
	if (bind(s, (void *)&to, len))
		return errno;
	return !strcmp(what, "listen") ? done(listen(s, 1)) : 0;
}

static int accept_one(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t len = sizeof(at);
	int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(l, (void *)&at, sizeof(at)) || listen(l, 1) || getsockname(l, (void *)&at, &len) ||
	    connect(c, (void *)&at, len))
		return 100 + errno;
	return done(accept(l, NULL, NULL));
}

static int disconnect(void)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	return done(connect(socket(AF_INET, SOCK_DGRAM, 0), &none, sizeof(none)));
}

/* runs a copy of itself, which does nothing */
static int copied(int to, const char *path)
{
	char buffer[4096];
	int from = open("/proc/self/exe", O_RDONLY);
	char *args[] = {"act", "nothing", NULL};
	ssize_t n;

	while ((n = read(from, buffer, sizeof(buffer))) > 0)
		if (write(to, buffer, n) != n)
			return 100 + errno;
	if (path) {
		close(to);
		execv(path, args);
	} else {
		syscall(SYS_execveat, to, "", args, NULL, AT_EMPTY_PATH);
	}
	return errno;
}

static int map(int prot, int flags, int fd)
{
	return mmap(NULL, 4096, prot, flags, fd, 0) == MAP_FAILED ? errno : 0;
}

static int memory(const char *what, const char *path)
{
	int rx = PROT_READ | PROT_EXEC, rw = PROT_READ | PROT_WRITE;
	int fd = path ? open(path, O_RDONLY) : -1;
	char *page;

	if (path && fd < 0)
		return 100 + errno;
	if (!strcmp(what, "map-anonymous"))
		return map(rx, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (!strcmp(what, "map-shared"))
		return map(rx, MAP_SHARED | MAP_ANONYMOUS, -1);
	if (!strcmp(what, "map-zero"))
		return map(rx, MAP_PRIVATE, open("/dev/zero", O_RDWR));
	if (!strcmp(what, "map-memfd")) {
		fd = memfd_create("x", 0);
		if (ftruncate(fd, 4096))
			return 100 + errno;
		return map(rx, MAP_SHARED, fd);
	}
	if (!strcmp(what, "map-write-exec"))
		return map(rx | PROT_WRITE, MAP_PRIVATE, fd);
	if (!strcmp(what, "map-file"))
		return map(rx, MAP_PRIVATE, fd);
	page = mmap(NULL, 4096, rw, MAP_PRIVATE | (path ? 0 : MAP_ANONYMOUS), fd, 0);
	if (page == MAP_FAILED)
		return 100 + errno;
	if (strcmp(what, "protect-read"))
		page[0] = 1;
	return done(mprotect(page, 4096, rx));
}

static int peek(int pid)
{
	char byte;
	struct iovec local = {&byte, 1}, remote = {(void *)&peek, 1};

	return done(process_vm_readv(pid, &local, 1, &remote, 1, 0));
}

/* the command with a controlling terminal */
static int on_terminal(char **command)
{
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY), status;
	pid_t child;

	if (master < 0 || grantpt(master) || unlockpt(master))
		return 100 + errno;
	child = fork();
	if (!child) {
		setsid();
		if (open(ptsname(master), O_RDWR) < 0)
			_exit(100 + errno);
		execv(command[0], command);
		_exit(100 + errno);
	}
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

/* The way into the kernel of 32-bit programs. What arguments point to must lie below 4 GiB, as all that is static does. */
static long enter_32(long number, long first, long second)
{
	long result;

	asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second) : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static int done_32(long result)
{
	return result < 0 ? -result : 0;
}

static int other_way(const char *what)
{
	static char nowhere[] = "/nowhere";
	static unsigned int socket_args[3] = {1, 1, 0};

	if (!strcmp(what, "unlink-32"))
		return done_32(enter_32(10, (long)nowhere, 0));
	if (!strcmp(what, "stat64-32"))
		return done_32(enter_32(195, (long)nowhere, 0));
	if (!strcmp(what, "socket-32")) /* socketcall(SYS_SOCKET, ...) */
		return done_32(enter_32(102, 1, (long)socket_args));
	if (!strcmp(what, "msgget-32")) /* ipc(MSGGET, IPC_PRIVATE, ...), with a version above */
		return done_32(enter_32(117, 13 | 1 << 16, 0));
	if (!strcmp(what, "unlink-x32"))
		return done(syscall(0x40000000 | 87, nowhere));
	return done(syscall(0x40000000 | 512, 1, 0, 0, 8)); /* rt_sigaction */
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "", *path = argc > 2 ? argv[2] : NULL;

	if (!strcmp(what, "nothing"))
		return 0;
	if (!strcmp(what, "socket") && argc == 5)
		return done(socket(atoi(argv[2]), atoi(argv[3]), atoi(argv[4])));
	if (!strcmp(what, "accept"))
		return accept_one();
	if (!strcmp(what, "disconnect"))
		return disconnect();
	if (argc == 4 && strcmp(what, "tty"))
		return network(what, argv + 2);
	if (!strcmp(what, "chroot"))
		return done(chroot("/"));
	if (!strcmp(what, "memfd-exec"))
		return copied(memfd_create("copy", MFD_CLOEXEC), NULL);
	if (!strcmp(what, "run-copy") && path)
		return copied(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755), path);
	if (!strncmp(what, "map-", 4) || !strncmp(what, "protect-", 8))
		return memory(what, path);
	if (!strcmp(what, "open") && path)
		return done(open(path, O_RDONLY));
	if (!strcmp(what, "unlink") && path)
		return done(unlink(path));
	if (strstr(what, "-32") || strstr(what, "-x32"))
		return other_way(what);
	if (!strcmp(what, "peek") && path)
		return peek(atoi(path));
	if (!strcmp(what, "tty") && path)
		return on_terminal(argv + 2);
	return 99;
}
