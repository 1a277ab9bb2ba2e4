//! What the chart grants on a node and at the API server.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::helm::{self, at, containers, list, of_kind, pod};
use super::releases::{RELEASES, release};

/// Nobody is held to the report of a node where tokens do not tell theirs, or nothing is reported.
#[test]
fn reports_are_protected_where_that_can_be() -> Result<()> {
    for (values, wanted) in [
        (&[][..], true),
        (&["@--kube-version=1.29.9"], false),
        (&["@--kube-version=1.30.0"], true),
        (&["@--kube-version=1.29.9", "policies.protectReports=true"], true),
        (&["policies.protectReports=false"], false),
        (&["policies.kubeStatus=false"], false),
        (&["policies.kubeStatus=false", "policies.protectReports=true"], false),
        (&["uninstall=true"], false),
    ] {
        let objects = release(values)?;
        for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
            ensure!(of_kind(&objects, kind).count() == usize::from(wanted), "{values:?}: {kind}");
        }
    }
    let objects = release(&["serviceAccount.name=other", "policies.protectReports=true"])?;
    let policy = of_kind(&objects, "ValidatingAdmissionPolicy").next().context("a policy")?;
    let daemons = at(policy, "/spec/matchConditions/0/expression");
    ensure!(daemons.ends_with(":other'"), "who is a daemon: {daemons}");
    Ok(())
}

