/* Tricks that read a file. */
#include "evade.h"
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/user.h>

#define AT_HERE AT_FDCWD
static int plain(void) { return opens(SECRET); }
static int read_write(void) { return holds(open(SECRET, O_RDWR)); }
static int relative(void) { return chdir("/prot") ? cannot("chdir") : opens("secret"); }
static int slashes(void) { return opens("//prot////secret"); }
static int dots(void) { return opens("/prot/./tree/../secret"); }
static int symlink_file(void) { return symlink(SECRET, "/tmp/link") ? cannot("symlink") : opens("/tmp/link"); }
static int symlink_directory(void) { return symlink("/prot", "/tmp/link") ? cannot("symlink") : opens("/tmp/link/secret"); }
static int link_new(void) { return link(SECRET, "/work/link") ? cannot("link") : opens("/work/link"); }
static int link_symlink(void)
{
	if (symlink(SECRET, "/work/sym") || linkat(AT_HERE, "/work/sym", AT_HERE, "/work/link", AT_SYMLINK_FOLLOW))
		return cannot("linkat");
	return opens("/work/link");
}
static int link_of_path_descriptor(void)
{
	int fd = open(SECRET, O_PATH);

	return linkat(fd, "", AT_HERE, "/work/link", AT_EMPTY_PATH) ? cannot("linkat") : opens("/work/link");
}
static int link_old(void) { return opens("/work/old-link"); }
static int rename_file(void) { return rename(SECRET, "/work/moved") ? cannot("rename") : opens("/work/moved"); }
static int rename_parent(void) { return rename("/vol/top/prot", "/vol/moved") ? cannot("rename") : opens("/vol/moved/secret"); }
static int rename_grandparent(void) { return rename("/vol/top", "/vol/moved") ? cannot("rename") : opens("/vol/moved/prot/secret"); }
static int rename_exchange(void)
{
	if (syscall(SYS_renameat2, AT_HERE, SECRET, AT_HERE, "/work/decoy", RENAME_EXCHANGE))
		return cannot("renameat2");
	return opens("/work/decoy");
}
static int exchange_parent(void)
{
	if (syscall(SYS_renameat2, AT_HERE, "/vol/other", AT_HERE, "/vol/top", RENAME_EXCHANGE))
		return cannot("renameat2");
	return opens("/vol/other/prot/secret");
}
static int bind_directory(void) { return mount("/prot", "/mnt", 0, MS_BIND, 0) ? cannot("mount") : opens("/mnt/secret"); }
static int bind_file(void)
{
	close(open("/tmp/file", O_CREAT | O_WRONLY, 0600));
	return mount(SECRET, "/tmp/file", 0, MS_BIND, 0) ? cannot("mount") : opens("/tmp/file");
}
static int bind_root(void) { return mount("/", "/mnt", 0, MS_BIND | MS_REC, 0) ? cannot("mount") : opens("/mnt" SECRET); }
static int bind_descriptor(void)
{
	int fd = open("/prot", O_PATH);
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return mount(path, "/mnt", 0, MS_BIND, 0) ? cannot("mount") : opens("/mnt/secret");
}
static int mount_move(void) { return mount("/vol", "/mnt", 0, MS_MOVE, 0) ? cannot("mount") : opens("/mnt/top/prot/secret"); }
static int tree_of(const char *path) { return (int)syscall(SYS_open_tree, AT_HERE, path, OPEN_TREE_CLONE | AT_RECURSIVE); }
static int tree_open(void)
{
	int tree = tree_of("/prot");

	return tree < 0 ? cannot("open_tree") : holds(openat(tree, "secret", O_RDONLY));
}
static int tree_attach(const char *from)
{
	int tree = tree_of(from);

	if (tree < 0)
		return cannot("open_tree");
	if (syscall(SYS_move_mount, tree, "", AT_HERE, "/mnt", MOVE_MOUNT_F_EMPTY_PATH))
		return cannot("move_mount");
	return 0;
}
static int tree_attached(void) { int r = tree_attach("/prot"); return r ? r : opens("/mnt/secret"); }
static int tree_attached_above(void) { int r = tree_attach("/"); return r ? r : opens("/mnt" SECRET); }
static int move_mount_attached(void)
{
	if (syscall(SYS_move_mount, AT_HERE, "/vol", AT_HERE, "/mnt", 0))
		return cannot("move_mount");
	return opens("/mnt/top/prot/secret");
}
static int pivot(void)
{
	if (mount("tmpfs", "/mnt", "tmpfs", 0, 0) || mkdir("/mnt/old", 0755))
		return cannot("new root");
	if (syscall(SYS_pivot_root, "/mnt", "/mnt/old"))
		return cannot("pivot_root");
	return opens("/old" SECRET);
}
static int overlay(void)
{
	return mount("overlay", "/mnt", "overlay", 0, "lowerdir=/prot:/work") ? cannot("mount") : opens("/mnt/secret");
}
static int overlay_new_api(void)
{
	int fs = (int)syscall(SYS_fsopen, "overlay", 0), mnt;

	if (fs < 0)
		return cannot("fsopen");
	if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "lowerdir", "/prot:/work", 0) ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0))
		return cannot("fsconfig");
	mnt = (int)syscall(SYS_fsmount, fs, 0, 0);
	if (mnt < 0)
		return cannot("fsmount");
	if (syscall(SYS_move_mount, mnt, "", AT_HERE, "/mnt", MOVE_MOUNT_F_EMPTY_PATH))
		return cannot("move_mount");
	return opens("/mnt/secret");
}
static int overlay_detached(void)
{
	int fs = (int)syscall(SYS_fsopen, "overlay", 0), mnt;

	if (fs < 0)
		return cannot("fsopen");
	if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "lowerdir", "/prot:/work", 0) ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0))
		return cannot("fsconfig");
	mnt = (int)syscall(SYS_fsmount, fs, 0, 0);
	return mnt < 0 ? cannot("fsmount") : holds(openat(mnt, "secret", O_RDONLY));
}
static int chroot_above(void) { return chroot("/vol") || chdir("/") ? cannot("chroot") : opens("/top/prot/secret"); }
static int chroot_at(void) { return chroot("/prot") || chdir("/") ? cannot("chroot") : opens("/secret"); }
static int proc_self_root(void) { return opens("/proc/self/root" SECRET); }
static int proc_thread_root(void) { return opens("/proc/thread-self/root" SECRET); }
static int proc_pid_root(void)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/root" SECRET, getppid());
	return opens(path);
}
static int proc_cwd(void) { return chdir("/prot") ? cannot("chdir") : opens("/proc/self/cwd/secret"); }
static int reopen(int fd)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return opens(path);
}
static int path_descriptor(void) { int fd = open(SECRET, O_PATH); return fd < 0 ? cannot("O_PATH") : reopen(fd); }
static int dev_fd(void)
{
	char path[64];

	snprintf(path, sizeof path, "/dev/fd/%d", open(SECRET, O_PATH));
	return opens(path);
}
static int path_directory(void) { return holds(openat(open("/prot", O_PATH), "secret", O_RDONLY)); }
static int old_directory(void) { return holds(openat(OLD_CWD, "secret", O_RDONLY)); }
static int old_path_descriptor(void) { return reopen(OLD_PATH); }
static int old_descriptor(void) { return holds(OLD_READ); }
static int old_descriptor_reopened(void) { return reopen(OLD_READ); }
static int old_descriptor_mapped(void)
{
	char *map = mmap(0, 4096, PROT_READ, MAP_SHARED, OLD_READ, 0);

	return map == MAP_FAILED ? failed() : memcmp(map, CONTENT, sizeof CONTENT - 1) ? NO_EFFECT : 0;
}
static int old_descriptor_spliced(void)
{
	char text[sizeof CONTENT] = "";
	int ends[2];

	if (pipe(ends))
		return cannot("pipe");
	if (splice(OLD_READ, 0, ends[1], 0, sizeof CONTENT - 1, 0) < 0)
		return failed();
	return read(ends[0], text, sizeof CONTENT - 1) > 0 && !memcmp(text, CONTENT, sizeof CONTENT - 1) ? 0 : NO_EFFECT;
}
static int old_descriptor_registered(void)
{
	char text[sizeof CONTENT] = "";
	struct io_uring_sqe sqe = {.opcode = IORING_OP_READ, .addr = (uintptr_t)text, .len = sizeof CONTENT - 1};
	int r = ring_of_old(&sqe);

	return r >= CANNOT ? CANNOT : r < 0 ? -r : memcmp(text, CONTENT, sizeof CONTENT - 1) ? NO_EFFECT : 0;
}
static int kept_mapping(void)
{
	int fd = open(SECRET, O_RDONLY);
	char *map = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		return cannot("mmap");
	close(fd);
	wait_for_policy();
	return memcmp(map, CONTENT, sizeof CONTENT - 1) ? NO_EFFECT : 0;
}
static int kept_descriptor(void)
{
	int fd = open(SECRET, O_RDONLY);

	wait_for_policy();
	return holds(fd);
}
/* more than can be remembered one by one */
static int kept_descriptors(void)
{
	struct rlimit most = {MANY + 100, MANY + 100};
	int fd = -1;

	if (setrlimit(RLIMIT_NOFILE, &most))
		return cannot("setrlimit");
	for (int i = 0; i < MANY; i++)
		fd = open(SECRET, O_RDONLY);
	if (fd < MANY)
		return cannot("open");
	wait_for_policy();
	return holds(fd);
}
static int kept_ring(void)
{
	char text[sizeof CONTENT] = "";
	struct io_uring_sqe sqe = {.opcode = IORING_OP_READ, .addr = (uintptr_t)text, .len = sizeof CONTENT - 1};
	int r = ring_kept(open(SECRET, O_RDONLY), &sqe);

	return r >= CANNOT ? CANNOT : r < 0 ? -r : memcmp(text, CONTENT, sizeof CONTENT - 1) ? NO_EFFECT : 0;
}
static int old_descriptor_over_exec(void)
{
	char *argv[] = {"evade", "run", "old descriptor", "0", 0};
	pid_t p = fork();

	if (!p) {
		execv("/evade", argv);
		_exit(CANNOT);
	}
	return status_of(p) ? CANNOT : holds(OLD_READ); /* the child prints a RESULT too; ours is the last */
}
static int deleted(void) { return reopen(OLD_DELETED); }
static int copied_up(void) { return opens(TREE "/copied"); }
static int recreated(void) { return opens(TREE "/recreated"); }
static int long_name(void)
{
	char path[300] = TREE "/";

	memset(path + strlen(path), 'n', 255);
	return opens(path);
}
static int how(unsigned long long flags, unsigned long long resolve, const char *dir, const char *path)
{
	struct open_how h = {.flags = flags, .resolve = resolve};

	return holds((int)syscall(SYS_openat2, dir ? open(dir, O_PATH) : AT_HERE, path, &h, sizeof h));
}
static int openat2_in_root(void) { return how(O_RDONLY, RESOLVE_IN_ROOT, "/prot", "/secret"); }
static int openat2_beneath(void) { return how(O_RDONLY, RESOLVE_BENEATH, "/prot", "secret"); }
static int openat2_flags(void)
{
	return how(O_RDONLY | O_NONBLOCK | O_NOATIME | O_LARGEFILE, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS, "/prot", "secret");
}
static int openat2_cached(void)
{
	struct stat s;

	stat(SECRET, &s);
	return how(O_RDONLY, RESOLVE_CACHED, 0, SECRET);
}
static int handle(const char *from)
{
	struct { struct file_handle h; char room[128]; } f = {.h.handle_bytes = 128};
	int id, mnt = open(from, O_RDONLY | O_DIRECTORY);

	if (mnt < 0)
		return cannot(from);
	if (name_to_handle_at(AT_HERE, VSECRET, &f.h, &id, 0))
		return cannot("name_to_handle_at");
	return holds(open_by_handle_at(mnt, &f.h, O_RDONLY));
}
static int handle_of_volume(void) { return handle(VOLUME); }
static int handle_of_other_mount(void) { return handle("/alias"); }
static int deep(void)
{
	char name[201];
	int dir = open(VOLUME "/deep", O_PATH), next;

	memset(name, 'd', 200);
	name[200] = 0;
	for (int i = 0; i < 130; i++) {
		next = openat(dir, name, O_PATH);
		if (next < 0)
			return cannot("descend");
		close(dir);
		dir = next;
	}
	return holds(openat(dir, "secret", O_RDONLY));
}
static int sent(void) { int fd = received(); return fd < 0 && errno == EACCES ? EACCES : fd < 0 ? cannot("receive") : holds(fd); }
static int taken(void)
{
	int p = (int)syscall(SYS_pidfd_open, helper, 0), fd;

	if (p < 0)
		return cannot("pidfd_open");
	fd = (int)syscall(SYS_pidfd_getfd, p, OLD_READ, 0);
	return fd < 0 ? failed() : holds(fd);
}
static int taken_within(void)
{
	int p, fd, r;
	pid_t child = fork();

	if (!child) {
		fd = open(SECRET, O_RDONLY);
		if (fd >= 0)
			dup2(fd, 30);
		for (;;)
			pause();
	}
	usleep(100000);
	p = (int)syscall(SYS_pidfd_open, child, 0);
	fd = p < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, p, 30, 0);
	r = fd < 0 ? (errno == EBADF ? EACCES : failed()) : holds(fd); /* EBADF: the child could not open it */
	kill(child, SIGKILL);
	return r;
}

