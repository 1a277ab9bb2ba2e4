//! Seccomp policies, judged: every name known, every comparison one that can hold.

use std::collections::{BTreeMap, BTreeSet};

use super::super::error::{Errors, Located, Place, nearest, shown, suggest};
use super::super::inherit::{Inherited, action, inherit, severity};
use super::super::lower::policy_id;
use super::super::select::selector;
use super::super::selector::{Scope, Selector};
use super::super::wire::MetaDoc;
use super::super::{Kind, PolicyId};
use super::wire::{ArgDoc, EntryDoc, SeccompDoc};
use super::{Deny, SeccompPolicy, SeccompRule};
use crate::posture::Effect;
use crate::ruleset::Origin;
use crate::seccomp::action::{EPERM, MAX_ERRNO};
use crate::seccomp::oci::{Arg, Op};
use crate::seccomp::width::{mask, widths};
use crate::seccomp::{Arch, SyscallName, errno, groups, never_hold};

/// How the comparisons can be written: the OCI's name first.
pub(in super::super) const OPS: [(Op, [&str; 3]); 7] = [
    (Op::NotEqual, ["SCMP_CMP_NE", "!=", "ne"]),
    (Op::Less, ["SCMP_CMP_LT", "<", "lt"]),
    (Op::LessOrEqual, ["SCMP_CMP_LE", "<=", "le"]),
    (Op::Equal, ["SCMP_CMP_EQ", "==", "eq"]),
    (Op::GreaterOrEqual, ["SCMP_CMP_GE", ">=", "ge"]),
    (Op::Greater, ["SCMP_CMP_GT", ">", "gt"]),
    (Op::MaskedEqual, ["SCMP_CMP_MASKED_EQ", "&==", "maskedEq"]),
];

/// What a rule does to system calls: the effect, and how it denies.
type Does = (Effect, Deny);
/// System calls, and those of them that are written by their own names.
type Listed = (BTreeSet<SyscallName>, BTreeSet<SyscallName>);

/// The policy; worthless unless `errors` stays empty.
pub(in super::super) fn policy(errors: &Errors<'_>, doc: SeccompDoc) -> (SeccompPolicy, Place) {
    let id = policy_id(errors, Kind::KubeArmorSeccompPolicy, &doc.name, doc.namespace.as_ref());
    let selector = match doc.services.is_empty() {
        true => selector(errors, &id, &doc.selector),
        false => Selector { scope: Scope::Host, ..selector(errors, &id, &doc.selector) },
    };
    let services = doc.services.iter().filter_map(|service| unit(errors, service)).collect();
    let arches = doc.arches.iter().filter_map(|arch| self::arch(errors, arch)).collect();
    action(errors, doc.meta.action.as_ref(), true);
    severity(errors, doc.meta.severity.as_ref());
    let deny = doc.errno.as_ref().and_then(|text| self::deny(errors, text)).unwrap_or(Deny::Errno(EPERM));
    let default_deny = doc.default_errno.as_ref().and_then(|text| self::deny(errors, text));
    if doc.entries.is_empty() && errors.is_empty() {
        errors.add(
            &doc.place,
            "the policy has no rules",
            Some("list system calls under `syscalls`".to_owned()),
        );
    }
    let mut lowering =
        Lowering { errors, id: &id, spec: &doc.meta, deny, rules: Vec::new(), written: BTreeMap::new() };
    for entry in doc.entries {
        lowering.entry(entry);
    }
    let rules = lowering.rules;
    (SeccompPolicy { id, selector, services, arches, rules, default_deny }, doc.name.place)
}

/// The name of a systemd unit; one without a suffix is a service.
fn unit(errors: &Errors<'_>, text: &Located<String>) -> Option<String> {
    let name = text.value.strip_suffix(".service").unwrap_or(&text.value);
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    if name.is_empty() || name.len() > 240 || name.starts_with('.') || !name.chars().all(known) {
        let help = "write the name of a service, such as `nginx.service`".to_owned();
        errors.add(&text.place, format!("`{}` is no service", shown(&text.value)), Some(help));
        return None;
    }
    Some(format!("{name}.service"))
}

fn arch(errors: &Errors<'_>, text: &Located<String>) -> Option<Arch> {
    let known = Arch::by_name(&text.value);
    if known.is_none() {
        let help = suggest(&text.value, Arch::all().map(Arch::name));
        errors.add(&text.place, format!("`{}` is no architecture", shown(&text.value)), Some(help));
    }
    known
}

