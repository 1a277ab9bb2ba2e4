/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * System calls, reported before they happen and never denied: attached only while some ruleset speaks about them. Those
 * made in the 32-bit way, or in that of x32, count as the 64-bit call of the same name.
 */

#define X32_BIT 0x40000000u
#if defined(__TARGET_ARCH_x86)
#include "compat.bpf.h"
#endif

struct thread_info___x86 { __u32 status; } __kernel_type;
struct task_struct___x86 { struct thread_info___x86 thread_info; } __kernel_type;
#define TS_COMPAT 2u
#define TIF_32BIT 22 /* arch/arm64/include/asm/thread_info.h */
struct thread_info___arm { unsigned long flags; } __kernel_type;
struct task_struct___arm { struct thread_info___arm thread_info; } __kernel_type;

static __always_inline int is_compat(struct task_struct *task)
{
#if defined(__TARGET_ARCH_x86)
	return (BPF_CORE_READ((struct task_struct___x86 *)task, thread_info.status) & TS_COMPAT) != 0;
#elif defined(__TARGET_ARCH_arm64)
	return (BPF_CORE_READ((struct task_struct___arm *)task, thread_info.flags) >> TIF_32BIT) & 1;
#else
	return 0;
#endif
}

SEC("raw_tp/sys_enter")
int sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct plain_request r = {.class_ = CLASS_SYSCALL, .op = OP_SYSCALL};
	struct task_struct *task = bpf_get_current_task_btf();
	struct subject *s = confined_by(CLASS_SYSCALL);

	if (!s)
		return 0;
	r.number = ctx->args[1];
	if (is_compat(task)) {
#if defined(__TARGET_ARCH_x86)
		r.number = compat_call(r.number, ctx->args[0]);
		r.flags = PLAIN_COMPAT;
#else
		return 0; /* 32-bit Arm's numbers are not known here */
#endif
	}
#if defined(__TARGET_ARCH_x86)
	else if (r.number & X32_BIT || r.number >= X32_OWN) {
		r.number = x32_call(r.number & ~X32_BIT);
	}
#endif
	r.condition = terminal_condition(task);
	judge_plain(s, &r);
	return 0;
}
