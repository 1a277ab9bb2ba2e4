//! An audit record. `cargo fuzz run -s none audit -- -max_total_time=30`

#![no_main]

#[allow(dead_code, reason = "each target runs one of the checks")]
#[path = "../checks.rs"]
mod checks;
#[allow(dead_code, reason = "for patterns")]
#[path = "../naive.rs"]
mod naive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::audit(bytes);
});
