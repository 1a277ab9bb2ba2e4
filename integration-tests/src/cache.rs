//! Where artefacts live between runs, and how processes share them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

/// The script that makes the artefacts; `setup.sh paths` tells where they are.
const SETUP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/setup.sh");

/// The folder of everything that is kept: `$NRI_ENFORCER_CACHE`, else `/var/cache/nri-enforcer`.
#[must_use]
pub fn dir() -> PathBuf {
    std::env::var_os("NRI_ENFORCER_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/nri-enforcer"), PathBuf::from)
}

/// The path of one artefact of the set-up script, e.g. `kernel-6.1`.
///
/// # Errors
/// When it has not been made yet; the message says how to.
pub fn artefact(name: &str) -> Result<PathBuf> {
    let output = Command::new(SETUP).arg("paths").output().with_context(|| format!("run `{SETUP} paths`"))?;
    ensure!(output.status.success(), "`{SETUP} paths` failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let paths: BTreeMap<_, _> = text.lines().filter_map(|l| l.split_once('=')).collect();
    let path = PathBuf::from(paths.get(name).with_context(|| format!("no artefact is called `{name}`"))?);
    if !path.exists() {
        bail!("the lab is not set up: `{}` is missing; run `make setup`", path.display());
    }
    Ok(path)
}

/// A hash over named parts, as the key of what is made from them.
#[derive(Debug, Default)]
pub struct Key(Sha256);

impl Key {
    /// Takes part: these bytes, under a name.
    #[must_use]
    pub fn bytes(mut self, name: &str, bytes: &[u8]) -> Self {
        self.0.update(format!("{name} {}\n", bytes.len()));
        self.0.update(bytes);
        self
    }

    /// Takes part: this file, by path, size and time of change (its content is too large to read each time).
    ///
    /// # Errors
    /// When the file cannot be examined.
    pub fn file(self, path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).with_context(|| format!("examine `{}`", path.display()))?;
        let changed = meta.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
        Ok(self.bytes(&path.to_string_lossy(), format!("{} {changed}", meta.len()).as_bytes()))
    }

    /// The key: 16 hexadecimal digits.
    #[must_use]
    pub fn finish(self) -> String {
        self.0.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
    }
}

/// An exclusive lock of the cache, held until dropped; other processes and threads wait for it.
///
/// # Errors
/// When the lock file cannot be opened.
pub fn lock(name: &str) -> Result<Flock<File>> {
    Flock::lock(lock_file(name)?, FlockArg::LockExclusive).map_err(|(_, e)| e).context("lock the cache")
}

fn lock_file(name: &str) -> Result<File> {
    fs::create_dir_all(dir())?;
    let path = dir().join(format!(".{name}.lock"));
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open `{}`", path.display()))
}

/// One of as many slots as this machine has cores, shared by all processes: a guest that competes with too many others
/// runs into its time limits. `$NRI_ENFORCER_GUESTS` sets another number.
///
/// # Errors
/// When the lock files cannot be opened.
pub fn guest_slot() -> Result<Flock<File>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let slots =
        std::env::var("NRI_ENFORCER_GUESTS").ok().and_then(|v| v.parse().ok()).unwrap_or(cores).max(1);
    loop {
        for slot in 0..slots {
            if let Ok(lock) =
                Flock::lock(lock_file(&format!("slot-{slot}"))?, FlockArg::LockExclusiveNonblock)
            {
                return Ok(lock);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Writes a file by writing another one and renaming it: readers see all of it or none.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file name without a folder")?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(bytes)?;
    temporary.persist(path)?;
    Ok(())
}

/// The program without its debug information, which no guest needs and which is most of a debug build; kept in the
/// cache until the program changes.
///
/// # Errors
/// When `strip` fails.
pub fn stripped(program: &Path) -> Result<PathBuf> {
    let folder = dir().join("stripped");
    fs::create_dir_all(&folder)?;
    let name = program.file_name().context("a program without a name")?.to_string_lossy().into_owned();
    let target = folder.join(format!("{name}-{}", Key::default().file(program)?.finish()));
    let _lock = lock("strip")?;
    if !target.exists() {
        for old in fs::read_dir(&folder)?.flatten() {
            if old.file_name().to_string_lossy().rsplit_once('-').is_some_and(|(n, _)| n == name) {
                fs::remove_file(old.path())?;
            }
        }
        let temporary = target.with_extension("new");
        let status = Command::new("strip").arg("-S").arg("-o").arg(&temporary).arg(program).status();
        ensure!(status.context("run strip")?.success(), "strip failed on `{}`", program.display());
        fs::rename(&temporary, &target)?;
    }
    Ok(target)
}
