//! The label of one file, by its path: no symbolic link is followed, at no place of it.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fstat, getxattr, openat, openat2, setxattr,
};
use rustix::io::Errno;

use crate::compile::selinux::Kind;

/// The attribute.
const NAME: &str = "security.selinux";
/// The longest label that is read, in bytes.
const MAX_LABEL: usize = 4096;

/// The device and the inode of a file.
pub(super) type Identity = (u64, u64);

/// A file, held without being read.
#[derive(Debug)]
pub(super) struct Labelled {
    fd: OwnedFd,
    identity: Identity,
    kind: Kind,
}

/// A label: its user, and the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) user: String,
    rest: String,
}

impl Context {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
        let (user, rest) = text.split_once(':')?;
        (is_user(user) && rest.contains(':')).then(|| Self { user: user.to_owned(), rest: rest.to_owned() })
    }

    /// The same of another user.
    pub(super) fn with_user(&self, user: &str) -> Self {
        Self { user: user.to_owned(), rest: self.rest.clone() }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.user, self.rest)
    }
}

/// Whether a record can hold this name of a user: it has no space, no colon, and no end of a line.
pub(super) fn is_user(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

impl Labelled {
    /// What is at an absolute path below `root`.
    pub(super) fn open(root: &Path, path: &[u8]) -> io::Result<Self> {
        let directory = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        Self::at(&directory, relative, ResolveFlags::IN_ROOT)
    }

    /// What is at a path below this directory, on the same mount: what is mounted there is never reached, nor waited for.
    pub(super) fn below(&self, relative: &[u8]) -> io::Result<Self> {
        Self::at(&self.fd, relative, ResolveFlags::BENEATH | ResolveFlags::NO_XDEV)
    }

    fn at(directory: &OwnedFd, relative: &[u8], within: ResolveFlags) -> io::Result<Self> {
        let flags = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | within;
        let relative = if relative.is_empty() { b"." } else { relative };
        let handle = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(directory, relative, handle, Mode::empty(), flags)?;
        let stat = fstat(&fd)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::File,
        };
        Ok(Self { fd, identity: (stat.st_dev, stat.st_ino), kind })
    }

    pub(super) const fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// A path to it that no renaming changes.
    pub(super) fn by_handle(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// Its label.
    pub(super) fn context(&self) -> io::Result<Context> {
        let mut bytes = vec![0; MAX_LABEL];
        let length = getxattr(self.by_handle(), NAME, bytes.as_mut_slice())?;
        bytes.truncate(length);
        Context::parse(&bytes).ok_or_else(|| io::Error::other("its SELinux label is none"))
    }

    /// Gives it a label, and reads it back.
    pub(super) fn put(&self, context: &Context) -> io::Result<()> {
        let text = format!("{context}\0");
        setxattr(self.by_handle(), NAME, text.as_bytes(), XattrFlags::empty())?;
        match self.context()? == *context {
            true => Ok(()),
            false => Err(io::Error::other("it has another SELinux label than it was given")),
        }
    }
}

/// Whether a link is on the way to a path.
pub(super) fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Whether something is mounted on the way to a path.
pub(super) fn is_mounted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::XDEV.raw_os_error())
}

/// Whether there is nothing at a path, or a link on the way to it.
pub(super) fn is_nothing(error: &io::Error) -> bool {
    let errors = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    error.kind() == io::ErrorKind::NotFound
        || errors.iter().any(|one| error.raw_os_error() == Some(one.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_changes_its_user_and_nothing_else() {
        let context = Context::parse(b"system_u:object_r:etc_t:s0:c1,c2\0").unwrap();
        assert_eq!(context.with_user("x_u").to_string(), "x_u:object_r:etc_t:s0:c1,c2");
        assert_eq!(Context::parse(b"u:object_r:etc_t").unwrap().to_string(), "u:object_r:etc_t");
        for bad in [&b""[..], b"kernel", b":r:t", b"u:r", b"\xff:r:t", b"a b:r:t", b"a\nb:r:t"] {
            assert_eq!(Context::parse(bad), None, "{bad:?}");
        }
    }
}
