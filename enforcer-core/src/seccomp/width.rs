//! How much of its arguments a system call looks at.
//!
//! A filter sees all 64 bits that are in the register, the kernel makes an `int` of them for many a parameter. Whoever
//! calls `socket(0x1_0000_0000 + AF_ALG, ...)` gets an `AF_ALG` socket, and a rule against the value `AF_ALG` alone never
//! matches. So what denies or reports compares those bits that count.

mod rows;

use self::rows::ROWS;
use super::table::SyscallName;

/// How many of the lowest bits of its six arguments the kernel looks at: 64, 32 or 16. Where architectures or versions of
/// the kernel differ, the least. What is not known counts as 64.
#[must_use]
pub fn widths(name: SyscallName) -> [u8; 6] {
    ROWS.binary_search_by(|(other, _)| (*other).cmp(name.as_str()))
        .ok()
        .and_then(|index| ROWS.get(index))
        .map_or([64; 6], |row| row.1)
}

/// The bits that count.
#[must_use]
pub const fn mask(width: u8) -> u64 {
    if width >= 64 { u64::MAX } else { (1 << width) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prototypes_tell() {
        let of = |name| widths(SyscallName::by_name(name).unwrap());
        assert!(ROWS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(of("socket"), [32, 32, 32, 64, 64, 64]);
        assert_eq!(of("openat"), [32, 64, 32, 16, 64, 64]);
        assert_eq!(of("ioctl"), [32, 32, 64, 64, 64, 64]);
        assert_eq!(of("mmap"), [64; 6]);
        assert_eq!((mask(16), mask(32), mask(64)), (0xffff, 0xffff_ffff, u64::MAX));
    }
}
