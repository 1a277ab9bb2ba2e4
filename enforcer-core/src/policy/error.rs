//! What is wrong with a policy, and where.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

/// One thing wrong in a policy file. Prints as `file:line:column: field: message`, with the help on a second line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyError {
    /// The file, as its name was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The field, such as `spec.file.matchPaths[0].path`; empty where no field is concerned.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, field, message, help } = self;
        write!(f, "{file}:{line}:{column}: ")?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(message)?;
        match help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PolicyError {}

/// Where something stands in a document.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) field: String,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// Collects the errors of one document, so that all of them are told at once. A document is good when it ends empty.
#[derive(Debug)]
pub(super) struct Errors<'a> {
    file: &'a str,
    found: RefCell<Vec<PolicyError>>,
}

impl<'a> Errors<'a> {
    /// Past this many errors of one document the rest is left out: nobody reads them, and a hostile file must not
    /// fill the memory.
    const MOST: usize = 100;

    pub(super) fn new(file: &'a str) -> Self {
        Self { file, found: RefCell::default() }
    }

    pub(super) fn add(&self, place: &Place, message: impl Into<String>, help: Option<String>) {
        let mut found = self.found.borrow_mut();
        if found.len() < Self::MOST {
            found.push(PolicyError {
                file: self.file.to_owned(),
                line: place.line,
                column: place.column,
                field: place.field.clone(),
                message: message.into(),
                help,
            });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The errors in the order of the text.
    pub(super) fn into_sorted(self) -> Vec<PolicyError> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|error| (error.line, error.column));
        found
    }
}

/// The name nearest to `given`, if it is near enough to be meant.
pub(crate) fn nearest<'n>(given: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // No name is that long, and the distance takes the product of both lengths to find.
    if given.len() > 100 {
        return None;
    }
    let given = given.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::osa_distance(&given, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1.max(name.len().min(given.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "did you mean ...", or all the names there are.
pub(crate) fn suggest<'n>(given: &str, names: impl IntoIterator<Item = &'n str> + Clone) -> String {
    match nearest(given, names.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => {
            let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
            format!("there are {}", names.join(", "))
        }
    }
}

/// What of a text is repeated in an error: its start, since a hostile one has megabytes.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 100;
    match text.char_indices().nth(MOST).and_then(|(end, _)| text.get(..end)) {
        Some(start) => format!("{}...", start.escape_debug()),
        None => text.escape_debug().to_string(),
    }
}
