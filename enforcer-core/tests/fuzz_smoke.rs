//! The fuzz targets without a fuzzer: damaged examples and made-up inputs for a time, `FUZZ_SECONDS` each (30 by
//! default). An input unlike those before joins the corpus that the next ones are made of. `FUZZ_SEED` repeats a run as
//! far as it got; what fails prints its input.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../fuzz/checks.rs"]
mod checks;
#[path = "../fuzz/naive.rs"]
mod naive;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// The longest that one input may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest corpus.
const CORPUS: usize = 2000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

struct PrintOnPanic<'a>(&'a [u8]);

impl Drop for PrintOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was b\"{}\"", self.0.escape_ascii());
        }
    }
}

fn fuzz(
    mut corpus: Vec<Vec<u8>>,
    words: &[&str],
    longest: usize,
    make: impl Fn(&mut SmallRng) -> Vec<u8>,
    check: impl Fn(&[u8]) -> String,
) {
    let seed = number("FUZZ_SEED", 0x5eed);
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", 30));
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut seen = BTreeSet::new();
    let mut count = 0_u64;
    while Instant::now() < until {
        for _ in 0..64 {
            let mut input =
                if rng.random_bool(0.3) { make(&mut rng) } else { corpus.choose(&mut rng).unwrap().clone() };
            for _ in 0..rng.random_range(0..6) {
                damage(&mut rng, &mut input, &corpus, words);
            }
            input.truncate(longest);
            let started = Instant::now();
            let guard = PrintOnPanic(&input);
            let like = check(&input);
            assert!(started.elapsed() < PATIENCE, "it took {:?}", started.elapsed());
            drop(guard);
            if seen.insert(like) && corpus.len() < CORPUS {
                corpus.push(input);
            }
            count += 1;
        }
    }
    println!("{count} inputs of {} kinds, seed {seed:#x}", seen.len());
    assert!(count > 64 && seen.len() > 1, "{count} inputs of {} kinds", seen.len());
}

/// Changes something: a byte, a run of bytes, a word put in, a part of another input.
fn damage(rng: &mut SmallRng, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    let at = rng.random_range(0..=input.len());
    let end = (at + rng.random_range(0..20)).min(input.len());
    match rng.random_range(0..6) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = rng.random();
            }
        }
        1 => drop(input.drain(at..end)),
        2 => {
            let run = input[at..end].to_vec();
            input.splice(at..at, run);
        }
        3 | 4 => {
            if let Some(word) = words.choose(rng) {
                input.splice(at..end.min(at + word.len()), word.bytes());
            }
        }
        _ => {
            let other = corpus.choose(rng).unwrap();
            let from = rng.random_range(0..=other.len());
            let to = (from + rng.random_range(0..200)).min(other.len());
            input.splice(at..at, other[from..to].iter().copied());
        }
    }
}

const YAML: [&str; 60] = [
    "---\n",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "&a ",
    "*a ",
    "!!str ",
    "|\n",
    "\"",
    "'",
    "#",
    "\n",
    "  ",
    "~",
    "\0",
    "\u{2028}",
    "true",
    "1e9",
    "-1",
    "99999999999999999999",
    "apiVersion: ",
    "kind: ",
    "KubeArmorPolicy",
    "KubeArmorClusterPolicy",
    "KubeArmorHostPolicy",
    "List\nitems:\n",
    "selector: {}\n",
    "matchLabels: ",
    "matchExpressions: ",
    "process: ",
    "file: ",
    "network: ",
    "capabilities: ",
    "syscalls: ",
    "presets: ",
    "matchPaths: ",
    "matchDirectories: ",
    "matchPatterns: ",
    "matchProtocols: ",
    "matchDestinations: ",
    "matchListeners: ",
    "matchCapabilities: ",
    "matchSyscalls: ",
    "fromSource: ",
    "path: /x",
    "dir: /x/",
    "pattern: /x/{a,[b-c]}/**",
    "protocol: tcp,udp",
    "cidr: 10.0.0.0/8",
    "ports: [1-2, 443]",
    "capability: net_raw",
    "syscall: [unlink]",
    "allowedArgs: [-c]",
    "pts: false",
    "action: Allow",
    "action: Audit",
];

