/* Tricks that change a file that may only be read, or something in its directory. */
#include "evade.h"
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/xattr.h>

#define AT_HERE AT_FDCWD
static int done(long r) { return r < 0 ? failed() : 0; }
static int writes(int fd)
{
	if (fd < 0)
		return failed();
	return done(pwrite(fd, "X", 1, 0));
}
static int reader(void) { int fd = open(SECRET, O_RDONLY); return fd < 0 ? cannot("open for reading") : fd; }
static int again(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, flags);
}

static int open_write(void) { return writes(open(SECRET, O_WRONLY)); }
static int open_both(void) { return writes(open(SECRET, O_RDWR)); }
static int open_append(void) { return writes(open(SECRET, O_WRONLY | O_APPEND)); }
static int open_truncate(void) { return done(open(SECRET, O_RDONLY | O_TRUNC)); }
static int create_truncate(void) { return done(creat(SECRET, 0644)); }
static int create(void) { return done(open(TREE "/new", O_CREAT | O_EXCL | O_RDONLY, 0644)); }
static int create_by_symlink(void)
{
	return symlink(TREE "/new", "/tmp/link") ? cannot("symlink") : done(open("/tmp/link", O_CREAT | O_WRONLY, 0644));
}
static int reopened(void) { return writes(again(reader(), O_RDWR)); }
static int reopened_path(void) { return writes(again(open(SECRET, O_PATH), O_WRONLY)); }
static int by_hard_link(void) { return link(SECRET, "/work/link") ? cannot("link") : writes(open("/work/link", O_WRONLY)); }
static int by_bind(void) { return mount("/prot", "/mnt", 0, MS_BIND, 0) ? cannot("mount") : writes(open("/mnt/secret", O_WRONLY)); }
static int truncate_path(void) { return done(truncate(SECRET, 1)); }
static int truncate_reader(void) { return done(ftruncate(reader(), 1)); }
static int fallocate_reader(void) { return done(fallocate(reader(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4)); }
static int shared_map(void)
{
	return mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, reader(), 0) == MAP_FAILED ? failed() : 0;
}
static int shared_map_later(void)
{
	char *map = mmap(0, 4096, PROT_READ, MAP_SHARED, reader(), 0);

	return map == MAP_FAILED ? cannot("mmap") : done(mprotect(map, 4096, PROT_READ | PROT_WRITE));
}
static int copy_into(void)
{
	int from = open("/work/decoy", O_RDONLY), to = open(SECRET, O_WRONLY);

	return to < 0 ? failed() : done(copy_file_range(from, 0, to, 0, 4, 0));
}
static int sendfile_into(void)
{
	int from = open("/work/decoy", O_RDONLY), to = open(SECRET, O_WRONLY);

	return to < 0 ? failed() : done(sendfile(to, from, 0, 4));
}
static int splice_into(void)
{
	int to = open(SECRET, O_WRONLY), ends[2];

	if (to < 0)
		return failed();
	if (pipe(ends) || write(ends[1], "XXXX", 4) != 4)
		return cannot("pipe");
	return done(splice(ends[0], 0, to, 0, 4, 0));
}

static int old_write(void) { return writes(OLD_WRITE); }
static int old_write_map(void)
{
	char *map = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, OLD_WRITE, 0);

	if (map == MAP_FAILED)
		return failed();
	map[0] = 'X';
	return 0;
}
static int old_fallocate(void) { return done(fallocate(OLD_WRITE, 0, 0, 8192)); }
static int old_truncate(void) { return done(ftruncate(OLD_WRITE, 1)); }
static int old_reopened(void) { return writes(again(OLD_WRITE, O_RDWR)); }