/* One child, stopped in a system call that is not an open, is made to open the secret. */
static int traced(void)
{
	static const char path[] = SECRET;
	struct user_regs_struct regs;
	int status, r = CANNOT;
	pid_t child = fork();

	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		for (;;)
			syscall(SYS_getppid);
	}
	waitpid(child, &status, 0);
	if (ptrace(PTRACE_SYSCALL, child, 0, 0) || waitpid(child, &status, 0) < 0 || ptrace(PTRACE_GETREGS, child, 0, &regs))
		return cannot("ptrace");
	regs.orig_rax = SYS_open;
	regs.rdi = (unsigned long)path;
	regs.rsi = O_RDONLY;
	ptrace(PTRACE_SETREGS, child, 0, &regs);
	ptrace(PTRACE_SYSCALL, child, 0, 0);
	waitpid(child, &status, 0);
	ptrace(PTRACE_GETREGS, child, 0, &regs);
	r = (long)regs.rax < 0 ? -(int)regs.rax : 0;
	kill(child, SIGKILL);
	return r;
}
static int trace_outside(void)
{
	int status;

	if (ptrace(PTRACE_ATTACH, helper, 0, 0))
		return failed();
	waitpid(helper, &status, __WALL);
	ptrace(PTRACE_DETACH, helper, 0, 0);
	return 0;
}
static int seize_outside(void)
{
	if (ptrace(PTRACE_SEIZE, helper, 0, 0))
		return failed();
	ptrace(PTRACE_DETACH, helper, 0, 0);
	return 0;
}
static char word[8]; /* at the same address in the helper, which is the same program */
static int vm_write_outside(void)
{
	struct iovec here = {"x", 1}, there = {word, 1};

	return process_vm_writev(helper, &here, 1, &there, 1, 0) == 1 ? 0 : failed();
}
static int vm_read_outside(void)
{
	char c;
	struct iovec here = {&c, 1}, there = {word, 1};

	return process_vm_readv(helper, &here, 1, &there, 1, 0) == 1 ? 0 : failed();
}
static int mem_outside(void)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/proc/%d/mem", helper);
	fd = open(path, O_RDWR);
	if (fd < 0)
		return failed();
	return pwrite(fd, "x", 1, (long)word) == 1 ? 0 : failed();
}
static volatile char shared_path[64] = "/work/decoy";
static int vm_write_within(void)
{
	struct iovec here = {SECRET, sizeof SECRET}, there = {(void *)shared_path, sizeof SECRET};
	int go[2], r;
	pid_t child;

	if (pipe(go))
		return cannot("pipe");
	child = fork();
	if (!child) {
		char c;

		_exit(read(go[0], &c, 1) == 1 ? opens((char *)shared_path) : CANNOT);
	}
	if (process_vm_writev(child, &here, 1, &there, 1, 0) < 0)
		return cannot("process_vm_writev");
	r = write(go[1], "x", 1) == 1 ? status_of(child) : CANNOT;
	return r;
}
static int mem_within(void)
{
	char path[64];
	int go[2], fd;
	pid_t child;

	if (pipe(go))
		return cannot("pipe");
	child = fork();
	if (!child) {
		char c;

		_exit(read(go[0], &c, 1) == 1 ? opens((char *)shared_path) : CANNOT);
	}
	snprintf(path, sizeof path, "/proc/%d/mem", child);
	fd = open(path, O_RDWR);
	if (fd < 0 || pwrite(fd, SECRET, sizeof SECRET, (long)shared_path) < 0)
		return cannot("mem");
	return write(go[1], "x", 1) == 1 ? status_of(child) : CANNOT;
}

