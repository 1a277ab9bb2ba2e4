//! A page of metrics, and what queries ask of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use regex::Regex;

/// What whoever scrapes adds to each sample.
const OF_TARGETS: [&str; 3] = ["node", "instance", "job"];

/// The labels of one sample.
type Labels = BTreeMap<String, String>;

/// What a daemon serves at `/metrics`.
#[derive(Debug, Default)]
pub struct Page {
    /// The types of the families, by name.
    types: BTreeMap<String, String>,
    /// The samples, by their whole name.
    samples: BTreeMap<String, Vec<Labels>>,
}

/// A selector of a query: a metric with matchers, and with a range.
#[derive(Debug)]
struct Selector {
    name: String,
    matchers: Vec<(String, String, String)>, // label, operator, value
    ranged: bool,
}

impl Page {
    /// Reads the text of a page.
    pub fn read(text: &str) -> Result<Self> {
        let sample = Regex::new(r#"^([a-z_]+)(?:\{(.*)\})? \S+$"#)?;
        let label = Regex::new(r#"([a-z_]+)="((?:[^"\\]|\\.)*)""#)?;
        let mut page = Self::default();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').context(line.to_owned())?;
                page.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let parts = sample.captures(line).with_context(|| format!("no sample: {line}"))?;
                let labels = parts.get(2).map_or("", |labels| labels.as_str());
                let labels =
                    label.captures_iter(labels).map(|one| (one[1].to_owned(), one[2].to_owned())).collect();
                page.samples.entry(parts[1].to_owned()).or_default().push(labels);
            }
        }
        ensure!(text.ends_with("# EOF\n") && page.types.len() > 20, "no page: {text}");
        Ok(page)
    }

    /// The family of a sample, with its type.
    fn family<'a>(&self, sample: &'a str) -> Option<(&'a str, &'static str)> {
        let ends: &[(&'static str, &[&str])] = &[
            ("counter", &["_total"]),
            ("gauge", &[""]),
            ("histogram", &["_bucket", "_count", "_sum"]),
            ("info", &["_info"]),
        ];
        ends.iter().find_map(|(kind, ends)| {
            let name = ends.iter().find_map(|end| {
                let name = sample.strip_suffix(end)?;
                (self.types.get(name)? == kind).then_some(name)
            })?;
            Some((name, *kind))
        })
    }

    /// The families of which no query asks anything.
    pub fn unasked<'a>(&self, queries: impl Iterator<Item = &'a str>) -> Result<BTreeSet<String>> {
        let mut left: BTreeSet<_> = self.types.keys().cloned().collect();
        for query in queries {
            for selector in selectors(query)? {
                if let Some((family, _)) = self.family(&selector.name) {
                    left.remove(family);
                }
            }
        }
        Ok(left)
    }

    /// Whether the query is about what is here: the metrics exist, with the labels that it names, and are of the types that its
    /// functions take. Returns the families of which there is no sample, so that no label is known.
    pub fn check(&self, query: &str) -> Result<BTreeSet<String>> {
        let mut unknown = BTreeSet::new();
        let selectors = selectors(query)?;
        ensure!(!selectors.is_empty(), "it names no metric");
        for selector in &selectors {
            let Selector { name, matchers, ranged } = selector;
            let (family, kind) = self.family(name).with_context(|| format!("the daemon has no `{name}`"))?;
            let counts = matches!(kind, "counter" | "histogram");
            ensure!(*ranged == counts, "`{name}` is a {kind}: rates are for counters, and for them alone");
            let Some(samples) = self.samples.get(name) else {
                unknown.insert(family.to_owned());
                continue;
            };
            for (label, operator, value) in matchers.iter().filter(|(label, ..)| !of_target(label)) {
                let values: BTreeSet<_> = samples.iter().filter_map(|labels| labels.get(label)).collect();
                ensure!(!values.is_empty(), "no sample of `{name}` has `{label}`");
                ensure!(
                    operator != "=" || values.contains(value),
                    "no sample of `{name}` has {label}={value}: {values:?}"
                );
            }
        }
        for (labels, inner) in aggregations(query)? {
            for selector in selectors_of(&inner)? {
                let Some(samples) = self.samples.get(&selector.name) else { continue };
                for label in labels.iter().filter(|label| !of_target(label)) {
                    let has = samples.iter().any(|labels| labels.contains_key(label));
                    ensure!(has, "no sample of `{}` has `{label}`, by which it is summed", selector.name);
                }
            }
        }
        for (function, argument) in calls(query)? {
            let inner = selectors_of(&argument)?;
            let all = |end: &str| !inner.is_empty() && inner.iter().all(|one| one.name.ends_with(end));
            match function.as_str() {
                "histogram_quantile" => {
                    let by_le = aggregations(&argument)?
                        .iter()
                        .all(|(labels, _)| labels.iter().any(|one| one == "le"));
                    ensure!(all("_bucket") && by_le, "a quantile is of buckets, by `le`");
                }
                _ => ensure!(inner.iter().all(|one| one.ranged), "`{function}` is of a range"),
            }
        }
        Ok(unknown)
    }
}

fn of_target(label: &str) -> bool {
    OF_TARGETS.contains(&label)
}

