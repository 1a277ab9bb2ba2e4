//! What guests cost: a line for each job in the file that `$NRI_ENFORCER_GUEST_TIMES` names, if it does.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// Notes a job that held a slot for so long: seconds, those of the emulator's processors, the machine, and who asked.
/// What cannot be noted is not: no job fails for it.
pub(super) fn note(emulator: u32, held: Duration, machine: &str) {
    let Some(path) = std::env::var_os("NRI_ENFORCER_GUEST_TIMES") else { return };
    let thread = std::thread::current();
    // A test's thread has its name; a command has its arguments.
    let who = match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => std::env::args().map(|word| base(&word)).collect::<Vec<_>>().join(" "),
    };
    let (held, busy) = (held.as_secs_f64(), processors(emulator).unwrap_or_default());
    let file = File::options().create(true).append(true).open(path);
    let _ = file
        .and_then(|mut file| file.write_all(format!("{held:.1}\t{busy:.1}\t{machine}\t{who}\n").as_bytes()));
}

fn base(word: &str) -> String {
    Path::new(word).file_name().map_or_else(|| word.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Seconds that a process has had of processors, in the kernel and outside (proc(5): the 14th and 15th field of `stat`).
fn processors(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some((ticks.next()?.ok()? + ticks.next()?.ok()?) / 100.0)
}