static int to_pipe(int by)
{
	int fd = open(SECRET, O_RDONLY), ends[2];
	char text[sizeof CONTENT] = "";

	if (fd < 0)
		return failed();
	if (pipe(ends))
		return cannot("pipe");
	if ((by ? splice(fd, 0, ends[1], 0, sizeof CONTENT - 1, 0) : sendfile(ends[1], fd, 0, sizeof CONTENT - 1)) < 0)
		return failed();
	return read(ends[0], text, sizeof CONTENT - 1) > 0 && !strcmp(text, CONTENT) ? 0 : NO_EFFECT;
}
static int by_sendfile(void) { return to_pipe(0); }
static int by_splice(void) { return to_pipe(1); }
static int by_copy(void)
{
	int from = open(SECRET, O_RDONLY), to = open("/work/copy", O_RDWR | O_CREAT, 0600);

	if (from < 0)
		return failed();
	return copy_file_range(from, 0, to, 0, sizeof CONTENT - 1, 0) < 0 ? failed() : holds(to);
}
static int by_mmap(void)
{
	int fd = open(SECRET, O_RDONLY);
	char *map;

	if (fd < 0)
		return failed();
	map = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	return map == MAP_FAILED ? failed() : memcmp(map, CONTENT, sizeof CONTENT - 1) ? NO_EFFECT : 0;
}

