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
        ("visibility=files", &["visibility"]),
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
        ("policies.kubeStatus=maybe", &["policies", "kubeStatus"]),
        ("policies.protectReports=maybe", &["policies", "protectReports", "auto"]),
        ("hostPolicies.postures.file=deny", &["hostPolicies", "postures", "block"]),
        ("hostPolicies.nodeLabels.rack=7", &["nodeLabels", "rack"]),
        ("alerts.maxBytes=-1", &["alerts", "maxBytes"]),
        ("alerts.keep=101", &["alerts", "keep"]),
        ("alerts.rate=-1", &["alerts", "rate"]),
        ("alerts.logs=-", &["alerts", "logs"]),
        ("alerts.logRate=many", &["alerts", "logRate"]),
        ("policies.statusInterval=1", &["policies", "statusInterval"]),
        ("policies.apiServer.host=https://api", &["apiServer", "host"]),
        ("policies.apiServer.port=0", &["apiServer", "port"]),
        ("policies.files.web=kind", &["policies", "files", "web"]),
        ("policies.files.\\.web\\.yaml=kind", &["policies", "files", ".web.yaml"]),
        ("policies.hostDir=policies", &["hostDir"]),
        ("crds.install=maybe", &["crds", "install"]),
        ("clusterName=", &["clusterName"]),
        ("log.format=xml", &["log", "format", "json"]),
        ("metrics.port=70000", &["metrics", "port"]),
        ("metrics.port=http", &["metrics", "port"]),
        ("metrics.address=localhost", &["metrics", "address"]),
        ("metrics.address=999.1.1.1", &["metrics", "address"]),
        ("metrics.address=::1", &["metrics", "address"]),
        ("feed.address=1.1.1.256", &["feed", "address"]),
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
        ("feed.relay=true", &["feed.relay needs feed.enabled"]),
        ("feed.relay=true,feed.enabled=true,feed.port=9000", &["feed.relay", "32767"]),
        ("feed.relay=true,feed.enabled=true,feed.address=127.0.0.1", &["feed.relay", "loopback"]),
        ("combine=true", &["combine needs two names in lsmOrder"]),
        ("apparmor.admission.enabled=true", &["apparmor.admission needs apparmor as the first of lsmOrder"]),
        ("apparmor.admission.enabled=true,lsmOrder={bpf,apparmor}", &["apparmor.admission needs"]),
        ("apparmor.admission.enabled=true,lsmOrder={apparmor},seccompOnly=true", &["no seccompOnly"]),
        (
            "apparmor.admission.enabled=true,lsmOrder={apparmor},@--kube-version=1.31.0",
            &["apparmor.admission needs Kubernetes 1.32"],
        ),
        ("apparmor.admission.podSelector.matchLabel.a=b", &["podSelector", "matchLabel"]),
        ("apparmor.admission.enable=true", &["admission", "enable"]),
        ("metrics.enabled=false,metrics.podMonitor.enabled=true", &["need metrics.enabled"]),
        ("metrics.enabled=false,metrics.rules.enabled=true", &["metrics.rules needs metrics.enabled"]),
        ("metrics.rules.label.a=b", &["rules", "label"]),
        ("metrics.address=127.0.0.1,hostNetwork=false", &["metrics.address", "hostNetwork"]),
        ("metrics.address=[::1],hostNetwork=false", &["metrics.address", "hostNetwork"]),
        ("metrics.address=10.0.0.7,hostNetwork=false", &["metrics.address", "hostNetwork"]),
        ("metrics.address=127.0.0.2,metrics.podMonitor.enabled=true", &["metrics.address", "loopback"]),
        ("metrics.address=[::1],metrics.serviceMonitor.enabled=true", &["metrics.address", "loopback"]),
        ("metrics.address=[0:0:0:0:0:0:0:1],metrics.podMonitor.enabled=true", &["loopback"]),
        (
            "nri.autoEnable=true,hook.everyContainer=true,exemptNamespaces={infra}",
            &["hook.everyContainer needs kube-system in exemptNamespaces"],
        ),
        ("runtime.nriSocket=/nri.sock", &["runtime.nriSocket", "directory of its own"]),
        ("runtime.nriSocket=/run/nri.sock", &["runtime.nriSocket", "/run holds"]),
        ("runtime.nriSocket=/var/run/nri.sock", &["runtime.nriSocket", "/run holds"]),
        ("runtime.nriSocket=/run/containerd/nri.sock", &["runtime.nriSocket", "/run/containerd holds"]),
        ("runtime.nriSocket=/var/run/containerd/nri.sock", &["runtime.nriSocket", "/run/containerd holds"]),
        (
            "runtime.nriSocket=/run/nri/../containerd/nri.sock",
            &["runtime.nriSocket", "/run/containerd holds"],
        ),
        (
            "runtime.nriSocket=/run/k3s/containerd/nri.sock",
            &["runtime.nriSocket", "/run/k3s/containerd holds"],
        ),
        ("runtime.nriSocket=//run//k0s/containerd/nri.sock", &["runtime.nriSocket", "/run/k0s/containerd"]),
        ("runtime.nriSocket=/run/k0s/nri.sock", &["runtime.nriSocket", "/run/k0s holds"]),
        // a node whose own pods wait for the daemon
        (
            "nri.requiredPlugin.enabled=true",
            &["kube-system, static ones too", "tolerate-missing-plugins", "kubeSystemTolerates"],
        ),
        (
            "nri.requiredPlugin.enabled=true,nri.requiredPlugin.kubeSystemTolerates=true",
            &["nri.requiredPlugin needs nri.autoEnable"],
        ),
        (
            "nri.autoEnable=true,nri.requiredPlugin.enabled=true,nri.requiredPlugin.kubeSystemTolerates=true,exemptNamespaces={infra}",
            &["nri.requiredPlugin needs kube-system in exemptNamespaces"],
        ),
        ("nri.requiredPlugin.toleration=", &["toleration"]),
        ("nri.requiredPlugin.toleration=example.org/tolerate", &["toleration"]),
        ("hook.enabled=false,nri.autoEnable=true", &["nri.autoEnable needs hook.enabled"]),
        ("nri.autoEnable=true,hook.everyContainer=true,runtime.preset=k3s", &["hook.everyContainer", "k3s"]),
    ] {
        let (value, version) = value.split_once(",@").unwrap_or((value, ""));
        let version = format!("@{version}");
        let version: &[&str] = if version == "@" { &[] } else { &[&version] };
        let image: &[&str] =
            if value.starts_with("image.repository") { &[] } else { &["image.repository=x"] };
        let values: &[&str] = &[image, &[value], version].concat();
        for said in helm::refusals(values)? {
            ensure!(words.iter().all(|word| said.contains(word)), "{value}: {said}");
        }
    }
    Ok(())
}

