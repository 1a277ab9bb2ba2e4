//! From what is written to what it means: names judged, paths parsed, inheritance resolved.
//!
//! What is left of a rule that cannot be enforced as written is told in the [module above](super).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{Errors, Located, shown};
use super::inherit::{action, inherit, severity};
use super::names::{HOST_NAMES, HOST_PATTERN, is_dns_label, is_dns_name};
use super::objects::{self, file_path};
use super::rules::{ArgsDoc, ObjectDoc, RuleDoc, SectionDoc};
use super::select::selector;
use super::wire::{MetaDoc, PolicyDoc, SpecDoc};
use super::{Gap, Kind, Policy, PolicyId, PolicyRule};
use crate::coverage::GapReason;
use crate::posture::{Class, Effect};
use crate::ruleset::{Args, Conditions, Origin};
use crate::support::Support;

/// Where a policy without a namespace lives.
const DEFAULT_NAMESPACE: &str = "default";
/// The longest argument of `allowedArgs`, in bytes.
pub(super) const MAX_ARG: usize = 1024;

/// The policy; worthless unless `errors` stays empty.
pub(super) fn policy(errors: &Errors<'_>, doc: PolicyDoc, support: Support) -> Policy {
    let PolicyDoc { kind, name, namespace, spec } = doc;
    let SpecDoc { place, selector: selector_doc, sections, meta } = spec;
    let id = policy_id(errors, kind, &name, namespace.as_ref());
    let selector = selector(errors, &id, &selector_doc);

    let mut lowering = Lowering {
        errors,
        support,
        id: &id,
        rules: Vec::new(),
        whitelists: BTreeSet::new(),
        native: None,
        gaps: Vec::new(),
    };
    action(errors, meta.action.as_ref(), true);
    severity(errors, meta.severity.as_ref());
    if sections.iter().all(|section| section.rules.is_empty()) && errors.is_empty() {
        errors.add(
            &place,
            "the policy has no rules",
            Some("add a section, such as `file`, with rules".to_owned()),
        );
    }
    for section in sections {
        lowering.section(section, &meta);
    }
    let Lowering { rules, whitelists, native, mut gaps, .. } = lowering;
    if kind == Kind::KubeArmorHostPolicy && selector.labels().contains_key(HOST_PATTERN) {
        gaps.push(Gap {
            policy: id.clone(),
            field: "spec.nodeSelector.matchLabels".to_owned(),
            reason: GapReason::HostPattern,
            advice: format!("it selects no node; name the hosts under `{HOST_NAMES}`, with commas"),
        });
    }
    Policy { id, selector, rules, whitelists: whitelists.into_iter().collect(), native, gaps }
}

pub(super) fn policy_id(
    errors: &Errors<'_>,
    kind: Kind,
    name: &Located<String>,
    namespace: Option<&Located<String>>,
) -> PolicyId {
    let rule = "lower-case letters, digits and `-`, with a letter or digit at both ends";
    if !is_dns_name(&name.value) {
        let message = format!("`{}` is no name", shown(&name.value));
        errors.add(&name.place, message, Some(format!("a name has {rule}, and may have dots")));
    }
    if let Some(namespace) = namespace
        && !is_dns_label(&namespace.value)
    {
        let message = format!("`{}` is no namespace", shown(&namespace.value));
        errors.add(&namespace.place, message, Some(format!("a namespace has {rule}")));
    }
    let namespace = match (kind.namespaced(), namespace) {
        (false, _) => "",
        (true, None) => DEFAULT_NAMESPACE,
        (true, Some(namespace)) => &namespace.value,
    };
    PolicyId { kind, namespace: namespace.to_owned(), name: name.value.clone() }
}

struct Lowering<'a, 'e> {
    errors: &'a Errors<'e>,
    support: Support,
    id: &'a PolicyId,
    rules: Vec<PolicyRule>,
    whitelists: BTreeSet<Class>,
    native: Option<String>,
    gaps: Vec<Gap>,
}

impl Lowering<'_, '_> {
    fn gap(&mut self, field: &str, reason: GapReason, advice: &str) {
        let gap = Gap { policy: self.id.clone(), field: field.to_owned(), reason, advice: advice.to_owned() };
        if self.gaps.last() != Some(&gap) {
            self.gaps.push(gap);
        }
    }

    fn section(&mut self, doc: SectionDoc, spec: &MetaDoc) {
        let SectionDoc { class, rules, meta } = doc;
        action(self.errors, meta.action.as_ref(), false);
        severity(self.errors, meta.severity.as_ref());
        for rule in rules {
            self.rule(class, rule, [&meta, spec]);
        }
    }

