//! What of the files of a change is not in force, though they are in the directory.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use enforcer_core::compile::selinux::compile;
use enforcer_core::coverage::GapReason;
use enforcer_core::policy::{Kind, ParsedFile, Policy};
use enforcer_core::ruleset::Ruleset;

use crate::container::Selection;
use crate::lock::Lock;
use crate::store::{Problem, Store};

/// The most that is told.
const MAX_REMARKS: usize = 100;

/// What is wrong with these files of `dir` among the others of `dirs`, and which of their rules nothing enforces on this
/// node. Reads every policy file. What is about single containers `status` tells.
pub(super) fn remarks(
    dirs: &[PathBuf],
    dir: &Path,
    files: &[(String, ParsedFile)],
    selection: &Selection,
) -> Vec<String> {
    let ours = |path: &str| files.iter().any(|(name, _)| dir.join(name) == Path::new(path));
    let problems = Store::new(dirs.to_vec()).reload().problems;
    let of_ours = problems.iter().filter(|problem| match problem {
        Problem::Directory { path, .. } => path == dir,
        Problem::File { path, .. } => ours(&path.to_string_lossy()),
        Problem::Untrusted { path, .. } => path == dir || ours(&path.to_string_lossy()),
        Problem::Document(error) => ours(&error.file),
        Problem::Duplicate { second, .. } => ours(second),
        Problem::Object(_) => false,
    });
    let policies = files.iter().flat_map(|(_, parsed)| &parsed.policies);
    let gaps = policies.flat_map(|policy| gaps(policy, dirs, selection));
    of_ours.map(ToString::to_string).chain(gaps).take(MAX_REMARKS).collect()
}

fn gaps(policy: &Policy, dirs: &[PathBuf], selection: &Selection) -> Vec<String> {
    let of_host = policy.id().kind == Kind::KubeArmorHostPolicy;
    let whole = match selection.lock {
        _ if selection.seccomp_only => Some(GapReason::OtherThanSeccomp),
        _ if of_host && !selection.holds_host() => Some(GapReason::HostPolicies),
        Lock::Nothing => Some(GapReason::NoLock),
        Lock::Selinux if !of_host => Some(GapReason::SelinuxContainer),
        _ => None,
    };
    if let Some(reason) = whole {
        return vec![format!("{}: {reason}", policy.id())];
    }
    let mut gaps = selection.node().gaps(policy);
    if selection.lock == Lock::Selinux {
        // what it could not take back by itself
        let dirs: Vec<&[u8]> = dirs.iter().map(|dir| dir.as_os_str().as_bytes()).collect();
        gaps.extend(compile(&Ruleset::of(policy, &selection.postures)).denying(&dirs));
    }
    gaps.iter().map(|gap| format!("{}: {}: {}", gap.policy, gap.field, gap.reason)).collect()
}

#[cfg(test)]
mod tests {
    use enforcer_core::policy::parse;

    use super::*;

    const HOST: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {name: h}\n\
        spec: {nodeSelector: {matchLabels: {a: b}}, file: {matchPaths: [{path: /x}]}, action: Block}\n";

    #[test]
    fn rules_that_nothing_enforces_here_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let told = |selection: &Selection| {
            std::fs::write(dir.path().join("h.yaml"), HOST).unwrap();
            let files = [("h.yaml".to_owned(), parse("h.yaml", HOST))];
            assert_eq!((files[0].1.errors.len(), files[0].1.policies.len()), (0, 1));
            remarks(std::slice::from_ref(&path), &path, &files, selection)
        };
        let bpf = Selection { lock: Lock::Bpf, ..Selection::default() };
        assert_eq!(told(&bpf), [format!("h: {}", GapReason::HostPolicies)]);
        let host = Selection { host: Some(bpf.postures), ..bpf.clone() };
        assert_eq!(told(&host), [""; 0]);
        assert_eq!(
            told(&Selection { lock: Lock::Nothing, ..host.clone() }),
            [format!("h: {}", GapReason::HostPolicies)]
        );
        let seccomp = Selection { seccomp_only: true, ..bpf };
        assert_eq!(told(&seccomp), [format!("h: {}", GapReason::OtherThanSeccomp)]);
        // two files of the same policy: the one that does not count is told of
        std::fs::write(dir.path().join("a.yaml"), HOST).unwrap();
        let all = told(&host);
        assert!(all.len() == 1 && all[0].contains("h.yaml: the policy `h` is already defined in"), "{all:?}");
    }

    #[test]
    fn rules_that_would_keep_a_change_from_being_taken_back_are_told_where_nobody_is_exempt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let told = |rule: &str, lock| {
            let text = HOST.replace("matchPaths: [{path: /x}]", rule);
            std::fs::write(dir.path().join("h.yaml"), &text).unwrap();
            let files = [("h.yaml".to_owned(), parse("h.yaml", &text))];
            assert_eq!(files[0].1.errors, []);
            let selection =
                Selection { lock, host: Some(Selection::default().postures), ..Selection::default() };
            remarks(std::slice::from_ref(&path), &path, &files, &selection)
        };
        let [ours, file] = [format!("{}/", path.display()), path.join("h.yaml").display().to_string()];
        for rule in [
            format!("matchDirectories: [{{dir: {ours}, readOnly: true}}]"),
            format!("matchPaths: [{{path: {file}, readOnly: true}}]"),
        ] {
            let all = told(&rule, Lock::Selinux);
            assert!(
                all.len() == 1 && all[0].contains(&GapReason::SelinuxVital.to_string()),
                "{rule}: {all:?}"
            );
            assert_eq!(told(&rule, Lock::Bpf), [""; 0], "the daemon is exempt");
        }
        assert_eq!(told("matchPaths: [{path: /x}]", Lock::Selinux), [""; 0]);
    }
}
