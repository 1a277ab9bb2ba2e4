//! `install` on configurations as they are found on nodes: what it changes, and that it takes just that back.
//! What the real containerd makes of the results is in `integration-tests`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const CONFIG: &str = "etc/containerd/config.toml";
const HOOK: &str = "opt/nri-enforcer/nri-enforcer-hook";
const RECORD: &str = "var/lib/nri-enforcer/installed/containerd.json";

/// A root with these files.
struct Host(tempfile::TempDir);

impl Host {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (path, bytes) in files {
            host.write(path, bytes);
        }
        host
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), bytes).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn install(&self, runtime: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
        command.args(["install", "--runtime", runtime, "--root"]).arg(self.0.path());
        if !arguments.contains(&"--uninstall") {
            command.args(["--hook", "/bin/true"]); // any program will do
        }
        command.args(arguments).output().unwrap()
    }

    /// As [`Self::install`], and it is to succeed.
    fn installed(&self, runtime: &str, arguments: &[&str]) -> String {
        let output = self.install(runtime, arguments);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}");
        said
    }

    /// Uninstalls, and has to leave something; what is said about it.
    fn uninstalled_but_for(&self, runtime: &str, left: &str) -> String {
        let output = self.install(runtime, &["--uninstall"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(left), "{said}");
        said
    }

    /// As [`Self::install`], and it is to refuse and to change nothing.
    fn refused(&self, runtime: &str, arguments: &[&str], exit: i32) -> String {
        let before = self.tree();
        let output = self.install(runtime, arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{said}");
        assert_eq!(self.tree(), before, "{said}");
        said
    }

    /// All that is there: directories, links, and files with what is in them, with modes and owners.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
        let (mut tree, mut ahead) = (BTreeMap::new(), vec![self.0.path().to_owned()]);
        while let Some(path) = ahead.pop() {
            let about = fs::symlink_metadata(&path).unwrap();
            let content = if about.is_dir() {
                ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                Vec::new()
            } else if about.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            tree.insert(path, (about.mode(), about.uid(), content));
        }
        tree
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shapes(dir: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(dir);
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let shapes = entries.filter(|path| path.extension().is_some_and(|end| end != "diff"));
    let mut shapes: Vec<_> = shapes.map(|path| (name(&path), fs::read(&path).unwrap())).collect();
    shapes.sort();
    shapes
}

/// The part of a difference that is about the configuration.
fn of_config(diff: &str, config: &str) -> String {
    let from = diff.split_once(&format!("--- a/{config}\n")).map(|(_, rest)| rest).unwrap_or_default();
    from.split_inclusive('\n')
        .skip(1)
        .take_while(|line| line.starts_with(['@', ' ', '+', '-', '\\']))
        .collect()
}

#[test]
fn each_shape_is_changed_as_recorded_and_changed_back() {
    assert!(there_and_back("install", &[]) >= 10);
}

#[test]
fn the_daemon_is_required_as_recorded_and_no_more_afterwards() {
    assert!(there_and_back("install-required", &["--required-plugin"]) >= 4);
}

/// Installs with these arguments on each configuration in `dir`, and uninstalls; how many there are.
fn there_and_back(dir: &str, arguments: &[&str]) -> usize {
    let mut wrong = Vec::new();
    let shapes = shapes(dir);
    let tried = shapes.len();
    for (name, bytes) in shapes {
        let config = if name.ends_with(".tmpl") { "etc/containerd/config.toml.tmpl" } else { CONFIG };
        let host = Host::new(&[(config, &bytes)]);
        fs::set_permissions(host.at(config), fs::Permissions::from_mode(0o640)).unwrap();
        chown(host.at(config), Some(12), Some(34)).unwrap();
        let before = host.tree();
        let path = format!("/{config}");
        let install =
            |more: &[&str]| host.installed("containerd", &[&["--config", &path], arguments, more].concat());
        let dry = install(&["--dry-run"]);
        assert_eq!(host.tree(), before, "{name}: only told");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{dir}/{name}.diff"));
        let found = of_config(&dry, config);
        if fs::read_to_string(&golden).unwrap_or_default() != found {
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&golden, &found).unwrap();
            }
            wrong.push(format!("{name}:\n{found}"));
        }

        install(&[]);
        let once = host.tree();
        let about = fs::metadata(host.at(config)).unwrap();
        assert_eq!((about.mode() & 0o7777, about.uid(), about.gid()), (0o640, 12, 34), "{name}");
        let said = install(&[]);
        assert_eq!(host.tree(), once, "{name}: twice is once");
        assert!(said.contains("nothing to do"), "{name}: {said}");

        host.installed("containerd", &["--config", &path, "--uninstall"]);
        assert_eq!(host.tree(), before, "{name}: there and back");
        let said = host.installed("containerd", &["--config", &path, "--uninstall"]);
        assert!(said.contains("nothing to do"), "{said}");
    }
    assert!(
        wrong.is_empty(),
        "not as recorded (set UPDATE_GOLDEN and look at the changes):\n{}",
        wrong.join("\n")
    );
    tried
}

