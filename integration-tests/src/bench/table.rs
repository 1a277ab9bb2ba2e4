//! The table: what was measured, against what was promised.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::Serialize;

use super::claims::{self, Claim};
use super::limits;
use super::{Line, Subject};
use crate::vm::Kernel;

/// How a figure stands against its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing was promised.
    None,
    /// Within the limit.
    Ok,
    /// Over it, for a known reason.
    Excused(String),
    /// Over it.
    Missed,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Instructions; more than the baseline, but for the baseline itself.
    pub p50: i64,
    /// What they may be.
    pub limit: Option<i64>,
    /// How that stands.
    pub verdict: Verdict,
}

/// One subject.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who.
    pub subject: String,
    /// By operation.
    pub cells: BTreeMap<String, Cell>,
    /// Why there are none.
    pub note: Option<String>,
    /// Whether the note is a failure.
    pub failed: bool,
}

/// All of it. This is `-o json`.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// The guest's kernel.
    pub kernel: String,
    /// Operations, as columns.
    pub operations: Vec<String>,
    /// Subjects.
    pub rows: Vec<Row>,
    /// Promises about several figures.
    pub claims: Vec<Claim>,
}

impl Table {
    /// From what the guest said.
    ///
    /// # Errors
    /// When there is no baseline.
    pub fn new(kernel: Kernel, lines: &[Line]) -> Result<Self> {
        let baseline = lines.iter().find(|l| l.subject == Subject::Nothing).context("no baseline")?;
        let base: BTreeMap<_, _> = baseline.figures.iter().map(|f| (f.operation.as_str(), f.p50)).collect();
        let added = |line: &Line, operation: &str| -> Option<i64> {
            let figure = line.figures.iter().find(|f| f.operation == operation)?;
            Some(figure.p50 - base.get(operation)?)
        };
        let measured =
            lines.iter().filter(|l| !matches!(l.subject, Subject::Memory(_)) || l.figures.is_empty());
        let rows = measured.map(|line| {
            let cells = line.figures.iter().filter_map(|figure| {
                let operation = figure.operation.as_str();
                if line.subject == Subject::Nothing {
                    return Some((
                        operation.into(),
                        Cell { p50: figure.p50, limit: None, verdict: Verdict::None },
                    ));
                }
                let p50 = added(line, operation)?;
                let mut limit = limits::limit(kernel, line.subject, operation);
                // What is no less the second time is not cached: the limit is about those that are.
                if operation.contains(" again ")
                    && added(line, &operation.replace(" again", "")).is_none_or(|first| p50 * 10 > first * 9)
                {
                    limit = None;
                }
                Some((
                    operation.into(),
                    Cell { p50, limit, verdict: verdict(kernel, line.subject, operation, p50, limit) },
                ))
            });
            Row {
                subject: line.subject.to_string(),
                cells: cells.collect(),
                note: line
                    .error
                    .clone()
                    .map(|e| format!("failed: {e}"))
                    .or_else(|| line.gap.as_ref().map(|gap| format!("not enforced: {gap}"))),
                failed: line.error.is_some() || line.gap.is_some(),
            }
        });
        let rows = rows.collect();
        let claims = claims::all(lines, &added);
        let operations = baseline.figures.iter().map(|f| f.operation.clone()).collect();
        Ok(Self { kernel: kernel.to_string(), operations, rows, claims })
    }

    /// Whether everything is as promised.
    #[must_use]
    pub fn holds(&self) -> bool {
        let missed = |verdict: &Verdict| *verdict == Verdict::Missed;
        !self.rows.iter().any(|row| row.failed || row.cells.values().any(|cell| missed(&cell.verdict)))
            && !self.claims.iter().any(|claim| missed(&claim.verdict))
    }

