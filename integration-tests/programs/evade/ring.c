/* One request by io_uring. */
#include "evade.h"
#include <linux/io_uring.h>

struct mapped {
	char *sq, *cq;
	struct io_uring_sqe *sqe;
};

static int map_ring(struct mapped *m, int fd, struct io_uring_params p)
{
	m->sq = mmap(0, p.sq_off.array + p.sq_entries * sizeof(unsigned), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
	m->cq = mmap(0, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_CQ_RING);
	m->sqe = mmap(0, p.sq_entries * sizeof *m->sqe, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
	return m->sq != MAP_FAILED && m->cq != MAP_FAILED && m->sqe != MAP_FAILED;
}

/* `fd` is the ring, or with IORING_ENTER_REGISTERED_RING in `enter` the index under which it is registered */
static int submit(struct mapped *m, int fd, struct io_uring_params p, unsigned enter, unsigned char flags, const void *request)
{
	int polled = p.flags & IORING_SETUP_SQPOLL;

	memcpy(m->sqe, request, sizeof *m->sqe);
	m->sqe->flags |= flags;
	*(unsigned *)(m->sq + p.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(m->sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, fd, polled ? 0 : 1, 1, IORING_ENTER_GETEVENTS | enter | (polled ? IORING_ENTER_SQ_WAKEUP : 0), 0, 0) < 0)
		return cannot("io_uring_enter");
	return ((struct io_uring_cqe *)(m->cq + p.cq_off.cqes))->res;
}

static int request_by(int fd, struct io_uring_params p, unsigned char flags, const void *request)
{
	struct mapped m;
	int r;

	if (!map_ring(&m, fd, p))
		return cannot("mmap");
	r = submit(&m, fd, p, 0, flags, request);
	close(fd);
	return r;
}

int ring(unsigned setup, unsigned char flags, const void *request)
{
	struct io_uring_params p = {.flags = setup, .sq_thread_idle = 1000};
	int fd = (int)syscall(SYS_io_uring_setup, 4, &p);

	return fd < 0 ? cannot("io_uring_setup") : request_by(fd, p, flags, request);
}

int ring_with(int file, void *params)
{
	int fd = (int)syscall(SYS_io_uring_setup, 4, params);

	return fd >= 0 && !syscall(SYS_io_uring_register, fd, IORING_REGISTER_FILES, &file, 1) ? fd : -1;
}

int ring_of_old(const void *request)
{
	struct io_uring_params p;
	int fd = open(RING_PARAMS, O_RDONLY);

	if (fd < 0 || read(fd, &p, sizeof p) != sizeof p)
		return cannot(RING_PARAMS);
	return request_by(OLD_RING, p, IOSQE_FIXED_FILE, request);
}

int ring_kept(int file, const void *request)
{
	struct io_uring_params p = {0};
	struct io_uring_rsrc_update update = {.offset = -1U};
	struct mapped m;
	int fd = ring_with(file, &p);

	update.data = (unsigned)fd;
	if (fd < 0 || !map_ring(&m, fd, p) || syscall(SYS_io_uring_register, fd, IORING_REGISTER_RING_FDS, &update, 1) != 1)
		return cannot("a ring");
	close(fd);
	close(file);
	wait_for_policy();
	return submit(&m, (int)update.offset, p, IORING_ENTER_REGISTERED_RING, IOSQE_FIXED_FILE, request);
}
