//! How it looks.

use std::cmp::Ordering;
use std::time::Duration;

use comfy_table::{Row, Table};

use super::rates::{Count, DenialRate, ProgramRate, Rates};
use crate::cli::Sort;
use crate::term::{BOLD, WARN, clean, paint, table};

/// How many programs are shown on a screen.
const PROGRAMS: usize = 8;

/// All of it, for a file or a pipe.
pub(super) fn all(rates: &Rates, sort: Sort) -> String {
    let mut text = summary(rates).join("\n") + "\n\n";
    let sorted = sorted(rates, sort, false);
    text += &format!("{}\n", denials(rates, &sorted, None));
    if !rates.programs.is_empty() {
        text += &format!("\n{}\n", programs(&rates.programs, None));
    }
    text
}

/// What is looked at on a screen.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) sort: Sort,
    /// The other way round.
    pub(super) reverse: bool,
    /// How many rows are above the first one that is shown.
    pub(super) above: usize,
    pub(super) width: u16,
    pub(super) height: u16,
}

/// The lines of a screen: as many as it has, or fewer.
pub(super) fn lines(rates: &Rates, view: &View) -> Vec<String> {
    let height = usize::from(view.height);
    let mut lines = summary(rates);
    lines.push(paint(
        crate::term::DIM,
        format!("sorted by {}{}; q ends", name(view.sort), if view.reverse { ", reversed" } else { "" }),
    ));
    lines.push(String::new());
    let costs = rates.programs.get(..PROGRAMS.min(rates.programs.len())).unwrap_or_default();
    // a title and a line below it, and an empty line above
    let below = if costs.is_empty() { 0 } else { costs.len().saturating_add(3) };
    let room = height.saturating_sub(lines.len()).saturating_sub(below).saturating_sub(2).max(1);
    let sorted = sorted(rates, view.sort, view.reverse);
    let shown: Vec<_> = sorted.into_iter().skip(view.above).take(room).collect();
    lines.extend(denials(rates, &shown, Some(view.width)).lines());
    if !costs.is_empty() {
        lines.push(String::new());
        lines.extend(programs(costs, Some(view.width)).lines());
    }
    lines.truncate(height);
    lines
}

fn summary(rates: &Rates) -> Vec<String> {
    let Rates { node_name, lock, denials, programs, cpu, ring_dropped, failures, .. } = rates;
    let total: u64 = denials.iter().map(|one| one.denial.total).fold(rates.forgotten, u64::saturating_add);
    let now: f64 = denials.iter().map(|one| one.per_second).sum();
    let all = format!("{total} denials and audits, {} now; those of seccomp are not seen", per_second(now));
    let seen = match &rates.not_seen {
        // what one of two locks denies is seen
        Some(why) if lock.contains("bpf") => {
            format!("{all}, {}", paint(WARN, format!("nor is {}", clean(why))))
        }
        Some(why) => paint(WARN, format!("denials and audits: not seen: {}", clean(why))),
        None => all,
    };
    let mut lines = vec![format!("{}  lock {lock}  {seen}", paint(BOLD, clean(node_name)))];
    lines.push(match &rates.not_measured {
        Some(why) => paint(WARN, format!("cost in the kernel: not measured: {}", clean(why))),
        None => {
            let calls: f64 = programs.iter().map(|one| one.calls_per_second).sum();
            format!("cost in the kernel: {} of a CPU, {} calls", share(*cpu), per_second(calls))
        }
    });
    let bad = |what: &str, Count { total, per_second: rate }: &Count| {
        format!("{what} {total} ({})", per_second(*rate))
    };
    let lost = (ring_dropped.total > 0).then(|| bad("events lost", ring_dropped));
    let failed = failures.iter().map(|(place, count)| bad(&clean(place), count));
    let all: Vec<String> = lost.into_iter().chain(failed).collect();
    lines.push(match (&rates.not_counted, all.is_empty()) {
        (Some(why), _) => paint(WARN, format!("failures in the kernel: not known: {}", clean(why))),
        (None, true) if !lock.contains("bpf") => "failures in the kernel: there are no counters".to_owned(),
        (None, true) => "no event lost, no failure in the kernel".to_owned(),
        (None, false) => paint(WARN, format!("in the kernel: {}", all.join(", "))),
    });
    lines
}

