//! The reconciler's main work: containers of the queue made what the policies say, some at a time, since looking up the
//! paths of many and exchanging the rules of many takes hardly longer than of one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer_core::enforce::{ContainerId, Stage};
use enforcer_core::links::Unknown;
use enforcer_core::ruleset::{Ruleset, RulesetDigest};

use super::linked::Kept;
use super::{Known, Late, Reconciler};
use crate::container::{Container, Merged, name_policies};
use crate::exit::chain;
use crate::kernel::Kernel;
use crate::order::Notice;
use crate::procs::Process;
use crate::roots::{Asked, Found, all};

/// Containers that are made up to date before the next order is taken.
const TOGETHER: usize = 256;
/// No more paths are waited for after this, and no more links followed: a start is waiting, or may be.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);
/// Containers whose links are followed before it is looked how long that took, and how long so many may take for twice as
/// many to be next.
pub(super) const FIRST: usize = 4;
const QUICK: Duration = Duration::from_millis(25);

/// A container of the queue, and what the policies say about it now.
pub(super) struct Looked {
    id: ContainerId,
    container: Arc<Container>,
    process: Option<Process>,
    stage: Stage,
    wanted: Option<Arc<Merged>>,
    untold: Option<String>, // why that is not all that there is to say
}

/// Rules to take the place of others.
struct Exchange {
    id: ContainerId,
    container: Arc<Container>,
    ruleset: Arc<Ruleset>,
    lifted: bool, // no policy selects the container any more
}

/// A container, what of its look-ups before still counts, and what was found now; `None` where nothing is wanted of it.
pub(super) type Answered = (Looked, Option<Kept>, Option<Found>);

/// Containers whose paths are being looked up.
pub(super) struct Batch {
    again: bool, // they are up to date but for links that may be others now
    looked: Vec<(Looked, Option<Option<Kept>>)>, // None where the root cannot be told
    asked: Asked,
}

impl<K: Kernel> Reconciler<K> {
    /// Makes containers what the policies say. An error is remembered, told, and tried again by the next sweep.
    pub(super) fn reconcile(&mut self) {
        let batch = self.ahead.take().unwrap_or_else(|| self.next_batch());
        let (again, begin) = (batch.again, Instant::now());
        let found = self.answered(begin, batch);
        self.apply(again, begin, found);
    }

    /// Waits for what is found in the roots of a batch's containers, or gives containers back.
    pub(super) fn answered(&mut self, begin: Instant, batch: Batch) -> Vec<Answered> {
        let Batch { again, looked, mut asked } = batch;
        let mut looked = looked.into_iter();
        let mut found = Vec::new();
        for (one, kept) in looked.by_ref() {
            let answer = one.wanted.as_ref().map(|merged| match &kept {
                Some(_) => self.roots.answer(&mut asked),
                None => all(&merged.paths, Unknown::Unreadable),
            });
            found.push((one, kept.flatten(), answer));
            if begin.elapsed() > PATIENCE {
                break;
            }
        }
        let complete = looked.len() == 0;
        self.put_back(Batch { again, looked: looked.collect(), asked });
        // the paths of the next ones are looked up while the rules of these are worked out and exchanged
        if complete && !self.queue.is_empty() {
            self.ahead = Some(self.next_batch());
        }
        found
    }

    /// Puts the rules of containers in force, in whose roots this was found, or gives containers back.
    pub(super) fn apply(&mut self, again: bool, begin: Instant, found: Vec<Answered>) {
        let mut found = found.into_iter();
        let mut exchanges = Vec::new();
        let mut together = FIRST;
        while found.len() > 0 {
            let part = Instant::now();
            let some = found.by_ref().take(together).collect();
            exchanges.extend(self.settle_some(some));
            if begin.elapsed() > PATIENCE {
                break;
            }
            together = if part.elapsed() < QUICK { together.saturating_mul(2) } else { FIRST };
        }
        let rest = found.map(|(one, kept, _)| (one, Some(kept))).collect();
        self.put_back(Batch { again, looked: rest, asked: Asked::default() });
        self.exchange(&exchanges);
    }

    fn settle_some(&mut self, found: Vec<Answered>) -> Vec<Exchange> {
        let mut pending = Vec::new();
        let mut without = Vec::new();
        for (one, kept, found) in found {
            let Some((merged, found)) = one.wanted.clone().zip(found) else {
                without.push(one);
                continue;
            };
            if kept.is_some() {
                self.partly.insert(one.id.clone());
            }
            let unlinked = self.unlinked(&one.id, one.process, merged, found, kept.as_ref());
            pending.push((one, unlinked));
        }
        let (with, unlinked): (Vec<_>, Vec<_>) = pending.into_iter().unzip();
        let linked = self.link_all(&unlinked);
        let with = with.into_iter().zip(linked).map(|(one, linked)| (one, Some(Arc::clone(&linked.ruleset))));
        let all = with.chain(without.into_iter().map(|one| (one, None)));
        all.filter_map(|(one, ruleset)| self.settle_one(one, ruleset)).collect()
    }

