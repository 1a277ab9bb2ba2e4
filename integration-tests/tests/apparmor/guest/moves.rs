//! Where executing leads, and what the documentation says of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use enforcer_core::compile::apparmor::AppArmorProfile;
use enforcer_core::enforce::apparmor::AppArmor;
use enforcer_core::ruleset::{PostureAction, Postures};
use lab::image;

use super::{profile, set, set_with, source, start, tried};

/// What one program may not do, and one thing that nobody may.
const SOURCES: &str = "file: {matchDirectories: [{dir: /w/data/, recursive: true, fromSource: [{path: /w/bin/source}]}], \
    matchPaths: [{path: /w/data/b}, {path: /w/data/a, action: Allow, fromSource: [{path: /w/bin/source}]}]}";

/// Executing leads to the right profile, and nothing leads out.
pub(super) fn transitions(apparmor: &AppArmor) {
    let profile = profile(&set(SOURCES), "nri-enforcer.sources");
    apparmor.load(&profile).unwrap();
    let all = profile.name.as_str();
    let label = |child: &str| format!("{all}{child} (enforce)");
    let of_source = format!("//{}", source());
    for start in ["", "//other", &of_source] {
        let lines = ["label /w/bin/other", "label /w/bin/source"].map(str::to_owned);
        let answers = tried(&format!("{all}{start}"), &["/w/bin/tool"], &lines);
        assert_eq!(answers, [label("//other"), "0".into(), label(&of_source), "0".into()], "{start:?}");
    }
    let escapes: Vec<String> =
        ["current changeprofile unconfined", "exec exec unconfined", "current changeprofile ALL//other"]
            .iter()
            .chain(&[
                "exec exec ALL//SOURCE",
                "current changehat 0000000000000000^other",
                "exec exec docker-default",
            ])
            .map(|way| {
                let (file, text) = way.split_once(' ').unwrap();
                format!(
                    "put /proc/self/attr/apparmor/{file} {}",
                    text.replace("ALL", all).replace("SOURCE", &source())
                )
            })
            .chain(["put /sys/kernel/security/apparmor/.remove nri-enforcer.sources".to_owned()])
            .collect();
    for start in ["", "//other", &of_source] {
        let answers = tried(&format!("{all}{start}"), &["/w/bin/tool"], &escapes);
        for (way, answer) in escapes.iter().zip(&answers) {
            assert!(answer != "0", "{start}: {way}");
        }
    }
    // what the kernel denies without an escape is what it says
    let answers = tried(all, &["/w/bin/other", "through", "/w/bin/source"], &["read /w/data/b".to_owned()]);
    assert_eq!(answers, ["13"]);
}

