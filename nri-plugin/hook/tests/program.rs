//! The program as it is installed.

mod build;

/// It is read at each start of a container.
const MAX_BYTES: usize = 2 << 20;
/// `PT_INTERP`: the program needs a dynamic loader.
const INTERPRETER: usize = 3;

#[test]
fn it_is_small_and_needs_no_loader() {
    let bytes = std::fs::read(build::program()).unwrap();
    assert!(bytes.len() < MAX_BYTES, "{} bytes", bytes.len());
    assert_eq!(bytes[..6], *b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let number =
        |at: usize, len: usize| bytes[at..at + len].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    // e_phoff, e_phentsize, e_phnum; p_type is the first word of each
    let (first, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    let kinds: Vec<usize> = (0..count).map(|n| number(first + n * size, 4)).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind != INTERPRETER), "{kinds:?}");
}
