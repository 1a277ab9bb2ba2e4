//! The daemon's side: what a container really has, and what that means for an access.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enforcer_core::compile::{apparmor, selinux};
use enforcer_core::coverage::{Gap, GapReason};
use enforcer_core::decide::Verdict;
use enforcer_core::enforce::ContainerId;
use enforcer_core::explain::{Explanation, Question};
use enforcer_core::links::{LookUps, OtherName};
use enforcer_core::path::AbsPath;
use enforcer_core::ruleset::{Class, Resolved, Ruleset};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::choose::choose;
use super::document::{AsWritten, GapTold, Query, SeccompTold, Told};
use crate::compile;
use crate::container::Wish;
use crate::exit::chain;
use crate::judge::{self, Asked, of_seccomp};
use crate::lock::Lock;
use crate::metrics::node::KernelSide;
use crate::order::{Order, RootOf};
use crate::procs::Procs;
use crate::roots::{self, Found, Roots};
use crate::seccomp::ledger::{Entry, State as Profile};
use crate::set::PolicySet;
use crate::status::document::{ContainerStatus, State};
use crate::status::serve::Status;

/// How long the reconciler may take to say where a container's root is: it may be at work on many containers.
const PATIENCE: Duration = Duration::from_secs(5);

/// What answers are made of.
pub struct Inquiry {
    pub(crate) status: Arc<Status>,
    kernel: Box<dyn KernelSide>,
    orders: Sender<Order>,
    roots: Mutex<Roots>,
}

impl fmt::Debug for Inquiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inquiry").field("status", &self.status).finish_non_exhaustive()
    }
}

/// What becomes of a question.
#[derive(Debug)]
pub enum Inquired {
    /// The answer.
    Told(Box<Told>),
    /// One of these has to be chosen; none: there is no such container.
    Choose(Vec<ContainerStatus>),
}

impl Inquiry {
    /// Of this daemon. `procs`: where the roots of processes are.
    pub fn new(
        status: Arc<Status>,
        kernel: Box<dyn KernelSide>,
        orders: Sender<Order>,
        procs: Procs,
    ) -> Self {
        Self { status, kernel, orders, roots: Mutex::new(Roots::new(procs)) }
    }

    /// Answers.
    ///
    /// # Errors
    /// When the question makes no sense, or what the kernel has cannot be told; for people.
    pub async fn explain(&self, query: &Query) -> Result<Inquired, String> {
        let question: Question =
            query.access.parse().map_err(|error| format!("--access: {}", chain(&error)))?;
        let source = query.source.as_ref().map(|path| path.parse::<AbsPath>()).transpose();
        let source = source.map_err(|error| format!("--source: {}", chain(&error)))?;
        let entries = self.status.registry.seccomp().entries_now();
        let chosen = choose(&entries, &query.which);
        let [entry] = chosen.as_slice() else {
            return Ok(Inquired::Choose(chosen.into_iter().map(|entry| self.status.of(entry)).collect()));
        };
        let root = self.root_of(&entry.container.id).await?;
        let asked = Asked {
            question: &question,
            source: source.as_ref(),
            args: &query.args,
            terminal: query.terminal,
            uid: query.uid,
            owner: query.owner,
        };
        let told = tokio::task::block_in_place(|| self.tell(entry, root, &asked))?;
        Ok(Inquired::Told(Box::new(told)))
    }

    /// Where the container's root is; `None`: its first process is not there, or the root not known.
    pub(crate) async fn root_of(&self, id: &ContainerId) -> Result<Option<RootOf>, String> {
        let (reply, told) = oneshot::channel();
        let order = Order::RootOf { id: id.clone(), reply };
        self.orders.send(order).map_err(|_| "the daemon ends".to_owned())?;
        let told = timeout(PATIENCE, told).await;
        let root = told.map_err(|_| "the daemon is too busy to answer; ask again")?;
        root.map_err(|_| "the daemon ends".to_owned())
    }

