//! Documents of the kind `Namespace`: the postures and the visibility that a namespace sets for its pods, by annotations.
//!
//! Everything else about a namespace is its own business, so that the output of `kubectl get namespaces -o yaml` can
//! stand among the policies.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::Cursor;
use super::error::{Errors, Located, shown, suggest};
use super::names::is_dns_label;
use crate::posture::{Class, PostureAction, Postures};
use crate::visibility::{UnknownVisibility, Visibility};

/// The annotations, as KubeArmor calls them; the one for processes is ours.
const ANNOTATIONS: [(&str, Class); 4] = [
    ("kubearmor-process-posture", Class::Process),
    ("kubearmor-file-posture", Class::File),
    ("kubearmor-network-posture", Class::Network),
    ("kubearmor-capabilities-posture", Class::Capability),
];

/// The annotation with what is to be seen, as KubeArmor calls it.
const VISIBILITY: &str = "kubearmor-visibility";

/// The postures and the visibility of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
    postures: BTreeMap<Class, PostureAction>,
    visibility: Option<Visibility>,
    invalid: BTreeSet<Class>,
    invalid_visibility: bool,
}

impl Namespace {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it sets.
    #[must_use]
    pub fn postures(&self) -> &BTreeMap<Class, PostureAction> {
        &self.postures
    }

    /// What is to be seen of its pods; `None`: what the node says.
    #[must_use]
    pub const fn visibility(&self) -> Option<Visibility> {
        self.visibility
    }

    /// Whether it says anything about postures or visibility, be it something that is none. Any other namespace is as good
    /// as none.
    #[must_use]
    pub fn sets_any(&self) -> bool {
        let visibility = self.visibility.is_some() || self.invalid_visibility;
        visibility || !self.postures.is_empty() || !self.invalid.is_empty()
    }

    /// Puts what an earlier version set in the place of what this one sets to something that is no posture, or no
    /// visibility. What the earlier version says nothing about stays the node's.
    pub fn keep(&mut self, earlier: &Self) -> bool {
        let kept = self.invalid.iter().filter_map(|class| Some((*class, *earlier.postures.get(class)?)));
        let kept: Vec<_> = kept.collect();
        self.postures.extend(kept.iter().copied());
        let seen = earlier.visibility.filter(|_| self.invalid_visibility && self.visibility.is_none());
        self.visibility = self.visibility.or(seen);
        !kept.is_empty() || seen.is_some()
    }

    /// The postures of its pods on a node: its own before the node's. Where it sets one for files and none for
    /// processes, processes take that, too, whatever the node has for them.
    ///
    /// ```
    /// use enforcer_core::policy::parse;
    /// use enforcer_core::ruleset::{Class, PostureAction, Postures};
    ///
    /// let parsed = parse("shop.yaml", "
    /// apiVersion: v1
    /// kind: Namespace
    /// metadata:
    ///   name: shop
    ///   annotations: { kubearmor-file-posture: block }
    /// ");
    /// let node = Postures::default().with(Class::Process, PostureAction::Allow);
    /// let postures = parsed.namespaces[0].over(node);
    /// assert_eq!(postures.of(Class::File), PostureAction::Block);
    /// assert_eq!(postures.of(Class::Process), PostureAction::Block);
    /// assert_eq!(postures.of(Class::Network), PostureAction::Audit, "the node's");
    /// ```
    #[must_use]
    pub fn over(&self, node: Postures) -> Postures {
        let process = match self.postures.contains_key(&Class::File) {
            true => None,
            false => node.process,
        };
        let node = Postures { process, ..node };
        self.postures.iter().fold(node, |postures, (class, action)| postures.with(*class, *action))
    }
}

/// Whether the document is a namespace.
pub(super) fn is_one(root: &Cursor<'_>) -> bool {
    let Some(mut fields) = root.clone().fields_quietly() else { return false };
    let mut is = |name, wanted| fields.get(name).is_some_and(|cursor| cursor.is_text(wanted));
    is("apiVersion", "v1") && is("kind", "Namespace")
}

