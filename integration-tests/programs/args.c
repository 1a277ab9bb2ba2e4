/* Starts programs with arguments of all kinds, for tests of `allowedArgs`; its exit status is that of the program, or the
 * errno that execve met.
 *
 * args empty PROGRAM            without any argument, not even the first
 * args as NAME PROGRAM ARG...   with NAME as the first argument
 * args many PROGRAM COUNT ARG   with the argument so many times
 * args long PROGRAM BYTES       with one argument of so many bytes `x`
 * args pages PROGRAM ARG        with an environment that moves the argument over each border of pages; the first failure
 * args race PROGRAM COUNT       so many times, while another thread changes the argument from `listed` to `unlisted` and back
 *
 * As a PROGRAM, under any other name: exits with 77 where one of its arguments is not `listed`, ``, or made of `x`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNLISTED 77

static int run(const char *program, char **args, char **env)
{
	int status;
	pid_t child = vfork();

	if (!child) {
		execve(program, args, env);
		_exit(errno);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 250;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static char racing[16] = "listed";

static void *change(void *unused)
{
	for (;;) {
		memcpy(racing, "unlisted", 9);
		asm volatile("" ::: "memory"); /* the compiler must not leave it out */
		memcpy(racing, "listed", 7);
		asm volatile("" ::: "memory");
	}
	return unused;
}

static int race(char *program, int count)
{
	char *args[] = {program, racing, NULL}, *env[] = {NULL};
	int ran = 0, denied = 0, status;
	pthread_t thread;

	if (pthread_create(&thread, NULL, change, NULL))
		return 250;
	while (count--) {
		status = run(program, args, env);
		if (status == UNLISTED)
			return UNLISTED;
		ran += status == 0;
		denied += status == EACCES;
	}
	printf("%d ran, %d denied\n", ran, denied);
	return ran && denied ? 0 : 251;
}

static int pages(char *program, char *arg)
{
	static char pad[8192] = "PAD=";
	char *args[] = {program, arg, NULL}, *env[] = {pad, NULL};

	for (int n = 4; n < 4096 + 512; n += 32) {
		int status;

		memset(pad + 4, 'y', n - 4);
		pad[n] = 0;
		status = run(program, args, env);
		if (status)
			return status;
	}
	return 0;
}

static int judged(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "listed") && strspn(argv[i], "x") != strlen(argv[i]))
			return UNLISTED;
	}
	return 0;
}

int main(int argc, char **argv)
{
	char *none[] = {NULL}, *name = argc ? strrchr(argv[0], '/') : NULL;
	int n = argc > 3 ? atoi(argv[3]) : 0;

	if (!name || strcmp(name, "/args") || argc < 3)
		return judged(argc, argv);
	if (!strcmp(argv[1], "empty"))
		return run(argv[2], none, none);
	if (argc > 3 && !strcmp(argv[1], "as")) {
		char *program = argv[3];

		argv[3] = argv[2];
		return run(program, argv + 3, none);
	}
	if (argc == 5 && !strcmp(argv[1], "many")) {
		char **args = calloc(n + 2, sizeof(*args));

		args[0] = argv[2];
		for (int i = 1; i <= n; i++)
			args[i] = argv[4];
		return run(argv[2], args, none);
	}
	if (argc == 4 && !strcmp(argv[1], "long")) {
		char *text = calloc(n + 1, 1), *args[] = {argv[2], text, NULL};

		memset(text, 'x', n);
		return run(argv[2], args, none);
	}
	if (argc == 4 && !strcmp(argv[1], "pages"))
		return pages(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "race"))
		return race(argv[2], n);
	return 250;
}
