/* Many at once.
 *   race open SECONDS PATH...   one thread for each CPU and path opens it again and again
 *   race rename TIMES           threads open the secret while its directory's neighbours are renamed, and while symlinks
 *                               are swapped, until it was tried so often
 * Prints `opened N denied N other N`. */
#include "evade.h"
#include <pthread.h>
#include <time.h>

static unsigned long opened, denied, other;
static volatile int stop;

static void try(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[sizeof CONTENT] = "";

	if (fd < 0) {
		__atomic_fetch_add(errno == EACCES ? &denied : &other, 1, __ATOMIC_RELAXED);
		return;
	}
	/* a swapped path may show something that is not protected */
	if (read(fd, text, sizeof CONTENT - 1) > 0 && !strcmp(text, CONTENT))
		__atomic_fetch_add(&opened, 1, __ATOMIC_RELAXED);
	else
		__atomic_fetch_add(&other, 1, __ATOMIC_RELAXED);
	close(fd);
}

static void *opener(void *path)
{
	while (!stop)
		try(path);
	return 0;
}

static void *renamer(void *unused)
{
	for (int i = 0; !stop; i++) {
		syscall(SYS_renameat2, AT_FDCWD, "/work/a", AT_FDCWD, "/work/b", RENAME_EXCHANGE); /* decoy, symlink to the secret */
		rename("/vol/other/m", "/vol/other/n");
		rename("/vol/other/n", "/vol/other/m");
	}
	return unused;
}

int race(int argc, char **argv)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned long wanted = 0;
	pthread_t t;

	if (argc >= 3 && !strcmp(argv[0], "open")) {
		for (long c = 0; c < 2 * cpus; c++)
			for (int i = 2; i < argc - 1; i++) /* the last is the helper's pid */
				pthread_create(&t, 0, opener, argv[i]);
		sleep(atoi(argv[1]));
	} else if (argc >= 2 && !strcmp(argv[0], "rename")) {
		wanted = strtoul(argv[1], 0, 10);
		if (symlink(SECRET, "/work/a") || symlink("/work/decoy", "/work/b") || mkdir("/vol/other/m", 0755))
			return cannot("race");
		for (long c = 0; c < cpus; c++) {
			pthread_create(&t, 0, opener, SECRET);
			pthread_create(&t, 0, opener, "/work/a");
		}
		pthread_create(&t, 0, renamer, 0);
		while (__atomic_load_n(&denied, __ATOMIC_RELAXED) + __atomic_load_n(&opened, __ATOMIC_RELAXED) < wanted)
			usleep(10000);
	} else {
		return 2;
	}
	stop = 1;
	usleep(100000);
	printf("opened %lu denied %lu other %lu\n", opened, denied, other);
	fflush(stdout);
	_exit(0);
}
