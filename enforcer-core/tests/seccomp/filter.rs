//! A profile as a runtime loads it: through the real libseccomp, rule by rule as runc adds them; and a machine that runs
//! the filter that comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};

use enforcer_core::seccomp::oci::{ActionName, Arg, LinuxSeccomp, Op};
use enforcer_core::seccomp::{Action, Arch, SyscallName};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

/// A classic BPF program, with what runc puts before it.
pub struct Filter {
    program: Vec<Instruction>,
    /// The greatest number that runc's stub lets through to the filter, where it has one.
    stub: Option<BTreeMap<Arch, u32>>,
}

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Runc,
    Crun,
}

impl Filter {
    /// Adds the rules as runtimes do: an entry that is like the default and a name that libseccomp does not have are
    /// skipped; where one argument has two comparisons, each is a rule.
    pub fn load(profile: &LinuxSeccomp, runtime: Runtime) -> Result<Self, String> {
        let default = action(profile.default_action, profile.default_errno_ret);
        let mut context = ScmpFilterContext::new(default).map_err(|error| error.to_string())?;
        for arch in &profile.architectures {
            context
                .add_arch(arch.parse::<ScmpArch>().unwrap())
                .map_err(|error| format!("{arch}: {error}"))?;
        }
        if runtime == Runtime::Runc
            && profile.syscalls.iter().map(|entry| entry.names.len()).sum::<usize>() > 32
        {
            context.set_ctl_optimize(2).unwrap();
        }
        for entry in &profile.syscalls {
            let act = action(entry.action, entry.errno_ret);
            if act == default {
                continue;
            }
            for name in &entry.names {
                let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
                let conditions: Vec<_> = entry.args.iter().map(comparison).collect();
                let indices: BTreeSet<_> = entry.args.iter().map(|arg| arg.index).collect();
                let added = if conditions.is_empty() {
                    context.add_rule(act, syscall).map(drop)
                } else if indices.len() == conditions.len() {
                    context.add_rule_conditional(act, syscall, &conditions).map(drop)
                } else {
                    conditions
                        .iter()
                        .try_for_each(|one| context.add_rule_conditional(act, syscall, &[*one]).map(drop))
                };
                added.map_err(|error| format!("{name} {entry:?}: {error}"))?;
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        context.export_bpf(&mut file).map_err(|error| error.to_string())?;
        let program = program(&mut file);
        assert!(program.len() <= 4096 - 40, "{} instructions", program.len());
        let stub = (runtime == Runtime::Runc
            && !matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_)))
        .then(|| greatest(profile));
        Ok(Self { program, stub })
    }

    pub fn len(&self) -> usize {
        self.program.len()
    }

    /// What the kernel does with a call.
    pub fn run(&self, audit: u32, number: u32, args: &[u64; 6]) -> Action {
        if let Some(greatest) = &self.stub {
            let x32 = number & 0x4000_0000 != 0 && audit == Arch::X86_64.audit();
            let of = greatest.iter().find(|(arch, _)| arch.audit() == audit && (**arch == Arch::X32) == x32);
            if of.is_some_and(|(_, greatest)| number > *greatest) {
                return Action::Errno(38);
            }
        }
        let mut data = [0_u8; 64];
        data[0..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&audit.to_le_bytes());
        for (place, value) in data[16..].chunks_exact_mut(8).zip(args) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        let (mut a, mut pc) = (0_u32, 0_usize);
        loop {
            let Instruction { code, yes, no, k } = self.program[pc];
            pc += 1;
            let jump = |taken: bool| usize::from(if taken { yes } else { no });
            match code {
                0x20 => a = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                0x54 => a &= k,
                0x05 => pc += k as usize,
                0x15 => pc += jump(a == k),
                0x25 => pc += jump(a > k),
                0x35 => pc += jump(a >= k),
                0x45 => pc += jump(a & k != 0),
                0x06 => return answer(k),
                other => panic!("libseccomp made an instruction {other:#x}"),
            }
        }
    }
}

fn program(file: &mut File) -> Vec<Instruction> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let instruction = |bytes: &[u8]| Instruction {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        yes: bytes[2],
        no: bytes[3],
        k: u32::from_le_bytes(bytes[4..8].try_into().unwrap()),
    };
    bytes.chunks_exact(8).map(instruction).collect()
}

/// The greatest number of each architecture that a profile names, whatever its entry says.
fn greatest(profile: &LinuxSeccomp) -> BTreeMap<Arch, u32> {
    let names = || profile.syscalls.iter().flat_map(|entry| &entry.names);
    let known = names().filter(|name| ScmpSyscall::from_name(name).is_ok());
    let known: Vec<_> = known.filter_map(|name| SyscallName::by_name(name)).collect();
    let arches = profile.architectures.iter().map(|name| Arch::by_oci_name(name).unwrap());
    arches.filter_map(|arch| Some((arch, known.iter().filter_map(|name| name.number(arch)).max()?))).collect()
}

fn action(name: ActionName, errno: Option<u32>) -> ScmpAction {
    let errno = errno.unwrap_or(1);
    match name {
        ActionName::Kill | ActionName::KillThread => ScmpAction::KillThread,
        ActionName::KillProcess => ScmpAction::KillProcess,
        ActionName::Trap => ScmpAction::Trap,
        ActionName::Errno => ScmpAction::Errno(errno.cast_signed()),
        ActionName::Trace => ScmpAction::Trace(errno as u16),
        ActionName::Allow => ScmpAction::Allow,
        ActionName::Log => ScmpAction::Log,
        ActionName::Notify => ScmpAction::Notify,
    }
}

fn comparison(arg: &Arg) -> ScmpArgCompare {
    let (op, datum) = match arg.op {
        Op::NotEqual => (ScmpCompareOp::NotEqual, arg.value),
        Op::Less => (ScmpCompareOp::Less, arg.value),
        Op::LessOrEqual => (ScmpCompareOp::LessOrEqual, arg.value),
        Op::Equal => (ScmpCompareOp::Equal, arg.value),
        Op::GreaterOrEqual => (ScmpCompareOp::GreaterEqual, arg.value),
        Op::Greater => (ScmpCompareOp::Greater, arg.value),
        Op::MaskedEqual => (ScmpCompareOp::MaskedEqual(arg.value), arg.value_two),
    };
    ScmpArgCompare::new(arg.index, op, datum)
}

fn answer(value: u32) -> Action {
    let low = (value & 0xffff) as u16;
    match value & 0xffff_0000 {
        0x8000_0000 => Action::KillProcess,
        0x0000_0000 => Action::KillThread,
        0x0003_0000 => Action::Trap,
        0x0005_0000 => Action::Errno(low),
        0x7fc0_0000 => Action::Notify,
        0x7ff0_0000 => Action::Trace(low),
        0x7ffc_0000 => Action::Log,
        0x7fff_0000 => Action::Allow,
        other => panic!("the kernel knows no answer {other:#x}"),
    }
}
