//! The policy's module store, by `semodule`. No other module than ours is ever named to it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::error::{SelinuxError, failed};
use crate::compile::selinux::MODULE;
use crate::enforce::tool::{Ended, Unended};

const TOOL: &str = "semodule";
/// Our place among modules: that of an administrator's, above those of a distribution.
const PRIORITY: &str = "400";
/// How long it may take: it builds the whole policy anew, which takes 5 to 30 s for a large one.
const LIMIT: Duration = Duration::from_secs(180);
/// How much of what it says is kept, in bytes.
const MAX_SAID: u64 = 64 << 10;

/// The names of the modules that are there.
pub(super) fn modules() -> Result<Vec<String>, SelinuxError> {
    let said = run(&["-l"])?;
    Ok(said.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Whether ours is among them.
pub(super) fn has_ours() -> Result<bool, SelinuxError> {
    Ok(modules()?.iter().any(|name| name == MODULE))
}

/// Puts ours in the place of the one before, builds the policy, and loads it; or leaves all as it is. The file's name is the
/// module's.
pub(super) fn install(path: &Path) -> Result<(), SelinuxError> {
    run(&["-X", PRIORITY, "-i", &path.to_string_lossy()]).map(drop)
}

/// Takes ours out, where it is.
pub(super) fn remove() -> Result<(), SelinuxError> {
    if has_ours()? { run(&["-X", PRIORITY, "-r", MODULE]).map(drop) } else { Ok(()) }
}

fn run(arguments: &[&str]) -> Result<String, SelinuxError> {
    run_within(TOOL, arguments, LIMIT)
}

fn run_within(tool: &'static str, arguments: &[&str], limit: Duration) -> Result<String, SelinuxError> {
    let command = || format!("{tool} {}", arguments.join(" "));
    let io = || failed(format!("run `{}`", command()));
    let ended = Ended::within(limit, Command::new(tool).args(arguments)).map_err(|why| match why {
        Unended::Unstarted(source) => SelinuxError::NoTool { tool, source },
        Unended::TooSlow => SelinuxError::TooSlow { command: command(), limit },
        Unended::Io(error) => io()(error),
    })?;
    match ended.status.success() {
        true => Ok(String::from_utf8_lossy(&ended.out(MAX_SAID).map_err(io())?).into_owned()),
        false => Err(SelinuxError::Refused { command: command(), said: ended.err(MAX_SAID).map_err(io())? }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_tool_that_is_missing_fails_or_hangs_is_told() {
        let missing = run_within("no-such-tool", &["-l"], LIMIT);
        assert!(matches!(missing, Err(SelinuxError::NoTool { tool: "no-such-tool", .. })), "{missing:?}");
        let fails = run_within("sh", &["-c", "echo why >&2; exit 3"], LIMIT);
        assert!(matches!(&fails, Err(SelinuxError::Refused { said, .. }) if said == "why"), "{fails:?}");
        let begin = Instant::now();
        let hangs = run_within("sleep", &["60"], Duration::from_millis(100));
        assert!(matches!(hangs, Err(SelinuxError::TooSlow { .. })), "{hangs:?}");
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert_eq!(run_within("echo", &["x"], LIMIT).unwrap(), "x\n");
    }
}
