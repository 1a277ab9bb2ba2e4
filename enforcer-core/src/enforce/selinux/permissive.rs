//! Domains that are denied nothing, by the processes that run: a policy does not list its permissive domains by name, but the
//! kernel says of each that it is asked about.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;

use super::error::{SelinuxError, failed};
use super::file::Labelled;
use super::{Selinux, ask};
use crate::compile::selinux::Domain;

const PROC: &str = "/proc";

/// Whose processes are denied nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissive {
    /// The permissive domains, sorted.
    pub domains: Vec<Domain>,
    /// Processes whose domain cannot be read: it may be permissive, too.
    pub unread: usize,
}

impl Permissive {
    /// What is not known, in words; `None`: nothing.
    #[must_use]
    pub fn unknown(&self) -> Option<String> {
        (self.unread > 0).then(|| {
            format!(
                "the domains of {} processes cannot be read: it is not known whether they are permissive",
                self.unread
            )
        })
    }
}

impl Selinux {
    /// The permissive domains of processes that run now: what these do is denied by no label. One that has no process yet
    /// is not found.
    ///
    /// # Errors
    /// When processes cannot be listed, or the kernel does not answer.
    pub fn permissive(&self) -> Result<Permissive, SelinuxError> {
        let root = Labelled::open(&self.root, b"/").and_then(|root| root.context());
        let root = root.map_err(failed("read the label of `/`"))?;
        let (running, unread) = running(Path::new(PROC)).map_err(failed("list processes"))?;
        let mut domains = Vec::new();
        for (domain, label) in running {
            match ask(&label, &root, "file") {
                Ok(answer) => domains.extend(answer.permissive.then_some(domain)),
                // its type has left the policy: it may do nothing
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
                Err(error) => return Err(failed("ask what SELinux allows")(error)),
            }
        }
        Ok(Permissive { domains, unread })
    }
}

/// The domains of the processes in `proc`, each with the label of one of its processes, and how many have none that can be
/// read.
fn running(proc: &Path) -> io::Result<(BTreeMap<Domain, String>, usize)> {
    let (mut domains, mut unread) = (BTreeMap::new(), 0);
    for process in fs::read_dir(proc)? {
        let process = process?;
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let label = match fs::read_to_string(process.path().join("attr/current")) {
            Ok(label) => label,
            Err(error) if has_ended(&error) => continue,
            Err(_) => {
                unread += 1;
                continue;
            }
        };
        let label = label.trim_end_matches(['\0', '\n']);
        match Domain::of_label(label) {
            Ok(domain) => {
                domains.entry(domain).or_insert_with(|| label.to_owned());
            }
            Err(_) => unread += 1,
        }
    }
    Ok((domains, unread))
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_cannot_be_looked_at_is_counted() {
        let proc = tempfile::tempdir().unwrap();
        let at = |path: &str| proc.path().join(path);
        fs::create_dir_all(at("1/attr")).unwrap();
        fs::write(at("1/attr/current"), "system_u:system_r:init_t:s0\0").unwrap();
        fs::create_dir_all(at("2")).unwrap(); // has ended
        fs::create_dir_all(at("self/attr/current")).unwrap(); // no process of its own
        let (domains, unread) = running(proc.path()).unwrap();
        assert_eq!(domains.into_keys().map(|domain| domain.to_string()).collect::<Vec<_>>(), ["init_t"]);
        assert_eq!((unread, Permissive::default().unknown()), (0, None));
        fs::create_dir_all(at("3/attr/current")).unwrap();
        fs::create_dir_all(at("4/attr")).unwrap();
        fs::write(at("4/attr/current"), "unconfined").unwrap(); // of another LSM
        let (domains, unread) = running(proc.path()).unwrap();
        assert_eq!((domains.len(), unread), (1, 2));
        let told = Permissive { domains: Vec::new(), unread }.unknown().unwrap();
        assert!(told.starts_with("the domains of 2 processes cannot be read"), "{told}");
        assert!(running(&at("none")).is_err());
    }
}
