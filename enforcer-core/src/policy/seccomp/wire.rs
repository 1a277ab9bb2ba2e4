//! Seccomp policies as they are written, in both forms.

use super::super::Kind;
use super::super::decode::{Cursor, Fields};
use super::super::error::{Errors, Located, Place};
use super::super::names::API_VERSION;
use super::super::wire::{
    MetaDoc, SelectorDoc, check_version, decode_meta, decode_metadata, decode_selector,
};

const KIND: Kind = Kind::KubeArmorSeccompPolicy;
/// The most entries of one policy. There are fewer system calls.
pub(in super::super) const MAX_ENTRIES: usize = 2048;
/// The most comparisons of one entry.
pub(in super::super) const MAX_ARGS: usize = 16;

#[derive(Debug)]
pub(in super::super) struct SeccompDoc {
    pub(super) name: Located<String>,
    pub(super) namespace: Option<Located<String>>,
    pub(super) place: Place,
    pub(super) selector: SelectorDoc,
    pub(super) services: Vec<Located<String>>,
    pub(super) arches: Vec<Located<String>>,
    pub(super) entries: Vec<EntryDoc>,
    pub(super) errno: Option<Located<String>>,
    pub(super) default_errno: Option<Located<String>>,
    pub(super) meta: MetaDoc,
}

#[derive(Debug)]
pub(super) struct EntryDoc {
    pub(super) place: Place,
    pub(super) names: Vec<Located<String>>,
    pub(super) args: Vec<ArgDoc>,
    pub(super) errno: Option<Located<String>>,
    pub(super) meta: MetaDoc,
}

#[derive(Debug)]
pub(super) struct ArgDoc {
    pub(super) place: Place,
    pub(super) index: Located<u64>,
    pub(super) op: Option<Located<String>>,
    pub(super) value: Located<u64>,
    pub(super) value_two: Option<Located<u64>>,
    pub(super) mask: Option<Located<u64>>,
}

/// Whether a document is of this kind.
pub(in super::super) fn is_one(root: &Cursor<'_>) -> bool {
    let Some(mut fields) = root.clone().fields_quietly() else { return false };
    fields.get("kind").is_some_and(|kind| kind.is_text(KIND.as_str()))
}

/// One policy, whose kind is known. A wrong one is left out, with an error taken down.
pub(in super::super) fn decode(root: Cursor<'_>, errors: &Errors<'_>) -> Option<SeccompDoc> {
    let root = root.with_errors(errors);
    root.refuse_duplicate_keys();
    let mut fields = root.fields()?;
    fields.get("kind");
    let short = !fields.has("spec") && !fields.has("metadata");
    let version = match short {
        true => fields.get("apiVersion"),
        false => fields.require("apiVersion", &format!("write `apiVersion: {API_VERSION}`")),
    };
    if let Some(version) = version.and_then(|cursor| cursor.text()) {
        check_version(&fields, &version);
    }
    if short { decode_short(fields) } else { decode_full(fields) }
}

fn decode_full(mut fields: Fields<'_>) -> Option<SeccompDoc> {
    let metadata = fields.require("metadata", "a policy has `metadata` with a `name`");
    let spec = fields.require("spec", "a policy has a `spec` with a selector and `syscalls`");
    fields.get("status");
    fields.finish();
    let metadata = metadata.and_then(|metadata| decode_metadata(metadata, KIND));
    let place = spec.as_ref().map(Cursor::place);
    let mut spec = spec?.fields()?;
    let services = spec.get_unless_null("services").map(|cursor| {
        if cursor.is_empty_list() {
            let help = "name a service, such as `nginx.service`, or write a `selector` of pods".to_owned();
            cursor.error("the policy names no service", Some(help));
        }
        cursor.texts()
    });
    // A policy about services of the host has nothing to select pods by.
    let selector = if services.is_none() { decode_selector(&mut spec, KIND) } else { None };
    let body = decode_body(spec, place?, selector.unwrap_or_default(), services.unwrap_or_default());
    let (name, namespace) = metadata?;
    Some(SeccompDoc { name, namespace, ..body? })
}

