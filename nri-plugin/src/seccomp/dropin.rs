//! A profile in systemd's words: `SystemCallFilter=` and its kin, in a drop-in for one service.
//!
//! | profile | the unit's own filter | drop-in |
//! |---|---|---|
//! | denies what no entry names | none | `SystemCallFilter=` with what is allowed, then `~` with what is denied |
//! | denies what no entry names | some | `SystemCallFilter=~` with every name that is denied |
//! | allows what no entry names | | `SystemCallFilter=~` with what is denied |
//! | logs | | `SystemCallLog=` |
//! | leaves architectures out | says nothing of them | `SystemCallArchitectures=` |
//!
//! What a drop-in says is added to what is there. systemd takes what stands behind `~` away from a list of what is allowed,
//! and adds it to a list of what is denied, so that a filter of the unit's own holds besides. What would be added to a list
//! of what is allowed would be allowed; so would `@default`, which systemd puts on such a list by itself, were it not taken
//! away. A name behind `~` may have an answer of its own, but not the one that all else gets: libseccomp takes no rule that
//! is like the default, and the service would not start.
//!
//! systemd has no conditions on arguments: the strictest that is said of a system call holds for all of its calls. Whatever a
//! drop-in does not say as the profile does is a [`Lack`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use enforcer_core::seccomp::oci::LinuxSeccomp;
use enforcer_core::seccomp::{Action, Arch};
use nix::errno::Errno;

use super::unit::{List, Unit};

/// How many bytes of names a line has at most.
const WIDTH: usize = 100;
/// What systemd does behind the filter to start the program, and what every program does to end.
const NEEDED: [&str; 3] = ["execve", "exit", "exit_group"];
/// What systemd does besides, behind the filter, for a service of `Type=exec`: it tells itself that the program starts now.
const NEEDED_BY_EXEC: &str = "write";

/// What a drop-in does not say as the profile does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// Conditions on the arguments of a system call: it gets the strictest of its entries.
    Condition(String),
    /// A system call without which the service does not start, or end. It is not denied.
    Needed(String),
    /// The unit has a list of what is denied, and what no list names passes.
    Unlisted,
    /// Architectures that the unit allows and the profile does not.
    Architectures(BTreeSet<String>),
    /// A drop-in that is read after ours, or in its place, says something about system calls, too.
    After(PathBuf, String),
    /// Settings with commands that systemd runs without any filter.
    Unfiltered(BTreeSet<String>),
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Condition(name) => write!(
                f,
                "systemd has no conditions on arguments: the strictest that is said about `{name}` counts for all of its calls"
            ),
            Self::Needed(name) => write!(f, "the service does not start, or end, without `{name}`: it is not denied"),
            Self::Unlisted => f.write_str(
                "the unit has a list of what is denied (`SystemCallFilter=~`), beside which none of what is allowed can \
                 stand: system calls that are newer than this program pass; take that list out of the unit",
            ),
            Self::Architectures(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                write!(
                    f,
                    "the unit allows architectures that the policies leave out ({}): they stay; take them out of its \
                     `SystemCallArchitectures=`",
                    names.join(" ")
                )
            }
            Self::After(path, what) => write!(
                f,
                "`{}` is read after our drop-in, or in its place, and has `{what}`: it may undo what the policies say; \
                 give the file a name before `{}`",
                path.display(),
                super::unit::FILE_NAME
            ),
            Self::Unfiltered(settings) => {
                let settings: Vec<String> = settings.iter().map(|key| format!("`{key}=`")).collect();
                write!(
                    f,
                    "systemd runs commands of {} without any filter, because of a `+` before the program or \
                     `PermissionsStartOnly=`: no policy holds for them",
                    settings.join(", ")
                )
            }
        }
    }
}

