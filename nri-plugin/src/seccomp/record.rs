//! The audit records of seccomp: one for each system call that a filter logs or kills for.
//!
//! ```text
//! audit: type=1326 audit(1795852703.744:2): auid=4294967295 uid=0 gid=0 ses=4294967295 pid=18375 comm="busybox"
//! exe="/bin/busybox" sig=0 arch=c000003e syscall=63 compat=0 ip=0x460997 code=0x7ffc0000
//! ```
//!
//! auditd writes `type=SECCOMP msg=` instead. Names that contain more than plain characters are hexadecimal, without
//! quotes.

use enforcer_core::audit::{Field, fields};
use enforcer_core::seccomp::arch::X32_BIT;
use enforcer_core::seccomp::{Action, Arch};

/// A system call that a filter had something to say about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How the kernel was entered.
    pub arch: Arch,
    /// The number, on x32 with the bit that marks it.
    pub number: u32,
    /// The process, in the host's pid namespace.
    pub pid: i32,
    /// The name of its task.
    pub comm: String,
    /// Its executable, in its own mount namespace.
    pub exe: String,
    /// What the filter answered.
    pub action: Action,
}

/// What a line of a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A record.
    Record(Record),
    /// A record of seccomp that cannot be understood, and why.
    Bad(String),
    /// The kernel or auditd says that records before this one are lost.
    Lost,
    /// Anything else.
    Other,
}

/// What the kernel and auditd say when records are lost.
const LOST: [&str; 5] = [
    "callbacks suppressed",
    "audit_lost=",
    "audit: rate limit exceeded",
    "audit: backlog limit exceeded",
    "kauditd hold queue overflow",
];

impl Line {
    /// Reads a line of the kernel's log or of auditd's.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let seccomp = line.contains("type=1326 ") || line.contains("type=SECCOMP ");
        match line.split_once("audit(") {
            Some((_, record)) if seccomp => Self::record(record),
            _ if LOST.iter().any(|what| line.contains(what)) => Self::Lost,
            _ => Self::Other,
        }
    }

    /// Reads a record as the kernel hands it to listeners: without its type, which is a number beside it.
    #[must_use]
    pub fn record(text: &str) -> Self {
        // auditd appends its own reading of the fields behind this character
        let text = text.split('\u{1d}').next().unwrap_or_default();
        read(text).map_or_else(Self::Bad, Self::Record)
    }
}

fn read(text: &str) -> Result<Record, String> {
    let whole = |name: &str| {
        fields(text).find(|field| field.key == name).ok_or_else(|| format!("`{name}` is missing"))
    };
    let field = |name: &str| whole(name).map(|field| field.value);
    let text_of = |field: Field<'_>| String::from_utf8_lossy(&field.bytes()).into_owned();
    let bad = |name: &str, value: &str| format!("`{name}={value}` cannot be read");
    let hexadecimal = |name: &str| {
        let value = field(name)?;
        u32::from_str_radix(value.trim_start_matches("0x"), 16).map_err(|_| bad(name, value))
    };
    let audit = hexadecimal("arch")?;
    let number = field("syscall")?;
    let number: u32 = number.parse().map_err(|_| bad("syscall", number))?;
    let arch = arch(audit, number).ok_or(format!("`arch={audit:x}` is not known"))?;
    let pid = field("pid")?;
    Ok(Record {
        arch,
        number,
        pid: pid.parse().map_err(|_| bad("pid", pid))?,
        comm: text_of(whole("comm")?),
        exe: text_of(whole("exe")?),
        action: action(hexadecimal("code")?),
    })
}

/// The architecture of `AUDIT_ARCH_*`. x32 has that of x86-64, and a bit in its numbers.
fn arch(audit: u32, number: u32) -> Option<Arch> {
    let arch = Arch::all().find(|arch| arch.audit() == audit)?;
    match arch {
        Arch::X86_64 | Arch::X32 if number & X32_BIT != 0 => Some(Arch::X32),
        arch => Some(arch),
    }
}