static int after_unshare(int flags)
{
	return unshare(flags) ? cannot("unshare") : in_child(plain);
}
static int unshare_mnt(void) { return after_unshare(CLONE_NEWNS); }
static int unshare_user(void) { return after_unshare(CLONE_NEWUSER); }
static int unshare_user_mnt(void) { return after_unshare(CLONE_NEWUSER | CLONE_NEWNS); }
static int unshare_pid(void) { return after_unshare(CLONE_NEWPID); }
static int unshare_net(void) { return after_unshare(CLONE_NEWNET); }
static int unshare_ipc(void) { return after_unshare(CLONE_NEWIPC); }
static int unshare_uts(void) { return after_unshare(CLONE_NEWUTS); }
static int unshare_cgroup(void) { return after_unshare(CLONE_NEWCGROUP); }
static int unshare_time(void) { return after_unshare(0x80 /* CLONE_NEWTIME */); }
static int unshare_files(void) { return after_unshare(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM); }
static int unshare_all(void)
{
	return after_unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP);
}
/* a container in the container: all namespaces, and a root of its own in which the secret has another path */
static int nested_inner(void)
{
	if (mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) || mount("/prot", "/mnt", 0, MS_BIND, 0) || chdir("/mnt"))
		return cannot("nested mounts");
	if (syscall(SYS_pivot_root, ".", "."))
		return cannot("pivot_root");
	umount2(".", MNT_DETACH);
	return opens("/secret");
}
static int nested(void)
{
	if (unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP))
		return cannot("unshare");
	return in_child(nested_inner);
}
static int nested_user_inner(void) { return mount("overlay", "/mnt", "overlay", 0, "lowerdir=/prot:/work") ? cannot("mount") : opens("/mnt/secret"); }
static int nested_overlay(void) { return unshare(CLONE_NEWUSER | CLONE_NEWNS) ? cannot("unshare") : in_child(nested_user_inner); }
static int enter(const char *kind, int type, const char *secret)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/proc/%d/ns/%s", helper, kind);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return cannot(path);
	return setns(fd, type) ? cannot("setns") : opens(secret);
}
static int setns_mnt(void) { return enter("mnt", CLONE_NEWNS, "/corpus-secret"); }
static int setns_net(void) { return enter("net", CLONE_NEWNET, SECRET); }
static int setns_uts(void) { return enter("uts", CLONE_NEWUTS, SECRET); }
static int setns_ipc(void) { return enter("ipc", CLONE_NEWIPC, SECRET); }
static int outside_root(void)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/root/corpus-secret", helper);
	return opens(path);
}