/// The settings, and what they lack. `known` are the system calls that can be named, `family` the architectures that the
/// machine has, its own first, and `unit` what the unit says by itself.
#[must_use]
pub fn settings(
    profile: &LinuxSeccomp,
    known: impl IntoIterator<Item = &'static str>,
    family: &[Arch],
    unit: &Unit,
) -> (String, BTreeSet<Lack>) {
    let mut lacks: BTreeSet<Lack> =
        unit.after.iter().map(|(path, what)| Lack::After(path.clone(), what.clone())).collect();
    if !unit.unfiltered.is_empty() {
        lacks.insert(Lack::Unfiltered(unit.unfiltered.clone()));
    }
    let default = profile.default_action.with(profile.default_errno_ret);
    let actions = actions(profile, known, unit.writes, &mut lacks);
    let whitelist = !default.passes();
    let mut text = String::from("[Service]\n");
    let mut rest = None; // the answer of what is on no list
    match (whitelist, unit.list) {
        (true, None) => {
            let allowed = actions.iter().filter(|(_, action)| action.passes());
            list(&mut text, "SystemCallFilter=", allowed.map(|(name, _)| (*name).to_owned()));
            let denied = actions.values().filter(|action| !action.passes()).copied();
            let one = commonest(denied).unwrap_or(default);
            let _infallible = writeln!(text, "SystemCallErrorNumber={}", answer(one));
            rest = Some(one);
        }
        (true, Some(List::Denied)) => drop(lacks.insert(Lack::Unlisted)),
        (_, Some(List::Allowed)) => rest = Some(unit.answer),
        (false, None | Some(List::Denied)) => {}
    }
    let rest = rest.map(answer);
    let denied = actions.iter().filter(|(_, action)| !action.passes());
    let denied = denied.map(|(name, action)| match answer(*action) {
        answer if rest.as_ref() == Some(&answer) => (*name).to_owned(),
        answer => format!("{name}:{answer}"),
    });
    list(&mut text, "SystemCallFilter=~", denied);
    if default == Action::Log {
        text.push_str("SystemCallLog=@known\n");
    } else {
        let logged = actions.iter().filter(|(_, action)| **action == Action::Log);
        list(&mut text, "SystemCallLog=", logged.map(|(name, _)| (*name).to_owned()));
    }
    text += &architectures(profile, family, unit, &mut lacks);
    (text, lacks)
}

/// What happens to each system call that can be named, whatever its arguments. `writes`: systemd writes behind the filter.
fn actions<'a>(
    profile: &'a LinuxSeccomp,
    known: impl IntoIterator<Item = &'static str>,
    writes: bool,
    lacks: &mut BTreeSet<Lack>,
) -> BTreeMap<&'a str, Action> {
    let default = profile.default_action.with(profile.default_errno_ret);
    let mut named: BTreeMap<&str, Action> = BTreeMap::new();
    for entry in &profile.syscalls {
        let action = entry.action.with(entry.errno_ret);
        for name in &entry.names {
            let before = named.get(name.as_str()).copied();
            let strictest = before.map_or(action, |before| before.strictest(action));
            // what a condition leaves over gets the default
            let action = if entry.args.is_empty() {
                strictest
            } else {
                lacks.insert(Lack::Condition(name.clone()));
                strictest.strictest(default)
            };
            named.insert(name, action);
        }
    }
    let action = |name: &'static str| {
        let action = named.get(name).copied().unwrap_or(default);
        let needed = NEEDED.contains(&name) || writes && name == NEEDED_BY_EXEC;
        if needed && !action.passes() {
            lacks.insert(Lack::Needed(name.to_owned()));
            return (name, Action::Allow);
        }
        (name, action)
    };
    known.into_iter().map(action).collect()
}

/// `SystemCallArchitectures=`, where the profile leaves some out. A unit that says it itself is left alone: whatever is added
/// to its list is allowed.
fn architectures(profile: &LinuxSeccomp, family: &[Arch], unit: &Unit, lacks: &mut BTreeSet<Lack>) -> String {
    let native = family.first().copied();
    let left: Vec<Arch> = profile.architectures.iter().filter_map(|name| Arch::by_oci_name(name)).collect();
    let allowed = |one: &Arch| left.contains(one) || Some(*one) == native;
    if left.is_empty() || family.iter().all(allowed) {
        return String::new();
    }
    if let Some(own) = &unit.architectures {
        let known: BTreeSet<String> = family
            .iter()
            .filter(|one| allowed(one))
            .map(|one| arch(*one).to_owned())
            .chain(["native".to_owned()])
            .collect();
        let more: BTreeSet<String> = own.difference(&known).cloned().collect();
        if !more.is_empty() {
            lacks.insert(Lack::Architectures(more));
        }
        return String::new();
    }
    let names: Vec<&str> = std::iter::once("native").chain(left.into_iter().map(arch)).collect();
    format!("SystemCallArchitectures={}\n", names.join(" "))
}