/// As on KubeArmor's design page: everything side by side, and the pods by their label `app`.
fn decode_short(mut fields: Fields<'_>) -> Option<SeccompDoc> {
    let place = fields.cursor().place();
    let name = fields.require("name", "give the policy a name").and_then(|cursor| cursor.text());
    let namespace = fields.get_unless_null("namespace").map(|cursor| cursor.text());
    let app = fields.get("app").map(|cursor| (cursor.place(), cursor.text()));
    let selector = match app {
        Some((place, app)) => {
            let key = Located { value: "app".to_owned(), place };
            SelectorDoc { labels: app.map(|app| (key, app)).into_iter().collect(), ..SelectorDoc::default() }
        }
        None if fields.has("selector") => decode_selector(&mut fields, KIND).unwrap_or_default(),
        None => {
            let help = "write `app: name`, which selects by the label `app`, or a `selector`".to_owned();
            fields.cursor().error("`app` is missing", Some(help));
            SelectorDoc::default()
        }
    };
    let body = decode_body(fields, place, selector, Vec::new());
    let namespace = match namespace {
        Some(namespace) => Some(namespace?),
        None => None,
    };
    Some(SeccompDoc { name: name?, namespace, ..body? })
}

/// What both forms have. The name is still to be filled in.
fn decode_body(
    mut fields: Fields<'_>,
    place: Place,
    selector: SelectorDoc,
    services: Vec<Located<String>>,
) -> Option<SeccompDoc> {
    let meta = decode_meta(&mut fields);
    let arches = fields.get_unless_null("arch").map(|cursor| cursor.texts()).unwrap_or_default();
    let errno = fields.get_unless_null("errno").and_then(|cursor| cursor.text_or_number());
    let default_errno = fields.get_unless_null("defaultErrno").and_then(|cursor| cursor.text_or_number());
    let syscalls = fields.require("syscalls", "list the system calls");
    fields.finish();
    let syscalls = syscalls?;
    let items = syscalls.items();
    if items.len() > MAX_ENTRIES {
        let message = format!("{} entries, more than {MAX_ENTRIES}", items.len());
        syscalls.error(message, Some("name a group, such as `@system-service`".to_owned()));
        return None;
    }
    let entries = items.into_iter().filter_map(decode_entry).collect();
    let name = Located { value: String::new(), place: place.clone() };
    Some(SeccompDoc {
        name,
        namespace: None,
        place,
        selector,
        services,
        arches,
        entries,
        errno,
        default_errno,
        meta,
    })
}

fn decode_entry(cursor: Cursor<'_>) -> Option<EntryDoc> {
    let place = cursor.place();
    let Some(mut fields) = cursor.clone().fields_quietly() else {
        let name = cursor.text()?;
        return Some(EntryDoc {
            place,
            names: vec![name],
            args: Vec::new(),
            errno: None,
            meta: MetaDoc::default(),
        });
    };
    let meta = decode_meta(&mut fields);
    let name = fields.get("name");
    let names = fields.get("names");
    let args = fields.get_unless_null("args").map(|cursor| {
        let items = cursor.items();
        if items.len() > MAX_ARGS {
            cursor.error(format!("{} comparisons, more than {MAX_ARGS}", items.len()), None);
        }
        items.into_iter().take(MAX_ARGS).filter_map(decode_arg).collect()
    });
    let errno = fields.get_unless_null("errno").and_then(|cursor| cursor.text_or_number());
    fields.finish();
    let names: Vec<_> = match (name, names) {
        (Some(name), None) => name.text().into_iter().collect(),
        (None, Some(names)) => names.texts(),
        (name, _) => {
            let message = if name.is_some() { "both `name` and `names`" } else { "`name` is missing" };
            cursor.error(message, Some("write `name: read`, or `names: [read, write]`".to_owned()));
            return None;
        }
    };
    if names.is_empty() {
        cursor.error(
            "no system call is named",
            Some("write `name: read`, or `names: [read, write]`".to_owned()),
        );
    }
    Some(EntryDoc { place, names, args: args.unwrap_or_default(), errno, meta })
}

fn decode_arg(cursor: Cursor<'_>) -> Option<ArgDoc> {
    let place = cursor.place();
    let mut fields = cursor.fields()?;
    let index = fields.require("index", "write which argument: 0 to 5").and_then(|cursor| cursor.integer());
    let op = fields.get_unless_null("op").map(|cursor| cursor.text());
    let value = fields.require("value", "write what it is compared with").and_then(|cursor| cursor.integer());
    let value_two = fields.get_unless_null("valueTwo").map(|cursor| cursor.integer());
    let mask = fields.get_unless_null("mask").map(|cursor| cursor.integer());
    fields.finish();
    // A part that is there and wrong leaves the whole out; the error is taken down.
    let op = if let Some(op) = op { Some(op?) } else { None };
    let value_two = if let Some(value_two) = value_two { Some(value_two?) } else { None };
    let mask = if let Some(mask) = mask { Some(mask?) } else { None };
    Some(ArgDoc { place, index: index?, op, value: value?, value_two, mask })
}
