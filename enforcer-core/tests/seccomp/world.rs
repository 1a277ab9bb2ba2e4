//! Random policies, base profiles and calls.

use std::fmt::Write as _;

use enforcer_core::capability::Capability;
use enforcer_core::policy::{SeccompPolicy, parse};
use enforcer_core::seccomp::oci::{ActionName, Arg, LinuxSeccomp, Op, SyscallEntry};
use enforcer_core::seccomp::{Action, Arch, Base, Call, SyscallName};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// With and without arguments that are narrower than a register, multiplexers and what they make, some that only one
/// architecture has, one that no libseccomp of this machine knows.
pub const NAMES: [&str; 22] = [
    "socket",
    "connect",
    "accept",
    "personality",
    "clone",
    "clone3",
    "ioctl",
    "read",
    "openat",
    "mount",
    "chmod",
    "mmap",
    "mmap2",
    "socketcall",
    "ipc",
    "semget",
    "futex_waitv",
    "mseal",
    "kill",
    "arch_prctl",
    "prctl",
    "getppid",
];
const OPS: [&str; 6] = ["ne", "<", "<=", "==", ">=", ">"];
const VALUES: [u64; 12] =
    [0, 1, 2, 8, 38, 40, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x7e02_0000, 0x1_0000_0000, u64::MAX];

pub struct World {
    pub text: String,
    pub policies: Vec<SeccompPolicy>,
    pub base: Base,
    /// Values that something is compared with.
    values: Vec<u64>,
}

impl World {
    pub fn random(rng: &mut SmallRng) -> Self {
        let mut values = VALUES.to_vec();
        let mut text = String::new();
        for number in 0..rng.random_range(0..5) {
            policy(rng, number, &mut text, &mut values);
        }
        let parsed = parse("random.yaml", &text);
        for error in &parsed.errors {
            let wanted = [
                "never hold",
                "the kernel looks at",
                "is already",
                "is allowed on",
                "is blocked on",
                "is audited on",
            ];
            assert!(wanted.iter().any(|part| error.message.contains(part)), "{error}\n{text}");
        }
        Self { base: base(rng, &mut values), policies: parsed.seccomp, text, values }
    }

    pub fn call(&self, rng: &mut SmallRng) -> Call {
        let arch = *[Arch::X86_64, Arch::X86_64, Arch::X86, Arch::X32].choose(rng).unwrap();
        let name = match rng.random_range(0..10) {
            0 => SyscallName::all().nth(rng.random_range(0..500)).unwrap(),
            _ => SyscallName::by_name(NAMES.choose(rng).unwrap()).unwrap(),
        };
        let bit = if arch == Arch::X32 { 0x4000_0000 } else { 0 };
        let number = match rng.random_range(0..50) {
            0 => rng.random_range(0..700) | bit,
            1 => rng.random::<u32>() & 0x3fff_ffff | bit,
            _ => name.number(arch).unwrap_or(500 | bit),
        };
        let mut args = [0; 6];
        let low = arch == Arch::X86 || rng.random_bool(0.6);
        for arg in &mut args {
            let value = *self.values.choose(rng).unwrap();
            *arg = match rng.random_range(0..8) {
                0 => value.wrapping_add(1),
                1 => value.wrapping_sub(1),
                2 => value ^ 1 << rng.random_range(0..64),
                3 => value | 0xffff_ffff << 32,
                4 => rng.random(),
                _ => value,
            };
            if low {
                *arg &= 0xffff_ffff;
            }
        }
        Call { arch, number, args }
    }
}