/// Kubelet asks the pod's address unless a host is named; what the daemon does not listen at would have it killed.
#[test]
fn kubelet_asks_where_the_daemon_listens() -> Result<()> {
    for (address, network, wanted) in [
        ("0.0.0.0", true, "127.0.0.1"),
        ("127.0.0.1", true, "127.0.0.1"),
        ("127.0.0.2", true, "127.0.0.2"),
        ("10.0.0.7", true, "10.0.0.7"),
        ("[::]", true, "::1"),
        ("[::1]", true, "::1"),
        ("[fd00::7]", true, "fd00::7"),
        ("0.0.0.0", false, ""),
        ("[::]", false, ""),
    ] {
        let values = [&format!("metrics.address={address}"), &format!("hostNetwork={network}")];
        let objects = helm::objects(&[values[0], values[1], "crds.install=false"])?;
        let daemon = helm::list(helm::pod(&objects)?, "/containers").next().context("the daemon")?;
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let host = helm::at(daemon, &format!("/{probe}/httpGet/host"));
            ensure!(host == wanted, "{values:?}: {probe} asks `{host}`");
            let listens: std::net::SocketAddr = format!("{address}:9750").parse()?;
            let asked = host.parse::<std::net::IpAddr>();
            let reached = asked.is_ok_and(|host| {
                host == listens.ip()
                    || (listens.ip().is_unspecified()
                        && host.is_loopback()
                        && host.is_ipv4() == listens.is_ipv4())
            });
            ensure!(reached == network, "{values:?}: {probe} asks `{host}`");
        }
    }
    Ok(())
}

