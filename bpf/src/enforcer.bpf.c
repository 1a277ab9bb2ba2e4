/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one BPF object. All programs are non-sleepable: they load on every hook from 6.1 on and the confined process
 * cannot put them to sleep. Each respects an earlier program's denial and denies by its own return value.
 */
#include "kernel.bpf.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "enforcer.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* what user space reads as bytes must be in BTF; used nowhere else */
struct cell cell_type;
struct lists_cell lists_cell_type;
struct near_cells near_cells_type;
struct event event_type;
struct automata_block automata_block_type;
struct door_match door_match_type;
struct door_plain door_plain_type;
struct table_cell table_cell_type;
struct net_root_cell net_root_cell_type;
struct net_node_cell net_node_cell_type;
struct port_element port_element_type;
enum enforcer_class class_type;
enum enforcer_effect effect_type;
enum enforcer_op op_type;
enum enforcer_reason reason_type;
enum enforcer_counter counter_type;
enum mark_mode mark_mode_type;
enum host_exempt host_exempt_type;
struct exempt_cgroup exempt_cgroup_type;
struct exempt_program exempt_program_type;
enum enforcer_preset preset_type;
enum enforcer_socket_kind socket_kind_type;

#include "read.bpf.h"
#include "shapes.bpf.h"
#include "maps.bpf.h"
#include "subject.bpf.h"
#include "walk.bpf.h"
#include "match.bpf.h"
#include "args.bpf.h"
#include "emit.bpf.h"
#include "judge.bpf.h"
#include "quick.bpf.h"
#include "names.bpf.h"
#include "plain.bpf.h"
#include "judge_plain.bpf.h"

#include "preset.bpf.c"
#include "file.bpf.c"
#include "attr.bpf.c"
#include "mount.bpf.c"
#include "memory.bpf.c"
#include "trace.bpf.c"
#include "unix.bpf.c"
#include "exec.bpf.c"
#include "net.bpf.c"
#include "cap.bpf.c"
#include "syscall.bpf.c"
#include "mark.bpf.c"
#include "held.bpf.c"
#include "door.bpf.c"