    /// The first containers of the queue, whose paths begin to be looked up.
    pub(super) fn next_batch(&mut self) -> Batch {
        let again = self.queue.is_empty();
        let mut asked = Asked::default();
        let mut ids = Vec::new();
        while ids.len() < TOGETHER
            && let Some(id) = if again { self.partly.pop_first() } else { self.queue.pop_front() }
        {
            self.queued.remove(&id);
            ids.push(id);
        }
        let mut looked = Vec::new();
        for one in self.look(ids) {
            let question =
                one.wanted.as_ref().and_then(|merged| self.question(&one.id, one.process, merged, again));
            let kept = question.map(|(question, kept)| {
                self.roots.ask(&mut asked, question);
                kept
            });
            looked.push((one, kept));
        }
        asked.end();
        self.looked_at += looked.len();
        Batch { again, looked, asked }
    }

    /// Whoever gives an order waits for none of the look-ups that were begun ahead, and may change what they are for.
    pub(super) fn stop_ahead(&mut self) {
        if let Some(batch) = self.ahead.take() {
            self.put_back(batch);
        }
    }

    fn put_back(&mut self, batch: Batch) {
        self.roots.give_up(&batch.asked);
        for (one, _) in batch.looked.into_iter().rev() {
            if batch.again {
                self.partly.insert(one.id);
            } else if self.queued.insert(one.id.clone()) {
                self.queue.push_front(one.id);
            }
        }
    }

    /// What is to be done about containers, but for those about which nothing is at present.
    fn look(&self, ids: Vec<ContainerId>) -> Vec<Looked> {
        let ids: Vec<_> = ids.into_iter().filter_map(|id| Some((self.known.get(&id)?, id))).collect();
        let containers: Vec<&Container> = ids.iter().map(|(known, _)| known.container.as_ref()).collect();
        // before what they say is asked: what comes between the two finds the container in the queue again
        let untold: Vec<_> = ids.iter().map(|(known, _)| self.untold(known)).collect();
        let looked = ids.iter().zip(self.wanted(&containers)).zip(untold);
        // StartContainer arms what has no process yet; what is over, as after a refused start, has nothing to arm
        let armable = |known: &Known| match known.process {
            None => known.stage != Stage::Created,
            Some(process) => self.procs.alive(process),
        };
        looked
            .filter(|(((known, _), wanted), _)| wanted.is_none() || known.armed.is_some() || armable(known))
            .map(|(((known, id), wanted), untold)| {
                let (id, container) = (id.clone(), Arc::clone(&known.container));
                Looked { id, container, process: known.process, stage: known.stage, wanted, untold }
            })
            .collect()
    }

    /// Arms a container, or finds that its rules are to be exchanged, which is left to the caller.
    fn settle_one(&mut self, looked: Looked, wanted: Option<Arc<Ruleset>>) -> Option<Exchange> {
        let Looked { id, container, process, stage, untold, .. } = looked;
        if let Some(why) = untold.filter(|_| self.would_lose(&id, wanted.as_deref())) {
            self.keep_earlier(&id, &why);
            return None;
        }
        let known = self.known.get_mut(&id)?;
        known.kept = false;
        match (wanted, known.armed) {
            (_, Some(_)) if known.late == Late::Elsewhere => None, // the sweep disarms it first, when it may
            // of the host an earlier daemon may have been killed on the way: what it had not done is done by arming it again
            (Some(ruleset), Some(_))
                if (known.late == Late::Begun
                    && process.is_some_and(|process| self.procs.alive(process)))
                    || (id.is_host() && !known.armed_here) =>
            {
                self.arm_late(&id, &container, process, stage, ruleset);
                None
            }
            (Some(ruleset), Some(armed)) if ruleset.digest() == armed => {
                known.failed = None;
                self.registry.fail(&id, None);
                self.registry.assign(&id, Some(ruleset));
                None
            }
            (Some(ruleset), Some(_)) => Some(Exchange { id, container, ruleset, lifted: false }),
            (Some(ruleset), None) => {
                self.arm_late(&id, &container, process, stage, ruleset);
                None
            }
            // who is the host's is told anew when it is armed again
            (None, Some(_)) if id.is_host() => {
                self.disarm(&id, "no policy selects this node");
                None
            }
            (None, Some(armed)) => self.lifted(id, container, armed),
            (None, None) => {
                (known.failed, known.unwatched) = (None, false);
                self.registry.fail(&id, None);
                None
            }
        }
    }

