//! The evasion corpus: tricks to get round a policy (`programs/evade`), each without a policy, where it must work, under a
//! Block rule, and under a whitelist with posture block, where it must fail and an alert must say why.
//!
//! Each runs in a fresh container: namespaces, an overlay as its root, volumes. What is expected otherwise, be it that the
//! kernel itself refuses or that nothing stops it, stands in [`EXCEPTIONS`], and the README tells users of the latter.

mod corpus;
mod table;

use std::fs;
use std::process::Command;
use std::time::Duration;

use corpus::{Kind, Sandbox, Under, describe, rules};
use enforcer_core::enforce::{Enforcer, Stage};
use enforcer_core::event::Op;
use lab::vm::Kernel;
use table::{Outcome, expected};

use crate::events;

/// Names the one trick that is tried, for whoever mends it; on the host.
const ONLY: &str = "TRICK";

/// What the tricks need in a guest.
pub fn files(kernel: Kernel) -> Vec<(&'static str, Vec<u8>)> {
    let only = std::env::var(ONLY).ok().map(|name| (ONLY, name.into_bytes()));
    [("binfmt_misc.ko", module(kernel, "kernel/fs/binfmt_misc.ko"))].into_iter().chain(only).collect()
}

/// A module of the guest's kernel.
fn module(kernel: Kernel, name: &str) -> Vec<u8> {
    let path = lab::cache::artefact(&format!("kernel-{kernel}")).unwrap().join("modules").join(name);
    if path.exists() {
        return fs::read(path).unwrap();
    }
    let output = Command::new("xz").arg("-dc").arg(path.with_extension("ko.xz")).output().expect("xz");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Every trick, with and without policies.
pub fn tricks(enforcer: Enforcer) {
    corpus::prepare();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let tricks = corpus::list();
    table::check_names(&tricks);
    let mut wrong = Vec::new();
    let only = fs::read_to_string(ONLY).ok();
    for (kind, name) in tricks.iter().filter(|(_, name)| only.as_ref().is_none_or(|only| only == name)) {
        let mut line = format!("{kind:<9}{name:<38}");
        for under in [Under::Nothing, Under::Block, Under::Allow] {
            let expected = expected(name, *kind, under, &release);
            let mut sandbox = Sandbox::new(&["run", name], table::host_pid(name));
            if table::waits(name) {
                sandbox.waits();
            }
            events(&enforcer);
            if let Some(rules) = rules(*kind, under) {
                let rules = if table::by_all_names(name) { corpus::linked(&rules) } else { rules };
                let late = table::armed_late(name);
                let stage = if late { Stage::Running } else { Stage::Created };
                enforcer.arm(&sandbox.target(stage), &rules).unwrap();
                enforcer.settle();
                let told = events(&enforcer).iter().filter(|event| event.op == Op::Held).count();
                if (told != 0) != late {
                    wrong.push(format!("{name}, {under:?}: {told} descriptors were told to be held"));
                }
            }
            if table::waits(name) {
                sandbox.go_on();
            }
            let result = sandbox.result();
            let why = describe(&events(&enforcer));
            enforcer.disarm(&sandbox.id).unwrap();
            let shown = result.to_string();
            line.push_str(&format!("{shown:<12}{why:<36}"));
            let good = match expected {
                Outcome::Reached => result.reached(),
                Outcome::Denied => {
                    let by = if under == Under::Block { "rule, " } else { "posture, " };
                    result.denied() && why.starts_with(by)
                }
                Outcome::Refused(errno) => result.errno() == Some(errno),
            };
            if !good {
                line.push_str("<-- WRONG ");
                wrong.push(format!("{name}, {under:?}: {shown} {why}, not {expected:?}\n{}", sandbox.said()));
            }
        }
        println!("{}", line.trim_end());
    }
    let misses =
        enforcer.counters().unwrap().into_iter().find(|(name, _)| name == "recursion_misses").unwrap().1;
    assert_eq!(misses, 0);
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), tricks.len() * 3, wrong.join("\n"));
}

/// Many at once: 0 opened, whatever is renamed, exchanged or updated meanwhile.
pub fn races(enforcer: Enforcer) {
    corpus::prepare();
    let count = |text: &str, what: &str| -> u64 {
        let words: Vec<_> = text.split_whitespace().collect();
        let at = words.iter().position(|word| *word == what).unwrap_or_else(|| panic!("{text}"));
        words[at + 1].parse().unwrap()
    };

    // Without a policy the same program opens it.
    let mut control = Sandbox::new(&["race", "open", "1", "/prot/secret"], false);
    let said = control.output(Duration::from_secs(60));
    assert!(count(&said, "opened") > 100, "{said}");

    // Two rulesets that both deny it, exchanged all the time; the threads of the container on all CPUs.
    let rulesets = [rules(Kind::Read, Under::Block).unwrap(), rules(Kind::Read, Under::Allow).unwrap()];
    for arguments in [["race", "rename", "100000", ""], ["race", "open", "10", "/prot/secret"]] {
        let arguments: Vec<_> = arguments.into_iter().filter(|a| !a.is_empty()).collect();
        let mut sandbox = Sandbox::new(&arguments, false);
        enforcer.arm(&sandbox.target(Stage::Created), &rulesets[0]).unwrap();
        sandbox.start();
        let mut updates = 0;
        while !sandbox.ended() {
            updates += 1;
            enforcer.update(&sandbox.id, &rulesets[updates % 2]).unwrap();
        }
        let said = sandbox.output(Duration::from_secs(1));
        println!("{}: {} policy updates, {}", arguments.join(" "), updates, said.trim());
        assert_eq!(count(&said, "opened"), 0, "{said}");
        assert!(count(&said, "denied") > 10_000, "{said}");
        assert!(updates > 20);
        enforcer.disarm(&sandbox.id).unwrap();
    }
    let counters = enforcer.counters().unwrap();
    println!("{counters:?}");
    assert_eq!(counters.iter().find(|(name, _)| name == "recursion_misses").unwrap().1, 0);
    fs::remove_file("/corpus-secret").unwrap();
}