/// `EPERM`, `1`, or `kill`.
fn deny(errors: &Errors<'_>, text: &Located<String>) -> Option<Deny> {
    if text.value == "kill" {
        return Some(Deny::Kill);
    }
    let number = text.value.parse().ok().filter(|number| (1..=MAX_ERRNO).contains(number));
    let known = errno::by_name(&text.value).or(number);
    if known.is_none() {
        let help = match nearest(&text.value, errno::names()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("write a name such as `EPERM`, a number from 1 to {MAX_ERRNO}, or `kill`"),
        };
        errors.add(&text.place, format!("`{}` is no errno", shown(&text.value)), Some(help));
    }
    known.map(Deny::Errno)
}

struct Lowering<'a, 'e> {
    errors: &'a Errors<'e>,
    id: &'a PolicyId,
    spec: &'a MetaDoc,
    deny: Deny,
    rules: Vec<SeccompRule>,
    /// What is written of each name, with equal conditions: the effect, and the line.
    written: BTreeMap<(SyscallName, Vec<Arg>), (Does, usize)>,
}

impl Lowering<'_, '_> {
    fn entry(&mut self, doc: EntryDoc) {
        let EntryDoc { place, names, args, errno, meta } = doc;
        action(self.errors, meta.action.as_ref(), true);
        severity(self.errors, meta.severity.as_ref());
        let inherited = inherit([&meta, self.spec, self.spec]);
        let effect = inherited.action().unwrap_or(Effect::Block);
        let own = errno.as_ref().and_then(|text| deny(self.errors, text));
        if let (Some(errno), Effect::Allow | Effect::Audit) = (&errno, effect) {
            let help = "it belongs to `action: Block`; for one name of a list write `name:errno`".to_owned();
            self.errors.add(&errno.place, format!("what is {} has no errno", past(effect)), Some(help));
        }
        let deny = own.unwrap_or(self.deny);
        let mut conditions: Vec<Arg> = args.iter().filter_map(|arg| self.arg(arg)).collect();
        conditions.sort_unstable();
        conditions.dedup();

        let mut listed: BTreeMap<Does, Listed> = BTreeMap::new();
        for item in &names {
            let Some((does, found, named)) = self.item(item, effect, deny) else { continue };
            let (all, by_name) = listed.entry(does).or_default();
            all.extend(found.iter().copied());
            if named {
                for name in found {
                    by_name.insert(name);
                    self.once(&item.place, name, &conditions, does);
                }
            }
        }
        if !conditions.is_empty() {
            self.compare(&place, &args, &conditions, &listed);
        }
        for ((effect, deny), (syscalls, named)) in listed {
            self.rules.push(SeccompRule {
                syscalls: syscalls.into_iter().collect(),
                named: named.into_iter().collect(),
                conditions: conditions.clone(),
                deny,
                origin: origin(self.id, &place, &inherited, effect),
            });
        }
    }

    /// `read`, `@mount`, `~@mount`, `mount:EACCES`. What `~` stands before does the opposite of the others: in an Allow
    /// list it is blocked. With an errno a name is blocked, whatever the others are.
    fn item(
        &self,
        item: &Located<String>,
        effect: Effect,
        deny: Deny,
    ) -> Option<(Does, Vec<SyscallName>, bool)> {
        let (inverted, text) = match item.value.strip_prefix('~') {
            Some(rest) => (true, rest),
            None => (false, &*item.value),
        };
        let (name, errno) = match text.split_once(':') {
            Some((name, errno)) => {
                (name, Some(Located { value: errno.to_owned(), place: item.place.clone() }))
            }
            None => (text, None),
        };
        let errno = match errno {
            Some(errno) => Some(self::deny(self.errors, &errno)?),
            None => None,
        };
        let effect = match (effect, inverted, errno) {
            (Effect::Audit, true, _) => {
                let help = "list what is audited, or write `action: Allow` or `Block`".to_owned();
                self.errors.add(&item.place, "`~` has no meaning where system calls are audited", Some(help));
                return None;
            }
            (Effect::Block, true, Some(_)) => {
                let help = "what `~` stands before in a Block list is allowed".to_owned();
                self.errors.add(&item.place, "what is allowed has no errno", Some(help));
                return None;
            }
            (Effect::Block, true, None) => Effect::Allow,
            (_, _, Some(_)) | (_, true, None) => Effect::Block,
            (effect, false, None) => effect,
        };
        // Of what is allowed the errno says nothing: two entries that differ in it alone are one.
        let deny = if effect == Effect::Block { errno.unwrap_or(deny) } else { Deny::Errno(EPERM) };
        let (found, named) = if name.starts_with('@') {
            (groups::members(name), false)
        } else {
            (SyscallName::by_name(name).map(|name| vec![name]), true)
        };
        if found.is_none() {
            let (what, help) = if named {
                let near = nearest(name, SyscallName::all().map(SyscallName::as_str));
                let near = near.map(|near| format!("did you mean `{near}`?"));
                ("system call", near.unwrap_or_else(|| "names are those of `man 2 syscalls`".to_owned()))
            } else {
                ("group of system calls", suggest(name, groups::names()))
            };
            self.errors.add(&item.place, format!("`{}` is no {what}", shown(name)), Some(help));
        }
        Some(((effect, deny), found?, named))
    }