/// Equal ones stay in one order, so that rows do not dance.
fn sorted(rates: &Rates, sort: Sort, reverse: bool) -> Vec<&DenialRate> {
    let who = |one: &DenialRate| {
        let of = &one.denial;
        [&of.namespace, &of.pod, &of.container, &of.id, &of.policy, &of.rule, &of.operation, &of.action]
            .map(Clone::clone)
    };
    let order = |one: &DenialRate, other: &DenialRate| -> Ordering {
        match sort {
            Sort::Container => Ordering::Equal,
            Sort::Policy => one.denial.policy.cmp(&other.denial.policy),
            Sort::Rate => other.per_second.total_cmp(&one.per_second),
            Sort::Total => other.denial.total.cmp(&one.denial.total),
            Sort::Last => other.denial.last_milliseconds.cmp(&one.denial.last_milliseconds),
        }
    };
    let mut all: Vec<(_, &DenialRate)> = rates.denials.iter().map(|one| (who(one), one)).collect();
    all.sort_by(|(who, one), (other_who, other)| {
        let by = order(one, other).then_with(|| match sort {
            Sort::Rate | Sort::Last => other.denial.total.cmp(&one.denial.total),
            _ => Ordering::Equal,
        });
        let by = by.then_with(|| who.cmp(other_who));
        if reverse { by.reverse() } else { by }
    });
    all.into_iter().map(|(_, one)| one).collect()
}

fn denials(rates: &Rates, shown: &[&DenialRate], width: Option<u16>) -> Table {
    let mut list = table(["CONTAINER", "POLICY", "RULE", "WHAT", "RATE", "TOTAL", "LAST"], 0);
    fit(&mut list, width);
    for DenialRate { denial, per_second: rate } in shown {
        let container = match denial.namespace.is_empty() {
            true => denial.container.clone(),
            false => format!("{}/{} {}", denial.namespace, denial.pod, denial.container),
        };
        let policy = match denial.policy_namespace.is_empty() {
            true => denial.policy.clone(),
            false => format!("{}/{}", denial.policy_namespace, denial.policy),
        };
        let what = format!("{} {}", denial.action, denial.operation);
        let ago = rates.time_milliseconds.saturating_sub(denial.last_milliseconds) / 1000;
        let last = format!("{} ago", humantime::format_duration(Duration::from_secs(ago)));
        let cells =
            [container, policy, denial.rule.clone(), what, per_second(*rate), denial.total.to_string(), last];
        let mut row = Row::from(cells.map(|cell| clean(&cell)));
        if width.is_some() {
            row.max_height(1);
        }
        list.add_row(row);
    }
    list
}

fn programs(shown: &[ProgramRate], width: Option<u16>) -> Table {
    let mut list = table(["PROGRAM", "HOOK", "CALLS", "MEAN", "OF A CPU"], 0);
    fit(&mut list, width);
    for ProgramRate { name, section, calls_per_second, mean_nanoseconds, cpu } in shown {
        let mean = format!("{mean_nanoseconds:.0} ns");
        let mut row =
            Row::from([name.clone(), section.clone(), per_second(*calls_per_second), mean, share(*cpu)]);
        if width.is_some() {
            row.max_height(1);
        }
        list.add_row(row);
    }
    list
}

fn fit(list: &mut Table, width: Option<u16>) {
    if let Some(width) = width {
        list.set_width(width);
    }
}

fn per_second(rate: f64) -> String {
    match rate {
        0.0 => "0/s".to_owned(),
        rate if rate < 10.0 => format!("{rate:.1}/s"),
        rate => format!("{rate:.0}/s"),
    }
}

fn share(cpu: f64) -> String {
    format!("{:.2} %", cpu * 100.0)
}

