//! `seccomp systemd`: seccomp policies on the services of a host without a container runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use enforcer_core::policy::SeccompPolicy;
use enforcer_core::seccomp::{Arch, Base, Node, SyscallName, compile};

use super::unit::{ADMIN, FILE_NAME, Unit, Units, entries};
use super::{dropin, libseccomp};
use crate::cli::{LibseccompVersion, SystemdArgs};
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
    let given = args.libseccomp.map(|LibseccompVersion(version)| version);
    let libseccomp = given.or_else(|| libseccomp::of_system(&args.root)).unwrap_or_else(|| {
        let (x, y, z) = libseccomp::OLDEST;
        // nothing is named then
        if args.remove {
            return libseccomp::OLDEST;
        }
        complain(format!(
            "{}: there is no libseccomp.so.2 whose version can be told: {x}.{y}.{z} is assumed (see --libseccomp)\n",
            paint(WARN, "warning")
        ));
        libseccomp::OLDEST
    });
    let node = Node { arch, libseccomp };
    let policies: Vec<&SeccompPolicy> = input::seccomp(&inputs).collect();
    let units = match Units::new(&args.root) {
        Ok(units) => units,
        Err(error) => return fail(&format!("cannot read the units: {error}"), Exit::No),
    };
    let by_unit = match by_unit(&policies, &units) {
        Ok(by_unit) => by_unit,
        Err(error) => return fail(&format!("cannot read the units: {error}"), Exit::No),
    };
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
                let units: Vec<String> = changed.iter().map(|unit| pattern(unit)).collect();
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

/// A unit for systemctl: in place of a template or a prefix, which never runs, all that have its drop-ins.
fn pattern(unit: &str) -> String {
    let all = unit.replace("-@", "-*@").replace("@.", "@*.").replace("-.", "-*.");
    if all == unit { all } else { format!("'{all}'") }
}