static int chmod_path(void) { return done(chmod(SECRET, 0777)); }
static int chmod_reader(void) { return done(fchmod(reader(), 0777)); }
static int chmod_old(void) { return done(fchmod(OLD_READ, 0777)); }
static int chmod_path_descriptor(void)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", open(SECRET, O_PATH));
	return done(chmod(path, 0777));
}
static int chmod_at(void) { return done(syscall(452 /* fchmodat2 */, AT_HERE, SECRET, 0777, AT_SYMLINK_NOFOLLOW)); }
static int chown_path(void) { return done(chown(SECRET, 1, 1)); }
static int lchown_path(void) { return done(lchown(SECRET, 1, 1)); }
static int chown_reader(void) { return done(fchown(reader(), 1, 1)); }
static int chown_empty(void) { return done(fchownat(open(SECRET, O_PATH), "", 1, 1, AT_EMPTY_PATH)); }
static int utimes_path(void) { struct timeval t[2] = {{1, 0}, {1, 0}}; return done(utimes(SECRET, t)); }
static int utimes_now(void) { return done(utimes(SECRET, 0)); }
static int utimes_reader(void) { struct timespec t[2] = {{1, 0}, {1, 0}}; return done(futimens(reader(), t)); }
static int utimes_mtime_only(void) { struct timespec t[2] = {{0, UTIME_OMIT}, {1, 0}}; return done(utimensat(AT_HERE, SECRET, t, 0)); }
static int setxattr_path(void) { return done(setxattr(SECRET, "security.evade", "x", 1, 0)); }
static int setxattr_reader(void) { return done(fsetxattr(reader(), "security.evade", "x", 1, 0)); }
static int setxattr_descriptor(void)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", open(SECRET, O_PATH));
	return done(setxattr(path, "security.evade", "x", 1, 0));
}
static int setxattr_tree(void)
{
	int tree = (int)syscall(SYS_open_tree, AT_HERE, "/prot", OPEN_TREE_CLONE);
	char path[64];

	if (tree < 0)
		return cannot("open_tree");
	snprintf(path, sizeof path, "/proc/self/fd/%d/secret", tree);
	return done(setxattr(path, "security.evade", "x", 1, 0));
}
static int setxattr_volume(void) { return done(setxattr(VSECRET, "trusted.evade", "x", 1, 0)); }
static int removexattr_path(void) { return done(removexattr(SECRET, "security.before")); }
static int acl_path(void)
{
	/* version 2: owner rwx, group r, others r */
	static const unsigned char acl[] = {2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255};

	return done(setxattr(SECRET, "system.posix_acl_access", acl, sizeof acl, 0));
}
static int acl_remove(void) { return done(removexattr(SECRET, "system.posix_acl_access")); }
static int flags_by_ioctl(void)
{
	int fd = reader();
	long flags = 0;

	if (syscall(SYS_ioctl, fd, FS_IOC_GETFLAGS, &flags))
		return cannot("FS_IOC_GETFLAGS");
	flags |= FS_NODUMP_FL;
	return done(syscall(SYS_ioctl, fd, FS_IOC_SETFLAGS, &flags));
}

