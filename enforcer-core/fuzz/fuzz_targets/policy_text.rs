//! Any bytes as a policy file.
//!
//! `cargo fuzz run -s none policy_text corpus/policy_text ../../examples/policies -- -dict=yaml.dict
//! -max_total_time=30` from `enforcer-core/fuzz`; it needs no nightly compiler.

#![no_main]

#[allow(dead_code, reason = "each target runs one of the checks")]
#[path = "../checks.rs"]
mod checks;
#[allow(dead_code, reason = "for patterns")]
#[path = "../naive.rs"]
mod naive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::policy_text(bytes);
});
