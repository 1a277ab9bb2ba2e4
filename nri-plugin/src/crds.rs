//! `crds`: the custom resource definitions of the policies' kinds, and of what nodes report, as a cluster takes them.

use std::path::Path;

use anyhow::Context as _;
use enforcer_core::policy::{Kind, crd, crd_plural};
use serde_json::Value;

use crate::api::reports::definition;
use crate::cli::CrdsArgs;
use crate::exit::Exit;
use crate::term::{BAD, complain, paint, say};

const HEAD: &str = "# Made by `nri-enforcer crds`; changes by hand are lost.\n";

/// Prints the definitions, or writes them into a directory.
pub fn run(args: &CrdsArgs) -> Exit {
    let done = match &args.dir {
        Some(dir) => write(dir),
        None => print(),
    };
    match done {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(format!("{}: {error:#}\n", paint(BAD, "error")));
            Exit::No
        }
    }
}

/// Each definition, by the plural of its kind.
fn all() -> impl Iterator<Item = (&'static str, Value)> {
    let policies = Kind::ALL.into_iter().map(|kind| (crd_plural(kind), crd(kind)));
    policies.chain([(definition::PLURAL, definition::crd())])
}

fn print() -> anyhow::Result<()> {
    for (plural, crd) in all() {
        say(format!("---\n{}", text(plural, &crd)?));
    }
    Ok(())
}

fn write(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    for (plural, crd) in all() {
        let path = dir.join(format!("{plural}.yaml"));
        std::fs::write(&path, format!("{HEAD}{}", text(plural, &crd)?))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

fn text(plural: &str, crd: &Value) -> anyhow::Result<String> {
    serde_yaml::to_string(crd).with_context(|| format!("cannot write the definition of {plural}"))
}
