/* Tricks that execute a program. */
#include "evade.h"
#include <elf.h>
#include <pthread.h>
#include <spawn.h>

#define AT_HERE AT_FDCWD
#define LOADER "/lib64/ld-linux-x86-64.so.2"
extern char **environ;

static int ran(int status) { return status == RAN ? 0 : status; }
static int run_argv(const char *path, char **argv)
{
	pid_t p = fork();

	if (!p) {
		execve(path, argv, environ);
		_exit(failed());
	}
	return ran(status_of(p));
}
static int run(const char *path) { char *argv[] = {"prog", 0}; return run_argv(path, argv); }
static int run_descriptor(int fd)
{
	char *argv[] = {"prog", 0};
	pid_t p = fork();

	if (!p) {
		syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
		_exit(failed());
	}
	return ran(status_of(p));
}
static int copy(const char *from, int to)
{
	char block[65536];
	int fd = open(from, O_RDONLY);
	ssize_t n;

	if (fd < 0 || to < 0)
		return cannot("copy");
	while ((n = read(fd, block, sizeof block)) > 0)
		if (write(to, block, n) != n)
			return cannot("copy");
	close(fd);
	return 0;
}

static int plain(void) { return run(PROG); }
static int dynamic(void) { setenv("LD_LIBRARY_PATH", "/lib64", 1); return run(DYN); }
static int script(void) { return run(SCRIPT); }
static int other_script(void) { return run("/work/script"); } /* its interpreter is PROG */
static int nested_script(void) { return run("/work/script2"); } /* its interpreter is a script whose interpreter is PROG */
static int binfmt(void) { return run("/work/binfmt"); } /* so is this one's, by binfmt_misc */
static int by_symlink(void) { return symlink(PROG, "/tmp/link") ? cannot("symlink") : run("/tmp/link"); }
static int by_directory_symlink(void) { return symlink("/prot", "/tmp/link") ? cannot("symlink") : run("/tmp/link/prog"); }
static int by_link(void) { return link(PROG, "/work/link") ? cannot("link") : run("/work/link"); }
static int by_rename(void) { return rename(PROG, "/work/moved") ? cannot("rename") : run("/work/moved"); }
static int by_copy(void)
{
	int fd = open("/work/copy", O_WRONLY | O_CREAT, 0755), r = copy(PROG, fd);

	close(fd);
	return r ? r : run("/work/copy");
}
static int by_memfd(void)
{
	int fd = memfd_create("prog", 0), r = copy(PROG, fd);

	return r ? r : run_descriptor(fd);
}
static int by_deleted(void)
{
	char path[64];
	int fd = open("/work/copy", O_WRONLY | O_CREAT, 0755), r = copy(PROG, fd);

	close(fd);
	fd = open("/work/copy", O_RDONLY | O_CLOEXEC);
	unlink("/work/copy");
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return r ? r : run(path);
}
static int by_descriptor(void) { return run_descriptor(open(PROG, O_RDONLY | O_CLOEXEC)); }
static int by_path_descriptor(void) { return run_descriptor(open(PROG, O_PATH | O_CLOEXEC)); }
static int by_proc_fd(void)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", open(PROG, O_PATH));
	return run(path);
}
static int by_proc_root(void) { return run("/proc/self/root" PROG); }
static int by_chroot_inner(void) { return chroot("/prot") || chdir("/") ? cannot("chroot") : run("/prog"); }
static int by_bind(void) { return mount("/prot", "/mnt", 0, MS_BIND, 0) ? cannot("mount") : run("/mnt/prog"); }
static int tree(void) { return (int)syscall(SYS_open_tree, AT_HERE, "/prot", OPEN_TREE_CLONE); }
static int by_tree(void)
{
	char *argv[] = {"prog", 0};
	int fd = tree();
	pid_t p = fork();

	if (!p) {
		syscall(SYS_execveat, fd, "prog", argv, environ, 0);
		_exit(failed());
	}
	return ran(status_of(p));
}
static int by_tree_attached(void)
{
	if (syscall(SYS_move_mount, tree(), "", AT_HERE, "/mnt", MOVE_MOUNT_F_EMPTY_PATH))
		return cannot("move_mount");
	return run("/mnt/prog");
}
static int by_namespace(void) { return unshare(CLONE_NEWNS) ? cannot("unshare") : run(PROG); }
static int by_vfork(void)
{
	char *argv[] = {"prog", 0};
	pid_t p = vfork();

	if (!p) {
		execv(PROG, argv);
		_exit(failed());
	}
	return ran(status_of(p));
}
static int by_spawn(void)
{
	char *argv[] = {"prog", 0};
	pid_t p;
	int e = posix_spawn(&p, PROG, 0, 0, argv, environ);

	return e ? e : ran(status_of(p));
}
static void *exec_in_thread(void *result)
{
	char *argv[] = {"prog", 0};

	execv(PROG, argv);
	*(int *)result = failed();
	return 0;
}
static int by_thread_inner(void)
{
	pthread_t t;
	int r = CANNOT;

	if (pthread_create(&t, 0, exec_in_thread, &r))
		return cannot("pthread_create");
	pthread_join(t, 0);
	return r;
}
static int by_thread(void) { return ran(in_child(by_thread_inner)); }
static int by_itself(void) /* without a fork, as `sh -c PROG` does */
{
	char *argv[] = {"prog", 0};
	pid_t p = fork();

	if (!p) {
		execv(PROG, argv);
		_exit(failed());
	}
	return ran(status_of(p));
}

