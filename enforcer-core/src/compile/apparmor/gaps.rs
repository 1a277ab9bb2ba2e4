//! What AppArmor cannot say: what is left of each rule, and what is told of it.

use std::sync::Arc;

use super::glob::{self, Deep};
use super::mounts;
use crate::coverage::{Gap, GapReason};
use crate::network::Protocol::{self, Dccp};
use crate::policy::PolicyId;
use crate::posture::Postures;
use crate::ruleset::{Class, Conditions, Effect, Object, Origin, Rule, Ruleset};

/// The rules that are left, with the whitelists of all. What is left of a rule errs to the side of denying: without a
/// condition Allow allows nothing, and the others are enforced without it; without an object nothing is left.
pub(super) fn expressible(ruleset: &Ruleset) -> Ruleset {
    let whitelists: Vec<Class> = Class::ALL.into_iter().filter(|class| ruleset.whitelisted(*class)).collect();
    let postures = whitelists
        .iter()
        .fold(Postures::default(), |postures, class| postures.with(*class, ruleset.posture(*class)));
    let denied = |rule: &Rule| mounts::gives(rule) && mounts::rounds(ruleset);
    let left = ruleset.rules().iter().filter(|rule| !denied(rule)).filter_map(|rule| {
        let origin = ruleset.origin(rule.origin)?;
        left_of(rule).map(|rule| (Arc::new(origin.clone()), vec![rule]))
    });
    Ruleset::canonical(left, postures, &whitelists)
}

fn left_of(rule: &Rule) -> Option<Rule> {
    let Conditions { no_terminal, args, .. } = &rule.conditions;
    if object_gap(&rule.object) || too_complex(rule) {
        return None;
    }
    if (*no_terminal || args.is_some()) && rule.effect == Effect::Allow {
        return None;
    }
    let conditions = Conditions { no_terminal: false, args: None, ..rule.conditions.clone() };
    Some(Rule { conditions, ..rule.clone() })
}

/// Whether AppArmor has no word for such an object.
const fn object_gap(object: &Object) -> bool {
    match object {
        Object::Sockets(Dccp) => true,
        Object::Path(_)
        | Object::BaseName(_)
        | Object::Pattern(_)
        | Object::Directory { .. }
        | Object::Sockets(_)
        | Object::Capability(_) => false,
        Object::Applet { .. }
        | Object::Destination(_)
        | Object::Listener(_)
        | Object::Syscall(_)
        | Object::Preset(_) => true,
    }
}

fn too_complex(rule: &Rule) -> bool {
    matches!(glob::globs(&rule.object, rule.class == Class::File), Some(Err(_)))
}

/// What is told of the rules.
pub(super) fn of(ruleset: &Ruleset, transitions: bool) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for rule in ruleset.rules() {
        let Some(Origin { policy, rule: field, .. }) = ruleset.origin(rule.origin) else { continue };
        let told = of_rule(ruleset, rule, transitions).into_iter();
        gaps.extend(told.map(|(reason, advice)| Gap {
            policy: policy.clone(),
            field: field.clone(),
            reason,
            advice: advice.to_owned(),
        }));
    }
    gaps
}

fn of_rule(ruleset: &Ruleset, rule: &Rule, transitions: bool) -> Vec<(GapReason, &'static str)> {
    let allows = rule.effect == Effect::Allow;
    let nothing = if allows { "it allows nothing" } else { "nothing of it has any effect" };
    if object_gap(&rule.object) {
        return vec![(GapReason::AppArmorObject, nothing)];
    }
    if too_complex(rule) {
        return vec![(
            GapReason::AppArmorPattern,
            "nothing of it has any effect; write several simpler ones",
        )];
    }
    let mut told = Vec::new();
    if rule.conditions.no_terminal || rule.conditions.args.is_some() {
        let advice = if allows { "it allows nothing" } else { "the rule is enforced without it" };
        told.push((GapReason::AppArmorCondition, advice));
    }
    if let Object::Sockets(protocol) = &rule.object
        && let Some(advice) = protocol_gap(*protocol, allows)
    {
        told.push((GapReason::AppArmorProtocol, advice));
    }
    if rule.class == Class::Process {
        told.push((
            GapReason::AppArmorProcess,
            "what the runtime starts, the interpreter of a script, and what `ld.so` runs unless a rule names it pass",
        ));
    }
    if rule.source.is_some() {
        told.push((
            GapReason::AppArmorSource,
            if transitions {
                "a script acts as itself, not as its interpreter; what the runtime starts counts as everybody"
            } else {
                "everybody counts as every source: nothing is allowed to one alone, and what one is denied, all are"
            },
        ));
    }
    if rule.class == Class::File && rule.effect > Effect::Allow {
        // a directory that the rule is about itself is judged by its conditions, and by closer rules; one that is renamed
        // is not
        let undone = rule.conditions.owner_only || ruleset.rules().iter().any(|other| undoes(other, rule));
        let reached = if undone { Deep::AtEnd } else { Deep::Within };
        match glob::above(&rule.object) {
            Ok((above, deep)) if deep < reached => {
                if rule.effect == Effect::Audit && !above.is_empty() {
                    let advice = "renaming a directory above may pass without a report";
                    told.push((GapReason::AppArmorTree, advice));
                }
            }
            _ => told.push((
                GapReason::AppArmorTree,
                "a directory that a `**` stands for can be renamed, with what lies below",
            )),
        }
    }
    told
}

/// Whether `other` may let pass what the pattern of `rule` denies or reports.
fn undoes(other: &Rule, rule: &Rule) -> bool {
    let closer = match (other.source.is_some(), rule.source.is_some()) {
        (true, false) => true,
        (false, true) => false,
        _ => matches!(other.object, Object::Path(_) | Object::BaseName(_)),
    };
    other.class == rule.class && closer && (other.effect < rule.effect || !other.conditions.is_empty())
}

/// What a family and a type do not say of a kind of socket.
const fn protocol_gap(protocol: Protocol, allows: bool) -> Option<&'static str> {
    match protocol {
        Protocol::Tcp => Some("every `stream` socket of IP counts as TCP"),
        Protocol::Udp => Some("every `dgram` socket of IP counts as UDP"),
        Protocol::Icmp | Protocol::Icmpv6 if allows => Some("it allows nothing"),
        Protocol::Icmp | Protocol::Icmpv6 => {
            Some("every raw socket of IP counts as ICMP, and ping sockets do not")
        }
        Protocol::Sctp => Some("every `seqpacket` socket of IP counts as SCTP, and no `stream` socket does"),
        Dccp
        | Protocol::Raw
        | Protocol::Stream
        | Protocol::Dgram
        | Protocol::Rdm
        | Protocol::Seqpacket
        | Protocol::Packet
        | Protocol::All => None,
    }
}

/// A native rule that is not taken.
pub(super) fn of_native(policy: &PolicyId, why: String) -> Gap {
    Gap {
        policy: policy.clone(),
        field: "spec.apparmor".to_owned(),
        reason: GapReason::AppArmorNative,
        advice: why,
    }
}
