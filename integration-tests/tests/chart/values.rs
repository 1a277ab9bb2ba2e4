//! The chart's values: what is refused, and that the README tells all of them.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::helm;

const BEGIN: &str = "<!-- made of values.yaml -->\n";
const END: &str = "<!-- end of the values -->";
/// Values that are mappings: what is in them is Kubernetes', or anything.
const WHOLE: [&str; 7] = [
    "dashboard.labels",
    "nodeSelector",
    "resources",
    "seLinuxOptions",
    "tolerations",
    "updateStrategy",
    "affinity",
];

/// Each is refused by both versions with a message that has these words.
#[test]
fn bad_values_are_refused_by_name() -> Result<()> {
    for (value, words) in [
        ("runtime.preset=docker", &["preset", "kubeadm"][..]),
        ("runtime.nriSocket=nri.sock", &["nriSocket"]),
        ("runtime.kubeletDir=/var/lib/kubelet/", &["kubeletDir"]),
        ("runtime.containerdConfig=/etc/a b", &["containerdConfig"]),
        ("image.repository=registry:1@sha256", &["repository"]),
        ("image.tag=a/b", &["tag"]),
        ("image.digest=latest", &["digest"]),
        ("image.pullPolicy=always", &["pullPolicy", "Always"]),
        ("imagePullSecrets={pull}", &["imagePullSecrets"]),
        ("nri.autoEnable=yes", &["autoEnable"]),
        ("nri.enable=true", &["nri", "enable"]),
        ("hook.dir=opt", &["hook", "dir"]),
        ("hook.deadlineMillis=10", &["deadlineMillis", "50"]),
        ("hook.deadlineMillis=10000", &["deadlineMillis"]),
        ("failMode=closd", &["failMode", "closed"]),
        ("exemptNamespaces=kube-system", &["exemptNamespaces"]),
        ("exemptNamespaces={Kube_System}", &["exemptNamespaces"]),
        ("exemptNamespaces={a,a}", &["exemptNamespaces"]),
        ("postures.file=deny", &["postures", "file", "block"]),
        ("postures.syscalls=block", &["postures", "syscalls"]),
        ("strict=1", &["strict"]),
        ("strickt=true", &["strickt"]),
        ("lsmOrder={selinux}", &["lsmOrder", "apparmor"]),
        ("lsmOrder={}", &["lsmOrder"]),
        ("lsmOrder={bpf,bpf}", &["lsmOrder"]),
        ("libseccomp=2.5", &["libseccomp"]),
        ("policies.files.web=kind", &["policies", "files", "web"]),
        ("policies.hostDir=policies", &["hostDir"]),
        ("crds.install=maybe", &["crds", "install"]),
        ("clusterName=", &["clusterName"]),
        ("log.format=xml", &["log", "format", "json"]),
        ("metrics.port=70000", &["metrics", "port"]),
        ("metrics.port=http", &["metrics", "port"]),
        ("metrics.address=localhost", &["metrics", "address"]),
        ("metrics.podMonitor.interval=30", &["interval"]),
        ("feed.port=0", &["feed", "port"]),
        ("extraCapabilities={CAP_SYSLOG}", &["extraCapabilities"]),
        ("extraCapabilities={SYS_ADMIN}", &["extraCapabilities"]),
        ("seLinuxOptions.typ=spc_t", &["seLinuxOptions", "typ"]),
        ("resources.request.cpu=1", &["resources", "request"]),
        ("priorityClassQuota=auto", &["priorityClassQuota"]),
        ("updateStrategy.type=Recreate", &["updateStrategy", "RollingUpdate"]),
        ("uninstall=now", &["uninstall"]),
        // what no schema can say
        ("hook.everyContainer=true", &["hook.everyContainer needs nri.autoEnable"]),
        ("policies.kubeApi=false", &["there is no source of policies"]),
        ("feed.service=true", &["feed.service needs feed.enabled"]),
        ("combine=true", &["combine needs two names in lsmOrder"]),
        ("metrics.enabled=false,metrics.podMonitor.enabled=true", &["need metrics.enabled"]),
        ("metrics.address=127.0.0.1,hostNetwork=false", &["metrics.address"]),
        ("hook.enabled=false,nri.autoEnable=true", &["nri.autoEnable needs hook.enabled"]),
        ("nri.autoEnable=true,hook.everyContainer=true,runtime.preset=k3s", &["hook.everyContainer", "k3s"]),
    ] {
        let values: &[&str] =
            if value.starts_with("image.repository") { &[value] } else { &["image.repository=x", value] };
        for said in helm::refusals(values)? {
            ensure!(words.iter().all(|word| said.contains(word)), "{value}: {said}");
        }
    }
    Ok(())
}

#[test]
fn the_readme_tells_every_value() -> Result<()> {
    let values = std::fs::read_to_string(format!("{}/values.yaml", helm::CHART))?;
    let path = format!("{}/README.md", helm::CHART);
    let readme = std::fs::read_to_string(&path)?;
    let (before, rest) = readme.split_once(BEGIN).context("the table's begin")?;
    let (_, after) = rest.split_once(END).context("the table's end")?;
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table(&values)?);
    ensure!(helm::golden(Path::new(&path), &wanted)?, "its table is stale: run with UPDATE_GOLDEN=1");
    Ok(())
}

/// A row for each value, with the comment above it; one for each group that has a comment.
fn table(text: &str) -> Result<String> {
    let values: serde_json::Value = serde_yaml::from_str(text)?;
    let mut table = String::from("| value | default | |\n|---|---|---|\n");
    let (mut above, mut comment): (Vec<(usize, String)>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut whole = usize::MAX; // lines that are further in belong to the value before
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(words) = content.strip_prefix("# ") {
            comment.push(words);
            continue;
        }
        if content.is_empty() {
            comment.clear();
            continue;
        }
        if indent > whole {
            continue;
        }
        whole = usize::MAX;
        let key = content.split(':').next().context("a key")?;
        above.retain(|(other, _)| *other < indent);
        above.push((indent, key.to_owned()));
        let path: Vec<_> = above.iter().map(|(_, key)| key.as_str()).collect();
        let (name, pointer) = (path.join("."), format!("/{}", path.join("/")));
        let value = values.pointer(&pointer).with_context(|| format!("no value {name}"))?;
        let group = value.as_object().is_some_and(|map| !map.is_empty()) && !WHOLE.contains(&name.as_str());
        let words = std::mem::take(&mut comment).join(" ");
        if group && words.is_empty() {
            continue;
        }
        let default = if group { String::new() } else { format!("`{value}`") };
        table.push_str(&format!("| `{name}` | {default} | {words} |\n"));
        if !group {
            whole = indent;
        }
    }
    Ok(table)
}
