//! A real podman on this very machine, as root, in namespaces of its own: what it and its set-up write to `/etc`, `/opt`,
//! `/run` and `/var/lib` is gone with them. A newer one brings the C library that it needs, which all in there run with then.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::oci::Runtime;
use crate::{cache, image};

/// The program in its image: that of [`crate::oci`].
pub const PROGRAM: &str = "/calls";
/// The image that is there: nothing but that program.
pub const IMAGE: &str = "localhost/shop/web:v1";

/// A podman of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 4.3, which keeps its state in a file of bbolt.
    V4,
    /// 5.4, which keeps it in SQLite.
    V5,
}

impl Version {
    /// Where its programs, libraries and seccomp profile are.
    ///
    /// # Errors
    /// When the lab is not set up.
    pub fn artefact(self) -> Result<PathBuf> {
        cache::artefact(match self {
            Self::V4 => "podman",
            Self::V5 => "podman-5",
        })
    }

    /// A crun that takes the configurations that it writes.
    ///
    /// # Errors
    /// When the lab is not set up.
    pub fn crun(self) -> Result<PathBuf> {
        match self {
            Self::V4 => Runtime::Crun.program(),
            Self::V5 => Ok(cache::artefact("crun")?.join("bin/crun")),
        }
    }
}

/// `containers.conf` for a podman whose programs are in `programs`, and these runtimes: `lab`, the default, and `crun`.
#[must_use]
pub fn containers_conf(programs: &Path, lab: &Path, crun: &Path) -> String {
    format!(
        "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"lab\"\nconmon_path = [\"{0}/conmon\"]\n\
         helper_binaries_dir = [\"{0}\"]\n[engine.runtimes]\nlab = [\"{1}\"]\ncrun = [\"{2}\"]\n[containers]\nnetns = \"none\"\n\
         apparmor_profile = \"unconfined\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
        programs.display(),
        lab.display(),
        crun.display(),
    )
}

/// `storage.conf` for a podman that keeps everything below `storage`.
#[must_use]
pub fn storage_conf(storage: &Path) -> String {
    format!(
        "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"{}\"\n",
        storage.display()
    )
}

