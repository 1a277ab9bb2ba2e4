//! The library against real kernels, without any container runtime: identity, limits, upgrades, what happens at the
//! edges, and ways round a policy. A "container" here is a shell with a mount namespace and, mostly, a cgroup of its own;
//! the part of the runtime's init is played by what it does before its first `exec` there.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

mod args;
mod classes;
mod container;
mod corpus;
mod edges;
mod evasion;
mod held;
mod host;
mod host_defaults;
mod identity;
mod upgrades;
mod verified;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use args::{applets, arguments};
use classes::{presets, sockets_and_capabilities};
use edges::edges;
use enforcer_core::enforce::{Enforcer, Options};
use enforcer_core::event::Event;
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Postures, Resolved, Ruleset};
use enforcer_core::subject::Subject;
use evasion::{races, tricks};
use held::held;
use host::host;
use host_defaults::host_defaults;
use identity::identity;
use lab::loaded::{self, Body, Guest};
use lab::vm::Kernel;
use upgrades::upgrades;
use verified::verified;

/// A body may take so long.
const LIMIT: Duration = Duration::from_secs(900);

/// `body: test on kernel, ...`. Kernels change what programs stand on, so some things are asked on the newest one too.
macro_rules! on_kernels {
    ($($body:ident: $($test:ident on $kernel:ident),+;)*) => {
        const BODIES: &[(&str, Body)] = &[(corpus::BODY, corpus::compared), $((stringify!($body), $body)),*];

        $($(
            #[test]
            fn $test() -> Result<()> {
                in_guest(Kernel::$kernel, stringify!($body)).map(drop)
            }
        )+)*
    };
}

on_kernels! {
    identity: identity_on_6_1 on V6_1, identity_on_6_12 on V6_12, identity_on_the_newest on Newest;
    edges: edges_on_6_1 on V6_1, edges_on_6_12 on V6_12;
    upgrades: upgrades_on_6_1 on V6_1, upgrades_on_6_12 on V6_12;
    sockets_and_capabilities: sockets_and_capabilities_on_6_1 on V6_1, sockets_and_capabilities_on_6_12 on V6_12;
    presets: presets_on_6_1 on V6_1, presets_on_6_12 on V6_12;
    arguments: arguments_on_6_1 on V6_1, arguments_on_6_12 on V6_12, arguments_on_the_newest on Newest;
    applets: applets_on_6_1 on V6_1, applets_on_6_12 on V6_12;
    held: held_on_6_1 on V6_1, held_on_6_12 on V6_12, held_on_the_newest on Newest;
    host: host_on_6_1 on V6_1, host_on_6_12 on V6_12, host_on_the_newest on Newest;
    host_defaults: host_defaults_on_6_1 on V6_1, host_defaults_on_6_12 on V6_12;
    tricks: tricks_fail_on_6_1 on V6_1, tricks_fail_on_6_12 on V6_12, tricks_fail_on_the_newest on Newest;
    races: races_are_lost_on_6_1 on V6_1, races_are_lost_on_6_12 on V6_12;
    verified: verified_on_6_1 on V6_1, verified_on_6_12 on V6_12, verified_on_the_newest on Newest;
}

/// Runs a body; what it said.
fn in_guest(kernel: Kernel, body: &str) -> Result<String> {
    let guest = Guest { waits: "waits", kernel, files: evasion::files(kernel) };
    loaded::in_guest(&guest, body, LIMIT)
}

/// No test by itself: in a guest, the process in which bodies run.
#[test]
fn waits() -> Result<()> {
    loaded::wait(BODIES)
}

fn options() -> Options {
    Options::default()
}

fn ruleset(rules: &str) -> Ruleset {
    ruleset_under(rules, Postures::default())
}

fn ruleset_under(rules: &str, postures: Postures) -> Ruleset {
    let resolved = resolved(rules, postures);
    assert!(resolved.coverage.is_full(), "{}", resolved.coverage);
    resolved.ruleset
}

fn resolved(rules: &str, postures: Postures) -> Resolved {
    let policy = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: x}}}}\n{rules}"
    );
    let parsed = parse("test.yaml", &policy);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let subject = Subject {
        namespace: "default".into(),
        labels: BTreeMap::from([("app".into(), "x".into())]),
        ..Subject::default()
    };
    let resolved = Ruleset::resolve(&parsed.policies, &postures, &subject);
    assert!(!resolved.ruleset.is_empty());
    resolved
}

fn block(path: &str) -> Ruleset {
    ruleset(&format!("  file: {{matchPaths: [{{path: {path}}}]}}\n  action: Block\n"))
}

fn audit(path: &str) -> Ruleset {
    ruleset(&format!("  file: {{matchPaths: [{{path: {path}}}]}}\n  action: Audit\n"))
}

fn sh(command: &str) {
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

fn counter(enforcer: &Enforcer, name: &str) -> u64 {
    enforcer.counters().unwrap().into_iter().find(|(counter, _)| counter == name).unwrap().1
}

/// What was reported so far: the kernel has written an event before it answers, so none is waited for.
fn events(enforcer: &Enforcer) -> Vec<Event> {
    lab::testing::events(enforcer, Duration::ZERO).unwrap()
}
