//! Any bytes as an event of the kernel. `cargo fuzz run -s none --features bpf event -- -max_total_time=30`

#![no_main]

#[allow(dead_code, reason = "each target runs one of the checks")]
#[path = "../checks.rs"]
mod checks;
#[allow(dead_code, reason = "for patterns")]
#[path = "../naive.rs"]
mod naive;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::event(bytes);
});
