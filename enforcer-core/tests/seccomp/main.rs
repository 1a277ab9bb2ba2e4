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

use enforcer_core::coverage::GapReason;
use enforcer_core::policy::SeccompPolicy;
use enforcer_core::seccomp::width::{mask, widths};
use enforcer_core::seccomp::{self, Action, Arch, BaseProfile, Call, Node, SyscallName, compile, decide};
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
    while asked < cases {
        let world = World::random(&mut rng);
        worlds += 1;
        if world.policies.is_empty() {
            continue; // nobody is there to be told of gaps
        }
        let policies: Vec<&SeccompPolicy> = world.policies.iter().collect();
        let base = BaseProfile::new(&world.base, &node()).unwrap();
        let profile = compile(&policies, &world.base, &node()).unwrap();
        cut += usize::from(!profile.gaps.is_empty());
        terse +=
            usize::from(profile.oci.default_errno_ret != profile.without_default_errno().default_errno_ret);
        // Each gap of this kind names the system call first.
        let gaps: Vec<(SyscallName, GapReason)> = profile
            .gaps
            .iter()
            .filter(|gap| gap.reason != GapReason::SeccompName)
            .filter_map(|gap| Some((SyscallName::by_name(gap.advice.split('`').nth(1)?)?, gap.reason)))
            .collect();
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
         by default; the longest filter has {longest}"
    );
    assert!(
        exact * 10 > asked * 4 && (exact + as_strict) * 10 > asked * 6,
        "{exact} and {as_strict} of {asked}"
    );
}

fn is_denial(action: Action) -> bool {
    action.rank() >= Action::Errno(0).rank()
}
