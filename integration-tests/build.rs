//! Compiles the programs of `programs/` that container images and guests are made of.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// Makes a program static, as nearly all are, so that it runs in any root.
const STATIC: &[&str] = &["-static", "-fno-stack-protector"];

/// Name, source (a file, or a folder of them), and flags beyond the common ones.
const PROGRAMS: &[(&str, &str, &[&[&str]])] = &[
    ("act", "act.c", &[STATIC]),
    ("args", "args.c", &[STATIC, &["-lpthread"]]),
    ("cost", "cost.c", &[STATIC]),
    ("evade", "evade", &[STATIC, &["-lpthread"]]),
    ("first", "first.c", &[STATIC, &["-nostdlib", "-fcf-protection=none"]]),
    ("goal", "goal.c", &[STATIC, &["-nostdlib", "-fcf-protection=none"]]),
    ("goal-dynamic", "goal.c", &[&["-DDYNAMIC"]]),
    ("nothing", "nothing.c", &[STATIC, &["-nostdlib", "-fcf-protection=none"]]),
    ("pause", "pause.c", &[STATIC, &["-nostdlib"]]),
    ("sys", "sys.c", &[STATIC, &["-nostdlib", "-fcf-protection=none"]]),
    ("probe", "probe.c", &[STATIC, &["-lpthread"]]),
    ("visit", "visit.c", &[STATIC]),
];

fn main() -> io::Result<()> {
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    println!("cargo::rerun-if-changed=programs");
    for (name, source, flags) in PROGRAMS {
        let target = Path::new(&out).join(name);
        let status = Command::new(env::var("CC").unwrap_or_else(|_| "gcc".into()))
            .args(["-Wall", "-Wextra", "-Werror", "-O2", "-s", "-fno-ident"])
            .args(["-Wl,--build-id=none", "-o"])
            .arg(&target)
            .args(sources(&Path::new("programs").join(source))?)
            .args(flags.concat())
            .status()
            .map_err(|e| io::Error::other(format!("gcc cannot be run ({e}); `make setup` installs it")))?;
        if !status.success() || fs::metadata(&target)?.len() == 0 {
            return Err(io::Error::other(format!("{source} does not compile: {status}")));
        }
    }
    Ok(())
}

fn sources(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = fs::read_dir(path)?.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "c"));
    files.sort();
    Ok(files)
}
