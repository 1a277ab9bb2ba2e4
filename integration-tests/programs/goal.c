/* What tricks are to execute: says by its status that it ran. Built as a static program, and as one that needs ld.so. */
#ifdef DYNAMIC
int main(void) { return 77; }
#else
void _start(void)
{
	__asm__ volatile("syscall" : : "a"(60L /* exit */), "D"(77L) : "rcx", "r11", "memory");
	__builtin_unreachable();
}
#endif
