//! What is to be done to the files of a host: worked out first, shown or done then, all of it or nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use similar::TextDiff;

use super::root::{Content, Root};

/// What a copy of a file is called that stands beside it.
const BACKUP: &str = ".nri-enforcer-backup";

/// Something that cannot be done to a file.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {what}: {source}", path.display())]
pub struct FileError {
    /// The file, as the host names it.
    pub path: PathBuf,
    /// What cannot be done.
    pub what: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// One file that is to be another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    path: PathBuf,
    before: Option<Content>,
    after: Option<Content>,
}

/// All of it, in the order in which it is done.
#[derive(Debug)]
pub struct Plan {
    root: Root,
    steps: Vec<Step>,
}

impl Plan {
    /// Nothing, on this host.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self { root, steps: Vec::new() }
    }

    /// The host.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Where the links of a path lead.
    ///
    /// # Errors
    /// When they lead nowhere.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, FileError> {
        self.root.resolve(path).map_err(|source| FileError {
            path: path.to_owned(),
            what: "cannot be found",
            source,
        })
    }

    /// A file as it will be; `None`: it will not be there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &Path) -> Result<Option<Content>, FileError> {
        let path = self.resolve(path)?;
        match self.steps.iter().find(|step| step.path == path) {
            Some(step) => Ok(step.after.clone()),
            None => self.on_disk(&path),
        }
    }

    fn on_disk(&self, path: &Path) -> Result<Option<Content>, FileError> {
        self.root.read(path).map_err(|source| FileError {
            path: path.to_owned(),
            what: "cannot be read",
            source,
        })
    }

    /// The file gets this content, or goes.
    ///
    /// # Errors
    /// When it cannot be read as it is.
    pub fn set(&mut self, path: &Path, after: Option<Content>) -> Result<(), FileError> {
        let path = self.resolve(path)?;
        let before = self.on_disk(&path)?;
        self.steps.retain(|step| step.path != path);
        let same = match (&before, &after) {
            (Some(is), Some(to)) => {
                is.bytes == to.bytes && is.mode == to.mode && to.owner.is_none_or(|to| is.owner == Some(to))
            }
            (is, to) => is.is_none() && to.is_none(),
        };
        if !same {
            self.steps.push(Step { path, before, after });
        }
        Ok(())
    }

    /// The file of somebody else gets other bytes; a copy of it is put beside it, unless one is there.
    ///
    /// # Errors
    /// When it cannot be read as it is.
    pub fn edit(&mut self, path: &Path, bytes: Vec<u8>) -> Result<(), FileError> {
        let path = self.resolve(path)?;
        let after = match self.on_disk(&path)? {
            Some(before) => {
                let backup = backup_of(&path);
                if self.read(&backup)?.is_none() {
                    self.set(&backup, Some(before.clone()))?;
                }
                Content { bytes, ..before }
            }
            None => Content::new(bytes, 0o644),
        };
        self.set(&path, Some(after))
    }

    /// Removes the copy beside a file that is again what it was.
    ///
    /// # Errors
    /// When they cannot be read. `false`: the file is another one than its copy, which stays.
    pub fn forget_backup(&mut self, path: &Path) -> Result<bool, FileError> {
        let path = self.resolve(path)?;
        let backup = backup_of(&path);
        let (is, was) = (self.read(&path)?, self.read(&backup)?);
        let same = was.is_none() || is == was;
        if same {
            self.set(&backup, None)?;
        }
        Ok(same)
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Does this file before all others.
    pub fn lead(&mut self, path: &Path) {
        self.steps.sort_by_key(|step| step.path != path);
    }

    /// What becomes of each file, in the order in which that is done: `written`, `changed` or `removed`.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.steps.iter().map(|step| {
            let what = match (&step.before, &step.after) {
                (_, None) => "removed",
                (None, _) => "written",
                _ => "changed",
            };
            (what, step.path.as_path())
        })
    }

    /// The directories that will be made, the upper ones first.
    #[must_use]
    pub fn directories(&self) -> BTreeSet<PathBuf> {
        let written = self.steps.iter().filter(|step| step.after.is_some());
        let above = written.flat_map(|step| step.path.ancestors().skip(1));
        above.filter(|path| !self.root.at(path).exists()).map(Path::to_owned).collect()
    }

    /// What is to be done, as a unified diff. Of programs it tells that they come or go.
    #[must_use]
    pub fn diff(&self) -> String {
        self.steps.iter().map(diff).collect()
    }

    /// Does it. When a step cannot be done, or `good` says no afterwards, all is put back.
    ///
    /// # Errors
    /// Why that was; nothing has changed then, but what the error says could not be put back.
    pub fn apply<E: From<FileError>>(&self, good: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let (mut done, mut directories) = (Vec::new(), Vec::new());
        let mut result = Ok(());
        for step in &self.steps {
            match self.put(&step.path, step.after.as_ref()) {
                Ok(made) => directories.extend(made),
                Err(error) => {
                    result = Err(error.into());
                    break;
                }
            }
            done.push(step);
        }
        let Err(why) = result.and_then(|()| good()) else { return Ok(()) };
        for step in done.into_iter().rev() {
            if let Err(error) = self.put(&step.path, step.before.as_ref()) {
                return Err(FileError { what: "was changed and could not be put back", ..error }.into());
            }
        }
        self.root.remove_directories(&directories);
        Err(why)
    }

    fn put(&self, path: &Path, content: Option<&Content>) -> Result<Vec<PathBuf>, FileError> {
        let (what, done) = match content {
            Some(content) => ("cannot be written", self.root.write(path, content)),
            None => ("cannot be removed", self.root.remove(path).map(|()| Vec::new())),
        };
        done.map_err(|source| FileError { path: path.to_owned(), what, source })
    }
}

