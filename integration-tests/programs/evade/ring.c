/* One request by io_uring. */
#include "evade.h"
#include <linux/io_uring.h>

static int request_by(int fd, struct io_uring_params p, unsigned setup, unsigned char flags, const void *request)
{
	char *sq, *cq;
	struct io_uring_sqe *sqe;
	int r;

	sq = mmap(0, p.sq_off.array + p.sq_entries * sizeof(unsigned), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
	cq = mmap(0, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_CQ_RING);
	sqe = mmap(0, p.sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED)
		return cannot("mmap");
	memcpy(sqe, request, sizeof *sqe);
	sqe->flags |= flags;
	*(unsigned *)(sq + p.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, fd, setup & IORING_SETUP_SQPOLL ? 0 : 1, 1,
		    IORING_ENTER_GETEVENTS | (setup & IORING_SETUP_SQPOLL ? IORING_ENTER_SQ_WAKEUP : 0), 0, 0) < 0)
		return cannot("io_uring_enter");
	r = ((struct io_uring_cqe *)(cq + p.cq_off.cqes))->res;
	close(fd);
	return r;
}

int ring(unsigned setup, unsigned char flags, const void *request)
{
	struct io_uring_params p = {.flags = setup, .sq_thread_idle = 1000};
	int fd = (int)syscall(SYS_io_uring_setup, 4, &p);

	return fd < 0 ? cannot("io_uring_setup") : request_by(fd, p, setup, flags, request);
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
	return request_by(OLD_RING, p, 0, IOSQE_FIXED_FILE, request);
}
