//! `crds`: the custom resource definitions of the policies' kinds, as a cluster takes them.

use std::path::Path;

use anyhow::Context as _;
use enforcer_core::policy::{Kind, crd, crd_plural};

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

fn print() -> anyhow::Result<()> {
    for kind in Kind::ALL {
        say(format!("---\n{}", text(kind)?));
    }
    Ok(())
}

fn write(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    for kind in Kind::ALL {
        let path = dir.join(format!("{}.yaml", crd_plural(kind)));
        std::fs::write(&path, format!("{HEAD}{}", text(kind)?))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

fn text(kind: Kind) -> anyhow::Result<String> {
    serde_yaml::to_string(&crd(kind)).with_context(|| format!("cannot write the definition of {kind}"))
}