/// What is a path or a text stays one, whatever YAML would make of it.
#[test]
fn paths_and_texts_are_quoted() -> Result<()> {
    let odd = "/srv/a}#b'c\\,d";
    let values: [&str; 13] = [
        &format!("runtime.kubeletDir={odd}/kubelet"),
        &format!("runtime.nriSocket={odd}/nri/nri.sock"),
        &format!("runtime.containerdConfig={odd}/config.toml"),
        &format!("hook.dir={odd}/hook"),
        &format!("policies.hostDir={odd}/policies"),
        &format!("alerts.hostDir={odd}/alerts"),
        "nri.autoEnable=true",
        "crds.install=false",
        "feed.enabled=true",
        "feed.service=true",
        "metrics.serviceMonitor.enabled=true",
        "priorityClassQuota=true",
        "@--set-string=fullnameOverride=1234,nameOverride=0x10,serviceAccount.name=1e3,priorityClassName=0123,image.tag=true",
    ];
    let objects = helm::objects(&values)?;
    let pod = helm::pod(&objects)?;
    let odd = odd.replace('\\', "");
    let host: Vec<_> = helm::list(pod, "/volumes").map(|volume| helm::at(volume, "/hostPath/path")).collect();
    for path in ["kubelet/seccomp", "nri", "hook", "policies", "alerts"] {
        ensure!(host.contains(&&*format!("{odd}/{path}")), "{path} is not among {host:?}");
    }
    let arguments: Vec<_> = helm::containers(pod)
        .flat_map(|container| helm::list(container, "/args"))
        .filter_map(serde_json::Value::as_str)
        .collect();
    for argument in ["--config=/config.toml", "--hook-dir=/hook", "--nri-socket=/nri/nri.sock"] {
        let argument = argument.replacen("=/", &format!("={odd}/"), 1);
        ensure!(arguments.contains(&&*argument), "{argument} is not among {arguments:?}");
    }
    let mounts = helm::containers(pod).flat_map(|container| helm::list(container, "/volumeMounts"));
    let mounts: Vec<_> = mounts.map(|mount| helm::at(mount, "/mountPath")).collect();
    for path in ["/hook", "/nri"].map(|path| format!("/host{odd}{path}")) {
        ensure!(mounts.contains(&&*path), "{path} is not among {mounts:?}");
    }
    for object in &objects {
        let name = helm::at(object, "/metadata/name");
        ensure!(name.starts_with("1234") || name == "1e3", "the name of {object}");
        ensure!(
            helm::at(object, "/metadata/namespace") == "security"
                || ["Cluster", "ValidatingAdmissionPolicy"]
                    .iter()
                    .any(|kind| helm::at(object, "/kind").starts_with(kind)),
            "the namespace of {object}"
        );
    }
    ensure!(helm::at(pod, "/serviceAccountName") == "1e3" && helm::at(pod, "/priorityClassName") == "0123");
    ensure!(helm::containers(pod).all(|container| helm::at(container, "/image") == "nri-enforcer:true"));
    Ok(())
}

/// They come by a link, which not every way to copy a folder follows.
#[test]
fn a_chart_without_the_definitions_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let chart = dir.path().join("chart");
    let copy = std::process::Command::new("cp").arg("-r").arg(helm::CHART).arg(&chart).status()?;
    ensure!(copy.success(), "cp");
    let crds = chart.join("files/crds");
    std::fs::remove_file(&crds).or_else(|_| std::fs::remove_dir_all(&crds))?;
    for version in helm::VERSIONS {
        let render = |more: &[&str]| -> Result<(bool, String)> {
            let mut helm = std::process::Command::new(helm::program(version)?);
            let output = helm
                .env("HOME", dir.path())
                .args(["template", "demo", "--set", "image.repository=x"])
                .args(more)
                .arg(&chart)
                .output()?;
            Ok((output.status.success(), String::from_utf8(output.stderr)?))
        };
        let (good, said) = render(&[])?;
        ensure!(!good && said.contains("files/crds is empty"), "{version}: {said}");
        let (good, said) = render(&["--set", "crds.install=false"])?;
        ensure!(good, "{version}: {said}");
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
