//! `seccomp systemd`: seccomp policies on the services of a host without a container runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use enforcer_core::policy::SeccompPolicy;
use enforcer_core::seccomp::{Arch, Base, Node, SyscallName, compile};

use super::unit::{ADMIN, FILE_NAME, Units, entries, names};
use super::{dropin, libseccomp};
use crate::cli::SystemdArgs;
use crate::exit::{Exit, chain};
use crate::input;
use crate::term::{BAD, GOOD, WARN, complain, paint, say};

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
    let units = match Units::new(&args.root) {
        Ok(units) => units,
        Err(error) => return fail(&format!("cannot read the units: {error}"), Exit::No),
    };
    let by_unit = by_unit(&policies, &units);
    if by_unit.is_empty() && !args.remove {
        complain(format!("{}: no policy names a service (`spec.services`)\n", paint(WARN, "warning")));
    }
    let mut wanted = BTreeMap::new();
    let mut gaps = false;
    for (service, policies) in by_unit {
        match text(&policies, &node, &units, &service) {
            Ok((text, told)) => {
                for gap in told {
                    complain(format!("{}: {service}: {gap}\n", paint(WARN, "gap")));
                    gaps = true;
                }
                wanted.insert(service, text);
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

/// The units that policies name, by their real names, each with its policies. A unit that has drop-ins of another name as
/// well, as an instance those of its template, does not see those of ours behind its own, which has the same file name: it
/// gets the policies of both.
fn by_unit<'a>(policies: &[&'a SeccompPolicy], units: &Units) -> BTreeMap<String, Vec<&'a SeccompPolicy>> {
    let real = |policy: &SeccompPolicy| -> BTreeSet<String> {
        policy.services().iter().map(|service| units.real_name(service)).collect()
    };
    let named: Vec<(&SeccompPolicy, BTreeSet<String>)> =
        policies.iter().map(|policy| (*policy, real(policy))).collect();
    let all: BTreeSet<String> = named.iter().flat_map(|(_, units)| units.iter().cloned()).collect();
    let together = |unit: &String| {
        let has = names(unit);
        let of = named.iter().filter(|(_, units)| has.iter().any(|name| units.contains(name)));
        of.map(|(policy, _)| *policy).collect()
    };
    all.iter().map(|unit| (unit.clone(), together(unit))).collect()
}

/// The drop-in of a unit, and its gaps. Every name is written: distributions teach an older libseccomp newer names, so that its
/// version does not tell which it has. systemd says in its log which it does not know, and goes on without.
fn text(
    policies: &[&SeccompPolicy],
    node: &Node,
    units: &Units,
    unit: &str,
) -> Result<(String, Vec<String>), String> {
    let profile = compile(policies, &Base::Unconfined, node).map_err(|error| chain(&error))?;
    let own = units.read(unit).map_err(|error| format!("cannot read the unit `{unit}`: {error}"))?;
    let family = node.arch.family();
    let names = SyscallName::all().filter(|name| family.iter().any(|arch| name.number(*arch).is_some()));
    let (settings, lacks) = dropin::settings(&profile.oci, names.map(SyscallName::as_str), family, &own);
    let names: Vec<String> = policies.iter().map(|policy| policy.id().to_string()).collect();
    let text = format!(
        "# Made by `nri-enforcer seccomp systemd` of {}; changes are lost.\n# Profile {}\n{settings}",
        names.join(", "),
        profile.digest(),
    );
    let gaps = profile.gaps.iter().map(ToString::to_string).chain(lacks.iter().map(ToString::to_string));
    Ok((text, gaps.collect()))
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
        let Some(unit) = unit else { continue };
        let path = dir.join(FILE_NAME);
        if wanted.contains_key(unit) || !path.exists() {
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

    /// Two drop-ins of ours for one unit have one name, and systemd reads one of them.
    #[test]
    fn policies_that_name_a_unit_in_several_ways_are_together_in_its_drop_in() {
        let dir = root(&[
            ("usr/lib/systemd/system/ssh.service", ""),
            ("usr/lib/systemd/system/getty@.service", ""),
        ]);
        std::os::unix::fs::symlink("ssh.service", dir.path().join("usr/lib/systemd/system/sshd.service"))
            .unwrap();
        let policy = |name: &str, services: &str| {
            format!(
                "---\napiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {{name: {name}}}\n\
                 spec: {{services: [{services}], syscalls: [mkdir], action: Block}}\n"
            )
        };
        let text = policy("a", "ssh, 'getty@'") + &policy("b", "sshd, 'getty@tty1'") + &policy("c", "web");
        let parsed = enforcer_core::policy::parse("p.yaml", &text);
        assert_eq!(parsed.errors, []);
        let policies: Vec<&SeccompPolicy> = parsed.seccomp.iter().collect();
        let by_unit = by_unit(&policies, &Units::new(dir.path()).unwrap());
        let names = |policies: &Vec<&SeccompPolicy>| {
            policies.iter().map(|policy| policy.id().name.as_str()).collect::<Vec<_>>().concat()
        };
        let found: Vec<(&str, String)> =
            by_unit.iter().map(|(unit, policies)| (unit.as_str(), names(policies))).collect();
        let wanted = [
            ("getty@.service", "a"),
            ("getty@tty1.service", "ab"),
            ("ssh.service", "ab"),
            ("web.service", "c"),
        ];
        assert_eq!(found, wanted.map(|(unit, policies)| (unit, policies.to_owned())));
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
