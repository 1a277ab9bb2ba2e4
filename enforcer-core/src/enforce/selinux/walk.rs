//! Which files there are for labels.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::error::SelinuxError;
use super::file::{Identity, Labelled, is_nothing};
use super::told;
use crate::compile::selinux::{Kind, Label, Labels, Reach};

/// The most files that are looked at. Each takes some 100 bytes of memory, and tens of microseconds.
const MAX_FILES: usize = 200_000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By inode, one of its paths and its label: that of all its names together.
    pub(super) files: BTreeMap<Identity, (Vec<u8>, Label)>,
    /// What could not be looked at, in words, and paths of rules at which there is nothing.
    pub(super) lacks: Vec<String>,
    looked: usize,
}

/// Looks for what the labels are about, below `root`.
pub(super) fn find(root: &Path, labels: &Labels) -> Result<Found, SelinuxError> {
    let mut found = Found::default();
    for place in &labels.places {
        let mut left = vec![(place.path.as_bytes().to_vec(), place.reach)];
        while let Some((path, reach)) = left.pop() {
            let is_place = path == place.path.as_bytes();
            let file = match Labelled::open(root, &path) {
                Ok(file) => file,
                // what is in a directory may be gone by now; what a rule names is to be told
                Err(error) if is_nothing(&error) => {
                    if is_place && reach != Reach::Above {
                        found.lacks.push(format!("`{}`: there is nothing yet", path.escape_ascii()));
                    }
                    continue;
                }
                Err(error) => {
                    found.lacks.push(told(&path, &error));
                    continue;
                }
            };
            found.look()?;
            found.add(&file, &path, labels);
            if file.kind() == Kind::Directory && matches!(reach, Reach::Children | Reach::Below) {
                let within = if reach == Reach::Below { Reach::Below } else { Reach::Itself };
                found.list(&file, &path, within, &mut left)?;
            }
        }
    }
    Ok(found)
}

impl Found {
    fn look(&mut self) -> Result<(), SelinuxError> {
        self.looked += 1;
        if self.looked > MAX_FILES { Err(SelinuxError::TooMany(MAX_FILES)) } else { Ok(()) }
    }

    fn add(&mut self, file: &Labelled, path: &[u8], labels: &Labels) {
        let label = labels.of(path, file.kind());
        if label != Label::NOTHING {
            let (_, has) = self.files.entry(file.identity()).or_insert_with(|| (path.to_vec(), label));
            *has = has.with(label);
        }
    }

    fn list(
        &mut self,
        directory: &Labelled,
        path: &[u8],
        reach: Reach,
        left: &mut Vec<(Vec<u8>, Reach)>,
    ) -> Result<(), SelinuxError> {
        let entries =
            fs::read_dir(directory.by_handle()).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.lacks.push(told(path, &error));
                return Ok(());
            }
        };
        if left.len().saturating_add(entries.len()) > MAX_FILES {
            return Err(SelinuxError::TooMany(MAX_FILES));
        }
        let base = path.strip_suffix(b"/").unwrap_or(path);
        left.extend(entries.iter().map(|entry| ([base, b"/", entry.file_name().as_bytes()].concat(), reach)));
        Ok(())
    }
}