static int remove_file(void) { return done(unlink(SECRET)); }
static int remove_old_directory(void) { return done(unlinkat(OLD_CWD, "secret", 0)); }
static int remove_directory(void) { return done(rmdir(TREE "/empty")); }
static int rename_away(void) { return done(rename(SECRET, "/work/moved")); }
static int rename_over(void) { return done(rename("/work/decoy", SECRET)); }
static int rename_noreplace(void) { return done(syscall(SYS_renameat2, AT_HERE, "/work/decoy", AT_HERE, TREE "/new", RENAME_NOREPLACE)); }
static int rename_whiteout(void) { return done(syscall(SYS_renameat2, AT_HERE, VSECRET, AT_HERE, "/vol/other/x", RENAME_WHITEOUT)); }
static int exchange(void) { return done(syscall(SYS_renameat2, AT_HERE, "/work/decoy", AT_HERE, SECRET, RENAME_EXCHANGE)); }
static int parent_away(void) { return done(rename("/vol/top", "/vol/away")); }
static int parent_replaced(void) { return done(syscall(SYS_renameat2, AT_HERE, "/vol/other", AT_HERE, "/vol/top/prot", RENAME_EXCHANGE)); }
static int symlink_in(void) { return done(symlink("/work/decoy", TREE "/new")); }
static int link_in(void) { return done(link("/work/decoy", TREE "/new")); }
static int mkdir_in(void) { return done(mkdir(TREE "/new", 0755)); }
static int mknod_in(void) { return done(mknod(TREE "/new", S_IFIFO | 0644, 0)); }
static int socket_in(void)
{
	struct sockaddr_un a = {AF_UNIX, TREE "/new"};

	return done(bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof a));
}
static int tmpfile_in(void)
{
	char path[64];
	int fd = open("/vol/top/prot", O_TMPFILE | O_WRONLY, 0644);

	if (fd < 0)
		return failed();
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return done(linkat(AT_HERE, path, AT_HERE, "/vol/top/prot/new", AT_SYMLINK_FOLLOW));
}
static int tmpfile_linked_in(void)
{
	char path[64];
	int fd = open("/vol/other", O_TMPFILE | O_WRONLY, 0644);

	if (fd < 0)
		return cannot("O_TMPFILE");
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return done(linkat(AT_HERE, path, AT_HERE, "/vol/top/prot/new", AT_SYMLINK_FOLLOW));
}
static int mount_over(void) { return done(mount("tmpfs", "/prot", "tmpfs", 0, 0)); }
static int mount_over_parent(void) { return done(mount("tmpfs", "/vol/top", "tmpfs", 0, 0)); }
static int mount_over_new_api(void)
{
	int fs = (int)syscall(SYS_fsopen, "tmpfs", 0), mnt;

	if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0))
		return cannot("fsopen");
	mnt = (int)syscall(SYS_fsmount, fs, 0, 0);
	return mnt < 0 ? cannot("fsmount") : done(syscall(SYS_move_mount, mnt, "", AT_HERE, "/prot", MOVE_MOUNT_F_EMPTY_PATH));
}
static int bind_over(void) { return done(mount("/work/decoy", SECRET, 0, MS_BIND, 0)); }
static int uncover(void) { return done(umount2("/vol", MNT_DETACH)); }

static int by_ring(struct io_uring_sqe sqe) { int r = ring(0, 0, &sqe); return r >= CANNOT ? CANNOT : r < 0 ? -r : 0; }
#define SQE (struct io_uring_sqe)
static int ring_open(void) { return by_ring(SQE{.opcode = IORING_OP_OPENAT, .fd = AT_HERE, .addr = (uintptr_t)SECRET, .open_flags = O_RDWR}); }
static int ring_truncate(void) { return by_ring(SQE{.opcode = IORING_OP_OPENAT, .fd = AT_HERE, .addr = (uintptr_t)SECRET, .open_flags = O_RDONLY | O_TRUNC}); }
static int ring_unlink(void) { return by_ring(SQE{.opcode = IORING_OP_UNLINKAT, .fd = AT_HERE, .addr = (uintptr_t)SECRET}); }
static int ring_rename(void) { return by_ring(SQE{.opcode = IORING_OP_RENAMEAT, .fd = AT_HERE, .addr = (uintptr_t)SECRET, .len = (unsigned)AT_HERE, .addr2 = (uintptr_t)"/work/moved"}); }
static int ring_link(void) { return by_ring(SQE{.opcode = IORING_OP_LINKAT, .fd = AT_HERE, .addr = (uintptr_t)"/work/decoy", .len = (unsigned)AT_HERE, .addr2 = (uintptr_t)(TREE "/new")}); }
static int ring_mkdir(void) { return by_ring(SQE{.opcode = IORING_OP_MKDIRAT, .fd = AT_HERE, .addr = (uintptr_t)(TREE "/new"), .len = 0755}); }
static int ring_symlink(void) { return by_ring(SQE{.opcode = IORING_OP_SYMLINKAT, .fd = AT_HERE, .addr = (uintptr_t)"x", .addr2 = (uintptr_t)(TREE "/new")}); }
static int ring_fallocate(void) { return by_ring(SQE{.opcode = IORING_OP_FALLOCATE, .fd = reader(), .addr = 4096}); }
static int ring_setxattr(void) { return by_ring(SQE{.opcode = IORING_OP_SETXATTR, .addr = (uintptr_t)"security.evade", .addr2 = (uintptr_t)"x", .addr3 = (uintptr_t)SECRET, .len = 1}); }

