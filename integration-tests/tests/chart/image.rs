//! The image, as podman builds and runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use enforcer_core::compile::apparmor::FEATURES;
use lab::podman::{Podman, Version};
use lab::run::{DAEMON_FILE, hook};
use serde_json::{Value, json};

use super::helm::{self, list};
use super::node;

/// The daemon as the tests build it is not static; the one of `make image-programs` needs none of these.
const LIBRARIES: [&str; 6] = ["-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro", "-v", "/usr/lib:/usr/lib:ro"];

/// What the image is built of, as `make image-programs` lays it out.
fn context(dir: &Path) -> Result<PathBuf> {
    let context = dir.join("image");
    fs::create_dir_all(context.join("root"))?;
    fs::copy(node::daemon()?, context.join(DAEMON_FILE))?;
    fs::copy(hook()?, context.join("nri-enforcer-hook"))?;
    fs::copy(format!("{}/../image/Dockerfile", helm::CHART), context.join("Dockerfile"))?;
    Ok(context)
}

/// The exit code of podman, and what it said.
fn run(podman: &Podman, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = podman.run(arguments)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

fn build(podman: &Podman, name: &str, context: &Path) -> Result<()> {
    let context = context.to_string_lossy();
    let (code, said) = run(podman, &["build", "-q", "--network=none", "-t", name, &context])?;
    ensure!(code == Some(0), "{said}");
    Ok(())
}

/// This shows how the image is laid out and started, and that the hook in it is static. It does not show that the daemon of
/// `make image-programs` is: that is a release build of its own, and the Makefile looks at both programs when it has built
/// them. Nor does it show a build with docker, or for another architecture.
#[test]
fn the_image_runs_what_the_chart_asks_it_to() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let podman = Podman::new(Version::V4, dir.path())?;
    build(&podman, "lab/nri-enforcer", &context(dir.path())?)?;
    let run = |arguments: &[&str]| run(&podman, arguments);
    let (code, said) = run(&["image", "inspect", "--format", "{{json .Config}}", "lab/nri-enforcer"])?;
    ensure!(code == Some(0), "{said}");
    let config: Value = serde_json::from_str(&said)?;
    let pod = helm::objects(&["crds.install=false"])?;
    let daemon = list(helm::pod(&pod)?, "/containers").next();
    ensure!(
        config.get("Cmd") == daemon.and_then(|daemon| daemon.get("args")),
        "other arguments than the chart's: {said}"
    );
    ensure!(config.get("Entrypoint") == Some(&json!(["/usr/local/bin/nri-enforcer"])), "{said}");

    let version = format!("nri-enforcer {}\n", env!("CARGO_PKG_VERSION"));
    let in_image = [&["run", "--rm", "--read-only"], LIBRARIES.as_slice()].concat();
    let found = run(&[in_image.as_slice(), &["lab/nri-enforcer", "--version"]].concat())?;
    ensure!(found == (Some(0), version), "{found:?}");
    // static: without any library, and with nothing to do
    let hook = ["run", "--rm", "--entrypoint", "/usr/local/bin/nri-enforcer-hook", "lab/nri-enforcer"];
    let found = run(&hook)?;
    ensure!(found.0 == Some(2), "{found:?}");
    Ok(())
}

/// AppArmor's parser is there with `APPARMOR=1`, and needs nothing that is not there: a profile becomes what a kernel takes.
#[test]
fn the_parser_runs_in_the_image() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let context = context(dir.path())?;
    let setup = concat!(env!("CARGO_MANIFEST_DIR"), "/setup.sh");
    let put = Command::new(setup).arg("parser").arg(context.join("root")).output()?;
    ensure!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let podman = Podman::new(Version::V4, dir.path())?;
    build(&podman, "lab/nri-enforcer-apparmor", &context)?;

    let profiles = dir.path().join("profiles");
    fs::create_dir(&profiles)?;
    fs::write(profiles.join("features"), FEATURES)?;
    fs::write(profiles.join("right"), "profile nri-enforcer.a.b { deny /etc/passwd r, }\n")?;
    fs::write(profiles.join("wrong"), "profile nri-enforcer.a.b { deny /etc/passwd qq, }\n")?;
    let mount = format!("{}:/profiles:ro", profiles.display());
    let parse = |profile: &str| {
        let (image, profile) = ("lab/nri-enforcer-apparmor", format!("/profiles/{profile}"));
        let start = ["run", "--rm", "--read-only", "-v", &mount, "--entrypoint", "apparmor_parser", image];
        // as the daemon calls it
        let call =
            ["--skip-kernel-load", "--skip-cache", "--stdout", "--features-file", "/profiles/features"];
        run(&podman, &[&start[..], &call, &[&profile]].concat())
    };
    let right = parse("right")?;
    ensure!(right.0 == Some(0) && right.1.contains("nri-enforcer.a.b"), "{right:?}");
    let wrong = parse("wrong")?;
    ensure!(wrong.0 != Some(0) && wrong.1.contains("syntax error"), "{wrong:?}");
    for license in ["apparmor", "libc6"] {
        let path = context.join(format!("root/usr/share/doc/{license}/copyright"));
        ensure!(fs::read_to_string(path)?.contains("GPL"), "no licence of {license}");
    }
    Ok(())
}
