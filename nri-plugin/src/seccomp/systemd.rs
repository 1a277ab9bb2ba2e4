//! `seccomp systemd`: seccomp policies on the services of a host without a container runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use enforcer_core::policy::SeccompPolicy;
use enforcer_core::seccomp::{Arch, Base, Node, SyscallName, compile};

use super::dropin;
use super::libseccomp;
use crate::cli::SystemdArgs;
use crate::exit::{Exit, chain};
use crate::input;
use crate::term::{BAD, GOOD, WARN, complain, paint, say};

/// The name of our drop-ins.
pub const FILE_NAME: &str = "50-nri-enforcer-seccomp.conf";
/// Where the administrator's units are.
const ADMIN: &str = "etc/systemd/system";
/// Where units are, the first that has one wins.
const UNITS: [&str; 5] = [
    ADMIN,
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Does it, and says what was done.
pub fn run(args: &SystemdArgs) -> Exit {
    let inputs = match input::load(&args.policies) {
        Ok(inputs) => inputs,
        Err(error) => return fail(&chain(&error), Exit::BadInput),
    };
    if !args.remove
        && let Err(problem) = input::refuse_bad(&inputs)
    {
        return fail(&problem, Exit::BadInput);
    }
    let Some(arch) = Arch::native() else {
        return fail("seccomp profiles are not made for this architecture", Exit::No);
    };
    let node = Node { arch, libseccomp: libseccomp::of_runtime() };
    let policies: Vec<&SeccompPolicy> = input::seccomp(&inputs).collect();
    let services: BTreeSet<&String> = policies.iter().flat_map(|policy| policy.services()).collect();
    if services.is_empty() && !args.remove {
        complain(format!("{}: no policy names a service (`spec.services`)\n", paint(WARN, "warning")));
    }
    let mut wanted = BTreeMap::new();
    let mut gaps = false;
    for service in services {
        let of = |policy: &&&SeccompPolicy| policy.services().contains(service);
        let policies: Vec<&SeccompPolicy> = policies.iter().filter(of).copied().collect();
        match text(&policies, &node, &args.root, service) {
            Ok((text, told)) => {
                for gap in told {
                    complain(format!("{}: {service}: {gap}\n", paint(WARN, "gap")));
                    gaps = true;
                }
                wanted.insert(service.clone(), text);
            }
            Err(error) => return fail(&error, Exit::No),
        }
    }
    if gaps && args.strict {
        return fail("nothing is written: the policies cannot be expressed completely (--strict)", Exit::No);
    }
    match apply(&args.root, &wanted, args.dry_run) {
        Ok(changed) if changed.is_empty() => Exit::Ok,
        Ok(changed) => {
            if !args.dry_run {
                let units: Vec<&str> = changed.iter().map(String::as_str).collect();
                say(format!(
                    "now run: systemctl daemon-reload && systemctl try-restart {}\n",
                    units.join(" ")
                ));
            }
            Exit::Ok
        }
        Err((path, error)) => fail(&format!("`{}`: {error}", path.display()), Exit::No),
    }
}

fn fail(problem: &str, exit: Exit) -> Exit {
    complain(format!("{}: {problem}\n", paint(BAD, "error")));
    exit
}

/// The drop-in of a unit, and its gaps.
fn text(
    policies: &[&SeccompPolicy],
    node: &Node,
    root: &Path,
    unit: &str,
) -> Result<(String, Vec<String>), String> {
    let profile = compile(policies, &Base::Unconfined, node).map_err(|error| chain(&error))?;
    let own = own_filter(root, unit).map_err(|error| format!("cannot read the unit `{unit}`: {error}"))?;
    let names =
        SyscallName::all().filter(|name| name.number(node.arch).is_some() && name.known_to(node.libseccomp));
    let (settings, lacks) = dropin::settings(&profile.oci, names.map(SyscallName::as_str), own);
    let names: Vec<String> = policies.iter().map(|policy| policy.id().to_string()).collect();
    let text = format!(
        "# Made by `nri-enforcer seccomp systemd` of {}; changes are lost.\n# Profile {}\n{settings}",
        names.join(", "),
        profile.digest(),
    );
    let gaps = profile.gaps.iter().map(ToString::to_string).chain(lacks.iter().map(ToString::to_string));
    Ok((text, gaps.collect()))
}

/// Whether a unit filters system calls by itself, in its file or in a drop-in that is not ours.
fn own_filter(root: &Path, unit: &str) -> io::Result<bool> {
    let template = unit.split_once('@').map(|(name, rest)| {
        let suffix = rest.rsplit_once('.').map_or("service", |(_, suffix)| suffix);
        format!("{name}@.{suffix}")
    });
    let names: Vec<&str> = std::iter::once(unit).chain(template.as_deref()).collect();
    for name in &names {
        let mut files = UNITS.iter().map(|dir| root.join(dir).join(name));
        if let Some(file) = files.find(|file| file.exists()) {
            if filters(&file)? {
                return Ok(true);
            }
            break;
        }
    }
    for name in names.into_iter().chain(["service"]) {
        for dir in UNITS.iter().map(|dir| root.join(dir).join(format!("{name}.d"))) {
            for file in entries(&dir)? {
                let ours = file.file_name().is_some_and(|name| name == FILE_NAME);
                if !ours && file.extension().is_some_and(|end| end == "conf") && filters(&file)? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

fn filters(file: &Path) -> io::Result<bool> {
    let text = String::from_utf8_lossy(&fs::read(file)?).into_owned();
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "SystemCallFilter").then(|| !value.trim().is_empty())
    };
    Ok(text.lines().filter_map(value).any(|set| set))
}

/// What is in a directory; nothing where it is not there.
fn entries(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(BTreeSet::new())
        }
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Makes the drop-ins below `root` what is wanted, and says so; the units that have to be restarted.
fn apply(
    root: &Path,
    wanted: &BTreeMap<String, String>,
    dry: bool,
) -> Result<BTreeSet<String>, (PathBuf, io::Error)> {
    let admin = root.join(ADMIN);
    let mut changed = BTreeSet::new();
    let tell = |style, done: &str, would: &str, path: &Path| {
        let what = if dry { would } else { done };
        say(format!("{} {}\n", paint(style, what), path.display()));
    };
    for (unit, text) in wanted {
        let path = admin.join(format!("{unit}.d")).join(FILE_NAME);
        if fs::read(&path).is_ok_and(|before| before == text.as_bytes()) {
            tell(GOOD, "unchanged", "unchanged", &path);
        } else {
            if !dry {
                super::profiles::put(&admin.join(format!("{unit}.d")), FILE_NAME, text)
                    .map_err(|error| (path.clone(), error))?;
            }
            tell(GOOD, "written", "would write", &path);
            changed.insert(unit.clone());
        }
        if dry {
            say(text.clone());
        }
    }
    for dir in entries(&admin).map_err(|error| (admin.clone(), error))? {
        let unit = dir.file_name().and_then(|name| name.to_str()?.strip_suffix(".d"));
        let Some(unit) = unit.filter(|unit| !wanted.contains_key(*unit)) else { continue };
        let path = dir.join(FILE_NAME);
        if !path.exists() {
            continue;
        }
        if !dry {
            fs::remove_file(&path).map_err(|error| (path.clone(), error))?;
            let _not_empty = fs::remove_dir(&dir); // others' drop-ins stay
        }
        tell(WARN, "removed", "would remove", &path);
        changed.insert(unit.to_owned());
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_unit_that_filters_by_itself_is_seen() {
        const FILTER: &str = "[Service]\nExecStart=/bin/x\nSystemCallFilter=@system-service\n";
        const NONE: &str = "[Service]\nExecStart=/bin/x\nSystemCallFilter=\n# SystemCallFilter=read\n";
        let own = |files: &[(&str, &str)], unit: &str| own_filter(root(files).path(), unit).unwrap();
        assert!(!own(&[], "web.service"));
        assert!(own(&[("usr/lib/systemd/system/web.service", FILTER)], "web.service"));
        assert!(!own(&[("usr/lib/systemd/system/web.service", NONE)], "web.service"));
        // the administrator's file is the unit
        let both = [("usr/lib/systemd/system/web.service", FILTER), ("etc/systemd/system/web.service", NONE)];
        assert!(!own(&both, "web.service"));
        assert!(own(&[("usr/lib/systemd/system/web.service.d/a.conf", FILTER)], "web.service"));
        assert!(own(&[("etc/systemd/system/service.d/a.conf", FILTER)], "web.service"));
        assert!(own(&[("lib/systemd/system/getty@.service", FILTER)], "getty@tty1.service"));
        let ours = format!("etc/systemd/system/web.service.d/{FILE_NAME}");
        assert!(!own(&[(&ours, FILTER)], "web.service"));
    }

    #[test]
    fn drop_ins_come_stay_and_go() {
        let dir = root(&[("etc/systemd/system/db.service.d/other.conf", "[Service]\n")]);
        let admin = dir.path().join(ADMIN);
        let both = [("web.service", "1\n"), ("db.service", "2\n")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let both = BTreeMap::from(both);
        let units = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(apply(dir.path(), &both, true).unwrap(), units(&["db.service", "web.service"]));
        assert!(!admin.join("web.service.d").exists(), "only told");
        assert_eq!(apply(dir.path(), &both, false).unwrap().len(), 2);
        assert_eq!(fs::read_to_string(admin.join("web.service.d").join(FILE_NAME)).unwrap(), "1\n");
        assert_eq!(apply(dir.path(), &both, false).unwrap(), units(&[]), "nothing to do");
        let web = BTreeMap::from([("web.service".to_owned(), "1\n".to_owned())]);
        assert_eq!(apply(dir.path(), &web, false).unwrap(), units(&["db.service"]));
        assert!(admin.join("db.service.d/other.conf").exists());
        assert_eq!(apply(dir.path(), &BTreeMap::new(), false).unwrap(), units(&["web.service"]));
        assert!(!admin.join("web.service.d").exists());
    }
}
