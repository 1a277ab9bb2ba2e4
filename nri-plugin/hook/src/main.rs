//! The binary: `nri-enforcer-hook precreate|createRuntime|poststop`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nri_enforcer_hook::run::run(std::env::args_os().skip(1), &mut std::io::stdout(), &mut std::io::stderr())
        .into()
}