/// The answer that most have; of several the strictest.
fn commonest(actions: impl Iterator<Item = Action>) -> Option<Action> {
    let mut counts: BTreeMap<Action, usize> = BTreeMap::new();
    actions.for_each(|action| *counts.entry(action).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(action, _)| action)
}

/// Writes a list on as many lines as it takes; systemd puts them together.
fn list(text: &mut String, key: &str, names: impl Iterator<Item = String>) {
    let mut line = String::new();
    for name in names {
        if !line.is_empty() && line.len() + name.len() >= WIDTH {
            let _infallible = writeln!(text, "{key}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&name);
    }
    if !line.is_empty() {
        let _infallible = writeln!(text, "{key}{line}");
    }
}

/// What systemd calls a denial.
fn answer(action: Action) -> String {
    match action {
        Action::Errno(errno) => match Errno::from_raw(i32::from(errno)) {
            Errno::UnknownErrno => errno.to_string(),
            known => format!("{known:?}"),
        },
        // of what a policy can say this leaves ends of the process
        _ => "kill".into(),
    }
}

/// What systemd calls an architecture.
const fn arch(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86-64",
        Arch::X86 => "x86",
        Arch::X32 => "x32",
        Arch::Aarch64 => "arm64",
        Arch::Arm => "arm",
        Arch::Riscv64 => "riscv64",
        Arch::Loongarch64 => "loongarch64",
        Arch::Ppc64le => "ppc64-le",
        Arch::S390x => "s390x",
        Arch::S390 => "s390",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: [Arch; 3] = [Arch::X86_64, Arch::X86, Arch::X32];

    fn settings_of(json: &str, unit: &Unit) -> (String, Vec<String>) {
        let profile = serde_json::from_str(json).unwrap();
        let known =
            ["execve", "exit", "exit_group", "getpid", "mkdir", "mount", "personality", "read", "write"];
        let (text, lacks) = settings(&profile, known, &FAMILY, unit);
        (text, lacks.iter().map(ToString::to_string).collect())
    }

    fn with(list: List, answer: Action) -> Unit {
        Unit { list: Some(list), answer, ..Unit::default() }
    }

    const WHITELIST: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["execve", "exit", "exit_group", "read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["write"], "action": "SCMP_ACT_LOG"},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;
    const ARCHITECTURES: &str = "SystemCallArchitectures=native x86-64 x32\n";

    #[test]
    fn a_whitelist_is_a_list_of_what_is_allowed_less_what_is_denied() {
        // systemd itself allows getpid
        let expected =
            "[Service]\nSystemCallFilter=execve exit exit_group read write\nSystemCallErrorNumber=EPERM\n\
            SystemCallFilter=~getpid mkdir mount:ENOSYS personality\nSystemCallLog=write\n"
                .to_owned();
        let got = settings_of(WHITELIST, &Unit::default());
        assert_eq!(got, (expected + ARCHITECTURES, vec![]));
    }

    #[test]
    fn what_a_service_cannot_do_without_is_not_denied_and_that_is_told() {
        let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;
        for unit in [Unit::default(), with(List::Allowed, Action::KillProcess)] {
            let (text, lacks) = settings_of(json, &unit);
            assert_eq!(lacks.iter().filter(|lack| lack.contains("it is not denied")).count(), 3, "{lacks:?}");
            let (_, denied) = text.split_once("SystemCallFilter=~").unwrap();
            assert!(
                denied.starts_with("getpid") && !denied.contains("exec") && !denied.contains("exit"),
                "{text}"
            );
        }
        let (text, _) = settings_of(json, &Unit::default());
        assert!(text.contains("\nSystemCallFilter=execve exit exit_group\n"), "never an empty list: {text}");
    }

    #[test]
    fn a_service_that_systemd_waits_for_may_write_and_commands_without_a_filter_are_told() {
        let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mount", "write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
        let (text, lacks) = settings_of(json, &Unit::default());
        assert!(text.contains("write:EPERM") && lacks.is_empty(), "{text}");
        let unfiltered = ["ExecStartPre".to_owned()].into();
        let (text, lacks) = settings_of(json, &Unit { writes: true, unfiltered, ..Unit::default() });
        assert_eq!(text, "[Service]\nSystemCallFilter=~mount:EPERM\n");
        assert!(lacks.len() == 2 && lacks[0].contains("`write`: it is not denied"), "{lacks:?}");
        assert!(lacks[1].contains("`ExecStartPre=` without any filter"), "{lacks:?}");
    }

    #[test]
    fn a_filter_of_the_units_own_holds_besides() {
        let expected = "[Service]\nSystemCallFilter=~getpid:EPERM mkdir:EPERM mount:ENOSYS personality:EPERM\n\
            SystemCallLog=write\n";
        let (text, lacks) = settings_of(WHITELIST, &with(List::Allowed, Action::KillProcess));
        assert_eq!((text, lacks.len()), (expected.to_owned() + ARCHITECTURES, 0));
        // a rule that is like the default keeps the service from starting
        let (text, _) = settings_of(WHITELIST, &with(List::Allowed, Action::Errno(1)));
        assert_eq!(text, expected.replace(":EPERM", "") + ARCHITECTURES);
        // what nobody knows yet passes a list of what is denied
        let (text, lacks) = settings_of(WHITELIST, &with(List::Denied, Action::Errno(1)));
        assert_eq!(text, expected.to_owned() + ARCHITECTURES);
        assert!(lacks.len() == 1 && lacks[0].contains("newer than this program pass"), "{lacks:?}");
    }

    #[test]
    fn architectures_are_left_alone_unless_the_policies_leave_some_out() {
        let all = r#""SCMP_ARCH_X86_64", "SCMP_ARCH_X86""#;
        let (text, lacks) = settings_of(&WHITELIST.replace(r#""SCMP_ARCH_X86_64""#, all), &Unit::default());
        assert!(!text.contains("Architectures") && lacks.is_empty(), "{text}");
        for (own, more) in [("native", None), ("native x86-64 x32", None), ("native x86", Some("(x86)"))] {
            let architectures = Some(own.split(' ').map(str::to_owned).collect());
            let (text, lacks) = settings_of(WHITELIST, &Unit { architectures, ..Unit::default() });
            assert!(!text.contains("Architectures"), "whatever is added is allowed: {text}");
            assert_eq!(lacks.len(), usize::from(more.is_some()), "{own}: {lacks:?}");
            assert!(more.is_none_or(|more| lacks[0].contains(more)));
        }
    }

    #[test]
    fn what_is_read_after_the_drop_in_is_told() {
        let after = [("zzz.conf".into(), "SystemCallFilter=".to_owned())].into();
        let (_, lacks) = settings_of(WHITELIST, &Unit { after, ..Unit::default() });
        assert!(lacks.len() == 1 && lacks[0].contains("`zzz.conf`") && lacks[0].contains("SystemCallFilter"));
    }

    #[test]
    fn denials_have_their_errno_and_conditions_are_told() {
        let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["mount"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#;
        let (text, lacks) = settings_of(json, &Unit::default());
        assert_eq!(text, "[Service]\nSystemCallFilter=~mkdir:EACCES mount:kill personality:EPERM\n");
        assert!(lacks.len() == 1 && lacks[0].contains("`personality`"));
        // allowed only under a condition: not at all
        let json = json
            .replace("ACT_ALLOW", "ACT_ERRNO")
            .replace("\"SCMP_ACT_ERRNO\",\n             \"args", "\"SCMP_ACT_ALLOW\",\n             \"args");
        let (text, _) = settings_of(&json, &Unit::default());
        assert!(text.contains(" personality "), "denied: {text}");
    }

    #[test]
    fn a_profile_that_logs_all_logs_all() {
        let (text, _) = settings_of(r#"{"defaultAction": "SCMP_ACT_LOG"}"#, &Unit::default());
        assert_eq!(text, "[Service]\nSystemCallLog=@known\n");
    }
}
