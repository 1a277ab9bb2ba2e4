//! `seccomp systemd`: drop-ins for the services of a host, as systemd itself understands them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use enforcer_core::policy::parse;
use enforcer_core::seccomp::{self, Arch, Base};
use lab::oci::Runtime;

use super::{cli, policy, program};

/// A program of the lab's own systemd, whatever this machine has.
fn systemd(program: &str) -> Result<Command> {
    let systemd = lab::cache::artefact("systemd")?;
    let libraries = [
        "usr/lib/x86_64-linux-gnu",
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu/systemd",
        "lib/systemd",
    ];
    let libraries: Vec<String> =
        libraries.iter().map(|dir| systemd.join(dir).display().to_string()).collect();
    let mut command = Command::new(systemd.join("lib64/ld-linux-x86-64.so.2"));
    command.args(["--library-path", &libraries.join(":")]).arg(systemd.join(program));
    Ok(command)
}

fn verify(root: &Path, unit: &str) -> Result<()> {
    let root = format!("--root={}", root.display());
    let output = systemd("usr/bin/systemd-analyze")?.args(["--man=no", &root, "verify", unit]).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // names that its libseccomp does not have
    let mut other = said.lines().filter(|line| !line.contains("Failed to parse system call, ignoring: "));
    ensure!(output.status.success() && other.next().is_none(), "{unit}: {said}");
    Ok(())
}

/// What systemd makes of the settings of a unit.
#[derive(Debug, Default)]
struct Filter {
    /// What is on the list, with the answers that are no answer of all; `None`: everything is allowed.
    list: Option<BTreeMap<String, Option<String>>>,
    /// Whether it is a list of what is allowed.
    allows: bool,
    /// What happens to the rest.
    answer: String,
    architectures: BTreeSet<String>,
}

impl Filter {
    /// What happens to a system call: an errno, `kill`, or nothing.
    fn denies(&self, name: &str) -> Option<&str> {
        match self.list.as_ref().map(|list| list.get(name)) {
            None => None,
            Some(Some(Some(answer))) => Some(answer),
            Some(listed) => (listed.is_some() != self.allows).then_some(&*self.answer),
        }
    }

    /// Whether libseccomp takes it: no rule may be like the default.
    fn loads(&self) -> bool {
        !self.allows || !self.list.iter().flatten().any(|(_, answer)| answer.as_ref() == Some(&self.answer))
    }
}

