//! The sections that are understood and not enforced yet. Each is read to the last field, so that a mistake in it
//! shows today, and each of its rules becomes a gap.

use super::Kind;
use super::decode::{Cursor, Fields};
use super::error::{Located, shown, suggest};
use super::lower;
use super::names::{CAPABILITIES, PRESETS, PROTOCOLS};
use super::wire::{MetaDoc, Unenforced, decode_meta, decode_sources};
use crate::coverage::GapReason;

type DecodeRule = for<'a> fn(&mut Fields<'a>);

pub(super) fn decode(spec: &mut Fields<'_>, kind: Kind) -> Vec<Unenforced> {
    let mut found = Vec::new();
    let mut section = |name, reason, lists: &[(&'static str, DecodeRule)]| {
        if let Some(cursor) = spec.get(name) {
            decode_section(cursor, reason, lists, &mut found);
        }
    };
    section(
        "network",
        GapReason::Network,
        &[("matchProtocols", decode_protocol), ("matchDNSQueries", decode_domain)],
    );
    section("capabilities", GapReason::Capabilities, &[("matchCapabilities", decode_capability)]);
    section(
        "syscalls",
        GapReason::Syscalls,
        &[("matchSyscalls", decode_syscalls), ("matchPaths", decode_syscall_path)],
    );
    if kind == Kind::KubeArmorHostPolicy {
        section("device", GapReason::Device, &[("matchDevice", decode_device)]);
    } else if let Some(presets) = spec.get("presets") {
        for item in presets.items() {
            decode_rule(item, GapReason::Preset, decode_preset, &mut found);
        }
    }
    if let Some(rules) = spec.get("apparmor")
        && rules.text().is_some_and(|text| !text.value.trim().is_empty())
    {
        found.push(Unenforced { place: rules.place(), reason: GapReason::AppArmor });
    }
    found
}

fn decode_section(
    cursor: Cursor<'_>,
    reason: GapReason,
    lists: &[(&'static str, DecodeRule)],
    found: &mut Vec<Unenforced>,
) {
    let Some(mut fields) = cursor.fields() else { return };
    check_meta(&mut fields);
    for (name, decode) in lists {
        for item in fields.get(name).map(|cursor| cursor.items()).unwrap_or_default() {
            decode_rule(item, reason, *decode, found);
        }
    }
    fields.finish();
}

fn decode_rule(item: Cursor<'_>, reason: GapReason, decode: DecodeRule, found: &mut Vec<Unenforced>) {
    let place = item.place();
    let Some(mut fields) = item.fields() else { return };
    decode(&mut fields);
    check_meta(&mut fields);
    fields.finish();
    found.push(Unenforced { place, reason });
}

fn check_meta(fields: &mut Fields<'_>) {
    let MetaDoc { severity, tags: _, message: _, action } = decode_meta(fields);
    let errors = fields.cursor().errors;
    lower::severity(errors, severity.as_ref());
    lower::action(errors, action.as_ref(), false);
}

fn sources(fields: &mut Fields<'_>) {
    let Some(cursor) = fields.get_unless_null("fromSource") else { return };
    let errors = cursor.errors;
    for source in decode_sources(cursor) {
        lower::file_path(errors, &source);
    }
}

fn flag(fields: &mut Fields<'_>, name: &'static str) {
    if let Some(cursor) = fields.get(name) {
        cursor.flag();
    }
}

/// Takes down that a text is none of the names.
fn known(fields: &Fields<'_>, text: &Located<String>, given: &str, what: &str, names: &[&'static str]) {
    if !names.contains(&given) {
        let help = suggest(given, names.iter().copied());
        fields.cursor().errors.add(&text.place, format!("`{}` is no {what}", shown(given)), Some(help));
    }
}

fn decode_protocol(fields: &mut Fields<'_>) {
    let protocol = fields.require("protocol", "name one, such as `tcp`").and_then(|cursor| cursor.text());
    if let Some(text) = protocol {
        for one in text.value.split(',') {
            known(fields, &text, &one.trim().to_lowercase(), "protocol", &PROTOCOLS);
        }
    }
    flag(fields, "pts");
    sources(fields);
}

fn decode_domain(fields: &mut Fields<'_>) {
    if let Some(cursor) = fields.require("domain", "name one, such as `example.com`") {
        cursor.text();
    }
    sources(fields);
}

fn decode_capability(fields: &mut Fields<'_>) {
    let capability =
        fields.require("capability", "name one, such as `net_raw`").and_then(|cursor| cursor.text());
    if let Some(text) = capability {
        known(fields, &text, &text.value.to_lowercase(), "capability", &CAPABILITIES);
    }
    sources(fields);
}

fn decode_syscalls(fields: &mut Fields<'_>) {
    if let Some(cursor) = fields.require("syscall", "list system calls, such as `unlink`") {
        for name in cursor.texts() {
            let plausible = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if name.value.is_empty() || !name.value.chars().all(plausible) {
                let message = format!("`{}` is no system call", shown(&name.value));
                cursor.errors.add(&name.place, message, Some("names are in lower case".to_owned()));
            }
        }
    }
    for item in fields.get("fromSource").map(|cursor| cursor.items()).unwrap_or_default() {
        let Some(mut source) = item.fields() else { continue };
        for name in ["path", "dir"] {
            if let Some(cursor) = source.get(name) {
                cursor.text();
            }
        }
        flag(&mut source, "recursive");
        source.finish();
    }
}

fn decode_syscall_path(fields: &mut Fields<'_>) {
    if let Some(cursor) = fields.require("path", "name a file or a directory") {
        cursor.text();
    }
    flag(fields, "recursive");
    decode_syscalls(fields);
}

fn decode_device(fields: &mut Fields<'_>) {
    for name in ["class", "subClass", "protocol", "level"] {
        // Names, decimal and hexadecimal numbers alike.
        fields.get(name);
    }
}

fn decode_preset(fields: &mut Fields<'_>) {
    let name = fields.require("name", "name one, such as `filelessExec`").and_then(|cursor| cursor.text());
    if let Some(text) = name {
        known(fields, &text, &text.value, "preset", &PRESETS);
    }
}