static int join(const char *dir)
{
	char path[512];
	int fd, n;

	snprintf(path, sizeof path, "%s/cgroup.procs", dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : (int)write(fd, "0", 1);
	close(fd);
	return n == 1 ? 0 : cannot(path);
}
static int exec_plain(void)
{
	char *argv[] = {"evade", "run", "plain", "0", 0};
	int ends[2], r = CANNOT;
	char text[256] = "", *at;
	pid_t p;

	if (pipe(ends))
		return cannot("pipe");
	p = fork();
	if (!p) {
		dup2(ends[1], 1);
		execv("/evade", argv);
		_exit(failed());
	}
	r = status_of(p);
	if (r)
		return r;
	if (read(ends[0], text, sizeof text - 1) > 0 && (at = strstr(text, "RESULT ")))
		return atoi(at + 7);
	return CANNOT;
}
static int cgroup_root(void) { int r = join("/sys/fs/cgroup"); return r ? r : plain(); }
static int cgroup_root_exec(void) { int r = join("/sys/fs/cgroup"); return r ? r : exec_plain(); }
static int cgroup_child(void)
{
	char own[256] = "", path[512], *at;
	int fd = open("/proc/self/cgroup", O_RDONLY);

	if (read(fd, own, sizeof own - 1) <= 0 || !(at = strstr(own, "0::")))
		return cannot("/proc/self/cgroup");
	at[strcspn(at, "\n")] = 0;
	snprintf(path, sizeof path, "/sys/fs/cgroup%s/sub", at + 3);
	if (mkdir(path, 0755) && errno != EEXIST)
		return cannot(path);
	fd = join(path);
	return fd ? fd : exec_plain();
}
static int clone_into_cgroup(void)
{
	struct { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; } args = {
		.flags = 0x200000000ULL /* CLONE_INTO_CGROUP */, .exit_signal = SIGCHLD};
	int fd = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY);
	pid_t p;

	if (fd < 0)
		return cannot("/sys/fs/cgroup");
	args.cgroup = (uint64_t)fd;
	p = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (!p)
		_exit(exec_plain());
	return p < 0 ? cannot("clone3") : status_of(p);
}