    /// Other names of all these paths in the container's root, sorted by path.
    pub(crate) fn look_up_in(&self, id: &ContainerId, root: RootOf, all: Vec<LookUps>) -> Found {
        let mut paths = BTreeSet::new();
        let mut twins = BTreeSet::new();
        for one in all {
            paths.extend(one.paths);
            twins.extend(one.twins);
        }
        let paths = Arc::new(LookUps { paths: paths.into_iter().collect(), twins });
        let RootOf { process, below } = root;
        let question = roots::Question { id: id.clone(), process, below, paths };
        // after a panic in another thread at worst one that hangs is asked again
        let mut found = self.roots.lock().unwrap_or_else(PoisonError::into_inner).look_up(question);
        found.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        found
    }

    fn tell(&self, entry: &Entry, root: Option<RootOf>, asked: &Asked<'_>) -> Result<Told, String> {
        let set = Arc::clone(&self.status.policies.borrow());
        let container = &entry.container;
        let status = self.status.of(entry);
        let armed = self.kernel.look().map_err(|error| format!("what is in force: {}", chain(&error)))?;
        let in_force = match armed.get(&container.id) {
            None => None,
            Some(digest) => Some(self.status.registry.ruleset(digest).ok_or_else(|| {
                format!("the kernel has a ruleset for {container} that this daemon did not make, and replaces; ask again")
            })?),
        };
        let mut notes = Vec::new();
        let written = self.as_written(&set, entry);
        let found = self.look_up(entry, root, asked, &written.ruleset, &mut notes);
        let linked = written.ruleset.with_links(|path| {
            let at = found.binary_search_by(|(found, _)| found.cmp(path)).ok();
            at.and_then(|at| found.get(at)).map(|(_, answer)| answer.clone()).unwrap_or_default()
        });
        let merged = self.status.selection.resolve(&set, &container.subject, container.wish);

        let names = first_names(&found);
        let other_name = |path: &AbsPath| names.get(path).cloned();
        let held = in_force.as_deref().map(|ruleset| self.held(ruleset));
        let explanation = match &held {
            Some(ruleset) => self.as_told(judge::of_rules(ruleset, asked, &other_name).explanation),
            None => unarmed(asked, &status, &other_name),
        };
        let as_written = judge::of_rules(&linked.ruleset, asked, &other_name).explanation;
        // what is in force says it, and the lock cannot hold it
        let unheld = in_force.as_deref().is_some_and(|ruleset| {
            differs(&explanation, &judge::of_rules(ruleset, asked, &other_name).explanation)
        });
        let gaps: Vec<Gap> = match &merged {
            Some(merged) => merged.coverage.gaps.iter().cloned().chain(linked.gaps).collect(),
            None => Vec::new(),
        };
        let of = |gap: &&Gap, explanation: &Explanation| {
            explanation.rule.as_ref() == Some(&gap.field)
                && explanation.policy.as_ref() == Some(&gap.policy.name)
        };
        let why = |written: &Explanation| match gaps.iter().find(|gap| of(gap, written)) {
            Some(gap) if unheld => format!("{}; {}", gap.reason, gap.advice),
            None if unheld => format!("{} cannot hold it; the gaps say more", self.holder()),
            _ => self.why_not(entry, &status, in_force.is_some()),
        };
        let as_written = differs(&explanation, &as_written)
            .then(|| AsWritten { not_in_force: why(&as_written), explanation: as_written });
        for gap in gaps.iter().filter(|gap| of(gap, &explanation)) {
            notes.push(format!(
                "the rule that decides is not held as written: {}; {}",
                gap.reason, gap.advice
            ));
        }
        if let Some(merged) = merged.filter(|merged| !merged.natives.is_empty()) {
            let policies = crate::container::name(merged.natives.iter().map(|native| &native.policy));
            notes.push(format!(
                "{policies} also says something in AppArmor's own words, which is not considered here"
            ));
        }
        // labels are on files, whoever comes
        if container.subject.host && self.status.selection.lock != Lock::Selinux {
            notes.push(
                "processes that are exempt from host policies, and what they start, are never denied"
                    .to_owned(),
            );
        }
        Ok(Told {
            seccomp: self.seccomp(&set, entry, asked.question, &mut notes)?,
            lock: in_force.is_some().then(|| self.holder().to_owned()),
            ruleset: in_force.as_ref().map(|ruleset| ruleset.digest().to_string()),
            postures: held.as_deref().map(postures).unwrap_or_default(),
            explanation,
            as_written,
            gaps: gaps.iter().map(gap).collect(),
            notes,
            container: status,
        })
    }

