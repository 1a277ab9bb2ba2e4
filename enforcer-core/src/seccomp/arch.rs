//! The architectures of system calls, as the kernel, libseccomp and the OCI name them.

use std::fmt;

/// A way to enter the kernel, with a table of system calls of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86: `int 0x80` on a 64-bit machine.
    X86,
    /// 64-bit x86 with 32-bit pointers: the audit architecture of [`Arch::X86_64`], and bit 30 set in each number.
    X32,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm, EABI.
    Arm,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit LoongArch.
    Loongarch64,
    /// 64-bit PowerPC, little endian.
    Ppc64le,
    /// 64-bit s390.
    S390x,
    /// 32-bit s390.
    S390,
}

/// The bit that tells system calls of x32 from those of x86-64 (`__X32_SYSCALL_BIT` of the kernel).
pub const X32_BIT: u32 = 0x4000_0000;

/// Name, other names, name in the OCI format, `AUDIT_ARCH_*` of `linux/audit.h`.
type Row = (Arch, &'static str, &'static [&'static str], &'static str, u32);

const ROWS: [Row; 10] = [
    (Arch::X86_64, "x86_64", &["amd64", "x86-64"], "SCMP_ARCH_X86_64", 0xc000_003e),
    (Arch::X86, "x86", &["i386", "i686"], "SCMP_ARCH_X86", 0x4000_0003),
    (Arch::X32, "x32", &[], "SCMP_ARCH_X32", 0xc000_003e),
    (Arch::Aarch64, "aarch64", &["arm64"], "SCMP_ARCH_AARCH64", 0xc000_00b7),
    (Arch::Arm, "arm", &[], "SCMP_ARCH_ARM", 0x4000_0028),
    (Arch::Riscv64, "riscv64", &[], "SCMP_ARCH_RISCV64", 0xc000_00f3),
    (Arch::Loongarch64, "loongarch64", &["loong64"], "SCMP_ARCH_LOONGARCH64", 0xc000_0102),
    (Arch::Ppc64le, "ppc64le", &["ppc64-le"], "SCMP_ARCH_PPC64LE", 0xc000_0015),
    (Arch::S390x, "s390x", &[], "SCMP_ARCH_S390X", 0x8000_0016),
    (Arch::S390, "s390", &[], "SCMP_ARCH_S390", 0x0000_0016),
];

impl Arch {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        ROWS.iter().map(|row| row.0)
    }

    /// The one that policies call so; `amd64`, `arm64` and the like are read, too, and so are the OCI's names.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        ROWS.iter()
            .find(|(_, own, others, oci, _)| *own == name || others.contains(&name) || *oci == name)
            .map(|row| row.0)
    }

    /// The one that a profile calls so: `SCMP_ARCH_X86_64`.
    #[must_use]
    pub fn by_oci_name(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.3 == name).map(|row| row.0)
    }

    /// The one that this is built for; `None` where seccomp profiles are not made for it.
    #[must_use]
    pub fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "powerpc64" => cfg!(target_endian = "little").then_some(Self::Ppc64le),
            name => Self::by_name(name),
        }
    }

    /// All that it is called in policies.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let row = self.row();
        let others = row.map_or(&[][..], |row| row.2).iter().copied();
        row.into_iter().flat_map(|row| [row.1, row.3]).chain(others)
    }

    /// Its name in a policy: `x86_64`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().map_or("", |row| row.1)
    }

    /// Its name in a profile: `SCMP_ARCH_X86_64`.
    #[must_use]
    pub fn oci_name(self) -> &'static str {
        self.row().map_or("", |row| row.3)
    }

    /// What the kernel puts into `seccomp_data.arch`. [`Arch::X32`] has that of [`Arch::X86_64`].
    #[must_use]
    pub fn audit(self) -> u32 {
        self.row().map_or(0, |row| row.4)
    }

    /// Whether filters of libseccomp look at the lower half of arguments alone. So it is with x32, too, whose calls could
    /// have more.
    #[must_use]
    pub const fn is_32_bit(self) -> bool {
        matches!(self, Self::X86 | Self::X32 | Self::Arm | Self::S390)
    }

    /// It and the others that a kernel of this architecture runs, itself first.
    #[must_use]
    pub const fn family(self) -> &'static [Self] {
        match self {
            Self::X86_64 | Self::X32 => &[Self::X86_64, Self::X86, Self::X32],
            Self::X86 => &[Self::X86],
            Self::Aarch64 => &[Self::Aarch64, Self::Arm],
            Self::Arm => &[Self::Arm],
            Self::Riscv64 => &[Self::Riscv64],
            Self::Loongarch64 => &[Self::Loongarch64],
            Self::Ppc64le => &[Self::Ppc64le],
            Self::S390x => &[Self::S390x, Self::S390],
            Self::S390 => &[Self::S390],
        }
    }

    fn row(self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.0 == self)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for arch in Arch::all() {
            assert_eq!(Arch::by_name(arch.name()), Some(arch));
            assert_eq!(Arch::by_oci_name(arch.oci_name()), Some(arch));
            assert_eq!(Arch::by_name(arch.oci_name()), Some(arch));
            assert!(arch.family().contains(&arch) || arch == Arch::X32);
        }
        assert_eq!(Arch::by_name("amd64"), Some(Arch::X86_64));
        assert_eq!(Arch::by_name("x86_65"), None);
        assert!(Arch::native().is_some());
    }
}