static int orphan(void)
{
	int ends[2];
	unsigned char r = CANNOT;

	if (pipe(ends))
		return cannot("pipe");
	if (!fork()) {
		if (!fork()) {
			usleep(50000);
			r = (unsigned char)plain();
			_exit(write(ends[1], &r, 1) != 1);
		}
		_exit(0);
	}
	return read(ends[0], &r, 1) == 1 ? r : CANNOT;
}
static void *in_thread(void *r) { *(int *)r = plain(); return 0; }
static int thread(void)
{
	pthread_t t;
	int r = CANNOT;

	if (pthread_create(&t, 0, in_thread, &r))
		return cannot("pthread_create");
	pthread_join(t, 0);
	return r;
}
static void *exec_in_thread(void *unused)
{
	char *argv[] = {"evade", "run", "plain", "0", 0};

	execv("/evade", argv);
	return unused;
}
static int thread_execs_inner(void)
{
	pthread_t t;

	if (pthread_create(&t, 0, exec_in_thread, 0))
		return cannot("pthread_create");
	pthread_join(t, 0);
	return cannot("exec");
}
static int thread_execs(void)
{
	int ends[2];
	char text[256] = "", *at;
	pid_t p;

	if (pipe(ends))
		return cannot("pipe");
	p = fork();
	if (!p) {
		dup2(ends[1], 1);
		_exit(thread_execs_inner());
	}
	status_of(p);
	return read(ends[0], text, sizeof text - 1) > 0 && (at = strstr(text, "RESULT ")) ? atoi(at + 7) : CANNOT;
}
static int vforked(void)
{
	pid_t p = vfork();

	if (!p)
		_exit(plain());
	return status_of(p);
}
static int cloned(void *unused) { (void)unused; return plain(); }
static int clone_with(int flags)
{
	static char stack[1 << 16] __attribute__((aligned(16)));

	return status_of(clone(cloned, stack + sizeof stack, flags | SIGCHLD, 0));
}
static int clone_shared(void) { return clone_with(CLONE_VM | CLONE_FILES | CLONE_FS); }
static int clone_parent(void)
{
	return clone_with(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUSER);
}

