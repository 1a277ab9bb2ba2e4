//! SELinux labels for host policies: a real kernel with a small policy, `semodule` and its store.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod changes;
mod corpus;
mod held;
mod process;
mod relabelled;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use changes::{changed, ended, permissive, permissive_domain, without_module};
use held::{compared, connected, in_use, moved, over_a_link, told, vital};
use lab::cache;
use lab::corpus::record::{BackEnd, check};
use lab::node::{Daemon, Options};
use lab::testing::{Node, in_guest_with_program};
use lab::vm::{Containerd, Kernel, Spec};
use nix::sys::signal::Signal;
use process::{allows, as_host, as_host_command, can, label, labels, relabel, said, sh, status, within};

const RECORD: &str = "/var/lib/nri-enforcer/selinux/labels";
/// The label that files have before.
const PLAIN: &str = "system_u:object_r:base_t:s0";
/// The settings of the module store: nothing checks the policy's contexts of files, which are few.
const SEMANAGE: &str = "module-store = direct\nexpand-check = 0\ndisable-genhomedircon = true\n\
    [setfiles]\npath = /bin/true\nargs =\n[end]\n[sefcontext_compile]\npath = /bin/true\nargs =\n[end]\n";

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: host}}\n\
         spec:\n  nodeSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}\n  action: Block\n{spec}\n"
    )
}

/// Not about the host.
const CONTAINER: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: container, namespace: default}\n\
    spec:\n  selector: {matchLabels: {app: none}}\n  action: Block\n  file: {matchPaths: [{path: /x}]}\n";

/// Everything that can be said, and some that cannot.
const RULES: &str = "
  file:
    matchPaths:
    - {path: /t/secret}
    - {path: /t/ro, readOnly: true}
    - {path: /t/missing/file}
    - {path: /t/over/file}
    - {path: /run/t}
    - {path: /t/alone, ownerOnly: true}
    matchDirectories:
    - {dir: /t/dir/, recursive: true}
    - {dir: /t/rodir/, recursive: true, readOnly: true}
    - {dir: /t/flat/, readOnly: true}
    matchPatterns: [{pattern: '/t/*.key'}]
  process:
    matchPaths: [{path: /t/bin/tool}]
    matchDirectories: [{dir: /t/sbin/, recursive: true}]";
const FILES: [&str; 12] = [
    "/t/secret",
    "/t/ro",
    "/t/free",
    "/t/dir/x",
    "/t/dir/sub/y",
    "/t/rodir/x",
    "/t/rodir/sub/y",
    "/t/flat/x",
    "/t/flat/sub/y",
    "/t/bin/tool",
    "/t/bin/other",
    "/t/sbin/sub/tool",
];
const DIRECTORIES: [&str; 9] = [
    "/t/dir",
    "/t/dir/sub",
    "/t/rodir",
    "/t/rodir/sub",
    "/t/flat",
    "/t/flat/sub",
    "/t/bin",
    "/t/sbin",
    "/t/free.d",
];
/// What no label stands for: these are not compared.
const GAPS: [&str; 2] = ["/t/a.key", "/t/alone"];

#[test]
fn selinux_holds_host_policies() -> Result<()> {
    let append = "lsm=landlock,lockdown,yama,selinux,bpf".to_owned();
    let spec = Spec { append, ..Spec::node(Kernel::V6_12, Containerd::V1_7) };
    let tools = || cache::artefact("selinux");
    let base = || Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/selinux.cil"));
    let files: [lab::testing::File; 2] = [("selinux.tar", tools), ("base.cil", base)];
    let said = in_guest_with_program("selinux_holds_host_policies", &spec, &files, |node| {
        Box::pin(async move {
            set_up()?;
            corpus::compared()?;
            let arguments = ["--lsm-order", "selinux", "--host-policies"].map(str::to_owned).to_vec();
            let options = Options { program: "./nri-enforcer".into(), postures: vec![], arguments };
            let mut daemon = Daemon::new("/run/selinux-daemon".as_ref(), options)?;
            with(node, &mut daemon).await.with_context(|| daemon.log())
        })
    })?;
    said.map_or(Ok(()), |said| check(BackEnd::Selinux, &said))
}

