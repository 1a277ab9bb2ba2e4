//! What enforcement may cost: every promise in one place.

use std::time::Duration;

use super::Subject;
use super::rules::Kind;
use crate::vm::Kernel;

/// Instructions that an open and close may take more, at depth 2, 5, 10 and 20, on tmpfs of Linux 6.12.
const HOST: [i64; 4] = [320; 4];
/// The same for block lists of paths and directories, whatever their number.
const BLOCK: [i64; 4] = [850, 1_000, 1_300, 1_600];
/// The same for allow lists and patterns, where each component may have to be looked at.
const EVERY_COMPONENT: [i64; 4] = [1_100, 1_500, 2_400, 4_200];
/// The same where rules are beside each component: the worst case that is stated.
const WORST: [i64; 4] = [1_700, 2_400, 3_500, 5_600];
/// The same at depth 10 on Linux 6.1, whatever the rules; nothing else is promised about opens there.
const OLD_AT_10: i64 = 2_600;
/// An overlay may take this much more than tmpfs.
const OVERLAY: i64 = 250;
/// vfork, exec and wait.
const EXEC: i64 = 3_000;
/// connect of a UDP socket.
const CONNECT: i64 = 350;
/// How far the medians of two runs that measure the same are apart: what nothing attached takes is one of them.
pub const NOISE: i64 = 8;
/// The same file opened again, where verdicts are cached.
const AGAIN: i64 = 500;

/// Ten thousand rules may cost this much of what one costs, in per cent.
pub const FLAT_IN_RULES: i64 = 110;
/// A thousand containers and policies may cost this much of what one costs, in per cent.
pub const FLAT_IN_CONTAINERS: i64 = 105;
/// Kernel memory in bytes: for a typical ruleset (of 50 rules), and for each further container that shares it.
pub const RULESET_MEMORY: i64 = 64 << 10;
/// See above.
pub const CONTAINER_MEMORY: i64 = 512;

/// A thousand policies compiled for a thousand containers.
pub const COMPILED: Duration = Duration::from_secs(1);
/// The rules of a thousand containers exchanged for shared ones, in nanoseconds of the guest: instructions, and what it
/// waits for.
pub const UPDATE: i64 = 100_000_000;
/// The same for rulesets of 50 rules that nobody shares: a thousand of them are compiled (some 80 % of it), written and
/// read back.
pub const UPDATE_EACH: i64 = 900_000_000;

/// A limit that is missed, with the reason. It is shown, and is no failure.
#[derive(Debug)]
pub struct Excuse {
    kernel: Kernel,
    /// What `Subject` shows begins with one of these.
    subjects: &'static [&'static str],
    /// The operation begins with this.
    operation: &'static str,
    /// Past this it is a failure all the same.
    pub up_to: i64,
    /// Why.
    pub reason: &'static str,
}

/// All of them.
const EXCUSES: &[Excuse] = &[
    Excuse {
        kernel: Kernel::V6_12,
        subjects: CONFINED,
        operation: "exec",
        up_to: 6_000,
        reason: "a child's identity is stored (about 1,100), and the program's opening, execution and three \
                 mappings are judged; an exec of a confined process that opens nothing else cannot do with less \
                 than about 3,100",
    },
    Excuse {
        kernel: Kernel::V6_1,
        subjects: CONFINED,
        operation: "exec",
        up_to: 12_000,
        reason: "besides, identities stand in a second map there, and kernel memory is read by calls that copy",
    },
    Excuse {
        kernel: Kernel::V6_1,
        subjects: &["anywhere"],
        operation: "tmpfs d10",
        up_to: 2_900,
        reason: "the path's end is read by calls that copy",
    },
    Excuse {
        kernel: Kernel::V6_12,
        subjects: &["wild"],
        operation: "",
        up_to: 7_000,
        reason: "nothing tells beforehand that such a pattern does not match: each byte of the path is looked at",
    },
    Excuse {
        kernel: Kernel::V6_12,
        subjects: &["deep"],
        operation: "",
        up_to: 5_600,
        reason: "each component that the rules share with the path is looked up among them",
    },
    Excuse {
        kernel: Kernel::V6_12,
        subjects: &["network"],
        operation: "connect",
        up_to: 3_400,
        reason: "the limit is about containers without rules on sockets; here each length of prefix is one look-up",
    },
    Excuse {
        kernel: Kernel::V6_1,
        subjects: &["network"],
        operation: "connect",
        up_to: 3_400,
        reason: "the same",
    },
];
/// Every confined subject, as it is shown.
const CONFINED: &[&str] =
    &["block", "allow", "glob", "anywhere", "whitelist", "wild", "deep", "near", "network"];

/// The excuse for a figure, if there is one.
pub fn excuse(kernel: Kernel, subject: Subject, operation: &str) -> Option<&'static Excuse> {
    let name = subject.to_string();
    EXCUSES.iter().find(|e| {
        e.kernel == kernel
            && e.subjects.iter().any(|subject| name.starts_with(subject))
            && operation.starts_with(e.operation)
    })
}

/// How many instructions more than the baseline an operation may take; `None` where nothing is promised.
pub fn limit(kernel: Kernel, subject: Subject, operation: &str) -> Option<i64> {
    let by_depth = match subject {
        Subject::Nothing | Subject::Landlock(_) | Subject::AppArmor(_) | Subject::Memory(_) => return None,
        Subject::Host => HOST,
        Subject::Confined(rules) | Subject::Crowd(rules, _)
            if matches!(rules.kind, Kind::Block | Kind::Network) =>
        {
            BLOCK
        }
        Subject::Confined(rules) | Subject::Crowd(rules, _) if rules.kind == Kind::Near => WORST,
        Subject::Confined(_) | Subject::Crowd(..) => EVERY_COMPONENT,
    };
    let words: Vec<_> = operation.split(' ').collect();
    match words.as_slice() {
        ["exec"] => Some(EXEC),
        ["connect"] => Some(CONNECT),
        [_, "again", _] => Some(AGAIN),
        [place, depth] => {
            let tmpfs = match (kernel, *depth) {
                (Kernel::V6_1, _) if matches!(subject, Subject::Confined(r) if r.kind == Kind::Near) => {
                    return None;
                }
                (Kernel::V6_1, "d10") if subject != Subject::Host => OLD_AT_10,
                (Kernel::V6_1, _) => return None,
                _ => {
                    let depths = ["d2", "d5", "d10", "d20"];
                    *by_depth.get(depths.iter().position(|d| d == depth)?)?
                }
            };
            Some(tmpfs + if *place == "overlay" { OVERLAY } else { 0 })
        }
        _ => None,
    }
}