    /// Takes down a name that is written twice with the same conditions.
    fn once(&mut self, place: &Place, name: SyscallName, conditions: &[Arg], does: Does) {
        let key = (name, conditions.to_vec());
        let Some((before, line)) = self.written.insert(key, (does, place.line)) else { return };
        let message = match (before.0 == does.0, before == does) {
            (_, true) => format!("`{name}` is already {} on line {line}", past(does.0)),
            (true, false) => format!("`{name}` is already {} otherwise on line {line}", past(does.0)),
            (false, false) => {
                format!("`{name}` is {} on line {line} and {} here", past(before.0), past(does.0))
            }
        };
        self.errors.add(place, message, Some("leave one of the two out".to_owned()));
    }

    fn arg(&self, doc: &ArgDoc) -> Option<Arg> {
        let ArgDoc { place, index, op, value, value_two, mask } = doc;
        let index = match u32::try_from(index.value) {
            Ok(index @ 0..=5) => index,
            _ => {
                self.errors.add(&index.place, "there are the arguments 0 to 5", None);
                return None;
            }
        };
        let written = match op {
            Some(text) => {
                let known = OPS.iter().find(|(_, names)| names.contains(&&*text.value)).map(|row| row.0);
                if known.is_none() {
                    let names = OPS.iter().flat_map(|(_, names)| *names);
                    let help = suggest(&text.value, names);
                    self.errors.add(
                        &text.place,
                        format!("`{}` is no comparison", shown(&text.value)),
                        Some(help),
                    );
                }
                Some(known?)
            }
            None => None,
        };
        let (op, value, value_two) = match (written, mask, value_two) {
            // Value under a mask, as people write it.
            (None | Some(Op::Equal | Op::MaskedEqual), Some(mask), None) => {
                (Op::MaskedEqual, mask.value, value.value)
            }
            // The OCI's way: the mask is the value.
            (Some(Op::MaskedEqual), None, Some(two)) => (Op::MaskedEqual, value.value, two.value),
            (Some(Op::MaskedEqual), None, None) => {
                let help = "write `mask: 0xff` and `value`, or, as the OCI has it, the mask as `value` and `valueTwo`";
                self.errors.add(place, "a masked comparison has a mask", Some(help.to_owned()));
                return None;
            }
            (op, None, None) => (op.unwrap_or(Op::Equal), value.value, 0),
            (_, Some(extra), _) | (_, None, Some(extra)) => {
                let help = "only a masked comparison has a second number".to_owned();
                self.errors.add(&extra.place, "one number too many", Some(help));
                return None;
            }
        };
        if op == Op::MaskedEqual && value_two & !value != 0 {
            let message = format!("{value_two:#x} has bits that the mask {value:#x} leaves out");
            self.errors.add(place, message, Some("no argument is like that under the mask".to_owned()));
        }
        Some(Arg { index, op, value, value_two })
    }

    /// Refuses comparisons that never hold, and numbers of which the kernel sees a part.
    fn compare(&self, place: &Place, docs: &[ArgDoc], conditions: &[Arg], listed: &BTreeMap<Does, Listed>) {
        for ((effect, _), (all, named)) in listed {
            for name in all {
                let widths = widths(*name);
                let seen = if *effect == Effect::Allow { [64; 6] } else { widths };
                if never_hold(conditions, seen) {
                    let help =
                        "an entry is for all of its comparisons together; write an entry for each".to_owned();
                    self.errors.add(place, format!("for `{name}` the comparisons never hold"), Some(help));
                    return;
                }
                for doc in docs.iter().filter(|_| named.contains(name)) {
                    let index = usize::try_from(doc.index.value).unwrap_or(usize::MAX);
                    let bits = mask(widths.get(index).copied().unwrap_or(64));
                    let stray = |value: u64| value > bits && value < !(bits >> 1);
                    if stray(doc.value.value) {
                        let message = format!(
                            "the kernel looks at {} bits of that argument of `{name}`",
                            bits.count_ones()
                        );
                        let help = format!("compare with a number up to {bits:#x}");
                        self.errors.add(&doc.value.place, message, Some(help));
                        return;
                    }
                }
            }
        }
    }
}

fn origin(id: &PolicyId, place: &Place, inherited: &Inherited<'_>, effect: Effect) -> Origin {
    Origin {
        policy: id.clone(),
        rule: place.field.clone(),
        severity: inherited.severity,
        tags: inherited.tags.to_vec(),
        message: inherited.message.to_owned(),
        action: effect,
    }
}

const fn past(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allowed",
        Effect::Audit => "audited",
        Effect::Block => "blocked",
    }
}
