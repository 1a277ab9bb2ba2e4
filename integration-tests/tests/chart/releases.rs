//! Releases that tests look at.

use anyhow::Result;
use serde_json::Value;

use super::helm::{self, Values};

/// Releases, by the name of their record.
pub const RELEASES: [(&str, Values<'static>); 17] = [
    ("kubeadm", &[]),
    ("k3s", &["runtime.preset=k3s"]),
    ("rke2", &["runtime.preset=rke2"]),
    ("k0s", &["runtime.preset=k0s", "hostPolicies.enabled=true"]),
    (
        "microk8s",
        &["runtime.preset=microk8s", "hostPolicies.enabled=true", "hostPolicies.exempt={/usr/bin/agent}"],
    ),
    ("eks", &["runtime.preset=eks"]),
    ("gke", &["runtime.preset=gke"]),
    ("aks", &["runtime.preset=aks"]),
    ("kubernetes-1.28", &["@--kube-version=1.28.0"]),
    (
        "everything",
        &[
            "nri.autoEnable=true",
            "hook.everyContainer=true",
            "failMode=open",
            "exemptNamespaces={kube-system,infra}",
            "postures.process=block",
            "postures.file=block",
            "strict=true",
            "honourPodAnnotations=true",
            "visibility=process\\,file",
            "lsmOrder={bpf,apparmor}",
            "combine=true",
            "hostPolicies.enabled=true",
            "hostPolicies.exempt={system.slice/backup.service}",
            "hostPolicies.postures.file=block",
            "hostPolicies.nodeLabels.rack=a",
            "libseccomp=2.5.5",
            "policies.files.web\\.yaml=kind: KubeArmorPolicy",
            "policies.hostDir=/etc/nri-enforcer/policies",
            "alerts.hostDir=/var/log/nri-enforcer",
            "alerts.maxBytes=1000000000",
            "alerts.keep=9",
            "alerts.rate=0",
            "alerts.logs=true",
            "alerts.logRate=7",
            "policies.statusInterval=90",
            "policies.apiServer.host=api.example.com",
            "policies.apiServer.port=6443",
            "metrics.address=[::]",
            "metrics.podMonitor.enabled=true",
            "metrics.serviceMonitor.enabled=true",
            "metrics.rules.enabled=true",
            "metrics.rules.labels.release=prometheus",
            "feed.enabled=true",
            "feed.service=true",
            "feed.relay=true",
            "extraCapabilities={SYSLOG}",
            "priorityClassQuota=true",
            "image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "imagePullSecrets[0].name=pull",
            "podLabels.team=sec",
            "podAnnotations.a=b",
            "serviceAccount.name=other",
        ],
    ),
    (
        "least",
        &[
            "hook.enabled=false",
            "policies.kubeApi=false",
            "policies.hostDir=/etc/policies",
            "metrics.enabled=false",
            "seccompOnly=true",
            "seLinuxOptions=null",
            "priorityClassName=",
        ],
    ),
    ("privileged", &["privileged=true", "policies.kubeStatus=false"]),
    (
        "required",
        &[
            "nri.autoEnable=true",
            "nri.requiredPlugin.enabled=true",
            "nri.requiredPlugin.kubeSystemTolerates=true",
            "@--kube-version=1.30.0",
        ],
    ),
    ("uninstall", &["uninstall=true"]),
    (
        "uninstall-apparmor",
        &[
            "uninstall=true",
            "lsmOrder={bpf,apparmor}",
            "updateStrategy.type=OnDelete",
            "updateStrategy.rollingUpdate=null",
        ],
    ),
    (
        "apparmor",
        &[
            "lsmOrder={apparmor}",
            "apparmor.admission.enabled=true",
            "apparmor.admission.namespaceSelector.matchLabels.team=web",
            "apparmor.admission.namespaceSelector.matchExpressions[0].key=tier",
            "apparmor.admission.namespaceSelector.matchExpressions[0].operator=Exists",
            "apparmor.admission.podSelector.matchLabels.app=web",
            "@--kube-version=1.34.0",
        ],
    ),
    ("uninstall-1.28", &["uninstall=true", "runtime.preset=k3s", "@--kube-version=1.28.0"]),
];

/// Without the definitions, which are long and have a test of their own, and the dashboard.
pub fn release(values: Values<'_>) -> Result<Vec<Value>> {
    helm::objects(&[values, &["crds.install=false"]].concat())
}
