//! What rules take from their section and their spec.

use std::ops::RangeInclusive;

use super::error::{Errors, Located, shown, suggest};
use super::wire::MetaDoc;
use crate::posture::Effect;

/// What KubeArmor reports where a policy names no severity.
const DEFAULT_SEVERITY: u8 = 1;

/// What holds for a rule: of itself, its section and its spec, the nearest that says something.
pub(super) struct Inherited<'a> {
    pub(super) severity: u8,
    pub(super) tags: &'a [String],
    pub(super) message: &'a str,
    action: Option<&'a str>,
}

impl Inherited<'_> {
    pub(super) fn action(&self) -> Option<Effect> {
        self.action.and_then(effect)
    }
}

pub(super) fn inherit(metas: [&MetaDoc; 3]) -> Inherited<'_> {
    Inherited {
        severity: metas
            .iter()
            .find_map(|meta| meta.severity.as_ref())
            .and_then(|severity| u8::try_from(severity.value).ok())
            .unwrap_or(DEFAULT_SEVERITY),
        tags: metas.iter().map(|meta| &*meta.tags).find(|tags| !tags.is_empty()).unwrap_or_default(),
        message: metas
            .iter()
            .find_map(|meta| meta.message.as_deref().filter(|message| !message.is_empty()))
            .unwrap_or_default(),
        action: metas
            .iter()
            .filter_map(|meta| meta.action.as_ref())
            .map(|a| &*a.value)
            .find(|a| !a.is_empty()),
    }
}

/// The actions, as they are written, and in lower case.
pub(super) const ACTIONS: [(Effect, &str, &str); 3] =
    [(Effect::Allow, "Allow", "allow"), (Effect::Audit, "Audit", "audit"), (Effect::Block, "Block", "block")];

/// From the least severe to the most.
pub(super) const SEVERITIES: RangeInclusive<i64> = 1..=10;

fn effect(text: &str) -> Option<Effect> {
    ACTIONS.iter().find(|(_, name, lower)| *name == text || *lower == text).map(|row| row.0)
}

/// An action where one is written; an empty one says nothing. Lower case is taken where `lower_case` says so, which
/// is at the level of the spec alone, as KubeArmor has it.
pub(super) fn action(
    errors: &Errors<'_>,
    text: Option<&Located<String>>,
    lower_case: bool,
) -> Option<Effect> {
    let text = text.filter(|text| !text.value.is_empty())?;
    let is_lower = text.value.starts_with(|c: char| c.is_ascii_lowercase());
    let found = effect(&text.value).filter(|_| lower_case || !is_lower);
    if found.is_none() {
        let help = suggest(&text.value, ACTIONS.map(|(_, name, _)| name));
        errors.add(&text.place, format!("`{}` is no action", shown(&text.value)), Some(help));
    }
    found
}

pub(super) fn severity(errors: &Errors<'_>, severity: Option<&Located<i64>>) {
    if let Some(severity) = severity
        && !SEVERITIES.contains(&severity.value)
    {
        let help = "1 is the least, 10 the most severe".to_owned();
        errors.add(
            &severity.place,
            format!("a severity of {} is not within 1 to 10", severity.value),
            Some(help),
        );
    }
}
