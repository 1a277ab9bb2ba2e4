//! Profiles for podman's containers: each has one of its own, which goes into its configuration at `precreate`.

use std::sync::Arc;

use super::Profiles;
use crate::container::{Container, Selection};
use crate::exit::chain;
use crate::gate::podman::Apparmor;
use crate::set::PolicySet;

/// Gives containers of podman's that policies select a profile; without `profiles`, none.
#[must_use]
pub fn for_podman(profiles: Option<&Arc<Profiles>>, selection: &Selection) -> Apparmor {
    let Some(profiles) = profiles.cloned() else { return Box::new(|_, _| Ok(None)) };
    let selection = selection.clone();
    Box::new(move |set: &PolicySet, container: &Container| {
        let Some(merged) = selection.resolve(set, &container.subject, container.wish) else {
            return Ok(None);
        };
        let for_others = profiles.natives_alone && merged.natives.is_empty();
        if merged.is_nothing() || for_others {
            return Ok(None);
        }
        let given = profiles.give(&container.id, &merged.ruleset, &merged.natives);
        given.map(|name| Some(name.to_string())).map_err(|error| chain(&error))
    })
}
