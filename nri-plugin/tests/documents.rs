//! Completions and manual pages as users make them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

fn nri_enforcer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nri-enforcer")).args(args).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn bash_takes_the_completions_and_finds_commands_and_flags() {
    let output = nri_enforcer(&["completions", "bash"]);
    assert_eq!(output.status.code(), Some(0));
    let script = String::from_utf8(output.stdout).unwrap();
    let ask = "COMP_WORDS=(nri-enforcer \"$@\"); COMP_CWORD=$#; _nri-enforcer nri-enforcer \"${!#}\" \"${COMP_WORDS[$#-1]}\"; \
               printf '%s\\n' \"${COMPREPLY[@]}\"";
    let completed = |words: &[&str]| {
        let output = Command::new("bash")
            .args(["-c", &format!("{script}\n{ask}"), "bash"])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(completed(&["expl"]).trim(), "explain");
    assert!(completed(&["test", "--"]).lines().any(|word| word == "--strict"));
    assert!(completed(&["test", "--output", ""]).lines().any(|word| word == "junit"));
}

#[test]
fn every_shell_has_completions_and_an_unknown_one_has_none() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = nri_enforcer(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("learn") && text.contains("nri-enforcer"), "{shell}: {text}");
    }
    assert_eq!(nri_enforcer(&["completions", "dos"]).status.code(), Some(2));
}

#[test]
fn there_is_a_page_for_each_command() {
    let page = String::from_utf8(nri_enforcer(&["man"]).stdout).unwrap();
    assert!(page.contains(".TH nri-enforcer 1") && page.contains("explain"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("man1");
    assert_eq!(nri_enforcer(&["man", "--dir", at.to_str().unwrap()]).status.code(), Some(0));
    for page in ["nri-enforcer.1", "nri-enforcer-explain.1", "nri-enforcer-learn-seccomp.1"] {
        let text = std::fs::read_to_string(at.join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = nri_enforcer(&["man", "--dir", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("cannot write"));
}
