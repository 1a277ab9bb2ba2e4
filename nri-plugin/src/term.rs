//! How text for people looks. Colours are taken out again by `anstream` where nobody would see them.

use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{
    Attribute, Cell, Color, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle,
};
use enforcer_core::decide::Verdict;
use enforcer_core::policy::PolicyError;

/// Titles.
pub const BOLD: Style = Style::new().bold();
/// What is good.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What should be looked at.
pub const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is beside the point.
pub const DIM: Style = Style::new().dimmed();

/// `text` in a style.
#[must_use]
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints to stdout. That nobody reads any more (`| head`) is no reason to fail.
pub fn say(text: impl AsRef<str>) {
    let _unread = anstream::stdout().write_all(text.as_ref().as_bytes());
}

/// Prints to stderr.
pub fn complain(text: impl AsRef<str>) {
    let _unread = anstream::stderr().write_all(text.as_ref().as_bytes());
}

/// Prints to stdout as one line of JSON.
pub fn say_json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(json) => say(json + "\n"),
        Err(error) => complain(format!("{}: {error}\n", paint(BAD, "error"))),
    }
}

/// The colour of a verdict.
#[must_use]
pub fn of_verdict(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Allow => GOOD,
        Verdict::Audit => WARN,
        Verdict::Block => BAD,
    }
}

/// A table that fits the terminal; the first `whole` columns are not broken over lines.
#[must_use]
pub fn table<const N: usize>(titles: [&str; N], whole: usize) -> Table {
    let line = LineStyle::none().fill('\u{2500}').junction('\u{2500}');
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(line))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    if table.width().is_none() {
        table.set_width(120); // no terminal: a file, a pipe, a log
    }
    for column in table.column_iter_mut().take(whole) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// A cell that says whether something is as it should be.
#[must_use]
pub fn mark(text: &str, color: Color) -> Cell {
    Cell::new(text).fg(color)
}

/// A policy error with the line it is in and a caret below the place, over several lines.
#[must_use]
pub fn render(error: &PolicyError, text: &str) -> String {
    let PolicyError { file, line, column, field, message, help } = error;
    let colon = if field.is_empty() { "" } else { ": " };
    let mut out = format!("{}: {field}{colon}{message}\n", paint(BAD, "error"));
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    let bar = paint(DIM, "|");
    // writing to a String cannot fail
    let _infallible = writeln!(out, "{margin} {} {file}:{line}:{column}", paint(DIM, "-->"));
    if let Some(source) = line.checked_sub(1).and_then(|index| text.lines().nth(index)) {
        let before: String = source.chars().take(column.saturating_sub(1)).map(blank).collect();
        let shown: String = source.chars().map(printable).collect();
        let _infallible = writeln!(out, "{} {bar} {shown}", paint(DIM, &number));
        let _infallible = writeln!(out, "{margin} {bar} {before}{}", paint(BAD, "^"));
    }
    if let Some(help) = help {
        let _infallible = writeln!(out, "{margin} {} {help}", paint(DIM, "= help:"));
    }
    out
}

/// What takes the room of a character that is shown.
fn blank(shown: char) -> char {
    if shown == '\t' { '\t' } else { ' ' }
}

/// A policy is somebody else's text: it must not steer the terminal.
#[must_use]
pub fn printable(read: char) -> char {
    if read.is_control() && read != '\t' { '\u{fffd}' } else { read }
}

/// Names and reasons are others' text, too.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_is_below_the_place() {
        let error = PolicyError {
            file: "p.yaml".into(),
            line: 2,
            column: 4,
            field: "spec".into(),
            message: "unknown field `x`".into(),
            help: Some("remove it".into()),
        };
        let text = anstream::adapter::strip_str(&render(&error, "a: 1\nä:\t\u{1b}x: 1\n")).to_string();
        assert_eq!(
            text,
            "error: spec: unknown field `x`\n  --> p.yaml:2:4\n2 | ä:\t\u{fffd}x: 1\n  |   \t^\n  = help: remove it\n"
        );
    }

    #[test]
    fn a_place_outside_the_text_is_no_reason_to_fail() {
        let error = PolicyError {
            file: "p.yaml".into(),
            line: 0,
            column: 0,
            field: String::new(),
            message: "empty".into(),
            help: None,
        };
        let text = anstream::adapter::strip_str(&render(&error, "")).to_string();
        assert_eq!(text, "error: empty\n  --> p.yaml:0:0\n");
    }
}
