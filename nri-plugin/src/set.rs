//! The policies in force at one moment, with an index by what they select.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use enforcer_core::coverage::{Gap, GapReason};
use enforcer_core::policy::{Kind, Namespace, ParsedFile, Policy, PolicyId, Scope, SeccompPolicy};
use enforcer_core::ruleset::Postures;
use enforcer_core::subject::Subject;
use enforcer_core::visibility::Visibility;

use crate::api::Resource;
use crate::api::node::NodeLabels;

/// Every policy in force at one moment, and what namespaces say. Never changed: a change makes another one, which has
/// in common with it what did not change.
#[derive(Debug, Default)]
pub struct PolicySet {
    policies: Vec<Arc<Policy>>,
    seccomp: Vec<Arc<SeccompPolicy>>,
    namespaces: BTreeMap<String, Namespace>,
    /// Policies of one namespace by one label that each container they select has; positions in `policies`.
    by_label: HashMap<(String, String, String), Vec<usize>>,
    /// Those of one namespace that want no label.
    by_namespace: HashMap<String, Vec<usize>>,
    /// Those that look in every namespace.
    anywhere: Vec<usize>,
    /// Those about the host's own processes.
    host: Vec<usize>,
    /// What a directory has a policy of: of the API server's none of that name counts.
    of_files: HashSet<PolicyId>,
    /// What it means for whatever runs in a namespace that policies of it are left out.
    left_out: BTreeMap<String, Gap>,
    /// What the API server says of this node.
    node: NodeLabels,
    /// Of which of the API server's objects it is not known yet what there is, host policies among them.
    unread: BTreeSet<Resource>,
    /// What others than root can change of where policies come from.
    untrusted: Vec<String>,
}

impl PolicySet {
    /// A set of these policies.
    #[must_use]
    pub fn new(policies: Vec<Arc<Policy>>) -> Self {
        Self::with_namespaces(policies, Vec::new())
    }

    /// A set of these policies and namespaces.
    #[must_use]
    pub fn with_namespaces(policies: Vec<Arc<Policy>>, namespaces: Vec<Namespace>) -> Self {
        let mut set = Self::default();
        for (position, policy) in policies.iter().enumerate() {
            let selector = policy.selector();
            let list = match (selector.scope(), selector.labels().iter().next()) {
                (Scope::Namespace(namespace), Some((key, value))) => {
                    set.by_label.entry((namespace.clone(), key.clone(), value.clone())).or_default()
                }
                (Scope::Namespace(namespace), None) => set.by_namespace.entry(namespace.clone()).or_default(),
                (Scope::Cluster, _) => &mut set.anywhere,
                (Scope::Host, _) => &mut set.host,
            };
            list.push(position);
        }
        set.namespaces = namespaces.into_iter().map(|one| (one.name().to_owned(), one)).collect();
        set.policies = policies;
        set
    }

    /// This set with these seccomp policies, which are no part of any ruleset.
    #[must_use]
    pub fn with_seccomp(mut self, policies: Vec<Arc<SeccompPolicy>>) -> Self {
        self.seccomp = policies;
        self
    }

    /// This set, of which policies with these identities come from directories.
    #[must_use]
    pub fn with_those_of_files(mut self, of_files: HashSet<PolicyId>) -> Self {
        self.of_files = of_files;
        self
    }

    /// This set, where policies of these namespaces are left out, which is a gap for whatever runs there.
    #[must_use]
    pub fn with_left_out(mut self, left_out: BTreeMap<String, Gap>) -> Self {
        self.left_out = left_out;
        self
    }

    /// This set, where the API server says this of the node.
    #[must_use]
    pub fn with_node(mut self, node: NodeLabels) -> Self {
        self.node = node;
        self
    }

    /// This set, which lacks what there is of these objects of the API server.
    #[must_use]
    pub fn with_unread(mut self, unread: BTreeSet<Resource>) -> Self {
        self.unread = unread;
        self
    }

