//! A guest with CRI-O, as a node has it: overlayfs, runc, conmon, and images that podman brought.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lab::image::{self, PAUSE_IMAGE};
use lab::node::Runtime;
use lab::podman::{IMAGE_POLICY, containers_conf, for_guests};
use lab::run::{Target, hook, with_daemon};
use lab::testing::{Body, File, in_machine};
use lab::vm::{self, Job, Kernel, Machine, Spec};

/// Names the directory with `crio` and `pinns`.
const WHERE: &str = "CRIO";
/// `crio.conf`. An emulated machine is slower than a node: the defaults (2 s, 5 s) are scaled with it. The version files would have
/// CRI-O remove images of before its first start.
const CONFIG: &str = r#"[crio]
internal_wipe = false
[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
disable_hostport_mapping = true
[crio.runtime.runtimes.runc]
runtime_path = "/usr/sbin/runc"
monitor_path = "/usr/local/bin/conmon"
[crio.image]
pause_image = "PAUSE"
pause_command = "/pause"
[crio.nri]
nri_plugin_request_timeout = "10s"
nri_plugin_registration_timeout = "20s"
"#;

/// Runs the body of the test `name` in a fresh guest with CRI-O, the daemon, and the hook as `./hook`. What cannot be had
/// fails the test.
///
/// # Errors
/// When a check failed, or anything else.
pub fn in_guest(name: &str, body: Body) -> Result<Option<String>> {
    let files: [File; 1] = [("hook", hook)];
    in_machine(name, machine, Runtime::crio(), &files, body)
}

/// Where CRI-O's programs are.
fn programs() -> Result<PathBuf> {
    let Some(dir) = env::var_os(WHERE).filter(|dir| !dir.is_empty()) else {
        bail!(
            "no CRI-O is named, and no registry of packages has one: build `crio` and `pinns` of its sources, and run \
             `make crio-test CRIO=/the/directory/with/both` (CONTRIBUTING.md says how)"
        );
    };
    let dir = PathBuf::from(dir);
    for name in ["crio", "pinns"] {
        let program = dir.join(name);
        ensure!(
            program.is_file(),
            "`{}` is not there: {WHERE} is to name a directory with it",
            program.display()
        );
    }
    let output = Command::new(dir.join("crio")).arg("--version").output().context("run crio")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "`crio --version`: {}", String::from_utf8_lossy(&output.stderr));
    println!("{}", text.lines().next().unwrap_or_default());
    Ok(dir)
}

fn machine(say: &dyn Fn(&str)) -> Result<Machine> {
    let dir = programs()?;
    let target = Target { spec: Spec::plain(Kernel::V6_12), daemon: None };
    let podman = containers_conf("/opt/podman/bin".as_ref(), "/usr/sbin/runc".as_ref(), "/none".as_ref());
    let mut job = Job::script(SCRIPT)
        .bytes("crio.conf", CONFIG.replace("PAUSE", PAUSE_IMAGE))
        .bytes("policy.json", IMAGE_POLICY)
        .bytes("containers.conf", podman)
        .bytes("pause.tar", image::pause()?)
        .bytes("root.tar", image::default_root()?)
        // the same in each run, and made anew
        .helper("podman.tar", for_guests(Path::new(env!("CARGO_TARGET_TMPDIR")))?);
    for name in ["crio", "pinns"] {
        job = job.file(name, dir.join(name));
    }
    let with_crio = vm::machine(&target.spec, say)?.after("crio", &job, say)?;
    with_daemon(&with_crio, &target, say)
}

/// Starts CRI-O, and leaves it running. Libraries that the guest has stay its own.
const SCRIPT: &str = r#"
set -e
mkdir -p /var/tmp /etc/containers /etc/crio /etc/cni/net.d /opt/cni/bin /var/lib/containers /usr/share/containers /usr/local/bin /opt/podman
mount -t tmpfs tmpfs /var/lib/containers
tar -xf podman.tar -C /opt/podman; rm podman.tar
cd /opt/podman/lib; for f in *; do [ -e /usr/lib/x86_64-linux-gnu/$f ] || cp -P $f /usr/lib/x86_64-linux-gnu; done; cd /lab
cp /opt/podman/seccomp.json /usr/share/containers
mv crio pinns /opt/podman/bin/conmon /usr/local/bin; ln -s /usr/local/bin/conmon /opt/podman/bin/conmon
mv policy.json containers.conf /etc/containers; mv crio.conf /etc/crio
printf '[storage]\ndriver = "overlay"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' >/etc/containers/storage.conf
: >/etc/resolv.conf
crio >/run/crio.log 2>&1 </dev/null &
echo $! >/run/crio.pid
i=0; until [ -S /run/crio/crio.sock ] && [ -S /run/nri/nri.sock ]; do i=$((i + 1)); [ $i -lt 600 ] || { tail -n 20 /run/crio.log; exit 1; }; usleep 100000; done
for image in pause root; do /opt/podman/bin/podman load -q -i $image.tar; done
"#;
