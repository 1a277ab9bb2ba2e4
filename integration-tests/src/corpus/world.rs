//! What the policies are about: files, directories and programs below `/w`, open to everybody, so that nothing but a policy
//! denies them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tar::{Builder, EntryType, Header};

use crate::image;

/// The other user that acts, and that owns one file.
pub const USER: u32 = 1000;
/// The program that rules name as a source.
pub const SOURCE: &str = "/w/bin/source";
/// One that no rule names as a source.
pub const OTHER: &str = "/w/bin/other";
/// One that rules are about.
pub const TOOL: &str = "/w/bin/tool";
/// A script that [`TOOL`] interprets: [`SHEBANG`].
pub const SCRIPT: &str = "/w/bin/script";
/// What the script is.
const SHEBANG: &[u8] = b"#!/w/bin/tool nothing\n";
/// Where all is.
pub const TOP: &str = "/w";

/// A file: its path, the path that it is renamed to, and its owner.
pub const FILES: [(&str, &str, u32); 6] = [
    ("/w/data/a", "/w/free/new-a", 0),
    ("/w/data/b", "/w/free/new-b", 0),
    ("/w/data/mine", "/w/free/new-mine", USER),
    ("/w/data/deep/x", "/w/free/new-x", 0),
    ("/w/data/deep/c", "/w/free/new-c", 0),
    ("/w/free/y", "/w/free/new-y", 0),
];
/// A directory, and the path that it is renamed to; what lies in another one comes first.
pub const DIRECTORIES: [(&str, &str); 3] = [
    ("/w/data/deep", "/w/elsewhere-deep"),
    ("/w/data", "/w/elsewhere-data"),
    ("/w/free", "/w/elsewhere-free"),
];
const PROGRAMS: [&str; 3] = [TOOL, OTHER, SOURCE];

enum Entry {
    Directory,
    File(&'static [u8], u32, u32), // content, mode, owner
}

/// All of it, what is above first.
fn entries() -> Vec<(&'static str, Entry)> {
    let directories = [TOP, "/w/bin", "/w/data", "/w/data/deep", "/w/free"];
    let directories = directories.into_iter().map(|path| (path, Entry::Directory));
    let files = FILES.into_iter().map(|(path, _, owner)| (path, Entry::File(b"x", 0o666, owner)));
    let programs = PROGRAMS.into_iter().map(|path| (path, Entry::File(image::VISIT, 0o755, 0)));
    let script = std::iter::once((SCRIPT, Entry::File(SHEBANG, 0o755, 0)));
    directories.chain(files).chain(programs).chain(script).collect()
}

/// What the probes need of a guest beside it: terminals and a network of its own.
const NEEDED: &str = "ip link set lo up && mkdir -p /dev/pts && { [ -e /dev/pts/ptmx ] || mount -t devpts devpts /dev/pts; } && \
    { [ -e /dev/ptmx ] || mknod /dev/ptmx c 5 2; } && chmod 666 /dev/ptmx";

/// Makes what the probes need beside it.
///
/// # Errors
/// When that fails.
pub fn prepare() -> Result<()> {
    let status = Command::new("sh").args(["-c", NEEDED]).status()?;
    ensure!(status.success(), "there are no terminals or no network: {status}");
    Ok(())
}

/// Makes it on this machine, in the place of what was there.
///
/// # Errors
/// When something cannot be made.
pub fn make() -> Result<()> {
    let _was_not_there = fs::remove_dir_all(TOP);
    for (path, entry) in entries() {
        let made = match entry {
            Entry::Directory => fs::create_dir(path).and_then(|()| mode(path, 0o777)),
            Entry::File(content, bits, owner) => fs::write(path, content)
                .and_then(|()| mode(path, bits))
                .and_then(|()| chown(path, Some(owner), Some(owner))),
        };
        made.with_context(|| format!("make `{path}`"))?;
    }
    Ok(())
}

fn mode(path: &str, bits: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(bits))
}

/// The root of an image with it, as a tar archive.
///
/// # Errors
/// None in practice: it is made in memory.
pub fn archive() -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, entry) in entries() {
        let mut header = Header::new_gnu();
        let (kind, content, bits, owner): (_, &[u8], _, _) = match entry {
            Entry::Directory => (EntryType::Directory, &[], 0o777, 0),
            Entry::File(content, bits, owner) => (EntryType::Regular, content, bits, owner),
        };
        header.set_entry_type(kind);
        header.set_mode(bits);
        header.set_uid(owner.into());
        header.set_gid(owner.into());
        header.set_size(u64::try_from(content.len())?);
        tar.append_data(&mut header, path.trim_start_matches('/'), content)?;
    }
    Ok(tar.into_inner()?)
}