    /// This set, of which it is told what others than root can change.
    #[must_use]
    pub fn with_untrusted(mut self, untrusted: Vec<String>) -> Self {
        self.untrusted = untrusted;
        self
    }

    /// What others than root can change of where policies come from, for people.
    #[must_use]
    pub fn untrusted(&self) -> &[String] {
        &self.untrusted
    }

    /// Why it is not known which policies there are for containers; `None`: it is.
    #[must_use]
    pub fn untold(&self) -> Option<String> {
        self.lacks(|one| one.is_of_containers())
    }

    /// Why it is not known which policies there are for the host's own processes; `None`: it is.
    #[must_use]
    pub fn untold_of_host(&self, host: &Subject) -> Option<String> {
        let policies = self.lacks(|one| matches!(one, Resource::Policies(Kind::KubeArmorHostPolicy)));
        policies
            .or_else(|| (!self.awaiting_labels(host).is_empty()).then(|| GapReason::NodeLabels.to_string()))
    }

    fn lacks(&self, counts: impl Fn(Resource) -> bool) -> Option<String> {
        let kinds: Vec<&str> = self.unread.iter().filter(|one| counts(**one)).map(|one| one.kind()).collect();
        (!kinds.is_empty()).then(|| {
            format!(
                "the policies are not known yet: the API server has not told this node of its {}, nor is there a set of an \
                 earlier time",
                kinds.join(", ")
            )
        })
    }

    /// What the API server says of this node.
    #[must_use]
    pub const fn node(&self) -> &NodeLabels {
        &self.node
    }

    /// Host policies about labels of which it is not known whether this node has them. They are not in force.
    #[must_use]
    pub fn awaiting_labels(&self, host: &Subject) -> Vec<&Arc<Policy>> {
        if self.node != NodeLabels::Unknown {
            return Vec::new();
        }
        let may = |policy: &&Arc<Policy>| {
            let wanted = policy.selector().labels();
            let unknown = wanted.keys().any(|key| !host.labels.contains_key(key));
            unknown && wanted.iter().all(|(key, value)| host.labels.get(key).is_none_or(|has| has == value))
        };
        self.host.iter().filter_map(|position| self.policies.get(*position)).filter(may).collect()
    }

    /// The gap that policies are for the subject which are left out, whomever they select; `None`: none are of its namespace.
    #[must_use]
    pub fn left_out(&self, subject: &Subject) -> Option<&Gap> {
        self.left_out.get(&subject.namespace).filter(|_| !subject.host)
    }

    /// This set with what was parsed, which takes the place of what has the same name.
    #[must_use]
    pub fn with(&self, parsed: ParsedFile) -> Self {
        let ParsedFile { policies, seccomp, namespaces, .. } = parsed;
        let ids = policies.iter().map(Policy::id).chain(seccomp.iter().map(SeccompPolicy::id));
        let come: HashSet<PolicyId> = ids.cloned().collect();
        let (policies, seccomp) =
            (policies.into_iter().map(Arc::new).collect(), seccomp.into_iter().map(Arc::new).collect());
        self.exchanged(|id| come.contains(id), policies, seccomp, namespaces)
    }

    /// This set without some policies.
    #[must_use]
    pub fn without(&self, gone: &[PolicyId]) -> Self {
        self.exchanged(|id| gone.contains(id), Vec::new(), Vec::new(), Vec::new())
    }

    /// Whether it has the policy.
    #[must_use]
    pub fn has(&self, id: &PolicyId) -> bool {
        let of_seccomp = || self.seccomp.iter().any(|policy| policy.id() == id);
        self.policies.iter().any(|policy| policy.id() == id) || of_seccomp()
    }

