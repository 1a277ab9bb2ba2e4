//! Loading AppArmor profiles: compiled by `apparmor_parser`, put into the kernel by one write.
//!
//! One write replaces a profile and all its children together, or nothing: at no moment is a process under half a profile,
//! or under none. Profiles live in the kernel, so they outlast the daemon; another one finds them by their names. Only
//! names that begin with [`NAME_PREFIX`] are ever written or removed.
//!
//! Removing a profile that a process has would leave the process unconfined, so that is looked up first. A process that
//! is about to get a profile is not seen: whoever removes names those to keep.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::tool::{Ended, Unended, in_memory};
use crate::compile::apparmor::{AppArmorProfile, FEATURES, NAME_PREFIX, ProfileName};

/// Where the kernel takes profiles.
const SECURITYFS: &str = "/sys/kernel/security/apparmor";
/// What the kernel does with all profiles alike, whatever mode each has: `apparmor.mode=` at boot, or written there.
const MODE: &str = "/sys/module/apparmor/parameters/mode";
/// The modes in which it denies.
const DENYING: [&str; 2] = ["enforce", "kill"];
/// What compiles them, looked for in `PATH`.
const PARSER: &str = "apparmor_parser";
/// How long the parser may take. A large profile takes seconds; what takes longer is refused.
pub const PARSER_DEADLINE: Duration = Duration::from_secs(10);
/// How much of what the parser says is kept, in bytes.
const MAX_SAID: u64 = 4096;
/// The largest compiled profile, in bytes.
const MAX_COMPILED: u64 = 64 << 20;

