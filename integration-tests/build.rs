//! Compiles the static programs of `programs/` that container images and guests are made of.

use std::path::Path;
use std::process::Command;
use std::{env, fs, io};

/// Name, and flags beyond the common ones.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("cost", &[]),
    ("first", &["-nostdlib", "-fcf-protection=none"]),
    ("nothing", &["-nostdlib", "-fcf-protection=none"]),
    ("pause", &["-nostdlib"]),
    ("probe", &["-lpthread"]),
];

fn main() -> io::Result<()> {
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    println!("cargo::rerun-if-changed=programs");
    for (name, flags) in PROGRAMS {
        let source = format!("programs/{name}.c");
        let target = Path::new(&out).join(name);
        let status = Command::new(env::var("CC").unwrap_or_else(|_| "gcc".into()))
            .args([
                "-Wall",
                "-Wextra",
                "-Werror",
                "-O2",
                "-static",
                "-s",
                "-fno-stack-protector",
                "-fno-ident",
            ])
            .args(["-Wl,--build-id=none", "-o"])
            .arg(&target)
            .arg(&source)
            .args(*flags)
            .status()
            .map_err(|e| io::Error::other(format!("gcc cannot be run ({e}); `make setup` installs it")))?;
        if !status.success() || fs::metadata(&target)?.len() == 0 {
            return Err(io::Error::other(format!("{source} does not compile: {status}")));
        }
    }
    Ok(())
}