    fn exchanged(
        &self,
        goes: impl Fn(&PolicyId) -> bool,
        policies: Vec<Arc<Policy>>,
        seccomp: Vec<Arc<SeccompPolicy>>,
        namespaces: Vec<Namespace>,
    ) -> Self {
        let stay = self.policies.iter().filter(|policy| !goes(policy.id())).cloned();
        let seccomp_stay = self.seccomp.iter().filter(|policy| !goes(policy.id())).cloned();
        let (policies, seccomp) = (stay.chain(policies).collect(), seccomp_stay.chain(seccomp).collect());
        let namespaces = self.namespaces.values().cloned().chain(namespaces).collect();
        Self::with_namespaces(policies, namespaces)
            .with_seccomp(seccomp)
            .with_those_of_files(self.of_files.clone())
            .with_left_out(self.left_out.clone())
            .with_node(self.node.clone())
            .with_unread(self.unread.clone())
            .with_untrusted(self.untrusted.clone())
    }

    /// Whether the policy with this identity comes from a directory.
    #[must_use]
    pub fn is_of_file(&self, id: &PolicyId) -> bool {
        self.of_files.contains(id)
    }

    /// The seccomp policies, by directory, file and place in the file.
    #[must_use]
    pub fn seccomp(&self) -> &[Arc<SeccompPolicy>] {
        &self.seccomp
    }

    /// The policies other than seccomp policies, by directory, file and place in the file.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter().map(AsRef::as_ref)
    }

    /// The same, to be had.
    #[must_use]
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// How many there are, of every kind.
    #[must_use]
    pub fn len(&self) -> usize {
        self.policies.len() + self.seccomp.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The policies that select a container, in their order. What the others want is not looked at one by one.
    #[must_use]
    pub fn selecting(&self, subject: &Subject) -> Vec<&Arc<Policy>> {
        if subject.host {
            let policies = self.host.iter().filter_map(|position| self.policies.get(*position));
            return policies.filter(|policy| policy.selects(subject)).collect();
        }
        let namespace = &subject.namespace;
        let labels = subject.labels.iter();
        let by_label = labels
            .filter_map(|(key, value)| self.by_label.get(&(namespace.clone(), key.clone(), value.clone())));
        let lists = by_label.chain(self.by_namespace.get(namespace)).chain([&self.anywhere]);
        let mut positions: Vec<usize> = lists.flatten().copied().collect();
        positions.sort_unstable();
        let policies = positions.into_iter().filter_map(|position| self.policies.get(position));
        policies.filter(|policy| policy.selects(subject)).collect()
    }

    /// Whether there is a policy of any kind that can select a container of the namespace, whatever its labels.
    #[must_use]
    pub fn reaches(&self, namespace: &str) -> bool {
        let labelled = self.by_label.keys().any(|(of, _, _)| of == namespace);
        let seccomp = self.seccomp.iter().any(|policy| policy.id().namespace == namespace);
        let known =
            seccomp || labelled || self.by_namespace.contains_key(namespace) || !self.anywhere.is_empty();
        known || self.left_out.contains_key(namespace)
    }

    /// The default postures in a namespace of a node with these.
    #[must_use]
    pub fn postures(&self, namespace: &str, node: Postures) -> Postures {
        self.namespaces.get(namespace).map_or(node, |namespace| namespace.over(node))
    }

    /// What is to be seen in a namespace of a node that says this.
    #[must_use]
    pub fn visibility(&self, namespace: &str, node: Visibility) -> Visibility {
        self.namespaces.get(namespace).and_then(Namespace::visibility).unwrap_or(node)
    }

    /// What differs between two sets.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Difference {
        let of = |set: &Self| -> BTreeMap<usize, Arc<Policy>> {
            set.policies.iter().map(|policy| (Arc::as_ptr(policy).addr(), Arc::clone(policy))).collect()
        };
        let (mine, others) = (of(self), of(other));
        let only = |a: &BTreeMap<usize, Arc<Policy>>, b: &BTreeMap<usize, Arc<Policy>>| -> Vec<Arc<Policy>> {
            a.iter()
                .filter(|(address, _)| !b.contains_key(address))
                .map(|(_, policy)| Arc::clone(policy))
                .collect()
        };
        let changed = Self::new([only(&mine, &others), only(&others, &mine)].concat());
        let names = self.namespaces.keys().chain(other.namespaces.keys());
        let namespaces = names.filter(|name| self.namespaces.get(*name) != other.namespaces.get(*name));
        let names = self.left_out.keys().chain(other.left_out.keys());
        let left_out = names.filter(|name| self.left_out.get(*name) != other.left_out.get(*name));
        Difference { changed, namespaces: namespaces.chain(left_out).cloned().collect() }
    }
}