/// The units that get a drop-in, by their real names, each with its policies. That is each unit that policies name, and of
/// those that have the drop-ins of a template or a prefix each that says something else by itself than what it would have
/// ours of, or that other policies name: a unit does not see those behind its own, which has the same file name.
///
/// # Errors
/// When a unit cannot be read.
fn by_unit<'a>(
    policies: &[&'a SeccompPolicy],
    units: &Units,
) -> io::Result<BTreeMap<String, Vec<&'a SeccompPolicy>>> {
    let real = |policy: &SeccompPolicy| -> BTreeSet<String> {
        policy.services().iter().map(|service| units.real_name(service)).collect()
    };
    let named: Vec<BTreeSet<String>> = policies.iter().map(|policy| real(policy)).collect();
    let mut all: BTreeSet<String> = named.iter().flatten().cloned().collect();
    // which of the policies; and what the unit itself says
    let about = |unit: &str| -> io::Result<(Vec<usize>, Unit)> {
        let has = units.names(unit);
        let of = named.iter().enumerate().filter(|(_, units)| has.iter().any(|name| units.contains(name)));
        Ok((of.map(|(index, _)| index).collect(), units.read(unit)?))
    };
    let others = units.all();
    let mut others: Vec<(&String, Vec<String>)> =
        others.iter().map(|unit| (unit, units.names(unit))).collect();
    // one that gets its own may be the nearest of others then; some that are like that get theirs all the same
    loop {
        let mut more = BTreeSet::new();
        others.retain(|(unit, _)| !all.contains(*unit));
        for (unit, names) in &others {
            if let Some(nearest) = names.iter().find(|name| all.contains(*name))
                && about(unit)? != about(nearest)?
            {
                more.insert((*unit).clone());
            }
        }
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    let together = |unit: String| {
        let (indices, _) = about(&unit)?;
        let of = indices.iter().filter_map(|index| policies.get(*index).copied());
        Ok((unit, of.collect()))
    };
    all.into_iter().map(together).collect()
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

    /// The units that get a drop-in, each with the names of its policies. A policy: its name, and its services.
    fn drop_ins(dir: &Path, policies: &[(&str, &str)]) -> Vec<(String, String)> {
        let text = policies.iter().map(|(name, services)| {
            format!(
                "---\napiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {{name: {name}}}\n\
                 spec: {{services: [{services}], syscalls: [mkdir], action: Block}}\n"
            )
        });
        let parsed = enforcer_core::policy::parse("p.yaml", &text.collect::<String>());
        assert_eq!(parsed.errors, []);
        let policies: Vec<&SeccompPolicy> = parsed.seccomp.iter().collect();
        let found = by_unit(&policies, &Units::new(dir).unwrap()).unwrap();
        let names =
            |policies: Vec<&SeccompPolicy>| policies.iter().map(|one| one.id().name.as_str()).collect();
        found.into_iter().map(|(unit, policies)| (unit, names(policies))).collect()
    }

    fn wanted(units: &[(&str, &str)]) -> Vec<(String, String)> {
        units.iter().map(|(unit, policies)| (format!("{unit}.service"), (*policies).to_owned())).collect()
    }

    /// Two drop-ins of ours for one unit have one name, and systemd reads one of them.
    #[test]
    fn policies_that_name_a_unit_in_several_ways_are_together_in_its_drop_in() {
        let dir = root(&[
            ("usr/lib/systemd/system/ssh.service", ""),
            ("usr/lib/systemd/system/getty@.service", ""),
            ("usr/lib/systemd/system/real.service", ""),
        ]);
        for (link, target) in [("sshd", "ssh"), ("foo-x", "real")] {
            let link = dir.path().join(format!("usr/lib/systemd/system/{link}.service"));
            std::os::unix::fs::symlink(format!("{target}.service"), link).unwrap();
        }
        let policies = [("a", "ssh, 'getty@'"), ("b", "sshd, 'getty@tty1'"), ("c", "web"), ("d", "'foo-'")];
        let some = [("getty@", "a"), ("getty@tty1", "ab"), ("ssh", "ab"), ("web", "c")];
        let prefix = [&[("foo-", "d")][..], &some].concat();
        assert_eq!(drop_ins(dir.path(), &policies), wanted(&prefix), "`real` has those of its alias");
        // a drop-in of its own hides those that it has by its alias
        let policies = [&policies[..], &[("e", "real")]].concat();
        let real = [&[("foo-", "d"), some[0], some[1], ("real", "de")][..], &some[2..]].concat();
        assert_eq!(drop_ins(dir.path(), &policies), wanted(&real));
    }

    /// What a drop-in says depends on what the unit says by itself, and all that have a template's are other units.
    #[test]
    fn units_that_have_the_drop_in_of_a_template_or_a_prefix_get_their_own_where_they_differ() {
        const UNITS: &str = "usr/lib/systemd/system";
        let own = "[Service]\nSystemCallFilter=~@mount\n";
        let files = [
            ("web@.service", ""),
            ("web@a.service.d/a.conf", own),
            ("web@b.service.d/b.conf", "[Service]\nUser=web\n"),
            ("web@c.service", "[Service]\nExecStartPre=+/bin/x\n"),
            ("foo-a.service", own),
            ("foo-b.service", ""),
            ("foo-b-.service.d/b.conf", own),
            ("foo-b-a.service", ""),
            ("foo-b-b.service", ""),
            ("foo-b-b.service.d/b.conf", "[Service]\nSystemCallFilter=\n"),
            ("foo.service", own),
            ("bar-a@.service", ""),
            ("bar-@x.service.d/x.conf", own),
        ]
        .map(|(path, text)| (format!("{UNITS}/{path}"), text));
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let dir = root(&files);
        let policies = [("a", "'web@', 'bar-a@'"), ("b", "'foo-'")];
        let found = drop_ins(dir.path(), &policies);
        let expected = [
            ("bar-a@", "a"),
            ("bar-a@x", "a"),
            ("foo-", "b"),
            ("foo-a", "b"),
            ("foo-b-", "b"),
            ("foo-b-a", "b"), // unlike `foo-`; that it is like `foo-b-` is no harm
            ("foo-b-b", "b"),
            ("web@", "a"),
            ("web@a", "a"),
            ("web@c", "a"),
        ];
        assert_eq!(found, wanted(&expected));
    }

    #[test]
    fn what_has_the_drop_ins_of_a_template_or_a_prefix_is_to_be_restarted() {
        for (unit, units) in [
            ("a-b.service", "a-b.service"),
            ("web@a.service", "web@a.service"),
            ("web@.service", "'web@*.service'"),
            ("foo-.service", "'foo-*.service'"),
            ("foo-@.service", "'foo-*@*.service'"),
        ] {
            assert_eq!(pattern(unit), units);
        }
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
