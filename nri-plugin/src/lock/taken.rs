//! Which locks a daemon would take, by how each was found: what [`choose`](super::choose) does, without doing it.

use super::Lsm;
use crate::config::Locks;

/// How a lock was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It works.
    Works,
    /// This host has not what it takes.
    Absent,
    /// This host has it, and it fails: the daemon does not start.
    Fails,
}

/// The locks that a daemon takes; none: it only observes.
///
/// # Errors
/// The one that fails, by which it does not start.
pub fn taken(wanted: &Locks, found: impl Fn(Lsm) -> Found) -> Result<Vec<Lsm>, Lsm> {
    let order: &[Lsm] = if wanted.seccomp_only { &[] } else { &wanted.order };
    for lsm in order.iter().copied().filter(|lsm| wanted.host || *lsm != Lsm::Selinux) {
        match found(lsm) {
            Found::Absent => {}
            Found::Fails => return Err(lsm),
            Found::Works if wanted.combine && lsm == Lsm::Bpf => {
                return match found(Lsm::AppArmor) {
                    Found::Works => Ok(vec![Lsm::Bpf, Lsm::AppArmor]),
                    Found::Absent => Ok(vec![Lsm::Bpf]),
                    Found::Fails => Err(Lsm::AppArmor),
                };
            }
            Found::Works => return Ok(vec![lsm]),
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apparmor::Profiles;
    use crate::apparmor::tests::Memory;
    use crate::cli::RunArgs;
    use crate::config::Config;
    use crate::kernel::recording::Recording;
    use crate::kernel::{Absent, Kernel, Unopened};
    use crate::lock::choose;

    fn opened<T>(found: Found, works: impl FnOnce() -> T) -> Result<T, Unopened> {
        match found {
            Found::Works => Ok(works()),
            Found::Absent => Err(Unopened::Unsupported(anyhow::anyhow!("absent"))),
            Found::Fails => Err(Unopened::Failed(anyhow::anyhow!("fails"))),
        }
    }

    /// `taken` may say nothing else than what the daemon does.
    #[test]
    fn a_daemon_takes_what_is_told_whatever_it_finds_and_is_asked_for() {
        let all = [Found::Works, Found::Absent, Found::Fails];
        let orders: [&[&str]; 7] = [
            &["bpf", "apparmor", "selinux"],
            &["apparmor", "bpf"],
            &["bpf"],
            &["apparmor"],
            &["selinux"],
            &["selinux", "bpf", "apparmor"],
            &["bpf", "selinux", "apparmor"],
        ];
        let mut count = 0;
        for (order, combine) in orders.iter().flat_map(|order| [(order, false), (order, true)]) {
            if combine && order.first() != Some(&"bpf") {
                continue; // which is no configuration
            }
            for host_policies in [false, true] {
                let lsm_order = order.iter().map(|name| (*name).to_owned()).collect();
                let args = RunArgs {
                    policy_dirs: vec!["/p".into()],
                    lsm_order,
                    combine,
                    host_policies,
                    ..RunArgs::default()
                };
                let wanted = Locks::new(&args).unwrap();
                let config = Config::new(args, None).unwrap();
                for (bpf, apparmor, selinux) in all
                    .iter()
                    .flat_map(|bpf| all.iter().map(move |apparmor| (*bpf, *apparmor)))
                    .flat_map(|(bpf, apparmor)| all.iter().map(move |selinux| (bpf, apparmor, *selinux)))
                {
                    let chosen = choose(
                        &config,
                        |_| opened(bpf, Recording::default),
                        || {
                            opened(apparmor, || {
                                Profiles::with(Box::<Memory>::default(), "/nonexistent".into()).unwrap()
                            })
                        },
                        || opened(selinux, || Box::new(Absent) as Box<dyn Kernel>),
                    );
                    let told = taken(&wanted, |lsm| match lsm {
                        Lsm::Bpf => bpf,
                        Lsm::AppArmor => apparmor,
                        Lsm::Selinux => selinux,
                    });
                    let told = told.map(|taken| {
                        let names: Vec<_> = taken.iter().map(ToString::to_string).collect();
                        if names.is_empty() { "none".to_owned() } else { names.join("+") }
                    });
                    let did = chosen.map(|chosen| chosen.lock.name().to_owned());
                    assert_eq!(told.ok(), did.ok(), "{config:?} {bpf:?} {apparmor:?} {selinux:?}");
                    count += 1;
                }
            }
        }
        assert_eq!(count, (7 + 3) * 2 * 27);
    }
}
