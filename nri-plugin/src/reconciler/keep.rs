//! What an earlier daemon put in force, while it is not known which policies there are: a set that has not come yet must not
//! read as one without policies.

use enforcer_core::enforce::ContainerId;
use enforcer_core::ruleset::Ruleset;

use super::{Known, Late, Reconciler};
use crate::exit::chain;
use crate::kernel::Kernel;

impl<K: Kernel> Reconciler<K> {
    /// Why it is not known what policies say of a container with rules of an earlier daemon; `None`: it is, or it has none.
    pub(super) fn untold(&self, known: &Known) -> Option<String> {
        let of_before = known.armed.is_some() && !known.armed_here;
        of_before.then(|| self.selection.awaits_for(&self.policies.borrow(), &known.container)).flatten()
    }

    /// Whether a container with rules of an earlier daemon may lose some of them where it gets these: what they are is not
    /// known here, but for those that are the same, or none.
    pub(super) fn would_lose(&self, id: &ContainerId, wanted: Option<&Ruleset>) -> bool {
        let Some(known) = self.known.get(id) else { return false };
        let Some(armed) = known.armed.filter(|_| !known.armed_here) else { return false };
        let same = wanted.is_some_and(|ruleset| ruleset.digest() == armed);
        // of what waits in vain for its first execution nothing is judged by them
        let in_vain = match known.late {
            Late::No | Late::Unheard => false,
            Late::Begun => wanted.is_some() && known.process.is_some_and(|one| self.procs.alive(one)),
            Late::Elsewhere => true,
        };
        !same && !in_vain && armed != self.nothing(&known.container).digest()
    }

    /// Leaves the rules of an earlier daemon as they are, and says so until the policies are known: it is looked at again
    /// whenever these change.
    pub(super) fn keep_earlier(&mut self, id: &ContainerId, why: &str) {
        let Some(known) = self.known.get_mut(id) else { return };
        let why = format!("it keeps the rules that an earlier daemon put in force: {why}");
        if known.failed.as_ref() != Some(&why) {
            tracing::warn!(container = %known.container, "{why}");
            known.failed = Some(why);
        }
        known.kept = true;
        self.publish(id);
    }

    /// All that runs has been looked at; `complete`: and is as it should be. Then nothing else needs to hold any of it any
    /// more, unless it is not known yet how it should be: what another version left may be all that holds it.
    pub(super) fn all_is_well(&mut self, complete: bool) {
        self.later = complete && !self.is_told();
        if self.later {
            tracing::warn!(
                "the policies are not known yet: what another version left, if any, stays in force beside this one"
            );
        } else if complete {
            self.let_go();
        }
    }

    /// The same once the policies are known, and everything is as they say.
    pub(super) fn all_is_well_now(&mut self) {
        let idle = self.queue.is_empty() && self.ahead.is_none();
        if self.later && idle && self.is_told() && self.known.values().all(|known| known.failed.is_none()) {
            self.later = false;
            self.let_go();
        }
    }

    fn let_go(&self) {
        if let Err(error) = self.kernel.settled() {
            tracing::error!(
                error = chain(&error),
                "what another version left stays in force beside this one"
            );
        }
    }

    /// Whether it is known which policies there are, in the set with which everything was compared last.
    fn is_told(&self) -> bool {
        let host = self.known.get(&ContainerId::host());
        let of_host = host.and_then(|known| self.selection.awaits_for(&self.seen, &known.container));
        self.seen.untold().is_none() && of_host.is_none()
    }
}
