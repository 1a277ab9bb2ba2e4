//! The dashboard: each query is about metrics that the daemon has.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde_json::Value;

use super::helm::{self, at, list};

/// Those of every process, which come from no name in the daemon's source.
const OF_PROCESSES: [&str; 2] = ["process_cpu_seconds_total", "process_resident_memory_bytes"];
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../nri-plugin/src");

fn queries() -> Result<Vec<(String, String)>> {
    let objects = helm::objects(&["dashboard.enabled=true", "crds.install=false"])?;
    let dashboard: Value = serde_json::from_str(&helm::config(&objects, "nri-enforcer.json")?)?;
    let mut queries = Vec::new();
    let mut numbers = BTreeSet::new();
    for panel in list(&dashboard, "/panels") {
        let title = at(panel, "/title").to_owned();
        ensure!(
            numbers.insert(panel.get("id").map(ToString::to_string)),
            "two panels have the number of {title}"
        );
        let targets: Vec<_> = list(panel, "/targets").map(|target| at(target, "/expr")).collect();
        ensure!(at(panel, "/type") == "row" || !targets.is_empty(), "{title} asks nothing");
        queries.extend(targets.into_iter().map(|query| (title.clone(), query.to_owned())));
    }
    ensure!(queries.len() > 30, "{} queries", queries.len());
    let variables = list(&dashboard, "/templating/list").map(|variable| at(variable, "/definition"));
    queries.extend(
        variables.filter(|query| !query.is_empty()).map(|query| ("variable".into(), query.to_owned())),
    );
    Ok(queries)
}

/// The metrics that a query names.
fn metrics(query: &str) -> Result<BTreeSet<String>> {
    let names = Regex::new(r"\b(nri_enforcer|process)_[a-z_]+")?;
    Ok(names.find_iter(query).map(|name| name.as_str().to_owned()).collect())
}

/// A metric's name without what its type puts behind it.
fn ends(name: &str) -> &str {
    let ends = ["_total", "_bucket", "_count", "_info"];
    ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

#[test]
fn every_query_is_about_metrics_that_exist() -> Result<()> {
    let mut source = String::new();
    let mut ahead: Vec<_> = ["metrics", "feed"].iter().map(|name| Path::new(SOURCE).join(name)).collect();
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            ahead
                .extend(std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?);
        } else {
            source.push_str(&std::fs::read_to_string(path)?);
        }
    }
    for (title, query) in queries()? {
        let names = metrics(&query)?;
        ensure!(!names.is_empty(), "{title}: `{query}` names no metric");
        for name in names.iter().filter(|name| !OF_PROCESSES.contains(&name.as_str())) {
            let bare = name.strip_prefix("nri_enforcer_").with_context(|| format!("{title}: `{name}`"))?;
            let bare = ends(bare);
            let known = source.contains(&format!("\"{bare}\""));
            ensure!(known, "{title}: the daemon has no `{name}`");
        }
    }
    Ok(())
}

/// Slips that a look at the panels would not show: a counter without a rate, brackets that do not close, a node that is
/// not the one that was chosen.
#[test]
fn queries_make_sense() -> Result<()> {
    let counted = Regex::new(r"(rate|increase)\((nri_enforcer|process)_[a-z_]+(_total|_bucket|_count)\{")?;
    let counters = Regex::new(r"_(total|bucket|count)\{")?;
    for (title, query) in queries()? {
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            let count = |wanted| query.chars().filter(|char| *char == wanted).count();
            ensure!(count(open) == count(close), "{title}: `{query}`");
        }
        if title == "variable" {
            continue;
        }
        ensure!(
            counted.find_iter(&query).count() == counters.find_iter(&query).count(),
            "{title}: `{query}` takes a counter for a gauge"
        );
        let chosen = query.matches("node=~\"$node\"").count();
        ensure!(chosen == query.matches('{').count(), "{title}: `{query}` asks all nodes");
    }
    Ok(())
}
