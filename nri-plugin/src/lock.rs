//! Which lock of the kernel holds the rules: the first of an order that works here, found out by trying.

pub mod taken;
pub mod unsupported;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use enforcer_core::enforce::selinux::{RECORD, Selinux};

use crate::apparmor::{Beside, Profiles};
use crate::config::Config;
use crate::kernel::{Absent, Kernel, Unopened};

/// A lock that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lsm {
    /// BPF programs on the kernel's security hooks.
    Bpf,
    /// AppArmor profiles.
    AppArmor,
    /// SELinux labels, for policies on the host's own processes alone.
    Selinux,
}

/// The order unless told otherwise.
pub const DEFAULT_ORDER: [Lsm; 3] = [Lsm::Bpf, Lsm::AppArmor, Lsm::Selinux];

impl fmt::Display for Lsm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "bpf",
            Self::AppArmor => "apparmor",
            Self::Selinux => "selinux",
        })
    }
}

impl FromStr for Lsm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bpf" => Ok(Self::Bpf),
            "apparmor" => Ok(Self::AppArmor),
            "selinux" => Ok(Self::Selinux),
            other => Err(format!("`{other}` is no lock; there are `bpf`, `apparmor` and `selinux`")),
        }
    }
}

/// An order of locks: at least one, none twice.
///
/// # Errors
/// What is wrong with it.
pub fn order(names: &[String]) -> Result<Vec<Lsm>, String> {
    let mut order = Vec::new();
    for name in names {
        let lsm = name.trim().parse()?;
        if order.contains(&lsm) {
            return Err(format!("`{lsm}` is named twice"));
        }
        order.push(lsm);
    }
    if order.is_empty() {
        return Err("it names no lock; there are `bpf`, `apparmor` and `selinux`".into());
    }
    Ok(order)
}

/// What holds the rules other than seccomp policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lock {
    /// BPF-LSM, all that it can.
    #[default]
    Bpf,
    /// AppArmor, all that it can.
    AppArmor,
    /// BPF-LSM, and AppArmor what that cannot take.
    Both,
    /// SELinux, what it can of policies on the host's own processes; those on containers are gaps.
    Selinux,
    /// Nothing: no lock works here. Each rule is a gap.
    Nothing,
}

impl Lock {
    /// Whether native AppArmor rules are held.
    #[must_use]
    pub const fn takes_natives(self) -> bool {
        matches!(self, Self::AppArmor | Self::Both)
    }

    /// Whether rules of containers are held.
    #[must_use]
    pub const fn holds_containers(self) -> bool {
        !matches!(self, Self::Selinux | Self::Nothing)
    }

    /// Whether policies on the host's own processes can be held.
    #[must_use]
    pub const fn holds_host(self) -> bool {
        matches!(self, Self::Bpf | Self::Both | Self::Selinux)
    }

    /// The lock by the name that [`name`](Self::name) gives it; `None`: there is none of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Bpf, Self::AppArmor, Self::Both, Self::Selinux, Self::Nothing];
        all.into_iter().find(|lock| lock.name() == name)
    }

    /// Whether BPF-LSM holds rules.
    #[must_use]
    pub const fn uses_bpf(self) -> bool {
        matches!(self, Self::Bpf | Self::Both)
    }

    /// Its name in the status document: the locks, joined by `+`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::AppArmor => "apparmor",
            Self::Both => "bpf+apparmor",
            Self::Selinux => "selinux",
            Self::Nothing => "none",
        }
    }
}

