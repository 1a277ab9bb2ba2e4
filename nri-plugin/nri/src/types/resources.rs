//! Resources: cgroup settings of pods and containers.

use std::collections::BTreeMap;

use super::linux::LinuxDeviceCgroup;
use super::wire::mirror;

mirror! {
    /// Resources of a pod or a container. What is absent is left as it is.
    pub struct LinuxResources: LinuxResources {
        /// Memory. At creation a runtime applies only the limit, and sets swap to the same.
        memory: Option<LinuxMemory>,
        /// Processor time.
        cpu: Option<LinuxCpu>,
        /// Huge pages.
        hugepage_limits: Vec<HugepageLimit>,
        /// Name of a block I/O class of the runtime's configuration.
        blockio_class: Option<String>,
        /// Name of an RDT class of the runtime's configuration.
        rdt_class: Option<String>,
        /// Raw settings of cgroup v2: file name to content.
        unified: BTreeMap<String, String>,
        /// Device cgroup rules. They can only be added.
        devices: Vec<LinuxDeviceCgroup>,
        /// Most processes at a time. NRI 0.7.
        pids: Option<i64>,
    }
}

mirror! {
    /// Memory settings, in bytes.
    pub struct LinuxMemory: LinuxMemory {
        /// Hard limit; -1: none.
        limit: Option<i64>,
        /// Soft limit.
        reservation: Option<i64>,
        /// Limit of memory and swap together.
        swap: Option<i64>,
        /// Kernel memory.
        kernel: Option<i64>,
        /// Kernel memory of TCP.
        kernel_tcp: Option<i64>,
        /// 0 to 100.
        swappiness: Option<u64>,
        /// Whether the cgroup waits instead of being killed when it is out of memory.
        disable_oom_killer: Option<bool>,
        /// Whether children are accounted for (cgroup v1).
        use_hierarchy: Option<bool>,
    }
}

mirror! {
    /// Processor settings.
    pub struct LinuxCpu: LinuxCPU {
        /// Relative weight.
        shares: Option<u64>,
        /// Microseconds per period; -1: no limit.
        quota: Option<i64>,
        /// The period, in microseconds.
        period: Option<u64>,
        /// Real-time microseconds per period.
        realtime_runtime: Option<i64>,
        /// The real-time period, in microseconds.
        realtime_period: Option<u64>,
        /// Processors, as a list such as `0-3,8`; empty: unchanged.
        cpus: String,
        /// Memory nodes, as a list; empty: unchanged.
        mems: String,
    }
}

mirror! {
    /// A limit for one size of huge page.
    pub struct HugepageLimit: HugepageLimit {
        /// Such as `2MB`.
        page_size: String,
        /// Bytes.
        limit: u64,
    }
}
