//! Every program loads, and the verifier went through no more of it than is recorded.

use enforcer_core::enforce::Enforcer;
use lab::verifier::{Found, Record};
use lab::vm::Kernel;

const RECORD: &str = include_str!("../../verifier.txt");

pub fn verified(enforcer: Enforcer) {
    let found = Found::of_this_kernel().unwrap();
    drop(enforcer);
    let kernel = match found.release.as_str() {
        release if release.starts_with("6.1.") => Kernel::V6_1,
        release if release.starts_with("6.12.") => Kernel::V6_12,
        _ => Kernel::Newest,
    };
    let report = Record::parse(RECORD).unwrap().compare(kernel, &found);
    println!("{report}");
    assert_eq!(report.wrong(), 0, "{report}");
}
