//! The host as the daemon knows it: one container among the others, which no runtime tells about.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use enforcer_core::enforce::ContainerId;
use enforcer_core::enforce::host::{Exempt, HostExempt, Reach};
use enforcer_core::ruleset::Postures;
use enforcer_core::subject::{HOSTNAME_LABEL, Subject};

use crate::api::node::NodeLabels;
use crate::container::{Container, Wish};
use crate::exit::chain;
use crate::kernel::Kernel;
use crate::order::Order;
use crate::registry::Registry;
use crate::seccomp::ledger::Created;

/// How policies on the host's own processes are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// Whether they are enforced.
    pub enforce: bool,
    /// Who is left alone beside the defaults, with all that they start.
    pub exempt: Vec<Exempt>,
    /// Whether the defaults are.
    pub defaults: bool,
    /// Its postures.
    pub postures: Postures,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
}

impl Default for HostConfig {
    fn default() -> Self {
        let (exempt, postures, labels) = Default::default();
        Self { enforce: false, exempt, defaults: true, postures, labels }
    }
}

/// What policies select the host by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Those that every node has.
    own: BTreeMap<String, String>,
    /// Those that are configured.
    configured: BTreeMap<String, String>,
}

impl Node {
    /// A node of this name, with the labels that are configured.
    #[must_use]
    pub fn new(config: &HostConfig, node_name: &str) -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let own = [(HOSTNAME_LABEL, node_name), ("kubernetes.io/arch", arch), ("kubernetes.io/os", "linux")];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { own, configured: config.labels.clone() }
    }

    /// The host, where the API server says this of the node: labels that are configured are put over those of the API server,
    /// and these over those that every node has.
    #[must_use]
    pub fn subject(&self, told: &NodeLabels) -> Subject {
        let mut labels = self.own.clone();
        if let NodeLabels::Known(told) = told {
            labels.extend(told.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        labels.extend(self.configured.clone());
        Subject::of_host(labels)
    }
}

/// Tells the kernel side who is left alone; what of it is not on this host, or why the host cannot be armed. Where host
/// policies are not enforced, those that an earlier daemon did end.
///
/// # Errors
/// When the host cannot be armed, in words.
pub fn begin(kernel: &impl Kernel, config: &HostConfig) -> Result<Vec<String>, String> {
    if !config.enforce {
        let id = ContainerId::host();
        if kernel.armed().is_ok_and(|armed| armed.contains_key(&id)) {
            kernel.disarm(&id).map_err(|error| chain(&error))?;
            tracing::info!("policies on the host's own processes are no longer in force");
        }
        return Ok(Vec::new());
    }
    let exempt = exempt(config);
    match kernel.exempt(&exempt) {
        Ok(missing) => {
            if !missing.is_empty() {
                tracing::info!(
                    not_found = missing.join(", "),
                    "not all that is exempt from host policies is on this host"
                );
            }
            Ok(missing)
        }
        Err(error) => {
            let problem = chain(&error);
            tracing::error!(problem, "policies on the host's own processes are NOT ENFORCED");
            Err(problem)
        }
    }
}

fn exempt(config: &HostConfig) -> HostExempt {
    let mut exempt = if config.defaults { HostExempt::defaults() } else { HostExempt::nothing() };
    exempt.entries.extend(config.exempt.iter().cloned().map(|one| (one, Reach::Below)));
    exempt.entries.extend(own_cgroup(Path::new("/proc")).map(|own| (own, Reach::Below)));
    exempt
}

/// The daemon's own cgroup, where that is a service's and not one that it shares with a login or with everybody: the next
/// daemon must be able to start. In a pod, which does not see it, it is among those of the pods.
fn own_cgroup(proc: &Path) -> Option<Exempt> {
    let namespace = |of: &str| std::fs::read_link(proc.join(of).join("ns/cgroup")).ok();
    if namespace("self")? != namespace("1")? {
        return None;
    }
    let text = std::fs::read_to_string(proc.join("self/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let shared = path.is_empty() || path.starts_with("user.slice");
    (!shared).then(|| Exempt::parse(path).ok()).flatten()
}

/// Has the host armed as its policies say, from now on.
pub fn enter(host: &Subject, registry: &Registry, orders: &Sender<Order>) {
    let container = Arc::new(Container {
        id: ContainerId::host(),
        subject: host.clone(),
        pod_uid: String::new(),
        image: String::new(),
        wish: Wish::None,
    });
    registry.add(Arc::clone(&container));
    registry.seccomp().put_apart(Arc::clone(&container), Created::default());
    let _ending = orders.send(Order::Started { container, pid: 1 });
    // what an earlier daemon armed is known then, and lifted where no policy selects the host any more
    let _ending = orders.send(Order::Sweep);
}

#[cfg(test)]
mod tests {
    use enforcer_core::enforce::{Stage, Target};
    use enforcer_core::policy::parse;

    use super::*;
    use crate::container::Selection;
    use crate::kernel::recording::Recording;
    use crate::set::PolicySet;

    #[test]
    fn a_daemon_that_is_not_to_enforce_host_policies_ends_those_of_an_earlier_one() {
        let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {name: h}\n\
            spec: {nodeSelector: {matchLabels: {a: b}}, file: {matchPaths: [{path: /x}]}, action: Block}\n";
        let set = PolicySet::new(parse("h.yaml", text).policies.into_iter().map(Arc::new).collect());
        let selection = Selection { host: Some(Postures::default()), ..Selection::default() };
        let host = Subject::of_host([("a".to_owned(), "b".to_owned())].into());
        let merged = selection.resolve(&set, &host, Wish::None).unwrap();
        let kernel = Recording::default();
        let target = Target { id: ContainerId::host(), pid: 1, stage: Stage::Running };
        kernel.arm(&target, &merged.ruleset).unwrap();
        kernel.calls();
        assert_eq!(begin(&kernel, &HostConfig::default()), Ok(vec![]));
        assert_eq!((kernel.calls(), kernel.ids()), (vec!["disarm (host)".to_owned()], vec![]));
        assert_eq!(begin(&kernel, &HostConfig::default()), Ok(vec![]));
        assert_eq!(kernel.calls(), [""; 0], "once");
        kernel.arm(&target, &merged.ruleset).unwrap();
        kernel.breaks("disarm", true);
        assert!(begin(&kernel, &HostConfig::default()).is_err(), "it is in force still");
    }

    #[test]
    fn a_node_has_the_labels_of_every_node_and_its_own() {
        let labels = [("kubernetes.io/os".to_owned(), "other".to_owned()), ("a".to_owned(), "b".to_owned())];
        let config = HostConfig { labels: labels.into(), ..HostConfig::default() };
        let node = Node::new(&config, "node-1");
        let host = node.subject(&NodeLabels::Unknown);
        assert!(host.host);
        assert_eq!(host.labels["kubernetes.io/hostname"], "node-1");
        assert_eq!((&*host.labels["a"], &*host.labels["kubernetes.io/os"]), ("b", "other"));
        assert!(host.labels.contains_key("kubernetes.io/arch"));
        let told = [("a", "c"), ("rack", "7"), ("kubernetes.io/hostname", "n1")];
        let told = told.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let host = node.subject(&NodeLabels::Known(Arc::new(told.into())));
        let labels = ["a", "rack", "kubernetes.io/hostname"].map(|key| host.labels[key].as_str());
        assert_eq!(labels, ["b", "7", "n1"], "what is configured comes first");
    }

    #[test]
    fn the_daemons_own_cgroup_is_exempt_unless_others_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let namespaces = |own: &str| {
            for (process, namespace) in [("self", own), ("1", "cgroup:[1]")] {
                let ns = dir.path().join(process).join("ns");
                std::fs::create_dir_all(&ns).unwrap();
                let _none = std::fs::remove_file(ns.join("cgroup"));
                std::os::unix::fs::symlink(namespace, ns.join("cgroup")).unwrap();
            }
        };
        let of = |cgroup: &str| {
            std::fs::write(dir.path().join("self/cgroup"), format!("0::{cgroup}\n")).unwrap();
            own_cgroup(dir.path()).map(|own| own.to_string())
        };
        namespaces("cgroup:[1]");
        assert_eq!(
            of("/system.slice/nri-enforcer.service").as_deref(),
            Some("system.slice/nri-enforcer.service")
        );
        assert_eq!(of("/"), None);
        assert_eq!(of("/user.slice/user-0.slice/session-1.scope"), None);
        namespaces("cgroup:[2]");
        assert_eq!(of("/system.slice/nri-enforcer.service"), None);
    }
}
