//! The programs' tables of 32-bit system calls, against the names of all calls.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;

use enforcer_core::seccomp::Arch;
use enforcer_core::seccomp::table::SyscallName;

const SOURCE: &str = include_str!("../../bpf/src/compat.bpf.h");
/// `CALL_READ`
const READ: u32 = 0xffff;
/// `X32_OWN`
const X32_OWN: u32 = 512;
const X32_BIT: u32 = 0x4000_0000;

/// The numbers of what `ipc` does, in order (include/uapi/linux/ipc.h); those of `socketcall` begin at 1.
const IPC_NUMBERS: [u32; 12] = [1, 2, 3, 4, 11, 12, 13, 14, 21, 22, 23, 24];

/// What 64-bit programs call what only 32-bit programs have, where that is not the name without a suffix.
const OLDER: [(&str, &str); 23] = [
    ("_llseek", "lseek"),
    ("_newselect", "select"),
    ("fadvise64_64", "fadvise64"),
    ("fstatat64", "newfstatat"),
    ("mmap2", "mmap"),
    ("oldfstat", "fstat"),
    ("oldlstat", "lstat"),
    ("oldolduname", "uname"),
    ("oldstat", "stat"),
    ("olduname", "uname"),
    ("readdir", "getdents"),
    ("sgetmask", "rt_sigprocmask"),
    ("sigaction", "rt_sigaction"),
    ("signal", "rt_sigaction"),
    ("sigpending", "rt_sigpending"),
    ("sigprocmask", "rt_sigprocmask"),
    ("sigreturn", "rt_sigreturn"),
    ("sigsuspend", "rt_sigsuspend"),
    ("ssetmask", "rt_sigprocmask"),
    ("stime", "settimeofday"),
    ("ugetrlimit", "getrlimit"),
    ("umount", "umount2"),
    ("waitpid", "wait4"),
];

/// The entries of an array that are not 0.
fn table(name: &str) -> BTreeMap<u32, u32> {
    let begin = SOURCE.find(&format!(" {name}[")).unwrap_or_else(|| panic!("no table {name}"));
    let body = SOURCE[begin..].split_once('{').unwrap().1.split_once("};").unwrap().0;
    let mut next = 0;
    let mut entries = BTreeMap::new();
    for entry in body.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (index, value) = match entry.strip_prefix('[').and_then(|entry| entry.split_once("] = ")) {
            Some((index, value)) => (index.parse().unwrap(), value),
            None => (next, entry),
        };
        next = index + 1;
        let value = if value == "CALL_READ" { READ } else { value.parse().unwrap() };
        if value != 0 {
            assert_eq!(entries.insert(index, value), None, "{name}[{index}] stands twice");
        }
    }
    entries
}

/// The number that a 64-bit program has for the call of this name.
fn wide(name: &str) -> Option<u32> {
    let number = |name: &str| SyscallName::by_name(name).and_then(|name| name.number(Arch::X86_64));
    let plain = ["32", "_time64", "64_32", "64"].into_iter().find_map(|end| number(name.strip_suffix(end)?));
    let older = OLDER.iter().find(|(older, _)| *older == name).and_then(|(_, name)| number(name));
    let number = number(name).or(older).or(plain);
    if number == Some(0) { Some(READ) } else { number }
}

#[test]
fn calls_of_32_bit_programs_are_those_of_the_same_name() {
    let calls = table("ia32_calls");
    let mut wrong = Vec::new();
    for name in SyscallName::all() {
        let Some(number) = name.number(Arch::X86).filter(|_| !name.is_multiplexer()) else { continue };
        let (is, should) = (calls.get(&number).copied(), wide(name.as_str()));
        if is != should {
            wrong.push(format!("{name} ({number}) is {is:?}, not {should:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(calls.len() > 380);
}

#[test]
fn calls_through_one_number_are_those_of_the_same_name() {
    // what 64-bit programs do not have is done by the call with more arguments
    let wider = |name: &str| match name {
        "send" => wide("sendto"),
        "recv" => wide("recvfrom"),
        name => wide(name),
    };
    let calls = |multiplexer, numbers: &mut dyn Iterator<Item = u32>| -> BTreeMap<u32, u32> {
        let calls = SyscallName::by_name(multiplexer).unwrap().multiplexed();
        numbers.zip(calls).map(|(number, call)| (number, wider(call.as_str()).unwrap())).collect()
    };
    let sockets = calls("socketcall", &mut (1..));
    assert_eq!((sockets.len(), table("socket_calls")), (20, sockets));
    let ipc = calls("ipc", &mut IPC_NUMBERS.into_iter());
    assert_eq!((ipc.len(), table("ipc_calls")), (12, ipc));
}

#[test]
fn calls_of_x32_programs_are_those_of_the_same_name() {
    let calls = table("x32_calls");
    for name in SyscallName::all() {
        let Some(number) = name.number(Arch::X32).map(|number| number & !X32_BIT) else { continue };
        match number.checked_sub(X32_OWN) {
            Some(own) => assert_eq!(calls.get(&own).copied(), wide(name.as_str()), "{name}"),
            None => assert_eq!(Some(number), name.number(Arch::X86_64), "{name}"),
        }
    }
}
