//! The cluster's authority, and who has a certificate by it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;

use super::components::{NODE_IP, Places, SERVICE_IP};

/// How long certificates are valid: those of a saved machine are as old as that is.
const DAYS: &str = "3650";

/// File, user and group; a group makes the user what Kubernetes takes him for.
const CLIENTS: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    ("apiserver-kubelet", "apiserver", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", "none"),
    ("scheduler", "system:kube-scheduler", "none"),
    ("proxy", "system:kube-proxy", "none"),
    ("node", "system:node:node-1", "system:nodes"),
];

/// Makes `NAME.crt` and `NAME.key` in the folder of keys for the authority (`ca`), the server and each client, and `NAME.conf`,
/// by which a client on the node reaches the server; `service-account.key`, too. The folder can be moved.
pub fn make(places: &Places) -> Result<()> {
    let dir = places.pki.as_path();
    fs::create_dir_all(dir)?;
    let openssl = |arguments: &[&str]| -> Result<()> {
        let output = Command::new("openssl").current_dir(dir).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(
        &[
            &["req", "-x509", "-days", DAYS, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"],
            &key[..],
        ]
        .concat(),
    )?;
    openssl(&["genrsa", "-out", "service-account.key", "2048"])?;
    let names = format!(
        "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:node-1,IP:127.0.0.1,\
         IP:{NODE_IP},IP:{SERVICE_IP}\nextendedKeyUsage=serverAuth\n"
    );
    let signed = |name: &str, subject: &str, extensions: &str| -> Result<()> {
        let [key_file, request, certificate] = ["key", "csr", "crt"].map(|kind| format!("{name}.{kind}"));
        openssl(&[&["req", "-subj", subject, "-keyout", &key_file, "-out", &request], &key[..]].concat())?;
        fs::write(dir.join("extensions"), format!("basicConstraints=CA:FALSE\n{extensions}"))?;
        let authority =
            ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", DAYS, "-extfile", "extensions"];
        openssl(&[&["x509", "-req", "-in", &request, "-out", &certificate], &authority[..]].concat())
    };
    signed("server", "/CN=server", &names)?;
    for (name, user, group) in CLIENTS {
        signed(name, &format!("/O={group}/CN={user}"), "extendedKeyUsage=clientAuth\n")?;
        configure(dir, name, &format!("https://{NODE_IP}:{}", places.port))?;
    }
    Ok(())
}

/// Writes the `NAME.conf` of a client whose certificate is in this folder, for a server.
pub fn configure(dir: &Path, name: &str, server: &str) -> Result<()> {
    let file = |kind: &str| format!("{name}.{kind}");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": "ca.crt"}}],
        "users": [{"name": "c", "user": {"client-certificate": file("crt"), "client-key": file("key")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    Ok(fs::write(dir.join(file("conf")), config.to_string())?)
}