/// `SECCOMP_RET_*` of `linux/seccomp.h`: the action in the upper 16 bits, a value in the lower.
fn action(code: u32) -> Action {
    let value = u16::try_from(code & 0xffff).unwrap_or(u16::MAX);
    match code & 0xffff_0000 {
        0x8000_0000 => Action::KillProcess,
        0x0003_0000 => Action::Trap,
        0x0005_0000 => Action::Errno(value),
        0x7fc0_0000 => Action::Notify,
        0x7ff0_0000 => Action::Trace(value),
        0x7ffc_0000 => Action::Log,
        0x7fff_0000 => Action::Allow,
        // 0, and what the kernel takes for it
        _ => Action::KillThread,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "[  425.487195] audit: type=1326 audit(1795852703.744:2): auid=4294967295 uid=0 gid=0 \
        ses=4294967295 pid=18375 comm=\"busybox\" exe=\"/bin/busybox\" sig=0 arch=c000003e syscall=63 compat=0 \
        ip=0x460997 code=0x7ffc0000";

    fn record(line: &str) -> Record {
        match Line::parse(line) {
            Line::Record(record) => record,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let expected = Record {
            arch: Arch::X86_64,
            number: 63,
            pid: 18375,
            comm: "busybox".into(),
            exe: "/bin/busybox".into(),
            action: Action::Log,
        };
        assert_eq!(record(KERNEL), expected);
        assert_eq!(
            record(&format!("6,1234,425487195,-;{}", KERNEL.get(15..).unwrap())),
            expected,
            "/dev/kmsg"
        );
        let auditd = KERNEL.replace("[  425.487195] audit: type=1326 ", "type=SECCOMP msg=");
        assert_eq!(record(&auditd), expected);
        assert_eq!(record(&format!("{auditd}\u{1d}ARCH=x86_64 SYSCALL=uname")), expected, "enriched");
        let (_, listener) = KERNEL.split_once("type=1326 ").unwrap();
        assert_eq!(Line::record(listener), Line::Record(expected));
    }

    #[test]
    fn the_kernels_ways_in_are_told_apart() {
        let with = |arch: &str, number: &str| {
            let line = KERNEL.replace("arch=c000003e", arch).replace("syscall=63", number);
            let Record { arch, number, .. } = record(&line);
            (arch, number)
        };
        assert_eq!(with("arch=40000003", "syscall=122"), (Arch::X86, 122));
        assert_eq!(with("arch=c000003e", "syscall=1073741887"), (Arch::X32, X32_BIT | 63));
        assert_eq!(with("arch=c00000b7", "syscall=160"), (Arch::Aarch64, 160));
    }

    #[test]
    fn every_answer_of_a_filter_is_known() {
        let with = |code: &str| record(&KERNEL.replace("0x7ffc0000", code)).action;
        assert_eq!(with("0x80000000"), Action::KillProcess);
        assert_eq!(with("0x0"), Action::KillThread);
        assert_eq!(with("0x50026"), Action::Errno(38));
        assert_eq!(with("0x30000"), Action::Trap);
        assert_eq!(with("0x7fff0000"), Action::Allow);
    }

    #[test]
    fn names_may_be_anything() {
        let line = KERNEL.replace("\"busybox\"", "6120623D63").replace("\"/bin/busybox\"", "\"/a b/c=d\"");
        let record = record(&line);
        assert_eq!((record.comm.as_str(), record.exe.as_str()), ("a b=c", "/a b/c=d"));
        // what looks like a number and is a name
        for name in ["BEEF", "42454546", "00"] {
            let comm = self::record(&KERNEL.replace("\"busybox\"", &format!("\"{name}\""))).comm;
            assert_eq!(comm, name);
        }
        assert_eq!(self::record(&KERNEL.replace("\"busybox\"", "42454546")).comm, "BEEF");
        // a task that calls itself as a field does not become one
        let line = KERNEL.replace("\"busybox\"", "\"x syscall=1 \"");
        assert_eq!(self::record(&line).number, 63);
        assert_eq!(self::record(&KERNEL.replace("\"busybox\"", "(null)")).comm, "(null)");
    }

    #[test]
    fn what_is_no_record_or_a_bad_one_is_said_and_loss_is_seen() {
        assert_eq!(Line::parse("audit: type=1400 audit(1:2): apparmor=\"DENIED\""), Line::Other);
        assert_eq!(Line::parse(""), Line::Other);
        assert_eq!(Line::parse("kauditd_printk_skb: 105 callbacks suppressed"), Line::Lost);
        assert_eq!(Line::parse("audit: audit_lost=3 audit_rate_limit=0 audit_backlog_limit=64"), Line::Lost);
        for (from, to) in [
            ("arch=c000003e", "arch=1"),
            ("arch=c000003e", "arch=x"),
            ("syscall=63", "syscall=-1"),
            ("pid=18375 ", ""),
            ("code=0x7ffc0000", "code="),
        ] {
            assert!(matches!(Line::parse(&KERNEL.replace(from, to)), Line::Bad(_)), "{to}");
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        let mut text = KERNEL.as_bytes().to_vec();
        for at in 0..text.len() {
            for byte in [b'=', b'"', b' ', 0xff] {
                let before = std::mem::replace(&mut text[at], byte);
                let _any = Line::parse(&String::from_utf8_lossy(&text));
                text[at] = before;
            }
            let _any = Line::parse(KERNEL.get(..at).unwrap());
        }
    }
}
