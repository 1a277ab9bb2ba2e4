//! Policies as `check` and `explain` read them: once, from files and directories named on the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use enforcer_core::policy::{ParsedFile, Policy, PolicyError, PolicyId, parse};

use crate::store::{policy_files, read};

/// One file as it was read.
#[derive(Debug)]
pub struct Input {
    /// Its path, as given or found.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What the text says.
    pub parsed: ParsedFile,
}

/// A file or directory that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`", path.display())]
pub struct Unreadable {
    path: PathBuf,
    source: std::io::Error,
}

/// Reads files, and the policy files directly in directories.
///
/// # Errors
/// For the first file or directory that cannot be read.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Input>, Unreadable> {
    let unreadable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Unreadable { path, source }
    };
    let mut inputs = Vec::new();
    for path in paths {
        let files = if path.is_dir() {
            policy_files(path).map_err(unreadable(path))?.into_iter().collect()
        } else {
            vec![path.clone()]
        };
        for path in files {
            let text = read(&path).map_err(unreadable(&path))?;
            let parsed = parse(&path.display().to_string(), &text);
            inputs.push(Input { path, text, parsed });
        }
    }
    Ok(inputs)
}

/// Policies that are defined more than once: the identity, the file that counts, and one that does not.
#[must_use]
pub fn duplicates(inputs: &[Input]) -> Vec<(PolicyId, PathBuf, PathBuf)> {
    let mut seen: BTreeMap<&PolicyId, &Path> = BTreeMap::new();
    let mut duplicates = Vec::new();
    for input in inputs {
        for policy in &input.parsed.policies {
            match seen.get(policy.id()) {
                Some(first) => {
                    duplicates.push((policy.id().clone(), first.to_path_buf(), input.path.clone()))
                }
                None => {
                    seen.insert(policy.id(), &input.path);
                }
            }
        }
    }
    duplicates
}

/// Every policy of the inputs.
pub fn policies(inputs: &[Input]) -> impl Iterator<Item = &Policy> {
    inputs.iter().flat_map(|input| &input.parsed.policies)
}

/// Every error of the inputs, with the text it is in.
pub fn errors(inputs: &[Input]) -> impl Iterator<Item = (&PolicyError, &str)> {
    inputs.iter().flat_map(|input| input.parsed.errors.iter().map(|error| (error, input.text.as_str())))
}
