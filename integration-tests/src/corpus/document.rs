//! The page that tells all differences: `nri-plugin/docs/differences.md`, made from the records.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use enforcer_core::coverage::GapReason;

use super::POLICIES;
use super::compare::{Way, Why};
use super::record::{BackEnd, Record};

/// What it begins with.
const BEGIN: &str = "# Where back ends differ

<!-- Made from integration-tests/corpus/differences by `UPDATE_GOLDEN=1 cargo test -p integration-tests --lib corpus`. -->

[`decide`](../../enforcer-core/src/decide.md) says what a policy means. The same policy files, each under the postures `audit` and
`block`, are put in force on a real kernel by every back end, and the same program tries the same things there, as root and as another
user, by one program or by two. This is how what the kernels deny differs from what `decide` says. All of it is here, and the tests fail
where there is any more: what is denied less is a gap that `nri-enforcer check` tells of the very rule that decided, and what is denied more
is such a gap, or told in the documentation.

";
const TABLE: &str = "**Denied of tried**, then how many of those were denied that `decide` lets pass (`+`), or not denied that it denies (`-`). What fails
without any policy, or cannot be tried since the policy lets nobody start who could, is left out (`o`).

";

/// The page.
#[must_use]
pub fn render(records: &[(BackEnd, Record)]) -> String {
    let mut page = BEGIN.to_owned() + TABLE;
    let titles: String = records.iter().map(|(back_end, _)| format!(" {} |", back_end.title())).collect();
    line(&mut page, &format!("| |{titles}"));
    line(&mut page, &format!("|---|{}", "---|".repeat(records.len())));
    for (policy, _) in POLICIES {
        let cells: String =
            records.iter().map(|(_, record)| format!(" {} |", cell(record, policy))).collect();
        line(&mut page, &format!("| [{policy}](../../integration-tests/corpus/{policy}.yaml) |{cells}"));
    }
    for (way, title) in [(Way::Less, "Denied less"), (Way::More, "Denied more")] {
        line(&mut page, &format!("\n## {title}"));
        for (why, found) in by_reason(records, way) {
            line(&mut page, &format!("\n### {}\n\n{}\n", heading(why), source(why)));
            line(&mut page, "| back end | policy | what |\n|---|---|---|");
            for ((policy, lines), titles) in found {
                let titles: Vec<&str> = titles.into_iter().map(BackEnd::title).collect();
                let lines: Vec<String> = lines.into_iter().map(|line| format!("`{line}`")).collect();
                line(&mut page, &format!("| {} | {policy} | {} |", titles.join("; "), lines.join(", ")));
            }
        }
    }
    page
}

fn line(page: &mut String, text: &str) {
    writeln!(page, "{text}").unwrap_or_default();
}

fn cell(record: &Record, policy: &str) -> String {
    let Some(count) = record.asked.get(policy) else { return "-".to_owned() };
    let mut cell = format!("{}/{}", count.denied, count.asked);
    for (number, sign) in [
        (record.differing(policy, Way::More), "+"),
        (record.differing(policy, Way::Less), "-"),
        (count.left_out, "o"),
    ] {
        if number > 0 {
            cell.push_str(&format!(" {sign}{number}"));
        }
    }
    cell
}

/// What differs in one way in one policy, and on which back ends it is just that.
type Found<'r> = BTreeMap<(&'r str, BTreeSet<&'r str>), BTreeSet<BackEnd>>;

fn by_reason(records: &[(BackEnd, Record)], way: Way) -> BTreeMap<Why, Found<'_>> {
    let mut lines: BTreeMap<(Why, &str, BackEnd), BTreeSet<&str>> = BTreeMap::new();
    for (back_end, record) in records {
        for one in record.differences.keys().filter(|one| one.way == way) {
            lines.entry((one.why, &one.policy, *back_end)).or_default().insert(&one.line);
        }
    }
    let mut found: BTreeMap<Why, Found<'_>> = BTreeMap::new();
    for ((why, policy, back_end), lines) in lines {
        found.entry(why).or_default().entry((policy, lines)).or_default().insert(back_end);
    }
    found
}

fn heading(why: Why) -> String {
    match why {
        Why::Gap(reason) => format!("{reason} (`{}`)", reason.name()),
        Why::Stricter(stricter) => stricter.told().1.to_owned(),
    }
}

