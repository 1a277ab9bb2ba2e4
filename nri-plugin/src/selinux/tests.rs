use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use enforcer_core::enforce::Stage;
use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::Postures;
use enforcer_core::subject::Subject;

use super::*;
use crate::container::{Container, Selection, Wish};
use crate::lock::Lock;
use crate::order::{Notice, Order};
use crate::procs::Procs;
use crate::procs::tests::add;
use crate::reconciler::Reconciler;
use crate::registry::Registry;
use crate::set::PolicySet;

/// Stands for files of which there are so many that each step ends when the test says so.
struct Slow {
    begun: Sender<&'static str>,
    ends: Mutex<Receiver<Result<Vec<String>, SelinuxError>>>,
}

impl Slow {
    fn step(&self, what: &'static str) -> Result<Vec<String>, SelinuxError> {
        self.begun.send(what).unwrap();
        self.ends.lock().unwrap().recv().unwrap()
    }
}

impl Labeller for Slow {
    fn holds(&self) -> Result<(), SelinuxError> {
        Ok(())
    }

    fn apply(&self, _: &Labels) -> Result<Applied, SelinuxError> {
        self.step("set").map(|lacks| Applied { lacks, ..Applied::default() })
    }

    fn take_off(&self) -> Result<Restored, SelinuxError> {
        self.step("take off").map(|kept| Restored { kept, ..Restored::default() })
    }
}

struct Fixture {
    labels: Arc<HostLabels<Slow>>,
    begun: Receiver<&'static str>,
    end: Sender<Result<Vec<String>, SelinuxError>>,
    told: Arc<Mutex<Option<String>>>,
}

impl Fixture {
    fn new() -> Self {
        let ((begins, begun), (end, ends)) = (channel(), channel());
        let labels = HostLabels::with(Slow { begun: begins, ends: Mutex::new(ends) }, None, false).unwrap();
        let (labels, told) = (Arc::new(labels), Arc::<Mutex<Option<String>>>::default());
        let tells = Arc::clone(&told);
        labels.lacking(Box::new(move |_, what| *tells.lock().unwrap() = what));
        Self { labels, begun, end, told }
    }

    fn told(&self) -> String {
        self.told.lock().unwrap().clone().unwrap_or_default()
    }

    fn begins(&self, what: &str) {
        assert_eq!(self.begun.recv_timeout(Duration::from_secs(10)), Ok(what));
    }

    fn idle(&self) -> bool {
        self.labels.shared.state().wanted().is_none()
    }

    /// Lets the step end.
    fn ends(&self, with: Result<Vec<String>, SelinuxError>) {
        self.end.send(with).unwrap();
    }

    fn until(&self, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(10), "{}", self.told());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn armed(&self) -> Option<RulesetDigest> {
        self.labels.armed().unwrap().get(&ContainerId::host()).copied()
    }
}

fn policies(path: &str) -> Vec<Policy> {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: h}}\nspec:\n  \
         nodeSelector: {{matchLabels: {{rack: a}}}}\n  file: {{matchPaths: [{{path: {path}}}]}}\n  action: Block\n"
    );
    parse("test.yaml", &text).policies
}

fn host() -> Subject {
    Subject::of_host([("rack".to_owned(), "a".to_owned())].into())
}

fn ruleset(path: &str) -> Ruleset {
    Ruleset::resolve(&policies(path), &Postures::default(), &host()).ruleset
}

fn target(id: ContainerId) -> Target {
    Target { id, pid: 1, stage: Stage::Running }
}

/// The reconciler's thread, which all containers are armed on, is never held up.
#[test]
fn nobody_waits_for_files_to_be_labelled() {
    let f = Fixture::new();
    let (x, y) = (ruleset("/x"), ruleset("/y"));
    f.labels.arm(&target(ContainerId::host()), &x).unwrap();
    f.begins("set");
    assert_eq!((f.told().as_str(), f.armed()), (BEGUN, Some(x.digest())), "and it is not held, as is told");
    let container = f.labels.arm(&target(ContainerId::new("c1").unwrap()), &x).unwrap_err();
    assert!(container.is_uncovered());
    f.labels.tend();
    f.labels.arm(&target(ContainerId::host()), &x).unwrap();
    f.labels.update(&ContainerId::host(), &y).unwrap();
    assert_eq!(f.armed(), Some(y.digest()));
    f.ends(Ok(Vec::new()));
    f.begins("set");
    assert_eq!(f.told(), BEGUN, "the first rules are not those that are wanted");
    f.ends(Ok(vec!["`/y`: there is nothing yet".to_owned()]));
    f.until(|| f.told().contains("nothing yet"));
    assert!(f.idle(), "what was asked for twice is done once");
    f.labels.tend();
    f.begins("set");
    f.ends(Ok(Vec::new()));
    f.until(|| f.told().is_empty() && f.idle());
    assert_eq!(f.armed(), Some(y.digest()));
}

