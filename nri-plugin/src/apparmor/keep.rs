//! Profiles of an earlier daemon, while it is not known which policies there are: what is in them is the only place that says
//! what their containers are to have.

use std::sync::Arc;

use enforcer_core::compile::apparmor::ProfileName;
use enforcer_core::enforce::ContainerId;
use tokio::sync::watch;

use super::{Content, Profiles, State};
use crate::container::Selection;
use crate::registry::Registry;
use crate::set::PolicySet;

/// Says why it is not known what policies say of a container; `None`: it is, or the container is not known itself.
pub type Awaits = Box<dyn Fn(&ContainerId) -> Option<String> + Send + Sync>;

/// Asks the policies now in force about a container that the registry has.
#[must_use]
pub fn awaits(
    selection: &Selection,
    policies: &watch::Receiver<Arc<PolicySet>>,
    registry: &Arc<Registry>,
) -> Awaits {
    let (selection, policies, registry) = (selection.clone(), policies.clone(), Arc::clone(registry));
    Box::new(move |id| selection.awaits_for(&policies.borrow(), registry.container(id)?.as_ref()))
}

impl Profiles {
    /// Tells where to ask whether it is known what policies say. Only the first call counts.
    pub fn waits(&self, awaits: Awaits) {
        let _once = self.awaits.set(awaits);
    }

    /// Why a profile of an earlier daemon stays as it is; `None`: it need not. Also whoever has come since is kept waiting by
    /// those that were there before.
    pub(super) fn kept(&self, state: &State, name: &ProfileName) -> Option<String> {
        let awaits = self.awaits.get()?;
        if state.loaded.get(name) != Some(&Content::UNKNOWN) {
            return None;
        }
        let of_before =
            state.bound.iter().filter(|(id, bound)| bound.name == *name && state.earlier.contains(*id));
        let why = of_before.filter_map(|(id, _)| awaits(id)).next()?;
        Some(format!("its AppArmor profile `{name}` keeps the rules that an earlier daemon put in it: {why}"))
    }
}