/// A policy with a rule of each list, most of it well written.
fn policy(rng: &mut SmallRng) -> Vec<u8> {
    fn one<'a>(rng: &mut SmallRng, of: &[&'a str]) -> &'a str {
        of.choose(rng).copied().unwrap_or_default()
    }
    let kinds = ["KubeArmorPolicy", "KubeArmorPolicy", "KubeArmorClusterPolicy", "KubeArmorHostPolicy"];
    let kind = one(rng, &kinds);
    let selector = if kind == "KubeArmorHostPolicy" { "nodeSelector" } else { "selector" };
    let mut text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: {kind}\nmetadata: {{name: p}}\nspec:\n  {selector}: {{}}\n"
    );
    let sections: [(&str, &[(&str, &str)]); 5] = [
        (
            "process",
            &[
                ("matchPaths", "path: /bin/x"),
                ("matchPaths", "execname: x"),
                ("matchPatterns", "pattern: '/a/*'"),
            ],
        ),
        (
            "file",
            &[
                ("matchPaths", "path: /x"),
                ("matchDirectories", "dir: /x/"),
                ("matchPatterns", "pattern: '/{a,b}?/**'"),
            ],
        ),
        (
            "network",
            &[
                ("matchProtocols", "protocol: 'TCP, raw'"),
                ("matchDestinations", "cidr: 10.0.0.0/8"),
                ("matchListeners", "ports: [80, 8000-8999]"),
                ("matchDNSQueries", "domain: example.com"),
            ],
        ),
        ("capabilities", &[("matchCapabilities", "capability: CAP_SYS_ADMIN")]),
        (
            "syscalls",
            &[("matchSyscalls", "syscall: [unlink, rmdir]"), ("matchPaths", "path: /x, syscall: [chmod]")],
        ),
    ];
    let extras = [
        "pts: false",
        "ownerOnly: true",
        "readOnly: true",
        "recursive: true",
        "allowedArgs: [a, b]",
        "protocol: udp",
        "ports: 443",
        "fromSource: [{path: /bin/a}, {path: /bin/b}]",
        "fromSource: [{dir: /bin/, recursive: true}]",
        "severity: 5",
        "tags: [a, b]",
        "message: m",
        "action: Allow",
        "action: Audit",
        "action: Block",
    ];
    for (section, lists) in sections {
        if !rng.random_bool(0.5) {
            continue;
        }
        text += &format!("  {section}:\n");
        if rng.random_bool(0.2) {
            text += &format!("    {}\n", one(rng, &extras[9..13]));
        }
        let mut written = BTreeSet::new();
        for (list, object) in lists.iter().filter(|(list, _)| written.insert(*list)) {
            let rules: Vec<_> = (0..rng.random_range(1..3))
                .map(|_| {
                    // what fits every rule, and now and then what may not
                    let more = match rng.random_range(0..20) {
                        0..10 => String::new(),
                        10..18 => format!(", {}", one(rng, &extras[9..12])),
                        _ => format!(", {}", one(rng, &extras)),
                    };
                    format!("{{{object}{more}}}")
                })
                .collect();
            text += &format!("    {list}: [{}]\n", rules.join(", "));
        }
    }
    if rng.random_bool(0.3) {
        text += "  presets: [{name: exec, action: Audit}, {name: filelessExec}]\n";
    }
    text.into_bytes()
}

#[test]
fn policy_texts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/policies");
    let examples =
        std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let corpus: Vec<_> = examples.collect();
    assert!(corpus.len() > 10);
    // Most of what is made up must be good, or little behind the first mistake would ever run.
    let mut rng = SmallRng::seed_from_u64(1);
    let accepted = (0..200).filter(|_| {
        let text = policy(&mut rng);
        !enforcer_core::policy::parse("f", std::str::from_utf8(&text).unwrap()).policies.is_empty()
    });
    assert!(accepted.count() > 60);
    fuzz(corpus, &YAML, 1 << 16, policy, checks::policy_text);
}

