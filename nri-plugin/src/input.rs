//! Policies as `check`, `compile` and `explain` read them: once, from files and directories named on the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use enforcer_core::enforce::root::Root;
use enforcer_core::links::{Linked, LookUps};
use enforcer_core::policy::{ParsedFile, Policy, PolicyError, PolicyId, SeccompPolicy, parse};
use enforcer_core::ruleset::{Postures, Ruleset};

use crate::store::{policy_files, read, read_from};
use crate::term::{complain, render};

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

/// Stands for stdin, where a file is named.
pub const STDIN: &str = "-";

/// The same as [`load`], where [`STDIN`] is read, once, up to the length of a file.
///
/// # Errors
/// For the first file or directory that cannot be read.
pub fn load_or_stdin(paths: &[PathBuf]) -> Result<Vec<Input>, Unreadable> {
    let (stdin, files): (Vec<_>, Vec<_>) = paths.iter().cloned().partition(|path| path == Path::new(STDIN));
    let mut inputs = load(&files)?;
    if !stdin.is_empty() {
        let path = PathBuf::from("<stdin>");
        let text = read_from(std::io::stdin());
        let text = text.map_err(|source| Unreadable { path: path.clone(), source })?;
        let parsed = parse("<stdin>", &text);
        inputs.push(Input { path, text, parsed });
    }
    Ok(inputs)
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
        let ParsedFile { policies, seccomp, .. } = &input.parsed;
        for id in policies.iter().map(Policy::id).chain(seccomp.iter().map(SeccompPolicy::id)) {
            match seen.get(id) {
                Some(first) => duplicates.push((id.clone(), first.to_path_buf(), input.path.clone())),
                None => {
                    seen.insert(id, &input.path);
                }
            }
        }
    }
    duplicates
}

/// The namespace's postures over those of the command line, as the daemon has them.
#[must_use]
pub fn namespace_postures(inputs: &[Input], namespace: &str, node: Postures) -> Postures {
    let mut namespaces = inputs.iter().flat_map(|input| &input.parsed.namespaces);
    namespaces.find(|one| one.name() == namespace).map_or(node, |one| one.over(node))
}

/// The rules with the links that are in the image whose root is at `dir`, as a container is armed.
///
/// # Errors
/// When `--root` is no directory that can be opened.
pub fn with_links(ruleset: &Ruleset, dir: &Path) -> Result<(Root, Linked), String> {
    let root = Root::at(dir).map_err(|error| format!("--root: cannot open `{}`: {error}", dir.display()))?;
    let found: BTreeMap<_, _> = root.look_up(&LookUps::of(ruleset)).into_iter().collect();
    let linked = ruleset.with_links(|path| found.get(path).cloned().unwrap_or_default());
    Ok((root, linked))
}

/// Prints the errors of the policies, if there are any. A verdict by half of them would be a wrong one.
///
/// # Errors
/// When a policy has errors or is defined twice, or there is none.
pub fn refuse_bad(inputs: &[Input]) -> Result<(), String> {
    refuse_wrong(inputs)?;
    if is_empty(inputs) {
        return Err(
            "there is no policy in what --policy names; policies are in *.yaml, *.yml and *.json files"
                .into(),
        );
    }
    Ok(())
}

/// Whether there is no policy in them.
#[must_use]
pub fn is_empty(inputs: &[Input]) -> bool {
    policies(inputs).next().is_none() && seccomp(inputs).next().is_none()
}

/// The same as [`refuse_bad`] where there may be no policy.
///
/// # Errors
/// When a policy has errors or is defined twice.
pub fn refuse_wrong(inputs: &[Input]) -> Result<(), String> {
    let errors: Vec<String> = errors(inputs).map(|(error, text)| render(error, text)).collect();
    errors.iter().for_each(complain);
    match errors.len() {
        0 => {}
        1 => return Err("the policies have an error".into()),
        number => return Err(format!("the policies have {number} errors")),
    }
    if let Some((policy, first, second)) = duplicates(inputs).first() {
        return Err(format!(
            "the policy `{policy}` is defined in `{}` and in `{}`",
            first.display(),
            second.display()
        ));
    }
    Ok(())
}

/// Every seccomp policy of the inputs.
pub fn seccomp(inputs: &[Input]) -> impl Iterator<Item = &SeccompPolicy> {
    inputs.iter().flat_map(|input| &input.parsed.seccomp)
}

/// Every policy of the inputs, but for those about seccomp.
pub fn policies(inputs: &[Input]) -> impl Iterator<Item = &Policy> {
    inputs.iter().flat_map(|input| &input.parsed.policies)
}

/// Every error of the inputs, with the text it is in.
pub fn errors(inputs: &[Input]) -> impl Iterator<Item = (&PolicyError, &str)> {
    inputs.iter().flat_map(|input| input.parsed.errors.iter().map(|error| (error, input.text.as_str())))
}
