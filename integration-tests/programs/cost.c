/* Measures single operations on a machine whose clock counts instructions (one tick of the time-stamp counter each).
 *   cost trees BASE...     makes the files that are opened, below each BASE (one component deep, such as /tmp)
 *   cost run OPTIONS       prints `ready`, waits for a line, proves that it is confined, measures, and prints lines
 *                          `OPERATION<tab>MIN<tab>P50<tab>P99`; any other line is an error, and so is a status
 *     -c DIR   enters this cgroup first              -m       has a mount namespace of its own
 *     -l N     a Landlock ruleset of N rules         -a NAME  an AppArmor profile
 *     -b FILE  must be denied (EACCES)               -p FILE  must not be
 *     -d       connecting to 10.0.0.1:443 must be denied
 *     -t BASE  -o BASE  where the files are          -x FILE  the program that is executed
 *     -q       few operations                        -w       only waits, to be there
 * Each file is opened once before the rules are in force, so that no cache of the file system's is cold, and in the
 * measurement each one once only: a cache of verdicts finds none. `again` is the same file over and over.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#define FILES 64
#define EXECS 240
static const int depths[] = { 2, 5, 10, 20 };
#define DEPTHS (sizeof(depths) / sizeof(*depths))
static unsigned long ticks[256];

static void die(const char *what)
{
	printf("error: %s: %s\n", what, strerror(errno));
	exit(9);
}

/* DEPTH components, all but BASE of 8 bytes: BASE/dir00002/.../file00NN. */
static void path_of(char *out, const char *base, int depth, int n)
{
	out += sprintf(out, "%s", base);
	for (int i = 2; i < depth; i++)
		out += sprintf(out, "/dir%05d", i);
	sprintf(out, "/file%04d", depth * 100 + n);
}

static void make_tree(const char *base)
{
	char path[512];

	for (size_t d = 0; d < DEPTHS; d++)
		for (int n = 0; n < FILES; n++) {
			path_of(path, base, depths[d], n);
			for (char *s = path + 1; *s; s++)
				if (*s == '/') {
					*s = 0;
					mkdir(path, 0755);
					*s = '/';
				}
			int fd = open(path, O_WRONLY | O_CREAT, 0644);
			if (fd < 0 || write(fd, "x", 1) != 1)
				die(path);
			close(fd);
		}
}

static int compare(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *operation, int n)
{
	qsort(ticks, n, sizeof(*ticks), compare);
	printf("%s\t%lu\t%lu\t%lu\n", operation, ticks[0], ticks[n / 2], ticks[n * 99 / 100]);
	fflush(stdout);
}

static void open_close(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		die(path);
	close(fd);
}

static void measure_opens(const char *name, const char *base, size_t d)
{
	static char paths[FILES][512];
	char operation[64];

	for (int n = 0; n < FILES; n++)
		path_of(paths[n], base, depths[d], n);
	for (int n = 0; n < FILES; n++) {
		unsigned long before = __rdtsc();
		open_close(paths[n]);
		ticks[n] = __rdtsc() - before;
	}
	sprintf(operation, "%s d%d", name, depths[d]);
	report(operation, FILES);
}

static void measure_again(const char *name, const char *base, size_t d)
{
	char path[512], operation[64];

	path_of(path, base, depths[d], 0);
	for (int n = 0; n < 10; n++)
		open_close(path);
	for (int n = 0; n < FILES; n++) {
		unsigned long before = __rdtsc();
		open_close(path);
		ticks[n] = __rdtsc() - before;
	}
	sprintf(operation, "%s again d%d", name, depths[d]);
	report(operation, FILES);
}

static void warm(const char *base)
{
	char path[512];

	for (size_t d = 0; d < DEPTHS; d++)
		for (int n = 0; n < FILES; n++) {
			path_of(path, base, depths[d], n);
			open_close(path);
		}
}

static void run_program(const char *program)
{
	char *argv[] = { (char *)program, NULL }, *envp[] = { NULL };
	int status;
	pid_t child = vfork();

	if (!child) {
		execve(program, argv, envp);
		_exit(99);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status) {
		errno = ECHILD;
		die(program);
	}
}

static void measure_exec(const char *program)
{
	for (int n = 0; n < 20; n++)
		run_program(program);
	for (int n = 0; n < EXECS; n++) {
		unsigned long before = __rdtsc();
		run_program(program);
		ticks[n] = __rdtsc() - before;
	}
	report("exec", EXECS);
}

static void measure_connect(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9999) };
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int n = 0; n < FILES + 20; n++) {
		unsigned long before = __rdtsc();
		int failed = connect(s, (struct sockaddr *)&to, sizeof(to));
		unsigned long taken = __rdtsc() - before;
		if (failed)
			die("connect");
		if (n >= 20)
			ticks[n - 20] = taken;
	}
	close(s);
	report("connect", FILES);
}

