/* The first system call of this program opens /etc/passwd. Prints OPENED, DENIED or OTHER; exits with 0 or the errno.
 * No libc, so that nothing runs before it. */
static long sc(long n, long a, long b, long c)
{
	long r;

	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}

void _start(void)
{
	long r = sc(2, (long)"/etc/passwd", 0, 0); /* open, O_RDONLY */

	if (r >= 0)
		sc(1, 1, (long)"OPENED\n", 7);
	else if (r == -13) /* EACCES */
		sc(1, 1, (long)"DENIED\n", 7);
	else
		sc(1, 1, (long)"OTHER\n", 6);
	sc(60, r < 0 ? -r : 0, 0, 0); /* exit */
}
