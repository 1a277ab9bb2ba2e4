//! What the chart makes: as recorded, and valid for the API.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::cache;
use serde_json::Value;

use super::helm::{self, Values, at, containers, of_kind};
use super::releases::{RELEASES, release};

#[test]
fn helm_finds_nothing_to_complain_about() -> Result<()> {
    for version in helm::VERSIONS {
        let said = Command::new(helm::program(version)?).args(["version", "--short"]).output()?;
        let number = version.strip_prefix("helm-").context("a number")?;
        ensure!(said.stdout.starts_with(format!("v{number}.").as_bytes()), "{version} is another one");
        for (name, values) in RELEASES {
            let values = [&["image.repository=nri-enforcer"], values].concat();
            let output = helm::run(version, &["lint", "--strict"], &values)?;
            let said = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "{version} {name}: {said}");
        }
    }
    Ok(())
}

#[test]
fn releases_are_as_recorded() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, values) in RELEASES {
        let text = helm::text(&[values, &["crds.install=false"]].concat())?;
        let path = format!("{}/tests/chart/golden/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        if !helm::golden(Path::new(&path), &text)? {
            wrong.push(name);
        }
    }
    ensure!(wrong.is_empty(), "{wrong:?} are others: run with UPDATE_GOLDEN=1, and look at what differs");
    Ok(())
}

/// Unknown fields are errors there.
#[test]
fn the_api_knows_every_field() -> Result<()> {
    let schemas = cache::artefact("kubernetes-schemas")?;
    let dir = tempfile::tempdir()?;
    let check = |version: &str, texts: &[(&str, String)]| -> Result<(bool, String)> {
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", &schemas).args(["-m", "kubernetes_validate", "--strict", "-k", version]);
        for (name, text) in texts {
            let path = dir.path().join(format!("{name}.yaml"));
            std::fs::write(&path, text)?;
            python.arg(path);
        }
        let output = python.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    let text = |values: Values<'_>| helm::text(&[values, &["crds.install=false"]].concat());
    let mut texts = Vec::new();
    for (name, values) in RELEASES {
        texts.push((name, text(values)?));
    }
    let (old, new): (Vec<_>, Vec<_>) = texts.into_iter().partition(|(name, _)| name.ends_with("1.28"));
    for (version, texts) in [("1.28", old), ("1.34", new)] {
        let (good, said) = check(version, &texts)?;
        ensure!(good && said.matches(" daemonset/").count() == texts.len(), "{version}: {said}");
        let unknown = said.lines().filter(|line| line.starts_with("WARN"));
        ensure!(unknown.filter(|line| !line.contains("monitoring.coreos.com")).count() == 0, "{said}");
        let misspelt = texts.first().context("a release")?.1.replacen("hostPID", "hostPid", 1);
        ensure!(!check(version, &[("misspelt", misspelt)])?.0, "{version}: a misspelt field passes");
    }
    Ok(())
}

/// Below 1.30 AppArmor is an annotation for each container, and the API server refuses one that names no container.
#[test]
fn older_annotations_name_the_containers_that_are_there() -> Result<()> {
    const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
    // these need admission policies, which are not there
    let newer = |name: &str| name.ends_with("1.28") || ["required", "apparmor"].contains(&name);
    for (name, values) in RELEASES.iter().filter(|(name, _)| !newer(name)) {
        let old = release(&[values, &["@--kube-version=1.28.0"][..]].concat())?;
        let templates = old.iter().filter_map(|object| object.pointer("/spec/template"));
        for pod in templates.chain(of_kind(&old, "Pod")) {
            let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
            let mut named: Vec<_> =
                annotations.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix(APPARMOR)).collect();
            let spec = pod.get("spec").context("a pod")?;
            let mut there: Vec<_> = containers(spec).map(|container| at(container, "/name")).collect();
            named.sort_unstable();
            there.sort_unstable();
            ensure!(named == there && !there.is_empty(), "{name}: {named:?} of {there:?}");
        }
    }
    Ok(())
}

#[test]
fn the_definitions_are_those_of_the_project() -> Result<()> {
    let definitions =
        |objects: &[Value]| -> Vec<Value> { of_kind(objects, "CustomResourceDefinition").cloned().collect() };
    let kept = definitions(&helm::objects(&[])?);
    ensure!(kept.len() == 5, "{} definitions", kept.len());
    for definition in &kept {
        let name = at(definition, "/metadata/name");
        let plural = name.split('.').next().unwrap_or_default();
        let path = format!("{}/../crds/{plural}.yaml", helm::CHART);
        let file: Value = serde_yaml::from_str(&std::fs::read_to_string(&path).context(path)?)?;
        ensure!(definition.get("spec") == file.get("spec"), "{name} is another one");
        ensure!(
            at(definition, "/metadata/annotations/helm.sh~1resource-policy") == "keep",
            "{name} would go"
        );
    }
    let gone = definitions(&helm::objects(&["crds.keep=false"])?);
    let kept =
        |definition: &Value| definition.pointer("/metadata/annotations/helm.sh~1resource-policy").is_some();
    ensure!(gone.len() == 5 && !gone.iter().any(kept), "they are kept");
    Ok(())
}

/// A registry is the user's to name. Names of the API's groups are no hosts.
#[test]
fn no_registry_is_named() -> Result<()> {
    for (name, values) in RELEASES {
        for object in release(values)? {
            let pod = object.pointer("/spec/template/spec").or_else(|| object.get("spec"));
            for container in pod.into_iter().flat_map(containers) {
                let image = at(container, "/image");
                ensure!(
                    image.starts_with("nri-enforcer:") || image.starts_with("nri-enforcer@"),
                    "{name}: {image}"
                );
            }
        }
    }
    for said in helm::refusals(&[])? {
        ensure!(said.contains("image.repository is empty"), "{said}");
    }
    let chart: Value =
        serde_yaml::from_str(&std::fs::read_to_string(format!("{}/Chart.yaml", helm::CHART))?)?;
    ensure!(at(&chart, "/appVersion") == env!("CARGO_PKG_VERSION"), "the chart is of another version");
    Ok(())
}
