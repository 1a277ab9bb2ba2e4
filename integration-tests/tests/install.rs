//! `nri-enforcer install` with the real containerd: it takes each edited configuration, and makes of it what was meant.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use lab::cache;
use lab::run::{Target, hook};
use lab::vm::{Containerd, Kernel, Spec};

/// What containerd and ctr need to run.
const PROGRAMS: [&str; 4] = [
    "usr/bin/containerd",
    "usr/bin/ctr",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
];
const CONFIG: &str = "etc/containerd/config.toml";
const SHAPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../nri-plugin/tests/install");

/// A root with containerd in it, and nothing else.
struct Host {
    dir: tempfile::TempDir,
    program: PathBuf,
    hook: PathBuf,
}

impl Host {
    /// Of this containerd: a root of the lab.
    fn new(root: &str) -> Result<Self> {
        let image = cache::artefact(root)?;
        let dir = tempfile::tempdir()?;
        for path in PROGRAMS {
            let to = dir.path().join(path);
            fs::create_dir_all(to.parent().context("a directory")?)?;
            let dump = format!("dump -p /{path} {}", to.display());
            let output =
                Command::new("debugfs").arg("-R").arg(dump).arg(&image).output().context("run debugfs")?;
            ensure!(to.metadata().is_ok_and(|about| about.len() > 0), "{path}: {}", text(&output.stderr));
        }
        std::os::unix::fs::symlink("usr/lib/x86_64-linux-gnu", dir.path().join("lib64"))?;
        std::os::unix::fs::symlink("usr/lib", dir.path().join("lib"))?;
        fs::create_dir_all(dir.path().join("tmp"))?;
        let program = Target { spec: Spec::node(Kernel::V6_12, Containerd::V2_1), daemon: None }.daemon()?;
        Ok(Self { dir, program, hook: hook()? })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        fs::create_dir_all(self.at(path).parent().context("a directory")?)?;
        Ok(fs::write(self.at(path), bytes)?)
    }

    fn install(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(["install", "--runtime", "containerd", "--root"]).arg(self.dir.path()).args(arguments);
        if !arguments.contains(&"--uninstall") {
            command.arg("--hook").arg(&self.hook);
        }
        Ok(command.output()?)
    }

