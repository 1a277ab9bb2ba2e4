//! `nri-enforcer install --runtime crio` with the real CRI-O: it takes each file, makes of it what was meant, and none is left.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use lab::testing::Node;

use super::{DENIED, HOOK, LABEL, POLICY, enforcer, in_service, install, passed, soon};

const DROP_IN: &str = "/etc/crio/crio.conf.d/99-nri-enforcer.conf";
const HOOKS: &str = "/etc/containers/oci/hooks.d";
const OTHERS: &str = "/etc/crio/crio.conf.d/10-nri.conf";

pub async fn checked(node: &mut Node) -> Result<()> {
    let before = configuration()?;
    // as on a node where somebody has switched it off
    fs::create_dir_all("/etc/crio/crio.conf.d")?;
    fs::write(OTHERS, "[crio.nri]\nenable_nri = false\n")?;
    node.check("NRI is off", value(&configuration()?, "enable_nri"), Some("false".to_owned()));
    let said = install(node)?;
    node.check("what to do next is said", said.contains("now run: systemctl restart crio"), true);
    let now = configuration()?;
    node.check("CRI-O makes of it that NRI is on", value(&now, "enable_nri"), Some("true".to_owned()));
    node.check("and that the hooks are read", now.contains(&format!("\"{HOOKS}\"")), true);
    node.check("and those of before", now.contains("\"/usr/share/containers/oci/hooks.d\""), true);
    node.check("again there is nothing to do", install(node)?.contains("nothing to do"), true);

    let connections = in_service(node);
    restart(node).await?;
    soon("the daemon is connected again", || in_service(node) > connections).await?;
    node.daemon.apply("policy.yaml", POLICY).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    node.check("the first instruction", node.entry(&web, "main", 0, &["/bin/first"]).await?, DENIED);
    node.check("the hook armed it", passed(node), 1);
    let running = node.idle(&web, "running").await?;

    // what runs has the hook in its configuration, and may be removed by a CRI-O that knows nothing of it
    let left = Command::new("/run/lab-daemon/nri-enforcer")
        .args(["install", "--runtime", "crio", "--uninstall"])
        .output()?;
    println!("{}{}", String::from_utf8_lossy(&left.stdout), String::from_utf8_lossy(&left.stderr));
    for path in [
        DROP_IN,
        &format!("{HOOKS}/nri-enforcer-createruntime.json"),
        &format!("{HOOKS}/nri-enforcer-poststop.json"),
    ] {
        node.check(&format!("{path} is gone"), Path::new(path).exists(), false);
    }
    node.cri.stop(&running).await?;
    node.cri.remove(&running).await?;
    fs::remove_file(OTHERS)?;
    node.check("its configuration is that of before", configuration()? == before, true);
    let connections = in_service(node);
    restart(node).await?;
    soon("the daemon is connected once more", || in_service(node) > connections).await?;
    let passed_before = passed(node);
    node.check("by NRI alone", node.entry(&web, "main", 1, &["/bin/first"]).await?, DENIED);
    node.check("without the hook", passed(node) - passed_before, 0);
    node.cri.remove_pod(&web).await?;
    enforcer(&["install", "--runtime", "crio", "--uninstall"])?;
    node.check("the hook is gone, once no container has it", Path::new(HOOK).exists(), false);
    Ok(())
}

/// CRI-O anew, as after a change of its configuration.
pub async fn restart(node: &mut Node) -> Result<()> {
    node.runtime.kill()?;
    node.runtime.start()?;
    node.cri = node.runtime.cri().await?;
    Ok(())
}

/// What CRI-O makes of its files.
pub fn configuration() -> Result<String> {
    let output = Command::new("crio").arg("config").output()?;
    ensure!(output.status.success(), "crio config: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A setting, which is commented out where it is the default.
fn value(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines().map(|line| line.trim_start_matches(['#', ' ']));
    let value = lines.find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('=').map(str::trim));
    value.map(str::to_owned)
}
