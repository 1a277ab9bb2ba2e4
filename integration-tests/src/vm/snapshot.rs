//! Making and keeping saved machines.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{GUEST_ADDRESS, Job, Spec, Streams, initrd, qmp::Qmp};
use crate::cache::{self, Key};

/// Size of the disk that carries a job's files into a guest. Only what is written takes space.
pub(super) const JOB_DISK: u64 = 2 << 30;
/// A cold boot takes 3 to 10 s; more than this on a very busy host means that it hangs.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// QEMU's name for the network of a guest.
const NETWORK: &str = "net";
/// Saved machines kept per name: the current one and the one before, for two work trees that share a cache.
const KEPT: usize = 2;

/// A saved machine, ready to be restored any number of times.
#[derive(Clone, Debug)]
pub struct Machine {
    spec: Spec,
    vmlinux: PathBuf,
    root: PathBuf,
    initrd: PathBuf,
    command_line: String,
    /// Its key in the cache, of which those of machines made from it are made.
    key: String,
    /// Holds `state`.
    folder: PathBuf,
}

/// The saved machine for a specification; made now if it is not in the cache (10 to 20 s), which `progress` is told.
///
/// # Errors
/// When the lab is not set up, QEMU is missing, or the guest does not come up: then with the end of its console.
pub fn machine(spec: &Spec, progress: &dyn Fn(&str)) -> Result<Machine> {
    let vmlinux = cache::artefact(&format!("kernel-{}", spec.kernel))?.join("vmlinux");
    let root = cache::artefact(&format!("root-{}", spec.containerd.unwrap_or(super::Containerd::V1_7)))?;
    // What makes an emulated machine fast: no self-tests, no mitigations, no zeroing of pages, no console noise.
    let mut command_line = String::from(
        "console=ttyS0 quiet panic=-1 lsm=landlock,lockdown,yama,apparmor,bpf mitigations=off nokaslr \
         cryptomgr.notests=1 tsc=reliable no_timer_check random.trust_cpu=on init_on_alloc=0",
    );
    if !spec.append.is_empty() {
        command_line.push(' ');
        command_line.push_str(&spec.append);
    }
    let initrd = initrd::build(spec)?;
    let version = Command::new("qemu-system-x86_64").arg("--version").output();
    let version = version.context("qemu-system-x86_64 cannot be run: run `make setup`")?.stdout;
    let key = Key::default()
        .bytes("qemu", &version)
        .bytes("arguments", format!("{:?}", arguments(spec)).as_bytes())
        .bytes("command line", command_line.as_bytes())
        .bytes("initrd", &initrd)
        .file(&vmlinux)?
        .file(&root)?
        .finish();
    let name = spec.name();
    let folder = folder(&name, &key);
    let path = folder.join("initrd");
    let machine = Machine { spec: spec.clone(), vmlinux, root, initrd: path, command_line, key, folder };
    machine.once(&name, progress, || machine.make(&initrd))?;
    Ok(machine)
}

fn folder(name: &str, key: &str) -> PathBuf {
    cache::dir().join("machines").join(format!("{name}@{key}"))
}

/// The arguments that shape the machine; a saved one can only be restored into the same shape.
fn arguments(spec: &Spec) -> Vec<String> {
    let words = if spec.icount {
        "-accel tcg,thread=single,tb-size=256 -smp 1 -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm"
    } else {
        // KVM is never used: hosts differ, some have a device that opens and then cannot run a stock kernel.
        "-accel tcg,thread=multi,tb-size=512 -smp 2"
    };
    // A plain CPU: programs then choose instructions that are cheap to emulate (vector code and `rep` moves are not).
    let common = "-M q35 -cpu Nehalem,+rdrand -nodefaults -no-user-config -display none -no-reboot";
    let mut all: Vec<String> = common.split(' ').chain(words.split(' ')).map(str::to_owned).collect();
    all.extend(["-m".into(), spec.memory_mib.to_string()]);
    if !spec.ports.is_empty() {
        all.extend(["-device".into(), format!("virtio-net-pci,netdev={NETWORK},romfile=")]);
    }
    all
}

/// For each port of a guest a free one of this machine's own, for QEMU to take. All are held until each is known, so that no two
/// are the same; another program may take one before QEMU does, which then says so and ends.
fn forwarded(ports: &[u16]) -> Result<Vec<(u16, SocketAddr)>> {
    let free = |port: &u16| Ok((*port, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?));
    let free = ports.iter().map(free).collect::<Result<Vec<_>>>().context("a free port")?;
    free.iter().map(|(port, listener)| Ok((*port, listener.local_addr()?))).collect()
}

impl Machine {
    /// Its specification.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its name: what it is, without the key.
    pub(super) fn name(&self) -> &str {
        let folder = self.folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        folder.rsplit_once('@').map_or(folder, |(name, _)| name)
    }

    /// A machine like this one after a job that left something running, saved under the hash of all that the job is
    /// made of.
    ///
    /// # Errors
    /// When the job fails.
    pub fn after(&self, name: &str, job: &Job, progress: &dyn Fn(&str)) -> Result<Self> {
        let name = format!("{}-{name}", self.spec.name());
        let key = job.key(Key::default().bytes("machine", self.key.as_bytes()))?.finish();
        let machine = Self { folder: folder(&name, &key), key, ..self.clone() };
        machine.once(&name, progress, || {
            let mut output = Vec::new();
            let mut errors = Vec::new();
            let (outcome, mut running) = job.run_on(self, Streams { out: &mut output, err: &mut errors })?;
            let said = || format!("{}{}", String::from_utf8_lossy(&output), String::from_utf8_lossy(&errors));
            ensure!(
                outcome.status == 0,
                "the machine `{name}` cannot be made: status {}\n{}",
                outcome.status,
                said()
            );
            running.save(&machine.folder)
        })?;
        Ok(machine)
    }