#[test]
fn what_fails_is_told_and_is_not_in_force() {
    let f = Fixture::new();
    let (x, y) = (ruleset("/x"), ruleset("/y"));
    f.labels.arm(&target(ContainerId::host()), &x).unwrap();
    f.begins("set");
    f.ends(Err(SelinuxError::Damaged("/record".into())));
    f.until(|| f.told().contains("is damaged") && f.idle());
    assert_eq!(f.armed(), None, "so the sweep arms it again");
    let again = f.labels.arm(&target(ContainerId::host()), &x).unwrap_err();
    assert!(again.to_string().contains("is damaged") && !again.is_uncovered(), "{again}");
    assert!(f.told().contains("is damaged"), "until it works");
    f.begins("set");
    assert_eq!(f.armed(), None, "nor is it while it is tried again");
    f.labels.arm(&target(ContainerId::host()), &x).unwrap_err();
    f.ends(Ok(Vec::new()));
    f.until(|| f.told().is_empty() && f.idle());
    assert_eq!(f.armed(), Some(x.digest()));
    f.labels.arm(&target(ContainerId::host()), &x).unwrap();
    f.begins("set");
    f.ends(Ok(Vec::new()));
    f.until(|| f.told().is_empty() && f.idle());
    f.labels.update(&ContainerId::host(), &y).unwrap();
    f.begins("set");
    f.ends(Err(SelinuxError::NotInForce));
    f.until(|| f.told().contains("does not enforce") && f.idle());
    assert_eq!(f.armed(), Some(x.digest()));
}

/// The record is on a full disk, for an example: each sweep tries again.
#[test]
fn a_host_that_cannot_be_labelled_is_unprotected_and_never_late_again() {
    let f = Fixture::new();
    let proc = tempfile::tempdir().unwrap();
    add(proc.path(), 1, 'S', 1000, "/init.scope");
    let set = Arc::new(PolicySet::new(policies("/x").into_iter().map(Arc::new).collect()));
    let (_policies, seen) = tokio::sync::watch::channel(set);
    let notices = Arc::<Mutex<Vec<String>>>::default();
    let of_reconciler = Arc::clone(&notices);
    let notify = Box::new(move |notice: Notice| {
        of_reconciler.lock().unwrap().push(match notice {
            Notice::Late { .. } => "late".to_owned(),
            Notice::Unprotected { reason, .. } => reason,
            other => panic!("not the reconciler's: {other:?}"),
        });
    });
    let selection =
        Selection { lock: Lock::Selinux, host: Some(Postures::default()), ..Selection::default() };
    let (registry, procs) = (Arc::<Registry>::default(), Procs::at(proc.path()));
    let (kernel, of_all) = (Arc::clone(&f.labels), Arc::clone(&registry));
    let mut reconciler = Reconciler::new(kernel, selection, seen, of_all, procs, notify);
    let mut take = |order| {
        reconciler.take(order);
        while !reconciler.is_idle() {
            reconciler.step();
        }
        std::mem::take(&mut *notices.lock().unwrap())
    };
    let (id, subject) = (ContainerId::host(), host());
    let host = Container { id, subject, pod_uid: String::new(), image: String::new(), wish: Wish::None };
    let mut said = take(Order::Started { container: Arc::new(host), pid: 1 });
    said.extend(take(Order::Sweep));
    for _ in 0..3 {
        f.begins("set");
        f.ends(Err(SelinuxError::Damaged("/record".into())));
        f.until(|| f.idle());
        said.extend(take(Order::Sweep));
    }
    let unprotected = said.iter().filter(|reason| reason.contains("is damaged")).count();
    let late = said.iter().filter(|said| *said == "late").count();
    assert_eq!((unprotected, said.len() - late), (1, 1), "{said:?}");
    assert!(late <= 1, "{said:?}");
    assert!(registry.standing(&ContainerId::host()).problem.is_some_and(|why| why.contains("is damaged")));
    // until it works
    f.begins("set");
    f.ends(Ok(Vec::new()));
    f.until(|| f.told().is_empty() && f.idle());
    assert_eq!((take(Order::Sweep), f.armed()), (Vec::new(), Some(ruleset("/x").digest())));
    assert_eq!(registry.standing(&ContainerId::host()).problem, None);
    f.begins("set"); // as each sweep looks for files
    f.ends(Ok(Vec::new()));
}

