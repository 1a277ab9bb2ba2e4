/* Tricks to get round a policy, one function each.
 *   evade box ROOT CGROUP HOSTPID -- ARGS   plays a container: see box.c
 *   evade run TRICK HELPER                  one trick; prints `RESULT NUMBER`
 *   evade list                              the names of all
 *   evade race ...                          see race.c
 * Static, so that it runs in any root. */
#include "evade.h"

pid_t helper;

int cannot(const char *what)
{
	int e = errno;

	fprintf(stderr, "%s: %s\n", what, strerror(e));
	return e == EACCES || e == EPERM ? e : CANNOT;
}

int failed(void)
{
	return errno ? errno : CANNOT;
}

int holds(int fd)
{
	char text[sizeof CONTENT] = "";
	ssize_t n;

	if (fd < 0)
		return failed();
	n = pread(fd, text, sizeof CONTENT - 1, 0);
	if (n < 0) {
		int e = errno;

		close(fd);
		return e;
	}
	close(fd);
	return strcmp(text, CONTENT) ? NO_EFFECT : 0;
}

int opens(const char *path)
{
	return holds(open(path, O_RDONLY | O_CLOEXEC));
}

int status_of(pid_t pid)
{
	int status;

	if (pid < 0)
		return cannot("fork");
	if (waitpid(pid, &status, 0) < 0)
		return cannot("waitpid");
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	fprintf(stderr, "killed by signal %d\n", WTERMSIG(status));
	return CANNOT;
}

void wait_for_policy(void)
{
	char go[16];

	printf("waiting\n");
	if (!fgets(go, sizeof go, stdin))
		_exit(CANNOT);
}

int in_child(int (*run)(void))
{
	pid_t pid = fork();

	if (!pid)
		_exit(run());
	return status_of(pid);
}

int reach(const char *path, int kind, int sends)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, kind, 0);

	strcpy(a.sun_path, path);
	if (sends)
		return sendto(fd, "x", 1, 0, (struct sockaddr *)&a, sizeof a) == 1 ? 0 : failed();
	return connect(fd, (struct sockaddr *)&a, sizeof a) ? failed() : 0;
}

static const struct trick *find(const struct trick *list, const char *name)
{
	for (; list->name; list++)
		if (!strcmp(list->name, name))
			return list;
	return 0;
}

int main(int argc, char **argv)
{
	const struct trick *all[] = {READ, WRITE, EXEC, HARMLESS}, *trick = 0;

	setvbuf(stdout, 0, _IOLBF, 0);
	if (argc >= 2 && !strcmp(argv[1], "box"))
		return box(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "race"))
		return race(argc - 2, argv + 2);
	if (argc == 2 && !strcmp(argv[1], "list")) {
		for (int i = 0; i < 4; i++)
			for (trick = all[i]; trick->name; trick++)
				printf("%c %s\n", "rwxh"[i], trick->name);
		return 0;
	}
	if (argc == 4 && !strcmp(argv[1], "run")) {
		helper = atoi(argv[3]);
		for (int i = 0; i < 4 && !trick; i++)
			trick = find(all[i], argv[2]);
		if (!trick) {
			fprintf(stderr, "no trick is called `%s`\n", argv[2]);
			return 2;
		}
		printf("RESULT %d\n", in_child(trick->run));
		return 0;
	}
	fprintf(stderr, "usage: evade box | run TRICK HELPER | list | race\n");
	return 2;
}