/// Why a profile could not be loaded, or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppArmorError {
    /// The kernel has no AppArmor, or it is off, or securityfs is not mounted.
    #[error("AppArmor is not there: cannot read `{}`; boot with `lsm=...,apparmor`, and mount securityfs", path.display())]
    Absent {
        /// What was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// It denies nothing, on the whole node.
    #[error(
        "AppArmor is in the mode `{}`: no profile is enforced; boot without `apparmor.mode=`, or write `enforce` to `{}`",
        mode.escape_debug(), path.display()
    )]
    Unenforced {
        /// The mode.
        mode: String,
        /// Where the kernel says so.
        path: PathBuf,
    },
    /// The parser cannot be started.
    #[error("cannot run `{}`; install AppArmor's parser, 4.1 or newer", parser.display())]
    NoParser {
        /// Its path, or name.
        parser: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The parser refuses the profile: one before 4.1 knows no priorities.
    #[error("`{}` refuses the profile `{name}`: {said}", parser.display())]
    Refused {
        /// Its path, or name.
        parser: PathBuf,
        /// The profile.
        name: ProfileName,
        /// What it says.
        said: String,
    },
    /// The parser takes too long.
    #[error("compiling the profile `{0}` takes more than {PARSER_DEADLINE:?}")]
    TooSlow(ProfileName),
    /// The compiled profile is too large.
    #[error("the profile `{0}` has more than {MAX_COMPILED} bytes, compiled")]
    TooLarge(ProfileName),
    /// The kernel takes or gives something else than it should.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It was loaded, and is not there.
    #[error("the kernel does not enforce the profile `{0}` after it was loaded")]
    NotEnforced(String),
    /// A child is loaded that the new profile has not: the kernel would keep it with its old rules, and what is in it.
    #[error("the profile `{name}` would leave its child `{child}` in force with rules of before")]
    ChildrenStay {
        /// The profile.
        name: ProfileName,
        /// The child's own name.
        child: String,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> AppArmorError {
    let what = what.into();
    move |source| AppArmorError::Io { what, source }
}

/// The kernel's AppArmor.
#[derive(Debug)]
pub struct AppArmor {
    parser: PathBuf,
    securityfs: PathBuf, // `SECURITYFS` and `MODE`, but for tests
    mode: PathBuf,
}

impl AppArmor {
    /// That of this machine, with the parser at `parser`, or the one in `PATH`.
    ///
    /// # Errors
    /// [`AppArmorError::Absent`], where the kernel has none, and [`AppArmorError::Unenforced`], where it denies nothing.
    pub fn open(parser: Option<&Path>) -> Result<Self, AppArmorError> {
        let this = Self { parser: parser.unwrap_or(PARSER.as_ref()).to_owned(), ..Self::to_remove_from()? };
        this.must_deny().map(|()| this)
    }

    /// The same, also where it denies nothing, to take out what is loaded.
    ///
    /// # Errors
    /// [`AppArmorError::Absent`].
    pub fn to_remove_from() -> Result<Self, AppArmorError> {
        let this = Self { parser: PARSER.into(), securityfs: SECURITYFS.into(), mode: MODE.into() };
        this.listed().map(|_| this)
    }

    /// Loads a profile in the place of the one with its name, if there is one: both with all their children. Processes
    /// that have the old one have the new one then.
    ///
    /// # Errors
    /// When the parser or the kernel refuses it, and [`AppArmorError::ChildrenStay`] when the kernel has
    /// [`children`](Self::children) that it lacks, or denies nothing: nothing has changed then.
    /// [`AppArmorError::NotEnforced`] when it is not there afterwards.
    pub fn load(&self, profile: &AppArmorProfile) -> Result<(), AppArmorError> {
        let stays = |child: &String| !profile.profiles.contains(&format!("{}//{child}", profile.name));
        if let Some(child) = self.children(&profile.name)?.into_iter().find(stays) {
            return Err(AppArmorError::ChildrenStay { name: profile.name.clone(), child });
        }
        let compiled = self.compile(profile)?;
        let path = self.securityfs.join(".replace");
        let load = || File::options().write(true).open(&path)?.write(&compiled);
        let written = load().map_err(failed(format!("load the profile `{}`", profile.name)))?;
        if written != compiled.len() {
            return Err(AppArmorError::NotEnforced(profile.name.to_string()));
        }
        let enforced = self.profiles()?;
        match profile.profiles.iter().find(|name| !enforced.contains(*name)) {
            Some(missing) => Err(AppArmorError::NotEnforced(missing.clone())),
            None => Ok(()),
        }
    }

    /// The profiles of ours that the kernel enforces.
    ///
    /// # Errors
    /// When the kernel's list cannot be read, and [`AppArmorError::Unenforced`], where it enforces none.
    pub fn loaded(&self) -> Result<BTreeSet<ProfileName>, AppArmorError> {
        Ok(self.profiles()?.iter().filter_map(|name| ours(name)).collect())
    }

    /// The same, also where the kernel denies nothing.
    ///
    /// # Errors
    /// When the kernel's list cannot be read.
    pub fn loaded_in_any_mode(&self) -> Result<BTreeSet<ProfileName>, AppArmorError> {
        Ok(self.listed()?.iter().filter_map(|name| ours(name)).collect())
    }

    /// The children that a profile has in the kernel, by their own names.
    ///
    /// # Errors
    /// As [`Self::loaded`].
    pub fn children(&self, name: &ProfileName) -> Result<BTreeSet<String>, AppArmorError> {
        let begin = format!("{name}//");
        Ok(self.profiles()?.iter().filter_map(|one| one.strip_prefix(&begin)).map(str::to_owned).collect())
    }

    /// Those of ours that some process has, itself or a child of it.
    ///
    /// # Errors
    /// When what a process has cannot be found out: it may be any.
    pub fn in_use(&self) -> Result<BTreeSet<ProfileName>, AppArmorError> {
        Ok(self.processes()?.into_iter().map(|(_, name)| name).collect())
    }

    /// The processes that have a profile of ours, in some task of theirs; once for each profile.
    ///
    /// # Errors
    /// When what a process has cannot be found out: it may be any.
    pub fn processes(&self) -> Result<BTreeSet<(i32, ProfileName)>, AppArmorError> {
        let mut found = BTreeSet::new();
        for process in numbered("/proc".as_ref()).map_err(failed("read `/proc`"))? {
            let Some(pid) = process.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            let tasks = match numbered(&process.join("task")) {
                Ok(tasks) => tasks,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(failed(format!("read `{}`", process.display()))(error)),
            };
            for task in tasks {
                found.extend(labels(&task)?.into_iter().map(|name| (pid, name)));
            }
        }
        Ok(found)
    }

    /// The profile of ours that the first task of a process has; `None`: it has none of ours, or is gone.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn of_process(&self, pid: i32) -> Result<Option<ProfileName>, AppArmorError> {
        Ok(labels(&Path::new("/proc").join(pid.to_string()))?.into_iter().next())
    }

    /// Finds out whether profiles can be loaded here, by loading one that no process gets, and removing it.
    ///
    /// # Errors
    /// As [`Self::load`]; and when it cannot be removed.
    pub fn try_out(&self) -> Result<(), AppArmorError> {
        // two that try at one time must not take it from each other
        let name = format!("{NAME_PREFIX}probe-{}", std::process::id());
        let invalid = |error| failed("name a profile")(io::Error::other(error));
        let profile = AppArmorProfile {
            name: name.parse().map_err(invalid)?,
            // a priority is what older parsers do not know
            text: format!("profile {name} {{\n  priority=1 audit deny \"/**\" w,\n}}\n"),
            profiles: vec![name],
            gaps: Vec::new(),
        };
        self.load(&profile)?;
        self.remove(&profile.name)
    }

    /// Removes those of ours that are not to be kept and that no process has, also where the kernel denies nothing. Returns what
    /// was removed.
    ///
    /// # Errors
    /// When it cannot be found out who has them, or the kernel refuses; some may have been removed.
    pub fn remove_unused(&self, keep: &BTreeSet<ProfileName>) -> Result<Vec<ProfileName>, AppArmorError> {
        let loaded = self.loaded_in_any_mode()?;
        if loaded.is_subset(keep) {
            return Ok(Vec::new());
        }
        let used = self.in_use()?;
        let unused: Vec<_> =
            loaded.into_iter().filter(|name| !keep.contains(name) && !used.contains(name)).collect();
        unused.iter().try_for_each(|name| self.remove(name))?;
        Ok(unused)
    }

    /// The names of what is enforced; a profile in another mode does not count.
    fn profiles(&self) -> Result<BTreeSet<String>, AppArmorError> {
        let listed = self.listed()?;
        self.must_deny().map(|()| listed)
    }

    /// What the list says is enforced, whatever the mode of the whole.
    fn listed(&self) -> Result<BTreeSet<String>, AppArmorError> {
        let path = self.securityfs.join("profiles");
        let bytes = fs::read(&path).map_err(|source| AppArmorError::Absent { path, source })?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().filter_map(|line| line.strip_suffix(" (enforce)")).map(str::to_owned).collect())
    }

    /// The list says `enforce` of profiles in every mode of the whole.
    fn must_deny(&self) -> Result<(), AppArmorError> {
        let what = || format!("read `{}`", self.mode.display());
        let text = fs::read_to_string(&self.mode).map_err(|error| failed(what())(error))?;
        match text.trim() {
            mode if DENYING.contains(&mode) => Ok(()),
            mode => Err(AppArmorError::Unenforced { mode: mode.to_owned(), path: self.mode.clone() }),
        }
    }

    /// Takes a profile out of the kernel, with its children.
    fn remove(&self, name: &ProfileName) -> Result<(), AppArmorError> {
        let path = self.securityfs.join(".remove");
        let remove = || File::options().write(true).open(path)?.write_all(name.as_str().as_bytes());
        remove().map_err(failed(format!("remove the profile `{name}`")))
    }

    /// What the parser makes of the text. It asks the kernel nothing.
    fn compile(&self, profile: &AppArmorProfile) -> Result<Vec<u8>, AppArmorError> {
        let io = || failed(format!("compile the profile `{}`", profile.name));
        let text = in_memory("profile", profile.text.as_bytes()).map_err(io())?;
        let features = in_memory("features", FEATURES.as_bytes()).map_err(io())?;
        let path = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let mut command = Command::new(&self.parser);
        command.args(["--skip-kernel-load", "--skip-cache", "--stdout", "--features-file"]);
        command.args([path(&features), path(&text)]);
        let ended = Ended::within(PARSER_DEADLINE, &mut command).map_err(|why| match why {
            Unended::Unstarted(source) => AppArmorError::NoParser { parser: self.parser.clone(), source },
            Unended::TooSlow => AppArmorError::TooSlow(profile.name.clone()),
            Unended::Io(error) => io()(error),
        })?;
        let compiled = ended.out(MAX_COMPILED + 1).map_err(io())?;
        if !ended.status.success() || compiled.is_empty() {
            return Err(AppArmorError::Refused {
                parser: self.parser.clone(),
                name: profile.name.clone(),
                said: ended.err(MAX_SAID).map_err(io())?,
            });
        }
        match u64::try_from(compiled.len()) {
            Ok(length) if length <= MAX_COMPILED => Ok(compiled),
            _ => Err(AppArmorError::TooLarge(profile.name.clone())),
        }
    }
}