    /// What the policies say to the container, whatever of it is in force.
    fn as_written(&self, set: &PolicySet, entry: &Entry) -> Resolved {
        let subject = &entry.container.subject;
        let postures = self.status.selection.postures_of(set, subject);
        Ruleset::resolve(set.selecting(subject).into_iter().map(AsRef::as_ref), &postures, subject)
    }

    /// Other names of the paths in the container's root, sorted by path.
    fn look_up(
        &self,
        entry: &Entry,
        root: Option<RootOf>,
        asked: &Asked<'_>,
        written: &Ruleset,
        notes: &mut Vec<String>,
    ) -> Found {
        let mine: BTreeSet<AbsPath> = asked.paths().collect();
        let Some(root) = root else {
            if !mine.is_empty() {
                notes.push(
                    "symbolic links are not followed: its first process is not there, or its root not known"
                        .to_owned(),
                );
            }
            return Found::new();
        };
        let of_question = LookUps { paths: mine.iter().cloned().collect(), ..LookUps::default() };
        let found = self.look_up_in(&entry.container.id, root, vec![LookUps::of(written), of_question]);
        for (path, answer) in found.iter().filter(|(path, _)| mine.contains(path)) {
            if let Some(unknown) = answer.unknown {
                notes.push(format!(
                    "whether `{path}` is reached by a symbolic link is not known: {}",
                    unknown.why()
                ));
            }
        }
        found
    }

    /// What of a ruleset that is in force the lock holds.
    fn held<'r>(&self, ruleset: &'r Ruleset) -> Cow<'r, Ruleset> {
        match self.status.selection.lock {
            Lock::AppArmor => Cow::Owned(apparmor::held(ruleset)),
            Lock::Selinux => Cow::Owned(selinux::held(ruleset)),
            Lock::Bpf | Lock::Both | Lock::Nothing => Cow::Borrowed(ruleset),
        }
    }

    /// What becomes of an access by rules that are held.
    fn as_told(&self, explanation: Explanation) -> Explanation {
        if self.status.selection.lock != Lock::Selinux || explanation.verdict != Verdict::Audit {
            return explanation;
        }
        let reason = format!("it passes without a report, for labels report nothing: {}", explanation.reason);
        Explanation { verdict: Verdict::Allow, reason, ..explanation }
    }

    fn holder(&self) -> &'static str {
        match self.status.selection.lock {
            Lock::AppArmor => "apparmor",
            Lock::Bpf | Lock::Both => "bpf",
            Lock::Selinux => "selinux",
            Lock::Nothing => "none",
        }
    }

    /// Why what the policies say is not in force.
    fn why_not(&self, entry: &Entry, status: &ContainerStatus, armed: bool) -> String {
        let selection = &self.status.selection;
        match status.state {
            _ if !status.reason.is_empty() && status.state != State::PendingRestart => status.reason.clone(),
            State::Ended => "it has ended".to_owned(),
            _ if selection.seccomp_only => "this daemon enforces seccomp policies alone".to_owned(),
            _ if selection.lock == Lock::Nothing => "no lock works on this node".to_owned(),
            _ if !selection.lock.holds_containers() && !entry.container.id.is_host() => {
                GapReason::SelinuxContainer.to_string()
            }
            _ if selection.honour_pod_annotations && entry.container.wish == Wish::Audited => {
                "its pod has what policies deny reported instead, and may".to_owned()
            }
            _ if armed => {
                "the policies or its links changed, and its turn has not come yet; or it is a gap".to_owned()
            }
            _ => "it is not armed yet".to_owned(),
        }
    }

    /// What seccomp policies say, and whether its processes have that.
    fn seccomp(
        &self,
        set: &PolicySet,
        entry: &Entry,
        question: &Question,
        notes: &mut Vec<String>,
    ) -> Result<Option<SeccompTold>, String> {
        if question.class() != Class::Syscall {
            return Ok(None);
        }
        let policies = self.status.seccomp.selecting(set, &entry.container);
        let policies: Vec<_> = policies.iter().map(AsRef::as_ref).collect();
        let base = || compile::base(&crate::cli::BaseChoice::RuntimeDefault, &[]);
        let Some(explained) = judge::of_seccomp_policies(&policies, question, base)? else {
            if entry.created.profile.is_some() && policies.is_empty() {
                notes.push(
                    "it keeps the seccomp profile of policies that are gone until it is restarted".to_owned(),
                );
            }
            return Ok(None);
        };
        if explained.policy.is_none() {
            notes.push(
                "what is below the seccomp policies was taken for the runtime's default profile; the daemon does not keep \
                 what a container had of its own"
                    .to_owned(),
            );
        }
        let not_in_force = match entry.state {
            Profile::InForce => None,
            Profile::Ended => Some("it has ended".to_owned()),
            Profile::PendingRestart => Some(
                "it was created before: it keeps the profile of that time until it is restarted".to_owned(),
            ),
            Profile::NotApplied => {
                Some(entry.not_applied.clone().unwrap_or_else(|| "its profile is not applied".to_owned()))
            }
        };
        Ok(Some(SeccompTold {
            verdict: of_seccomp(&explained),
            action: explained.action,
            policy: explained.policy,
            rule: explained.rule,
            reason: explained.reason,
            not_in_force,
        }))
    }
}