/// What came, went or is another version in another set.
#[derive(Debug)]
pub struct Difference {
    changed: PolicySet, // as it was and as it is
    namespaces: BTreeSet<String>,
}

impl Difference {
    /// Whether it can make any difference to a container.
    #[must_use]
    pub fn touches(&self, subject: &Subject) -> bool {
        self.namespaces.contains(&subject.namespace) || !self.changed.selecting(subject).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::policy::parse;

    fn policies(text: &str) -> Vec<Arc<Policy>> {
        let parsed = parse("p.yaml", text);
        assert_eq!(parsed.errors, []);
        parsed.policies.into_iter().map(Arc::new).collect()
    }

    fn policy(kind: &str, name: &str, namespace: &str, selector: &str) -> String {
        let namespace =
            if namespace.is_empty() { String::new() } else { format!(", namespace: {namespace}") };
        format!(
            "---\napiVersion: security.kubearmor.com/v1\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\n\
             spec:\n  selector: {selector}\n  file: {{matchPaths: [{{path: /x}}]}}\n"
        )
    }

    fn subject(namespace: &str, labels: &[(&str, &str)]) -> Subject {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Subject { namespace: namespace.into(), labels, ..Subject::default() }
    }

    #[test]
    fn the_index_selects_what_a_look_at_every_policy_selects() {
        let expression = |operator: &str| {
            format!("{{matchExpressions: [{{key: label, operator: {operator}, values: [app=web]}}]}}")
        };
        let mut text = String::new();
        for namespace in ["a", "b"] {
            text += &policy("KubeArmorPolicy", "app", namespace, "{matchLabels: {app: web}}");
            text += &policy("KubeArmorPolicy", "both", namespace, "{matchLabels: {app: web, tier: front}}");
            text += &policy("KubeArmorPolicy", "all", namespace, "{}");
            text += &policy("KubeArmorPolicy", "in", namespace, &expression("In"));
            text += &policy("KubeArmorPolicy", "not-in", namespace, &expression("NotIn"));
        }
        text += &policy("KubeArmorClusterPolicy", "everywhere", "", "{}");
        // the same name as a policy of a namespace, and another policy
        text += &policy("KubeArmorClusterPolicy", "all", "", &expression("In"));
        let set = PolicySet::new(policies(&text));
        assert_eq!(set.len(), 12);
        for namespace in ["a", "b", "c"] {
            for labels in [
                &[][..],
                &[("app", "web")],
                &[("app", "db")],
                &[("tier", "front"), ("app", "web"), ("x", "y")],
                &[("tier", "front")],
            ] {
                let subject = subject(namespace, labels);
                let ids = |policy: &Policy| policy.id().clone();
                let slow: Vec<_> = set.iter().filter(|policy| policy.selects(&subject)).map(ids).collect();
                let fast: Vec<_> = set.selecting(&subject).into_iter().map(|policy| ids(policy)).collect();
                assert_eq!(fast, slow, "{subject:?}");
            }
        }
        assert!(!set.selecting(&subject("c", &[])).is_empty(), "cluster policies look everywhere");
    }

    #[test]
    fn a_change_touches_what_it_selects_and_no_other() {
        let web = policies(&policy("KubeArmorPolicy", "p", "a", "{matchLabels: {app: web}}"));
        let db = policies(&policy("KubeArmorPolicy", "q", "a", "{matchLabels: {app: db}}"));
        let before = PolicySet::new(web.clone());
        let after = PolicySet::new([web, db].concat());
        for (from, to) in [(&before, &after), (&after, &before)] {
            let difference = from.difference(to);
            assert!(difference.touches(&subject("a", &[("app", "db")])));
            assert!(!difference.touches(&subject("a", &[("app", "web")])));
            assert!(!difference.touches(&subject("b", &[("app", "db")])));
        }
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {kubearmor-file-posture: block}}";
        let namespaces = parse("n.yaml", text).namespaces;
        let posture = PolicySet::with_namespaces(before.policies.clone(), namespaces);
        let difference = before.difference(&posture);
        assert!(difference.touches(&subject("a", &[])) && !difference.touches(&subject("b", &[])));
    }