/// Where it is told.
fn source(why: Why) -> String {
    match why {
        Why::Gap(reason) => {
            let lock = if is_of_selinux(reason) { "selinux" } else { "apparmor" };
            format!(
                "A gap of the rule: [what differs from `decide`](../../enforcer-core/src/compile/{lock}/{lock}.md#what-differs-from-decide)."
            )
        }
        Why::Stricter(stricter) => {
            let (page, heading) = stricter.told();
            format!("No gap: [it is told here]({page}#{}).", anchor(heading))
        }
    }
}

fn is_of_selinux(reason: GapReason) -> bool {
    reason.name().starts_with("Selinux")
}

/// What a heading is linked by.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::corpus::cases;
    use crate::corpus::compare::Stricter;
    use crate::corpus::record::Difference;

    const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../nri-plugin/docs");

    fn records() -> Vec<(BackEnd, Record)> {
        BackEnd::ALL.into_iter().map(|one| (one, one.recorded().unwrap())).collect()
    }

    #[test]
    fn the_page_is_what_the_records_say() {
        let path = Path::new(DOCS).join("differences.md");
        let page = render(&records());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &page).unwrap();
        }
        let known = fs::read_to_string(&path).unwrap_or_default();
        assert!(known == page, "run with UPDATE_GOLDEN=1, and look at `{}`", path.display());
    }

    #[test]
    fn every_back_end_was_asked_the_whole_corpus() {
        let probes = crate::corpus::probes::probes().unwrap().len();
        for (back_end, record) in records() {
            let mut wanted = BTreeMap::<String, usize>::new();
            for case in cases(back_end.about()).unwrap() {
                *wanted.entry(case.name.to_owned()).or_default() += case.programs().len() * probes;
            }
            let found =
                record.asked.iter().map(|(policy, count)| (policy.clone(), count.asked + count.left_out));
            let short = |(policy, asked): (String, usize)| {
                (wanted.get(&policy).is_none_or(|wanted| asked < *wanted)).then_some(policy)
            };
            assert_eq!(found.clone().filter_map(short).collect::<Vec<_>>(), [""; 0], "{}", back_end.name());
            assert_eq!(record.asked.len(), wanted.len(), "{}", back_end.name());
            // under podman a policy may keep the program itself from being started
            let may_leave_out = back_end == BackEnd::PodmanBpf;
            for (policy, count) in &record.asked {
                assert!(count.asked > 0, "{}: nothing was asked of {policy}", back_end.name());
                assert!(count.left_out == 0 || may_leave_out, "{}: {policy}", back_end.name());
            }
        }
    }

    #[test]
    fn bpf_has_no_gap() {
        for (back_end, record) in records() {
            if matches!(back_end, BackEnd::Bpf61 | BackEnd::Bpf612 | BackEnd::BpfNewest | BackEnd::PodmanBpf)
            {
                let known = |one: &Difference| {
                    matches!(one.why, Why::Stricter(Stricter::ProgramRead | Stricter::Overlay))
                };
                assert!(record.differences.keys().all(known), "{}", back_end.name());
            }
        }
    }

    #[test]
    fn every_reason_is_told_in_the_documentation() {
        for stricter in Stricter::ALL {
            let (page, heading) = stricter.told();
            let text = fs::read_to_string(Path::new(DOCS).join(page)).unwrap();
            let told = text
                .lines()
                .any(|line| line.trim_start_matches('#').trim() == heading && line.starts_with("##"));
            assert!(told, "`{page}` has no heading `{heading}`");
            let met = |(_, record): &(BackEnd, Record)| {
                record.differences.keys().any(|one| one.why == Why::Stricter(stricter))
            };
            assert!(records().iter().any(met), "nothing differs for the reason {stricter:?} any more");
        }
        for lock in ["apparmor", "selinux"] {
            let path = format!("{DOCS}/../../enforcer-core/src/compile/{lock}/{lock}.md");
            assert!(fs::read_to_string(path).unwrap().contains("\n# What differs from `decide`\n"));
        }
    }

    #[test]
    fn a_record_is_read_as_it_is_written() {
        for (back_end, record) in records() {
            assert_eq!(record.to_string().parse::<Record>().unwrap(), record, "{}", back_end.name());
        }
        for bad in [
            "asked x 1",
            "less p Unknown 1 read /x",
            "less p AppArmorSource 1 read /x",
            "more p HardLink x y",
        ] {
            assert!(bad.parse::<Record>().is_err(), "{bad}");
        }
    }
}
