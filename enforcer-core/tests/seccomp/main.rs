//! Seccomp profiles, through the real libseccomp, against what the policies mean. `SECCOMP_CASES` and `SECCOMP_SEED`
//! choose others.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod filter;
mod world;

use enforcer_core::capability::Capability;
use enforcer_core::coverage::GapReason;
use enforcer_core::policy::{SeccompPolicy, parse};
use enforcer_core::seccomp::oci::{ActionName, LinuxSeccomp};
use enforcer_core::seccomp::width::{mask, widths};
use enforcer_core::seccomp::{
    self, Action, Arch, Base, BaseProfile, Call, Node, SeccompProfile, SyscallName, compile, decide,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::filter::{Filter, Runtime};
use self::world::World;

/// How many calls each filter is asked.
const CALLS: usize = 4_000;

fn node() -> Node {
    let version = libseccomp::ScmpVersion::current().unwrap();
    let libseccomp = (version.major, version.minor, version.micro);
    Node { arch: Arch::X86_64, libseccomp }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Whether an answer may be stricter than what is meant: `compile` tells where.
fn may_be_stricter(gaps: &[(SyscallName, GapReason)], name: SyscallName, call: &Call) -> bool {
    let upper = call.args.iter().enumerate().any(|(index, value)| {
        let narrow = mask(widths(name)[index]);
        let sane = *value <= narrow || *value >= !(narrow >> 1);
        !sane
    });
    upper || name.is_multiplexer() || gaps.iter().any(|(of, _)| *of == name)
}

#[test]
fn a_million_calls_get_what_is_meant() {
    let cases = from_environment("SECCOMP_CASES", 1_000_000);
    let seed = from_environment("SECCOMP_SEED", 4);
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut asked, mut exact, mut as_strict, mut cut, mut terse, mut worlds, mut longest) =
        (0_u64, 0_u64, 0_u64, 0, 0, 0, 0);
    let (mut unknown, mut otherwise) = (0, 0);
    while asked < cases {
        let world = World::random(&mut rng);
        worlds += 1;
        if world.policies.is_empty() {
            continue; // nobody is there to be told of gaps
        }
        let policies: Vec<&SeccompPolicy> = world.policies.iter().collect();
        let base = BaseProfile::new(&world.base, &node()).unwrap();
        let profile = compile(&policies, &world.base, &node()).unwrap();
        cut += usize::from(profile.gaps.iter().any(|gap| gap.reason != GapReason::SeccompUnknown));
        terse +=
            usize::from(profile.oci.default_errno_ret != profile.without_default_errno().default_errno_ret);
        // Each gap of this kind names the system call first.
        let gaps: Vec<(SyscallName, GapReason)> = profile
            .gaps
            .iter()
            .filter(|gap| !matches!(gap.reason, GapReason::SeccompName | GapReason::SeccompUnknown))
            .filter_map(|gap| Some((SyscallName::by_name(gap.advice.split('`').nth(1)?)?, gap.reason)))
            .collect();
        // Numbers that are in no table return ENOSYS where they would be denied, or that they do not is told.
        if is_denial(default(&profile.oci)) && default(&profile.oci) != Action::Errno(38) {
            otherwise += 1;
            assert!(has_gap(&profile, GapReason::SeccompUnknown), "{}", world.text);
        } else {
            unknown += 1;
            assert!(!has_gap(&profile, GapReason::SeccompUnknown), "{}", world.text);
        }
        let what = || format!("seed {seed}, world {worlds}\n{}\n{:?}", world.text, world.base);
        let runtimes = [
            (&profile.oci, Runtime::Runc, true),
            (&profile.oci, Runtime::Crun, true),
            (profile.without_default_errno(), Runtime::Runc, false),
        ];
        for (oci, runtime, errno) in runtimes {
            let filter = Filter::load(oci, runtime).unwrap_or_else(|error| panic!("{error}\n{}", what()));
            longest = longest.max(filter.len());
            for _ in 0..CALLS {
                let call = world.call(&mut rng);
                let got = filter.run(call.arch.audit(), call.number, &call.args);
                let decision = decide(&policies, &base, Arch::X86_64, &call);
                let name = SyscallName::by_number(call.arch, call.number);
                asked += 1;
                let told = || {
                    let name = name.map_or("", SyscallName::as_str);
                    let entries =
                        oci.syscalls.iter().filter(|entry| entry.names.iter().any(|one| one == name));
                    let entries: Vec<_> =
                        entries.map(|entry| (entry.action, entry.errno_ret, &entry.args)).collect();
                    if let Some(path) = std::env::var_os("SECCOMP_DUMP") {
                        std::fs::write(path, serde_json::to_string_pretty(oci).unwrap()).unwrap();
                    }
                    format!(
                        "{call:x?} {name} got {got}, {runtime:?} means {decision:?}\ndefault {:?} {:?}, {} instructions, {entries:x?}\n{}",
                        oci.default_action,
                        oci.default_errno_ret,
                        filter.len(),
                        what()
                    )
                };
                match name {
                    Some(name) if !name.known_to(node().libseccomp) => {
                        // Nothing can be said about it; what then holds is told as a gap.
                        let lost = got.rank() < decision.action.rank() && !is_denial(got);
                        let is_told = profile.gaps.iter().any(|gap| gap.reason == GapReason::SeccompName);
                        assert!(
                            !lost || is_told || !matches!(decision.by, seccomp::decide::By::Rule(_)),
                            "{}",
                            told()
                        );
                    }
                    // Numbers that are in no table: the default says ENOSYS where a whole profile has room for it.
                    None if !(errno && oci.default_errno_ret == Some(38))
                        && decision.action == Action::Errno(38) =>
                    {
                        assert!(is_denial(got), "{}", told());
                    }
                    Some(name) if name.as_str() == "vserver" => {
                        assert!(
                            got.rank() >= decision.action.rank().min(Action::Errno(0).rank()),
                            "{}",
                            told()
                        );
                    }
                    _ if !errno && matches!((got, decision.action), (Action::Trace(_), Action::Trace(_))) => {
                    }
                    Some(name) if may_be_stricter(&gaps, name, &call) => {
                        assert!(
                            got.rank() >= decision.action.rank()
                                || name.is_multiplexer() && is_denial(got) == is_denial(decision.action),
                            "{}",
                            told()
                        );
                    }
                    // Beside a 32-bit architecture no entry speaks of upper bits; the default may be another errno.
                    Some(_)
                        if call.args.iter().any(|arg| *arg > 0xffff_ffff) && oci.architectures.len() > 1 =>
                    {
                        as_strict += 1;
                        assert_eq!(got.rank(), decision.action.rank(), "{}", told());
                    }
                    _ => {
                        exact += 1;
                        assert_eq!(got, decision.action, "{}", told());
                    }
                }
            }
        }
    }
    println!(
        "{asked} calls of {worlds} worlds: {exact} exactly, {as_strict} as strictly; {cut} worlds with gaps, {terse} with an errno \
         by default; unknown numbers as meant in {unknown}, otherwise in {otherwise}; the longest filter has {longest}"
    );
    assert!(
        exact * 10 > asked * 4 && (exact + as_strict) * 10 > asked * 6,
        "{exact} and {as_strict} of {asked}"
    );
}

/// What numbers that nobody knows get of a runtime that has no answer of its own.
fn default(profile: &LinuxSeccomp) -> Action {
    let errno = u16::try_from(profile.default_errno_ret.unwrap_or(1)).unwrap();
    match profile.default_action {
        ActionName::Errno => Action::Errno(errno),
        ActionName::Allow | ActionName::Log | ActionName::Trace | ActionName::Notify => Action::Allow,
        ActionName::Kill | ActionName::KillThread | ActionName::KillProcess | ActionName::Trap => {
            Action::KillThread
        }
    }
}

fn has_gap(profile: &SeccompProfile, reason: GapReason) -> bool {
    profile.gaps.iter().any(|gap| gap.reason == reason)
}

fn compiled(spec: &str, base: &Base) -> SeccompProfile {
    compiled_for(spec, base, &node())
}

fn compiled_for(spec: &str, base: &Base, node: &Node) -> SeccompProfile {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {{name: p, namespace: n}}\n\
         spec:\n  selector: {{matchLabels: {{app: web}}}}\n{spec}\n"
    );
    let parsed = parse("p.yaml", &text);
    assert_eq!(parsed.errors, []);
    compile(&parsed.seccomp.iter().collect::<Vec<_>>(), base, node).unwrap()
}

