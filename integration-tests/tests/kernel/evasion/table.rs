//! What is expected, where it is not the rule: reached without a policy, denied under each.

use super::corpus::{Kind, Under};

/// How a trick is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It gets what it is after.
    Reached,
    /// By us, with an event.
    Denied,
    /// By the kernel, with this errno.
    Refused(i32),
}

use Outcome::{Denied, Reached, Refused};

const EINVAL: i32 = 22;
const EACCES: i32 = 13;
const EBADF: i32 = 9;
const ENOTTY: i32 = 25;
const ENOSYS: i32 = 38;

/// Name, then the outcome without a policy, under the Block rule, under the whitelist; and why.
const EXCEPTIONS: &[(&str, [Outcome; 3], &str)] = &[
    ("hard link made before", [Reached, Denied, Reached], "another path, which the whitelist allows"),
    ("kept over a policy: mapping", [Reached; 3], "no kernel has a hook when a page is read"),
    (
        "exec by hard link",
        [Reached, Reached, Denied],
        "a process rule says which paths are executed, not who makes others",
    ),
    ("exec by another name", [Reached, Reached, Denied], "the same"),
    ("exec of a copy", [Reached, Reached, Denied], "the same: who may read a program may copy it"),
    ("exec of a memfd", [Reached, Reached, Denied], "the same"),
    ("exec of a deleted copy", [Reached, Reached, Denied], "the same"),
    ("ld.so COPY", [Reached, Reached, Denied], "the same"),
    ("read and mprotect PROT_EXEC", [Reached; 3], "an interpreter reads programs, as any file"),
    ("btrfs snapshot", [Refused(ENOTTY), Denied, Denied], "there is no btrfs here"),
    ("ftruncate by a reader", [Refused(EINVAL); 3], "needs a descriptor for writing"),
    ("fallocate by a reader", [Refused(EBADF); 3], "the same"),
    ("io_uring fallocate by a reader", [Refused(EBADF); 3], "the same"),
    ("shared writable mapping", [Refused(EACCES); 3], "the same"),
    ("shared mapping made writable", [Refused(EACCES); 3], "the same"),
];

/// Tricks about processes outside share their pid namespace.
const HOST_PID: &[&str] = &[
    "pidfd_getfd from outside",
    "ptrace attach outside",
    "ptrace seize outside",
    "process_vm_writev outside",
    "process_vm_readv outside",
    "/proc/PID/mem outside",
    "setns mnt",
    "setns net",
    "setns uts",
    "setns ipc",
    "/proc/PID/root outside",
];

/// Tricks about what is found in the image when a container is armed.
pub fn by_all_names(name: &str) -> bool {
    name == "hard link made before"
}

/// Tricks with what was opened before the policy came. The container runs when it comes.
pub fn armed_late(name: &str) -> bool {
    name.starts_with("old descriptor") || waits(name)
}

/// Those of them that open it themselves, and wait for the policy.
pub fn waits(name: &str) -> bool {
    name.starts_with("kept over a policy")
}

pub fn host_pid(name: &str) -> bool {
    HOST_PID.contains(&name)
}

pub fn expected(name: &str, kind: Kind, under: Under, release: &str) -> Outcome {
    if name == "fchmodat2" && release.starts_with("6.1.") {
        return Refused(ENOSYS); // since 6.6
    }
    let exception = EXCEPTIONS.iter().find(|(exception, ..)| *exception == name);
    match (exception, under) {
        (Some((_, [without, ..], _)), Under::Nothing) => *without,
        (Some((_, [_, block, _], _)), Under::Block) => *block,
        (Some((_, [.., allow], _)), Under::Allow) => *allow,
        (None, Under::Nothing) => Reached,
        (None, _) if kind == Kind::Harmless => Reached,
        (None, _) => Denied,
    }
}

/// No name in a table may be one that no trick has.
pub fn check_names(tricks: &[(Kind, String)]) {
    let known = |name: &&str| tricks.iter().any(|(_, trick)| trick == name);
    let names =
        EXCEPTIONS.iter().map(|(name, ..)| *name).chain(HOST_PID.iter().copied()).chain(["fchmodat2"]);
    let unknown: Vec<_> = names.filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "no such tricks: {unknown:?}");
    for (at, (_, name)) in tricks.iter().enumerate() {
        assert!(!tricks[at + 1..].iter().any(|(_, other)| other == name), "two tricks are called `{name}`");
    }
}