/// What the documentation says of `ld.so`, scripts, what the runtime starts, and mounts; and that the kernel reports.
pub(super) fn claims(apparmor: &AppArmor) {
    let rules = "process: {matchPaths: [{path: /w/bin/tool}, {path: /w/bin/dynamic}]}\n  file: {matchPaths: [{path: /w/data/b}]}";
    let profile = profile(&set(rules), "nri-enforcer.claims");
    apparmor.load(&profile).unwrap();
    for (path, content) in [
        ("/w/bin/dynamic", image::GOAL_DYNAMIC),
        ("/w/bin/unnamed", image::GOAL_DYNAMIC),
        ("/w/bin/script", b"#!/w/bin/tool nothing\n"),
    ] {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let status = |command: &str| {
        let mut child = start(profile.name.as_str(), &["sh", "-c", command], "");
        child.wait().unwrap().code()
    };
    let ld_so = |program: &str| status(&format!("/lib64/ld-linux-x86-64.so.2 {program}"));
    assert_eq!(ld_so("/w/bin/unnamed"), status("/w/bin/unnamed"), "that is how it ends when it runs");
    assert_ne!(
        ld_so("/w/bin/dynamic"),
        status("/w/bin/unnamed"),
        "a program that is named is not run by ld.so"
    );
    assert_eq!(status("exec /w/bin/dynamic"), Some(126));
    assert_eq!(status("exec /w/bin/tool nothing"), Some(126));
    assert_ne!(status("/w/bin/script"), Some(126), "the interpreter of a script is not judged");
    let start = start(profile.name.as_str(), &["/w/bin/tool", "nothing"], "").wait().unwrap();
    assert!(start.success(), "what the runtime starts is not judged");
    for mount in ["mount --bind /w/free /w/data", "mount -t tmpfs none /w/free", "mount -o remount,ro /"] {
        assert_ne!(status(mount), Some(0), "{mount}");
    }
    // the kernel's log holds so many lines a second and no more, unless it is told otherwise; a thread of its own writes them
    let limit = |seconds: &str| fs::write("/proc/sys/kernel/printk_ratelimit", seconds).unwrap();
    let told = || {
        let log = Command::new("dmesg").output().unwrap().stdout;
        String::from_utf8_lossy(&log).lines().any(|line| {
            line.contains("apparmor=\"DENIED\"")
                && line.contains("nri-enforcer.claims")
                && line.contains("/w/data/b")
        })
    };
    limit("0");
    let reported = (0..50).any(|_| {
        assert_ne!(status("true < /w/data/b"), Some(0));
        std::thread::sleep(Duration::from_millis(100));
        told()
    });
    limit("5");
    assert!(reported, "no report");
}

/// A mount that is attached nowhere gives files other paths, and whoever makes a user namespace may make one; so may a new
/// file system have any path in it. Without what denies the capabilities for it each trick works.
pub(super) fn round_paths(apparmor: &AppArmor) {
    let volume = Path::new("/volume");
    fs::create_dir(volume).unwrap();
    let mount = |command: &str| assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    mount("mount -t tmpfs -o mode=0777 none /volume");
    fs::write(volume.join("secret"), "x").unwrap();
    fs::write(volume.join("plain"), "x").unwrap();

    let read = ["read /volume/secret", "as 1000 read /volume/secret"];
    let tricks =
        ["tree /volume secret", "unshared tree /volume secret", "as 1000 unshared tree /volume secret"];
    let blocked = "file: {matchPaths: [{path: /volume/secret}]}";
    no_way_round(apparmor, &profile(&set(blocked), "nri-enforcer.claims"), &read, &tricks);
    let native = "apparmor: \"deny /volume/secret r,\"";
    no_way_round(apparmor, &profile(&set(native), "nri-enforcer.claims"), &read, &tricks);
    no_way_round(apparmor, &profile(&set(blocked), "nri-enforcer.claims"), &read, &["handle /volume/plain"]);

    // a program of one's own, by the path of one that is allowed
    let made = ["/w/bin/other", "/w/bin/none"].map(|path| {
        [format!("made {path}"), format!("unshared made {path}"), format!("as 1000 unshared made {path}")]
    });
    let [allowed, others] = made.each_ref().map(|lines| lines.each_ref().map(String::as_str));
    let block = PostureAction::Block;
    let postures = Postures { process: Some(block), ..Postures::default() };
    let whitelist = set_with("process: {matchPaths: [{path: /w/bin/other, action: Allow}]}", &postures);
    no_way_round(apparmor, &profile(&whitelist, "nri-enforcer.claims"), &others, &allowed);
    // what only one program may read
    let postures = Postures { file: block, process: Some(PostureAction::Allow), ..Postures::default() };
    let alone = set_with(
        "file: {matchPaths: [{path: /volume/secret, action: Allow, fromSource: [{path: /w/bin/source}]}], \
         matchDirectories: [{dir: /, recursive: true, action: Allow}, {dir: /volume/, recursive: true}]}",
        &postures,
    );
    let profile = profile(&alone, "nri-enforcer.sources");
    let way = ["as 1000 unshared made /w/bin/source"];
    no_way_round(apparmor, &profile, &read, &way);
    mount("umount /volume");
}

/// Under the profile none of these is done; the tricks are without what denies the capabilities that they need.
fn no_way_round(apparmor: &AppArmor, profile: &AppArmorProfile, denied: &[&str], tricks: &[&str]) {
    let under = |profile: &AppArmorProfile, lines: &[&str]| {
        apparmor.load(profile).unwrap_or_else(|error| panic!("{error}\n{}", profile.text));
        let label =
            profile.profiles.iter().find(|name| name.ends_with("//other")).unwrap_or(&profile.profiles[0]);
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        lines.iter().cloned().zip(tried(label, &["/w/bin/tool"], &lines)).collect::<Vec<_>>()
    };
    let withheld = |line: &&str| !line.contains("deny capability");
    let text = profile.text.lines().filter(withheld).map(|line| format!("{line}\n")).collect();
    let open = AppArmorProfile { text, ..profile.clone() };
    assert_ne!(open.text, profile.text);
    for (trick, answer) in under(&open, tricks) {
        assert_eq!(answer, "0", "{trick} is no trick\n{}", open.text);
    }
    for (line, answer) in under(&open, denied).into_iter().chain(under(profile, &[denied, tricks].concat())) {
        assert!(matches!(&*answer, "1" | "13"), "{line} is answered by {answer}\n{}", profile.text);
    }
}

/// By a link of which the kernel does not ask whether it opens more, another's file could be read.
pub(super) fn native_links(apparmor: &AppArmor) {
    let rules = "file: {matchPaths: [{path: /w/data/mine}]}\n  apparmor: \"/w/free/** rwl,\"";
    let profile = profile(&set(rules), "nri-enforcer.claims");
    apparmor.load(&profile).unwrap();
    let lines =
        ["link /w/data/mine /w/free/x", "as 1000 link /w/data/mine /w/free/x", "link /w/data/a /w/free/x"];
    let answers = tried(profile.name.as_str(), &["/w/bin/tool"], &lines.map(str::to_owned));
    assert!(answers.iter().take(2).all(|answer| matches!(&**answer, "1" | "13")), "{answers:?}");
    assert_eq!(answers[2], "0", "its own file, which nothing denies");
}