/// `policy.json`: any image may be used.
pub const IMAGE_POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// podman 4.3, the crun of its release, conmon, and all libraries of them, as one file below `dir`: they come from this machine's
/// Debian, which is older than the guests'.
///
/// # Errors
/// When the lab is not set up.
pub fn for_guests(dir: &Path) -> Result<PathBuf> {
    let (artefact, crun) = (Version::V4.artefact()?, Runtime::Crun.program()?);
    let programs = [artefact.join("bin/podman"), artefact.join("bin/conmon"), crun.clone()];
    let output = Command::new("ldd").args(programs).env("LD_LIBRARY_PATH", artefact.join("lib")).output()?;
    ensure!(output.status.success(), "ldd: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    // `NAME => PATH (ADDRESS)`
    let libraries = text.lines().filter_map(|line| line.split_once(" => ")?.1.split(' ').next());
    let libraries: BTreeSet<&Path> = libraries.map(Path::new).collect();
    let to = dir.join("podman-for-guests.tar");
    // several tests may want it at one time
    let mut tar = tar::Builder::new(tempfile::NamedTempFile::new_in(dir)?);
    for program in ["bin/podman", "bin/conmon", "seccomp.json"] {
        tar.append_path_with_name(artefact.join(program), program)?;
    }
    tar.append_path_with_name(crun, "bin/crun")?;
    for path in libraries {
        let name = path.file_name().context("a library")?;
        tar.append_path_with_name(path, Path::new("lib").join(name))?;
    }
    tar.into_inner()?.persist(&to)?;
    Ok(to)
}

/// podman, with its storage below a directory that the machine sees, too.
#[derive(Debug)]
pub struct Podman {
    dir: PathBuf,
    artefact: PathBuf,
    namespaces: Child,
}

/// Makes the namespaces, and waits. Where cgroups are a hybrid of v1 and v2, both are mounted anew, below the own cgroup.
const SETUP: &str = r#"set -e
mount --make-rprivate /
if [ -d /sys/fs/cgroup/memory ]; then
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  for c in cpu cpuacct cpuset memory devices freezer blkio pids; do mkdir /sys/fs/cgroup/$c; mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c; done
  mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
else mount -t cgroup2 cgroup2 /sys/fs/cgroup; fi
mkdir "$1/own"; mount -t tmpfs -o mode=755 tmpfs "$1/own"
for d in etc opt var/lib usr/share; do
  mkdir -p "$1/own/$d" "$1/own/work/$d"; mount -t overlay -o "lowerdir=/$d,upperdir=$1/own/$d,workdir=$1/own/work/$d" overlay "/$d"
done
mount -t tmpfs -o mode=755 tmpfs /run
echo "$2/lib" >/etc/ld.so.conf.d/podman.conf # what a monitor runs gets no LD_LIBRARY_PATH
loader=$2/lib/ld-linux-x86-64.so.2
if [ -e "$loader" ]; then mount --bind "$loader" "$(readlink -f /lib64/ld-linux-x86-64.so.2)"; LD_LIBRARY_PATH=$2/lib ldconfig -i; else ldconfig -i; fi
rm -rf /etc/containers /usr/share/containers; mkdir -p /etc/containers /usr/share/containers
cp "$1"/conf/* /etc/containers; cp "$2/seccomp.json" /usr/share/containers
: >"$1/ready"
exec sleep 3600"#;

impl Podman {
    /// One of this version, with everything below `dir`, which is empty.
    ///
    /// # Errors
    /// When the lab is not set up, or the namespaces cannot be made.
    pub fn new(version: Version, dir: &Path) -> Result<Self> {
        let artefact = version.artefact()?;
        let conf = dir.join("conf");
        fs::create_dir_all(&conf)?;
        let containers = containers_conf(&artefact.join("bin"), &Runtime::Runc.program()?, &version.crun()?);
        fs::write(conf.join("containers.conf"), containers)?;
        fs::write(conf.join("storage.conf"), storage_conf(&dir.join("storage")))?;
        fs::write(conf.join("policy.json"), IMAGE_POLICY)?;
        let namespaces = Command::new("unshare")
            .args(["--mount", "--cgroup", "--fork", "--kill-child", "sh", "-c", SETUP, "sh"])
            .arg(dir)
            .arg(&artefact)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("run `unshare`")?;
        let mut podman = Self { dir: dir.to_owned(), artefact, namespaces };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !dir.join("ready").exists() {
            ensure!(podman.namespaces.try_wait()?.is_none(), "podman's namespaces could not be made");
            ensure!(Instant::now() < deadline, "podman's namespaces are not ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        podman.import()?;
        Ok(podman)
    }

    /// Makes [`IMAGE`].
    fn import(&self) -> Result<()> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(image::SYS.len().try_into()?);
        header.set_mode(0o755);
        tar.append_data(&mut header, PROGRAM.trim_start_matches('/'), image::SYS)?;
        let path = self.dir.join("image.tar");
        fs::write(&path, tar.into_inner()?)?;
        let output = self.run(&["import", "-q", &path.to_string_lossy(), IMAGE])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Makes an image with the same program, by `podman build` with these options.
    ///
    /// # Errors
    /// When podman does not make it.
    pub fn build(&self, name: &str, options: &[&str]) -> Result<()> {
        let context = self.dir.join("context");
        fs::create_dir_all(&context)?;
        fs::write(context.join("program"), image::SYS)?;
        let text = format!("FROM scratch\nCOPY --chmod=755 program {PROGRAM}\n");
        fs::write(context.join("Containerfile"), text)?;
        let context = context.to_string_lossy();
        let output = self.run(&[&["build", "-q", "-t", name], options, &[&context]].concat())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Its storage directory.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.dir.join("storage")
    }

    /// Runs a program beside it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn beside(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.namespaces.id()))?;
        let first = children.split_whitespace().next().context("the namespaces have ended")?;
        let output = Command::new("nsenter")
            .args(["--target", first, "--mount", "--cgroup", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        output.context("run `nsenter`")
    }

    /// Runs `podman` with these arguments.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.beside(&self.artefact.join("bin/podman"), arguments)
    }

    /// Runs `podman` with these arguments after a script, in a mount namespace of its own.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run_after(&self, script: &str, arguments: &[&str]) -> Result<Output> {
        let (script, podman) = (format!("{script}\nexec \"$@\""), self.artefact.join("bin/podman"));
        let podman = podman.to_string_lossy();
        let first = ["--mount", "sh", "-e", "-c", &script, "sh", &podman];
        self.beside(Path::new("unshare"), &[&first, arguments].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _none_left = self.run(&["rm", "--all", "--force", "--time", "0"]);
        let _gone = self.namespaces.kill().and_then(|()| self.namespaces.wait()); // and with it all that is inside
    }
}
