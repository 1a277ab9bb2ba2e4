/* Makes system calls and tells how each ended. Without libc, so that it makes no other call than these: fork, wait4,
 * write and exit (by their x86-64 numbers).
 *
 *   sys ABI:NR[:ARG,ARG,...]...
 *
 * ABI is `64` (syscall), `x32` (the same, with bit 30 of the number) or `32` (int 0x80). Numbers are decimal, or
 * hexadecimal with 0x; up to six arguments of 64 bits, of which int 0x80 passes the low 32. The argument `buf` is the
 * address of 4096 zero bytes. Each call is made by a process of its own. A line for each:
 *   SPEC<tab>ok | SPEC<tab>errno N | SPEC<tab>signal N
 * It exits with 0, or with 2 when it cannot read a SPEC. */
typedef unsigned long u64;

enum { NR_WRITE = 1, NR_FORK = 57, NR_EXIT = 60, NR_WAIT4 = 61, X32_BIT = 0x40000000 };

static char zero[4096];

static long call(u64 nr, const u64 *a)
{
	register u64 r10 __asm__("r10") = a[3];
	register u64 r8 __asm__("r8") = a[4];
	register u64 r9 __asm__("r9") = a[5];
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

/* The sixth argument of int 0x80 is in ebp, which the compiler may want: it is left as it is. */
static long call32(u64 nr, const u64 *a)
{
	int ret;

	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
			 : "r8", "r9", "r10", "r11", "memory");
	return ret;
}

static long call3(u64 nr, u64 x, u64 y, u64 z)
{
	u64 a[6] = { x, y, z, 0, 0, 0 };

	return call(nr, a);
}

static u64 length(const char *s)
{
	const volatile char *end = s; /* volatile: the compiler would call strlen */

	while (*end)
		end++;
	return end - s;
}

static void print(const char *s)
{
	call3(NR_WRITE, 1, (u64)s, length(s));
}

static void print_number(long n)
{
	char text[24], *p = text + sizeof(text) - 1;

	*p = 0;
	do
		*--p = '0' + n % 10;
	while (n /= 10);
	print(p);
}

/* Reads a number, or `buf`, at *s and moves behind it; 0 if there is none. */
static int number(const char **s, u64 *n)
{
	const char *p = *s;
	int base = 10;

	*n = 0;
	if (p[0] == 'b' && p[1] == 'u' && p[2] == 'f') {
		*n = (u64)zero;
		*s = p + 3;
		return 1;
	}
	if (p[0] == '0' && p[1] == 'x') {
		base = 16;
		p += 2;
	}
	for (*s = p;; p++) {
		int digit = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : 99;

		if (digit >= base)
			break;
		*n = *n * base + digit;
	}
	if (p == *s)
		return 0;
	*s = p;
	return 1;
}

static int run(const char *spec)
{
	u64 nr, a[6] = { 0 };
	int abi32 = 0, x32 = 0, status = 0;
	const char *p = spec;
	long pid, ret;

	if (p[0] == '6' && p[1] == '4' && p[2] == ':')
		p += 3;
	else if (p[0] == '3' && p[1] == '2' && p[2] == ':')
		abi32 = 1, p += 3;
	else if (p[0] == 'x' && p[1] == '3' && p[2] == '2' && p[3] == ':')
		x32 = 1, p += 4;
	else
		return 0;
	if (!number(&p, &nr))
		return 0;
	for (int i = 0; i < 6 && (*p == ':' || *p == ','); i++) {
		p++;
		if (!number(&p, &a[i]))
			return 0;
	}
	if (*p)
		return 0;

	print(spec);
	pid = call3(NR_FORK, 0, 0, 0);
	if (pid == 0) {
		ret = abi32 ? call32(nr, a) : call(x32 ? nr | X32_BIT : nr, a);
		call3(NR_EXIT, ret < 0 && ret > -4096 ? (-ret > 254 ? 255 : -ret) : 0, 0, 0);
		for (;;)
			;
	}
	if (pid > 0) {
		a[0] = pid, a[1] = (u64)&status, a[2] = 0, a[3] = 0;
		call(NR_WAIT4, a);
	}
	if (pid < 0) {
		print("\tcannot fork\n");
	} else if (status & 0x7f) {
		print("\tsignal ");
		print_number(status & 0x7f);
		print("\n");
	} else if (status >> 8 & 0xff) {
		print("\terrno ");
		print_number(status >> 8 & 0xff);
		print("\n");
	} else {
		print("\tok\n");
	}
	return 1;
}

__attribute__((used)) static void start(const u64 *stack)
{
	int count = (int)stack[0];
	char *const *argv = (char *const *)(stack + 1);

	for (int i = 1; i < count; i++) {
		if (!run(argv[i])) {
			print(argv[i]);
			print("\tno system call\n");
			call3(NR_EXIT, 2, 0, 0);
		}
	}
	call3(NR_EXIT, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