    fn installed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.install(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        ensure!(
            !text(&output.stderr).contains("has not checked"),
            "containerd was not asked: {}",
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// What containerd makes of its configuration.
    fn dump(&self) -> Result<String> {
        let output = Command::new("chroot")
            .arg(self.dir.path())
            .args(["containerd", "--config", &format!("/{CONFIG}"), "config", "dump"])
            .output()?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        Ok(text(&output.stdout).replace('\'', "\""))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines of a section.
fn section<'a>(dump: &'a str, name: &str) -> Vec<&'a str> {
    let header = format!("[plugins.{name}]");
    let lines = dump.lines().map(str::trim).skip_while(|line| *line != header).skip(1);
    lines.take_while(|line| !line.starts_with('[')).collect()
}

const NRI: &str = "\"io.containerd.nri.v1.nri\"";

#[test]
fn containerd_1_7_takes_what_install_writes() -> Result<()> {
    every_shape("root-1.7", 2)
}

#[test]
fn containerd_2_1_takes_what_install_writes() -> Result<()> {
    every_shape("root-2.1", 3)
}

fn every_shape(root: &str, newest: u32) -> Result<()> {
    let host = Host::new(root)?;
    let mut tried = 0;
    for entry in fs::read_dir(SHAPES)? {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "toml") {
            continue;
        }
        let (shape, before) = (path.display(), fs::read(&path)?);
        host.write(CONFIG, &before)?;
        if text(&before).contains("version = 3") && newest < 3 {
            let output = host.install(&[])?;
            ensure!(output.status.code() == Some(1), "{shape}: {}", text(&output.stderr));
            ensure!(text(&output.stderr).contains("does not take its configuration as it is"), "{shape}");
            ensure!(fs::read(host.at(CONFIG))? == before, "{shape}: changed");
            continue;
        }
        host.installed(&[])?;
        let dump = host.dump()?;
        ensure!(section(&dump, NRI).contains(&"disable = false"), "{shape}: {:?}", section(&dump, NRI));
        let once = fs::read(host.at(CONFIG))?;
        host.installed(&[])?;
        ensure!(fs::read(host.at(CONFIG))? == once, "{shape}: twice is not once");
        host.installed(&["--uninstall"])?;
        ensure!(fs::read(host.at(CONFIG))? == before, "{shape}: there and back is not the same");

        if text(&before).contains("disabled_plugins = [\"cri\"]") {
            let output = host.install(&["--base-runtime-spec"])?;
            ensure!(output.status.code() == Some(1), "{shape}: {}", text(&output.stderr));
            ensure!(text(&output.stderr).contains("is of version 1"), "{shape}: {}", text(&output.stderr));
            ensure!(fs::read(host.at(CONFIG))? == before, "{shape}: changed");
            continue;
        }
        // and with the specification, which containerd's own ctr prints
        host.installed(&["--base-runtime-spec"])?;
        let dump = host.dump()?;
        let cri =
            if newest < 3 { "\"io.containerd.grpc.v1.cri\"" } else { "\"io.containerd.cri.v1.runtime\"" };
        let runc = section(&dump, &format!("{cri}.containerd.runtimes.runc"));
        for wanted in [
            "base_runtime_spec = \"/etc/containerd/nri-enforcer/base-runc.json\"",
            "runtime_type = \"io.containerd.runc.v2\"",
        ] {
            ensure!(runc.contains(&wanted), "{shape}: {runc:?}");
        }
        let spec: serde_json::Value =
            serde_json::from_slice(&fs::read(host.at("etc/containerd/nri-enforcer/base-runc.json"))?)?;
        ensure!(spec.pointer("/process/capabilities/bounding/0").is_some(), "{shape}: not ctr's");
        let hook = spec.pointer("/hooks/createRuntime/0/path");
        ensure!(hook.is_some_and(|hook| hook == "/opt/nri-enforcer/nri-enforcer-hook"), "{shape}: {hook:?}");
        // lost, and made again
        let made = fs::read(host.at("etc/containerd/nri-enforcer/base-runc.json"))?;
        fs::remove_file(host.at("etc/containerd/nri-enforcer/base-runc.json"))?;
        host.installed(&["--base-runtime-spec"])?;
        ensure!(
            fs::read(host.at("etc/containerd/nri-enforcer/base-runc.json"))? == made,
            "{shape}: not the same"
        );
        host.installed(&["--uninstall"])?;
        ensure!(fs::read(host.at(CONFIG))? == before, "{shape}: there and back is not the same");
        ensure!(!host.at("opt").exists() && !host.at("var").exists(), "{shape}: something is left");
        tried += 1;
    }
    ensure!(tried >= 5, "only {tried} shapes");
    // what would only look as if it refused containers
    let before = format!("version = {newest}\n");
    host.write(CONFIG, before.as_bytes())?;
    let output = host.install(&["--required-plugin"])?;
    ensure!(output.status.code() == Some(1), "{}", text(&output.stderr));
    ensure!(text(&output.stderr).contains("has no default validator"), "{}", text(&output.stderr));
    ensure!(text(&fs::read(host.at(CONFIG))?) == before && !host.at("opt").exists(), "changed");
    imports(&host)
}

/// What one version merges, and another one takes whole, ends in the same.
fn imports(host: &Host) -> Result<()> {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = true\n";
    let cri = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.other]\n  runtime_type = \"io.containerd.runc.v2\"\n";
    let imported =
        format!("version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\n  plugin_path = \"/x\"\n{cri}");
    host.write(CONFIG, main.as_bytes())?;
    host.write("etc/containerd/conf.d/a.toml", imported.as_bytes())?;
    host.installed(&["--base-runtime-spec"])?;
    let dump = host.dump()?;
    ensure!(section(&dump, NRI).contains(&"disable = false"), "{:?}", section(&dump, NRI));
    ensure!(dump.contains("\"/etc/containerd/nri-enforcer/base-other.json\""), "{dump}");
    host.installed(&["--uninstall"])?;
    ensure!(fs::read_to_string(host.at(CONFIG))? == main);
    ensure!(fs::read_to_string(host.at("etc/containerd/conf.d/a.toml"))? == imported);
    fs::remove_dir_all(host.at("etc/containerd/conf.d"))?;
    Ok(())
}

#[test]
fn what_containerd_does_not_take_is_put_back() -> Result<()> {
    let host = Host::new("root-1.7")?;
    host.write(CONFIG, b"version = 2\n")?;
    fs::set_permissions(host.at(CONFIG), fs::Permissions::from_mode(0o600))?;
    // containerd, which finds fault with whatever has been edited
    let program = cache::artefact("busybox")?;
    fs::create_dir_all(host.at("bin"))?;
    fs::copy(program, host.at("bin/sh"))?;
    let script = "#!/bin/sh\nwhile read -r line; do case $line in *disable*) echo bad line >&2; exit 1;; esac; done \
                  </etc/containerd/config.toml\nexec /usr/bin/containerd \"$@\"\n";
    host.write("bin/picky", script.as_bytes())?;
    fs::set_permissions(host.at("bin/picky"), fs::Permissions::from_mode(0o755))?;
    let output = host.install(&["--containerd", "/bin/picky"])?;
    let said = text(&output.stderr);
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(said.contains("nothing is changed") && said.contains("says: bad line"), "{said}");
    ensure!(fs::read(host.at(CONFIG))? == b"version = 2\n");
    let here: Vec<_> = fs::read_dir(host.at("etc/containerd"))?.collect();
    ensure!(here.len() == 1 && !host.at("opt").exists() && !host.at("var").exists(), "{here:?}");
    // a configuration that it did not take before is not edited at all
    host.write(CONFIG, b"version = 7\n")?;
    let output = host.install(&[])?;
    ensure!(
        text(&output.stderr).contains("does not take its configuration as it is"),
        "{}",
        text(&output.stderr)
    );
    ensure!(!host.at("opt").exists());
    Ok(())
}
