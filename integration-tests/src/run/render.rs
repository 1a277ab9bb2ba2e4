//! A report for people.

use std::io::{self, Write};

use console::Style;

use super::Report;
use crate::node::Alert;

/// One line for an alert: what was done, to what, by whom, and the rule that decided.
#[must_use]
pub fn alert_line(alert: &Alert) -> String {
    let field = |key: &str| alert.get(key).and_then(Alert::as_str).unwrap_or_default();
    let action = field("Action");
    let style = if action == "Block" { Style::new().red().bold() } else { Style::new().yellow().bold() };
    let rule = match (field("PolicyName"), field("Rule")) {
        (policy, "") => policy.to_owned(),
        (policy, rule) => format!("{policy} {rule}"),
    };
    let dim = Style::new().dim();
    format!(
        "{} {} {} {} {}",
        style.apply_to(format!("{action:<5}")),
        field("Operation").to_lowercase(),
        Style::new().bold().apply_to(field("Resource")),
        dim.apply_to(format!("by {}", field("Source"))),
        Style::new().cyan().apply_to(rule),
    )
}

/// Prints a report.
///
/// # Errors
/// When the output is closed.
pub fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let prompt = Style::new().bold();
    let mut program =
        |title: &str, exit: Option<i32>, stdout: &str, stderr: &str, reason: &str| -> io::Result<()> {
            writeln!(out, "{} {}", Style::new().dim().apply_to("$"), prompt.apply_to(title))?;
            for text in [stdout, stderr] {
                write!(out, "{text}")?;
                if !text.is_empty() && !text.ends_with('\n') {
                    writeln!(out)?;
                }
            }
            let exit = match exit {
                Some(0) => Style::new().green().apply_to("exit 0".to_owned()),
                Some(n) => Style::new().red().apply_to(format!("exit {n}")),
                None => Style::new().yellow().apply_to("no exit status".to_owned()),
            };
            writeln!(out, "{exit}{}{reason}", if reason.is_empty() { "" } else { ": " })
        };
    for entry in report.init.iter().chain([&report.entry]) {
        // A container that only waits and does so has nothing to tell.
        if !entry.command.is_empty() || !entry.started {
            let title = format!("[{}] {}", entry.container, shown(&entry.command));
            program(title.trim_end(), entry.exit, &entry.stdout, &entry.stderr, &entry.reason)?;
        }
    }
    for exec in &report.execs {
        program(&exec.command, Some(exec.exit), &exec.stdout, &exec.stderr, "")?;
    }
    let number = match report.alerts.len() {
        0 => "no alerts".to_owned(),
        1 => "1 alert".to_owned(),
        n => format!("{n} alerts"),
    };
    writeln!(out, "{}", prompt.apply_to(number))?;
    for alert in &report.alerts {
        writeln!(out, "  {}", alert_line(alert))?;
    }
    Ok(())
}

fn shown(command: &[String]) -> String {
    shlex::try_join(command.iter().map(String::as_str)).unwrap_or_else(|_| command.join(" "))
}