    /// For people.
    #[must_use]
    pub fn text(&self, colours: bool) -> String {
        let red = |text: String| {
            if colours { console::style(text).red().bold().force_styling(true).to_string() } else { text }
        };
        let name = self.rows.iter().map(|r| r.subject.len()).max().unwrap_or(0).max(12);
        let widths: Vec<_> = self.operations.iter().map(|o| o.len().max(7)).collect();
        let mut text = format!(
            "Instructions (p50) on Linux {}, one vCPU; + is more than with nothing attached\n\n",
            self.kernel
        );
        // Writing to a String cannot fail.
        let _ = write!(text, "{:name$}", "");
        for (operation, width) in self.operations.iter().zip(&widths) {
            let _ = write!(text, "  {operation:>width$}");
        }
        text.push_str("  verdict\n");
        let mut limits: Option<Vec<Option<i64>>> = None;
        for row in &self.rows {
            let cells: Vec<_> = self.operations.iter().map(|o| row.cells.get(o)).collect();
            let now: Vec<_> = cells.iter().map(|c| c.and_then(|c| c.limit)).collect();
            if now.iter().any(Option::is_some) && limits.as_ref() != Some(&now) {
                let _ = write!(text, "{:name$}", "  at most");
                for (limit, width) in now.iter().zip(&widths) {
                    let _ = write!(text, "  {:>width$}", limit.map_or(String::new(), |l| format!("{l}")));
                }
                text.push('\n');
                limits = Some(now);
            }
            let _ = write!(text, "{:name$}", row.subject);
            if let Some(note) = &row.note {
                let _ = writeln!(text, "  {}", if row.failed { red(note.clone()) } else { note.clone() });
                continue;
            }
            for (cell, width) in cells.iter().zip(&widths) {
                let shown = match cell {
                    Some(cell) if row.subject == Subject::Nothing.to_string() => cell.p50.to_string(),
                    Some(cell) => format!("{:+}", cell.p50),
                    None => "-".into(),
                };
                let shown = format!("  {shown:>width$}");
                text.push_str(&if cell.is_some_and(|c| c.verdict == Verdict::Missed) {
                    red(shown)
                } else {
                    shown
                });
            }
            let verdicts: Vec<_> = row.cells.values().map(|c| &c.verdict).collect();
            let missed = verdicts.iter().filter(|v| ***v == Verdict::Missed).count();
            let word = if missed > 0 {
                red(format!("{missed} MISSED"))
            } else if verdicts.iter().any(|v| matches!(v, Verdict::Excused(_))) {
                "excused".into()
            } else if verdicts.iter().any(|v| **v == Verdict::Ok) {
                "ok".into()
            } else {
                String::new()
            };
            let _ = writeln!(text, "  {word}");
        }
        text.push('\n');
        for row in &self.rows {
            let missed: Vec<_> = row.cells.iter().filter(|(_, c)| c.verdict == Verdict::Missed).collect();
            if !missed.is_empty() {
                let list = missed.iter().map(|(operation, cell)| {
                    format!("{operation} {:+} of {}", cell.p50, cell.limit.unwrap_or_default())
                });
                let list = list.collect::<Vec<_>>().join(", ");
                let _ = writeln!(text, "{}", red(format!("MISSED   {}: {list}", row.subject)));
            }
            for (operation, cell) in &row.cells {
                if let Verdict::Excused(reason) = &cell.verdict {
                    let limit = cell.limit.unwrap_or_default();
                    let _ = writeln!(
                        text,
                        "excused  {}: {operation} {:+} of {limit}: {reason}",
                        row.subject, cell.p50
                    );
                }
            }
        }
        for Claim { what, limit, measured, verdict } in &self.claims {
            let limit = if limit.is_empty() { String::new() } else { format!("at most {limit}, ") };
            let line = format!("{what}: {limit}measured {measured}\n");
            match verdict {
                Verdict::Missed => text.push_str(&red(format!("MISSED   {line}"))),
                Verdict::Excused(reason) => {
                    text.push_str(&format!("excused  {}: {reason}\n", line.trim_end()))
                }
                Verdict::Ok => text.push_str(&format!("ok       {line}")),
                Verdict::None => text.push_str(&format!("         {line}")),
            }
        }
        text
    }
}

fn verdict(kernel: Kernel, subject: Subject, operation: &str, p50: i64, limit: Option<i64>) -> Verdict {
    match limit {
        None => Verdict::None,
        Some(limit) if p50 <= limit + limits::NOISE => Verdict::Ok,
        Some(_) => match limits::excuse(kernel, subject, operation) {
            Some(excuse) if p50 <= excuse.up_to => Verdict::Excused(excuse.reason.into()),
            _ => Verdict::Missed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Figures;
    use super::super::rules::{Kind, Rules};
    use super::*;

    fn line(subject: Subject, p50: i64) -> Line {
        let figures = ["tmpfs d10", "tmpfs again d10", "exec"].map(|operation| Figures {
            operation: operation.into(),
            min: p50,
            p50: if operation.contains("again") { p50 - 700 } else { p50 },
            p99: p50,
        });
        Line { subject, figures: figures.to_vec(), gap: None, error: None }
    }

    #[test]
    fn limits_are_kept_or_missed() {
        let block = |count| Subject::Confined(Rules { kind: Kind::Block, count });
        let lines = [
            line(Subject::Nothing, 8_000),
            line(Subject::Landlock(10), 12_000),
            line(Subject::Host, 8_300),
            line(block(1), 9_000),
            line(block(10_000), 9_250),
        ];
        let table = Table::new(Kernel::V6_12, &lines).unwrap();
        assert_eq!(table.rows[0].cells["tmpfs d10"].p50, 8_000);
        assert_eq!(table.rows[1].cells["tmpfs d10"].verdict, Verdict::None, "no promise about others");
        assert_eq!(table.rows[2].cells["tmpfs d10"].verdict, Verdict::Ok);
        assert_eq!(table.rows[3].cells["tmpfs d10"].p50, 1_000);
        assert_eq!(table.rows[3].cells["tmpfs again d10"].limit, None, "not less: not cached");
        assert_eq!(table.rows[4].cells["tmpfs d10"].verdict, Verdict::Ok);
        assert_eq!(table.claims.len(), 1);
        assert_eq!(table.claims[0].verdict, Verdict::Missed, "1,250 is more than 110 % of 1,000");
        assert!(!table.holds());
        assert!(table.text(false).contains("MISSED   block:10000 against block:1"), "{}", table.text(false));
        assert!(Table::new(Kernel::V6_12, &lines[..4]).unwrap().holds());
        assert!(Table::new(Kernel::V6_12, &lines[1..]).is_err(), "no baseline");
        let over =
            Table::new(Kernel::V6_12, &[line(Subject::Nothing, 8_000), line(Subject::Host, 8_329)]).unwrap();
        assert!(!over.holds());
        let mut failed = line(block(1), 0);
        failed.figures.clear();
        failed.error = Some("no".into());
        assert!(!Table::new(Kernel::V6_12, &[line(Subject::Nothing, 1), failed]).unwrap().holds());
    }
}
