//! The definitions that are kept in `manifests/crds`, against those that the program makes.
//!
//! `nri-enforcer crds --dir manifests/crds` writes them anew.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect()
}

#[test]
fn the_definitions_are_those_that_the_program_makes() {
    let program = env!("CARGO_BIN_EXE_nri-enforcer");
    let fresh = tempfile::tempdir().unwrap();
    assert!(Command::new(program).arg("crds").arg("--dir").arg(fresh.path()).status().unwrap().success());
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds");
    let (fresh, kept) = (files(fresh.path()), files(&kept));
    assert_eq!(fresh.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    for (name, text) in &fresh {
        assert!(kept[name] == *text, "{name} is stale; run `nri-enforcer crds --dir manifests/crds`");
    }

    let printed = Command::new(program).arg("crds").output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let kinds: Vec<_> = printed.lines().filter(|line| line.starts_with("    kind: ")).collect();
    assert_eq!((printed.matches("---\n").count(), kinds.len()), (5, 5), "{kinds:?}");
}
