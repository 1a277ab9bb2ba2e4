//! The program that sees system calls: attached only while some ruleset in the kernel speaks about them.

use std::fs;
use std::io;
use std::path::Path;

use libbpf_rs::Object;

use super::error::{During, EnforceError};

/// Pin of its link, among those of the hooks.
const PIN: &str = "link_sys_enter";

/// Attaches the program, or takes it away.
pub(super) fn settle(object: &Object, dir: &Path, wanted: bool) -> Result<(), EnforceError> {
    let path = dir.join(PIN);
    if wanted == path.exists() {
        return Ok(());
    }
    if wanted {
        let program = object.progs_mut().find(|program| program.name() == "sys_enter");
        let program = program.ok_or(EnforceError::Full("the object has no program for system calls"))?;
        let mut link = program.attach_raw_tracepoint("sys_enter").during("attach sys_enter")?;
        return link.pin(&path).during(format!("pin {PIN}"));
    }
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(EnforceError::Pin { what: "remove", path, source })
        }
        _ => Ok(()),
    }
}
