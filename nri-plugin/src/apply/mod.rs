//! Changes of the policies that end by themselves unless somebody confirms them: who locks himself out is let in again.
//!
//! A change puts files into a policy directory. What the files replace stays beside them under hidden names, and a hidden
//! record says what is pending; neither is a policy. Reverting, by time, by wish or at the next start of a daemon, puts
//! back the very files that were there before. The record stands in the same directory, so that nothing can part it from
//! what it is about, and is written before anything changes and removed after everything is as it is to stay.

pub mod changes;
pub(crate) mod client;
pub mod command;
mod file_id;
mod left;
mod remarks;
pub mod serve;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::file_id::FileId;

/// The record.
const RECORD: &str = ".nri-enforcer-pending.json";
/// What the hidden names of replaced files begin with.
const BEFORE: &str = ".nri-enforcer-before-";
/// What is being written.
const NEW: &str = ".nri-enforcer-new-";
/// The most files of one change.
const MAX_FILES: usize = 256;

/// A file to put into the policy directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewFile {
    /// Its name there.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl NewFile {
    /// Whether policies are read from a file of this name in a policy directory.
    #[must_use]
    pub fn has_good_name(&self) -> bool {
        let path = Path::new(&self.name);
        let ending = path.extension().and_then(OsStr::to_str);
        path.file_name() == Some(OsStr::new(&self.name))
            && self.name.len() <= 200 // room for what is put before it; the bound of a name is 255
            && !self.name.starts_with('.')
            && matches!(ending, Some("yaml" | "yml" | "json"))
    }
}

/// Why a change is not made, or not undone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// A file that would not be read, or leads elsewhere.
    #[error(
        "`{0}` is no name of a policy file: it ends in .yaml, .yml or .json, and does not begin with a dot"
    )]
    Name(String),
    /// Two files of one name, none, or too many.
    #[error("one change has 1 to {MAX_FILES} files, each with another name")]
    Names,
    /// Another change waits.
    #[error(
        "a change waits to be confirmed already: `nri-enforcer confirm` keeps it, `nri-enforcer confirm --revert` ends it"
    )]
    Pending,
    /// The directory cannot be changed.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody else has ended the change.
    #[error("`{}` is gone: somebody else has ended the change", .0.display())]
    Gone(PathBuf),
    /// What is to be put back is not there.
    #[error("`{}` is gone, and with it what is to be put back; put that there again", .0.display())]
    Lost(PathBuf),
    /// The record is none.
    #[error("`{}` says nothing that can be understood; put the policies in order by hand, and remove it", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// What is pending in one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    files: Vec<Replaced>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Replaced {
    name: String,
    old: Option<FileId>, // what had this name; `None`: nothing
    new: FileId,
}

/// A change that is in the directory, and not confirmed.
#[derive(Debug)]
pub struct Pending {
    dir: PathBuf,
    record: Record,
    // Whether files may have been put in place: the record has been there. That it is gone does not say that they are not:
    // confirming removes it first, and may fail then.
    entered: bool,
    // Confirming has removed the record, and is to be done on.
    unrecorded: bool,
    // Of one that has been reverted: the files that were left as they were.
    others: Vec<String>,
}