/// Has systemd itself read the units below a root, as at a start of the system, and tell what it understood.
fn understood(root: &Path) -> Result<BTreeMap<String, Filter>> {
    let dirs = ["etc/systemd/system", "run/systemd/generator", "usr/lib/systemd/system"];
    let dirs: Vec<String> = dirs.iter().map(|dir| root.join(dir).display().to_string()).collect();
    let output = systemd("lib/systemd/systemd")?
        .args(["--test", "--system", "--unit=all.target", "--log-target=console", "--no-pager"])
        .env_clear()
        .env("SYSTEMD_UNIT_PATH", dirs.join(":"))
        .env("XDG_RUNTIME_DIR", root)
        .stdin(Stdio::null())
        .uid(65534) // it does so for nobody but root
        .gid(65534)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = || format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {}", output.status, told());
    let mut units = BTreeMap::new();
    for unit in text.split("-> Unit ").skip(1) {
        let Some((name, settings)) = unit.split_once(':') else { continue };
        let mut filter = Filter::default();
        for (key, value) in settings.lines().filter_map(|line| line.trim().split_once(": ")) {
            match key {
                "SystemCallFilter" => {
                    filter.allows = !value.starts_with('~');
                    let words = value.trim_start_matches('~').split_whitespace();
                    let word = |word: &str| match word.split_once(':') {
                        Some((name, answer)) => (name.to_owned(), Some(answer.to_owned())),
                        None => (word.to_owned(), None),
                    };
                    filter.list = Some(words.map(word).collect());
                }
                "SystemCallErrorNumber" => value.clone_into(&mut filter.answer),
                "SystemCallArchitectures" => {
                    filter.architectures = value.split_whitespace().map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        units.insert(name.to_owned(), filter);
    }
    ensure!(units.contains_key("all.target"), "{}", told());
    Ok(units)
}

/// A system with units, and the policies for them.
struct Services {
    root: tempfile::TempDir,
}

impl Services {
    /// Services with what stands under `[Service]` in the unit and in drop-ins (`UNIT.service.d/NAME.conf`).
    fn new(files: &[(&str, &str)]) -> Result<Self> {
        let root = tempfile::tempdir()?;
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?; // the one who reads them is nobody
        let units = root.path().join("usr/lib/systemd/system");
        fs::create_dir_all(&units)?;
        fs::create_dir_all(root.path().join("bin"))?;
        fs::copy(program()?, root.path().join("bin/true"))?; // some program
        let systemd = lab::cache::artefact("systemd")?;
        for target in ["sysinit.target", "basic.target", "shutdown.target"] {
            fs::copy(systemd.join("lib/systemd/system").join(target), units.join(target))?;
        }
        // systemd's own, and with it its version
        let (from, to) =
            (systemd.join("usr/lib/x86_64-linux-gnu"), root.path().join("usr/lib/x86_64-linux-gnu"));
        fs::create_dir_all(&to)?;
        symlink(fs::read_link(from.join("libseccomp.so.2"))?, to.join("libseccomp.so.2"))?;
        let mut all = String::from("[Unit]\n");
        for (path, settings) in files {
            let (dir, more) = match path.contains('/') {
                true => ("etc/systemd/system", ""),
                false => ("usr/lib/systemd/system", "ExecStart=/bin/true\n"),
            };
            let file = root.path().join(dir).join(path);
            fs::create_dir_all(file.parent().context("no directory")?)?;
            fs::write(file, format!("[Service]\n{more}{settings}\n"))?;
            let unit = path.split('/').next().unwrap_or_default().trim_end_matches(".d");
            if !unit.ends_with("@.service") && !unit.ends_with("-.service") {
                all += &format!("Wants={unit}\n"); // templates and prefixes are no units
            }
        }
        fs::write(units.join("all.target"), all)?;
        Ok(Self { root })
    }

    /// Writes the drop-ins for a policy; what was said besides.
    fn apply(&self, policies: &str, arguments: &[&str]) -> Result<(i32, String, String)> {
        let file = self.root.path().join("p.yaml");
        fs::write(&file, policies)?;
        let (file, root) = (file.display().to_string(), self.root.path().display().to_string());
        cli(&[&["seccomp", "systemd", "--policy", &file, "--root", &root], arguments].concat())
    }
}

/// A policy for services.
fn for_services(name: &str, services: &str, body: &str) -> String {
    policy(name, body).replace("  selector: {matchLabels: {app: web}}", &format!("  services: [{services}]"))
}

/// Every unit with every policy, as systemd itself understands them: what passes is what both let through, and what the
/// policy denies has its errno.
#[test]
fn a_unit_with_a_drop_in_does_what_it_and_the_policies_allow_both() -> Result<()> {
    const UNITS: [(&str, &str); 9] = [
        ("none", ""),
        ("allow", "SystemCallFilter=@system-service\nSystemCallFilter=~@resources"),
        (
            "eperm",
            "SystemCallFilter=@system-service reboot\nSystemCallErrorNumber=EPERM\nSystemCallArchitectures=native",
        ),
        ("deny", "SystemCallFilter=~@clock @mount:EACCES chdir"),
        ("reset", "SystemCallFilter=@basic-io\nSystemCallFilter="),
        ("over", ""),
        ("over-deny", ""),
        ("pre-fix", ""),
        ("in@stance", ""),
    ];
    const DROP_INS: [(&str, &str); 4] = [
        ("over.service.d/override.conf", "SystemCallFilter=@system-service"),
        ("over-deny.service.d/override.conf", "SystemCallFilter=~@debug"),
        ("pre-.service.d/pre.conf", "SystemCallFilter=@basic-io"),
        ("in@.service.d/in.conf", "SystemCallFilter=~@debug"),
    ];
    const POLICIES: [(&str, &str); 3] = [
        (
            "whitelist",
            "  action: Allow\n  arch: [x86_64]\n  syscalls: ['@basic-io', clone, clone3, fork, vfork, wait4, '@mount', chdir, futex, exit, exit_group, \
             'mkdir:EACCES', 'ptrace:kill']",
        ),
        (
            "block",
            "  action: Block\n  syscalls: [reboot, mkdir, 'swapon:ENOSYS', {name: getpid, errno: kill}, 'openat:EACCES']",
        ),
        ("audit", "  action: Audit\n  syscalls: [uname]"),
    ];
    let native = seccomp::SyscallName::all().filter(|name| name.number(Arch::X86_64).is_some());
    let native: Vec<seccomp::SyscallName> = native.collect();
    let files: Vec<(String, &str)> = UNITS
        .iter()
        .map(|(unit, settings)| (format!("{unit}.service"), *settings))
        .chain(DROP_INS.iter().map(|(path, settings)| ((*path).to_owned(), *settings)))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, settings)| (&**path, *settings)).collect();
    let services = Services::new(&files)?;
    let libseccomp = Runtime::libseccomp()?;
    let before = understood(services.root.path())?;
    let names: Vec<&str> = UNITS.iter().map(|(unit, _)| *unit).collect();
    let mut wrong = Vec::new();
    for (policy, body) in POLICIES {
        let text = for_services(policy, &names.join(", "), body);
        let (status, out, err) = services.apply(&text, &[])?;
        ensure!(status == 0, "{status}: {out}{err}");
        let after = understood(services.root.path())?;
        let node = seccomp::Node { arch: Arch::X86_64, libseccomp };
        let base = seccomp::BaseProfile::new(&Base::Unconfined, &node)?;
        let parsed = parse("p.yaml", &text);
        let policies: Vec<_> = parsed.seccomp.iter().collect();
        for unit in names.iter().map(|unit| format!("{unit}.service")) {
            let (own, both) = (before.get(&unit).context("not read")?, after.get(&unit).context("not read")?);
            if !both.loads() {
                wrong.push(format!("{policy}, {unit}: no service with this filter starts"));
            }
            if own.architectures != both.architectures
                && !(own.architectures.is_empty() && policy == "whitelist")
            {
                wrong.push(format!(
                    "{policy}, {unit}: {:?}, before {:?}",
                    both.architectures, own.architectures
                ));
            }
            for syscall in &native {
                let name = syscall.as_str();
                let number = syscall.number(Arch::X86_64).context("no number")?;
                let call = seccomp::Call { arch: Arch::X86_64, number, args: [0; 6] };
                let action = seccomp::decide(&policies, &base, Arch::X86_64, &call).action;
                let denied = match action {
                    _ if name == "execve" && policy == "whitelist" => None, // and told
                    _ if action.passes() => None,
                    seccomp::Action::Errno(errno) => seccomp::errno::name(errno),
                    _ => Some("kill"),
                };
                let found = both.denies(name);
                let right = match (denied, own.denies(name)) {
                    // of two answers any will do
                    (Some(_), Some(_)) => found.is_some(),
                    (Some(answer), None) => found == Some(answer),
                    (None, own) => found == own,
                };
                // what this machine's libseccomp has no name for cannot be on a list of what is denied
                let named = syscall.known_to(libseccomp);
                if !right && name != "vserver" && (named || both.allows) {
                    wrong.push(format!(
                        "{policy}, {unit}: {name}: {found:?}; the policy {denied:?}, the unit {:?}",
                        own.denies(name)
                    ));
                }
            }
        }
        let told = err.matches("`execve`: it is not denied").count();
        ensure!(told == if policy == "whitelist" { UNITS.len() } else { 0 }, "{policy}: {err}");
        // what nobody knows passes a list of what is denied: told, for each unit that has one
        let told: BTreeSet<&str> = err
            .lines()
            .filter(|line| line.contains("newer than this program pass"))
            .filter_map(|line| line.split(": ").nth(1)?.strip_suffix(".service"))
            .collect();
        let wanted: BTreeSet<&str> = match policy {
            "whitelist" => ["deny", "over-deny", "in@stance"].into(),
            _ => BTreeSet::new(),
        };
        ensure!(told == wanted, "{policy}: {told:?}\n{err}");
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn drop_ins_for_services_are_good_systemd() -> Result<()> {
    let services = Services::new(&[
        ("web.service", ""),
        ("db.service", "SystemCallFilter=@system-service"),
        ("cron.service", ""),
        ("cron.service.d/zzz.conf", "SystemCallFilter=swapon"),
    ])?;
    let root = services.root.path();
    let text = for_services(
        "p",
        "web, db.service",
        "  arch: [x86_64, x86]\n  syscalls:\n    - {names: ['@system-service'], action: Allow}\n    \
         - {names: [mkdir], action: Block, errno: EACCES}\n    - {name: uname, action: Audit}",
    );
    let deny = for_services(
        "q",
        "cron",
        "  syscalls: [reboot, 'swapon:ENOSYS', {name: kexec_load, errno: kill}]\n  action: Block",
    );
    let all = text + &deny;
    // what is read after ours may undo it
    let (status, _, err) = services.apply(&all, &["--strict"])?;
    ensure!(status == 1 && err.contains("zzz.conf` is read after our drop-in"), "{status}: {err}");
    ensure!(!root.join("etc/systemd/system/db.service.d").exists(), "nothing is written");
    fs::remove_file(root.join("etc/systemd/system/cron.service.d/zzz.conf"))?;
    let (status, out, err) = services.apply(&all, &["--strict"])?;
    ensure!(status == 0 && out.matches("written").count() == 3, "{status}\n{out}{err}");
    ensure!(!out.contains("removed"), "{out}");
    for unit in ["web.service", "db.service", "cron.service"] {
        verify(root, unit)?;
    }
    let drop_in = |unit: &str| {
        fs::read_to_string(root.join(format!("etc/systemd/system/{unit}.d/zz-nri-enforcer-seccomp.conf")))
    };
    ensure!(drop_in("web.service")?.contains("\nSystemCallFilter=") && err.is_empty(), "{err}");
    ensure!(drop_in("db.service")?.contains("mkdir:EACCES"), "its own filter holds besides");
    ensure!(drop_in("cron.service")?.contains("swapon:ENOSYS"), "{}", drop_in("cron.service")?);
    // the second time there is nothing to do; then everything goes
    let (status, out, _) = services.apply(&all, &[])?;
    ensure!(status == 0 && out.matches("unchanged").count() == 3 && !out.contains("written"), "{out}");
    let (status, out, _) = cli(&["seccomp", "systemd", "--remove", "--root", &root.display().to_string()])?;
    ensure!(status == 0 && out.matches("removed").count() == 3, "{out}");
    ensure!(drop_in("web.service").is_err());
    Ok(())
}

/// Units that have the drop-in of a template or a prefix keep their own filters, whatever list that is, and start.
#[test]
fn what_units_of_a_template_or_a_prefix_say_themselves_holds_besides() -> Result<()> {
    const UNITS: [(&str, &str); 7] = [
        ("web@.service", ""),
        ("web@plain.service.d/a.conf", ""),
        ("web@deny.service.d/a.conf", "SystemCallFilter=~@mount"),
        ("web@allow.service.d/a.conf", "SystemCallFilter=@basic-io execve\nSystemCallErrorNumber=EPERM"),
        ("foo-plain.service", ""),
        ("foo-deny.service", "SystemCallFilter=~@mount"),
        ("foo-allow.service", "SystemCallFilter=@basic-io execve\nSystemCallErrorNumber=EPERM"),
    ];
    for (policy, body, blocks) in [
        (
            "allow",
            "  action: Allow\n  syscalls: ['@basic-io', execve, exit, exit_group, mount, chdir]",
            "mkdir",
        ),
        ("block", "  action: Block\n  syscalls: [read]", "read"),
    ] {
        let services = Services::new(&UNITS)?;
        let before = understood(services.root.path())?;
        let (status, out, err) = services.apply(&for_services(policy, "'web@', 'foo-'", body), &[])?;
        ensure!(status == 0, "{status}: {out}{err}");
        let after = understood(services.root.path())?;
        for unit in ["web@plain", "web@deny", "web@allow", "foo-plain", "foo-deny", "foo-allow"] {
            let unit = format!("{unit}.service");
            let (own, both) = (before.get(&unit).context("not read")?, after.get(&unit).context("not read")?);
            ensure!(both.loads(), "{policy}, {unit}: no service with this filter starts\n{out}");
            ensure!(both.denies(blocks).is_some(), "{policy}, {unit}: the policy is not there");
            for name in ["mount", "chdir", "read", "mkdir"] {
                ensure!(
                    own.denies(name).is_none() || both.denies(name).is_some(),
                    "{policy}, {unit}: {name} passes"
                );
            }
        }
    }
    Ok(())
}

/// systemd gives a link that leads out of its directories its own name: so must we.
#[test]
fn a_linked_unit_and_an_alias_get_their_drop_ins() -> Result<()> {
    let services = Services::new(&[
        ("real.service", ""),
        ("linked.service.d/a.conf", ""),
        ("alias.service.d/a.conf", ""),
    ])?;
    let root = services.root.path();
    fs::create_dir_all(root.join("opt"))?;
    fs::write(root.join("opt/real.service"), "[Service]\nExecStart=/bin/true\n")?;
    // systemd itself is not confined to the root here
    symlink("../../../opt/real.service", root.join("etc/systemd/system/linked.service"))?;
    symlink("../../../usr/lib/systemd/system/real.service", root.join("etc/systemd/system/alias.service"))?;
    for (service, unit) in [("linked", "linked.service"), ("alias", "real.service")] {
        let body = "  action: Block\n  syscalls: ['mkdir:EACCES']";
        let (status, out, err) = services.apply(&for_services("p", service, body), &["--strict"])?;
        ensure!(status == 0, "{status}: {out}{err}");
        for (name, filter) in understood(root)?.iter().filter(|(name, _)| name.ends_with(".service")) {
            let denied = (name == unit).then_some("EACCES");
            ensure!(filter.denies("mkdir") == denied, "{service}: {name}: {filter:?}\n{out}");
        }
    }
    Ok(())
}

/// What of a unit no drop-in can reach, or would keep it from starting.
#[test]
fn commands_without_a_filter_and_what_systemd_itself_needs_are_told() -> Result<()> {
    let services = Services::new(&[
        ("plain.service", "ExecStartPre=-/bin/true\nType=simple"),
        ("plus.service", "ExecStartPre=-+/bin/true"),
        ("start-only.service", "ExecStopPost=/bin/true\nPermissionsStartOnly=yes"),
        ("waits.service", "Type=exec"),
    ])?;
    let apply = |service: &str, syscall: &str| {
        let body = format!("  action: Block\n  syscalls: ['{syscall}:EACCES']");
        services.apply(&for_services("p", service, &body), &["--strict"])
    };
    for (service, syscall, gap) in [
        ("plus", "mkdir", "`ExecStartPre=` without any filter"),
        ("start-only", "mkdir", "`ExecStopPost=` without any filter"),
        ("waits", "write", "without `write`: it is not denied"),
    ] {
        let (status, _, err) = apply(service, syscall)?;
        ensure!(status == 1 && err.contains(gap), "{service}: {status}: {err}");
        ensure!(!services.root.path().join(format!("etc/systemd/system/{service}.service.d")).exists());
    }
    for (service, syscall) in [("plain", "write"), ("waits", "mkdir")] {
        let (status, out, err) = apply(service, syscall)?;
        ensure!(status == 0 && err.is_empty(), "{service}: {status}: {out}{err}");
        let units = understood(services.root.path())?;
        let filter = units.get(&format!("{service}.service")).context("not read")?;
        ensure!(filter.denies(syscall) == Some("EACCES"), "{service}: {filter:?}");
    }
    Ok(())
}

/// The libseccomp of a container runtime, which may be another one, says nothing of what systemd can name.
#[test]
fn names_that_systemd_lacks_are_told_whatever_a_runtime_has() -> Result<()> {
    let services = Services::new(&[("web.service", "")])?;
    let root = services.root.path();
    let runc = root.join("bin/runc");
    fs::write(&runc, "#!/bin/sh\necho 'libseccomp: 2.6.0'\n")?;
    fs::set_permissions(&runc, fs::Permissions::from_mode(0o755))?;
    let policy = root.join("p.yaml");
    fs::write(&policy, for_services("p", "web", "  action: Block\n  syscalls: [mseal]"))?;
    let run = |more: &[&str]| -> Result<(bool, String)> {
        let path = format!("{}:{}", root.join("bin").display(), std::env::var("PATH")?);
        let output = Command::new(program()?)
            .args(["seccomp", "systemd", "--strict", "--dry-run", "--policy"])
            .args([policy.as_os_str(), "--root".as_ref(), root.as_os_str()])
            .args(more)
            .env("PATH", path)
            .stdin(Stdio::null())
            .output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (done, err) = run(&[])?;
    ensure!(!done && err.contains("does not have `mseal`"), "{err}");
    let (done, err) = run(&["--libseccomp", "2.6.0"])?;
    ensure!(done && err.is_empty(), "{err}");
    fs::remove_file(root.join("usr/lib/x86_64-linux-gnu/libseccomp.so.2"))?;
    let (done, err) = run(&[])?;
    ensure!(!done && err.contains("2.5.0 is assumed (see --libseccomp)") && err.contains("`mseal`"), "{err}");
    Ok(())
}

/// The unit of the daemon itself: systemd understands each word of it, and has the programs that it names.
#[test]
fn systemd_understands_the_unit_of_the_daemon() -> Result<()> {
    const UNIT: &str = include_str!("../../../manifests/systemd/nri-enforcer.service");
    let services = Services::new(&[])?;
    let root = services.root.path();
    let programs = ["usr/local/bin/nri-enforcer", "bin/kill"].map(|path| root.join(path));
    for path in &programs {
        fs::create_dir_all(path.parent().context("no directory")?)?;
        fs::copy(program()?, path)?; // some program
    }
    let path = root.join("etc/systemd/system/nri-enforcer.service");
    fs::create_dir_all(path.parent().context("no directory")?)?;
    fs::write(&path, UNIT)?;
    verify(root, "nri-enforcer.service")?;
    fs::write(&path, UNIT.replace("LockPersonality=", "LockPersonalities="))?;
    ensure!(verify(root, "nri-enforcer.service").is_err(), "a word that is none is not noticed");
    Ok(())
}
