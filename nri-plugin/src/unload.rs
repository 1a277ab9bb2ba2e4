//! `unload`: takes everything out of the kernel again.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal};

use enforcer_core::compile::apparmor::ProfileName;
use enforcer_core::enforce::apparmor::{AppArmor, AppArmorError};
use enforcer_core::enforce::selinux::{RECORD, Restored, Selinux, SelinuxError};

use crate::apparmor::names::is_of_namespace;
use crate::cli::UnloadArgs;
use crate::exit::{Exit, chain};
use crate::term::{BAD, GOOD, WARN, complain, paint, say};

/// Asks, unless told not to, and removes.
pub fn run(args: &UnloadArgs) -> Exit {
    if !args.yes && !confirmed(args) {
        return Exit::BadInput;
    }
    let bpf = enforcer_core::enforce::unload(&args.bpffs).map_err(|error| chain(&error));
    if bpf.is_ok() {
        say(format!("{} nothing of `{}` is left in the kernel\n", paint(GOOD, "ok"), args.bpffs.display()));
    }
    let profiles = unload_profiles();
    if let Ok(Some(Removed { count, used })) = &profiles {
        say(format!("{} AppArmor profiles removed: {count}\n", paint(GOOD, "ok")));
        if !used.is_empty() {
            let used: Vec<String> = used.iter().map(ToString::to_string).collect();
            complain(format!(
                "{}: processes have these AppArmor profiles, which stay in force until they end, and until `unload` runs \
                 again: {}\n",
                paint(WARN, "warning"),
                used.join(", ")
            ));
        }
    }
    let labels = unload_labels();
    if let Ok(Some(Restored { files, gone, .. })) = &labels {
        say(format!("{} SELinux labels taken off: {files}, and the module removed\n", paint(GOOD, "ok")));
        if *gone > 0 {
            complain(format!(
                "{}: at {gone} paths there are no files any more; what was moved away has its label still: `restorecon -F`\n",
                paint(WARN, "warning")
            ));
        }
    }
    let problems: Vec<String> = [bpf.err(), profiles.err(), labels.err()].into_iter().flatten().collect();
    for problem in &problems {
        complain(format!("{}: {problem}\n", paint(BAD, "error")));
    }
    if problems.is_empty() { Exit::Ok } else { Exit::No }
}

/// Takes SELinux labels off files, and our module out of the policy, where there are some.
fn unload_labels() -> Result<Option<Restored>, String> {
    let told = |error: SelinuxError| chain(&error);
    let noted = Selinux::has_labels(RECORD.as_ref()).map_err(told)?;
    let selinux = match Selinux::found(RECORD.as_ref()) {
        Ok(selinux) => selinux,
        Err(SelinuxError::Absent { .. } | SelinuxError::NoTool { .. } | SelinuxError::NoPolicy(_))
            if !noted =>
        {
            return Ok(None);
        }
        Err(error) => return Err(told(error)),
    };
    if !noted && !Selinux::is_installed().map_err(told)? {
        return Ok(None);
    }
    let restored = selinux.unload().map_err(told)?;
    match restored.kept.first() {
        None => Ok(Some(restored)),
        Some(kept) => Err(format!(
            "{} SELinux labels cannot be taken off, and the module stays: {kept}",
            restored.kept.len()
        )),
    }
}

struct Removed {
    count: usize,
    used: BTreeSet<ProfileName>,
}

/// Removes the profiles that a daemon loaded, where the kernel has AppArmor and some are there. What people load under
/// names of their own stays, also where these begin as ours do.
fn unload_profiles() -> Result<Option<Removed>, String> {
    let told = |error: AppArmorError| chain(&error);
    let apparmor = match AppArmor::to_remove_from() {
        Ok(apparmor) => apparmor,
        Err(AppArmorError::Absent { .. }) => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    let loaded = apparmor.loaded_in_any_mode().map_err(told)?;
    let (ours, others): (BTreeSet<_>, BTreeSet<_>) = loaded.into_iter().partition(is_of_namespace);
    if ours.is_empty() {
        return Ok(None);
    }
    let removed = apparmor.remove_unused(&others).map_err(told)?;
    let used = ours.into_iter().filter(|name| !removed.contains(name)).collect();
    Ok(Some(Removed { count: removed.len(), used }))
}

fn confirmed(args: &UnloadArgs) -> bool {
    let what = format!(
        "every container that `{}` protects goes unprotected, AppArmor profiles that no process has are removed, and so are SELinux labels of host policies",
        args.bpffs.display()
    );
    if !std::io::stdin().is_terminal() {
        complain(format!("{}: {what}; say --yes if that is meant\n", paint(BAD, "error")));
        return false;
    }
    complain(format!("{}: {what}. Go on? [y/N] ", paint(WARN, "warning")));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
