//! How a test of the library runs its body in a guest whose kernel has loaded the BPF programs already: an emulated
//! machine verifies them for longer than most tests take.
//!
//! A test program has one entry that is no test by itself and calls [`wait`]. In a guest it opens the enforcer and waits;
//! then the machine is saved, once for each kernel and each build of the test program. Each test gets a fresh copy of it
//! ([`in_guest`]), in which that very process runs the test's body, with an enforcer that nobody has used.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use enforcer_core::enforce::{Enforcer, Options};

use crate::cache;
use crate::testing::Printed;
use crate::vm::{self, Job, Kernel, Spec, Streams};

/// The test program's name in a guest, in the working directory of bodies.
pub const PROGRAM: &str = "tests";
/// Set in the guest.
const INSIDE: &str = "NRI_ENFORCER_LAB_LOADED";
/// Made once the enforcer is open.
const LOADED: &str = "/run/loaded";
/// A pipe, for the name of a body.
const BODY: &str = "/run/body";
/// Loading may take so long, where two emulated machines share a core.
const LOAD_LIMIT: Duration = Duration::from_secs(300);
/// Passes on what the test program says, up to its end, and returns its exit status. It is a pipe of both ends, so that
/// whoever is there first waits for nobody. A reading that fails, as under rules that a body has left in force, is no end.
const SAID: &str = r#"
exec 5<>/run/said
said() {
  while IFS= read -r line <&5; do
    case $line in "@end "*) return "${line#@end }" ;; esac
    printf '%s\n' "$line"
  done
  echo "how the body ended cannot be read"
  return 99
}
"#;

/// A test's body.
pub type Body = fn(Enforcer);

/// Where a test is run.
#[derive(Debug)]
pub struct Guest<'a> {
    /// The entry of the test program that calls [`wait`].
    pub waits: &'a str,
    /// The kernel.
    pub kernel: Kernel,
    /// More files in the working directory of bodies: name and content. Part of the saved machine.
    pub files: Vec<(&'a str, Vec<u8>)>,
}

/// Opens the enforcer and waits for the name of a body; elsewhere than in a guest there is nothing to do.
///
/// # Errors
/// When the programs cannot be loaded, or no body is called so.
pub fn wait(bodies: &[(&str, Body)]) -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        return Ok(());
    }
    let enforcer = Enforcer::open(&Options::default())?;
    fs::write(LOADED, "")?;
    let name = fs::read_to_string(BODY)?;
    let (_, body) = bodies
        .iter()
        .find(|(known, _)| *known == name.trim())
        .with_context(|| format!("no body is called `{}`", name.trim()))?;
    body(enforcer);
    Ok(())
}

/// Runs a body in a fresh guest; what it said.
///
/// # Errors
/// When the machine cannot be had, and when the body fails or takes longer than `limit`.
pub fn in_guest(guest: &Guest<'_>, body: &str, limit: Duration) -> Result<String> {
    let say = |text: &str| println!("{text}");
    let plain =
        vm::machine(&Spec::plain(guest.kernel), &say).context("a machine (run `make setup` as root)")?;
    let load = format!(
        "mkfifo {BODY} /run/said\n{SAID}\n\
         {{ {INSIDE}=1 RUST_BACKTRACE=0 ./{PROGRAM} --exact {} --nocapture --test-threads=1; \
         printf '\\n@end %d\\n' $?; echo >/run/ended; }} >&5 2>&1 &\n\
         until [ -e {LOADED} ]; do if [ -e /run/ended ]; then said; exit 1; fi; usleep 20000; done\n",
        guest.waits
    );
    let mut load = Job::script(load).file(PROGRAM, cache::stripped(&std::env::current_exe()?)?);
    for (name, content) in &guest.files {
        load = load.bytes(name, content.as_slice());
    }
    load.limit = Some(LOAD_LIMIT);
    let machine = plain.after("loaded", &load, &say)?;
    let mut job = Job::script(format!("{SAID}\necho {body} >{BODY}; said"));
    job.limit = Some(limit);
    let mut said = Printed::default();
    let outcome = job.run(&machine, Streams { out: &mut said, err: &mut std::io::sink() })?;
    ensure!(outcome.status == 0, "the test failed in its guest ({})", guest.kernel);
    Ok(said.into_text())
}
