//! Files of a host whose root is mounted somewhere: links are followed as that host would.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Links that are followed at most; the kernel's own limit.
const LINKS: usize = 40;
/// Bytes of a file that is read whole, at most. The largest, the hook itself, has some 2 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// The root of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

/// A file with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its user and group; `None`: those of this process.
    pub owner: Option<(u32, u32)>,
}

impl Content {
    /// A new file of root's.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        Self { bytes: bytes.into(), mode, owner: None }
    }
}

impl Root {
    /// Of the host whose root directory this is.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Whether it is the root of this process.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a path of the host is here.
    #[must_use]
    pub fn at(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The path of the host that `path` comes to by its links. What is not there is taken for no link.
    ///
    /// # Errors
    /// When `path` is not absolute, or its links have no end.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        if !path.is_absolute() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "is no absolute path"));
        }
        let mut ahead: Vec<_> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
        let (mut done, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = ahead.pop() {
            match Path::new(&part).components().next() {
                None | Some(Component::CurDir | Component::Prefix(_)) => continue,
                Some(Component::RootDir) => done = PathBuf::from("/"),
                Some(Component::ParentDir) => {
                    done.pop();
                }
                Some(Component::Normal(name)) => {
                    done.push(name);
                    let Ok(target) = fs::read_link(self.at(&done)) else { continue };
                    links += 1;
                    if links > LINKS {
                        return Err(io::Error::other("its links have no end"));
                    }
                    done.pop();
                    ahead.extend(target.components().rev().map(|part| part.as_os_str().to_owned()));
                }
            }
        }
        Ok(done)
    }

    /// Reads a file of the host, without links; `None`: it is not there.
    ///
    /// # Errors
    /// Those of the system, and when it is no file or too large.
    pub fn read(&self, path: &Path) -> io::Result<Option<Content>> {
        let path = self.at(path);
        let about = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            about => about?,
        };
        if !about.is_file() {
            return Err(io::Error::other("is no file"));
        }
        if about.len() > MAX_BYTES {
            return Err(io::Error::other(format!("has more than {MAX_BYTES} bytes")));
        }
        let bytes = fs::read(&path)?;
        Ok(Some(Content { bytes, mode: about.mode() & 0o7777, owner: Some((about.uid(), about.gid())) }))
    }

    /// Writes a file of the host whole, or not at all; the directories above it that were not there are returned.
    ///
    /// # Errors
    /// Those of the system; then nothing is left of it.
    pub fn write(&self, path: &Path, content: &Content) -> io::Result<Vec<PathBuf>> {
        let made = self.make_directories(path.parent().unwrap_or(path))?;
        let to = self.at(path);
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = to.with_file_name(format!(".{name}.nri-enforcer-new"));
        let written = put(&temporary, content).and_then(|()| fs::rename(&temporary, &to));
        if let Err(error) = written {
            let _not_there = fs::remove_file(&temporary);
            self.remove_directories(&made);
            return Err(error);
        }
        sync_directory(&to);
        Ok(made)
    }

    /// Removes a file of the host.
    ///
    /// # Errors
    /// Those of the system.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let path = self.at(path);
        fs::remove_file(&path)?;
        sync_directory(&path);
        Ok(())
    }

    /// Removes directories that are empty, the deepest first; others stay.
    pub fn remove_directories<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a PathBuf, IntoIter: DoubleEndedIterator>,
    ) {
        for path in paths.into_iter().rev() {
            let _in_use = fs::remove_dir(self.at(path));
        }
    }

    fn make_directories(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let absent = |path: &&Path| !self.at(path).exists();
        let mut wanted: Vec<PathBuf> = path.ancestors().take_while(absent).map(Path::to_owned).collect();
        wanted.reverse();
        for (number, path) in wanted.iter().enumerate() {
            let made = fs::DirBuilder::new().mode(0o755).create(self.at(path));
            let made =
                made.and_then(|()| fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)));
            if let Err(error) = made {
                self.remove_directories(wanted.get(..=number).unwrap_or_default());
                return Err(error);
            }
        }
        Ok(wanted)
    }
}

/// Writes a new file.
fn put(path: &Path, content: &Content) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // nobody else may look into it before it has its own mode
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&content.bytes)?;
    if let Some((user, group)) = content.owner {
        std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
    }
    file.set_permissions(fs::Permissions::from_mode(content.mode))?; // whatever the umask
    file.sync_all()
}

/// So that a rename outlives a power cut. Where a file system cannot do that, it will have to do without.
fn sync_directory(file: &Path) {
    if let Some(Ok(directory)) = file.parent().map(fs::File::open) {
        let _unsupported = directory.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_as_the_host_would() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(dir.path().join("etc/real")).unwrap();
        symlink("/etc/real", dir.path().join("etc/link")).unwrap();
        symlink("../../../../etc/link/b", dir.path().join("etc/real/a")).unwrap();
        let to = |path: &str| root.resolve(Path::new(path)).unwrap();
        assert_eq!(to("/etc/link/a"), Path::new("/etc/real/b"));
        assert_eq!(to("/etc/./x/../none/y"), Path::new("/etc/none/y"));
        symlink("loop", dir.path().join("loop")).unwrap();
        assert!(root.resolve(Path::new("/loop")).is_err());
        assert!(root.resolve(Path::new("etc")).is_err());
    }

    #[test]
    fn a_file_keeps_its_mode_and_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let path = Path::new("/a/b/c");
        let content = Content { bytes: b"x".to_vec(), mode: 0o640, owner: Some((7, 8)) };
        assert_eq!(root.write(path, &content).unwrap(), ["/a", "/a/b"].map(PathBuf::from));
        assert_eq!(root.read(path).unwrap(), Some(content.clone()));
        assert_eq!(root.write(path, &content).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "nothing else is left");
        root.remove_directories(&["/a".into(), "/a/b".into()]);
        assert!(root.read(path).unwrap().is_some(), "not empty");
        // no directory can be made here: nothing is left of the attempt
        assert!(root.write(Path::new("/a/b/c/d/e"), &content).is_err());
        assert!(root.read(Path::new("/a/b")).is_err(), "no file");
    }
}