/// The namespace and where its name stands. A wrong annotation is an error and leaves out that annotation alone.
pub(super) fn decode(root: &Cursor<'_>, errors: &Errors<'_>) -> Option<(Namespace, Located<String>)> {
    let root = root.with_errors(errors);
    root.refuse_duplicate_keys();
    let metadata = root.fields()?.require("metadata", "a namespace has `metadata` with a `name`")?;
    let mut metadata = metadata.fields()?;
    let name = metadata.require("name", "name the namespace")?.text()?;
    if !is_dns_label(&name.value) {
        errors.add(&name.place, format!("`{}` is no namespace", shown(&name.value)), None);
        return None;
    }
    let annotations = metadata.get_unless_null("annotations").map(|cursor| cursor.entries());
    let mut postures = BTreeMap::new();
    let mut invalid = BTreeSet::new();
    let (mut visibility, mut invalid_visibility) = (None, false);
    for (key, value) in annotations.unwrap_or_default() {
        if key.value == VISIBILITY {
            visibility = value.text().and_then(|text| {
                let unknown = |UnknownVisibility(word): &UnknownVisibility| {
                    let help = suggest(word, Visibility::words());
                    let help = help + "; until then the last valid value holds, or the node's default";
                    errors.add(
                        &text.place,
                        format!("`{}` is nothing that can be seen", shown(word)),
                        Some(help),
                    );
                };
                text.value.parse().inspect_err(unknown).ok()
            });
            invalid_visibility = visibility.is_none();
            continue;
        }
        let Some((_, class)) = ANNOTATIONS.iter().find(|(known, _)| *known == key.value) else {
            let looks = |end| key.value.starts_with("kubearmor-") && key.value.ends_with(end);
            if looks("-posture") || looks("-visibility") {
                let known = ANNOTATIONS.iter().map(|(known, _)| *known).chain([VISIBILITY]);
                let help = suggest(&key.value, known);
                errors.add(&key.place, format!("`{}` is no annotation", shown(&key.value)), Some(help));
            }
            continue;
        };
        let action = value.text().and_then(|text| {
            let action = text.value.to_ascii_lowercase().parse::<PostureAction>().ok();
            if action.is_none() {
                let mut help = suggest(&text.value, ["allow", "audit", "block"]);
                help += "; until then the last valid value holds, or the node's default";
                errors.add(&text.place, format!("`{}` is no posture", shown(&text.value)), Some(help));
            }
            action
        });
        match action {
            Some(action) => drop(postures.insert(*class, action)),
            None => drop(invalid.insert(*class)),
        }
    }
    Some((Namespace { name: name.value.clone(), postures, visibility, invalid, invalid_visibility }, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ParsedFile, parse};

    fn namespace(annotations: &str) -> ParsedFile {
        let text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {{team: a}}\n  annotations:\n{annotations}\
             spec: {{finalizers: [kubernetes]}}\nstatus: {{phase: Active}}\n"
        );
        parse("ns.yaml", &text)
    }

    #[test]
    fn a_namespace_beats_the_node() {
        let parsed = namespace(
            "    kubearmor-file-posture: block\n    kubearmor-network-posture: Allow\n    other/annotation: x\n    \
             kubearmor-visibility: process,file\n",
        );
        assert_eq!(parsed.errors, []);
        let seen = Visibility::of([Class::Process, Class::File]);
        assert_eq!(parsed.namespaces[0].visibility(), Some(seen));
        let node = Postures {
            file: PostureAction::Allow,
            network: PostureAction::Block,
            capabilities: PostureAction::Block,
            process: Some(PostureAction::Allow),
        };
        let postures = parsed.namespaces[0].over(node);
        let wanted = Postures {
            file: PostureAction::Block,
            network: PostureAction::Allow,
            capabilities: PostureAction::Block,
            process: None,
        };
        assert_eq!(postures, wanted);
        let own = namespace("    kubearmor-process-posture: audit\n");
        assert_eq!(own.namespaces[0].over(node).process, Some(PostureAction::Audit));
        assert_eq!(own.namespaces[0].over(node).file, PostureAction::Allow);
    }

    #[test]
    fn an_invalid_value_is_an_error_and_the_last_valid_one_holds() {
        let good = namespace("    kubearmor-file-posture: block\n    kubearmor-network-posture: block\n");
        let bad = namespace("    kubearmor-file-posture: blok\n    kubearmor-capabilities-posture: 7\n");
        let [file, capabilities] = bad.errors.as_slice() else { panic!("{:?}", bad.errors) };
        assert_eq!((file.line, file.column), (7, 29));
        assert_eq!(file.message, "`blok` is no posture");
        assert!(file.help.as_deref().unwrap().contains("`block`"), "{file}");
        assert_eq!(capabilities.line, 8);
        let mut namespace = bad.namespaces[0].clone();
        assert!(namespace.postures().is_empty());
        assert!(namespace.keep(&good.namespaces[0]));
        assert_eq!(*namespace.postures(), BTreeMap::from([(Class::File, PostureAction::Block)]));
    }

    #[test]
    fn a_visibility_that_is_none_is_an_error_and_the_last_valid_one_holds() {
        let good = namespace("    kubearmor-visibility: none\n");
        assert_eq!(good.namespaces[0].visibility(), Some(Visibility::NONE));
        let bad = namespace("    kubearmor-visibility: process,fil\n");
        assert_eq!(bad.errors[0].message, "`fil` is nothing that can be seen");
        assert!(bad.errors[0].help.as_deref().unwrap().contains("`file`"), "{:?}", bad.errors);
        let mut namespace_ = bad.namespaces[0].clone();
        assert!(namespace_.sets_any() && namespace_.visibility().is_none());
        assert!(namespace_.keep(&good.namespaces[0]));
        assert_eq!(namespace_.visibility(), Some(Visibility::NONE));
        assert!(!namespace("    kubearmor-visibilty: file\n").namespaces[0].sets_any());
        let misspelt = namespace("    kubearmor-pod-visibility: file\n");
        assert!(misspelt.errors[0].help.as_deref().unwrap().contains(VISIBILITY), "{:?}", misspelt.errors);
    }

    #[test]
    fn a_misspelt_annotation_is_an_error() {
        let parsed = namespace("    kubearmor-files-posture: block\n");
        assert!(parsed.errors[0].help.as_deref().unwrap().contains("kubearmor-file-posture"));
    }

    #[test]
    fn namespaces_stand_among_policies_and_in_lists() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
                    - {apiVersion: v1, kind: Namespace, metadata: {name: b, annotations: null}}\n\
                    - {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n";
        let parsed = parse("ns.yaml", text);
        assert_eq!(parsed.namespaces.iter().map(Namespace::name).collect::<Vec<_>>(), ["a", "b"]);
        assert!(parsed.errors[0].message.contains("already defined on line 4"), "{:?}", parsed.errors);
        assert_eq!(parsed.errors.len(), 1);
        let nameless = parse("ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: A_B}\n");
        assert_eq!((nameless.namespaces.len(), nameless.errors.len()), (0, 1));
    }
}
