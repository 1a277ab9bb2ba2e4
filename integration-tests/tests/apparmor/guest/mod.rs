//! Profiles on a real kernel with AppArmor: what a process under them may do, against `decide`; how they are loaded,
//! exchanged and removed; and that nobody gets out of them. All in one guest.

mod compared;
mod lifecycle;
mod moves;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use enforcer_core::compile::apparmor::{AppArmorProfile, Native, Options, child_of, compile};
use enforcer_core::enforce::apparmor::AppArmor;
use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;
use lab::cache;
use lab::corpus::record::{BackEnd, check};
use lab::corpus::world;
use lab::vm::{self, Job, Kernel, Spec, Streams};

/// Set in the guest.
const INSIDE: &str = "NRI_ENFORCER_APPARMOR_TEST";

#[test]
fn a_real_kernel_does_what_decide_says() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let machine =
        vm::machine(&Spec::plain(Kernel::V6_12), &|text| println!("{text}")).expect("`make setup` as root");
    let script = format!(
        "{INSIDE}=1 RUST_BACKTRACE=0 exec ./apparmor --exact guest::a_real_kernel_does_what_decide_says --nocapture 2>&1"
    );
    let parser = cache::artefact("apparmor").unwrap().join("apparmor_parser");
    let job = Job::script(script)
        .file("apparmor", cache::stripped(&std::env::current_exe().unwrap()).unwrap())
        .file("apparmor_parser", parser);
    let mut out = Vec::new();
    let outcome = job.run(&machine, Streams { out: &mut out, err: &mut std::io::sink() }).unwrap();
    let out = String::from_utf8_lossy(&out);
    print!("{out}");
    println!("{:?}", outcome.elapsed);
    assert_eq!(outcome.status, 0, "the test failed in its guest");
    check(BackEnd::AppArmor, &out).unwrap();
}

fn inside() {
    world::prepare().unwrap();
    world::make().unwrap();
    let apparmor = AppArmor::open(Some(Path::new("/lab/apparmor_parser"))).unwrap();
    compared::compared(&apparmor);
    moves::transitions(&apparmor);
    moves::claims(&apparmor);
    moves::native_links(&apparmor);
    moves::round_paths(&apparmor);
    lifecycle::exchanged(&apparmor);
    lifecycle::lifecycle(&apparmor);
    lifecycle::complaining(&apparmor);
}

struct Set {
    policies: Vec<Policy>,
    ruleset: Ruleset,
}

/// One policy with this specification.
fn set(spec: &str) -> Set {
    set_with(spec, &Postures::default())
}

/// The same, with these postures.
fn set_with(spec: &str, postures: &Postures) -> Set {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec:\n  selector: {{}}\n  {spec}\n"
    );
    let parsed = parse("test.yaml", &text);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let ruleset = Ruleset::resolve(&parsed.policies, postures, &subject()).ruleset;
    Set { policies: parsed.policies, ruleset }
}

fn subject() -> Subject {
    Subject { namespace: "default".into(), ..Subject::default() }
}

/// The child of the one source.
fn source() -> String {
    child_of(&world::SOURCE.parse().unwrap())
}

fn profile(set: &Set, name: &str) -> AppArmorProfile {
    compile(&set.ruleset, &Native::of(&set.policies, &subject()), &Options::named(name.parse().unwrap()))
}

/// A program under a profile.
fn under(label: &str, program: &[&str]) -> Command {
    let script = "printf 'exec %s' \"$0\" > /proc/self/attr/apparmor/exec || exit 99; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, label]).args(program);
    command
}

/// Starts one, with these lines to read.
fn start(label: &str, program: &[&str], lines: &str) -> Child {
    let mut command = under(label, program);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child
}

/// What the program answers to each line.
fn tried(label: &str, program: &[&str], lines: &[String]) -> Vec<String> {
    let output = start(label, program, &(lines.join("\n") + "\n")).wait_with_output().unwrap();
    assert!(output.status.success(), "{label} {program:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}