/// With the runtime's default below, which denies nearly all personalities, and nearly all that is not for everyone.
#[test]
fn an_unknown_number_returns_enosys_under_every_runtime() {
    let capabilities = ["chown", "net_raw", "sys_chroot", "sys_admin", "sys_ptrace"];
    let whitelist = "  syscalls: ['@system-service', personality]\n  action: Allow";
    for spec in [
        "  syscalls: [mkdir]\n  action: Block",
        "  syscalls: [{name: socket, args: [{index: 0, value: 16}]}]\n  action: Block",
        whitelist,
        &format!("  arch: [x86_64]\n{whitelist}"),
        &format!("  defaultErrno: EACCES\n{whitelist}"),
    ] {
        for count in 0..=capabilities.len() {
            let has = capabilities.iter().take(count).filter_map(|name| Capability::by_name(name));
            let profile = compiled(spec, &Base::RuntimeDefault(has.collect()));
            assert_eq!(profile.gaps, [], "{spec}");
            let arches: Vec<_> =
                profile.oci.architectures.iter().map(|name| Arch::by_oci_name(name).unwrap()).collect();
            let filter = Filter::load(&profile.oci, Runtime::Crun).unwrap();
            for arch in arches {
                let bit = if arch == Arch::X32 { 0x4000_0000 } else { 0 };
                for number in [600, 9999, 0x3fff_ffff] {
                    let got = filter.run(arch.audit(), number | bit, &[0; 6]);
                    assert_eq!(got, Action::Errno(38), "{spec}, {arch:?}, {number}");
                }
            }
        }
    }
}

