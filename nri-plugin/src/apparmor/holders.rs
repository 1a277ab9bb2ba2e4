//! Whose a profile is, for who is told of a denial by its name.

use std::time::Instant;

use enforcer_core::compile::apparmor::{Native, ProfileName};
use enforcer_core::enforce::ContainerId;
use enforcer_core::ruleset::RulesetDigest;

use super::state::LATELY;
use super::{Content, Profiles};

/// Who has a profile, and what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// The containers that have it, or had it lately.
    pub containers: Vec<ContainerId>,
    /// The one that a process is of, where that can be told; it need not be one of them.
    pub acted: Option<ContainerId>,
    /// What is in it, and then what was in it before it was exchanged lately; none where it is not loaded any more.
    pub contents: Vec<Rules>,
}

/// What is in a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The ruleset; `None`: an earlier daemon put it there.
    pub ruleset: Option<RulesetDigest>,
    /// The native rules.
    pub natives: Vec<Native>,
}

impl Profiles {
    /// Who has the profile `name`. `acting` is the container that the process which acted under it seems to be of, by its
    /// cgroup; it may have been over when that was looked up: then only what one container alone has is that one's.
    /// What was before counts for some seconds until `now`.
    #[must_use]
    pub fn holders(&self, name: &ProfileName, acting: Option<&ContainerId>, now: Instant) -> Holders {
        let lately = |when: Instant| now.saturating_duration_since(when) < LATELY;
        let state = self.state();
        let bound = state.bound.iter().filter(|(_, bound)| bound.name == *name).map(|(id, _)| id);
        let ended = state
            .ended
            .iter()
            .filter(|(id, of, when)| of == name && lately(*when) && !state.bound.contains_key(id));
        let containers: Vec<ContainerId> = bound.chain(ended.map(|(id, ..)| id)).cloned().collect();
        let before = state.before.get(name).filter(|(_, when)| lately(*when)).map(|(content, _)| content);
        let rules = |content: &Content| Rules { ruleset: content.ruleset, natives: content.natives.clone() };
        let contents = state.loaded.get(name).into_iter().chain(before).map(rules).collect();
        drop(state);
        // whoever acts may have the profile and not be known for it yet
        let acted = match (acting, containers.as_slice()) {
            (Some(id), _) => Some(id.clone()),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        };
        Holders { containers, acted, contents }
    }
}