    /// Makes the machine unless that has been done, here or in another process.
    fn once(&self, name: &str, progress: &dyn Fn(&str), make: impl Fn() -> Result<()>) -> Result<()> {
        if self.folder.join("state").exists() {
            return Ok(());
        }
        let _lock = cache::lock(&format!("machine-{name}"))?;
        if !self.folder.join("state").exists() {
            progress(&format!("making and saving a machine: {name}"));
            let begin = Instant::now();
            fs::create_dir_all(&self.folder)?;
            // The emulator itself has been seen to die while it was told to quit; a second failure is the machine's.
            if let Err(error) = make() {
                progress(&format!("machine {name} could not be made, trying once more: {error:#}"));
                make()?;
            }
            progress(&format!("machine {name} saved after {:.1} s", begin.elapsed().as_secs_f64()));
            prune(name)?;
        }
        Ok(())
    }

    /// Starts QEMU with its sockets and serial ports in `work`, which also holds `job.img`.
    pub(super) fn start(&self, work: &Path, incoming: bool) -> Result<Guest> {
        let at = |name: &str| work.join(name).to_string_lossy().into_owned();
        let disk = |file: &str, id: &str| {
            [
                "-drive".into(),
                format!("file={file},if=none,id={id},format=raw,readonly=on,cache=unsafe"),
                "-device".into(),
                format!("virtio-blk-pci,drive={id}"),
            ]
        };
        // setpriv: the guest must not outlive us, however we end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(arguments(&self.spec));
        for port in ["console", "result"] {
            command.args(["-serial", &format!("file:{}", at(port))]);
        }
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp"))]);
        command.arg("-kernel").arg(&self.vmlinux).arg("-initrd").arg(&self.initrd);
        command.args(["-append", &self.command_line]);
        command.args(disk(&self.root.to_string_lossy(), "root")).args(disk(&at("job.img"), "job"));
        command.args(["-device", "virtio-serial-pci"]);
        for port in ["out", "err"] {
            command.args(["-chardev", &format!("socket,id={port},path={},server=on,wait=off", at(port))]);
            command.args(["-device", &format!("virtserialport,chardev={port},name={port}")]);
        }
        if incoming {
            command.args(["-incoming", "exec:cat state"]);
        }
        let ports = forwarded(&self.spec.ports)?;
        if !ports.is_empty() {
            let forwards =
                ports.iter().map(|(guest, here)| format!(",hostfwd=tcp:{here}-{GUEST_ADDRESS}:{guest}"));
            let network = format!("user,id={NETWORK},restrict=on,ipv6=off{}", forwards.collect::<String>());
            command.args(["-netdev", &network]);
        }
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(work.join("qemu.log"))?);
        let child = command.spawn().context("start qemu-system-x86_64")?;
        Ok(Guest { child, work: work.to_owned(), ports })
    }

    fn make(&self, initrd: &[u8]) -> Result<()> {
        cache::write_whole(&self.initrd, initrd)?;
        let _slot = cache::guest_slot()?;
        let work = tempfile::Builder::new().prefix("lab.").tempdir()?;
        File::create(work.path().join("job.img"))?.set_len(JOB_DISK)?;
        let mut guest = self.start(work.path(), false)?;
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            let result = guest.read("result");
            if result.contains("READY") {
                break;
            }
            if result.contains("FAILED") || Instant::now() > deadline || !guest.alive()? {
                bail!("the guest did not come up: {}\n{}", result.trim(), guest.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(500)); // what the warm-up left to be done settles
        let mut qmp = Qmp::open(&work.path().join("qmp"))?;
        guest.save(&mut qmp, &self.folder)
    }
}

/// A running QEMU; killed when dropped.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) child: Child,
    work: PathBuf,
    /// Its ports, and where this machine reaches them.
    pub(super) ports: Vec<(u16, SocketAddr)>,
}

impl Guest {
    pub(super) fn alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    pub(super) fn read(&self, file: &str) -> String {
        fs::read(self.work.join(file)).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Writes the machine's state to `folder`. The machine ends with that.
    pub(super) fn save(&mut self, qmp: &mut Qmp, folder: &Path) -> Result<()> {
        let state = folder.join("state.new");
        qmp.call("stop", json!({}))?;
        qmp.call("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 40}))?;
        qmp.call(
            "migrate",
            json!({"uri": format!("exec:cat >{}", shlex::try_quote(&state.to_string_lossy())?)}),
        )?;
        let status = qmp.wait("query-migrate", &["completed", "failed", "cancelled"])?;
        ensure!(status == "completed", "QEMU could not save the machine: {status}\n{}", self.tail());
        qmp.call("quit", json!({}))?;
        self.child.wait()?;
        fs::rename(state, folder.join("state"))?;
        Ok(())
    }

    /// The end of the guest's console and what QEMU said, for an error message.
    pub(super) fn tail(&self) -> String {
        let console = self.read("console").replace('\r', "");
        let lines: Vec<_> = console.lines().collect();
        let tail = lines.iter().skip(lines.len().saturating_sub(30)).copied().collect::<Vec<_>>().join("\n");
        format!("--- end of the guest's console\n{tail}\n--- QEMU\n{}", self.read("qemu.log").trim())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes older saved machines of this name; what was restored from one runs on.
fn prune(name: &str) -> Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cache::dir().join("machines"))?.flatten() {
        if entry.file_name().to_string_lossy().rsplit_once('@').is_some_and(|(n, _)| n == name) {
            let changed = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((changed, entry.path()));
        }
    }
    found.sort();
    for (_, old) in found.iter().rev().skip(KEPT) {
        fs::remove_dir_all(old)?;
    }
    Ok(())
}
