//! Pods, as the runtime describes them.

use std::collections::BTreeMap;

use super::container::LinuxNamespace;
use super::resources::LinuxResources;
use super::wire::mirror;

mirror! {
    /// A pod (its sandbox).
    pub struct PodSandbox: PodSandbox {
        /// The runtime's id of the sandbox.
        id: String,
        /// Name of the pod in Kubernetes.
        name: String,
        /// Uid of the pod in Kubernetes.
        uid: String,
        /// Namespace of the pod in Kubernetes.
        namespace: String,
        /// Labels of the pod.
        labels: BTreeMap<String, String>,
        /// Annotations of the pod.
        annotations: BTreeMap<String, String>,
        /// The runtime handler (Kubernetes: runtime class) it runs under; empty: the default one.
        runtime_handler: String,
        /// What is particular to Linux.
        linux: Option<LinuxPodSandbox>,
        /// Process id of the sandbox's own process on the host; 0: none or not known.
        pid: u32,
        /// IP addresses. NRI 0.8; empty for pods on the host's network.
        ips: Vec<String>,
    }
}

mirror! {
    /// The Linux side of a pod.
    pub struct LinuxPodSandbox: LinuxPodSandbox {
        /// Resources that the pod's overhead accounts for.
        pod_overhead: Option<LinuxResources>,
        /// Sum of the resources of the pod's containers.
        pod_resources: Option<LinuxResources>,
        /// The cgroup that kubelet asks the runtime to put the pod into.
        cgroup_parent: String,
        /// The cgroup of the sandbox itself, in the runtime's own notation, relative to the runtime's cgroup
        /// namespace. To find the real directory read `/proc/<pid>/cgroup`.
        cgroups_path: String,
        /// Namespaces of the sandbox.
        namespaces: Vec<LinuxNamespace>,
        /// Resources of the sandbox's own container.
        resources: Option<LinuxResources>,
    }
}