#[test]
fn no_more_is_granted_than_is_used() -> Result<()> {
    for (name, values) in RELEASES {
        let objects = release(values)?;
        let pod = pod(&objects)?;
        for container in containers(pod) {
            let what = format!("{name}, {}", at(container, "/name"));
            let context = container.get("securityContext").context("a security context")?;
            let is = |key: &str, wanted: bool| context.get(key) == Some(&Value::from(wanted));
            ensure!(is("readOnlyRootFilesystem", true), "{what}: a root that can be written");
            if name == "privileged" && at(container, "/name") == "nri-enforcer" {
                ensure!(is("privileged", true), "{what}: it was chosen");
                continue;
            }
            ensure!(is("privileged", false) && is("allowPrivilegeEscalation", false), "{what}: {context}");
            ensure!(
                context.pointer("/capabilities/drop") == Some(&serde_json::json!(["ALL"])),
                "{what}: {context}"
            );
            ensure!(at(context, "/seccompProfile/type") == "RuntimeDefault", "{what}: {context}");
            let added: Vec<_> = list(context, "/capabilities/add").filter_map(Value::as_str).collect();
            let wanted: &[&str] = match (at(container, "/name"), name) {
                ("nri-enforcer", "everything") => {
                    &["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "MAC_ADMIN", "AUDIT_READ", "SYSLOG"]
                }
                ("nri-enforcer", "apparmor") => {
                    &["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "MAC_ADMIN", "AUDIT_READ"]
                }
                ("nri-enforcer", "least") => &["SYS_PTRACE", "DAC_READ_SEARCH"],
                ("nri-enforcer", _) => &["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"],
                ("install", _) => &["SYS_CHROOT"],
                ("unload", "uninstall-apparmor") => &["BPF", "MAC_ADMIN"],
                ("unload", _) => &["BPF"],
                ("uninstall", _) => &["SYS_CHROOT", "DAC_READ_SEARCH"],
                _ => &[],
            };
            ensure!(added == wanted, "{what}: {added:?}");
            for mount in list(container, "/volumeMounts").filter(|mount| at(mount, "/name") == "root") {
                ensure!(["install", "uninstall"].contains(&at(container, "/name")), "{what}: {mount}");
            }
        }
        // AppArmor's files can be written by who has its capability, and nobody else
        for container in containers(pod) {
            let writes = list(container, "/volumeMounts").any(|mount| {
                at(mount, "/mountPath") == "/sys/kernel/security"
                    && mount.get("readOnly") != Some(&Value::from(true))
            });
            let may = container.to_string().contains("MAC_ADMIN");
            ensure!(writes == may, "{name}, {}: AppArmor", at(container, "/name"));
        }
        // nobody needs to ask the runtime itself
        let host: Vec<_> = list(pod, "/volumes").map(|volume| at(volume, "/hostPath/path")).collect();
        let asked = ["everything", "required"].contains(&name) || name.starts_with("uninstall");
        ensure!(asked == host.contains(&"/"), "{name}: the host's root");
        let sockets = ["/run", "/var/run", "/run/containerd", "/run/k3s", "/run/k3s/containerd", "/run/k0s"];
        ensure!(!host.iter().any(|path| sockets.contains(path)), "{name}: {host:?} has the runtime's socket");
        let rules = |kind: &str| -> Vec<String> {
            let all = of_kind(&objects, kind).flat_map(|role| list(role, "/rules"));
            let words = |rule: &Value, field: &str| {
                let words = rule.get(field).and_then(Value::as_array).into_iter().flatten();
                words.filter_map(Value::as_str).collect::<Vec<_>>().join(",")
            };
            all.map(|rule| {
                ["apiGroups", "resources", "resourceNames", "verbs"].map(|field| words(rule, field)).join(" ")
            })
            .collect()
        };
        let told = helm::config(&objects, "config.yaml").is_ok_and(|text| text.contains("kubeStatus: true"));
        let (mut cluster, mut own): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        if of_kind(&objects, "ClusterRole").count() > 0 {
            let kinds = ["policies", "clusterpolicies", "hostpolicies", "seccomppolicies"];
            let kinds = |sub: &str| kinds.map(|kind| format!("kubearmor{kind}{sub}")).join(",");
            cluster.push(format!("security.kubearmor.com {}  list,watch", kinds("")));
            cluster.push(" namespaces  list,watch".to_owned());
            if helm::config(&objects, "config.yaml")?.contains("hostPolicies: true") {
                cluster.push(" nodes  list,watch".to_owned());
            }
            if told {
                cluster.push(format!("security.kubearmor.com {}  get,patch", kinds("/status")));
                cluster.push("nri-enforcer.io nodepolicyreports  list,watch,create,patch,delete".to_owned());
                cluster.push("events.k8s.io events  create,patch".to_owned());
                own.push("coordination.k8s.io leases  create".to_owned());
                own.push("coordination.k8s.io leases nri-enforcer-status get,update,patch".to_owned());
            }
        }
        ensure!(rules("ClusterRole") == cluster, "{name}: {:?}", rules("ClusterRole"));
        ensure!(rules("Role") == own, "{name}: {:?}", rules("Role"));
        let asked = name != "privileged" && !cluster.is_empty();
        ensure!(asked != own.is_empty(), "{name}: {own:?}");
        // the daemon alone has a token, by a volume, and none that nothing may be asked with
        ensure!(
            pod.get("automountServiceAccountToken") == Some(&Value::from(false)),
            "{name}: a token for all"
        );
        let tokens =
            list(pod, "/volumes").filter(|volume| volume.to_string().contains("serviceAccountToken"));
        let tokens: Vec<_> = tokens.map(|volume| at(volume, "/name")).collect();
        let roles = of_kind(&objects, "ClusterRole").count();
        ensure!(tokens.len() == roles, "{name}: a token without a role, or a role without a token");
        for container in containers(pod) {
            let mounts =
                list(container, "/volumeMounts").filter(|mount| tokens.contains(&at(mount, "/name")));
            let paths: Vec<_> = mounts.map(|mount| at(mount, "/mountPath")).collect();
            let asks = roles == 1 && at(container, "/name") == "nri-enforcer";
            let wanted: &[&str] = if asks { &["/var/run/secrets/kubernetes.io/serviceaccount"] } else { &[] };
            ensure!(paths == wanted, "{name}, {}: {paths:?}", at(container, "/name"));
        }
    }
    Ok(())
}
