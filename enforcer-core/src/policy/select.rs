//! Selectors, judged.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Errors, Located, Place, shown, suggest};
use super::names::{
    CONTAINER_NAME, HOST_NAMES, HOST_PATTERN, IGNORED_LABELS, is_dns_label, is_label_key, is_label_value,
};
use super::selector::{Expression, Scope, Selector, Values};
use super::wire::{ExpressionDoc, SelectorDoc};
use super::{Kind, PolicyId};

pub(super) fn selector(errors: &Errors<'_>, id: &PolicyId, doc: &SelectorDoc) -> Selector {
    let SelectorDoc { labels, expressions } = doc;
    let mut selected = BTreeMap::new();
    let mut containers = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for (key, value) in labels {
        let of_host = id.kind == Kind::KubeArmorHostPolicy;
        if of_host && key.value == HOST_NAMES {
            let names = value.value.split(',').map(str::trim).filter(|name| !name.is_empty());
            let names: BTreeSet<String> = names.map(str::to_owned).collect();
            if names.is_empty() {
                let help = "name hosts, with commas, or every one by `*`".to_owned();
                errors.add(&value.place, format!("`{HOST_NAMES}` names no host"), Some(help));
            }
            if !names.contains("*") {
                hosts = names;
            }
        } else if of_host && key.value == HOST_PATTERN {
            // a gap (lower.rs); a label that no node has, so that no node is taken for one that is meant
            selected.insert(key.value.clone(), value.value.clone());
        } else if key.value == CONTAINER_NAME {
            containers = self::containers(errors, value);
        } else {
            label(errors, &key.place, &key.value, &value.place, &value.value);
            selected.insert(key.value.clone(), value.value.clone());
        }
    }
    let expressions = expressions.iter().filter_map(|doc| expression(errors, id.kind, doc)).collect();
    let scope = match id.kind {
        Kind::KubeArmorPolicy | Kind::KubeArmorSeccompPolicy => Scope::Namespace(id.namespace.clone()),
        Kind::KubeArmorClusterPolicy => Scope::Cluster,
        Kind::KubeArmorHostPolicy => Scope::Host,
    };
    Selector { scope, labels: selected, containers, expressions, hosts }
}

fn label(errors: &Errors<'_>, key_place: &Place, key: &str, value_place: &Place, value: &str) {
    if IGNORED_LABELS.contains(&key) {
        let help = "a controller sets it anew with every rollout; select by a label of your own".to_owned();
        errors.add(key_place, format!("nothing is selected by the label `{key}`"), Some(help));
    }
    if !is_label_key(key) {
        let help = "at most 63 letters, digits, `-`, `_` and `.`, perhaps after `domain/`".to_owned();
        errors.add(key_place, format!("`{}` is no label", shown(key)), Some(help));
    }
    if !is_label_value(value) {
        let help = "at most 63 letters, digits, `-`, `_` and `.`".to_owned();
        errors.add(value_place, format!("`{}` is no value of a label", shown(value)), Some(help));
    }
}

/// `[a,b]`, or one name alone. An empty list, and an empty text, select every container; so does a list of nothing
/// but commas.
fn containers(errors: &Errors<'_>, value: &Located<String>) -> BTreeSet<String> {
    let text = value.value.trim();
    if text.is_empty() {
        return BTreeSet::new();
    }
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let names = inner.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .inspect(|name| {
            if !is_dns_label(name) {
                let help = "write names of lower-case letters, digits and `-`, such as `\"[main,proxy]\"`"
                    .to_owned();
                errors.add(&value.place, format!("`{}` is no container's name", shown(name)), Some(help));
            }
        })
        .map(str::to_owned)
        .collect()
}

fn expression(errors: &Errors<'_>, kind: Kind, doc: &ExpressionDoc) -> Option<Expression> {
    let ExpressionDoc { key, operator, values } = doc;
    let keys: &[&str] = if kind.namespaced() { &["label"] } else { &["namespace", "label"] };
    if !keys.contains(&&*key.value) {
        let help = match is_label_key(&key.value)
            && suggest(&key.value, keys.iter().copied()).starts_with("there")
        {
            true => format!("write `key: label` and the values as `{}=value`", shown(&key.value)),
            false => suggest(&key.value, keys.iter().copied()),
        };
        errors.add(&key.place, format!("`{}` is no key", shown(&key.value)), Some(help));
        return None;
    }
    let wanted = match &*operator.value {
        "In" => true,
        "NotIn" => false,
        other => {
            let help = suggest(other, ["In", "NotIn"]);
            errors.add(&operator.place, format!("`{}` is no operator", shown(other)), Some(help));
            return None;
        }
    };
    if key.value == "namespace" {
        let namespaces = values.iter().map(|value| value.value.clone()).collect();
        return Some(Expression { values: Values::Namespaces(namespaces), wanted });
    }
    let labels = values.iter().filter_map(|text| match text.value.split_once('=') {
        Some((CONTAINER_NAME, _)) => {
            let help = format!("write `{CONTAINER_NAME}: \"[name]\"` under `matchLabels`");
            errors.add(&text.place, "no container is selected by an expression", Some(help));
            None
        }
        Some((key, value)) => {
            label(errors, &text.place, key, &text.place, value);
            Some((key.to_owned(), value.to_owned()))
        }
        None => {
            let message = format!("`{}` is no label with a value", shown(&text.value));
            errors.add(&text.place, message, Some("write `key=value`".to_owned()));
            None
        }
    });
    Some(Expression { values: Values::Labels(labels.collect()), wanted })
}