static int stream(void) { return reach(TREE "/stream", SOCK_STREAM, 0); }
static int stream_by_symlink(void) { return symlink(TREE "/stream", "/tmp/link") ? cannot("symlink") : reach("/tmp/link", SOCK_STREAM, 0); }
static int stream_by_descriptor(void)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", open(TREE "/stream", O_PATH));
	return reach(path, SOCK_STREAM, 0);
}
static int stream_by_tree(void)
{
	char path[64];
	int tree = tree_of(TREE);

	if (tree < 0)
		return cannot("open_tree");
	snprintf(path, sizeof path, "/proc/self/fd/%d/stream", tree);
	return reach(path, SOCK_STREAM, 0);
}
static int datagram(void) { return reach(TREE "/datagram", SOCK_DGRAM, 0); }
static int datagram_sent(void) { return reach(TREE "/datagram", SOCK_DGRAM, 1); }

/* No btrfs here: the ioctl is judged before the file system gets it. */
static int snapshot(void)
{
	static char arguments[4096];
	int fd = open("/work", O_RDONLY);

	return fd < 0 ? cannot("/work") : syscall(SYS_ioctl, fd, 0x50009401, arguments) ? failed() : 0;
}

static int by_ring(unsigned setup, unsigned char flags)
{
	struct io_uring_sqe sqe = {.opcode = IORING_OP_OPENAT, .fd = AT_HERE, .addr = (uintptr_t)SECRET, .open_flags = O_RDONLY};
	int r = ring(setup, flags, &sqe);

	return r < 0 ? -r : r >= CANNOT ? r : 0;
}
static int ring_open(void) { return by_ring(0, 0); }
static int ring_worker(void) { return by_ring(0, IOSQE_ASYNC); }
static int ring_thread(void) { return by_ring(IORING_SETUP_SQPOLL, 0); }
static int ring_openat2(void)
{
	struct open_how h = {.flags = O_RDONLY};
	struct io_uring_sqe sqe = {.opcode = IORING_OP_OPENAT2, .fd = AT_HERE, .addr = (uintptr_t)SECRET, .len = sizeof h, .addr2 = (uintptr_t)&h};
	int r = ring(0, 0, &sqe);

	return r < 0 ? -r : r >= CANNOT ? r : 0;
}
static int ring_link(void)
{
	struct io_uring_sqe sqe = {.opcode = IORING_OP_LINKAT, .fd = AT_HERE, .addr = (uintptr_t)SECRET, .len = (unsigned)AT_HERE, .addr2 = (uintptr_t)"/work/link"};
	int r = ring(0, 0, &sqe);

	return r < 0 ? -r : r >= CANNOT ? r : opens("/work/link");
}
static int ring_rename(void)
{
	struct io_uring_sqe sqe = {.opcode = IORING_OP_RENAMEAT, .fd = AT_HERE, .addr = (uintptr_t)SECRET, .len = (unsigned)AT_HERE, .addr2 = (uintptr_t)"/work/moved"};
	int r = ring(0, 0, &sqe);

	return r < 0 ? -r : r >= CANNOT ? r : opens("/work/moved");
}