/// Files for people.
pub(crate) fn list(files: &[String]) -> String {
    if files.is_empty() { "none of its files".to_owned() } else { files.join(", ") }
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ApplyError {
    let path = path.to_owned();
    move |source| ApplyError::Io { what, path, source }
}

/// Called before each step that changes the directory. A test has one fail.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it fails in tests")]
const fn step() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::step;

/// Makes what was done in the directory outlive a loss of power.
fn settle(dir: &Path) -> Result<(), ApplyError> {
    step().and_then(|()| File::open(dir)).and_then(|dir| dir.sync_all()).map_err(io("write", dir))
}

fn write(path: &Path, bytes: &[u8]) -> Result<FileId, ApplyError> {
    let mut file = step().and_then(|()| File::create(path)).map_err(io("create", path))?;
    let written = step().and_then(|()| file.write_all(bytes)).and_then(|()| file.sync_all());
    let about = written.and_then(|()| file.metadata()).map_err(io("write", path))?;
    Ok(FileId::of(&about))
}

fn rename(what: &'static str, from: &Path, to: &Path) -> Result<(), ApplyError> {
    step().and_then(|()| std::fs::rename(from, to)).map_err(io(what, to))
}

/// Removes a file; one that is not there is fine.
fn remove(path: &Path) -> Result<(), ApplyError> {
    match step().and_then(|()| std::fs::remove_file(path)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn at(path: &Path) -> Result<Option<FileId>, ApplyError> {
    FileId::at(path).map_err(io("look at", path))
}

fn check(files: &[NewFile]) -> Result<(), ApplyError> {
    if let Some(bad) = files.iter().find(|file| !file.has_good_name()) {
        return Err(ApplyError::Name(bad.name.clone()));
    }
    let mut names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let good = !files.is_empty() && names.len() == files.len() && files.len() <= MAX_FILES;
    good.then_some(()).ok_or(ApplyError::Names)
}

fn is_free(dir: &Path) -> Result<(), ApplyError> {
    at(&dir.join(RECORD))?.map_or(Ok(()), |_| Err(ApplyError::Pending))
}

fn new(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{NEW}{name}"))
}

fn hidden(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{BEFORE}{name}"))
}

/// Writes the files beside their places: all are complete before one counts.
fn stage(dir: &Path, files: &[NewFile]) -> Result<Vec<Replaced>, ApplyError> {
    let one = |file: &NewFile| {
        let new = write(&new(dir, &file.name), file.text.as_bytes())?;
        Ok(Replaced { name: file.name.clone(), old: None, new })
    };
    let staged: Result<_, ApplyError> = files.iter().map(one).collect();
    if staged.is_err() {
        // what is left of them counts for nothing
        files.iter().for_each(|file| drop(remove(&new(dir, &file.name))));
    }
    staged
}

/// Puts files into the directory for good: all or none of them.
///
/// # Errors
/// As [`Pending::begin`] and [`Pending::confirm`]: then nothing has changed, unless what has cannot be reverted either.
pub fn keep(dir: &Path, files: &[NewFile]) -> Result<(), ApplyError> {
    let mut pending = Pending::begin(dir, files)?;
    if let Err(error) = pending.confirm() {
        pending.revert()?;
        return Err(error);
    }
    Ok(())
}

impl Pending {
    /// Puts files into the directory until they are confirmed.
    ///
    /// # Errors
    /// When a name is none, a change is pending, or the directory cannot be written: then nothing has changed, unless what
    /// has cannot be reverted either. It is [`left`](Self::left) then.
    pub fn begin(dir: &Path, files: &[NewFile]) -> Result<Self, ApplyError> {
        check(files)?;
        is_free(dir)?;
        let record = Record { files: stage(dir, files)? };
        let mut pending =
            Self { dir: dir.to_owned(), record, entered: false, unrecorded: false, others: Vec::new() };
        if let Err(error) = pending.enter() {
            // as far as it came
            pending.revert()?;
            return Err(error);
        }
        Ok(pending)
    }

    fn enter(&mut self) -> Result<(), ApplyError> {
        for Replaced { name, old, .. } in &mut self.record.files {
            let (path, hidden) = (self.dir.join(&*name), hidden(&self.dir, name));
            remove(&hidden)?; // of a change that was confirmed, and cut off then
            match step().and_then(|()| std::fs::hard_link(&path, &hidden)) {
                // by this name: overlayfs may have made another file of it for the link
                Ok(()) => *old = Some(at(&hidden)?.ok_or(ApplyError::Lost(hidden))?),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(io("keep", &path)(error)),
            }
        }
        let record = new(&self.dir, "record");
        let text = serde_json::to_vec(&self.record)
            .map_err(|source| ApplyError::Record { path: record.clone(), source })?;
        write(&record, &text)?;
        settle(&self.dir)?;
        rename("put in place", &record, &self.dir.join(RECORD))?;
        self.entered = true;
        settle(&self.dir)?;
        for Replaced { name, .. } in &self.record.files {
            rename("put in place", &new(&self.dir, name), &self.dir.join(name))?;
        }
        settle(&self.dir)
    }

    /// What an earlier daemon left pending in the directory.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn left(dir: &Path) -> Result<Option<Self>, ApplyError> {
        let path = dir.join(RECORD);
        match std::fs::read(&path) {
            Ok(text) => {
                let record: Record = serde_json::from_slice(&text)
                    .map_err(|source| ApplyError::Record { path: path.clone(), source })?;
                let whole = |file: &Replaced| NewFile { name: file.name.clone(), text: String::new() };
                check(&record.files.iter().map(whole).collect::<Vec<_>>())?;
                let dir = dir.to_owned();
                Ok(Some(Self { dir, record, entered: true, unrecorded: false, others: Vec::new() }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &path)(error)),
        }
    }

    /// The directory.
    fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.record.files.iter().map(|file| file.name.as_str())
    }

    /// Puts back what was there before. May be done again after it was cut off; once it is done, what comes to the directory
    /// later has nothing to do with the change, and stays. The names of those files that are left as
    /// they are: what is there now is not what the change put there, and nothing was there before, or something else.
    ///
    /// # Errors
    /// When the directory cannot be written, or what is to be put back is gone: it is to be tried again.
    pub fn revert(&mut self) -> Result<Vec<String>, ApplyError> {
        let (mut others, mut failed) = (Vec::new(), None);
        for file in &self.record.files {
            match self.put_back(file) {
                Ok(true) => {}
                Ok(false) => others.push(file.name.clone()),
                // the next ones are put back nevertheless: it may be one of them that locks somebody out
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        remove(&new(&self.dir, "record"))?;
        settle(&self.dir)?;
        remove(&self.dir.join(RECORD))?;
        settle(&self.dir)?;
        if std::mem::take(&mut self.entered) {
            self.others = others;
        }
        Ok(self.others.clone())
    }

    /// False: what is there is not of this change, and stays.
    fn put_back(&self, Replaced { name, old, new: ours }: &Replaced) -> Result<bool, ApplyError> {
        let (path, hidden) = (self.dir.join(name), hidden(&self.dir, name));
        remove(&new(&self.dir, name))?;
        if !self.entered {
            // nothing has been put in place, or it has been put back
            if !self.others.contains(name) {
                remove(&hidden)?;
            }
            return Ok(true);
        }
        let now = at(&path)?;
        // a directory is nobody's newer policy: it is only in the way
        let is_theirs = now.is_some_and(|now| now != *ours && Some(now) != *old);
        if old.is_some() && is_theirs && !path.is_dir() {
            return Ok(false); // and the hidden file stays, too
        }
        let mut done = true;
        match old {
            Some(_) if at(&hidden)?.is_some() => rename("put back", &hidden, &path)?,
            Some(_) if now == *old => {} // it has been put back already
            Some(_) => return Err(ApplyError::Lost(hidden)),
            None if now == Some(*ours) => remove(&path)?,
            None => done = now.is_none(),
        }
        // renaming one name of a file over another one of it does nothing
        remove(&hidden)?;
        Ok(done)
    }

    /// Why it was reverted, with what of it was not, and where that is which would have come back.
    fn with_others(&self, why: &str, others: &[String]) -> String {
        let one = |name: &String| {
            let before = hidden(&self.dir, name);
            match at(&before) {
                Ok(Some(_)) => format!("{name} (before: `{}`)", before.display()),
                _ => name.clone(),
            }
        };
        match others {
            [] => why.to_owned(),
            _ => {
                let others: Vec<String> = others.iter().map(one).collect();
                format!(
                    "{why}; left as they are, since somebody else has put them there: {}",
                    others.join(", ")
                )
            }
        }
    }

    /// The names of the files but for some.
    fn names_without(&self, others: &[String]) -> Vec<String> {
        self.names().filter(|name| !others.iter().any(|other| other == name)).map(str::to_owned).collect()
    }

    /// Keeps what is there now. May be done again after it was cut off.
    ///
    /// # Errors
    /// When the directory cannot be written, or somebody else has removed the record: then it is still pending here, and may
    /// be reverted. Where the record could be removed, but not for good, another daemon takes it as confirmed.
    pub fn confirm(&mut self) -> Result<(), ApplyError> {
        let record = self.dir.join(RECORD);
        if !self.unrecorded && at(&record)?.is_none() {
            return Err(ApplyError::Gone(record));
        }
        remove(&record)?;
        self.unrecorded = true;
        settle(&self.dir)?;
        // what is left of the old files counts for nothing, and goes with the next change
        self.record.files.iter().for_each(|file| drop(remove(&hidden(&self.dir, &file.name))));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