/// What a container without a ruleset gets, by the rules that it has: none.
fn unarmed(
    asked: &Asked<'_>,
    status: &ContainerStatus,
    other_name: &dyn Fn(&AbsPath) -> Option<OtherName>,
) -> Explanation {
    let nothing = Ruleset::resolve([], &Default::default(), &Default::default()).ruleset;
    let explanation = judge::of_rules(&nothing, asked, other_name).explanation;
    let why = match (status.state, status.reason.is_empty()) {
        (State::Ended, _) => "it has ended",
        (_, false) if status.state != State::PendingRestart => status.reason.as_str(),
        (State::NotSelected, _) => "no policy selects it",
        (State::Armed | State::PendingRestart, _) => "its policies have no rules but those of seccomp",
        _ => "it is not armed",
    };
    let reason = format!("the kernel has no rules for it, so nothing is denied or reported: {why}");
    Explanation { reason, ..explanation }
}

/// Whether two answers are different for who asked.
fn differs(one: &Explanation, other: &Explanation) -> bool {
    let key = |of: &Explanation| (of.verdict, of.policy.clone(), of.rule.clone());
    key(one) != key(other)
}

fn first_names(found: &Found) -> BTreeMap<AbsPath, OtherName> {
    let first = |(path, answer): &(AbsPath, enforcer_core::links::Resolution)| {
        Some((path.clone(), answer.names.first()?.clone()))
    };
    found.iter().filter_map(first).collect()
}

fn gap(Gap { policy, field, reason, advice }: &Gap) -> GapTold {
    GapTold {
        policy: policy.to_string(),
        field: field.clone(),
        reason: reason.to_string(),
        advice: advice.clone(),
    }
}

/// What becomes of accesses that no rule is about, in the classes that are whitelists.
fn postures(ruleset: &Ruleset) -> BTreeMap<String, String> {
    let whitelists = Class::ALL.into_iter().filter(|class| ruleset.whitelisted(*class));
    whitelists.map(|class| (class.to_string(), ruleset.posture(class).to_string())).collect()
}

#[cfg(test)]
mod tests;
