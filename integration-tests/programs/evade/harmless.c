/* What has nothing to do with the protected files, and goes on working under a policy. */
#include "evade.h"
#include <linux/fs.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/xattr.h>

#define OTHER "/work/decoy"
static int done(long r) { return r < 0 ? failed() : 0; }
static int reads(void) { return done(open(OTHER, O_RDONLY)); }
static int writes(void) { return done(open(OTHER, O_RDWR | O_TRUNC)); }
static int times(void) { return done(utimes(OTHER, 0)); }
static int attributes(void) { return done(setxattr(OTHER, "security.evade", "x", 1, 0)); }
static int attributes_of_descriptor(void) { return done(fsetxattr(open(OTHER, O_RDONLY), "security.evade", "x", 1, 0)); }
static int acl(void)
{
	static const unsigned char acl[] = {2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255};

	return done(setxattr(OTHER, "system.posix_acl_access", acl, sizeof acl, 0));
}
static int memfd(void)
{
	int fd = memfd_create("x", 0);
	struct timespec t[2] = {{1, 0}, {1, 0}};

	return fd < 0 || write(fd, "x", 1) != 1 || futimens(fd, t) ? failed() : 0;
}
static int modes(void) { return chmod(OTHER, 0600) || chown(OTHER, 1, 1) || chown(OTHER, 0, 0) ? failed() : 0; }
static int flags(void)
{
	int fd = open(OTHER, O_RDONLY);
	long value = 0;

	if (syscall(SYS_ioctl, fd, FS_IOC_GETFLAGS, &value))
		return failed();
	value |= FS_NODUMP_FL;
	return done(syscall(SYS_ioctl, fd, FS_IOC_SETFLAGS, &value));
}
static int tmpfs(void) { return mount("tmpfs", "/mnt", "tmpfs", 0, 0) || umount("/mnt") ? failed() : 0; }
static int tmpfs_new_api(void)
{
	int fs = (int)syscall(SYS_fsopen, "tmpfs", 0), mnt;

	if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0))
		return failed();
	mnt = (int)syscall(SYS_fsmount, fs, 0, 0);
	return mnt < 0 ? failed() : done(syscall(SYS_move_mount, mnt, "", AT_FDCWD, "/mnt", MOVE_MOUNT_F_EMPTY_PATH));
}
static int tree_elsewhere(void)
{
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, "/work", OPEN_TREE_CLONE);

	return tree < 0 ? failed() : done(syscall(SYS_move_mount, tree, "", AT_FDCWD, "/mnt", MOVE_MOUNT_F_EMPTY_PATH));
}
static int remount(void) { return done(mount(0, "/tmp", 0, MS_REMOUNT | MS_NOSUID, 0)); }
static int propagation(void) { return done(mount(0, "/", 0, MS_REC | MS_SLAVE, 0)); }
static int jail(void) { return chroot("/work") || chdir("/") ? failed() : done(open("/decoy", O_RDONLY)); }
static int renames(void) { return mkdir("/vol/other/a", 0755) || rename("/vol/other/a", "/vol/other/b") || rmdir("/vol/other/b") ? failed() : 0; }
static int traces(void)
{
	int status;
	pid_t child = fork();

	if (!child)
		for (;;)
			pause();
	if (ptrace(PTRACE_ATTACH, child, 0, 0))
		return failed();
	waitpid(child, &status, 0);
	kill(child, SIGKILL);
	return 0;
}
static int traced_by_parent(void)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(ptrace(PTRACE_TRACEME, 0, 0, 0) ? 1 : 0);
	waitpid(child, &status, 0);
	return status ? CANNOT : 0;
}
static int passes(void)
{
	int pair[2], fd = open(OTHER, O_RDONLY), got = -1;
	char byte = 0, room[CMSG_SPACE(sizeof fd)] = "";
	struct iovec one = {&byte, 1};
	struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return failed();
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	if (sendmsg(pair[0], &m, 0) != 1 || recvmsg(pair[1], &m, 0) != 1)
		return failed();
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_len != CMSG_LEN(sizeof fd))
		return EACCES;
	memcpy(&got, CMSG_DATA(c), sizeof got);
	return done(read(got, &byte, 1));
}
static int dynamic(void)
{
	char *argv[] = {"ld.so", "--library-path", "/lib64", "/work/goal-dynamic", 0};
	pid_t p = fork();
	int r;

	if (!p) {
		execv("/lib64/ld-linux-x86-64.so.2", argv);
		_exit(failed());
	}
	r = status_of(p);
	return r == RAN ? 0 : r;
}

static int connects(void) { return reach("/work/stream", SOCK_STREAM, 0); }

const struct trick HARMLESS[] = {
	{"another: read", reads}, {"another: write", writes}, {"another: utimes", times}, {"another: setxattr", attributes},
	{"another: fsetxattr", attributes_of_descriptor}, {"another: ACL", acl}, {"another: chmod, chown", modes}, {"another: flags", flags},
	{"memfd", memfd}, {"tmpfs, and umount", tmpfs}, {"tmpfs by fsmount", tmpfs_new_api}, {"another tree attached", tree_elsewhere},
	{"another unix socket", connects}, {"remount", remount}, {"propagation", propagation}, {"chroot", jail}, {"rename of a directory", renames},
	{"ptrace of a child", traces}, {"PTRACE_TRACEME", traced_by_parent}, {"descriptor sent within", passes}, {"ld.so of another program", dynamic},
	{0, 0},
};
