//! helm itself, of two major versions, and what it makes of the chart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use lab::cache;
use serde::Deserialize;
use serde_json::Value;

pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/chart");
/// As `setup.sh` calls them.
pub const VERSIONS: [&str; 2] = ["helm-3", "helm-4"];
/// What has no default.
const IMAGE: &str = "image.repository=nri-enforcer";

/// `--set` values, or with a `@` before it another argument.
pub type Values<'a> = &'a [&'a str];

/// helm's program.
pub fn program(version: &str) -> Result<PathBuf> {
    cache::artefact(version)
}

/// Runs a command on the chart. It has nothing of a user's configuration, nor a cluster.
pub fn run(version: &str, command: &[&str], values: Values<'_>) -> Result<Output> {
    let home = tempfile::tempdir()?;
    let mut helm = Command::new(program(version)?);
    helm.env_clear().env("HOME", home.path()).env("KUBECONFIG", "/dev/null").args(command).arg(CHART);
    for value in values {
        match value.strip_prefix('@') {
            Some(argument) => helm.arg(argument),
            None => helm.args(["--set", value]),
        };
    }
    helm.output().with_context(|| format!("run {version}"))
}

/// What becomes of the chart, as text, by both versions alike. What several tests look at is made once.
pub fn text(values: Values<'_>) -> Result<String> {
    static MADE: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = values.join(" ");
    if let Some(text) = made.get(&key) {
        return Ok(text.clone());
    }
    let text = template(values)?;
    made.insert(key, text.clone());
    Ok(text)
}

fn template(values: Values<'_>) -> Result<String> {
    let values = [&[IMAGE], values].concat();
    let mut texts = Vec::new();
    for version in VERSIONS {
        let output = run(version, &["template", "demo", "--namespace", "security"], &values)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{version} {values:?}: {said}");
        texts.push(String::from_utf8(output.stdout)?);
    }
    ensure!(texts.first() == texts.last(), "{values:?}: helm 3 and helm 4 differ");
    texts.pop().context("a text")
}

/// The same as objects.
pub fn objects(values: Values<'_>) -> Result<Vec<Value>> {
    let text = text(values)?;
    let documents = serde_yaml::Deserializer::from_str(&text);
    let objects = documents.map(|document| Ok(Value::deserialize(document)?));
    let objects: Result<Vec<_>> = objects.collect();
    Ok(objects?.into_iter().filter(|object| !object.is_null()).collect())
}

/// Why both versions refuse these values; it is the same reason.
pub fn refusals(values: Values<'_>) -> Result<Vec<String>> {
    let refuse = |version: &&str| {
        let output = run(version, &["template", "demo"], values)?;
        ensure!(!output.status.success(), "{version} takes {values:?}");
        Ok(String::from_utf8(output.stderr)?)
    };
    VERSIONS.iter().map(refuse).collect()
}

/// The objects of a kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object.get("kind").and_then(Value::as_str) == Some(kind))
}

/// What is at a pointer, as text; empty where nothing is.
pub fn at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list at a pointer; none where there is no list.
pub fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The pod that the daemon set makes.
pub fn pod(objects: &[Value]) -> Result<&Value> {
    let set = of_kind(objects, "DaemonSet").next().context("a daemon set")?;
    set.pointer("/spec/template/spec").context("its pod")
}

/// The containers of a pod, init containers first.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/initContainers").chain(list(pod, "/containers"))
}

/// A text of a config map of the release.
pub fn config(objects: &[Value], name: &str) -> Result<String> {
    let data = of_kind(objects, "ConfigMap").find_map(|map| map.get("data")?.get(name)?.as_str());
    Ok(data.with_context(|| format!("no config map has `{name}`"))?.to_owned())
}

/// A file beside the tests that a text is to equal; written with `UPDATE_GOLDEN=1`.
pub fn golden(path: &Path, text: &str) -> Result<bool> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, text)?;
    }
    Ok(std::fs::read_to_string(path).unwrap_or_default() == text)
}