/// The profiles of ours that a task has, by its folder in `/proc`; none where it is gone.
fn labels(task: &Path) -> Result<Vec<ProfileName>, AppArmorError> {
    match fs::read(task.join("attr/apparmor/current")) {
        // a stack holds several, with `//&` between them
        Ok(label) => {
            let label = String::from_utf8_lossy(&label);
            Ok(label.split("//&").filter_map(|one| ours(one.split([' ', '\n']).next()?)).collect())
        }
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(failed(format!("read the label of `{}`", task.display()))(error)),
    }
}

/// The profile of ours that a name is of, or a child's.
fn ours(name: &str) -> Option<ProfileName> {
    name.split("//").next()?.parse().ok()
}

/// The folders in `folder` whose names are numbers.
fn numbered(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let paths = entries.iter().filter(|entry| entry.file_name().to_str().is_some_and(is_number));
    Ok(paths.map(fs::DirEntry::path).collect())
}

/// Whether a process ended while it was looked at.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_parser_that_does_not_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let parser = dir.path().join("parser");
        fs::write(&parser, "#!/bin/sh\nexec sleep 60\n").unwrap();
        fs::set_permissions(&parser, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let name: ProfileName = "nri-enforcer.x".parse().unwrap();
        let profile = AppArmorProfile { name, text: String::new(), profiles: Vec::new(), gaps: Vec::new() };
        let begin = Instant::now();
        let nowhere = || dir.path().join("none");
        let compiled = AppArmor { parser, securityfs: nowhere(), mode: nowhere() }.compile(&profile);
        assert!(matches!(compiled, Err(AppArmorError::TooSlow(_))), "{compiled:?}");
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    }

    /// The kernel denies nothing then, and lists profiles as enforced all the same.
    #[test]
    fn where_the_whole_node_complains_no_profile_counts() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("profiles"), "nri-enforcer.a (enforce)\nnri-enforcer.b (complain)\n").unwrap();
        fs::write(at(".replace"), "").unwrap();
        fs::write(at("parser"), "#!/bin/sh\necho compiled\n").unwrap();
        fs::set_permissions(at("parser"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let apparmor = AppArmor { parser: at("parser"), securityfs: dir.path().into(), mode: at("mode") };
        let name: ProfileName = "nri-enforcer.a".parse().unwrap();
        let profiles = vec![name.to_string()];
        let profile = AppArmorProfile { name: name.clone(), text: String::new(), profiles, gaps: Vec::new() };
        assert!(
            matches!(apparmor.loaded(), Err(AppArmorError::Io { .. })),
            "what is not known is no mode that denies"
        );
        for mode in ["complain\n", "unconfined\n", "user\n", "\n"] {
            fs::write(at("mode"), mode).unwrap();
            let told = apparmor.loaded().unwrap_err();
            assert!(matches!(told, AppArmorError::Unenforced { .. }), "{mode}: {told}");
            assert!(told.to_string().contains("write `enforce` to"), "{told}");
            assert!(matches!(apparmor.load(&profile), Err(AppArmorError::Unenforced { .. })), "{mode}");
            assert_eq!(fs::read_to_string(at(".replace")).unwrap(), "");
            // it is taken out all the same
            assert_eq!(apparmor.loaded_in_any_mode().unwrap(), BTreeSet::from([name.clone()]));
            fs::write(at(".remove"), "").unwrap();
            assert_eq!(apparmor.remove_unused(&BTreeSet::new()).unwrap(), std::slice::from_ref(&name));
            assert_eq!(fs::read_to_string(at(".remove")).unwrap(), name.as_str());
        }
        for mode in ["enforce\n", "kill\n"] {
            fs::write(at("mode"), mode).unwrap();
            assert_eq!(apparmor.loaded().unwrap(), BTreeSet::from([name.clone()]));
            apparmor.load(&profile).unwrap();
        }
        assert_eq!(fs::read_to_string(at(".replace")).unwrap(), "compiled\n");
    }
}
