//! How commands end.

use std::process::ExitCode;

/// The exit codes of every command; `--help` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Ok,
    /// 1: the answer is no, or what was to be done failed.
    No,
    /// 2: the question makes no sense, as the command line or what it names is bad.
    BadInput,
    /// 3: what was done has been undone.
    Reverted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Ok => Self::SUCCESS,
            Exit::No => Self::from(1),
            Exit::BadInput => Self::from(2),
            Exit::Reverted => Self::from(3),
        }
    }
}

/// An error with its causes, on one line, without saying anything twice.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
