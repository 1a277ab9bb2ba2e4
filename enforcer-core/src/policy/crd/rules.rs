//! The sections of policies about files, processes, sockets, capabilities, system calls and presets.

use serde_json::{Value, json};

use super::schema::{at_most, described, either, matching, meta, object, ruled, texts, with, words};
use crate::capability::Capability;
use crate::network::Protocol;
use crate::path::MAX_PATH_LEN;
use crate::pattern::MAX_PATTERN_LEN;
use crate::policy::Kind;
use crate::policy::lower::MAX_ARG;
use crate::policy::rules::{MAX_ARGS, MAX_ENTRIES, MAX_RULES};
use crate::posture::{Class, Effect};
use crate::preset::Preset;
use crate::syscall::Syscall;

type Field = (&'static str, Value);
type Section = (&'static str, Option<Class>, &'static str, Vec<Field>);

pub(super) fn spec(kind: Kind, selector: Field) -> Value {
    let sections = sections(kind);
    let mut some: Vec<String> = sections
        .iter()
        .map(|(section, _, _, lists)| {
            let lists = lists
                .iter()
                .map(|(list, _)| format!("(has(self.{section}.{list}) && size(self.{section}.{list}) > 0)"));
            format!("(has(self.{section}) && ({}))", lists.collect::<Vec<_>>().join(" || "))
        })
        .collect();
    some.push("(has(self.apparmor) && self.apparmor.matches('[^ \\\\t\\\\r\\\\n]'))".to_owned());
    let required = selector.0;
    let mut fields =
        vec![selector, ("apparmor", json!({"type": "string", "description": "Native AppArmor rules."}))];
    fields.extend(sections.into_iter().map(|(name, class, text, lists)| {
        let lists = lists.into_iter().map(|(list, rule)| {
            let rule = with_meta(rule, class);
            (list, with(texts(rule), "maxItems", json!(MAX_RULES)))
        });
        let section = object(lists.chain(meta(|effect| can(class, effect), false)), &[]);
        (name, described(section, text))
    }));
    if kind != Kind::KubeArmorHostPolicy {
        let preset = object([("name", words(Preset::ALL.map(Preset::as_str)))], &["name"]);
        let presets = texts(with_meta(preset, Some(Class::Preset)));
        let presets = with(presets, "maxItems", json!(MAX_ENTRIES));
        fields.push(("presets", described(presets, "Ready-made protections.")));
        some.push("(has(self.presets) && size(self.presets) > 0)".to_owned());
    }
    fields.extend(meta(|_| true, true));
    let spec = object(fields, &[required]);
    ruled(spec, &some.join(" || "), "the policy has no rules; add a section, such as `file`, with rules")
}

fn can(class: Option<Class>, effect: Effect) -> bool {
    class.is_none_or(|class| class.can(effect))
}

fn with_meta(mut rule: Value, class: Option<Class>) -> Value {
    if let Some(fields) = rule.get_mut("properties").and_then(Value::as_object_mut) {
        let meta = meta(|effect| can(class, effect), false);
        fields.extend(meta.into_iter().map(|(name, schema)| (name.to_owned(), schema)));
    }
    rule
}

fn sections(kind: Kind) -> Vec<Section> {
    let mut found = vec![
        ("process", Some(Class::Process), "Which executables may be run.", files(Class::Process)),
        ("file", Some(Class::File), "Which files may be opened, changed and removed.", files(Class::File)),
        ("network", Some(Class::Network), "Which sockets may be made, and what they may talk to.", network()),
        ("capabilities", Some(Class::Capability), "Which capabilities may be used.", capabilities()),
        ("syscalls", Some(Class::Syscall), "Which system calls are reported.", syscalls()),
    ];
    if kind == Kind::KubeArmorHostPolicy {
        found.push(("device", None, "Which USB devices may be used.", device()));
    }
    found
}

/// A path that names a file: no `/` at its end, no `..` in it.
fn file_path() -> Value {
    json!({
        "type": "string",
        "maxLength": MAX_PATH_LEN,
        "pattern": "^/([^/\\x00]|/+[^/\\x00])+$",
        "not": {"pattern": "/[.][.](/|$)"},
    })
}

fn source_list(item: Value) -> Field {
    let list = at_most(texts(item), Some(MAX_ENTRIES));
    ("fromSource", described(list, "The executables one of which must be acting; left out, any."))
}

fn sources() -> Field {
    source_list(object([("path", file_path())], &["path"]))
}

/// Either a file or a directory; without a rule of CEL, whose cost the API server would find too great so deep.
fn syscall_sources() -> Field {
    let item = object(
        [
            ("path", file_path()),
            ("dir", json!({"type": "string"})),
            ("recursive", json!({"type": "boolean"})),
        ],
        &[],
    );
    source_list(with(item, "oneOf", json!([{"required": ["path"]}, {"required": ["dir"]}])))
}

fn flag(name: &'static str, text: &str) -> Field {
    (name, json!({"type": "boolean", "description": text}))
}

fn terminal() -> Field {
    flag("pts", "`false`: only what has no terminal.")
}

fn files(class: Class) -> Vec<Field> {
    let shared = || {
        let args = json!({"type": "string", "maxLength": MAX_ARG, "pattern": "^[^\\x00]*$"});
        let args = described(
            at_most(texts(args), Some(MAX_ARGS)),
            "The only arguments that the program may be given.",
        );
        let own = match class {
            Class::File => flag("readOnly", "The rule is about writing alone."),
            _ => ("allowedArgs", args),
        };
        [sources(), terminal(), flag("ownerOnly", "The owner of the file alone."), own]
    };
    let mut path = vec![("path", described(file_path(), "The file, from the root of the container on."))];
    path.extend(shared());
    let path = match class {
        Class::File => object(path, &["path"]),
        _ => {
            let name = json!({"type": "string", "pattern": "^[^/\\x00]+$", "not": {"enum": [".", ".."]}});
            path.push(("execname", described(name, "The executable's name, in any directory.")));
            let message = "write either a `path`, such as `/bin/sh`, or an `execname`, such as `sh`";
            ruled(object(path, &[]), "has(self.path) != has(self.execname)", message)
        }
    };
    let dir = json!({
        "type": "string",
        "maxLength": MAX_PATH_LEN.saturating_add(1),
        "pattern": "^/([^\\x00]*/)?$",
        "not": {"pattern": "/[.][.](/|$)"},
        "description": "The directory, with `/` at its end.",
    });
    let dir = object(
        shared().into_iter().chain([("dir", dir), flag("recursive", "All that is below it, too.")]),
        &["dir"],
    );
    let pattern = json!({
        "type": "string",
        "maxLength": MAX_PATTERN_LEN,
        "pattern": "^(/|[*][*])",
        "description": "`*` stops at `/`, `**` does not; `?`, `[a-z]`, `{a,b}`.",
    });
    let pattern = object(shared().into_iter().chain([("pattern", pattern)]), &["pattern"]);
    vec![("matchPaths", path), ("matchDirectories", dir), ("matchPatterns", pattern)]
}

fn protocols() -> Value {
    let each = either(Protocol::EACH.map(Protocol::as_str));
    let pattern = format!("^\\s*(?i:{each})\\s*(,\\s*(?i:{each})\\s*)*$");
    described(matching(&pattern), "One protocol, or several with commas between them, in any case.")
}

/// A port or a range of ports.
const PORTS: &str = "^\\s*[0-9]+\\s*(-\\s*[0-9]+\\s*)?$";

fn network() -> Vec<Field> {
    let endpoint = || {
        // A number, a text or a list of them: no type, which rules of CEL cannot look into.
        let ports = json!({
            "x-kubernetes-preserve-unknown-fields": true,
            "minimum": 0,
            "maximum": u16::MAX,
            "multipleOf": 1,
            "pattern": PORTS,
            "minItems": 1,
            "maxItems": MAX_ENTRIES,
            "items": {
                "x-kubernetes-int-or-string": true,
                "minimum": 0,
                "maximum": u16::MAX,
                "pattern": PORTS,
            },
            "description": "A port, a range such as `8000-8999`, or a list of them.",
        });
        let cidr = described(
            matching("^[0-9A-Fa-f:.]+(/[0-9]+)?$"),
            "An address, or a network such as `10.0.0.0/8`.",
        );
        let fields = [("cidr", cidr), ("ports", ports), ("protocol", protocols()), sources(), terminal()];
        let some = json!([{"required": ["cidr"]}, {"required": ["ports"]}, {"required": ["protocol"]}]);
        with(object(fields, &[]), "anyOf", some)
    };
    vec![
        ("matchProtocols", object([("protocol", protocols()), sources(), terminal()], &["protocol"])),
        ("matchDestinations", endpoint()),
        ("matchListeners", endpoint()),
        ("matchDNSQueries", object([("domain", json!({"type": "string"})), sources()], &["domain"])),
    ]
}

fn capabilities() -> Vec<Field> {
    let pattern = format!("^(?i:(cap_)?({}))$", either(Capability::all().map(Capability::name)));
    let capability =
        described(matching(&pattern), "Its name, in any case, with or without `CAP_` before it.");
    vec![("matchCapabilities", object([("capability", capability), sources()], &["capability"]))]
}

fn syscalls() -> Vec<Field> {
    let names = || {
        let names = texts(words(Syscall::all().map(Syscall::name)));
        ("syscall", described(at_most(names, Some(MAX_ENTRIES)), "The system calls."))
    };
    let of_path = [
        ("path", json!({"type": "string", "description": "A file or a directory."})),
        flag("recursive", "All that is below it, too."),
        names(),
        syscall_sources(),
    ];
    vec![
        ("matchSyscalls", object([names(), syscall_sources()], &["syscall"])),
        ("matchPaths", object(of_path, &["path", "syscall"])),
    ]
}

fn device() -> Vec<Field> {
    let either = |text: &str| json!({"x-kubernetes-int-or-string": true, "description": text});
    let fields = [
        ("class", either("A name such as `MASS-STORAGE`, or a number.")),
        ("subClass", either("A number.")),
        ("protocol", either("A number.")),
        (
            "level",
            json!({"type": "integer", "format": "int64", "minimum": 1, "description": "How deep the device may be plugged in."}),
        ),
    ];
    vec![("matchDevice", object(fields, &["class"]))]
}