    fn rule(&mut self, class: Option<Class>, doc: RuleDoc, [section, spec]: [&MetaDoc; 2]) {
        let RuleDoc { place, object, sources, source_dirs, read_only, owner_only, pts, allowed_args, meta } =
            doc;
        let inherited = inherit([&meta, section, spec]);
        action(self.errors, meta.action.as_ref(), false);
        severity(self.errors, meta.severity.as_ref());

        let found: Option<Vec<_>> = sources
            .map(|sources| sources.iter().filter_map(|source| file_path(self.errors, source)).collect());
        let args = allowed_args.as_ref().map(|doc| self.args(doc));
        let mut objects = objects::objects(self.errors, &object);
        if let Some(reason) = object.gap() {
            if let ObjectDoc::AppArmor(text) = object {
                self.native = Some(text.value);
            }
            return self.gap(&place.field, reason, reason.advice());
        }
        let Some(class) = class else { return };
        let effect = self.effect(class, inherited.action().unwrap_or(Effect::Block), [&meta, section]);
        let whitelists = effect == Effect::Allow && self.support.class_gap(class).is_none();
        if whitelists {
            self.whitelists.insert(class);
        }

        if let (Effect::Allow, ObjectDoc::Pattern(text)) = (effect, &object)
            && text.value.len() > 1
            && text.value.ends_with('/')
        {
            // Of directories alone, it would allow files, too.
            let help = "leave the last `/` out, or write `/**` for what is below".to_owned();
            self.errors.add(&text.place, "a pattern that ends in `/` is no pattern to allow", Some(help));
        }
        for dir in &source_dirs {
            self.gap(&dir.place.field, GapReason::SourceDirectory, GapReason::SourceDirectory.advice());
        }
        if found.as_ref().is_some_and(Vec::is_empty) {
            return; // Nothing is left of the sources: without one the rule would say more than is written.
        }
        objects.retain(|object| match self.support.object_gap(object) {
            Some(reason) => {
                self.gap(&place.field, reason, without_rule(effect, whitelists));
                false
            }
            None => true,
        });
        if objects.is_empty() {
            return;
        }
        let mut conditions = Conditions {
            read_only,
            owner_only,
            no_terminal: pts.as_ref().is_some_and(|pts| !pts.value),
            args,
        };
        let unchecked = [
            (allowed_args.map(|doc| doc.place), self.support.args_gap(&conditions)),
            (pts.map(|pts| pts.place), self.support.terminal_gap(class, &conditions)),
        ];
        for (place, reason) in unchecked {
            let (Some(place), Some(reason)) = (place, reason) else { continue };
            self.gap(&place.field, reason, without_condition(effect));
            if effect == Effect::Allow {
                return;
            }
            match reason {
                GapReason::Terminal => conditions.no_terminal = false,
                _ => conditions.args = None,
            }
        }
        let origin = Arc::new(Origin {
            policy: self.id.clone(),
            rule: place.field,
            severity: inherited.severity,
            tags: inherited.tags.to_vec(),
            message: inherited.message.to_owned(),
            action: effect,
        });
        let sources = found.unwrap_or_default();
        self.rules.extend(objects.into_iter().map(|object| PolicyRule {
            class,
            sources: sources.clone(),
            object,
            conditions: conditions.clone(),
            origin: Arc::clone(&origin),
        }));
    }

    /// What a rule does. Where its class cannot do what it inherits, it does what KubeArmor makes of it: system calls
    /// are reported, presets block. What is written at the rule or its section has to be possible.
    fn effect(&self, class: Class, inherited: Effect, near: [&MetaDoc; 2]) -> Effect {
        if class.can(inherited) {
            return inherited;
        }
        let (message, help, instead) = match class {
            Class::Syscall => ("system calls are only reported", "write `Audit`", Effect::Audit),
            _ => ("a preset allows nothing", "write `Audit` or `Block`", Effect::Block),
        };
        let mut written = near.iter().filter_map(|meta| meta.action.as_ref());
        if let Some(action) = written.find(|action| !action.value.is_empty()) {
            self.errors.add(&action.place, message, Some(help.to_owned()));
        }
        instead
    }

    fn args(&self, doc: &ArgsDoc) -> Args {
        for arg in &doc.args {
            if arg.value.contains('\0') {
                self.errors.add(&arg.place, "an argument holds no zero byte", None);
            }
            if arg.value.len() > MAX_ARG {
                let message = format!("{} bytes, more than {MAX_ARG}", arg.value.len());
                self.errors.add(&arg.place, message, None);
            }
        }
        Args::new(doc.args.iter().map(|arg| arg.value.clone()))
    }
}

/// What becomes of a rule one of whose conditions is not looked at.
fn without_condition(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "the rule allows nothing, and what it would allow falls to the default posture",
        Effect::Audit => "the rule is enforced without it, and reports more than it says",
        Effect::Block => "the rule is enforced without it, and blocks more than it says",
    }
}

/// What becomes of a rule whose object is not enforced.
fn without_rule(effect: Effect, whitelists: bool) -> &'static str {
    match effect {
        Effect::Allow if whitelists => "what it would allow falls to the default posture",
        Effect::Allow => "nothing of it has any effect",
        Effect::Audit => "nothing is reported for it",
        Effect::Block => "nothing is blocked by it",
    }
}
