//! Absolute, normalised paths: the only form in which a path of a policy travels.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Room for most paths, in bytes.
const USUAL_LEN: usize = 128;
/// The longest path, in bytes: the kernel's `PATH_MAX` (4096) without its terminating zero.
pub const MAX_PATH_LEN: usize = 4095;

/// An absolute path in its one spelling: no `//`, no `.`, no `..`, no trailing `/` except for the root itself.
///
/// It is bytes, not text, since that is what the kernel compares; a path that comes from a policy is UTF-8.
/// Nothing here asks a file system: `..` is refused rather than resolved, since behind a symbolic link the
/// resolved path would name another file than the one meant.
///
/// A path that links were followed for may hold *rotating* components: names of directories that are replaced while
/// a container runs, as in Kubernetes' volumes. See [`is_rotating`](Self::is_rotating).
///
/// Clones share the bytes: one path stands in the rulesets of many containers.
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
pub struct AbsPath(Arc<[u8]>); // INVARIANT: as documented on the type; every constructor goes through `new`

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
        Ok(Self(normal.into()))
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

    /// From components that are names, or [`ROTATING`].
    ///
    /// # Errors
    /// When the path is longer than [`MAX_PATH_LEN`].
    pub(crate) fn from_components<'a>(
        components: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, PathError> {
        let mut bytes = Vec::with_capacity(USUAL_LEN);
        for component in components {
            bytes.push(b'/');
            bytes.extend_from_slice(component);
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        if bytes.len() > MAX_PATH_LEN {
            return Err(PathError::TooLong(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// Whether some component stands for every name that begins with `..`, and so the path for many. It prints as
    /// `..*`, and is `..` in [`as_bytes`](Self::as_bytes), which no name of a file is.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.components().any(|component| component == ROTATING)
    }

    /// Whether the path that the kernel prints is this one, or one of those it stands for.
    #[must_use]
    pub fn names(&self, path: &[u8]) -> bool {
        *self.0 == *path
            || path.first() == Some(&b'/') && same_components(self.components(), components(path))
    }

    /// The same path with more components, normalised.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), for both together.
    pub fn join(&self, more: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let more = Self::new([b"/", more.as_ref()].concat())?;
        Self::from_components(self.components().chain(more.components()))
    }

    /// The same path with one more component, which stands for every name that begins with `..`.
    ///
    /// # Errors
    /// When the path is longer than [`MAX_PATH_LEN`] then.
    pub fn join_rotating(&self) -> Result<Self, PathError> {
        Self::from_components(self.components().chain([ROTATING]))
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

/// The component of an [`AbsPath`] that stands for every name that begins with `..`.
pub(crate) const ROTATING: &[u8] = b"..";

/// Whether a component of an [`AbsPath`] stands for this name.
pub(crate) fn same_component(of_rule: &[u8], name: &[u8]) -> bool {
    of_rule == name || of_rule == ROTATING && name.starts_with(ROTATING)
}

/// Whether each component of an [`AbsPath`] stands for the name at its place, and there are as many of both.
pub(crate) fn same_components<'a>(
    of_rule: impl IntoIterator<Item = &'a [u8]>,
    names: impl IntoIterator<Item = &'a [u8]>,
) -> bool {
    let mut names = names.into_iter();
    of_rule.into_iter().all(|one| names.next().is_some_and(|name| same_component(one, name)))
        && names.next().is_none()
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

/// Bytes that are not UTF-8 print as the replacement character, rotating components as `..*`.
impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_rotating() {
            return f.write_str(&String::from_utf8_lossy(&self.0));
        }
        self.components().try_for_each(|component| {
            let star = if component == ROTATING { "*" } else { "" };
            write!(f, "/{}{star}", String::from_utf8_lossy(component))
        })
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
    fn a_rotating_component_stands_for_names_that_begin_with_two_dots() {
        let volume: AbsPath = "/v".parse().unwrap();
        let path = volume.join_rotating().unwrap().join("token").unwrap();
        assert!(path.is_rotating() && path.to_string() == "/v/..*/token");
        for (name, named) in [
            ("/v/..2026_11_22/token", true),
            ("/v/..data/token", true),
            ("/v/.hidden/token", false),
            ("/v/data/token", false),
            ("/v/..2026_11_22/token/more", false),
            ("/v/..2026_11_22", false),
            ("v/..2026_11_22/token", false),
        ] {
            assert_eq!(path.names(name.as_bytes()), named, "{name}");
        }
        assert!(!"/v".parse::<AbsPath>().unwrap().is_rotating());
        assert!(AbsPath::from_components([]).unwrap().is_root());
    }

    #[test]
    fn bytes_beyond_utf8_survive() {
        let path = AbsPath::new(b"/\xff\xfe/x").unwrap();
        assert_eq!(path.components().collect::<Vec<_>>(), [&b"\xff\xfe"[..], b"x"]);
        assert_eq!(format!("{path:?}"), r#""/\xff\xfe/x""#);
    }
}
