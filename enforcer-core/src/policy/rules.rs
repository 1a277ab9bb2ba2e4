//! The sections of a policy and their rules, as they are written.

use super::Kind;
use super::decode::{Cursor, Fields};
use super::error::{Located, Place};
use super::wire::{MetaDoc, decode_meta};
use crate::coverage::GapReason;
use crate::posture::Class;

/// The most rules of one list of a policy.
const MAX_RULES: usize = 100_000;
/// The most entries of a list within one rule: ports, system calls, sources.
const MAX_ENTRIES: usize = 1000;
/// The most arguments of `allowedArgs`, as KubeArmor has it.
const MAX_ARGS: usize = 20;

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
    /// Read to the last field, and enforced by nothing.
    Unenforced(GapReason),
}

impl ObjectDoc {
    /// Why nothing will ever enforce it.
    pub(super) const fn gap(&self) -> Option<GapReason> {
        match self {
            Self::Unenforced(reason) => Some(*reason),
            Self::SyscallsOfPath(_) => Some(GapReason::SyscallPath),
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

const PROCESS: [List; 3] = [
    ("matchPaths", |fields, extra| {
        files(fields, extra, Class::Process);
        executable(fields)
    }),
    ("matchDirectories", |fields, extra| {
        files(fields, extra, Class::Process);
        directory(fields)
    }),
    ("matchPatterns", |fields, extra| {
        files(fields, extra, Class::Process);
        pattern(fields)
    }),
];

const FILE: [List; 3] = [
    ("matchPaths", |fields, extra| {
        files(fields, extra, Class::File);
        let Some(path) = fields.get("path") else {
            let help = "give it a `path`, such as `/etc/passwd`".to_owned();
            fields.cursor().error("the rule names no path", Some(help));
            return None;
        };
        path.text().map(ObjectDoc::Path)
    }),
    ("matchDirectories", |fields, extra| {
        files(fields, extra, Class::File);
        directory(fields)
    }),
    ("matchPatterns", |fields, extra| {
        files(fields, extra, Class::File);
        pattern(fields)
    }),
];

const NETWORK: [List; 4] = [
    ("matchProtocols", |fields, extra| {
        sources_and_pts(fields, extra);
        fields.require("protocol", "name one, such as `tcp`")?.text().map(ObjectDoc::Protocols)
    }),
    ("matchDestinations", |fields, extra| endpoint(fields, extra, false)),
    ("matchListeners", |fields, extra| endpoint(fields, extra, true)),
    ("matchDNSQueries", |fields, extra| {
        extra.sources = sources(fields);
        fields.require("domain", "name one, such as `example.com`")?.text()?;
        Some(ObjectDoc::Unenforced(GapReason::Dns))
    }),
];

const CAPABILITIES: [List; 1] = [("matchCapabilities", |fields, extra| {
    extra.sources = sources(fields);
    fields.require("capability", "name one, such as `net_raw`")?.text().map(ObjectDoc::Capability)
})];

const SYSCALLS: [List; 2] = [
    ("matchSyscalls", |fields, extra| {
        syscall_sources(fields, extra);
        syscalls(fields).map(ObjectDoc::Syscalls)
    }),
    ("matchPaths", |fields, extra| {
        syscall_sources(fields, extra);
        fields.require("path", "name a file or a directory")?.text()?;
        flag(fields, "recursive");
        syscalls(fields).map(ObjectDoc::SyscallsOfPath)
    }),
];

const DEVICES: [List; 1] = [("matchDevice", |fields, _| {
    fields.require("class", "name one, such as `MASS-STORAGE`, or a number")?;
    // Names, decimal and hexadecimal numbers alike.
    for name in ["subClass", "protocol"] {
        fields.get(name);
    }
    if let Some(level) = fields.get_unless_null("level")
        && level.number()?.value < 1
    {
        level.error("the level is less than 1", None);
    }
    Some(ObjectDoc::Unenforced(GapReason::Device))
})];

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
        && native.text().is_some_and(|text| !text.value.trim().is_empty())
    {
        let place = native.place();
        let object = ObjectDoc::Unenforced(GapReason::AppArmor);
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

fn files(fields: &mut Fields<'_>, extra: &mut Extra, class: Class) {
    sources_and_pts(fields, extra);
    extra.owner_only = flag(fields, "ownerOnly").is_some_and(|flag| flag.value);
    if class == Class::File {
        extra.read_only = flag(fields, "readOnly").is_some_and(|flag| flag.value);
    } else {
        extra.allowed_args = fields.get_unless_null("allowedArgs").map(|cursor| {
            let items = some_items(&cursor, MAX_ARGS, "no argument", "`allowedArgs`");
            ArgsDoc { place: cursor.place(), args: items.iter().filter_map(Cursor::text).collect() }
        });
    }
}

fn flag(fields: &mut Fields<'_>, name: &'static str) -> Option<Located<bool>> {
    fields.get(name).and_then(|cursor| cursor.flag())
}

fn sources_and_pts(fields: &mut Fields<'_>, extra: &mut Extra) {
    extra.sources = sources(fields);
    extra.pts = flag(fields, "pts");
}

fn executable(fields: &mut Fields<'_>) -> Option<ObjectDoc> {
    match (fields.get("path"), fields.get("execname")) {
        (Some(path), None) => Some(ObjectDoc::Path(path.text()?)),
        (None, Some(name)) => Some(ObjectDoc::BaseName(name.text()?)),
        (Some(_), Some(name)) => {
            name.error("`path` and `execname` exclude each other", Some("write two rules".to_owned()));
            None
        }
        (None, None) => {
            let help = "give it a `path`, such as `/bin/sh`, or an `execname`, such as `sh`".to_owned();
            fields.cursor().error("the rule names no path", Some(help));
            None
        }
    }
}

fn directory(fields: &mut Fields<'_>) -> Option<ObjectDoc> {
    let dir = fields.require("dir", "give it a `dir`, such as `/etc/`").and_then(|cursor| cursor.text());
    let recursive = flag(fields, "recursive").is_some_and(|flag| flag.value);
    Some(ObjectDoc::Directory { dir: dir?, recursive })
}

fn pattern(fields: &mut Fields<'_>) -> Option<ObjectDoc> {
    fields.require("pattern", "give it a `pattern`, such as `/tmp/*.sh`")?.text().map(ObjectDoc::Pattern)
}

fn endpoint(fields: &mut Fields<'_>, extra: &mut Extra, listens: bool) -> Option<ObjectDoc> {
    sources_and_pts(fields, extra);
    let text = |cursor: Option<Cursor<'_>>| cursor.map(|cursor| cursor.text());
    let cidr = text(fields.get_unless_null("cidr"));
    let protocol = text(fields.get_unless_null("protocol"));
    let ports = fields.get_unless_null("ports");
    if cidr.is_none() && protocol.is_none() && ports.is_none() {
        let help = "give it a `cidr`, such as `10.0.0.0/8`, `ports`, such as `443`, or a `protocol`";
        fields.cursor().error("the rule names no address", Some(help.to_owned()));
        return None;
    }
    let ports = ports.map(|cursor| {
        let ports = match cursor.is_list() {
            true => some_items(&cursor, MAX_ENTRIES, "no port", "`ports`"),
            false => vec![cursor],
        };
        ports.iter().filter_map(Cursor::text_or_number).collect()
    });
    // What is there and wrong must not count as absent: the rule would say more than its author wrote.
    let (cidr, protocol) = match (cidr, protocol) {
        (Some(None), _) | (_, Some(None)) => return None,
        (cidr, protocol) => (cidr.flatten(), protocol.flatten()),
    };
    Some(ObjectDoc::Endpoint(EndpointDoc { listens, cidr, ports: ports.unwrap_or_default(), protocol }))
}

fn syscalls(fields: &mut Fields<'_>) -> Option<Vec<Located<String>>> {
    let cursor = fields.require("syscall", "list system calls, such as `unlink`")?;
    let items = some_items(&cursor, MAX_ENTRIES, "no system call", "the rule");
    Some(items.iter().filter_map(Cursor::text).collect())
}

/// `fromSource` of a rule about files, sockets or capabilities.
fn sources(fields: &mut Fields<'_>) -> Option<Vec<Located<String>>> {
    let found = source_items(fields)?.into_iter().filter_map(|item| {
        let mut fields = item.fields()?;
        let path = fields.require("path", "give it a `path`, such as `/bin/sh`");
        fields.finish();
        path?.text()
    });
    Some(found.collect())
}

/// The same of a rule about system calls, which KubeArmor lets name directories, too.
fn syscall_sources(fields: &mut Fields<'_>, extra: &mut Extra) {
    let Some(items) = source_items(fields) else { return };
    let mut paths = Vec::new();
    for item in items {
        let Some(mut fields) = item.fields() else { continue };
        let (path, dir) = (fields.get("path"), fields.get("dir"));
        flag(&mut fields, "recursive");
        match (path, dir) {
            (Some(path), None) => paths.extend(path.text()),
            (None, Some(dir)) => extra.source_dirs.extend(dir.text()),
            (Some(_), Some(dir)) => {
                let help = Some("write two sources".to_owned());
                dir.error("`path` and `dir` exclude each other", help);
            }
            (None, None) => {
                let help = "give it a `path`, such as `/bin/sh`".to_owned();
                fields.cursor().error("the source names no path", Some(help));
            }
        }
        fields.finish();
    }
    extra.sources = Some(paths);
}

fn source_items<'a>(fields: &mut Fields<'a>) -> Option<Vec<Cursor<'a>>> {
    let cursor = fields.get_unless_null("fromSource")?;
    Some(some_items(&cursor, MAX_ENTRIES, "no source", "`fromSource`"))
}
