//! How profiles are loaded, exchanged under processes, kept, found again and removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use enforcer_core::compile::apparmor::{AppArmorProfile, Options, ProfileName, compile};
use enforcer_core::enforce::apparmor::{AppArmor, AppArmorError};
use lab::corpus::actor::Visitor;
use lab::corpus::world;

use super::compared::PROFILE;
use super::{profile, set, source, start, tried, under};

/// A program that is asked line by line.
fn asked(label: &str, program: &str) -> Visitor {
    Visitor::start(&mut under(label, &[program])).unwrap()
}

/// While profiles are exchanged, what all of them deny is denied.
pub(super) fn exchanged(apparmor: &AppArmor) {
    let both = ["a", "b"].map(|other| {
        let rules = format!("file: {{matchPaths: [{{path: /w/data/deep/c}}, {{path: /w/data/{other}}}]}}");
        profile(&set(&rules), "nri-enforcer.exchanged")
    });
    apparmor.load(&both[0]).unwrap();
    let lines = "read /w/data/deep/c\n".repeat(20_000);
    let reader = std::thread::spawn(move || {
        start("nri-enforcer.exchanged", &["/w/bin/other"], &lines).wait_with_output()
    });
    let mut exchanges = 0;
    while !reader.is_finished() && exchanges < 400 {
        exchanges += 1;
        apparmor.load(&both[exchanges % 2]).unwrap();
    }
    let answers = String::from_utf8(reader.join().unwrap().unwrap().stdout).unwrap();
    let denied = answers.lines().filter(|answer| *answer == "13").count();
    println!("{exchanges} exchanges, {denied} denied");
    assert!(exchanges > 3, "only {exchanges} exchanges");
    assert_eq!((denied, answers.lines().count()), (20_000, 20_000));
}

/// Loaded, exchanged under a process, kept while it is used, found again, removed.
pub(super) fn lifecycle(apparmor: &AppArmor) {
    let blocks = |path: &str| set(&format!("file: {{matchPaths: [{{path: {path}}}]}}"));
    let name: ProfileName = "nri-enforcer.life".parse().unwrap();
    apparmor.load(&profile(&blocks("/w/data/a"), name.as_str())).unwrap();
    let mut one = asked(name.as_str(), world::OTHER);
    let mut ask = |line: &str| one.ask(line).unwrap();
    assert_eq!((ask("read /w/data/a"), ask("read /w/data/b")), ("13".into(), "0".into()));
    // exchanged under the process
    apparmor.load(&profile(&blocks("/w/data/b"), name.as_str())).unwrap();
    assert_eq!((ask("read /w/data/a"), ask("read /w/data/b")), ("0".into(), "13".into()));
    // what the parser refuses changes nothing
    let bad = AppArmorProfile { text: "profile x {".into(), ..profile(&blocks("/x"), name.as_str()) };
    assert!(matches!(apparmor.load(&bad), Err(AppArmorError::Refused { .. })));
    assert_eq!(ask("read /w/data/b"), "13");
    // another daemon finds it, and removes what nobody has: the profiles of others stay
    Command::new("sh")
        .args(["-c", "echo 'profile stranger { file, }' | /lab/apparmor_parser -K -r"])
        .status()
        .unwrap();
    let again = AppArmor::open(Some(Path::new("/lab/apparmor_parser"))).unwrap();
    let loaded = again.loaded().unwrap();
    assert!(loaded.contains(&name) && loaded.len() == 5, "{loaded:?}");
    assert_eq!(again.in_use().unwrap(), BTreeSet::from([name.clone()]));
    let kept: ProfileName = PROFILE.parse().unwrap();
    let removed = again.remove_unused(&BTreeSet::from([kept.clone()])).unwrap();
    let unused =
        ["claims", "exchanged", "sources"].map(|name| format!("nri-enforcer.{name}").parse().unwrap());
    assert_eq!(removed, unused);
    assert_eq!(ask("read /w/data/b"), "13", "it is used");
    one.end().unwrap();
    assert_eq!(again.remove_unused(&BTreeSet::from([kept.clone()])).unwrap(), [name]);
    assert_eq!(again.loaded().unwrap(), BTreeSet::from([kept]));
    let left = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap();
    assert!(left.contains("stranger (enforce)") && !left.contains("sources"), "{left}");
    let nowhere = AppArmor::open(Some(Path::new("/nonexistent"))).unwrap();
    let refused = nowhere.load(&profile(&blocks("/x"), "nri-enforcer.x"));
    assert!(matches!(refused, Err(AppArmorError::NoParser { .. })), "{refused:?}");
    children(apparmor);
}

/// A process in a child has the rules of the profile that is loaded, whatever became of its source. The kernel would let
/// it keep those of before.
fn children(apparmor: &AppArmor) {
    let name: ProfileName = "nri-enforcer.children".parse().unwrap();
    let of = |rules: &str, keep| {
        let set = set(&format!("file: {{matchPaths: [{rules}]}}"));
        compile(&set.ruleset, &[], &Options { keep, ..Options::named(name.clone()) })
    };
    let load = |rules: &str| apparmor.load(&of(rules, apparmor.children(&name).unwrap())).unwrap();
    let first = "{path: /w/data/a, fromSource: [{path: /w/bin/source}]}";
    load(first);
    let mut one = asked(&format!("{name}//{}", source()), world::SOURCE);
    let mut other = asked(&format!("{name}//other"), world::OTHER);
    let mut ask = || {
        let mut both =
            |file: &str| [&mut one, &mut other].map(|visitor| visitor.ask(&format!("read {file}")).unwrap());
        (both("/w/data/a"), both("/w/data/b"))
    };
    let no = || "13".to_owned();
    let yes = || "0".to_owned();
    assert_eq!(ask(), ([no(), yes()], [yes(), yes()]));
    // a source that comes before it in the alphabet
    load(&format!("{first}, {{path: /w/data/b, fromSource: [{{path: /w/bin/a}}]}}"));
    assert_eq!(ask(), ([no(), yes()], [yes(), yes()]));
    // no rule has a source any more
    let last = "{path: /w/data/b}";
    let refused = apparmor.load(&of(last, BTreeSet::new()));
    assert!(matches!(refused, Err(AppArmorError::ChildrenStay { .. })), "{refused:?}");
    load(last);
    assert_eq!(ask(), ([yes(), yes()], [no(), no()]));
    one.end().unwrap();
    other.end().unwrap();
}

/// In another mode of the whole the kernel denies nothing, and lists each profile as enforced.
pub(super) fn complaining(apparmor: &AppArmor) {
    let profile = profile(&set("file: {matchPaths: [{path: /w/data/b}]}"), "nri-enforcer.mode");
    apparmor.load(&profile).unwrap();
    let mode = |mode: &str| fs::write("/sys/module/apparmor/parameters/mode", mode).unwrap();
    let read = || tried(profile.name.as_str(), &[world::OTHER], &["read /w/data/b".to_owned()]);
    assert_eq!(read(), ["13"]);
    mode("complain");
    let answers = (read(), apparmor.loaded(), apparmor.load(&profile));
    let listed = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap();
    mode("enforce");
    assert_eq!(answers.0, ["0"]);
    assert!(matches!(answers.1, Err(AppArmorError::Unenforced { .. })), "{:?}", answers.1);
    assert!(matches!(answers.2, Err(AppArmorError::Unenforced { .. })), "{:?}", answers.2);
    assert!(listed.contains("nri-enforcer.mode (enforce)"), "{listed}");
    assert_eq!(read(), ["13"]);
    apparmor.load(&profile).unwrap();
}
