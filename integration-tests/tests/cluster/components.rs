//! What a cluster of one node is made of, and what each program of it is started with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use lab::cache::artefact;
use serde_json::{Value, json};

/// The node's address.
pub const NODE_IP: &str = "10.98.0.1";
/// The address of the service `kubernetes`.
pub const SERVICE_IP: &str = "10.96.0.1";
/// Where kubelet looks for pods that no API server knows.
pub const STATIC_PODS: &str = "/etc/kubernetes/manifests";

/// Where things are on the node.
#[derive(Debug, Clone)]
pub struct Places {
    /// Certificates and keys, see [`super::certificates`].
    pub pki: PathBuf,
    /// What the programs keep.
    pub state: PathBuf,
    /// What they say.
    pub logs: PathBuf,
    /// The API server's port.
    pub port: u16,
}

/// The file of a program on this machine.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(if name == "etcd" { artefact("etcd")? } else { artefact("kubernetes")?.join(name) })
}

/// The audit policy of the API server: what the release's account does.
pub fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:nri-enforcer"]}, {"level": "None"}],
    })
}

/// The pod network: a bridge, without address translation.
pub fn pod_network() -> Value {
    json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [{
        "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }]})
}

impl Places {
    fn file(&self, name: &str) -> String {
        self.pki.join(name).to_string_lossy().into_owned()
    }

    /// Makes the folders and the files that the arguments name, but for those of [`super::certificates`].
    pub fn prepare(&self) -> Result<()> {
        for dir in [&self.pki, &self.state, &self.logs, Path::new(STATIC_PODS)] {
            fs::create_dir_all(dir)?;
        }
        Ok(fs::write(self.file("audit.yaml"), audit_policy().to_string())?)
    }

    /// The arguments of a program.
    pub fn arguments(&self, program: &str) -> Vec<String> {
        match program {
            "etcd" => self.etcd(),
            "kube-apiserver" => self.server(),
            "kube-controller-manager" => self.manager(),
            "kube-scheduler" => self.scheduler(),
            "kubelet" => self.kubelet(),
            _ => self.proxy(),
        }
    }

    fn etcd(&self) -> Vec<String> {
        let url = "http://127.0.0.1:2379";
        let mut all = words("--name only --unsafe-no-fsync --log-level warn");
        all.push(format!("--data-dir={}", self.state.join("etcd").display()));
        all.extend([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")]);
        all
    }

    fn server(&self) -> Vec<String> {
        let mut all = words(
            "--etcd-servers=http://127.0.0.1:2379 --authorization-mode=Node,RBAC --allow-privileged=true \
             --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.96.0.0/24 \
             --kubelet-preferred-address-types=InternalIP --enable-admission-plugins=NodeRestriction",
        );
        for (flag, file) in [
            ("tls-cert-file", "server.crt"),
            ("tls-private-key-file", "server.key"),
            ("client-ca-file", "ca.crt"),
            ("kubelet-client-certificate", "apiserver-kubelet.crt"),
            ("kubelet-client-key", "apiserver-kubelet.key"),
            ("service-account-key-file", "service-account.key"),
            ("service-account-signing-key-file", "service-account.key"),
            ("audit-policy-file", "audit.yaml"),
            ("cert-dir", "generated"),
        ] {
            all.push(format!("--{flag}={}", self.file(file)));
        }
        all.push(format!("--audit-log-path={}", self.logs.join("audit.log").display()));
        all.extend([format!("--secure-port={}", self.port), format!("--advertise-address={NODE_IP}")]);
        all
    }

    fn manager(&self) -> Vec<String> {
        let mut all = self.client("controller-manager");
        all.extend(self.delegating("controller-manager"));
        all.push(format!("--service-account-private-key-file={}", self.file("service-account.key")));
        all.push(format!("--root-ca-file={}", self.file("ca.crt")));
        all.push("--use-service-account-credentials=true".into());
        all
    }

    fn scheduler(&self) -> Vec<String> {
        let mut all = self.client("scheduler");
        all.extend(self.delegating("scheduler"));
        all
    }

    fn kubelet(&self) -> Vec<String> {
        let mut all = self.client("node");
        all.extend(words(
            "--hostname-override=node-1 --container-runtime=remote --cgroup-driver=cgroupfs \
             --container-runtime-endpoint=unix:///run/containerd/containerd.sock --anonymous-auth=false \
             --authentication-token-webhook=true --authorization-mode=Webhook",
        ));
        // what the machine has to spare is no matter of the test's
        all.extend(words(
            "--fail-swap-on=false --enforce-node-allocatable= --eviction-hard= --oom-score-adj=0 \
             --image-gc-high-threshold=100 --resolv-conf= --sync-frequency=5s",
        ));
        all.extend([format!("--node-ip={NODE_IP}"), format!("--client-ca-file={}", self.file("ca.crt"))]);
        all.push(format!("--pod-manifest-path={STATIC_PODS}"));
        all
    }

    fn proxy(&self) -> Vec<String> {
        let mut all = self.client("proxy");
        all.extend(words(
            "--hostname-override=node-1 --proxy-mode=iptables --oom-score-adj=0 --conntrack-max-per-core=0 \
             --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0",
        ));
        all
    }

    fn client(&self, user: &str) -> Vec<String> {
        vec![format!("--kubeconfig={}", self.file(&format!("{user}.conf")))]
    }

    /// Of a program that asks the API server who its callers are.
    fn delegating(&self, user: &str) -> Vec<String> {
        let config = self.file(&format!("{user}.conf"));
        vec![
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            "--leader-elect=false".into(),
            "--port=0".into(),
            format!("--cert-dir={}", self.state.join(user).display()),
        ]
    }
}

/// The words of a text.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