/// A store with our small policy, loaded and enforcing, and the files that policies are about.
fn set_up() -> Result<()> {
    sh("tar -xf selinux.tar -C /")?;
    sh("mkdir -p /etc/selinux/small/contexts/files /etc/selinux/small/policy /var/lib/selinux")?;
    fs::write("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=small\n")?;
    fs::write("/etc/selinux/semanage.conf", SEMANAGE)?;
    sh("mount -t selinuxfs selinuxfs /sys/fs/selinux")?;
    sh("semodule -n -s small -X 100 -i base.cil")?;
    sh("load_policy -i || cat /etc/selinux/small/policy/policy.* > /sys/fs/selinux/load")?;
    sh("mkdir -p /t/dir/sub /t/rodir/sub /t/flat/sub /t/bin /t/sbin/sub /t/free.d")?;
    for path in FILES.iter().chain(&GAPS) {
        fs::write(path, lab::image::FIRST)?;
        sh(&format!("chmod 755 {path}"))?;
    }
    // what a file had before is what it gets back, and its type is never another
    relabel("/t/free", "guest_u:object_r:base_t:s0")?;
    for path in ["/t/ro", "/t/bin/tool"] {
        relabel(path, "guest_u:object_r:base_t:s0")?;
    }
    fs::write("/run/t", "x")?;
    fs::create_dir("/t/linked.d")?;
    fs::write("/t/linked.d/file", "x")?;
    sh("ln -s linked.d /t/over")?;
    fs::write("/t/rodir/secret", "")?;
    relabel("/t/rodir/secret", "system_u:object_r:secret_t:s0")?;
    sh("ln /t/secret /t/another-name; ln -s /t/free /t/dir/link")?;
    Ok(())
}

async fn with(node: &mut Node, daemon: &mut Daemon) -> Result<()> {
    for path in ["/t/dir/sock", "/t/free.sock"] {
        let listener = UnixListener::bind(path)?;
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    sh("mkdir /t/rodir/mnt")?;
    let before = labels();
    // permissive: nothing would be held
    fs::write("/sys/fs/selinux/enforce", "0")?;
    let probe = said(Command::new("./nri-enforcer").args(["probe", "-o", "json"]))?;
    node.check("probe says why not", probe.contains("SELinux is permissive"), true);
    daemon.write_policy("host.yaml", &policy(RULES))?;
    daemon.start().await?;
    let (_, lock) = status()?;
    node.check("no lock is taken", lock.as_str(), "none");
    node.check("nothing is labelled", labels() == before, true);
    daemon.end(Signal::SIGTERM)?;

    sh("mount -t tmpfs tmpfs /t/rodir/mnt && echo x > /t/rodir/mnt/x")?;
    fs::write("/sys/fs/selinux/enforce", "1")?;
    // opened before, and read when the file has its label
    let earlier = |path: &str| {
        let script = format!("exec 3<{path}; while [ ! -e /run/go ]; do sleep 0.1; done; read -r -n1 x <&3");
        as_host_command(&["sh", "-c", &script]).spawn()
    };
    let (mut denied, mut free) = (earlier("/t/secret")?, earlier("/t/free")?);
    std::thread::sleep(Duration::from_secs(1));
    node.check("a process of the host", as_host("cat /proc/self/attr/current").0.contains(":host_t:"), true);
    node.check(
        "probe",
        said(Command::new("./nri-enforcer").args(["probe", "-o", "json"]))?.contains("`semodule` reads"),
        true,
    );
    let begin = Instant::now();
    daemon.start().await?;
    println!("ready after {:.1} s", begin.elapsed().as_secs_f64());
    within(|| !can("head -c1 /t/secret"))?;
    fs::write("/run/go", "")?;
    node.check("a file that was open", (denied.wait()?.success(), free.wait()?.success()), (false, true));
    compared(node)?;
    told(node, daemon).await?;
    node.check("another name of it", can("head -c1 /t/another-name"), false);
    connected(node)?;
    node.check("the base policy holds still", can("head -c1 /t/rodir/secret"), false);
    node.check("a type is what it was", label("/t/rodir/secret").contains(":secret_t:"), true);
    node.check("following a link", can("head -c1 /t/dir/link"), true);
    let relabels = |domain: &str| -> Result<bool> { allows(domain, &label("/t/secret"), "relabelfrom") };
    node.check("taking a label off", (relabels("host_t")?, relabels("kernel_t")?), (false, true));
    sh("echo x > /t/free.d/new")?;
    node.check("putting another over it", can("mv /t/free.d/new /t/secret"), false);
    let (host, lock) = status()?;
    node.check("the lock", lock.as_str(), "selinux");
    node.check("who holds the rules", host["held"]["selinux"].clone(), serde_json::json!(["host"]));
    let reason = host["reason"].as_str().unwrap_or_default().to_owned();
    node.check("what is not there is told", reason.contains("`/t/missing/file`: there is nothing yet"), true);

    node.check("what is mounted is told", reason.contains("`/t/rodir/mnt`: something else is mounted"), true);
    node.check("what is mounted is left alone", label("/t/rodir/mnt/x"), PLAIN.to_owned());
    sh("umount /t/rodir/mnt")?;
    in_use(node)?;
    over_a_link(node)?;
    moved(node, daemon).await?;
    permissive_domain(node, daemon).await?;
    vital(node, daemon).await?;
    relabelled::by_the_tool(node)?;
    relabelled::replaced(node, daemon).await?;
    relabelled::at_boot(node, daemon).await?;

    // it comes
    sh("mkdir /t/missing; echo x > /t/missing/file")?;
    changed(node, daemon).await?;
    without_module(node, daemon).await?;
    permissive(node)?;
    ended(node, daemon, &before).await
}