#[test]
fn who_does_without_the_daemon_is_told_and_nobody_is_put_out() {
    let host = Host::new(&[(CONFIG, b"version = 3\n")]);
    let said =
        host.installed("containerd", &["--required-plugin", "--toleration-annotation", "a.example.org"]);
    for part in ["`a.example.org: \"true\"`", "static pods", "kube-system", "the daemon's own"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // another one is in use: pods that have it would be refused
    let said = host.refused("containerd", &["--required-plugin"], 1);
    assert!(said.contains("`a.example.org` already"), "{said}");
    for bad in ["", "a/b", "A", &"a".repeat(64), "-a"] {
        host.refused("containerd", &["--required-plugin", "--toleration-annotation", bad], 2);
    }
    host.refused("containerd", &["--toleration-annotation", "a.example.org"], 2);
    host.refused("containerd", &["--plugin-name", "enforcer"], 2);
    for bad in ["", "a b", "a/b"] {
        host.refused("containerd", &["--required-plugin", "--plugin-name", bad], 2);
    }
    assert!(host.refused("podman", &["--required-plugin"], 2).contains("is for containerd"));
}

/// A name that no plugin has would keep every container from starting.
#[test]
fn the_daemon_is_required_by_the_name_that_it_registers_under() {
    let host = Host::new(&[(CONFIG, b"version = 3\n")]);
    let require = ["--required-plugin", "--plugin-name", "enforcer"];
    let required = |host: &Host| -> String {
        let config = host.read(CONFIG);
        config.lines().find(|line| line.contains("required_plugins")).unwrap_or_default().trim().to_owned()
    };
    host.installed("containerd", &require);
    assert_eq!(required(&host), "required_plugins = [\"enforcer\"]");
    assert!(host.installed("containerd", &require).contains("nothing to do"));
    // with both it would wait for one that never comes
    let said = host.refused("containerd", &["--required-plugin"], 1);
    assert!(said.contains("another name than `nri-enforcer`"), "{said}");
    host.installed("containerd", &["--uninstall"]);
    host.installed("containerd", &["--required-plugin"]);
    assert_eq!(required(&host), "required_plugins = [\"nri-enforcer\"]");
    // of others that are required none is taken for it, but it is by its index, too
    let others = b"version = 3\n[plugins.\"io.containerd.nri.v1.nri\".default_validator]\n  required_plugins = [\"nri-enforcer\", \"07-enforcer\"]\n";
    let host = Host::new(&[(CONFIG, others)]);
    host.installed("containerd", &require);
    assert_eq!(required(&host), "required_plugins = [\"nri-enforcer\", \"07-enforcer\"]");
}

#[test]
fn a_host_without_a_configuration_gets_one_and_loses_it() {
    let k3s = "var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl";
    let nri = "[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = false\n";
    for (config, wanted, restart) in [
        (CONFIG, format!("version = 2\n\n{nri}"), "containerd"),
        (k3s, format!("{{{{ template \"base\" . }}}}\n\n{nri}"), "k3s"),
    ] {
        let host = Host::new(&[]);
        let before = host.tree();
        let path = format!("/{config}");
        let said = host.installed("containerd", &["--config", &path]);
        assert_eq!(host.read(config), wanted);
        assert!(said.contains(&format!("systemctl restart {restart}")), "{said}");
        host.installed("containerd", &["--config", &path, "--uninstall"]);
        assert_eq!(host.tree(), before, "{config}");
    }
    // k3s has such a template with containerd 2, where NRI is on
    let host = Host::new(&[]);
    host.installed("containerd", &["--config", &format!("/{}", k3s.replace("config", "config-v3"))]);
    assert!(!host.at("var/lib/rancher").exists());
}

#[test]
fn programs_of_the_host_run_where_the_image_has_none() {
    let host = Host::new(&[(CONFIG, b"version = 2\n")]);
    let install = |host: &Host| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nri-enforcer"));
        command
            .args(["install", "--runtime", "containerd", "--hook", "/bin/true", "--root"])
            .arg(host.0.path());
        text(
            &command
                .env("PATH", "/nowhere:/bin")
                .args(["--containerd", "/bin/dump"])
                .output()
                .unwrap()
                .stderr,
        )
    };
    let said = install(&host);
    assert!(said.contains("has not checked"), "there is no such program: {said}");
    // `false` alone says nothing of what it is asked, in a root that has it and what it is linked with
    for path in ["/bin/false", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"] {
        host.write(path.trim_start_matches('/'), &fs::read(path).unwrap());
        fs::set_permissions(host.at(path.trim_start_matches('/')), fs::Permissions::from_mode(0o755))
            .unwrap();
    }
    fs::rename(host.at("bin/false"), host.at("bin/dump")).unwrap();
    fs::remove_file(host.at(CONFIG)).unwrap();
    host.write(CONFIG, b"version = 2\n# changed\n");
    let said = install(&host);
    assert!(said.contains("`/bin/dump") && said.contains("exit status: 1"), "it was asked: {said}");
}

