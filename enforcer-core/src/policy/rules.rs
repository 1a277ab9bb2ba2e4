//! The sections of a policy and their rules, as they are written.

mod lists;

pub(super) use self::lists::MAX_ARGS;
use self::lists::{CAPABILITIES, DEVICES, FILE, NETWORK, PROCESS, SYSCALLS};
use super::Kind;
use super::decode::{Cursor, Fields};
use super::error::{Located, Place};
use super::wire::{MetaDoc, decode_meta};
use crate::coverage::GapReason;
use crate::posture::Class;

/// The most rules of one list of a policy.
pub(super) const MAX_RULES: usize = 100_000;
/// The most entries of a list within one rule: ports, system calls, sources.
pub(super) const MAX_ENTRIES: usize = 1000;

#[derive(Debug)]
pub(super) struct SectionDoc {
    /// `None` for a section that no back end enforces.
    pub(super) class: Option<Class>,
    pub(super) rules: Vec<RuleDoc>,
    pub(super) meta: MetaDoc,
}

#[derive(Debug)]
pub(super) struct RuleDoc {
    pub(super) place: Place,
    pub(super) object: ObjectDoc,
    /// `None` where there is no `fromSource`; empty where all that it lists is wrong, or a directory.
    pub(super) sources: Option<Vec<Located<String>>>,
    /// Directories as sources, which only system calls have.
    pub(super) source_dirs: Vec<Located<String>>,
    pub(super) read_only: bool,
    pub(super) owner_only: bool,
    pub(super) pts: Option<Located<bool>>,
    pub(super) allowed_args: Option<ArgsDoc>,
    pub(super) meta: MetaDoc,
}

#[derive(Debug)]
pub(super) struct ArgsDoc {
    pub(super) place: Place,
    pub(super) args: Vec<Located<String>>,
}

#[derive(Debug)]
pub(super) enum ObjectDoc {
    Path(Located<String>),
    BaseName(Located<String>),
    Directory {
        dir: Located<String>,
        recursive: bool,
    },
    Pattern(Located<String>),
    Protocols(Located<String>),
    Endpoint(EndpointDoc),
    Capability(Located<String>),
    Syscalls(Vec<Located<String>>),
    /// Those that are given a path.
    SyscallsOfPath(Vec<Located<String>>),
    Preset(Located<String>),
    /// Native AppArmor rules.
    AppArmor(Located<String>),
    /// Read to the last field, and enforced by nothing.
    Unenforced(GapReason),
}

impl ObjectDoc {
    /// Why nothing will ever enforce it.
    pub(super) const fn gap(&self) -> Option<GapReason> {
        match self {
            Self::Unenforced(reason) => Some(*reason),
            Self::SyscallsOfPath(_) => Some(GapReason::SyscallPath),
            Self::AppArmor(_) => Some(GapReason::AppArmor),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct EndpointDoc {
    pub(super) listens: bool,
    pub(super) cidr: Option<Located<String>>,
    pub(super) ports: Vec<Located<String>>,
    pub(super) protocol: Option<Located<String>>,
}

/// A list of rules: its name, and what reads the object of each.
type List = (&'static str, for<'a> fn(&mut Fields<'a>, &mut Extra) -> Option<ObjectDoc>);

/// What a rule may have beside its object.
#[derive(Debug, Default)]
struct Extra {
    sources: Option<Vec<Located<String>>>,
    source_dirs: Vec<Located<String>>,
    read_only: bool,
    owner_only: bool,
    pts: Option<Located<bool>>,
    allowed_args: Option<ArgsDoc>,
}

/// Every section that is there.
pub(super) fn decode(spec: &mut Fields<'_>, kind: Kind) -> Vec<SectionDoc> {
    let sections: [(&str, Option<Class>, &[List]); 5] = [
        ("process", Some(Class::Process), &PROCESS),
        ("file", Some(Class::File), &FILE),
        ("network", Some(Class::Network), &NETWORK),
        ("capabilities", Some(Class::Capability), &CAPABILITIES),
        ("syscalls", Some(Class::Syscall), &SYSCALLS),
    ];
    let mut found: Vec<_> = sections
        .into_iter()
        .filter_map(|(name, class, lists)| section(spec.get(name)?, class, lists))
        .collect();
    if kind == Kind::KubeArmorHostPolicy {
        found.extend(spec.get("device").and_then(|cursor| section(cursor, None, &DEVICES)));
    } else if let Some(presets) = spec.get_unless_null("presets") {
        let rules = items(&presets, MAX_ENTRIES).into_iter().filter_map(|item| {
            rule(item, |fields, _| {
                fields.require("name", "name one, such as `filelessExec`")?.text().map(ObjectDoc::Preset)
            })
        });
        let rules = rules.collect();
        found.push(SectionDoc { class: Some(Class::Preset), rules, meta: MetaDoc::default() });
    }
    if let Some(native) = spec.get_unless_null("apparmor")
        && let Some(text) = native.text().filter(|text| !text.value.trim().is_empty())
    {
        let place = native.place();
        let object = ObjectDoc::AppArmor(text);
        let rules = vec![RuleDoc::new(place, object, Extra::default(), MetaDoc::default())];
        found.push(SectionDoc { class: None, rules, meta: MetaDoc::default() });
    }
    found
}

fn section(cursor: Cursor<'_>, class: Option<Class>, lists: &[List]) -> Option<SectionDoc> {
    let mut fields = cursor.fields()?;
    let meta = decode_meta(&mut fields);
    let mut rules = Vec::new();
    for (name, object) in lists {
        let Some(cursor) = fields.get(name) else { continue };
        rules.extend(items(&cursor, MAX_RULES).into_iter().filter_map(|item| rule(item, object)));
    }
    fields.finish();
    Some(SectionDoc { class, rules, meta })
}

fn items<'a>(cursor: &Cursor<'a>, most: usize) -> Vec<Cursor<'a>> {
    let items = cursor.items();
    if items.len() > most {
        let message = format!("{} entries, more than {most}", items.len());
        cursor.error(message, Some("spread them over several".to_owned()));
        return Vec::new();
    }
    items
}

/// The same where nothing at all cannot be meant: read as the field's absence it would widen an Allow rule.
fn some_items<'a>(cursor: &Cursor<'a>, most: usize, nothing: &str, field: &str) -> Vec<Cursor<'a>> {
    if cursor.is_empty_list() {
        cursor.error(nothing, Some(format!("list at least one, or leave {field} out")));
    }
    items(cursor, most)
}

fn rule<'a>(
    cursor: Cursor<'a>,
    object: impl Fn(&mut Fields<'a>, &mut Extra) -> Option<ObjectDoc>,
) -> Option<RuleDoc> {
    let place = cursor.place();
    let mut fields = cursor.fields()?;
    if fields.is_empty() {
        fields.cursor().error("the rule is empty", Some("say what it is about, or leave it out".to_owned()));
        return None;
    }
    let mut extra = Extra::default();
    let object = object(&mut fields, &mut extra);
    let meta = decode_meta(&mut fields);
    fields.finish();
    Some(RuleDoc::new(place, object?, extra, meta))
}

impl RuleDoc {
    fn new(place: Place, object: ObjectDoc, extra: Extra, meta: MetaDoc) -> Self {
        let Extra { sources, source_dirs, read_only, owner_only, pts, allowed_args } = extra;
        Self { place, object, sources, source_dirs, read_only, owner_only, pts, allowed_args, meta }
    }
}