#[test]
fn patterns() {
    let words = [
        "/", "*", "**", "?", "[a-c]", "[^a]", "[!/", "{a,b}", "{,x}", "{/a,/b}", "\\", "]", "}", ",", "a",
        "b", "\0", "é",
    ];
    let make = |rng: &mut SmallRng| {
        let mut input = b"/".to_vec();
        for _ in 0..rng.random_range(0..10) {
            input.extend(words.choose(rng).unwrap().bytes());
        }
        input.push(0);
        for _ in 0..rng.random_range(0..12) {
            input.push(*b"//aabbcx*".choose(rng).unwrap());
        }
        input
    };
    fuzz(vec![b"/a/*/b\0/a/x/b".to_vec()], &words, 160, make, checks::pattern);
}

#[test]
fn audit_records() {
    let words = [
        "audit(1.000:2): ",
        "apparmor=\"DENIED\" ",
        "operation=\"open\" ",
        "profile=\"nri-enforcer.a.b//other\" ",
        "label=",
        "namespace=\"x\" ",
        "name=\"/etc/passwd\" ",
        "name=2F62 ",
        "pid=7 ",
        "comm=\"cat\" ",
        "denied_mask=\"r\" ",
        "capname=\"net_raw\" ",
        "family=\"inet\" sock_type=\"raw\" protocol=1 ",
        "peer=\"x\" ",
        "fsuid=0 ouid=0 ",
        "avc:  denied  { read } for ",
        "tcontext=nri_enforcer_rw_u:object_r:t:s0 ",
        "scontext=a:b:c ",
        "tclass=dir ",
        "ino=7 ",
        "path=\"/x\" ",
        "\"",
        "=",
        " ",
        "{",
        "}",
        "//&",
    ];
    let make = |rng: &mut SmallRng| {
        let mut input = b"audit(1.000:2): ".to_vec();
        input.extend(if rng.random_bool(0.5) {
            &b"apparmor=\"DENIED\" "[..]
        } else {
            b"avc:  denied  { read } for "
        });
        for _ in 0..rng.random_range(0..12) {
            input.extend(words.choose(rng).unwrap().bytes());
        }
        input
    };
    let whole = "audit(1.000:2): apparmor=\"DENIED\" operation=\"open\" profile=\"nri-enforcer.a.b\" name=\"/etc/passwd\" \
        pid=1 comm=\"cat\" requested_mask=\"r\" denied_mask=\"r\" fsuid=0 ouid=0";
    assert!(checks::audit(whole.as_bytes()).contains("open"), "what is whole is read");
    fuzz(vec![whole.into()], &words, 12_000, make, checks::audit);
}

#[cfg(feature = "bpf")]
#[test]
fn events() {
    use enforcer_bpf::{Shared, types};
    let versions: Vec<u32> = (0..16)
        .filter(|version| {
            let head = types::event { version: *version, ..Default::default() };
            !checks::event(head.bytes()).contains("of version")
        })
        .collect();
    assert_eq!(versions.len(), 1, "one version is read");
    let make = |rng: &mut SmallRng| {
        let head = types::event { version: versions[0], ..Default::default() };
        let mut bytes = head.bytes().to_vec();
        // Small numbers, which fields hold, in a few places, but not in the version's.
        for _ in 0..rng.random_range(0..12) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random_range(0..24);
        }
        if rng.random_bool(0.8) {
            let version = types::event { version: versions[0], ..Default::default() };
            bytes.iter_mut().zip(version.bytes()).take(4).for_each(|(to, from)| *to = *from);
        }
        bytes.extend((0..rng.random_range(0..600)).map(|_| rng.random::<u8>()));
        bytes
    };
    let whole = types::event { version: versions[0], ..Default::default() }.bytes().to_vec();
    fuzz(vec![whole], &["\0\0\0\0", "\u{1}", "/bin/sh"], 1 << 14, make, checks::event);
}
