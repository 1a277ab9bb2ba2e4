//! What is tried: lines for `programs/visit.c`, each with the accesses that `decide` is asked about.

use anyhow::{Context, Result};
use enforcer_core::capability::Capability;
use enforcer_core::decide::Access;
use enforcer_core::network::{AF_INET, IPPROTO_TCP, SOCK_STREAM, SocketAccess, SocketOp};

use super::world::{DIRECTORIES, FILES, OTHER, SCRIPT, SOURCE, TOOL, USER};

/// One thing that is tried.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The line for `visit`.
    pub line: String,
    /// What it is; all of these have to pass.
    pub accesses: Vec<Access<'static>>,
}

impl Probe {
    /// Whether it is the execution of a script, whose interpreter is executed, too.
    #[must_use]
    pub fn runs_script(&self) -> bool {
        self.line.strip_prefix("exec ") == Some(SCRIPT)
    }
}

/// What the kernel starts the script's interpreter with: the argument in the script, the script, and what that was given.
const INTERPRETER_ARGUMENTS: [&[u8]; 3] = [b"nothing", SCRIPT.as_bytes(), b"nothing"];
const SOCKETS: [(u16, u16, u16); 6] = [(2, 1, 0), (2, 2, 0), (2, 3, 255), (10, 1, 6), (1, 1, 0), (16, 3, 0)];
/// A raw socket of IP takes a capability.
const RAW: (u16, u16) = (2, 3);

/// All of it, in an order in which what cannot be undone comes last: renaming files, then directories.
///
/// # Errors
/// When a capability has another name.
pub fn probes() -> Result<Vec<Probe>> {
    let mut found = Vec::new();
    let mut add = |line: String, accesses: Vec<Access<'static>>| found.push(Probe { line, accesses });
    let (setuid, fowner) = (capability("setuid")?, capability("fowner")?);
    for uid in [0, USER] {
        let as_user = |line: &str| if uid == 0 { line.to_owned() } else { format!("as {uid} {line}") };
        // whoever becomes another user needs a capability for that
        let by = |access: Access<'static>, owner: Option<u32>| {
            let becomes = (uid != 0).then_some(setuid);
            becomes.into_iter().chain([access.by(uid, owner)]).collect()
        };
        for (path, _, owner) in FILES {
            let owner = Some(owner);
            add(as_user(&format!("read {path}")), by(Access::read(path.as_bytes()), owner));
            add(as_user(&format!("write {path}")), by(Access::write(path.as_bytes()), owner));
        }
        for what in ["create", "mkdir"] {
            let new = "/w/data/deep/new";
            add(as_user(&format!("{what} {new}")), by(Access::write(new.as_bytes()), None));
        }
    }
    for (path, new, owner) in FILES {
        let write = Access::write(path.as_bytes()).by(0, Some(owner));
        let others = (owner != 0).then_some(fowner);
        add(format!("truncate {path}"), vec![write]);
        add(format!("chmod {path}"), others.into_iter().chain([write]).collect());
        // a new name of a file has its owner
        add(format!("link {path} {new}"), vec![write, Access::write(new.as_bytes()).by(0, Some(owner))]);
    }
    for (path, _) in DIRECTORIES {
        add(format!("read {path}"), vec![Access::read(path.as_bytes())]);
    }
    programs(&mut add);
    sockets(&mut add, capability("net_raw")?);
    add("chroot /".to_owned(), vec![capability("sys_chroot")?]);
    for (path, new, owner) in FILES {
        let name = |path: &'static str| Access::write(path.as_bytes()).by(0, Some(owner));
        add(format!("rename {path} {new}"), vec![name(path), name(new)]);
    }
    for (path, new) in DIRECTORIES {
        let name = |path: &'static str| Access::rename_directory(path.as_bytes());
        add(format!("rename {path} {new}"), vec![name(path), name(new)]);
    }
    Ok(found)
}

fn programs(add: &mut impl FnMut(String, Vec<Access<'static>>)) {
    for path in [TOOL, OTHER, SOURCE] {
        add(format!("exec {path}"), vec![Access::exec(path.as_bytes()).with_args(&[b"nothing"])]);
    }
    add(format!("exec {TOOL} something"), vec![Access::exec(TOOL.as_bytes()).with_args(&[b"something"])]);
    let script = Access::exec(SCRIPT.as_bytes()).with_args(&[b"nothing"]);
    let interpreter = Access::exec(TOOL.as_bytes()).with_args(&INTERPRETER_ARGUMENTS);
    add(format!("exec {SCRIPT}"), vec![script, interpreter]);
    // whoever opens a terminal reads and writes it
    let terminal = |access: Access<'static>| {
        let files = ["/dev/ptmx", "/dev/pts/0"].map(str::as_bytes);
        let opened = files.into_iter().flat_map(|path| [Access::read(path), Access::write(path)]);
        opened.chain([access.on_terminal()]).collect()
    };
    add(format!("terminal exec {TOOL}"), terminal(Access::exec(TOOL.as_bytes()).with_args(&[b"nothing"])));
    add("terminal read /w/data/a".to_owned(), terminal(Access::read(b"/w/data/a")));
    add("terminal socket 2 1 0".to_owned(), terminal(socket(SocketOp::Create, (2, 1, 0))));
}

fn sockets(add: &mut impl FnMut(String, Vec<Access<'static>>), net_raw: Access<'static>) {
    for made @ (family, kind, protocol) in SOCKETS {
        let needed = ((family, kind) == RAW).then_some(net_raw);
        let accesses = needed.into_iter().chain([socket(SocketOp::Create, made)]).collect();
        add(format!("socket {family} {kind} {protocol}"), accesses);
    }
    for (what, op, port) in [
        ("connect", SocketOp::Connect, 9),
        ("connect", SocketOp::Connect, 10),
        ("bind", SocketOp::Bind, 8080),
        ("bind", SocketOp::Bind, 8081),
    ] {
        let address = std::net::IpAddr::from([127, 0, 0, 1]);
        let made = socket(SocketOp::Create, (AF_INET, SOCK_STREAM, IPPROTO_TCP));
        let used = SocketAccess {
            op,
            family: AF_INET,
            kind: SOCK_STREAM,
            protocol: IPPROTO_TCP,
            address: Some(address),
            port,
        };
        add(format!("{what} {address} {port}"), vec![made, Access::socket(used)]);
    }
}

const fn socket(op: SocketOp, (family, kind, protocol): (u16, u16, u16)) -> Access<'static> {
    Access::socket(SocketAccess { op, family, kind, protocol, address: None, port: 0 })
}

fn capability(name: &str) -> Result<Access<'static>> {
    Capability::by_name(name)
        .map(Access::capability)
        .with_context(|| format!("no capability is called `{name}`"))
}
