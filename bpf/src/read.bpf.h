/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading kernel memory in two ways: by plain loads, which a fault turns into zeros (bpf_rdonly_cast, since 6.2), or by
 * bpf_probe_read_kernel, a call that copies. What is judged for every path is written once, with `direct` as a constant
 * argument, and instantiated for both.
 */
#ifndef READ_BPF_H
#define READ_BPF_H

/* set by the loader: the kernel has bpf_rdonly_cast */
const volatile __u32 direct_loads = 0;

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

/* a kernel type with a 64-bit number */
struct qstr___word { __u64 hash_len; } __kernel_type;

#define DIRECT(type, address) ((type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(type)))

/* a field of a kernel structure, either way */
#define KERNEL_READ(direct, type, address, field)                                        \
	({                                                                               \
		type *pointer_ = (type *)(address);                                      \
		typeof(((type *)0)->field) value_;                                       \
		if (direct)                                                              \
			value_ = DIRECT(type, pointer_)->field;                          \
		else                                                                     \
			value_ = BPF_CORE_READ(pointer_, field);                         \
		value_;                                                                  \
	})

static __always_inline __u64 direct_word(__u64 address)
{
	return DIRECT(struct qstr___word, address - bpf_core_field_offset(struct qstr___word, hash_len))->hash_len;
}

#endif
