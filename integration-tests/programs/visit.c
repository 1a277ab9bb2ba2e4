/* Tries what it reads from its input, a line each, and answers each with the errno that it met, or 0: what a process under
 * an AppArmor profile may do. Static, so that it needs no file of its own. What succeeds is undone.
 *
 * visit                 reads lines: read PATH | write PATH | create PATH | unlink PATH | rename PATH OTHER | link PATH OTHER |
 *                       chmod PATH | mkdir PATH | exec PATH | socket FAMILY TYPE PROTOCOL | chroot / | as UID LINE |
 *                       put PATH TEXT (with one write) | label PATH (execute it, and print the label that it has)
 * visit nothing         exits with 0
 * visit label           prints the label that it has
 * visit through PATH    executes PATH, which reads the input
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

static int try(char *line)
{
	char *what = strtok(line, " "), *path = strtok(NULL, " "), *other = strtok(NULL, "");
	struct stat st;
	int e, fd;

	if (!what || !path)
		return 254;
	if (!strcmp(what, "read"))
		return opened(path, O_RDONLY);
	if (!strcmp(what, "write"))
		return opened(path, O_WRONLY);
	if (!strcmp(what, "create")) {
		e = opened(path, O_WRONLY | O_CREAT | O_EXCL);
		return e ? e : unlink(path) ? 253 : 0;
	}
	if (!strcmp(what, "unlink"))
		return unlink(path) ? errno : 0;
	if (!strcmp(what, "mkdir"))
		return mkdir(path, 0700) ? errno : rmdir(path) ? 253 : 0;
	if (!strcmp(what, "chmod"))
		return stat(path, &st) || chmod(path, st.st_mode & 07777) ? errno : 0;
	if (!strcmp(what, "exec"))
		return executed(path, "nothing");
	if (!strcmp(what, "label"))
		return executed(path, "label");
	if (!strcmp(what, "chroot"))
		return chroot(path) ? errno : 0;
	if (!other)
		return 254;
	if (!strcmp(what, "rename"))
		return rename(path, other) ? errno : rename(other, path) ? 253 : 0;
	if (!strcmp(what, "link"))
		return link(path, other) ? errno : unlink(other) ? 253 : 0;
	if (!strcmp(what, "put"))
		return put(path, other);
	if (!strcmp(what, "as")) {
		int status;
		pid_t child = fork();

		if (!child)
			_exit(setresuid(atoi(path), atoi(path), atoi(path)) ? 252 : try(other));
		return waitpid(child, &status, 0) < 0 ? errno : WEXITSTATUS(status);
	}
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

	if (argc == 2 && !strcmp(argv[1], "nothing"))
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
