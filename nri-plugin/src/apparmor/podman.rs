//! Profiles for podman's containers: each has one of its own, which goes into its configuration at `precreate`.

use std::sync::Arc;

use super::Profiles;
use crate::container::{Container, Selection};
use crate::exit::chain;
use crate::gate::podman::Apparmor;
use crate::set::PolicySet;

/// `podman exec` takes the profile from podman's own record of the container, which no hook changes.
const EXEC: &str = "what enters it by `podman exec` has podman's AppArmor profile, not that of its policies";

/// Gives containers of podman's that policies select a profile; without `profiles`, none. With `strict` they are refused.
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
        if selection.strict {
            return Err(format!("{EXEC} (strict); run without --strict, or on a node with BPF-LSM"));
        }
        tracing::warn!(%container, "{EXEC}");
        let given = profiles.give(&container.id, &merged.ruleset, &merged.natives);
        given.map(|name| Some(name.to_string())).map_err(|error| chain(&error))
    })
}
