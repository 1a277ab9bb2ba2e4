//! Changes of the policies that end by themselves unless somebody confirms them: who locks himself out is let in again.
//!
//! A change puts files into a policy directory. What the files replace stays beside them under hidden names, and a hidden
//! record says what is pending; neither is a policy. Reverting, by time, by wish or at the next start of a daemon, puts
//! back the very files that were there before. The record stands in the same directory, so that nothing can part it from
//! what it is about, and is written before anything changes and removed after everything is as it is to stay.

pub mod changes;
pub mod command;
mod left;
mod remarks;
pub mod serve;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
    before: bool, // there was a file of this name
}

/// A change that is in the directory, and not confirmed.
#[derive(Debug)]
pub struct Pending {
    dir: PathBuf,
    record: Record,
    // Whether files may have been put in place: the record has been there. That it is gone does not say that they are not:
    // confirming removes it first, and may fail then.
    entered: bool,
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

fn write(path: &Path, bytes: &[u8]) -> Result<(), ApplyError> {
    let mut file = step().and_then(|()| File::create(path)).map_err(io("create", path))?;
    step().and_then(|()| file.write_all(bytes)).and_then(|()| file.sync_all()).map_err(io("write", path))
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

fn exists(path: &Path) -> Result<bool, ApplyError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io("look at", path)(error)),
    }
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

fn put(dir: &Path, files: &[NewFile]) -> Result<(), ApplyError> {
    let hidden = |file: &NewFile| dir.join(format!("{NEW}{}", file.name));
    // all are complete before one counts
    for file in files {
        write(&hidden(file), file.text.as_bytes())?;
    }
    for file in files {
        rename("put in place", &hidden(file), &dir.join(&file.name))?;
    }
    settle(dir)
}

/// Puts files into the directory for good.
///
/// # Errors
/// When a name is none, a change is pending, or the directory cannot be written.
pub fn keep(dir: &Path, files: &[NewFile]) -> Result<(), ApplyError> {
    check(files)?;
    if exists(&dir.join(RECORD))? {
        return Err(ApplyError::Pending);
    }
    put(dir, files)
}

impl Pending {
    /// Puts files into the directory until they are confirmed.
    ///
    /// # Errors
    /// When a name is none, a change is pending, or the directory cannot be written: then nothing has changed, unless what
    /// has cannot be reverted either. It is [`left`](Self::left) then.
    pub fn begin(dir: &Path, files: &[NewFile]) -> Result<Self, ApplyError> {
        check(files)?;
        if exists(&dir.join(RECORD))? {
            return Err(ApplyError::Pending);
        }
        let replaced = |file: &NewFile| {
            let before = exists(&dir.join(&file.name))?;
            Ok(Replaced { name: file.name.clone(), before })
        };
        let files_before: Result<_, ApplyError> = files.iter().map(replaced).collect();
        let mut pending =
            Self { dir: dir.to_owned(), record: Record { files: files_before? }, entered: false };
        if let Err(error) = pending.enter(files) {
            // as far as it came
            pending.revert()?;
            return Err(error);
        }
        Ok(pending)
    }

    fn enter(&mut self, files: &[NewFile]) -> Result<(), ApplyError> {
        let new = self.dir.join(format!("{NEW}record"));
        let text = serde_json::to_vec(&self.record)
            .map_err(|source| ApplyError::Record { path: new.clone(), source })?;
        write(&new, &text)?;
        for Replaced { name, before } in &self.record.files {
            let hidden = self.hidden(name);
            remove(&hidden)?; // of a change that was confirmed, and cut off then
            if *before {
                let path = self.dir.join(name);
                step().and_then(|()| std::fs::hard_link(&path, &hidden)).map_err(io("keep", &path))?;
            }
        }
        settle(&self.dir)?;
        rename("put in place", &new, &self.dir.join(RECORD))?;
        self.entered = true;
        settle(&self.dir)?;
        put(&self.dir, files)
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
                Ok(Some(Self { dir: dir.to_owned(), record, entered: true }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &path)(error)),
        }
    }

    /// The names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.record.files.iter().map(|file| file.name.as_str())
    }

    fn hidden(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{BEFORE}{name}"))
    }

    /// Puts back what was there before. May be done again after it was cut off.
    ///
    /// # Errors
    /// When the directory cannot be written: it is to be tried again.
    pub fn revert(&mut self) -> Result<(), ApplyError> {
        for Replaced { name, before } in &self.record.files {
            let (path, hidden) = (self.dir.join(name), self.hidden(name));
            remove(&self.dir.join(format!("{NEW}{name}")))?;
            match before {
                _ if !self.entered => {} // nothing has been put in place
                true if exists(&hidden)? => rename("put back", &hidden, &path)?,
                true => {} // it has been put back already
                false => remove(&path)?,
            }
            // renaming one name of a file over another one of it does nothing
            remove(&hidden)?;
        }
        remove(&self.dir.join(format!("{NEW}record")))?;
        settle(&self.dir)?;
        remove(&self.dir.join(RECORD))?;
        settle(&self.dir)?;
        self.entered = false;
        Ok(())
    }

    /// Keeps what is there now.
    ///
    /// # Errors
    /// When the directory cannot be written, or the record is gone: then it is still pending here, and may be reverted. Where
    /// the record could be removed, but not for good, another daemon takes it as confirmed.
    pub fn confirm(&self) -> Result<(), ApplyError> {
        if !exists(&self.dir.join(RECORD))? {
            return Err(ApplyError::Gone(self.dir.join(RECORD)));
        }
        remove(&self.dir.join(RECORD))?;
        settle(&self.dir)?;
        // what is left of the old files counts for nothing, and goes with the next change
        self.record.files.iter().for_each(|file| drop(remove(&self.hidden(&file.name))));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
