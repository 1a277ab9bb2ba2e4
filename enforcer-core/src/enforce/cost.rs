//! What the programs cost: measured by the kernel itself, while somebody wants to know.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::Program;
use libbpf_rs::query::ProgInfoIter;

use super::error::EnforceError;
use super::{Enforcer, lock};

/// The kernel measures as long as this lives. It measures the programs of everybody.
#[derive(Debug)]
pub struct Measuring(#[expect(dead_code, reason = "open is all that it has to be")] OwnedFd);

impl Measuring {
    /// Begins.
    ///
    /// # Errors
    /// When the kernel refuses; it wants CAP_SYS_ADMIN.
    pub fn begin() -> Result<Self, EnforceError> {
        let begun = enforcer_bpf::enable_run_time_stats();
        begun.map(Self).map_err(|source| EnforceError::Bpf {
            what: "measure the run time of BPF programs".to_owned(),
            source: source.into(),
        })
    }
}

/// How often a program has run while the kernel measured, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name in the object.
    pub name: String,
    /// Where it stands: `lsm/file_open`.
    pub section: String,
    /// Runs.
    pub calls: u64,
    /// All of them together, in nanoseconds.
    pub nanoseconds: u64,
}

impl Enforcer {
    /// What each loaded program has cost while it was [measured](Measuring), since it was loaded; by name.
    #[must_use]
    pub fn costs(&self) -> Vec<ProgramCost> {
        let loaded = lock(&self.loaded);
        let mut names: BTreeMap<u32, (String, String)> = BTreeMap::new();
        for program in loaded.object.progs_mut().filter(|program| program.autoload()) {
            if let Ok(id) = Program::id_from_fd(program.as_fd()) {
                let name = program.name().to_string_lossy().into_owned();
                names.insert(id, (name, program.section().to_string_lossy().into_owned()));
            }
        }
        drop(loaded);
        let mut costs: Vec<_> = ProgInfoIter::default()
            .filter_map(|info| {
                let (name, section) = names.remove(&info.id)?;
                Some(ProgramCost { name, section, calls: info.run_cnt, nanoseconds: info.run_time_ns })
            })
            .collect();
        costs.sort_by(|one, other| one.name.cmp(&other.name));
        costs
    }
}
