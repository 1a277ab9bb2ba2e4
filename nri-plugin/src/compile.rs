//! `compile`: what the policies become for one container. So far: the seccomp profile, as the runtime would get it.

use std::collections::BTreeSet;
use std::path::Path;

use enforcer_core::capability::Capability;
use enforcer_core::coverage::GapReason;
use enforcer_core::policy::SeccompPolicy;
use enforcer_core::seccomp::oci::{ActionName, LinuxSeccomp};
use enforcer_core::seccomp::{Arch, Base, Node, SeccompProfile, compile};
use enforcer_core::subject::Subject;

use crate::cli::{BaseChoice, CompileArgs};
use crate::exit::{Exit, chain};
use crate::input;
use crate::seccomp::base::CAPABILITIES;
use crate::term::{BAD, WARN, complain, paint, say, say_json};

/// The greatest profile that is read, in bytes; runtimes' own have some 20,000.
const MAX_PROFILE: u64 = 4 << 20;

/// Compiles, and prints the profile on stdout and what it does not say on stderr.
pub fn run(args: &CompileArgs) -> Exit {
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

fn profile(args: &CompileArgs) -> Result<SeccompProfile, String> {
    let inputs = input::load(&args.policies).map_err(|error| chain(&error))?;
    input::refuse_bad(&inputs)?;
    let labels = args.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    let subject = Subject {
        namespace: args.namespace.clone(),
        pod: String::new(),
        labels,
        container: args.container.clone(),
    };
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
    compile(&selected, &base, &node).map_err(|error| format!("--base: {}", chain(&error)))
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
