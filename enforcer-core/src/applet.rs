//! Programs of many names: busybox does what the name says by which it is started.
//!
//! ```
//! use enforcer_core::applet::applet;
//!
//! assert_eq!(applet(b"/bin/wget", &[b"-q"]), Some(&b"wget"[..]));
//! assert_eq!(applet(b"-sh", &[]), Some(&b"sh"[..]), "a login shell");
//! assert_eq!(applet(b"busybox", &[b"/x/wget", b"-q"]), Some(&b"wget"[..]));
//! assert_eq!(applet(b"busybox.static", &[b"busybox", b"sh"]), Some(&b"sh"[..]));
//! assert_eq!(applet(b"busybox", &[]), None);
//! ```

/// What busybox calls itself, whatever follows.
const OWN: &[u8] = b"busybox";
/// The longest name of an applet, in bytes: `ARG_PIECE`. Those that there are have less than 30.
pub(crate) const MAX_NAME: usize = 248;

/// Which of its programs busybox does, started with these arguments: what it looks at itself (libbb/appletlib.c, `main` and
/// `busybox_main`). `None` for none.
#[must_use]
pub fn applet<'a>(argv0: &'a [u8], args: &[&'a [u8]]) -> Option<&'a [u8]> {
    let name = |path: &'a [u8]| path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let first = name(argv0.strip_prefix(b"-").unwrap_or(argv0));
    let mut names = std::iter::once(first).chain(args.iter().map(|arg| name(arg)));
    names.find(|name| !name.starts_with(OWN)).filter(|name| (1..=MAX_NAME).contains(&name.len()))
}

/// Whether the program at a path with this last component is busybox.
pub(crate) fn is_busybox(base_name: &[u8]) -> bool {
    base_name.starts_with(OWN)
}