/// What is selected; a query without any is none of ours.
fn selectors(query: &str) -> Result<Vec<Selector>> {
    let found = selectors_of(query)?;
    let names = Regex::new(r"\b(nri_enforcer|process)_[a-z_]+")?;
    ensure!(names.find_iter(query).count() == found.len(), "not every metric is understood");
    Ok(found)
}

fn selectors_of(query: &str) -> Result<Vec<Selector>> {
    let selector = Regex::new(r"\b((?:nri_enforcer|process)_[a-z_]+)(?:\{([^}]*)\})?(\[[^\]]+\])?")?;
    let matcher = Regex::new(r#"([a-z_]+)(=~|!~|!=|=)"([^"]*)""#)?;
    let of = |found: regex::Captures<'_>| {
        let matchers = found.get(2).map_or("", |matchers| matchers.as_str());
        let each = matcher.captures_iter(matchers);
        let matchers = each.map(|one| (one[1].to_owned(), one[2].to_owned(), one[3].to_owned())).collect();
        Selector { name: found[1].to_owned(), matchers, ranged: found.get(3).is_some() }
    };
    Ok(selector.captures_iter(query).map(of).collect())
}

/// Each `by (LABELS) (WHAT)`.
fn aggregations(query: &str) -> Result<Vec<(Vec<String>, String)>> {
    let by = Regex::new(r"\bby \(([^)]*)\) \(")?;
    let of = |found: regex::Captures<'_>| {
        let whole = found.get(0)?;
        let labels = found[1].split(',').map(|label| label.trim().to_owned()).collect();
        Some((labels, within(query.get(whole.end()..)?)))
    };
    Ok(by.captures_iter(query).filter_map(of).collect())
}

/// Each call of a function that takes one type of metric, with its arguments.
fn calls(query: &str) -> Result<Vec<(String, String)>> {
    let call = Regex::new(r"\b(rate|increase|histogram_quantile)\(")?;
    let of =
        |found: regex::Captures<'_>| Some((found[1].to_owned(), within(query.get(found.get(0)?.end()..)?)));
    Ok(call.captures_iter(query).filter_map(of).collect())
}

/// What is before the bracket that closes.
fn within(text: &str) -> String {
    let mut depth = 1_i32;
    let inner = text.chars().take_while(|sign| {
        depth += match sign {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth > 0
    });
    inner.collect()
}

#[test]
fn a_query_that_is_not_about_the_page_is_found() -> Result<()> {
    let mut text = String::new();
    for number in 0..25 {
        text += &format!("# TYPE nri_enforcer_more{} gauge\n", "e".repeat(number));
    }
    text += "# TYPE nri_enforcer_containers gauge\nnri_enforcer_containers{state=\"armed\"} 1\n\
             # TYPE nri_enforcer_lost counter\nnri_enforcer_lost_total 0\n\
             # TYPE nri_enforcer_time histogram\nnri_enforcer_time_bucket{le=\"1.0\",handler=\"a\"} 1\n\
             nri_enforcer_time_count{handler=\"a\"} 1\n# TYPE nri_enforcer_none counter\n# EOF\n";
    let page = Page::read(&text)?;
    for (query, wrong) in [
        ("sum by (state) (nri_enforcer_containers{state=\"armed\",node=~\"$node\"})", ""),
        ("sum(nri_enforcer_containers{state=\"armd\"})", "state=armd"),
        ("sum(nri_enforcer_containers{stat=\"armed\"})", "has `stat`"),
        ("sum by (stat, node) (nri_enforcer_containers)", "has `stat`"),
        ("sum(nri_enforcer_container)", "has no `nri_enforcer_container`"),
        ("sum(rate(nri_enforcer_containers[5m]))", "is a gauge"),
        ("sum(nri_enforcer_lost_total)", "is a counter"),
        ("sum(rate(nri_enforcer_lost[5m]))", "has no `nri_enforcer_lost`"),
        ("sum(rate(nri_enforcer_lost_total[5m])) > 0", ""),
        ("histogram_quantile(0.5, sum by (le, handler) (rate(nri_enforcer_time_bucket[5m])))", ""),
        ("histogram_quantile(0.5, sum by (handler) (rate(nri_enforcer_time_bucket[5m])))", "by `le`"),
        ("histogram_quantile(0.5, sum by (le) (rate(nri_enforcer_time_count[5m])))", "has `le`"),
        ("sum(rate(nri_enforcer_time_sum[5m]))", ""),
        ("time()", "names no metric"),
    ] {
        let told = page.check(query).err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(told.contains(wrong) && told.is_empty() == wrong.is_empty(), "{query}: `{told}`");
    }
    ensure!(page.check("sum(rate(nri_enforcer_none_total[5m]))")? == ["nri_enforcer_none".to_owned()].into());
    let left =
        page.unasked(["sum(rate(nri_enforcer_time_sum[5m]))", "nri_enforcer_containers"].into_iter())?;
    let ours: Vec<_> = left.iter().filter(|name| !name.contains("_more")).collect();
    ensure!(ours == ["nri_enforcer_lost", "nri_enforcer_none"], "{ours:?}");
    Ok(())
}