    #[test]
    fn of_a_node_whose_labels_are_not_known_only_what_is_sure_is_selected() {
        let host = |name: &str, selector: &str| {
            format!(
                "---\napiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\nmetadata: {{name: {name}}}\n\
                 spec:\n  nodeSelector: {selector}\n  file: {{matchPaths: [{{path: /x}}]}}\n"
            )
        };
        let text = host("own", "{matchLabels: {kubernetes.io/os: linux}}")
            + &host("rack", "{matchLabels: {rack: a}}")
            + &host("other", "{matchLabels: {kubernetes.io/os: other, rack: a}}")
            + &host("elsewhere", "{matchLabels: {kubearmor.io/hostname: node-2}}");
        let parsed = parse("p.yaml", &text);
        assert_eq!(parsed.errors, []);
        let policies: Vec<_> = parsed.policies.into_iter().map(Arc::new).collect();
        let node = crate::host::Node::new(&crate::host::HostConfig::default(), "node-1");
        let labels = |rack: &str| NodeLabels::Known(Arc::new([("rack".to_owned(), rack.to_owned())].into()));
        for (told, selecting, awaiting) in [
            (NodeLabels::NotAsked, &["own"][..], &[][..]),
            (NodeLabels::Unknown, &["own"], &["rack"]),
            (labels("a"), &["own", "rack"], &[]),
            (labels("b"), &["own"], &[]),
        ] {
            let set = PolicySet::new(policies.clone()).with_node(told.clone());
            let subject = node.subject(set.node());
            let names = |policies: Vec<&Arc<Policy>>| -> Vec<String> {
                policies.into_iter().map(|policy| policy.id().name.clone()).collect()
            };
            assert_eq!(names(set.selecting(&subject)), selecting, "{told:?}");
            assert_eq!(names(set.awaiting_labels(&subject)), awaiting, "{told:?}");
        }
    }

    #[test]
    fn whatever_runs_in_a_namespace_of_which_policies_are_left_out_has_a_gap() {
        use crate::container::{Selection, Wish};
        use enforcer_core::coverage::GapReason;
        let web = policies(&policy("KubeArmorPolicy", "p", "a", "{matchLabels: {app: web}}"));
        let before = PolicySet::new(web.clone());
        let id = enforcer_core::policy::PolicyId { name: "q".into(), ..web[0].id().clone() };
        let gap = Gap { policy: id, field: "spec".into(), reason: GapReason::LeftOut, advice: String::new() };
        let set = PolicySet::new(web).with_left_out([("a".to_owned(), gap)].into());
        let reasons = |subject: &Subject, set: &PolicySet| -> Option<Vec<GapReason>> {
            let merged = Selection::default().resolve(set, subject, Wish::None)?;
            Some(merged.coverage.gaps.iter().map(|gap| gap.reason).collect())
        };
        for labels in [&[][..], &[("app", "web")]] {
            assert_eq!(reasons(&subject("a", labels), &set), Some(vec![GapReason::LeftOut]), "{labels:?}");
            assert_eq!(reasons(&subject("b", labels), &set), None);
        }
        assert_eq!(reasons(&subject("a", &[("app", "web")]), &before), Some(vec![]));
        for (from, to) in [(&before, &set), (&set, &before)] {
            assert!(from.difference(to).touches(&subject("a", &[])));
            assert!(!from.difference(to).touches(&subject("b", &[])));
        }
        assert!(set.reaches("a") && !set.reaches("b"));
    }
}
