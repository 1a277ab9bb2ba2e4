//! Domains that are denied nothing, by the processes that run: a policy does not list its permissive domains by name, but the
//! kernel says of each that it is asked about.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::io::Errno;

use super::error::{SelinuxError, failed};
use super::file::Labelled;
use super::{Selinux, ask};
use crate::compile::selinux::Domain;

const PROC: &str = "/proc";

impl Selinux {
    /// The permissive domains of processes that run now, sorted: what these do is denied by no label. One that has no
    /// process yet is not found.
    ///
    /// # Errors
    /// When processes cannot be listed, or the kernel does not answer.
    pub fn permissive(&self) -> Result<Vec<Domain>, SelinuxError> {
        let root = Labelled::open(&self.root, b"/").and_then(|root| root.context());
        let root = root.map_err(failed("read the label of `/`"))?;
        let mut domains = BTreeMap::new();
        for process in fs::read_dir(PROC).map_err(failed("list processes"))?.flatten() {
            // one that has ended meanwhile has none, nor has what is no process
            let label = fs::read_to_string(Path::new(PROC).join(process.file_name()).join("attr/current"));
            let Ok(label) = label else { continue };
            let label = label.trim_end_matches(['\0', '\n']);
            if let Ok(domain) = Domain::of_label(label) {
                domains.entry(domain).or_insert_with(|| label.to_owned());
            }
        }
        let mut permissive = Vec::new();
        for (domain, label) in domains {
            match ask(&label, &root, "file") {
                Ok(answer) => permissive.extend(answer.permissive.then_some(domain)),
                // its type has left the policy: it may do nothing
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
                Err(error) => return Err(failed("ask what SELinux allows")(error)),
            }
        }
        Ok(permissive)
    }
}
