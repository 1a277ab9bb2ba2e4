//! Completions and manual pages as users make them, and the documents beside the code.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
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

/// Files of the repository with this ending, but for what is built.
fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                documents(&path, found);
            }
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
}

/// What links to a heading are made of, as forges make them.
fn anchors(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let title = title.trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        anchors.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    anchors
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = Vec::new();
    documents(root, &mut all);
    let (mut dead, mut links) = (Vec::new(), 0);
    for document in &all {
        let text = fs::read_to_string(document).unwrap();
        let prose: String = text.split("```").step_by(2).collect();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        // rustdoc's own lead to items
        for link in targets.filter(|link| !link.contains(':') && !link.contains(' ')) {
            links += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let leads = match fs::read_to_string(&target) {
                Ok(text) => anchor.is_empty() || anchors(&text).iter().any(|one| one == anchor),
                Err(_) => target.exists() && anchor.is_empty(),
            };
            if !leads {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(links > 100, "{links} links in {} documents", all.len());
    assert_eq!(dead, [""; 0]);
}
