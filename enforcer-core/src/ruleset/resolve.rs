//! From the policies of a node to the ruleset of one container.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Class, Effect, Origin, OriginId, PostureAction, Postures, Rule, Ruleset};
use crate::coverage::Coverage;
use crate::policy::{Policy, PolicyRule};
use crate::subject::Subject;

/// What the policies mean for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The rules.
    pub ruleset: Ruleset,
    /// What of the policies that select the container is not in them.
    pub coverage: Coverage,
}

impl Ruleset {
    /// Merges the policies that select `subject`. The order of `policies` makes no difference.
    ///
    /// ```
    /// use enforcer_core::decide::{Access, Verdict};
    /// use enforcer_core::policy::parse;
    /// use enforcer_core::ruleset::{Postures, Ruleset};
    /// use enforcer_core::subject::Subject;
    ///
    /// let parsed = parse("policy.yaml", "
    /// apiVersion: security.kubearmor.com/v1
    /// kind: KubeArmorPolicy
    /// metadata: { name: no-shell }
    /// spec:
    ///   selector: { matchLabels: { app: web } }
    ///   process: { matchPaths: [{ path: /bin/sh }] }
    ///   network: { matchDNSQueries: [{ domain: example.com }] }
    /// ");
    /// assert!(parsed.errors.is_empty());
    /// let web = Subject {
    ///     namespace: "default".into(),
    ///     labels: [("app".into(), "web".into())].into(),
    ///     ..Subject::default()
    /// };
    /// let resolved = Ruleset::resolve(&parsed.policies, &Postures::default(), &web);
    /// assert_eq!(resolved.ruleset.decide(&Access::exec(b"/bin/sh")).verdict, Verdict::Block);
    /// assert_eq!(resolved.coverage.gaps[0].field, "spec.network.matchDNSQueries[0]");
    ///
    /// let other = Subject { namespace: "default".into(), ..Subject::default() };
    /// assert!(Ruleset::resolve(&parsed.policies, &Postures::default(), &other).ruleset.is_empty());
    /// ```
    #[must_use]
    pub fn resolve<'p>(
        policies: impl IntoIterator<Item = &'p Policy>,
        postures: &Postures,
        subject: &Subject,
    ) -> Resolved {
        Self::merged(policies.into_iter().filter(|policy| policy.selects(subject)), postures)
    }

    /// The rules of one policy, whomever it selects: for what is told of it where nothing is selected.
    #[must_use]
    pub fn of(policy: &Policy, postures: &Postures) -> Self {
        Self::merged([policy], postures).ruleset
    }

    fn merged<'p>(policies: impl IntoIterator<Item = &'p Policy>, postures: &Postures) -> Resolved {
        let mut rules = Vec::new();
        let mut whitelists = BTreeSet::new();
        let mut gaps = Vec::new();
        for policy in policies {
            whitelists.extend(policy.whitelists());
            gaps.extend_from_slice(policy.gaps());
            rules.extend(
                policy.rules().iter().map(|rule| (Arc::clone(&rule.origin), per_source(rule).collect())),
            );
        }
        let whitelists: Vec<_> = whitelists.into_iter().collect();
        Resolved { ruleset: Self::canonical(rules, *postures, &whitelists), coverage: Coverage::new(gaps) }
    }
}

impl Ruleset {
    /// The same rules, but what they would deny passes and is reported.
    #[must_use]
    pub fn audited(&self) -> Self {
        let soft = |effect| if effect == Effect::Block { Effect::Audit } else { effect };
        let mut by_origin: BTreeMap<OriginId, Vec<Rule>> = BTreeMap::new();
        for rule in self.rules() {
            let softer = Rule { effect: soft(rule.effect), ..rule.clone() };
            by_origin.entry(rule.origin).or_default().push(softer);
        }
        let rules = by_origin.into_iter().filter_map(|(id, rules)| {
            let origin = self.origin(id)?;
            Some((Arc::new(Origin { action: soft(origin.action), ..origin.clone() }), rules))
        });
        let whitelists: Vec<Class> =
            Class::ALL.into_iter().filter(|class| self.whitelisted(*class)).collect();
        let postures =
            whitelists.iter().fold(Postures::default(), |postures, class| match self.posture(*class) {
                PostureAction::Block => postures.with(*class, PostureAction::Audit),
                action => postures.with(*class, action),
            });
        Self::canonical(rules, postures, &whitelists).observing(self.observed)
    }
}

/// One rule for each source, or one without.
fn per_source(rule: &PolicyRule) -> impl Iterator<Item = Rule> {
    let PolicyRule { class, sources, object, conditions, origin } = rule;
    let any = sources.is_empty().then_some(None);
    any.into_iter().chain(sources.iter().cloned().map(Some)).map(|source| Rule {
        class: *class,
        source,
        object: object.clone(),
        conditions: conditions.clone(),
        effect: origin.action,
        origin: OriginId(0), // given by the ruleset
    })
}