#[test]
fn labels_that_stay_are_still_in_force() {
    let f = Fixture::new();
    let x = ruleset("/x");
    f.labels.arm(&target(ContainerId::host()), &x).unwrap();
    f.begins("set");
    f.labels.disarm(&ContainerId::host()).unwrap();
    assert_eq!(f.armed(), None);
    f.ends(Ok(Vec::new()));
    f.begins("take off");
    f.ends(Ok(vec!["`/x`: busy".to_owned()]));
    f.until(|| f.told().contains("cannot be taken off: `/x`: busy") && f.idle());
    let some = Some(RulesetDigest::from_bytes(UNKNOWN));
    assert_eq!(f.armed(), some, "so the sweep disarms it again");
    f.labels.tend(); // which sets nothing that nobody wants
    f.labels.disarm(&ContainerId::host()).unwrap();
    f.begins("take off");
    f.ends(Ok(Vec::new()));
    f.until(|| f.told().is_empty() && f.idle());
    assert_eq!(f.armed(), None);
}

/// Armed, disarmed and armed again before the first step is done: no moment passes for one at which it is held.
#[test]
fn taking_off_does_not_clear_what_the_next_rules_lack() {
    let f = Fixture::new();
    let x = ruleset("/x");
    f.labels.arm(&target(ContainerId::host()), &x).unwrap();
    f.begins("set");
    f.ends(Ok(Vec::new()));
    f.until(|| f.told().is_empty() && f.idle());
    f.labels.disarm(&ContainerId::host()).unwrap();
    f.begins("take off");
    f.labels.arm(&target(ContainerId::host()), &x).unwrap();
    assert_eq!(f.told(), BEGUN);
    f.ends(Ok(Vec::new()));
    f.begins("set");
    assert_eq!((f.told().as_str(), f.armed()), (BEGUN, Some(x.digest())));
    f.ends(Ok(Vec::new()));
    f.until(|| f.told().is_empty() && f.idle());
}

#[test]
fn a_search_that_does_not_end_is_told() {
    let f = Fixture::new();
    f.labels.arm(&target(ContainerId::host()), &ruleset("/x")).unwrap();
    f.begins("set");
    f.labels.tend();
    assert_eq!(f.told(), BEGUN, "it may take a while");
    f.labels.tend_within(Duration::ZERO);
    assert!(f.told().contains("looking for files has taken more than 0 s"), "{}", f.told());
    f.ends(Ok(Vec::new()));
    f.until(|| f.told().is_empty() && f.idle());
}

#[test]
fn what_lacks_its_label_and_who_is_denied_nothing_is_named_and_counted() {
    let told = |count: usize, domains: &[&str]| {
        let lacks = (0..count).map(|n| format!("`/{n}`: why")).collect();
        let permissive = domains.iter().map(|name| name.parse().unwrap()).collect();
        name(&Applied { files: 0, lacks, refused: Vec::new(), permissive })
    };
    assert_eq!(told(0, &[]), None);
    assert_eq!(told(1, &[]).unwrap(), "not labelled for SELinux: `/0`: why");
    assert!(told(7, &[]).unwrap().ends_with("`/4`: why; and 2 more"));
    assert_eq!(
        told(1, &["a_t", "b_t"]).unwrap(),
        "processes of permissive domains are denied nothing: a_t; b_t; not labelled for SELinux: `/0`: why"
    );
}
