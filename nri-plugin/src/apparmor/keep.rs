//! Profiles of an earlier daemon, while it is not known which policies there are: what is in them is the only place that says
//! what their containers are to have.

use std::collections::BTreeSet;
use std::sync::Arc;

use enforcer_core::compile::apparmor::ProfileName;
use enforcer_core::enforce::ContainerId;
use tokio::sync::watch;

use super::{Bound, Content, Profiles, State};
use crate::container::Selection;
use crate::registry::Registry;
use crate::set::PolicySet;

/// Says why it is not known what policies say of a container; `None`: it is.
pub type Awaits = Box<dyn Fn(&ContainerId) -> Option<String> + Send + Sync>;

/// Asks the policies now in force about a container. Of one that the registry lacks nothing is known.
#[must_use]
pub fn awaits(
    selection: &Selection,
    policies: &watch::Receiver<Arc<PolicySet>>,
    registry: &Arc<Registry>,
) -> Awaits {
    let (selection, policies, registry) = (selection.clone(), policies.clone(), Arc::clone(registry));
    Box::new(move |id| match registry.container(id) {
        Some(container) => selection.awaits_for(&policies.borrow(), &container),
        None => Some(unlisted(id)),
    })
}

fn unlisted(id: &ContainerId) -> String {
    format!("the runtime has not told of its container `{id}` yet")
}

impl Profiles {
    /// Tells where to ask whether it is known what policies say. Only the first call counts.
    pub fn waits(&self, awaits: Awaits) {
        let _once = self.awaits.set(awaits);
    }

    /// Why a profile of an earlier daemon stays as it is; `None`: it need not. Also whoever has come since is kept waiting by
    /// those that were there before: as long as it is not known of each of them what it is to have. `counts`: whose rules are
    /// for the profile.
    pub(super) fn kept(
        &self,
        state: &State,
        name: &ProfileName,
        counts: impl Fn(&ContainerId) -> bool,
    ) -> Option<String> {
        if state.loaded.get(name) != Some(&Content::UNKNOWN) {
            return None;
        }
        let why = |(id, bound): (&ContainerId, &Bound)| {
            // by this id the runtime knows a pod: policies say nothing of what holds its namespaces
            if bound.name != *name || !state.earlier.contains(id) || state.asked.contains_key(id.as_str()) {
                return None;
            }
            let awaited = self.awaits.get().and_then(|awaits| awaits(id));
            let unsettled = || format!("its container `{id}` has not been looked at yet");
            awaited.or_else(|| (bound.want.is_none() && counts(id)).then(unsettled))
        };
        let why = state.bound.iter().find_map(why)?;
        Some(format!("its AppArmor profile `{name}` keeps the rules that an earlier daemon put in it: {why}"))
    }

    /// Those of an earlier daemon's containers that are over before anybody has told of them, and so tells of their end, keep
    /// no profile as it is.
    pub(super) fn forget_over(&self) {
        let untold: BTreeSet<ContainerId> = {
            let state = self.state();
            let untold =
                state.bound.iter().filter(|(id, bound)| bound.want.is_none() && state.earlier.contains(*id));
            untold.map(|(id, _)| id.clone()).collect()
        };
        match self.procs().inhabited(&untold) {
            Ok(living) => untold.difference(&living).for_each(|id| self.release(id)),
            Err(error) => tracing::warn!(%error, "cannot list processes; profiles of an earlier daemon stay"),
        }
    }
}
