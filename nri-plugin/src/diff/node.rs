//! The daemon's side: what policies that would come alter for the containers that it has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer_core::coverage::{Coverage, Gap};
use enforcer_core::links::LookUps;
use enforcer_core::policy::{ParsedFile, PolicyId, parse};
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;

use super::compare::{Profile, Said, between};
use super::document::Container;
use crate::apply::NewFile;
use crate::explain::inquiry::Inquiry;
use crate::roots::Found;
use crate::seccomp::ledger::{Entry, State as Profiled};
use crate::set::PolicySet;
use crate::status::document::State;

/// How long symbolic links are looked up for all containers together: the command waits half a minute.
const LOOKING: Duration = Duration::from_secs(15);
/// How many bytes an answer may have.
const MOST: usize = 32 << 20;

/// What changes, and what could not be found out about it.
#[derive(Debug)]
pub struct Compared {
    /// By container.
    pub containers: Vec<Container>,
    /// For people.
    pub notes: Vec<String>,
}

impl Inquiry {
    /// What the policies of the files alter for each container of this node, or of one `namespace`. Each takes the place of the
    /// one in force with the same kind, namespace and name, if there is one; the `removed` go; all others stay.
    ///
    /// # Errors
    /// When the policies are wrong, or it cannot be told; for people.
    pub async fn compare(
        &self,
        files: &[NewFile],
        removed: &[PolicyId],
        namespace: Option<&str>,
    ) -> Result<Compared, String> {
        if let Some(why) = self.status.connection.problem() {
            return Err(format!("the daemon does not know what runs: {why}"));
        }
        let old = Arc::clone(&self.status.policies.borrow());
        let new = tokio::task::block_in_place(|| changed(&old, files, removed))?;
        let wanted = |entry: &Entry| namespace.is_none_or(|one| entry.container.subject.namespace == one);
        let entries = self.status.registry.seccomp().entries_now();
        let (deadline, mut unfollowed) = (Instant::now() + LOOKING, 0_usize);
        let mut containers = Vec::new();
        for entry in entries.iter().filter(|entry| entry.state != Profiled::Ended && wanted(entry)) {
            if self.status.of(entry).state == State::Exempt {
                continue;
            }
            let sides = tokio::task::block_in_place(|| [&old, &new].map(|set| self.merged(set, entry)));
            let paths = needed(&sides);
            let root = match paths.is_empty() || Instant::now() >= deadline {
                true => None,
                false => self.root_of(&entry.container.id).await?,
            };
            unfollowed += usize::from(root.is_none() && !paths.is_empty());
            let found = root.map(|root| {
                tokio::task::block_in_place(|| self.look_up_in(&entry.container.id, root, paths))
            });
            let sets = [old.as_ref(), &new];
            containers.push(tokio::task::block_in_place(|| self.one(sets, sides, found, entry))?);
        }
        containers.sort_by(|one, other| one.place().cmp(&other.place()));
        let length = serde_json::to_vec(&containers).map_err(|error| error.to_string())?.len();
        if length > MOST {
            return Err(format!(
                "the answer has more than {MOST} bytes: ask about one --namespace at a time"
            ));
        }
        let note = format!(
            "symbolic links were not followed in {unfollowed} of {}: their first process is not there, its root is not known, or there was no time for more",
            containers.len()
        );
        let notes = if unfollowed > 0 { vec![note] } else { Vec::new() };
        Ok(Compared { containers, notes })
    }

    fn one(
        &self,
        [old, new]: [&PolicySet; 2],
        [before, after]: [(Ruleset, Coverage); 2],
        found: Option<Found>,
        entry: &Entry,
    ) -> Result<Container, String> {
        let said = |set: &PolicySet, (ruleset, coverage): (Ruleset, Coverage)| {
            let linked = found.as_ref().map(|found| {
                ruleset.with_links(|path| {
                    let at = found.binary_search_by(|(found, _)| found.cmp(path)).ok();
                    at.and_then(|at| found.get(at)).map(|(_, answer)| answer.clone()).unwrap_or_default()
                })
            });
            let (ruleset, gaps_of_links) = match linked {
                Some(linked) => (linked.ruleset, linked.gaps),
                None => (ruleset, Vec::new()),
            };
            let profile = self.status.seccomp.would_have(set, &entry.container)?;
            let profile = profile.map(|(profile, alone)| Profile {
                merged: profile.digest().to_string(),
                alone,
                gaps: profile.gaps,
            });
            let of_profile = profile.iter().flat_map(|profile| profile.gaps.iter().cloned());
            let gaps: BTreeSet<Gap> =
                coverage.gaps.into_iter().chain(gaps_of_links).chain(of_profile).collect();
            Ok::<_, String>(Said { ruleset, gaps, profile })
        };
        let changes = between(&said(old, before)?, &said(new, after)?);
        let Subject { namespace, pod, container, host, .. } = &entry.container.subject;
        let container = if *host { "(host)".to_owned() } else { container.clone() };
        Ok(Container { namespace: namespace.clone(), pod: pod.clone(), container, changes })
    }

    /// What the policies come to on this node, before links are followed.
    fn merged(&self, set: &PolicySet, entry: &Entry) -> (Ruleset, Coverage) {
        let container = &entry.container;
        match self.status.selection.resolve(set, &container.subject, container.wish) {
            Some(merged) => (merged.ruleset.as_ref().clone(), merged.coverage.clone()),
            None => {
                let nothing = Ruleset::resolve([], &Postures::default(), &Subject::default());
                (nothing.ruleset, nothing.coverage)
            }
        }
    }
}

/// The paths to look up in the container's root; none where its rules stay as they are, as what they are called does.
fn needed([before, after]: &[(Ruleset, Coverage); 2]) -> Vec<LookUps> {
    if before.0.digest() == after.0.digest() {
        return Vec::new();
    }
    let all = [before, after].map(|(ruleset, _)| LookUps::of(ruleset));
    all.into_iter().filter(|one| !one.paths.is_empty()).collect()
}

/// The set as it would be.
fn changed(set: &PolicySet, files: &[NewFile], removed: &[PolicyId]) -> Result<PolicySet, String> {
    for id in removed {
        if !set.has(id) {
            return Err(format!("no {} {id} is in force, so it cannot be removed", id.kind));
        }
    }
    let mut all = ParsedFile::default();
    for NewFile { name, text } in files {
        let ParsedFile { policies, seccomp, namespaces, errors } = parse(name, text);
        if let Some(error) = errors.first() {
            return Err(format!("{error}"));
        }
        all.policies.extend(policies);
        all.seccomp.extend(seccomp);
        all.namespaces.extend(namespaces);
    }
    Ok(set.without(removed).with(all))
}