const struct trick WRITE[] = {
	{"open to write", open_write}, {"open to read and write", open_both}, {"open to append", open_append},
	{"O_TRUNC by a reader", open_truncate}, {"creat", create_truncate}, {"O_CREAT by a reader", create}, {"O_CREAT through a symlink", create_by_symlink},
	{"reader reopened to write", reopened}, {"O_PATH reopened to write", reopened_path},
	{"hard link, to write", by_hard_link}, {"bind mount, to write", by_bind},
	{"truncate", truncate_path}, {"ftruncate by a reader", truncate_reader}, {"fallocate by a reader", fallocate_reader},
	{"shared writable mapping", shared_map}, {"shared mapping made writable", shared_map_later},
	{"copy_file_range into", copy_into}, {"sendfile into", sendfile_into}, {"splice into", splice_into},
	{"old descriptor, write", old_write}, {"old descriptor, shared mapping", old_write_map}, {"old descriptor, fallocate", old_fallocate},
	{"old descriptor, ftruncate", old_truncate}, {"old descriptor, reopened to write", old_reopened},
	{"chmod", chmod_path}, {"fchmod by a reader", chmod_reader}, {"fchmod by an old descriptor", chmod_old}, {"chmod of an O_PATH descriptor", chmod_path_descriptor}, {"fchmodat2", chmod_at},
	{"chown", chown_path}, {"lchown", lchown_path}, {"fchown by a reader", chown_reader}, {"fchownat AT_EMPTY_PATH", chown_empty},
	{"utimes", utimes_path}, {"utimes to now", utimes_now}, {"futimens by a reader", utimes_reader}, {"utimensat, one of two", utimes_mtime_only},
	{"setxattr", setxattr_path}, {"fsetxattr by a reader", setxattr_reader}, {"setxattr of an O_PATH descriptor", setxattr_descriptor},
	{"setxattr through open_tree", setxattr_tree}, {"setxattr on a volume", setxattr_volume}, {"removexattr", removexattr_path},
	{"ACL set", acl_path}, {"ACL removed", acl_remove}, {"flags by ioctl of a reader", flags_by_ioctl},
	{"unlink", remove_file}, {"unlink by an old directory", remove_old_directory}, {"rmdir", remove_directory},
	{"rename away", rename_away}, {"rename over", rename_over}, {"RENAME_NOREPLACE into", rename_noreplace}, {"RENAME_WHITEOUT", rename_whiteout},
	{"RENAME_EXCHANGE with another", exchange}, {"parent renamed away", parent_away}, {"parent exchanged", parent_replaced},
	{"symlink into", symlink_in}, {"hard link into", link_in}, {"mkdir in", mkdir_in}, {"mknod in", mknod_in}, {"unix socket in", socket_in},
	{"O_TMPFILE in", tmpfile_in}, {"O_TMPFILE linked into", tmpfile_linked_in},
	{"mount over", mount_over}, {"mount over the parent", mount_over_parent}, {"mount over by fsmount", mount_over_new_api}, {"bind mount over the file", bind_over}, {"umount", uncover},
	{"io_uring open to write", ring_open}, {"io_uring O_TRUNC", ring_truncate}, {"io_uring unlinkat", ring_unlink}, {"io_uring renameat away", ring_rename},
	{"io_uring linkat into", ring_link}, {"io_uring mkdirat", ring_mkdir}, {"io_uring symlinkat", ring_symlink}, {"io_uring fallocate by a reader", ring_fallocate}, {"io_uring setxattr", ring_setxattr},
	{0, 0},
};