fn backup_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BACKUP);
    name.into()
}

fn diff(step: &Step) -> String {
    let path = step.path.display();
    if step.path.as_os_str().to_string_lossy().ends_with(BACKUP) {
        let what = if step.after.is_some() { "is put there" } else { "is removed" };
        return format!("{path}: a copy {what}\n");
    }
    let text = |content: &Option<Content>| {
        String::from_utf8(content.as_ref().map(|content| content.bytes.clone()).unwrap_or_default())
    };
    let (Ok(before), Ok(after)) = (text(&step.before), text(&step.after)) else {
        return match &step.after {
            Some(after) => format!("{path}: a program of {} bytes is put there\n", after.bytes.len()),
            None => format!("{path}: the program is removed\n"),
        };
    };
    let name = |there: bool, side: &str| match there {
        true => format!("{side}{path}"),
        false => "/dev/null".to_owned(),
    };
    let names = (name(step.before.is_some(), "a"), name(step.after.is_some(), "b"));
    TextDiff::from_lines(&before, &after).unified_diff().header(&names.0, &names.1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn plan(files: &[(&str, &str)]) -> (tempfile::TempDir, Plan) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let plan = Plan::new(Root::new(dir.path()));
        (dir, plan)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn all_is_put_back_when_the_result_is_not_good() {
        let (dir, mut plan) = plan(&[("a", "1\n"), ("c", "3\n")]);
        plan.edit(Path::new("/a"), b"2\n".to_vec()).unwrap();
        plan.set(Path::new("/new/dir/b"), Some(Content::new("b", 0o755))).unwrap();
        plan.set(Path::new("/c"), None).unwrap();
        let inside = |dir: &Path| (fs::read_to_string(dir.join("a")).unwrap(), names(dir));
        let error = plan
            .apply(|| {
                assert_eq!(inside(dir.path()).0, "2\n");
                assert_eq!(names(dir.path()), ["a", "a.nri-enforcer-backup", "new"]);
                Err(FileError { path: "/x".into(), what: "is bad", source: io::Error::other("so") })
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "`/x` is bad: so");
        assert_eq!(inside(dir.path()), ("1\n".into(), vec!["a".into(), "c".into()]));
    }

    #[test]
    fn a_step_that_cannot_be_done_takes_the_others_back() {
        let (dir, mut plan) = plan(&[("a", "1\n"), ("file", "")]);
        plan.edit(Path::new("/a"), b"2\n".to_vec()).unwrap();
        plan.steps.push(Step {
            path: "/file/below".into(),
            before: None,
            after: Some(Content::new("", 0o644)),
        });
        let error = plan.apply(|| Ok::<_, FileError>(())).unwrap_err();
        assert!(error.to_string().starts_with("`/file/below` cannot be written: "), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1\n");
        assert_eq!(names(dir.path()), ["a", "file"]);
    }

    #[test]
    fn differences_are_shown_as_a_patch() {
        let (dir, mut plan) = plan(&[("a", "1\r\n2\r\n"), ("gone", "x\n")]);
        plan.edit(Path::new("/a"), b"1\r\n3\r\n".to_vec()).unwrap();
        plan.set(Path::new("/gone"), None).unwrap();
        plan.set(Path::new("/program"), Some(Content::new([0x7f, 0xff], 0o755))).unwrap();
        plan.set(Path::new("/none"), None).unwrap();
        assert_eq!(
            plan.diff(),
            "/a.nri-enforcer-backup: a copy is put there\n\
             --- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n 1\r\n-2\r\n+3\r\n\
             --- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\
             /program: a program of 2 bytes is put there\n"
        );
        assert!(names(dir.path()) == ["a", "gone"], "nothing is done");
    }
}