const struct trick READ[] = {
	{"plain", plain}, {"for reading and writing", read_write}, {"relative path", relative}, {"doubled slashes", slashes}, {"dots", dots},
	{"symlink to the file", symlink_file}, {"symlink to its directory", symlink_directory},
	{"hard link made after", link_new}, {"hard link through a symlink", link_symlink}, {"hard link of an O_PATH descriptor", link_of_path_descriptor},
	{"hard link made before", link_old},
	{"rename", rename_file}, {"rename of the parent", rename_parent}, {"rename of the grandparent", rename_grandparent},
	{"RENAME_EXCHANGE", rename_exchange}, {"RENAME_EXCHANGE of the parent", exchange_parent},
	{"bind mount of the directory", bind_directory}, {"bind mount of the file", bind_file}, {"bind mount of the root", bind_root},
	{"bind mount of a descriptor", bind_descriptor}, {"mount --move", mount_move},
	{"open_tree, opened detached", tree_open}, {"open_tree, attached", tree_attached}, {"open_tree of the root, attached", tree_attached_above},
	{"move_mount of a mount", move_mount_attached}, {"pivot_root", pivot},
	{"overlay of the directory", overlay}, {"overlay by fsopen", overlay_new_api}, {"overlay by fsopen, detached", overlay_detached},
	{"chroot above", chroot_above}, {"chroot at the directory", chroot_at},
	{"/proc/self/root", proc_self_root}, {"/proc/thread-self/root", proc_thread_root}, {"/proc/PID/root", proc_pid_root}, {"/proc/self/cwd", proc_cwd},
	{"O_PATH, then /proc/self/fd", path_descriptor}, {"O_PATH, then /dev/fd", dev_fd}, {"O_PATH of the directory", path_directory},
	{"old directory descriptor", old_directory}, {"old O_PATH descriptor, reopened", old_path_descriptor},
	{"old descriptor", old_descriptor}, {"old descriptor, mapped", old_descriptor_mapped}, {"old descriptor, reopened", old_descriptor_reopened},
	{"old descriptor, over exec", old_descriptor_over_exec}, {"old descriptor, spliced", old_descriptor_spliced},
	{REGISTERED, old_descriptor_registered},
	{"kept over a policy: mapping", kept_mapping}, {"kept over a policy: descriptor", kept_descriptor}, {"kept over a policy: ring", kept_ring},
	{"kept over a policy: 66,000 descriptors", kept_descriptors},
	{"deleted file", deleted}, {"copied up before", copied_up}, {"over a whiteout", recreated}, {"name of 255 bytes", long_name},
	{"openat2 RESOLVE_IN_ROOT", openat2_in_root}, {"openat2 RESOLVE_BENEATH", openat2_beneath}, {"openat2, other flags", openat2_flags}, {"openat2 RESOLVE_CACHED", openat2_cached},
	{"open_by_handle_at", handle_of_volume}, {"open_by_handle_at, other mount", handle_of_other_mount}, {DEEP, deep},
	{"descriptor sent from outside", sent}, {"pidfd_getfd from outside", taken}, {"pidfd_getfd within", taken_within},
	{"ptrace within", traced}, {"ptrace attach outside", trace_outside}, {"ptrace seize outside", seize_outside},
	{"process_vm_writev outside", vm_write_outside}, {"process_vm_readv outside", vm_read_outside}, {"/proc/PID/mem outside", mem_outside},
	{"process_vm_writev within", vm_write_within}, {"/proc/PID/mem within", mem_within},
	{"sendfile", by_sendfile}, {"splice", by_splice}, {"copy_file_range", by_copy}, {"mmap", by_mmap},
	{"unshare mnt", unshare_mnt}, {"unshare user", unshare_user}, {"unshare user and mnt", unshare_user_mnt}, {"unshare pid", unshare_pid},
	{"unshare net", unshare_net}, {"unshare ipc", unshare_ipc}, {"unshare uts", unshare_uts}, {"unshare cgroup", unshare_cgroup},
	{"unshare time", unshare_time}, {"unshare files and fs", unshare_files}, {"unshare all", unshare_all},
	{"nested container", nested}, {"nested overlay in a user namespace", nested_overlay},
	{"setns mnt", setns_mnt}, {"setns net", setns_net}, {"setns uts", setns_uts}, {"setns ipc", setns_ipc}, {"/proc/PID/root outside", outside_root},
	{"root cgroup", cgroup_root}, {"root cgroup and exec", cgroup_root_exec}, {"child cgroup and exec", cgroup_child}, {"clone into the root cgroup", clone_into_cgroup},
	{"double fork, orphaned", orphan}, {"thread", thread}, {"exec by a thread", thread_execs}, {"vfork", vforked},
	{"clone, sharing all", clone_shared}, {"clone, new namespaces", clone_parent},
	{"unix socket, connect", stream}, {"unix socket, by symlink", stream_by_symlink}, {"unix socket, by O_PATH descriptor", stream_by_descriptor},
	{"unix socket, by open_tree", stream_by_tree}, {"unix datagram, connect", datagram}, {"unix datagram, sendto", datagram_sent},
	{"btrfs snapshot", snapshot},
	{"io_uring open", ring_open}, {"io_uring open, worker", ring_worker}, {"io_uring open, kernel thread", ring_thread}, {"io_uring openat2", ring_openat2},
	{"io_uring linkat", ring_link}, {"io_uring renameat", ring_rename},
	{0, 0},
};
