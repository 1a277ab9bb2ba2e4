//! What runs of podman's, by its files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use enforcer_core::seccomp::{Arch, ProfileDigest, runtime_default};
use serde_json::{Value, json};

use crate::gate::tests::{of_podman, podman_gate, seccomp, seccomp_only};
use crate::kernel::recording::Recording;
use crate::podman::tests::{IN_POD, WEB};
use crate::procs::tests::add;
use crate::reconciler::tests::policies;
use crate::seccomp::ledger::{ANNOTATION, Created};

use super::*;

struct Node {
    dir: tempfile::TempDir,
    kernel: Recording,
    gate: Arc<PodmanGate>,
}

impl Node {
    /// podman with `web` and `in-pod`, neither of which runs.
    fn new() -> Self {
        Self::with(policies(&[]))
    }

    fn with(set: Arc<PolicySet>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Arc::<Registry>::default();
        let selection = Selection::default();
        let seen = watch::channel(set).1;
        let gate = podman_gate(dir.path(), &selection, seen, &registry, seccomp(&selection, &registry));
        fs::create_dir(dir.path().join("proc")).unwrap();
        Self { dir, kernel: Recording::default(), gate }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    /// podman notes a first process for a container; it lives in this cgroup.
    fn runs(&self, id: &str, pid: i32, cgroup: &str) {
        write(&self.at(&format!("run/overlay-containers/{id}/userdata/pidfile")), &pid.to_string());
        add(&self.at("proc"), pid, 'S', 1000, cgroup);
    }

    fn armed(&self, id: &str) {
        self.kernel.preset(id, Some(crate::reconciler::tests::wanted(&policies(&[("p", "/a")]))));
    }

    fn found(&self) -> Result<(Vec<(String, i32)>, usize), String> {
        let Listing { running, unknown, .. } =
            self.gate.running(&self.kernel, &Procs::at(self.at("proc")))?;
        let name = |one: Running| (one.container.subject.container.clone(), one.pid);
        Ok((running.into_iter().map(name).collect(), unknown.len()))
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn names(found: &[(&str, i32)]) -> Vec<(String, i32)> {
    found.iter().map(|(name, pid)| ((*name).to_owned(), *pid)).collect()
}

#[test]
fn what_runs_is_found_whether_armed_or_not() {
    let node = Node::new();
    assert_eq!(node.found(), Ok((vec![], 0)), "nothing runs");
    node.runs(WEB, 7, &format!("/machine.slice/libpod-{WEB}.scope"));
    assert_eq!(node.found(), Ok((names(&[("web", 7)]), 0)));
    // no cgroup tells of the other one, and the kernel does
    node.runs(IN_POD, 8, "/elsewhere");
    node.armed(IN_POD);
    node.kernel.has_tasks(&[(IN_POD, 8)]);
    assert_eq!(node.found(), Ok((names(&[("in-pod", 8), ("web", 7)]), 0)));
    // of one that is armed and over nobody but the kernel tells
    node.kernel.has_tasks(&[]);
    assert_eq!(node.found(), Ok((names(&[("in-pod", 0), ("web", 7)]), 0)));
}

/// Else what another version of the programs holds of it could be let go.
#[test]
fn a_process_that_may_be_its_or_not_is_told_as_unknown() {
    let node = Node::new();
    node.runs(WEB, 7, "/elsewhere");
    assert_eq!(node.found(), Ok((vec![], 1)));
    fs::remove_dir_all(node.at("proc/7")).unwrap();
    assert_eq!(node.found(), Ok((vec![], 0)), "it is over");
    node.runs(WEB, 7, &format!("/libpod-{WEB}"));
    fs::write(node.at("storage/libpod/bolt_state.db"), "").unwrap();
    assert_eq!(node.found(), Ok((vec![], 2)), "nobody can tell who it is, and whether the other one runs");
}

/// `--cgroups=disabled`, and podman's state was busy at its start: only the hook has told of its process.
#[test]
fn the_process_of_which_the_hook_told_is_its_own() {
    let node = Node::new();
    let web = ContainerId::new(WEB).unwrap();
    node.runs(WEB, 7, "/elsewhere");
    node.gate.strangers.asked(&web, 7, "busy");
    assert_eq!(node.found(), Ok((names(&[("web", 7)]), 0)));
    let listing = || node.gate.running(&node.kernel, &Procs::at(node.at("proc"))).unwrap();
    assert!(!listing().running[0].started, "it is on its way still");
    crate::procs::tests::executes(&node.at("proc"), 7, true);
    assert!(listing().running[0].started && !listing().unread);
    assert!(node.gate.strangers.all().contains_key(&web), "until somebody has been told");
    add(&node.at("proc"), 7, 'S', 2000, "/elsewhere");
    assert_eq!(node.found(), Ok((vec![], 1)), "another process has its number");
    fs::write(node.at("storage/libpod/bolt_state.db"), "").unwrap();
    assert!(listing().unread);
}

/// `podman run --pidfile FILE`, or another run root.
#[test]
fn what_runs_is_found_though_podmans_own_directory_has_no_pidfile_of_it() {
    let node = Node::new();
    let notes = |state: &str| crate::podman::tests::notes(&node.at("storage"), state);
    notes(r#"{"state": 3, "pid": 7}"#);
    let web = format!("/machine.slice/libpod-{WEB}.scope");
    add(&node.at("proc"), 7, 'S', 1000, &web);
    assert_eq!(node.found(), Ok((names(&[("web", 7)]), 0)));
    let listing = node.gate.running(&node.kernel, &Procs::at(node.at("proc"))).unwrap();
    assert!(listing.running[0].started);
    // its cgroup tells of it, too
    notes(r#"{"state": 3, "pid": 0}"#);
    assert_eq!(node.found(), Ok((names(&[("web", 7)]), 0)));
    notes(r#"{"state": 2, "pid": 0}"#);
    assert_eq!(node.found(), Ok((vec![], 0)), "the runtime is making it: the hook tells of it");
    // nothing does
    notes(r#"{"state": 3, "pid": 7}"#);
    add(&node.at("proc"), 7, 'S', 1000, "/elsewhere");
    assert_eq!(node.found(), Ok((vec![], 1)));
    node.armed(WEB);
    node.kernel.has_tasks(&[(WEB, 7)]);
    assert_eq!(node.found(), Ok((names(&[("web", 7)]), 0)), "the kernel knows");
    node.kernel.preset(WEB, None);
    node.kernel.has_tasks(&[]);
    fs::remove_dir_all(node.at("proc/7")).unwrap();
    assert_eq!(node.found(), Ok((vec![], 0)), "it is over, as after a boot, and podman has not noted that");
    notes(r#"{"state": 5}"#);
    assert_eq!(node.found(), Ok((vec![], 1)), "it runs, and no process of it is known");
}

/// Where the hook was not run at `precreate`, an image's annotations are in the configuration as it wrote them.
#[test]
fn what_it_was_created_with_is_in_its_annotations_where_its_profile_bears_them_out() {
    let node = Node::with(seccomp_only());
    node.runs(WEB, 7, &format!("/libpod-{WEB}"));
    let found = |annotations: &BTreeMap<String, String>, seccomp: &Value| {
        let config = json!({"annotations": annotations, "linux": {"seccomp": seccomp}}).to_string();
        write(&node.at(&format!("storage/overlay-containers/{WEB}/userdata/config.json")), &config);
        let listing = node.gate.running(&node.kernel, &Procs::at(node.at("proc"))).unwrap();
        listing.running.into_iter().next().unwrap().created
    };
    let web = node.gate.identify(&of_podman(Stage::Precreate)).unwrap();
    let own = serde_json::to_value(runtime_default::profile(Arch::X86_64, &BTreeSet::new())).unwrap();
    let entry = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
        "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_GT"}]});
    let small = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]});
    for own in [own, small] {
        let request = Request { seccomp: Some(own.clone()), ..of_podman(Stage::Precreate) };
        let Answer::Adjust(Adjustment { seccomp, annotations, .. }) = node.gate.precreate(&web, &request)
        else {
            panic!("no adjustment")
        };
        let given = seccomp.unwrap();
        assert_eq!(found(&annotations, &given), Created::of(&annotations));
        assert_eq!(Created::of(&annotations).annotations().count(), 2);
        // its own profile, and the annotations of another container
        assert_eq!(found(&annotations, &own), Created::default());
        assert_eq!(found(&annotations, &Value::Null), Created::default());
        // or those that fit its own profile
        let digest = ProfileDigest::of(&serde_json::from_value(own.clone()).unwrap()).to_string();
        let mut forged = annotations.clone();
        forged.insert(ANNOTATION.into(), digest);
        assert_eq!(found(&forged, &own), Created::default());
        // crun takes that in place of the profile
        let mut filtered = annotations;
        filtered.insert("run.oci.seccomp_bpf_data".into(), "BgAAAAAA/38=".into());
        assert_eq!(found(&filtered, &given), Created::default());
    }
}

#[test]
fn a_list_that_cannot_be_read_is_not_an_empty_one() {
    let node = Node::new();
    fs::write(node.at("storage/overlay-containers/containers.json"), "[{").unwrap();
    assert!(node.found().unwrap_err().contains("containers.json` makes no sense"));
    fs::remove_dir_all(node.at("storage")).unwrap();
    assert_eq!(node.found(), Ok((vec![], 0)), "there is no podman");
}