fn policy(rng: &mut SmallRng, number: usize, text: &mut String, values: &mut Vec<u64>) {
    writeln!(text, "---\nkind: KubeArmorSeccompPolicy\nname: p{number}\napp: web\nsyscalls:").unwrap();
    for _ in 0..rng.random_range(1..7) {
        let action = *["Allow", "Allow", "Block", "Block", "Audit"].choose(rng).unwrap();
        let name = *NAMES.choose(rng).unwrap();
        match rng.random_range(0..12) {
            0 if action != "Audit" => writeln!(text, "- {{name: \"~@mount\", action: {action}}}").unwrap(),
            1 => writeln!(text, "- {{name: \"@network-io\", action: {action}}}").unwrap(),
            2 => writeln!(text, "- {{name: \"@known\", action: {action}}}").unwrap(),
            _ => {
                let errno = match (action, rng.random_range(0..4)) {
                    ("Block", 0) => ", errno: kill",
                    ("Block", 1) => ", errno: EACCES",
                    ("Block", 2) => ", errno: 38",
                    _ => "",
                };
                let mut args = String::new();
                let few = rng.random_range(0..4);
                for _ in 0..[0, 1, 1, 2][few] {
                    let value = *VALUES.choose(rng).unwrap();
                    let index = rng.random_range(0..3);
                    values.push(value);
                    if rng.random_bool(0.3) {
                        let mask: u64 =
                            *[0xff, 0x7e02_0000, 1, 0x8000_0000, 0xffff_ffff].choose(rng).unwrap();
                        values.push(value & mask);
                        write!(args, "{{index: {index}, mask: {mask}, value: {}}}, ", value & mask).unwrap();
                    } else {
                        let op = OPS.choose(rng).unwrap();
                        write!(args, "{{index: {index}, op: \"{op}\", value: {value}}}, ").unwrap();
                    }
                }
                writeln!(text, "- {{name: {name}, action: {action}{errno}, args: [{args}]}}").unwrap();
            }
        }
    }
    if rng.random_bool(0.2) {
        let errno = ["EACCES", "kill", "38"].choose(rng).unwrap();
        writeln!(text, "defaultErrno: {errno}").unwrap();
    }
    if rng.random_bool(0.15) {
        let arch = ["[x86_64]", "[x86_64, x86]", "[x86_64, x86, x32]", "[arm]"].choose(rng).unwrap();
        writeln!(text, "arch: {arch}").unwrap();
    }
}

fn base(rng: &mut SmallRng, values: &mut Vec<u64>) -> Base {
    match rng.random_range(0..4) {
        0 => Base::Unconfined,
        1 => Base::RuntimeDefault(Capability::all().filter(|_| rng.random_bool(0.2)).collect()),
        _ => {
            let default = random_action(rng, false);
            let mut architectures = vec!["SCMP_ARCH_X86_64".to_owned()];
            for arch in ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] {
                architectures.extend(rng.random_bool(0.5).then(|| arch.to_owned()));
            }
            let mut syscalls = Vec::new();
            for _ in 0..rng.random_range(0..20) {
                let (action, errno_ret): (ActionName, Option<u32>) = random_action(rng, true).into();
                let args = (0..rng.random_range(0..3)).map(|_| {
                    let (value, mask) = (*VALUES.choose(rng).unwrap(), *VALUES.choose(rng).unwrap());
                    values.push(value);
                    let ops =
                        [Op::NotEqual, Op::Less, Op::LessOrEqual, Op::Equal, Op::GreaterOrEqual, Op::Greater];
                    let index = rng.random_range(0..2);
                    match rng.random_range(0..3) {
                        0 => Arg { index, op: Op::MaskedEqual, value: mask, value_two: value & mask },
                        _ => Arg { index, op: *ops.choose(rng).unwrap(), value, value_two: 0 },
                    }
                });
                let args = args.collect();
                let names =
                    (0..rng.random_range(1..5)).map(|_| (*NAMES.choose(rng).unwrap()).to_owned()).collect();
                syscalls.push(SyscallEntry { names, action, errno_ret, args });
            }
            Base::Profile(LinuxSeccomp { architectures, syscalls, ..LinuxSeccomp::of(default) })
        }
    }
}

fn random_action(rng: &mut SmallRng, entry: bool) -> Action {
    match rng.random_range(0..12) {
        0 | 1 => Action::Errno(1),
        2 => Action::Errno(38),
        3 => Action::Errno(13),
        4 => Action::KillProcess,
        5 => Action::KillThread,
        6 => Action::Trap,
        7 => Action::Log,
        8 => Action::Trace(7),
        // runtimes refuse to ask a supervisor by default
        9 if entry => Action::Notify,
        _ => Action::Allow,
    }
}