    /// Arms a container that is there already.
    fn arm_late(
        &mut self,
        id: &ContainerId,
        container: &Arc<Container>,
        process: Option<Process>,
        stage: Stage,
        ruleset: Arc<Ruleset>,
    ) {
        let Some(known) = self.known.get_mut(id) else { return };
        let (failed, unwatched) = (known.told(), known.unwatched);
        if stage == Stage::Running {
            self.selection.watches.missed(container);
        }
        match self.arm_living(id, process, &ruleset, stage) {
            Ok(()) if ruleset.only_observes() => tracing::info!(%container, "observed from now on"),
            Ok(()) if unwatched => {
                tracing::warn!(%container, policies = name_policies(&ruleset), "ran unprotected until now");
                self.count_late();
                (self.notify)(Notice::Late { container: Arc::clone(container), ruleset });
            }
            Ok(()) => tracing::info!(%container, ruleset = %ruleset.digest(), "ruleset in force"),
            Err(error) if ruleset.only_observes() => {
                tracing::warn!(%container, error = chain(&error), "cannot be observed; will try again");
            }
            Err(error) => {
                let reason = chain(&error);
                // one that was created so that it cannot have its rules stays so
                if !error.is_uncovered() || failed.as_ref() != Some(&reason) {
                    tracing::error!(%container, error = reason, "runs unprotected: cannot arm; will try again");
                }
                self.count_failed();
                if failed.as_ref() != Some(&reason) {
                    (self.notify)(Notice::Unprotected { container: Arc::clone(container), ruleset, reason });
                }
            }
        }
    }

    /// No policy selects the container any more: it gets a ruleset without rules. It stays armed, since what its
    /// processes are is known only from having been there at their start; a later policy then finds every one of them.
    fn lifted(
        &mut self,
        id: ContainerId,
        container: Arc<Container>,
        armed: RulesetDigest,
    ) -> Option<Exchange> {
        let ruleset = Arc::new(self.nothing(&container));
        if armed != ruleset.digest() {
            return Some(Exchange { id, container, ruleset, lifted: true });
        }
        if let Some(known) = self.known.get_mut(&id) {
            known.failed = None;
        }
        self.registry.fail(&id, None);
        None
    }

    /// The ruleset of a container that no policy selects.
    pub(super) fn nothing(&self, container: &Container) -> Ruleset {
        Ruleset::resolve([], &self.selection.postures, &container.subject).ruleset
    }

    fn exchange(&mut self, exchanges: &[Exchange]) {
        let updates: Vec<_> = exchanges.iter().map(|one| (&one.id, one.ruleset.as_ref())).collect();
        let results = self.kernel.update_all(&updates);
        for (Exchange { id, container, ruleset, lifted }, result) in exchanges.iter().zip(results) {
            let told = self.known.get(id).and_then(|known| known.failed.clone());
            self.note(id, ruleset, &result);
            if let Err(error) = &result
                && error.is_uncovered()
            {
                self.uncovered(container, ruleset, chain(error), told, *lifted);
                continue;
            }
            match (result.map_err(|error| chain(&error)), lifted) {
                (Ok(()), false) => {
                    tracing::info!(%container, ruleset = %ruleset.digest(), "ruleset replaced")
                }
                (Ok(()), true) => {
                    tracing::info!(%container, "no policy selects it, and nothing of it is to be seen")
                }
                (Err(error), false) => {
                    tracing::error!(%container, error, "cannot replace the ruleset; the one before stays in force");
                    self.count_failed();
                }
                (Err(error), true) => {
                    tracing::error!(%container, error, "cannot lift the policies; they stay in force, will try again");
                    self.count_failed();
                }
            }
        }
    }

    /// What a container was created with does not hold the rules that it should have now: it runs under others, and that is
    /// told once. `told`: what was told last.
    fn uncovered(
        &mut self,
        container: &Arc<Container>,
        ruleset: &Arc<Ruleset>,
        reason: String,
        told: Option<String>,
        lifted: bool,
    ) {
        self.count_failed();
        if told.as_ref() == Some(&reason) {
            return;
        }
        tracing::error!(%container, reason, "does not have the rules that its policies say, but others");
        // one that should have none has too many
        if !lifted {
            let (container, ruleset) = (Arc::clone(container), Arc::clone(ruleset));
            (self.notify)(Notice::Unprotected { container, ruleset, reason });
        }
    }
}