const fn name(sort: Sort) -> &'static str {
    match sort {
        Sort::Container => "container",
        Sort::Policy => "policy",
        Sort::Rate => "rate",
        Sort::Total => "total",
        Sort::Last => "last",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::document::{Denial, Program, Snapshot};

    fn rates(denials: u64, programs: u64) -> Rates {
        let denial = |number: u64| Denial {
            id: format!("c{number}"),
            namespace: "default".into(),
            pod: format!("web-{number}"),
            container: "main".into(),
            policy_namespace: "default".into(),
            policy: format!("p{}\u{1b}[2J", 9 - number % 10),
            rule: "spec.file.matchPaths[0] and so on, longer than there is room for on a narrow screen"
                .into(),
            operation: "File".into(),
            action: "Block".into(),
            total: 100 - number % 7,
            last_milliseconds: 1_000_000 - 1000 * (number % 5),
        };
        let program = |number: u64| Program {
            name: format!("program{number}"),
            section: "lsm/file_open".into(),
            calls: 10 * number,
            nanoseconds: 1000 * number,
        };
        let before = Snapshot { node_name: "n".into(), lock: "bpf".into(), ..Snapshot::default() };
        let now = Snapshot {
            at_nanoseconds: 1_000_000_000,
            time_milliseconds: 1_000_000,
            denials: (0..denials).map(denial).collect(),
            programs: (1..=programs).map(program).collect(),
            ring_dropped: 5,
            ..before.clone()
        };
        Rates::new(&before, &now)
    }

    fn plain(lines: &[String]) -> String {
        anstream::adapter::strip_str(&lines.join("\n")).to_string()
    }

    #[test]
    fn a_screen_is_never_overrun_and_steered_by_nobody() {
        for (width, height) in [(80, 24), (120, 50), (20, 10), (1, 1), (300, 3), (0, 0)] {
            let view = View { sort: Sort::Rate, reverse: false, above: 0, width, height };
            let lines = lines(&rates(100, 30), &view);
            assert!(lines.len() <= usize::from(height), "{width}x{height}: {}", lines.len());
            assert!(!plain(&lines).contains('\u{1b}'));
        }
    }

    /// Nothing is no zero.
    #[test]
    fn what_the_daemon_does_not_see_is_not_told_as_nothing() {
        let why = Some("AppArmor tells \u{1b}[2Jof them elsewhere".to_owned());
        let unseen =
            Snapshot { node_name: "n".into(), lock: "apparmor".into(), not_seen: why, ..Snapshot::default() };
        let rates = Rates::new(&unseen, &unseen);
        let view = View { sort: Sort::Rate, reverse: false, above: 0, width: 200, height: 40 };
        for text in [plain(&lines(&rates, &view)), plain(&[all(&rates, Sort::Rate)])] {
            assert!(text.contains("lock apparmor  denials and audits: not seen: AppArmor tells"), "{text}");
            assert!(text.contains("there are no counters"), "{text}");
            assert!(
                !text.contains("0 denials") && !text.contains("no failure") && !text.contains('\u{1b}'),
                "{text}"
            );
        }
        let told = serde_json::to_value(&rates).unwrap();
        assert!(told["notSeen"].is_string(), "{told}");
    }

    #[test]
    fn what_one_of_two_locks_denies_is_told_beside_what_is_not_seen() {
        let rates = Rates {
            lock: "bpf+apparmor".into(),
            not_seen: Some("what AppArmor denies: \u{1b}[2Jno audit".into()),
            ..rates(3, 2)
        };
        let text = plain(&[all(&rates, Sort::Rate)]);
        assert!(text.contains("297 denials and audits, 297/s now; those of seccomp are not seen, nor is what AppArmor denies: "), "{text}");
        assert!(text.contains("no audit") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn it_says_who_is_denied_what_and_at_what_cost() {
        let view = View { sort: Sort::Total, reverse: false, above: 0, width: 200, height: 40 };
        let text = plain(&lines(&rates(3, 2), &view));
        for part in [
            "lock bpf  297 denials and audits, 297/s now; those of seccomp are not seen",
            "events lost 5 (5.0/s)",
            "sorted by total",
            "default/web-0 main",
            "Block File",
            "2s ago",
            "program2",
            "100 ns",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        let first = text.find("web-0").unwrap();
        assert!(first < text.find("web-1").unwrap(), "{text}");
        let scrolled = plain(&lines(&rates(3, 2), &View { above: 1, ..view }));
        assert!(!scrolled.contains("web-0") && scrolled.contains("web-1"), "{scrolled}");
        let reversed = plain(&lines(&rates(3, 2), &View { reverse: true, ..view }));
        assert!(reversed.find("web-2").unwrap() < reversed.find("web-0").unwrap(), "{reversed}");
        assert!(all(&rates(100, 20), Sort::Container).matches("web-").count() == 100, "all of it");
    }
}