#[test]
fn the_hook_alone_leaves_the_configuration_and_asks_the_socket() {
    let config = b"version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = true\n";
    let host = Host::new(&[(CONFIG, config)]);
    fs::create_dir_all(host.at("run/nri")).unwrap();
    fs::create_dir_all(host.at("var")).unwrap();
    symlink("/run", host.at("var/run")).unwrap(); // a link of the host, that leads nowhere else
    // asked what it would do, it does nothing, says no more than that, and that it would fail
    let said = host.refused("containerd", &["--hook-only", "--dry-run"], 1);
    assert!(said.contains("the hook would be in place, but no runtime answers at `/var/run/"), "{said}");
    for left in ["nothing listened there", "the runtime has ended"] {
        let output = host.install("containerd", &["--hook-only"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{left}: {said}");
        assert!(
            said.contains("the hook is in place, but no runtime answers at `/var/run/nri/nri.sock`"),
            "{left}: {said}"
        );
        assert!(host.at(HOOK).is_file(), "{left}: the hook is there for when one does");
        let _ended = std::os::unix::net::UnixListener::bind(host.at("run/nri/nri.sock"));
    }
    fs::remove_file(host.at("run/nri/nri.sock")).unwrap();
    let _runtime = std::os::unix::net::UnixListener::bind(host.at("run/nri/nri.sock")).unwrap();
    let said = host.installed("containerd", &["--hook-only"]);
    assert!(!said.contains("systemctl"), "{said}");
    assert_eq!(host.read(CONFIG).as_bytes(), config, "left alone");
    host.installed("containerd", &["--uninstall"]);
    assert!(!host.at(HOOK).exists() && !host.at(RECORD).exists());
    // a node that is to have none
    fs::remove_file(host.at("run/nri/nri.sock")).unwrap();
    host.installed("containerd", &["--hook-only", "--nri-socket", "none"]);
    assert!(host.at(HOOK).is_file());
    host.installed("containerd", &["--uninstall"]);
    let both = host.install("containerd", &["--hook-only", "--base-runtime-spec"]);
    assert_eq!(both.status.code(), Some(2), "{}", text(&both.stderr));
}

#[test]
fn what_makes_no_sense_is_left_alone() {
    let host = Host::new(&[(CONFIG, b"version = 2\n[plugins\n")]);
    let said = host.refused("containerd", &[], 2);
    assert!(said.contains("`/etc/containerd/config.toml`, line 2, column 9: "), "{said}");
    let host = Host::new(&[(CONFIG, b"\xff\xfe")]);
    assert!(host.refused("containerd", &[], 2).contains("is not UTF-8"));
    let host = Host::new(&[(CONFIG, b"version = 2\nplugins = {}\nx = {{}}\n")]);
    assert!(host.refused("containerd", &[], 2).contains("line 3"));
    // a file is where a directory has to be
    let host = Host::new(&[("etc/containerd", b""), ("opt", b"")]);
    assert!(host.refused("containerd", &[], 1).contains("cannot be read"));
    let host = Host::new(&[(CONFIG, b"version = 2\n"), ("opt", b"")]);
    assert!(host.refused("containerd", &[], 1).contains("cannot be"));
    let output = host.install("containerd", &["--hook", "/none"]);
    assert_eq!(output.status.code(), Some(2), "--hook twice");
    let host = Host::new(&[(CONFIG, b"version = 2\n"), (HOOK, b"somebody's")]);
    assert!(host.refused("containerd", &[], 1).contains("was not put there by this command"));
    let host = Host::new(&[(RECORD, b"{\"version\": 9}")]);
    assert!(host.refused("containerd", &[], 1).contains("is no record"));
}

#[test]
fn what_cannot_be_written_changes_nothing() {
    let host = Host::new(&[(CONFIG, b"version = 2\n")]);
    let everywhere = ["", "etc", "etc/containerd"].map(|path| host.at(path));
    everywhere.iter().for_each(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap());
    // as another user, who can make what is in `var`, and cannot write the rest
    fs::create_dir(host.at("var")).unwrap();
    chown(host.at("var"), Some(65_534), None).unwrap();
    let program = host.at("program");
    fs::copy(env!("CARGO_BIN_EXE_nri-enforcer"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let before = host.tree();
    use std::os::unix::process::CommandExt;
    let output = Command::new(&program)
        .args(["install", "--runtime", "containerd", "--hook", "/bin/true", "--root"])
        .arg(host.0.path())
        .uid(65_534)
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be written: Permission denied"), "{said}");
    assert_eq!(host.tree(), before);
}

/// A runtime runs the hook as root in each container, whether the daemon takes it for one or not.
#[test]
fn no_runtime_is_given_a_hook_that_others_can_replace() {
    let runtimes: [(&str, &[&str]); 5] = [
        ("containerd", &[]),
        ("containerd", &["--base-runtime-spec"]),
        ("containerd", &["--hook-only"]),
        ("crio", &[]),
        ("podman", &[]),
    ];
    for (runtime, arguments) in runtimes {
        let host = Host::new(&[("opt/nri-enforcer/x", b"")]);
        let refused = |what: &str| {
            for dry in [&[][..], &["--dry-run"]] {
                let said = host.refused(runtime, &[arguments, dry].concat(), 1);
                assert!(said.contains(what) && said.contains("chown root, chmod go-w"), "{runtime}: {said}");
            }
        };
        // a directory like /tmp, too: others make what is not there yet, or any more
        for (path, mode) in [("opt", 0o777), ("opt", 0o1777), ("opt/nri-enforcer", 0o775), ("", 0o757)] {
            fs::set_permissions(host.at(path), fs::Permissions::from_mode(mode)).unwrap();
            refused("can be replaced by others than root");
            fs::set_permissions(host.at(path), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for path in ["opt", "opt/nri-enforcer"] {
            chown(host.at(path), Some(65_534), None).unwrap();
            refused(&format!("(`/{path}`)"));
            chown(host.at(path), Some(0), None).unwrap();
        }
        // the very program, which others can write
        fs::copy("/bin/true", host.at(HOOK)).unwrap();
        fs::set_permissions(host.at(HOOK), fs::Permissions::from_mode(0o757)).unwrap();
        refused(&format!("(`/{HOOK}`)"));
        fs::remove_file(host.at(HOOK)).unwrap();
        // and what is made anew is nobody else's, whatever this process would make
        if arguments.is_empty() {
            fs::remove_dir_all(host.at("opt")).unwrap();
            host.installed(runtime, &[]);
        }
    }
}

#[test]
fn a_link_stays_a_link() {
    let host = Host::new(&[("srv/containerd/real.toml", b"version = 2\n")]);
    fs::create_dir_all(host.at("etc/containerd")).unwrap();
    symlink("/srv/containerd/real.toml", host.at(CONFIG)).unwrap();
    let before = host.tree();
    host.installed("containerd", &[]);
    assert!(fs::symlink_metadata(host.at(CONFIG)).unwrap().is_symlink());
    assert!(host.read("srv/containerd/real.toml").contains("disable = false"));
    assert_eq!(host.read("srv/containerd/real.toml.nri-enforcer-backup"), "version = 2\n");
    host.installed("containerd", &["--uninstall"]);
    assert_eq!(host.tree(), before);
}

#[test]
fn imported_files_count() {
    let main = b"version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    let (on, off) = ("etc/containerd/conf.d/on.toml", "etc/containerd/conf.d/zz-off.toml");
    let nri = |disable: bool| {
        format!("version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = {disable}\n")
    };
    let host = Host::new(&[(CONFIG, main), (on, nri(false).as_bytes())]);
    host.installed("containerd", &[]);
    assert_eq!(host.read(CONFIG).as_bytes(), main, "it is on already");
    let host = Host::new(&[(CONFIG, main), (on, nri(false).as_bytes()), (off, nri(true).as_bytes())]);
    host.installed("containerd", &[]);
    assert_eq!((host.read(CONFIG).as_bytes(), host.read(off)), (&main[..], nri(false)), "the last one wins");
    host.installed("containerd", &["--uninstall"]);
    assert_eq!(host.read(off), nri(true));
    let host = Host::new(&[(CONFIG, main), (off, b"x = \n")]);
    assert!(host.refused("containerd", &[], 2).contains("conf.d/zz-off.toml`, line 1"));
}

#[test]
fn what_an_operator_changes_later_stays() {
    let host = Host::new(&[(CONFIG, b"version = 2\n")]);
    host.installed("containerd", &[]);
    let edited = host.read(CONFIG) + "  socket_path = \"/run/x.sock\"\n";
    host.write(CONFIG, format!("# mine\n{edited}").as_bytes());
    let configuration = "opt/nri-enforcer/nri-enforcer-hook.json";
    assert!(host.read(configuration).contains("kube-system"));
    host.write(configuration, b"{\"mode\": \"open\"}");
    let said = host.installed("containerd", &[]);
    assert!(said.contains("nri-enforcer-hook.json` was changed by hand"), "{said}");
    assert_eq!(host.read(configuration), "{\"mode\": \"open\"}");

    let output = host.install("containerd", &["--uninstall"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nri-enforcer-hook.json` was changed by hand, and stays"), "{said}");
    assert!(said.contains("differs from the copy beside it"), "{said}");
    assert_eq!(
        host.read(CONFIG),
        "# mine\nversion = 2\n\n[plugins.\"io.containerd.nri.v1.nri\"]\n  socket_path = \"/run/x.sock\"\n"
    );
    assert!(!host.at(HOOK).exists());
    fs::remove_file(host.at(configuration)).unwrap();
    host.installed("containerd", &["--uninstall"]);
    assert!(!host.at(RECORD).exists() && !host.at("opt").exists());
}

/// What the hook goes by when its configuration is damaged later.
#[test]
fn the_last_good_list_of_exempt_namespaces_is_kept() {
    let (configuration, list) =
        ("opt/nri-enforcer/nri-enforcer-hook.json", "opt/nri-enforcer/nri-enforcer-hook-exempt.json");
    let host = Host::new(&[(CONFIG, b"version = 2\n"), ("hook.json", br#"{"exemptNamespaces": ["infra"]}"#)]);
    let given = host.at("hook.json").to_string_lossy().into_owned();
    let install = || host.installed("containerd", &["--hook-config", &given]);
    let mode =
        |path: &str, mode| fs::set_permissions(host.at(path), fs::Permissions::from_mode(mode)).unwrap();
    let is_roots = |path: &str| {
        let about = fs::metadata(host.at(path)).unwrap();
        about.uid() == 0 && about.mode() & 0o022 == 0
    };
    let exempt = || -> Vec<String> {
        let list: Value = serde_json::from_str(&host.read(list)).unwrap();
        let names = list.get("exemptNamespaces").and_then(Value::as_array).unwrap();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    install();
    assert!(exempt() == ["infra"] && is_roots(list));
    // who can write them is put right, and what the list says, too
    mode(configuration, 0o664);
    chown(host.at(list), Some(65_534), None).unwrap();
    install();
    assert!(is_roots(configuration) && is_roots(list));
    host.write(list, b"{}");
    mode(list, 0o666);
    install();
    assert!(exempt() == ["infra"] && is_roots(list));
    // what an administrator has written counts
    host.write(configuration, br#"{"exemptNamespaces": ["mine"]}"#);
    install();
    assert_eq!(exempt(), ["mine"]);
    // while that is bad, nobody who was exempt is so no more
    for (bad, wanted) in [
        (r#"{"mode": "ajar", "exemptNamespaces": ["new"]}"#, &["infra", "mine", "new"][..]),
        ("{", &["infra", "mine", "new"]),
    ] {
        host.write(configuration, bad.as_bytes());
        let said = install();
        assert!(said.contains("was changed by hand, and is bad: "), "{said}");
        assert_eq!(host.read(configuration), bad);
        assert_eq!(exempt(), wanted);
    }
    // what others may have written is no word of the administrator's, and does not become one
    host.write(configuration, br#"{"mode": "open", "exemptNamespaces": ["theirs"]}"#);
    mode(configuration, 0o664);
    let said = install();
    assert!(said.contains("others than root can write it") && !is_roots(configuration), "{said}");
    assert_eq!(exempt(), ["infra", "mine", "new"]);
    // nor is a list that others may have written
    mode(configuration, 0o644);
    for others in [(0o666, 0), (0o644, 65_534)] {
        host.write(configuration, b"{");
        host.write(list, br#"{"exemptNamespaces": ["theirs"]}"#);
        mode(list, others.0);
        chown(host.at(list), Some(others.1), None).unwrap();
        let said = install();
        assert!(said.contains("was changed by hand, and is bad: "), "{said}");
        assert!(exempt() == ["infra"] && is_roots(list), "{others:?}: {:?}", exempt());
    }
    fs::remove_file(host.at(configuration)).unwrap();
    install();
    assert_eq!(exempt(), ["infra"]);
    // shared with the other runtimes, and gone with the last of them
    host.installed("podman", &["--hook-config", &given]);
    host.write("hook.json", br#"{"exemptNamespaces": ["other"]}"#);
    install();
    assert_eq!(exempt(), ["other"]);
    host.installed("containerd", &["--uninstall"]);
    host.installed("podman", &["--uninstall"]);
    assert!(!host.at("opt").exists());
}

#[test]
fn a_hook_that_containers_still_have_stays() {
    for bundle in [
        "run/containerd/io.containerd.runtime.v2.task/k8s.io/c1/config.json",
        "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/c1/config.json",
        "run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io/c1/config.json",
        "var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1/config.json",
        "var/lib/containers/storage/overlay-containers/c1/userdata/config.json",
        "srv/graph [1]/vfs-containers/c1/userdata/config.json",
        "srv/run/btrfs-containers/c1/userdata/config.json",
    ] {
        let storage = b"[storage]\ngraphroot = \"/srv/graph [1]\"\nrunroot = \"/srv/run\"\n";
        let host = Host::new(&[(CONFIG, b"version = 2\n"), ("etc/containers/storage.conf", storage)]);
        host.installed("containerd", &[]);
        host.write(
            bundle,
            format!("{{\"hooks\": {{\"poststop\": [{{\"path\": \"/{HOOK}\"}}]}}}}").as_bytes(),
        );
        let output = host.install("containerd", &["--uninstall"]);
        assert_eq!(output.status.code(), Some(1), "{bundle}");
        assert!(text(&output.stderr).contains("1 container(s)"), "{bundle}: {}", text(&output.stderr));
        assert!(host.at(HOOK).exists());
        assert_eq!(host.read(CONFIG), "version = 2\n");
        fs::remove_file(host.at(bundle)).unwrap();
        host.installed("containerd", &["--uninstall"]);
        assert!(!host.at(HOOK).exists());
    }
}

/// The runtime may go on giving it to containers, and no daemon vouches for them any more.
#[test]
fn a_hook_that_has_to_stay_is_opened() {
    let configuration = "opt/nri-enforcer/nri-enforcer-hook.json";
    let ours = r#"{"mode": "closed", "deadlineMillis": 700, "exemptNamespaces": ["kube-system", "infra"]}"#;
    let host = Host::new(&[(CONFIG, b"version = 2\n"), ("hook.json", ours.as_bytes())]);
    let given = host.at("hook.json").to_string_lossy().into_owned();
    let bundle = "run/containerd/io.containerd.runtime.v2.task/k8s.io/c1/config.json";
    host.installed("containerd", &["--hook-config", &given]);
    host.write(bundle, format!("{{\"hooks\": {{\"poststop\": [{{\"path\": \"/{HOOK}\"}}]}}}}").as_bytes());
    let said = host.uninstalled_but_for("containerd", "1 container(s)");
    assert!(said.contains("nri-enforcer-hook.json` is open now"), "{said}");
    let opened: Value = serde_json::from_str(&host.read(configuration)).unwrap();
    let wanted: Value = serde_json::from_str(&ours.replace("closed", "open")).unwrap();
    assert_eq!(opened, wanted, "the rest stays");
    // asked again, as a pod does
    let once = host.tree();
    host.uninstalled_but_for("containerd", "1 container(s)");
    assert_eq!(host.tree(), once);
    // installed again, it is as the configuration says
    host.installed("containerd", &["--hook-config", &given]);
    assert_eq!(host.read(configuration), ours);
    // gone, the hook would be closed by default
    fs::remove_file(host.at(configuration)).unwrap();
    host.uninstalled_but_for("containerd", "1 container(s)");
    assert_eq!(host.read(configuration), "{\n  \"mode\": \"open\"\n}\n");
    // somebody else's is told of, and not written over
    host.write(configuration, b"{}");
    let said = host.uninstalled_but_for("containerd", "stays closed");
    assert!(host.read(configuration) == "{}" && said.contains("does not start"), "{said}");
    fs::remove_file(host.at(configuration)).unwrap();
    fs::remove_file(host.at(bundle)).unwrap();
    host.installed("containerd", &["--uninstall"]);
    assert!(!host.at("opt").exists() && !host.at(RECORD).exists(), "all of it goes in the end");
}

#[test]
fn the_base_specification_of_a_runtime_gets_the_hook() {
    let spec = br#"{"ociVersion": "1.2.0", "hooks": {"poststop": [{"path": "/first"}]}}"#;
    let cri = "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.fast]\n  runtime_type = \"io.containerd.runc.v2\"\n  base_runtime_spec = \"/etc/fast.json\" # ours\n";
    let host = Host::new(&[(CONFIG, format!("version = 3\n{cri}").as_bytes()), ("etc/fast.json", spec)]);
    let before = host.tree();
    let said = host.installed("containerd", &["--base-runtime-spec"]);
    assert!(said.contains("`/etc/fast.json` with the hook"), "{said}");
    assert!(
        host.read(CONFIG)
            .contains("base_runtime_spec = \"/etc/containerd/nri-enforcer/base-fast.json\" # ours\n")
    );
    let made: Value = serde_json::from_str(&host.read("etc/containerd/nri-enforcer/base-fast.json")).unwrap();
    assert_eq!(made.pointer("/hooks/poststop/0/path").unwrap(), "/first");
    for (at, stage) in [("/hooks/createRuntime/0", "createRuntime"), ("/hooks/poststop/1", "poststop")] {
        let hook = made.pointer(at).unwrap();
        assert_eq!(hook.get("path").unwrap(), "/opt/nri-enforcer/nri-enforcer-hook");
        assert_eq!(hook.pointer("/args/1").unwrap(), stage);
    }
    let once = host.tree();
    host.installed("containerd", &["--base-runtime-spec"]);
    assert_eq!(host.tree(), once);
    host.installed("containerd", &["--uninstall"]);
    assert_eq!(host.tree(), before);
    a_specification_that_lost_the_hook_gets_it_again(&host);

    let host = Host::new(&[(CONFIG, b"version = 3\n")]);
    assert!(host.refused("containerd", &["--base-runtime-spec"], 1).contains("there is no `ctr`"));
    let host = Host::new(&[(CONFIG, format!("version = 3\n{cri}").as_bytes())]);
    assert!(
        host.refused("containerd", &["--base-runtime-spec"], 1)
            .contains("`/etc/fast.json` of `fast` is not there")
    );
    let host = Host::new(&[(CONFIG, format!("version = 3\n{cri}").as_bytes()), ("etc/fast.json", b"[]")]);
    assert!(host.refused("containerd", &["--base-runtime-spec"], 1).contains("is no object"));
}

/// The site's own, beside our directory.
#[test]
fn a_specification_whose_name_begins_as_our_directory_is_not_ours() {
    let site = ("etc/containerd/nri-enforcer-site.json", &br#"{"mine": 1}"#[..]);
    let config = "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.fast]\n  runtime_type = \"io.containerd.runc.v2\"\n  base_runtime_spec = \"/etc/containerd/nri-enforcer-site.json\"\n";
    let host = Host::new(&[(CONFIG, config.as_bytes()), site]);
    host.installed("containerd", &["--base-runtime-spec"]);
    let base = "etc/containerd/nri-enforcer/base-fast.json";
    let once = host.read(base);
    assert!(once.contains("\"mine\": 1"), "{once}");
    fs::remove_file(host.at(base)).unwrap();
    host.installed("containerd", &["--base-runtime-spec"]);
    assert_eq!(host.read(base), once);
}

fn a_specification_that_lost_the_hook_gets_it_again(host: &Host) {
    let base = "etc/containerd/nri-enforcer/base-fast.json";
    let has = |stage: &str| {
        let spec: Value = serde_json::from_str(&host.read(base)).unwrap();
        let hooks = spec.pointer(&format!("/hooks/{stage}")).and_then(Value::as_array).cloned();
        let ours = |hook: &Value| hook.get("path").is_some_and(|path| path == format!("/{HOOK}").as_str());
        hooks.unwrap_or_default().iter().filter(|hook| ours(hook)).count()
    };
    host.installed("containerd", &["--base-runtime-spec"]);
    let once = host.read(base);
    // gone: made again of what the runtime had before
    fs::remove_file(host.at(base)).unwrap();
    let said = host.installed("containerd", &["--base-runtime-spec", "--dry-run"]);
    assert!(
        said.contains("+++ b/etc/containerd/nri-enforcer/base-fast.json") && !host.at(base).exists(),
        "{said}"
    );
    host.installed("containerd", &["--base-runtime-spec"]);
    assert_eq!(host.read(base), once);
    // without one of the hooks, or any: what is not ours stays
    for lost in [
        r#"{"mine": 1, "hooks": {"poststop": [{"path": "/first"}]}}"#.to_owned(),
        r#"{"mine": 1}"#.to_owned(),
        once.replace("\"createRuntime\": [", "\"prestart\": [").replacen('{', "{\"mine\": 1,", 1),
    ] {
        host.write(base, lost.as_bytes());
        let said = host.installed("containerd", &["--base-runtime-spec", "--dry-run"]);
        assert!(said.contains("had lost the hook") && host.read(base) == lost, "{said}");
        host.installed("containerd", &["--base-runtime-spec"]);
        assert_eq!((has("createRuntime"), has("poststop")), (1, 1), "{}", host.read(base));
        assert!(host.read(base).contains("\"mine\": 1"));
        let said = host.installed("containerd", &["--base-runtime-spec"]);
        assert!(said.contains("nothing to do"), "{said}");
    }
    // what makes no sense cannot be repaired, and is not written over
    host.write(base, b"{");
    let said = host.refused("containerd", &["--base-runtime-spec"], 1);
    assert!(said.contains("is no JSON") && said.contains("remove the file, then install again"), "{said}");
    fs::remove_file(host.at(base)).unwrap();
    host.installed("containerd", &["--base-runtime-spec"]);
    host.installed("containerd", &["--uninstall"]);
    // somebody else's stands there
    host.write(base, b"{}");
    assert!(host.refused("containerd", &["--base-runtime-spec"], 1).contains("has no hook: remove it"));
}

#[test]
fn a_directory_of_hooks_that_lost_the_hook_is_told() {
    for (runtime, dir, drop_in) in [
        ("crio", "etc/containers/oci/hooks.d", "etc/crio/crio.conf.d/99-nri-enforcer.conf"),
        (
            "podman",
            "etc/containers/oci/nri-enforcer-podman.d",
            "etc/containers/containers.conf.d/99-nri-enforcer.conf",
        ),
    ] {
        let host = Host::new(&[]);
        host.installed(runtime, &[]);
        let file = format!("{dir}/nri-enforcer-createruntime.json");
        let once = [host.read(&file), host.read(drop_in)];
        for path in [&*file, drop_in] {
            fs::remove_file(host.at(path)).unwrap();
            let said = host.installed(runtime, &["--dry-run"]);
            assert!(said.contains(&format!("+++ b/{path}")) && !host.at(path).exists(), "{said}");
            host.installed(runtime, &[]);
        }
        assert_eq!([host.read(&file), host.read(drop_in)], once);
        // a change that leaves the hook where it is is the administrator's affair
        host.write(&file, once[0].replace("\"timeout\": 10", "\"timeout\": 9").as_bytes());
        assert_ne!(host.read(&file), once[0]);
        assert!(host.installed(runtime, &[]).contains("was changed by hand, and stays"));
        for lost in [
            "",
            "{}",
            &once[0].replace(HOOK, "bin/true"),
            &once[0].replace("\"createRuntime\"", "\"prestart\""),
            // in no container, or not in each
            &once[0].replace("\"always\": true", "\"always\": false"),
            &once[0].replace("\"always\": true", ""),
            &once[0].replace("\"always\": true", "\"commands\": [\"^/never$\"]"),
            &once[0].replace("\"always\": true", "\"always\": true, \"annotations\": {\"^x$\": \"y\"}"),
            &once[0].replace("\"when\"", "\"then\""),
        ] {
            assert_ne!(*lost, once[0]);
            host.write(&file, lost.as_bytes());
            let said = host.refused(runtime, &[], 1);
            assert!(said.contains("does not run the hook any more: remove it, then install again"), "{said}");
        }
        host.write(&file, once[0].as_bytes());
        host.write(drop_in, b"# nothing\n");
        let said = host.refused(runtime, &[], 1);
        assert!(said.contains("does not name the directory of the hook any more"), "{said}");
    }
}

/// What the drop-in had to say it must still say; what the other files say it need not.
#[test]
fn cri_os_drop_in_is_looked_at_for_what_it_had_to_say() {
    let (conf, drop_in) = ("etc/crio/crio.conf", "etc/crio/crio.conf.d/99-nri-enforcer.conf");
    let dirs = "[crio.runtime]\nhooks_dir = [\"/etc/containers/oci/hooks.d\"]\n";
    let (on, off) = ("[crio.nri]\nenable_nri = true\n", "[crio.nri]\nenable_nri = false\n");
    // the directory is read already
    let host = Host::new(&[(conf, dirs.as_bytes())]);
    host.installed("crio", &[]);
    assert!(host.read(drop_in).contains(on) && !host.read(drop_in).contains("hooks_dir"));
    host.write(drop_in, format!("# mine\n{on}").as_bytes());
    assert!(host.installed("crio", &[]).contains("was changed by hand, and stays"));
    for lost in [off, "# nothing\n", dirs] {
        host.write(drop_in, lost.as_bytes());
        let said = host.refused("crio", &[], 1);
        assert!(said.contains("does not switch NRI on any more"), "{said}");
    }
    // NRI is on already
    let host = Host::new(&[(conf, on.as_bytes())]);
    host.installed("crio", &[]);
    assert!(host.read(drop_in).contains("hooks_dir") && !host.read(drop_in).contains("enable_nri"));
    host.write(drop_in, format!("# mine\n{dirs}").as_bytes());
    assert!(host.installed("crio", &[]).contains("was changed by hand, and stays"));
    host.write(drop_in, on.as_bytes());
    assert!(host.refused("crio", &[], 1).contains("does not name the directory of the hook any more"));
    // neither
    let host = Host::new(&[]);
    host.installed("crio", &[]);
    host.write(drop_in, dirs.as_bytes());
    assert!(host.refused("crio", &[], 1).contains("does not switch NRI on any more"));
    host.write(drop_in, format!("# mine\n{dirs}{on}").as_bytes());
    host.installed("crio", &[]);
}

/// Files of one name: the directory that is read last wins.
#[test]
fn podman_must_not_read_cri_os_hook_after_its_own() {
    let (crio, own) = ("/etc/containers/oci/hooks.d", "/etc/containers/oci/nri-enforcer-podman.d");
    let engine = "etc/containers/containers.conf";
    let dirs = |dirs: &[&str]| format!("[engine]\nhooks_dir = {dirs:?}\n");
    for (first, second) in [("crio", "podman"), ("podman", "crio")] {
        // podman's is read last, as the drop-in says or the administrator
        for before in
            [&[crio][..], &["/etc/containers/oci/hooks.d/"], &[crio, own], &[own, crio, own], &[own]]
        {
            let host = Host::new(&[(engine, dirs(before).as_bytes())]);
            host.installed(first, &[]);
            host.installed(second, &[]);
        }
        for before in [&[own, crio][..], &[crio, own, "/etc/containers/oci/hooks.d/"]] {
            let host = Host::new(&[(engine, dirs(before).as_bytes())]);
            host.installed(first, &[]);
            let said = host.refused(second, &[], 1);
            assert!(said.contains("runs CRI-O's hook in place of its own"), "{said}");
            host.installed(first, &["--uninstall"]);
            host.installed(second, &[]);
        }
        // the drop-in, changed by hand since
        let host = Host::new(&[]);
        host.installed("podman", &[]);
        if first == "crio" {
            host.installed("crio", &[]);
        }
        let drop_in = "etc/containers/containers.conf.d/99-nri-enforcer.conf";
        host.write(drop_in, dirs(&[own, crio]).as_bytes());
        assert!(host.refused(second, &[], 1).contains("runs CRI-O's hook"));
    }
}

#[test]
fn cri_o_and_podman_get_hooks_and_a_drop_in() {
    let host = Host::new(&[
        (
            "etc/crio/crio.conf",
            b"[crio.runtime]\nhooks_dir = [\"/usr/share/containers/oci/hooks.d\", \"/mine\"]\n",
        ),
        ("etc/crio/crio.conf.d/10-x.conf", b"[crio.nri]\nenable_nri = false\n"),
    ]);
    let before = host.tree();
    host.installed("crio", &[]);
    assert_eq!(
        host.read("etc/crio/crio.conf.d/99-nri-enforcer.conf"),
        "# Made by `nri-enforcer install`, which also removes it (--uninstall).\n[crio.runtime]\nhooks_dir = \
         [\"/usr/share/containers/oci/hooks.d\",\"/mine\",\"/etc/containers/oci/hooks.d\"]\n[crio.nri]\nenable_nri = true\n"
    );
    let hooks = host.read("etc/containers/oci/hooks.d/nri-enforcer-createruntime.json");
    let hooks: Value = serde_json::from_str(&hooks).unwrap();
    assert_eq!(hooks.get("stages").unwrap(), &serde_json::json!(["createRuntime"]));
    assert_eq!(hooks.pointer("/hook/path").unwrap(), "/opt/nri-enforcer/nri-enforcer-hook");
    assert_eq!(hooks.get("version").unwrap(), "1.0.0");
    assert_eq!(hooks.pointer("/hook/args/2"), None, "not podman's");
    let once = host.tree();
    host.installed("crio", &[]);
    assert_eq!(host.tree(), once);
    // the same hook for podman: it stays until both are gone
    let said = host.installed("podman", &[]);
    assert!(said.contains("run the daemon with --nri-socket none"), "{said}");
    for there in ["none", "/etc/crio/crio.conf"] {
        let said = host.installed("podman", &["--nri-socket", there]);
        assert!(!said.contains("podman has no NRI"), "{said}");
    }
    assert!(
        host.read("etc/containers/containers.conf.d/99-nri-enforcer.conf").contains("[engine]\nhooks_dir = ")
    );
    let output = host.install("podman", &["--uninstall"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(host.at(HOOK).exists() && !host.at("etc/containers/containers.conf.d").exists());
    host.installed("podman", &[]);
    host.installed("crio", &["--uninstall"]);
    let hook = |stage: &str| -> Value {
        let path = format!("etc/containers/oci/nri-enforcer-podman.d/nri-enforcer-{stage}.json");
        serde_json::from_str(&host.read(&path)).unwrap()
    };
    for stage in ["precreate", "createruntime", "poststop"] {
        assert_eq!(hook(stage).pointer("/hook/args/2").unwrap(), "--podman", "{stage}");
    }
    assert_eq!(hook("precreate").get("stages").unwrap(), &serde_json::json!(["precreate"]));
    host.installed("podman", &["--uninstall"]);
    assert_eq!(host.tree(), before, "in the other order");
    // what adds to the list takes nothing out of it, before ours or after
    for file in ["50-a.conf", "99-z.conf"] {
        let adds = b"[engine]\nhooks_dir = [\"/more\", {append = true}]\n";
        host.write(&format!("etc/containers/containers.conf.d/{file}"), adds);
    }
    host.installed("podman", &[]);
    let ours = host.read("etc/containers/containers.conf.d/99-nri-enforcer.conf");
    for dir in ["/usr/share/containers/oci/hooks.d", "/more", "/etc/containers/oci/nri-enforcer-podman.d"] {
        assert!(ours.contains(dir), "{dir}: {ours}");
    }
    host.installed("podman", &["--uninstall"]);
    // podman 5 reads root's own files after all of the host's
    let own = "root/.config/containers/containers.conf";
    for (file, dirs) in [(own, ""), ("root/.config/containers/containers.conf.d/a.conf", "\"/mine\"")] {
        host.write(file, format!("[engine]\nhooks_dir = [{dirs}]\n").as_bytes());
        let said = host.refused("podman", &[], 1);
        assert!(said.contains(file) && said.contains("would not run the hook"), "{said}");
        let ours = "[engine]\nhooks_dir = [\"/etc/containers/oci/nri-enforcer-podman.d\"]\n";
        host.write(file, ours.as_bytes());
    }
    host.installed("podman", &[]);
    host.installed("podman", &["--uninstall"]);
    // one that is read after ours would win
    host.write("etc/crio/crio.conf.d/99-z.conf", b"[crio.nri]\nenable_nri = false\n");
    assert!(host.refused("crio", &[], 1).contains("rename it"));
    host.write("etc/crio/crio.conf.d/99-z.conf", b"[crio.nri\n");
    assert!(host.refused("crio", &[], 2).contains("99-z.conf`, line 1"));
}
