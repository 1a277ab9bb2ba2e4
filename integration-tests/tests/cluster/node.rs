//! How the test gets its node: it starts itself again in namespaces, and tidies up when that has ended.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::image;
use lab::podman::{Podman, Version};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

use super::cluster::Cluster;

/// Set on the node: where everything is.
const INSIDE: &str = "NRI_ENFORCER_CLUSTER_DIR";
/// The image of the chart, as podman names it.
pub const IMAGE: &str = "localhost/nri-enforcer";
/// What `make image-programs` makes.
pub const PROGRAMS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/../image");
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/node.sh");

/// Runs the body of the test `name` in a fresh cluster. What cannot be had fails the test.
pub fn within(name: &str, body: fn(&mut Cluster) -> Result<()>) -> Result<()> {
    if let Some(dir) = env::var_os(INSIDE) {
        let mut cluster = Cluster::start(Path::new(&dir))?;
        let result = body(&mut cluster);
        return cluster.verdict(result);
    }
    ensure!(Uid::effective().is_root(), "a node needs root");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster");
    let lock = File::create(dir.with_extension("lock"))?;
    let _alone = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .with_context(|| format!("another run has `{}`", dir.display()))?;
    remove_cgroups(&dir)?; // of a run that was killed: the list is in the directory
    let _none = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("images"))?;
    images(&dir)?;
    let status = Command::new("bash")
        .arg(NODE)
        .arg(&dir)
        .arg(env::current_exe()?)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, &dir)
        .env("RUST_BACKTRACE", "0")
        .status()
        .context("run bash")?;
    let left = remove_cgroups(&dir);
    ensure!(
        status.success(),
        "the test failed on its node ({status}); logs are in {}",
        dir.join("logs").display()
    );
    left?;
    Ok(fs::remove_dir_all(&dir)?)
}

/// The images, as archives: of the chart and of the pods.
fn images(dir: &Path) -> Result<()> {
    chart_image(dir)?;
    fs::write(dir.join("images/pause.tar"), image::pause()?)?;
    Ok(fs::write(dir.join("images/root.tar"), image::default_root()?)?)
}

/// The chart's image as an archive, `images/chart.tar`, built of `manifests/image`.
pub fn chart_image(dir: &Path) -> Result<()> {
    let build = tempfile::tempdir_in(dir)?;
    let context = build.path().join("image");
    fs::create_dir_all(context.join("root"))?;
    for file in ["nri-enforcer", "nri-enforcer-hook", "Dockerfile"] {
        let from = PathBuf::from(PROGRAMS).join(file);
        fs::copy(&from, context.join(file))
            .with_context(|| format!("`{}`; `make image-programs` makes it", from.display()))?;
    }
    let podman = Podman::new(Version::V4, build.path())?;
    let name = format!("{IMAGE}:{}", env!("CARGO_PKG_VERSION"));
    let archive = build.path().join("image.tar");
    let (context, archive_name) = (context.to_string_lossy(), archive.to_string_lossy());
    for arguments in [
        &["build", "-q", "--network=none", "-t", &name, &context][..],
        &["save", "-q", "--format", "oci-archive", "-o", &archive_name, &name],
    ] {
        let output = podman.run(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(fs::rename(archive, dir.join("images/chart.tar"))?)
}

/// Removes the cgroups of a node whose processes have all ended.
fn remove_cgroups(dir: &Path) -> Result<()> {
    let list = fs::read_to_string(dir.join("cgroups")).unwrap_or_default();
    for cgroup in list.lines() {
        let remove = Command::new("find")
            .args([cgroup, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
            .output()?;
        let said = String::from_utf8_lossy(&remove.stderr);
        ensure!(!Path::new(cgroup).exists(), "`{cgroup}` stays: {said}");
    }
    Ok(())
}
