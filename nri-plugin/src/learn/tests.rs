use std::collections::BTreeSet;

use enforcer_core::decide::{Access as Asked, Verdict};
use enforcer_core::policy::parse_tests;
use proptest::prelude::*;

use super::generalise::{Learned, Options, Target, generalise};
use super::write::{About, denied, means, policy, test};
use crate::observe::watches::Access;

fn about() -> About {
    About {
        name: "learned-web".into(),
        namespace: "shop".into(),
        labels: [("app".into(), "web".into())].into(),
    }
}

fn seen(accesses: &[Access]) -> BTreeSet<(Access, Vec<u8>)> {
    accesses.iter().map(|access| (access.clone(), b"/bin/app".to_vec())).collect()
}

fn read(path: &str) -> Access {
    Access::Read(path.into())
}

fn write(path: &str) -> Access {
    Access::Write(path.into())
}

const OPTIONS: Options = Options { max_paths: 10, sources: false, wide_sockets: false };

fn files(learned: &Learned) -> Vec<(String, bool)> {
    let shown = |target: &Target| match target {
        Target::Path(path) => path.clone(),
        Target::Directory(dir, true) => format!("{dir}**"),
        Target::Directory(dir, false) => format!("{dir}*"),
        Target::Pattern(pattern) => format!("~{pattern}"),
    };
    learned.file.keys().map(|(target, read_only)| (shown(target), *read_only)).collect()
}

#[test]
fn what_is_seen_is_allowed_as_it_was_seen() {
    let accesses = seen(&[
        read("/etc/passwd"),
        read("/var/log/app"),
        write("/var/log/app"),
        read("/proc/17/stat"),
        read("/proc/18/task/19/comm"),
        write("/proc/18/fd/2"),
        read("/proc/cpuinfo"),
        write("/tmp/x81Hq"),
        read("/var/tmp/a/b"),
        Access::Exec(b"/tmp/x81Hq".to_vec()),
        Access::Exec(b"/bin/app".to_vec()),
        Access::Socket(2, 1, 6),
        Access::Socket(1, 1, 0),
        Access::Capability(13),
    ]);
    let learned = generalise(&accesses, Options { wide_sockets: true, ..OPTIONS });
    let told = |text: &str, read_only| (text.to_owned(), read_only);
    assert_eq!(
        files(&learned),
        [
            told("/etc/passwd", true),
            told("/proc/cpuinfo", true),
            told("/var/log/app", false),
            told("/tmp/**", false),
            told("/var/tmp/**", true),
            told("~/proc/[0-9]*/fd/[0-9]*", false),
            told("~/proc/[0-9]*/stat", true),
            told("~/proc/[0-9]*/task/[0-9]*/comm", true),
        ]
    );
    assert_eq!(learned.process.len(), 2);
    let text = policy(&learned, &about()).unwrap();
    let ruleset = means(&text, &about()).unwrap();
    assert_eq!(denied(&ruleset, &accesses), BTreeSet::new());
    for access in [
        Asked::read(b"/etc/shadow"),
        Asked::write(b"/etc/passwd"),
        Asked::read(b"/proc/1/environ"),
        Asked::exec(b"/bin/sh"),
        Asked::capability("net_admin".parse::<Name>().unwrap().0),
    ] {
        assert_eq!(ruleset.decide(&access).verdict, Verdict::Block, "{access:?}\n{text}");
    }
}

struct Name(enforcer_core::capability::Capability);

impl std::str::FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        enforcer_core::capability::Capability::by_name(text).map(Self).ok_or(())
    }
}

#[test]
fn many_paths_of_a_directory_are_the_directory_and_no_more() {
    let flat: Vec<Access> = (0..11).map(|n| read(&format!("/usr/lib/x/{n}.so"))).collect();
    let told = |accesses: &[Access]| files(&generalise(&seen(accesses), OPTIONS));
    assert_eq!(told(&flat), [("/usr/lib/x/*".to_owned(), true)]);
    assert_eq!(told(&flat[..10]).len(), 10);
    let deep: Vec<Access> = (0..11).map(|n| read(&format!("/usr/lib/{n}/a.so"))).collect();
    assert_eq!(told(&deep), [("/usr/lib/**".to_owned(), true)]);
    let wide: Vec<Access> = (0..11).map(|n| read(&format!("/usr/{n}/a.so"))).collect();
    assert_eq!(told(&wide).len(), 11, "never all of /usr");
    let top: Vec<Access> = (0..11).map(|n| read(&format!("/{n}"))).collect();
    assert_eq!(told(&top).len(), 11, "never the root");
}