/* One rule grants everything but changing files below `/`; the others are about directories elsewhere. */
static void landlock(int rules)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	/* All rights of the ABI; REFER is from 2, TRUNCATE from 3. */
	struct { unsigned long long fs, net; } handled = { abi >= 3 ? 0x7fff : abi == 2 ? 0x3fff : 0x1fff, 0 };
	int set;

	if (abi >= 4)
		handled.net = 3; /* bind and connect */
	set = syscall(SYS_landlock_create_ruleset, &handled, abi >= 4 ? 16 : 8, 0);
	if (set < 0)
		die("landlock");
	mkdir("/tmp/landlock", 0755);
	for (int n = 0; n < rules; n++) {
		struct landlock_path_beneath_attr rule = { .allowed_access = handled.fs };
		char path[64] = "/";

		if (n) {
			sprintf(path, "/tmp/landlock/%d", n);
			mkdir(path, 0755);
		} else {
			rule.allowed_access &= ~LANDLOCK_ACCESS_FS_WRITE_FILE;
		}
		rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
		if (syscall(SYS_landlock_add_rule, set, LANDLOCK_RULE_PATH_BENEATH, &rule, 0))
			die("landlock rule");
		close(rule.parent_fd);
	}
	if (handled.net) {
		struct { unsigned long long access, port; } rule = { 3, 9999 };

		if (syscall(SYS_landlock_add_rule, set, 2, &rule, 0))
			die("landlock rule for a port");
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, set, 0))
		die("landlock");
	close(set);
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die(path);
	close(fd);
}

static void prove(const char *blocked, const char *permitted, int mode)
{
	if (blocked && (open(blocked, mode) >= 0 || errno != EACCES)) {
		printf("error: %s is not denied\n", blocked);
		exit(8);
	}
	if (permitted)
		open_close(permitted);
}

static void prove_network(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(443), .sin_addr.s_addr = htonl(0x0a000001) };
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	if (!connect(s, (struct sockaddr *)&to, sizeof(to)) || errno != EACCES) {
		printf("error: connecting to 10.0.0.1:443 is not denied: %s\n", strerror(errno));
		exit(8);
	}
	close(s);
}

int main(int argc, char **argv)
{
	const char *tmp = "/tmp", *overlay = NULL, *program = NULL, *profile = NULL, *blocked = NULL, *permitted = NULL;
	const char *cgroup = NULL;
	int option, network = 0, rules = 0, own = 0, quick = 0, idle = 0;
	char text[512];

	if (argc > 1 && !strcmp(argv[1], "trees")) {
		for (int i = 2; i < argc; i++)
			make_tree(argv[i]);
		return 0;
	}
	optind = 2;
	while ((option = getopt(argc, argv, "c:ml:a:b:p:dt:o:x:qw")) > 0)
		switch (option) {
		case 'c': cgroup = optarg; break;
		case 'm': own = 1; break;
		case 'l': rules = atoi(optarg); break;
		case 'a': profile = optarg; break;
		case 'b': blocked = optarg; break;
		case 'p': permitted = optarg; break;
		case 'd': network = 1; break;
		case 't': tmp = optarg; break;
		case 'o': overlay = optarg; break;
		case 'x': program = optarg; break;
		case 'q': quick = 1; break;
		case 'w': idle = 1; break;
		default: return 9;
		}
	if (cgroup) {
		snprintf(text, sizeof(text), "%s/cgroup.procs", cgroup);
		write_text(text, "0");
	}
	if (own && (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)))
		die("a mount namespace");
	if (!idle)
		warm(tmp);
	if (!idle && overlay)
		warm(overlay);
	if (rules)
		landlock(rules);
	if (profile) {
		snprintf(text, sizeof(text), "changeprofile %s", profile);
		write_text("/proc/self/attr/apparmor/current", text);
	}
	puts("ready");
	fflush(stdout);
	if (!fgets(text, sizeof(text), stdin) || idle)
		return 7;
	prove(blocked, permitted, rules ? O_WRONLY : O_RDONLY);
	if (network)
		prove_network();
	for (size_t d = 0; d < DEPTHS; d++)
		measure_opens("tmpfs", tmp, d);
	for (size_t d = 0; overlay && d < DEPTHS; d++)
		if (!quick || depths[d] == 10)
			measure_opens("overlay", overlay, d);
	measure_again("tmpfs", tmp, 2);
	if (program)
		measure_exec(program);
	measure_connect();
	prove(blocked, permitted, rules ? O_WRONLY : O_RDONLY);
	puts("done");
	return 0;
}
