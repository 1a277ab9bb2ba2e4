//! A profile in systemd's words: `SystemCallFilter=` and its kin, in a drop-in for one service.
//!
//! | profile | drop-in |
//! |---|---|
//! | denies what no entry names | `SystemCallFilter=` with what is allowed |
//! | allows what no entry names | `SystemCallFilter=~` with what is denied, each with its errno |
//! | logs | `SystemCallLog=` |
//! | architectures | `SystemCallArchitectures=` |
//!
//! A unit that has a filter of its own keeps it, and both hold: the drop-in then names what is *not* allowed, since
//! systemd takes that away from a list of what is allowed, and adds it to a list of what is denied. (What it adds to a
//! list of what is allowed would be allowed.)
//!
//! systemd has no conditions on arguments, and one errno for all that is not on a list of what is allowed. Both are gaps
//! that err to the strict side. It always allows `@default`, which a process needs to start and to end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use enforcer_core::seccomp::oci::LinuxSeccomp;
use enforcer_core::seccomp::{Action, Arch};
use nix::errno::Errno;

/// How many bytes of names a line has at most.
const WIDTH: usize = 100;

/// What a drop-in does not say as the profile does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// Conditions on the arguments of a system call: it gets the strictest of its entries.
    Condition(String),
    /// The errno of a system call that is not on the list of what is allowed.
    Errno(String, Action),
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Condition(name) => write!(
                f,
                "systemd has no conditions on arguments: the strictest that is said about `{name}` counts for all of its calls"
            ),
            Self::Errno(name, action) => write!(
                f,
                "systemd has one answer for all that is not allowed: `{name}` does not get its own ({action})"
            ),
        }
    }
}

/// The settings, and what they lack. `known` are the system calls that can be named; `own_filter`: whether the unit has a
/// `SystemCallFilter=` of its own.
#[must_use]
pub fn settings(
    profile: &LinuxSeccomp,
    known: impl IntoIterator<Item = &'static str>,
    own_filter: bool,
) -> (String, BTreeSet<Lack>) {
    let default = profile.default_action.with(profile.default_errno_ret);
    let mut lacks = BTreeSet::new();
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
    let mut known: BTreeSet<&str> = known.into_iter().collect();
    known.extend(named.keys());
    let of = |name: &str| named.get(name).copied().unwrap_or(default);
    let mut text = String::from("[Service]\n");
    let allows = !default.passes();
    if allows && !own_filter {
        let allowed = known.iter().filter(|name| of(name).passes()).copied();
        list(&mut text, "SystemCallFilter=", allowed.map(str::to_owned));
        // an empty list would be no filter at all
        text.push_str(if known.iter().any(|name| of(name).passes()) {
            ""
        } else {
            "SystemCallFilter=exit_group\n"
        });
        let denied = || known.iter().map(|name| (*name, of(name))).filter(|(_, action)| !action.passes());
        let one = commonest(denied().map(|(_, action)| action)).unwrap_or(default);
        lacks.extend(
            denied()
                .filter(|(_, action)| *action != one)
                .map(|(name, action)| Lack::Errno(name.into(), action)),
        );
        let _infallible = writeln!(text, "SystemCallErrorNumber={}", answer(one));
    } else {
        let denied = known.iter().filter(|name| !of(name).passes());
        list(&mut text, "SystemCallFilter=~", denied.map(|name| format!("{name}:{}", answer(of(name)))));
    }
    if default == Action::Log {
        text.push_str("SystemCallLog=@known\n");
    } else {
        let logged = known.iter().filter(|name| of(name) == Action::Log);
        list(&mut text, "SystemCallLog=", logged.map(|name| (*name).to_owned()));
    }
    let arches = profile.architectures.iter().filter_map(|name| Arch::by_oci_name(name)).map(arch);
    let arches: Vec<&str> = std::iter::once("native").chain(arches).collect();
    if !profile.architectures.is_empty() {
        let _infallible = writeln!(text, "SystemCallArchitectures={}", arches.join(" "));
    }
    (text, lacks)
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

    fn settings_of(json: &str, own_filter: bool) -> (String, Vec<String>) {
        let profile = serde_json::from_str(json).unwrap();
        let known = ["exit_group", "mkdir", "mount", "personality", "read", "write"];
        let (text, lacks) = settings(&profile, known, own_filter);
        (text, lacks.iter().map(ToString::to_string).collect())
    }

    const WHITELIST: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["read", "exit_group"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["write"], "action": "SCMP_ACT_LOG"},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;

    #[test]
    fn a_whitelist_is_a_list_of_what_is_allowed() {
        let (text, lacks) = settings_of(WHITELIST, false);
        let expected = "[Service]\nSystemCallFilter=exit_group read write\nSystemCallErrorNumber=EPERM\n\
            SystemCallLog=write\nSystemCallArchitectures=native x86-64 x32\n";
        assert_eq!(text, expected);
        assert_eq!(lacks.len(), 1, "{lacks:?}");
        assert!(lacks[0].contains("`mount`") && lacks[0].contains("errno 38"));
    }

    #[test]
    fn a_filter_of_the_units_own_holds_besides() {
        let (text, lacks) = settings_of(WHITELIST, true);
        let expected = "[Service]\nSystemCallFilter=~mkdir:EPERM mount:ENOSYS personality:EPERM\n\
            SystemCallLog=write\nSystemCallArchitectures=native x86-64 x32\n";
        assert_eq!((text.as_str(), lacks.len()), (expected, 0));
    }

    #[test]
    fn denials_have_their_errno_and_conditions_are_told() {
        let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["mount"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#;
        let (text, lacks) = settings_of(json, false);
        assert_eq!(text, "[Service]\nSystemCallFilter=~mkdir:EACCES mount:kill personality:EPERM\n");
        assert!(lacks.len() == 1 && lacks[0].contains("`personality`"));
        // allowed only under a condition: not at all
        let json = json
            .replace("ACT_ALLOW", "ACT_ERRNO")
            .replace("\"SCMP_ACT_ERRNO\",\n             \"args", "\"SCMP_ACT_ALLOW\",\n             \"args");
        let (text, _) = settings_of(&json, false);
        assert!(!text.contains("personality"), "{text}");
        assert!(text.contains("SystemCallFilter=exit_group\n"), "never an empty list: {text}");
    }

    #[test]
    fn a_profile_that_logs_all_logs_all() {
        let (text, _) = settings_of(r#"{"defaultAction": "SCMP_ACT_LOG"}"#, false);
        assert_eq!(text, "[Service]\nSystemCallLog=@known\n");
    }
}