#[test]
fn with_sources_each_executable_gets_what_it_did() {
    let accesses: BTreeSet<_> = [
        (read("/etc/a"), b"/bin/one".to_vec()),
        (read("/etc/b"), b"/bin/two".to_vec()),
        (read("/etc/both"), b"/bin/one".to_vec()),
        (read("/etc/both"), b"/bin/two".to_vec()),
        (read("/etc/any"), b"/bin/one".to_vec()),
        (read("/etc/any"), b"memfd:x".to_vec()),
    ]
    .into();
    let learned = generalise(&accesses, Options { sources: true, ..OPTIONS });
    let text = policy(&learned, &about()).unwrap();
    let ruleset = means(&text, &about()).unwrap();
    assert_eq!(denied(&ruleset, &accesses), BTreeSet::new());
    let decide = |path: &str, source: &str| {
        ruleset.decide(&Asked::read(path.as_bytes()).from(source.as_bytes())).verdict
    };
    assert_eq!(decide("/etc/a", "/bin/two"), Verdict::Block);
    assert_eq!(decide("/etc/both", "/bin/two"), Verdict::Allow);
    assert_eq!(decide("/etc/any", "/bin/three"), Verdict::Allow, "who acted has no name");
}

/// Names that would be something else in YAML, in a pattern or on a terminal, and bytes that no policy can have.
#[test]
fn hostile_names_are_allowed_as_they_are_or_told() {
    let names = [
        "/srv/a: b",
        "/srv/#c",
        "/srv/- d",
        "/srv/'\"e",
        "/srv/{f}",
        "/srv/*",
        "/srv/[g]",
        "/srv/\nh: i",
        "/srv/\u{1b}[31m",
        "/srv/%TAG",
        "/srv/&x *x",
        "/srv/!!int 3",
        "/srv/null",
        "/srv/~",
        "/srv/ ",
        "/srv/\u{feff}",
        "/srv/\u{85}",
        "/proc/1/*",
        "/proc/1/{a,b}",
        "/proc/1/a\\b",
        "/proc/1/[^x]",
        "/proc/12a/x",
        "/tmp/\n",
        "/srv/...",
        "/srv/a\tb",
    ];
    let mut accesses: Vec<Access> =
        names.iter().flat_map(|name| [read(name), Access::Exec((*name).into())]).collect();
    accesses.push(Access::Read(b"/srv/\xff".to_vec()));
    accesses.push(Access::Exec(b"memfd:x".to_vec()));
    let accesses = seen(&accesses);
    let learned = generalise(&accesses, Options { max_paths: 100, ..OPTIONS });
    let omitted: Vec<_> = learned.omitted.iter().map(|(access, _)| access.clone()).collect();
    assert_eq!(omitted, [Access::Exec(b"memfd:x".to_vec()), Access::Read(b"/srv/\xff".to_vec())]);
    let text = policy(&learned, &about()).unwrap();
    let ruleset = means(&text, &about()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(denied(&ruleset, &accesses), omitted.into_iter().collect(), "{text}");
    for other in ["/srv/b", "/srv/x", "/srv/f", "/proc/1/x", "/proc/1/a", "/proc/1/ab"] {
        assert_eq!(ruleset.decide(&Asked::read(other.as_bytes())).verdict, Verdict::Block, "{other}\n{text}");
    }
}

#[test]
fn what_yaml_would_break_is_told() {
    for sign in ['\u{2028}', '\u{2029}'] {
        let accesses = [Access::Exec(format!("/{sign}").into_bytes()), Access::Read(b"/a".to_vec())];
        let accesses: BTreeSet<_> = accesses.into_iter().map(|access| (access, Vec::new())).collect();
        let learned = generalise(&accesses, Options { max_paths: 5, sources: false, wide_sockets: false });
        assert_eq!(learned.omitted.len(), 1, "{sign:?}");
        assert!(means(&policy(&learned, &about()).unwrap(), &about()).is_ok());
    }
}

fn access() -> impl Strategy<Value = (Access, Vec<u8>)> {
    let name = prop_oneof![
        4 => "[a-c]{1,2}",
        1 => "[0-9]{1,3}",
        1 => "[ -~]{1,4}",
        1 => Just("proc".to_owned()), 1 => Just("tmp".to_owned()), 1 => Just("fd".to_owned()), 1 => Just("task".to_owned()),
        1 => "\\PC{1,3}",
        1 => any::<[char; 2]>().prop_map(String::from_iter),
    ];
    let path = proptest::collection::vec(name, 0..6).prop_map(|names| format!("/{}", names.join("/")));
    let path = prop_oneof![9 => path.prop_map(String::into_bytes), 1 => proptest::collection::vec(any::<u8>(), 0..20)];
    let access = (path, 0..5, any::<(u8, u8, u8)>()).prop_map(|(path, kind, (a, b, c))| match kind {
        0 => Access::Exec(path),
        1 | 2 => Access::Read(path),
        3 => Access::Write(path),
        _ if a % 2 == 0 => Access::Socket((a / 2 % 50).into(), (b % 12).into(), c.into()),
        _ => Access::Capability((a % 64).into()),
    });
    (access, prop_oneof!["/bin/[a-c]", "/bin/[a-c]", Just(String::new()), "\\PC{0,3}"])
        .prop_map(|(access, source)| (access, source.into_bytes()))
}

proptest! {
    /// Every access is allowed by the policy that is written, or told as omitted; and its test passes on it.
    #[test]
    fn what_was_seen_is_allowed_or_told(
        accesses in proptest::collection::btree_set(access(), 1..120),
        max_paths in 1..6_usize,
        sources: bool,
    ) {
        let learned = generalise(&accesses, Options { max_paths, sources, wide_sockets: sources });
        let omitted: BTreeSet<Access> = learned.omitted.iter().map(|(access, _)| access.clone()).collect();
        if learned.is_empty() {
            prop_assert_eq!(omitted.len(), accesses.iter().map(|(access, _)| access).collect::<BTreeSet<_>>().len());
            return Ok(());
        }
        let text = policy(&learned, &about()).unwrap();
        let ruleset = means(&text, &about());
        prop_assert!(ruleset.is_ok(), "{:?}\n{}", ruleset, text);
        let ruleset = ruleset.unwrap();
        let denied = denied(&ruleset, &accesses);
        prop_assert!(denied.is_subset(&omitted), "{:?}\n{}", denied, text);
        let (test, left_out) = test(&accesses, &ruleset, &about(), "p.yaml", sources).unwrap();
        prop_assert_eq!(left_out, 0);
        let parsed = parse_tests("t.yaml", &test, false);
        prop_assert!(parsed.errors.is_empty(), "{:?}\n{}", parsed.errors, test);
        for case in &parsed.tests[0].cases {
            let source = case.source.as_ref().map(enforcer_core::path::AbsPath::as_bytes);
            let asked = case.question.access(source, case.uid, case.owner);
            prop_assert_eq!(ruleset.decide(&asked).verdict, case.expect, "{}\n{}", case.name, text);
        }
    }
}

/// Who resolves a name has a netlink socket, and no need of packets.
#[test]
fn a_socket_that_is_none_of_ip_allows_no_other_unless_asked() {
    use enforcer_core::network::{SocketAccess, SocketOp};
    let netlink = Access::Socket(16, 3, 0);
    let accesses = seen(&[netlink.clone(), Access::Socket(2, 1, 6)]);
    for wide_sockets in [false, true] {
        let learned = generalise(&accesses, Options { wide_sockets, ..OPTIONS });
        let ruleset = means(&policy(&learned, &about()).unwrap(), &about()).unwrap();
        let verdict = |family, kind| {
            let socket =
                SocketAccess { op: SocketOp::Create, family, kind, protocol: 255, address: None, port: 0 };
            ruleset.decide(&Asked::socket(socket)).verdict
        };
        let expected = if wide_sockets { Verdict::Allow } else { Verdict::Block };
        assert_eq!((verdict(2, 3), verdict(17, 3)), (expected, expected));
        assert_eq!(denied(&ruleset, &accesses).contains(&netlink), !wide_sockets);
        let told =
            learned.omitted.iter().any(|(access, why)| *access == netlink && why.contains("--wide-sockets"));
        assert_eq!((told, learned.wide.len()), (!wide_sockets, usize::from(wide_sockets)));
    }
    for access in [Access::Socket(1, 1, 0), Access::Socket(1, 2, 0), Access::Socket(1, 5, 0)] {
        let learned = generalise(&seen(std::slice::from_ref(&access)), OPTIONS);
        assert!(learned.is_empty() && learned.omitted.iter().any(|(omitted, _)| *omitted == access));
    }
}