/// What was chosen.
pub struct Chosen {
    /// The lock.
    pub lock: Lock,
    /// What it is worked by.
    pub kernel: Box<dyn Kernel>,
    /// AppArmor profiles, where they are used.
    pub profiles: Option<Arc<Profiles>>,
    /// Why others were not taken, for people.
    pub refused: Vec<String>,
    /// Why AppArmor is not beside BPF-LSM, though it should be: native rules are gaps.
    pub uncombined: Option<String>,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen")
            .field("lock", &self.lock)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl Chosen {
    /// No lock.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            lock: Lock::Nothing,
            kernel: Box::new(Absent),
            profiles: None,
            refused: Vec::new(),
            uncombined: None,
        }
    }

    /// Tells what was chosen, and why not something else.
    pub fn tell(&self, config: &Config) {
        for why in &self.refused {
            tracing::warn!(lock = self.lock.name(), "not taken: {why}");
        }
        if let Some(why) = &self.uncombined {
            tracing::warn!("`combine`: native AppArmor rules are gaps, and BPF-LSM holds all others: {why}");
        }
        let uses_bpf = self.lock.uses_bpf();
        if !uses_bpf && std::fs::read_dir(&config.bpffs).is_ok_and(|mut pins| pins.next().is_some()) {
            tracing::warn!(
                bpffs = %config.bpffs.display(),
                "an earlier daemon's BPF programs are in the kernel, with its rules: `nri-enforcer unload` takes them out"
            );
        }
        if self.leaves_labels(RECORD.as_ref()) {
            tracing::warn!(
                record = RECORD,
                "an earlier daemon's SELinux labels are on files, and deny what host policies did: `nri-enforcer unload` takes them off"
            );
        }
        if !config.visibility.is_none() && (!uses_bpf || config.seccomp_only) {
            tracing::warn!(visibility = %config.visibility, "nothing can be seen: only BPF-LSM tells what no rule is about");
        }
        match self.lock {
            Lock::Bpf | Lock::Both => tracing::info!(
                bpffs = %config.bpffs.display(),
                lock = self.lock.name(),
                "attached; what an earlier daemon armed stays in force"
            ),
            Lock::AppArmor => tracing::warn!(
                "AppArmor holds the rules: those of containers whose pods name a profile of ours; denials become alerts by the \
                 kernel's audit records"
            ),
            Lock::Selinux => tracing::warn!(
                "SELinux holds policies on the host's own processes; those on containers are gaps, but for seccomp; denials \
                 become alerts by the kernel's audit records"
            ),
            Lock::Nothing if config.seccomp_only => tracing::warn!(
                "this daemon enforces seccomp policies alone; every other rule is a gap until it is started again"
            ),
            Lock::Nothing => tracing::error!(
                "NO LOCK WORKS ON THIS NODE: this daemon only observes; no rule but seccomp policies is enforced until it is \
                 started again where one does (`nri-enforcer probe` says what is missing)"
            ),
        }
    }

    /// Whether files have labels that this daemon does not see to. A record that cannot be read is of some.
    fn leaves_labels(&self, record: &Path) -> bool {
        self.lock != Lock::Selinux && Selinux::has_labels(record).unwrap_or(true)
    }
}

/// Takes the first lock of the configured order that works.
///
/// # Errors
/// When one fails that this host has what it takes for: nothing weaker takes its place. Also AppArmor beside BPF-LSM; where
/// this host has none BPF-LSM is alone, as it would be without the wish.
pub fn choose<K: Kernel>(
    config: &Config,
    bpf: impl FnOnce(&Config) -> Result<K, Unopened>,
    apparmor: impl FnOnce() -> Result<Profiles, Unopened>,
    selinux: impl FnOnce() -> Result<Box<dyn Kernel>, Unopened>,
) -> anyhow::Result<Chosen> {
    let (mut bpf, mut apparmor, mut selinux) = (Some(bpf), Some(apparmor), Some(selinux));
    let mut refused = Vec::new();
    for lsm in &config.lsm_order {
        match lsm {
            Lsm::Bpf => match bpf.take().map(|open| open(config)) {
                Some(Ok(kernel)) if config.combine => {
                    let Some(open) = apparmor.take() else { continue };
                    return beside(kernel, open(), config.strict).map(|chosen| Chosen { refused, ..chosen });
                }
                Some(Ok(kernel)) => {
                    let kernel = Box::new(kernel);
                    return Ok(Chosen { lock: Lock::Bpf, kernel, refused, ..Chosen::nothing() });
                }
                Some(Err(Unopened::Failed(error))) => return Err(error),
                Some(Err(Unopened::Unsupported(error))) => refused.push(format!("bpf: {error:#}")),
                None => {}
            },
            Lsm::AppArmor => match apparmor.take().map(|open| open()) {
                Some(Ok(profiles)) => {
                    let profiles = Arc::new(profiles);
                    let kernel = Box::new(Arc::clone(&profiles));
                    let profiles = Some(profiles);
                    return Ok(Chosen {
                        lock: Lock::AppArmor,
                        kernel,
                        profiles,
                        refused,
                        ..Chosen::nothing()
                    });
                }
                Some(Err(Unopened::Failed(error))) => {
                    return Err(error.context("AppArmor is there, and fails"));
                }
                Some(Err(Unopened::Unsupported(error))) => refused.push(format!("apparmor: {error:#}")),
                None => {}
            },
            Lsm::Selinux if !config.host.enforce => {
                refused.push(
                    "selinux: it holds host policies alone, and `--host-policies` is not given".to_owned(),
                );
            }
            Lsm::Selinux => match selinux.take().map(|open| open()) {
                Some(Ok(kernel)) => {
                    return Ok(Chosen { lock: Lock::Selinux, kernel, refused, ..Chosen::nothing() });
                }
                Some(Err(Unopened::Failed(error))) => {
                    return Err(error.context("SELinux is there, and fails"));
                }
                Some(Err(Unopened::Unsupported(error))) => refused.push(format!("selinux: {error:#}")),
                None => {}
            },
        }
    }
    Ok(Chosen { refused, ..Chosen::nothing() })
}

