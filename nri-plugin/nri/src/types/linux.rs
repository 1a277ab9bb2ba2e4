//! Devices, scheduling, I/O priority, RDT and memory policy.

use super::wire::{mirror, mirror_enum};
use crate::proto::api;

mirror! {
    /// A device node of a container.
    pub struct LinuxDevice: LinuxDevice {
        /// Path in the container.
        path: String,
        /// `c`, `b`, `p` or `u`.
        kind => type_: String,
        /// Major number.
        major: i64,
        /// Minor number.
        minor: i64,
        /// Permission bits.
        file_mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
    }
}

mirror! {
    /// A rule of the device cgroup.
    pub struct LinuxDeviceCgroup: LinuxDeviceCgroup {
        /// Whether it allows or denies.
        allow: bool,
        /// `c`, `b` or `a`.
        kind => type_: String,
        /// Major number; absent: all.
        major: Option<i64>,
        /// Minor number; absent: all.
        minor: Option<i64>,
        /// Some of `r`, `w`, `m`.
        access: String,
    }
}

mirror! {
    /// I/O priority of a container's init. NRI 0.10.
    pub struct IoPriority: LinuxIOPriority {
        /// The class.
        class: IoPriorityClass,
        /// Priority within it, 0 (highest) to 7.
        priority: i32,
    }
}

mirror_enum! {
    /// I/O scheduling classes.
    #[derive(Default)]
    pub enum IoPriorityClass: api::IOPrioClass {
        /// None.
        #[default]
        None = IOPRIO_CLASS_NONE,
        /// Real time.
        RealTime = IOPRIO_CLASS_RT,
        /// Best effort.
        BestEffort = IOPRIO_CLASS_BE,
        /// Idle.
        Idle = IOPRIO_CLASS_IDLE,
    }
}

mirror! {
    /// Scheduling of a container's init. NRI 0.11.
    pub struct LinuxScheduler: LinuxScheduler {
        /// The policy.
        policy: SchedulerPolicy,
        /// Nice value.
        nice: i32,
        /// Static priority of the real-time policies.
        priority: i32,
        /// Flags.
        flags: Vec<SchedulerFlag>,
        /// Nanoseconds, deadline policy.
        runtime: u64,
        /// Nanoseconds, deadline policy.
        deadline: u64,
        /// Nanoseconds, deadline policy.
        period: u64,
    }
}

mirror_enum! {
    /// Scheduling policies.
    #[derive(Default)]
    pub enum SchedulerPolicy: api::LinuxSchedulerPolicy {
        /// Not set.
        #[default]
        None = SCHED_NONE,
        /// `SCHED_OTHER`.
        Normal = SCHED_OTHER,
        /// `SCHED_FIFO`.
        Fifo = SCHED_FIFO,
        /// `SCHED_RR`.
        RoundRobin = SCHED_RR,
        /// `SCHED_BATCH`.
        Batch = SCHED_BATCH,
        /// `SCHED_ISO`.
        Iso = SCHED_ISO,
        /// `SCHED_IDLE`.
        Idle = SCHED_IDLE,
        /// `SCHED_DEADLINE`.
        Deadline = SCHED_DEADLINE,
    }
}

mirror_enum! {
    /// Flags of a scheduling policy.
    pub enum SchedulerFlag: api::LinuxSchedulerFlag {
        /// `SCHED_FLAG_RESET_ON_FORK`.
        ResetOnFork = SCHED_FLAG_RESET_ON_FORK,
        /// `SCHED_FLAG_RECLAIM`.
        Reclaim = SCHED_FLAG_RECLAIM,
        /// `SCHED_FLAG_DL_OVERRUN`.
        DlOverrun = SCHED_FLAG_DL_OVERRUN,
        /// `SCHED_FLAG_KEEP_POLICY`.
        KeepPolicy = SCHED_FLAG_KEEP_POLICY,
        /// `SCHED_FLAG_KEEP_PARAMS`.
        KeepParams = SCHED_FLAG_KEEP_PARAMS,
        /// `SCHED_FLAG_UTIL_CLAMP_MIN`.
        UtilClampMin = SCHED_FLAG_UTIL_CLAMP_MIN,
        /// `SCHED_FLAG_UTIL_CLAMP_MAX`.
        UtilClampMax = SCHED_FLAG_UTIL_CLAMP_MAX,
    }
}

mirror! {
    /// Resource director technology. NRI 0.11.
    pub struct Rdt: LinuxRdt {
        /// The class of service.
        clos_id: Option<String>,
        /// Lines of the schemata file.
        schemata: Option<Vec<String>>,
        /// Whether to monitor.
        enable_monitoring: Option<bool>,
        /// Take away what another plugin or the runtime set.
        remove: bool,
    }
}

mirror! {
    /// NUMA memory policy of a container's init. NRI 0.12.
    pub struct MemoryPolicy: LinuxMemoryPolicy {
        /// The mode.
        mode: MemoryPolicyMode,
        /// Nodes, as a list such as `0-1`.
        nodes: String,
        /// Flags.
        flags: Vec<MemoryPolicyFlag>,
    }
}

mirror_enum! {
    /// Modes of a memory policy.
    #[derive(Default)]
    pub enum MemoryPolicyMode: api::MpolMode {
        /// `MPOL_DEFAULT`.
        #[default]
        Default = MPOL_DEFAULT,
        /// `MPOL_PREFERRED`.
        Preferred = MPOL_PREFERRED,
        /// `MPOL_BIND`.
        Bind = MPOL_BIND,
        /// `MPOL_INTERLEAVE`.
        Interleave = MPOL_INTERLEAVE,
        /// `MPOL_LOCAL`.
        Local = MPOL_LOCAL,
        /// `MPOL_PREFERRED_MANY`.
        PreferredMany = MPOL_PREFERRED_MANY,
        /// `MPOL_WEIGHTED_INTERLEAVE`.
        WeightedInterleave = MPOL_WEIGHTED_INTERLEAVE,
    }
}

mirror_enum! {
    /// Flags of a memory policy.
    pub enum MemoryPolicyFlag: api::MpolFlag {
        /// `MPOL_F_STATIC_NODES`.
        StaticNodes = MPOL_F_STATIC_NODES,
        /// `MPOL_F_RELATIVE_NODES`.
        RelativeNodes = MPOL_F_RELATIVE_NODES,
        /// `MPOL_F_NUMA_BALANCING`.
        NumaBalancing = MPOL_F_NUMA_BALANCING,
    }
}
