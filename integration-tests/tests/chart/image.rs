//! The image, as podman builds and runs it.

use std::fs;

use anyhow::{Result, ensure};
use lab::podman::{Podman, Version};
use lab::run::{DAEMON_FILE, hook};
use serde_json::{Value, json};

use super::helm::{self, list};
use super::node;

/// The daemon as the tests build it is not static; the one of `make image-programs` needs none of these.
const LIBRARIES: [&str; 6] = ["-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro", "-v", "/usr/lib:/usr/lib:ro"];

/// This shows how the image is laid out and started, and that the hook in it is static. It does not show that the daemon of
/// `make image-programs` is: that is a release build of its own, and the Makefile looks at both programs when it has built
/// them. Nor does it show a build with docker, or for another architecture.
#[test]
fn the_image_runs_what_the_chart_asks_it_to() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let context = dir.path().join("image");
    fs::create_dir_all(&context)?;
    fs::copy(node::daemon()?, context.join(DAEMON_FILE))?;
    fs::copy(hook()?, context.join("nri-enforcer-hook"))?;
    fs::copy(format!("{}/../image/Dockerfile", helm::CHART), context.join("Dockerfile"))?;
    let podman = Podman::new(Version::V4, dir.path())?;
    let run = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = podman.run(arguments)?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (code, said) =
        run(&["build", "-q", "--network=none", "-t", "lab/nri-enforcer", &context.to_string_lossy()])?;
    ensure!(code == Some(0), "{said}");

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
