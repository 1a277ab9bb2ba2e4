//! `compile`: what the policies become for one container: the seccomp profile as the runtime would get it, or the text of
//! an AppArmor profile.

use std::collections::BTreeSet;
use std::path::Path;

use enforcer_core::capability::Capability;
use enforcer_core::compile;
use enforcer_core::compile::apparmor::{Native, Options};
use enforcer_core::coverage::{Coverage, Gap, GapReason};
use enforcer_core::policy::SeccompPolicy;
use enforcer_core::ruleset::{Resolved, Ruleset};
use enforcer_core::seccomp::oci::{ActionName, LinuxSeccomp};
use enforcer_core::seccomp::{self, Arch, Base, Node, SeccompProfile};
use enforcer_core::subject::Subject;

use crate::cli::{BaseChoice, CompileArgs, postures};
use crate::exit::{Exit, chain};
use crate::input;
use crate::seccomp::base::CAPABILITIES;
use crate::term::{BAD, WARN, complain, paint, say, say_json};

/// The greatest profile that is read, in bytes; runtimes' own have some 20,000.
const MAX_PROFILE: u64 = 4 << 20;

/// Compiles, and prints the profile on stdout and what it does not say on stderr.
pub fn run(args: &CompileArgs) -> Exit {
    if args.apparmor {
        return apparmor(args);
    }
    match profile(args) {
        Ok(mut profile) => {
            if args.nri {
                say_json(profile.without_default_errno());
                // of the whole profile
                profile.gaps.retain(|gap| gap.reason != GapReason::SeccompUnknown);
                if profile.oci.default_action != ActionName::Allow {
                    let text = "NRI does not carry the errno of the default: with crun, system calls that are not known yet return EPERM";
                    complain(format!("{}: {text}\n", paint(WARN, "note")));
                }
            } else {
                say(profile.to_json() + "\n");
            }
            for gap in &profile.gaps {
                complain(format!("{}: not as written: {gap}\n", paint(WARN, "warning")));
            }
            if args.strict && !profile.gaps.is_empty() { Exit::No } else { Exit::Ok }
        }
        Err(problem) => {
            complain(format!("{}: {problem}\n", paint(BAD, "error")));
            Exit::BadInput
        }
    }
}

fn apparmor(args: &CompileArgs) -> Exit {
    match apparmor_profile(args) {
        Ok((text, gaps)) => {
            say(text);
            for gap in &gaps {
                complain(format!("{}: not as written: {gap}\n", paint(WARN, "warning")));
            }
            if args.strict && !gaps.is_empty() { Exit::No } else { Exit::Ok }
        }
        Err(problem) => {
            complain(format!("{}: {problem}\n", paint(BAD, "error")));
            Exit::BadInput
        }
    }
}

/// The text, and all that it does not say.
fn apparmor_profile(args: &CompileArgs) -> Result<(String, Vec<Gap>), String> {
    let inputs = input::load(&args.policies).map_err(|error| chain(&error))?;
    input::refuse_bad(&inputs)?;
    let subject = subject(args);
    let postures = input::namespace_postures(&inputs, &subject.namespace, postures(&args.postures));
    let Resolved { mut ruleset, coverage } = Ruleset::resolve(input::policies(&inputs), &postures, &subject);
    // native rules are a gap of everything but this
    let mut gaps: Vec<Gap> =
        coverage.gaps.into_iter().filter(|gap| gap.reason != GapReason::AppArmor).collect();
    if let Some(dir) = &args.root {
        let linked = input::with_links(&ruleset, dir)?.1;
        gaps.extend(linked.gaps);
        ruleset = linked.ruleset;
    }
    let natives = Native::of(input::policies(&inputs), &subject);
    if ruleset.is_empty() && natives.is_empty() {
        complain(format!(
            "{}: no rule is about this container: the profile denies what its runtime's own would\n",
            paint(WARN, "warning")
        ));
    }
    let options = Options { no_new_privs: args.no_new_privs, ..Options::named(args.name.clone()) };
    let profile = compile::apparmor::compile(&ruleset, &natives, &options);
    gaps.extend(profile.gaps);
    Ok((profile.text, Coverage::new(gaps).gaps))
}

fn subject(args: &CompileArgs) -> Subject {
    Subject {
        namespace: args.namespace.clone(),
        pod: String::new(),
        labels: args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect(),
        container: args.container.clone(),
        ..Subject::default()
    }
}

fn profile(args: &CompileArgs) -> Result<SeccompProfile, String> {
    let inputs = input::load(&args.policies).map_err(|error| chain(&error))?;
    input::refuse_bad(&inputs)?;
    let subject = subject(args);
    let selected: Vec<&SeccompPolicy> =
        input::seccomp(&inputs).filter(|policy| policy.selects(&subject)).collect();
    if selected.is_empty() {
        complain(format!(
            "{}: no seccomp policy selects this container: it keeps its profile, which follows\n",
            paint(WARN, "warning")
        ));
    }
    let base = base(&args.base, &args.capabilities)?;
    let arch = Arch::native().ok_or("no seccomp profiles are made for this architecture")?;
    let node = Node { arch, libseccomp: args.libseccomp.0 };
    seccomp::compile(&selected, &base, &node).map_err(|error| format!("--base: {}", chain(&error)))
}

/// The profile below the policies, as flags choose it.
pub fn base(choice: &BaseChoice, capabilities: &[Capability]) -> Result<Base, String> {
    Ok(match choice {
        BaseChoice::Unconfined => Base::Unconfined,
        BaseChoice::RuntimeDefault => Base::RuntimeDefault(match capabilities {
            [] => CAPABILITIES.iter().filter_map(|name| Capability::by_name(name)).collect(),
            given => given.iter().copied().collect::<BTreeSet<_>>(),
        }),
        BaseChoice::File(path) => Base::Profile(read(path)?),
    })
}

fn read(path: &Path) -> Result<LinuxSeccomp, String> {
    let unreadable = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_PROFILE {
        return Err(format!("`{}` has {length} bytes, more than {MAX_PROFILE}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    serde_json::from_str(&text)
        .map_err(|error| format!("`{}` is no seccomp profile of the OCI: {error}", path.display()))
}