#[test]
fn where_there_is_no_room_for_that_it_is_told() {
    let compared = |name: &str| {
        let values = [1, 12, 123, 1234, 12345].map(|value| {
            format!("    - {{name: {name}, args: [{{index: 1, value: {value}}}], action: Block}}\n")
        });
        values.concat()
    };
    let names = ["fcntl", "ioctl", "getsockopt"];
    let spec = format!("  syscalls:\n{}", names.map(compared).concat());
    let profile = compiled(&spec, &Base::RuntimeDefault([].into()));
    let reasons: Vec<_> = profile.gaps.iter().map(|gap| gap.reason).collect();
    assert_eq!(reasons, [GapReason::SeccompUnknown]);
    assert!(profile.gaps[0].advice.contains("errno 1 instead of ENOSYS"), "{}", profile.gaps[0]);
    let filter = Filter::load(&profile.oci, Runtime::Crun).unwrap();
    assert_eq!(filter.run(Arch::X86_64.audit(), 9999, &[0; 6]), Action::Errno(1));
    // where nothing is denied by default there is nothing to tell
    assert_eq!(compiled(&spec, &Base::Unconfined).gaps, []);
}

/// A libseccomp of a lower version may have the name, and the runtime would make use of it.
#[test]
fn what_the_profile_below_denies_stays_denied_whatever_version_libseccomp_says_it_is() {
    let base = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mseal"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    let base: LinuxSeccomp = serde_json::from_str(base).unwrap();
    let mseal = SyscallName::by_name("mseal").unwrap();
    assert!(!mseal.known_to((2, 5, 4)));
    let profile = compiled_for(
        "  syscalls: [mkdir]\n  action: Block",
        &Base::Profile(base),
        &Node { libseccomp: (2, 5, 4), ..node() },
    );
    for oci in [&profile.oci, profile.without_default_errno()] {
        let entry = oci.syscalls.iter().find(|entry| entry.names.contains(&"mseal".to_owned()));
        let entry = entry.expect("an entry");
        assert_eq!((entry.action, entry.errno_ret), (ActionName::Errno, Some(13)));
    }
    assert_eq!(profile.gaps, [], "no policy speaks of it");
}

#[test]
fn flags_and_the_supervisor_of_the_profile_below_stay() {
    for flags in [None, Some(vec![]), Some(vec!["SECCOMP_FILTER_FLAG_SPEC_ALLOW".to_owned()])] {
        let base = LinuxSeccomp {
            flags: flags.clone(),
            listener_path: "/run/agent.sock".into(),
            listener_metadata: "x".into(),
            ..LinuxSeccomp::of(Action::Allow)
        };
        let profile = compiled("  syscalls: [mkdir]\n  action: Block", &Base::Profile(base));
        for oci in [&profile.oci, profile.without_default_errno()] {
            assert_eq!(oci.flags, flags);
            assert_eq!((&*oci.listener_path, &*oci.listener_metadata), ("/run/agent.sock", "x"));
        }
    }
}

fn is_denial(action: Action) -> bool {
    action.rank() >= Action::Errno(0).rank()
}
