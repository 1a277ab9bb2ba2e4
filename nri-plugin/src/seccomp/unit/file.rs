//! Files of units, and where they are.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// How many symbolic links are followed, as the kernel does.
pub const MOST_LINKS: usize = 40;

/// The settings under `[Service]` of a file that may say something about system calls, in its order, as systemd reads it.
pub fn settings(file: &Path) -> io::Result<Vec<(String, String)>> {
    let text = match fs::read(file) {
        // a mask: a link to the empty device, which an image of a system may not have
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => String::from_utf8_lossy(&text?).into_owned(),
    };
    let (mut section, mut whole) = (String::new(), String::new());
    let mut settings = Vec::new();
    for line in text.lines().chain([""]) {
        if line.trim_start().starts_with(['#', ';']) {
            continue; // also between the parts of a line
        }
        if let Some(part) = line.strip_suffix('\\') {
            whole += part;
            whole.push(' ');
            continue;
        }
        whole += line;
        let line = std::mem::take(&mut whole);
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let (Some((key, value)), "Service") = (line.split_once('='), &*section)
            && matters(key.trim_end())
        {
            settings.push((key.trim_end().to_owned(), value.trim_start().to_owned()));
        }
    }
    Ok(settings)
}

/// Whether a setting bears on which system calls are filtered, and for whom.
fn matters(key: &str) -> bool {
    let commands = key.starts_with("Exec") && key != "ExecSearchPath";
    commands || key.starts_with("SystemCall") || key == "Type" || key == "PermissionsStartOnly"
}

/// The file that a path leads to in the system below `root`, where absolute links begin there.
pub fn resolve(root: &Path, path: &Path) -> PathBuf {
    let Ok(rest) = path.strip_prefix(root) else { return path.to_owned() };
    let mut left: Vec<PathBuf> =
        rest.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect();
    let (mut at, mut links) = (root.to_owned(), 0);
    while let Some(part) = left.pop() {
        match part.components().next() {
            Some(Component::RootDir) => at = root.to_owned(),
            Some(Component::ParentDir) if at != root => drop(at.pop()),
            Some(Component::Normal(name)) => match fs::read_link(at.join(name)) {
                Ok(target) if links < MOST_LINKS => {
                    links += 1;
                    left.extend(target.components().rev().map(|part| PathBuf::from(part.as_os_str())));
                }
                _ => at.push(name),
            },
            _ => {}
        }
    }
    at
}

/// What is in a directory; nothing where it is not there.
pub fn entries(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(BTreeSet::new())
        }
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}