/* What a loader does: a program of mine that has none maps another to execute it. */
static int loader(const char *path, int later)
{
	int fd = open(path, O_RDONLY);
	void *map;

	if (fd < 0)
		return cannot(path);
	map = mmap(0, 4096, later ? PROT_READ : PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return failed();
	return later && mprotect(map, 4096, PROT_READ | PROT_EXEC) ? failed() : 0;
}
static int maps(void) { return loader(PROG, 0); }
static int maps_later(void) { return loader(PROG, 1); }
static int maps_copied_up(void) { return chmod(PROG, 0700) ? cannot("chmod") : loader(PROG, 1); }
/* what ld.so makes of a mapping that is denied: the alert says what it was */
static int denied(int r) { return r == 127 ? EACCES : r; }
static int ld_so(void)
{
	char *argv[] = {"ld.so", "--library-path", "/lib64", DYN, 0};

	return denied(run_argv(LOADER, argv));
}
static int ld_so_symlink(void)
{
	char *argv[] = {"ld.so", "--library-path", "/lib64", "/tmp/link", 0};

	return symlink(DYN, "/tmp/link") ? cannot("symlink") : denied(run_argv(LOADER, argv));
}
static int ld_so_copy(void)
{
	char *argv[] = {"ld.so", "--library-path", "/lib64", "/work/copy", 0};
	int fd = open("/work/copy", O_WRONLY | O_CREAT, 0644), r = copy(DYN, fd);

	close(fd);
	return r ? r : denied(run_argv(LOADER, argv));
}
/* by reading alone: no kernel sees a program in this */
static int read_and_map(void)
{
	char *map = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open(PROG, O_RDONLY);

	if (fd < 0 || read(fd, map, 4096) <= 0)
		return cannot("read");
	return mprotect(map, 1 << 20, PROT_READ | PROT_EXEC) ? failed() : 0;
}

const struct trick EXEC[] = {
	{"execve", plain}, {"execve of a dynamic program", dynamic}, {"execve of a script", script}, {"script with it as interpreter", other_script}, {"script of a script", nested_script}, {"binfmt_misc", binfmt},
	{"exec by symlink", by_symlink}, {"exec by symlink to the directory", by_directory_symlink}, {"exec by hard link", by_link}, {"exec by another name", by_rename},
	{"exec of a copy", by_copy}, {"exec of a memfd", by_memfd}, {"exec of a deleted copy", by_deleted},
	{"execveat AT_EMPTY_PATH", by_descriptor}, {"execveat of O_PATH", by_path_descriptor}, {"exec by /proc/self/fd", by_proc_fd}, {"exec by /proc/self/root", by_proc_root},
	{"exec after chroot", by_chroot_inner}, {"exec by bind mount", by_bind}, {"exec by open_tree", by_tree}, {"exec by open_tree, attached", by_tree_attached},
	{"exec after unshare", by_namespace}, {"vfork and exec", by_vfork}, {"posix_spawn", by_spawn}, {"exec by another thread", by_thread}, {"exec without fork", by_itself},
	{"mmap PROT_EXEC", maps}, {"mprotect PROT_EXEC", maps_later}, {"mprotect PROT_EXEC, copied up", maps_copied_up},
	{"ld.so PROGRAM", ld_so}, {"ld.so SYMLINK", ld_so_symlink}, {"ld.so COPY", ld_so_copy}, {"read and mprotect PROT_EXEC", read_and_map},
	{0, 0},
};
