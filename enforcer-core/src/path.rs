//! Absolute, normalised paths: the only form in which a path of a policy travels.

use std::fmt;
use std::str::FromStr;

/// The longest path, in bytes: the kernel's `PATH_MAX` (4096) without its terminating zero.
pub const MAX_PATH_LEN: usize = 4095;

/// An absolute path in its one spelling: no `//`, no `.`, no `..`, no trailing `/` except for the root itself.
///
/// It is bytes, not text, since that is what the kernel compares; a path that comes from a policy is UTF-8.
/// Nothing here asks a file system: `..` is refused rather than resolved, since behind a symbolic link the
/// resolved path would name another file than the one meant.
///
/// ```
/// use enforcer_core::path::AbsPath;
///
/// let path: AbsPath = "/etc//ssl/./certs/".parse()?;
/// assert_eq!(path.as_bytes(), b"/etc/ssl/certs");
/// assert_eq!(path.depth(), 3);
/// assert_eq!(path.base_name(), Some(&b"certs"[..]));
/// assert!("/etc/../root".parse::<AbsPath>().is_err());
/// # Ok::<(), enforcer_core::path::PathError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsPath(Box<[u8]>); // INVARIANT: as documented on the type; every constructor goes through `new`

impl AbsPath {
    /// Normalises `bytes`: repeated `/`, `.` components and trailing `/` go away.
    ///
    /// # Errors
    /// When the path does not start with `/`, holds a `..` component or a zero byte, or is longer than
    /// [`MAX_PATH_LEN`] after normalisation.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes.first() != Some(&b'/') {
            return Err(PathError::Relative);
        }
        if bytes.contains(&0) {
            return Err(PathError::ZeroByte);
        }
        let mut normal = Vec::with_capacity(bytes.len());
        for component in components(bytes).filter(|component| *component != b".") {
            if component == b".." {
                return Err(PathError::ParentComponent);
            }
            normal.push(b'/');
            normal.extend_from_slice(component);
        }
        if normal.is_empty() {
            normal.push(b'/');
        }
        if normal.len() > MAX_PATH_LEN {
            return Err(PathError::TooLong(normal.len()));
        }
        Ok(Self(normal.into_boxed_slice()))
    }

    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names between the slashes, first to last; the root has none.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        components(&self.0)
    }

    /// How many components the path has; the root has 0.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The last component; `None` for the root.
    #[must_use]
    pub fn base_name(&self) -> Option<&[u8]> {
        self.components().last()
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        *self.0 == *b"/"
    }
}

/// The names between the slashes of any path; empty ones (of `//`) are left out.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
}

impl FromStr for AbsPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::new(text)
    }
}

impl AsRef<[u8]> for AbsPath {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Bytes that are not UTF-8 print as the replacement character.
impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Why bytes are no [`AbsPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No bytes at all.
    #[error("the path is empty")]
    Empty,
    /// It does not start with `/`.
    #[error("the path does not start with `/`")]
    Relative,
    /// It holds a zero byte, which no path in the kernel does.
    #[error("the path holds a zero byte")]
    ZeroByte,
    /// It holds a `..` component.
    #[error("the path holds a `..` component")]
    ParentComponent,
    /// It is longer than [`MAX_PATH_LEN`]; the length in bytes is given.
    #[error("the path is {0} bytes long, the kernel's limit is {MAX_PATH_LEN}")]
    TooLong(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        for (given, normal) in [
            ("/", "/"),
            ("///", "/"),
            ("/.", "/"),
            ("/a", "/a"),
            ("//a//b/", "/a/b"),
            ("/a/./b/.", "/a/b"),
            ("/.a/..b/c..", "/.a/..b/c.."),
        ] {
            let path: AbsPath = given.parse().unwrap();
            assert_eq!(path.to_string(), normal, "{given}");
            assert_eq!(AbsPath::new(path.as_bytes()).unwrap(), path);
        }
    }

    #[test]
    fn refused() {
        for (given, error) in [
            (&b""[..], PathError::Empty),
            (b"a/b", PathError::Relative),
            (b"./a", PathError::Relative),
            (b"/a/..", PathError::ParentComponent),
            (b"/../a", PathError::ParentComponent),
            (b"/a\0b", PathError::ZeroByte),
        ] {
            assert_eq!(AbsPath::new(given), Err(error));
        }
    }

    #[test]
    fn the_longest_path_passes_and_one_byte_more_does_not() {
        let longest = format!("/{}", "a".repeat(MAX_PATH_LEN - 1));
        assert_eq!(longest.parse::<AbsPath>().unwrap().as_bytes().len(), MAX_PATH_LEN);
        assert_eq!(format!("{longest}a").parse::<AbsPath>(), Err(PathError::TooLong(MAX_PATH_LEN + 1)));
        // What normalisation removes does not count.
        assert!(format!("{longest}////").parse::<AbsPath>().is_ok());
    }

    #[test]
    fn the_root_has_no_components() {
        let root: AbsPath = "/".parse().unwrap();
        assert!(root.is_root());
        assert_eq!((root.depth(), root.base_name()), (0, None));
    }

    #[test]
    fn bytes_beyond_utf8_survive() {
        let path = AbsPath::new(b"/\xff\xfe/x").unwrap();
        assert_eq!(path.components().collect::<Vec<_>>(), [&b"\xff\xfe"[..], b"x"]);
        assert_eq!(format!("{path:?}"), r#""/\xff\xfe/x""#);
    }
}