/// BPF-LSM, and AppArmor beside it where this host has it.
fn beside<K: Kernel>(
    kernel: K,
    profiles: Result<Profiles, Unopened>,
    strict: bool,
) -> anyhow::Result<Chosen> {
    match profiles {
        Ok(profiles) => {
            let profiles = Arc::new(profiles.for_natives_alone());
            let kernel = Box::new(Beside::new(kernel, Arc::clone(&profiles), strict));
            Ok(Chosen { lock: Lock::Both, kernel, profiles: Some(profiles), ..Chosen::nothing() })
        }
        Err(Unopened::Unsupported(error)) => {
            let uncombined = Some(format!("{error:#}"));
            Ok(Chosen { lock: Lock::Bpf, kernel: Box::new(kernel), uncombined, ..Chosen::nothing() })
        }
        Err(Unopened::Failed(error)) => {
            Err(error.context("AppArmor is there, and fails beside BPF-LSM (`combine`)"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;
    use crate::kernel::recording::Recording;

    fn config(order: &[&str], combine: bool) -> Config {
        let lsm_order = order.iter().map(|name| (*name).to_owned()).collect();
        let args = RunArgs { policy_dirs: vec!["/p".into()], lsm_order, combine, ..RunArgs::default() };
        Config::new(args, None).unwrap()
    }

    fn unsupported() -> Result<Recording, Unopened> {
        Err(Unopened::Unsupported(anyhow::anyhow!("no BPF-LSM")))
    }

    fn absent() -> Result<Profiles, Unopened> {
        Err(Unopened::Unsupported(anyhow::anyhow!("no AppArmor")))
    }

    fn none() -> Result<Box<dyn Kernel>, Unopened> {
        Err(Unopened::Unsupported(anyhow::anyhow!("no SELinux")))
    }

    fn there() -> Result<Profiles, Unopened> {
        let loader = Box::<crate::apparmor::tests::Memory>::default();
        Profiles::with(loader, "/nonexistent".into()).map_err(|error| Unopened::Failed(error.into()))
    }

    #[test]
    fn the_first_of_the_order_that_works_is_taken() {
        let works = |_: &Config| Ok(Recording::default());
        let both = ["bpf", "apparmor"];
        let lock =
            |order: &[&str], combine| choose(&config(order, combine), works, there, none).unwrap().lock;
        assert_eq!(lock(&both, false), Lock::Bpf);
        assert_eq!(lock(&both, true), Lock::Both);
        assert_eq!(lock(&["bpf"], true), Lock::Both);
        assert_eq!(lock(&["apparmor", "bpf"], false), Lock::AppArmor);
        let chosen = choose(&config(&both, false), |_| unsupported(), there, none).unwrap();
        assert_eq!((chosen.lock, chosen.refused), (Lock::AppArmor, vec!["bpf: no BPF-LSM".to_owned()]));
        let chosen = choose(&config(&both, false), |_| unsupported(), absent, none).unwrap();
        assert_eq!((chosen.lock, chosen.refused.len()), (Lock::Nothing, 2));
        let chosen = choose(&config(&["bpf"], false), |_| unsupported(), there, none).unwrap();
        assert_eq!(chosen.lock, Lock::Nothing, "what is not in the order is not taken");
    }

    /// It holds nothing else than host policies: where these are not enforced, it would hold nothing.
    #[test]
    fn selinux_is_taken_for_host_policies_alone() {
        let choose = |host: bool, selinux: fn() -> Result<Box<dyn Kernel>, Unopened>| {
            let mut config = config(&["selinux"], false);
            config.host.enforce = host;
            choose(&config, |_| unsupported(), absent, selinux)
        };
        let works = || Ok(Box::new(Absent) as Box<dyn Kernel>);
        assert_eq!(choose(true, works).unwrap().lock, Lock::Selinux);
        let without = choose(false, works).unwrap();
        assert_eq!((without.lock, without.refused.len()), (Lock::Nothing, 1));
        assert!(without.refused[0].contains("--host-policies"), "{:?}", without.refused);
        assert_eq!(choose(true, none).unwrap().lock, Lock::Nothing);
        let fails = || Err(Unopened::Failed(anyhow::anyhow!("semodule takes too long")));
        let error = choose(true, fails).unwrap_err();
        assert_eq!(format!("{error:#}"), "SELinux is there, and fails: semodule takes too long");
        assert!(!Lock::Selinux.holds_containers() && !Lock::Nothing.holds_containers());
        assert!(
            Lock::Bpf.holds_containers()
                && Lock::AppArmor.holds_containers()
                && Lock::Both.holds_containers()
        );
    }

    #[test]
    fn labels_that_another_lock_does_not_see_to_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let with = |lock| Chosen { lock, ..Chosen::nothing() };
        assert!(!with(Lock::Bpf).leaves_labels(dir.path()));
        let record = dir.path().join("labels");
        std::fs::write(&record, "nri-enforcer labels 1\nsystem_u 2f61\nend\n").unwrap();
        assert!(with(Lock::Bpf).leaves_labels(dir.path()) && with(Lock::Nothing).leaves_labels(dir.path()));
        assert!(!with(Lock::Selinux).leaves_labels(dir.path()));
        std::fs::write(&record, "damaged").unwrap();
        assert!(with(Lock::Nothing).leaves_labels(dir.path()));
    }

    /// A fault may pass, and a weaker lock would stay.
    #[test]
    fn what_fails_is_not_replaced_by_something_weaker() {
        let busy = |_: &Config| Err::<Recording, _>(Unopened::Failed(anyhow::anyhow!("another daemon")));
        let error = choose(&config(&["bpf", "apparmor"], false), busy, there, none).unwrap_err();
        assert_eq!(error.to_string(), "another daemon");
        let slow = || Err::<Profiles, _>(Unopened::Failed(anyhow::anyhow!("the parser takes too long")));
        let works = |_: &Config| Ok(Recording::default());
        let error = choose(&config(&["bpf", "apparmor"], true), works, slow, none).unwrap_err();
        assert!(format!("{error:#}").contains("(`combine`): the parser takes too long"), "{error:#}");
        for order in [&["bpf", "apparmor"][..], &["apparmor", "bpf"], &["apparmor"]] {
            let error = choose(&config(order, false), |_| unsupported(), slow, none).unwrap_err();
            assert_eq!(format!("{error:#}"), "AppArmor is there, and fails: the parser takes too long");
        }
    }

    #[test]
    fn an_order_that_makes_no_sense_is_an_error_that_says_why() {
        let names = |names: &[&str]| order(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["apparmor", "bpf"]), Ok(vec![Lsm::AppArmor, Lsm::Bpf]));
        assert_eq!(names(&["selinux", "bpf"]), Ok(vec![Lsm::Selinux, Lsm::Bpf]));
        assert!(names(&["bfp"]).unwrap_err().contains("`bfp` is no lock"));
        assert!(names(&["bpf", "bpf"]).unwrap_err().contains("twice"));
        assert!(names(&[]).unwrap_err().contains("no lock"));
    }

    /// One such node of a cluster enforces what it can.
    #[test]
    fn where_there_is_no_apparmor_to_combine_bpf_is_alone_and_that_is_told() {
        let works = |_: &Config| Ok(Recording::default());
        for order in [&["bpf", "apparmor"][..], &["bpf"]] {
            let chosen = choose(&config(order, true), works, absent, none).unwrap();
            assert_eq!((chosen.lock, chosen.uncombined.as_deref()), (Lock::Bpf, Some("no AppArmor")));
            assert!(chosen.profiles.is_none());
            assert_eq!(choose(&config(order, true), works, there, none).unwrap().uncombined, None);
        }
        assert_eq!(choose(&config(&["bpf"], false), works, absent, none).unwrap().uncombined, None);
    }
}
