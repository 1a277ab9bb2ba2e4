//! Policies about system calls, by seccomp.

use serde_json::{Value, json};

use super::schema::{at_most, described, either, matching, meta, object, ruled, texts, with, words};
use crate::policy::seccomp::{MAX_ARGS, MAX_ENTRIES, OPS};
use crate::seccomp::action::MAX_ERRNO;
use crate::seccomp::{Arch, SyscallName, errno, groups};

pub(super) fn spec(selector: (&'static str, Value)) -> Value {
    let unit = with(matching("^[A-Za-z0-9:_\\\\@-][A-Za-z0-9:_.\\\\@-]*$"), "maxLength", json!(248));
    let services = described(
        at_most(texts(unit), None),
        "Services of the host, such as `nginx.service`, in the place of a selector.",
    );
    let arches = described(texts(words(Arch::all().flat_map(Arch::names))), "Architectures; left out, all.");
    let syscalls = at_most(texts(entry()), Some(MAX_ENTRIES));
    let fields = [
        selector,
        ("services", services),
        ("arch", arches),
        ("errno", deny("How what is blocked is denied; left out, with `EPERM`.")),
        ("defaultErrno", deny("How what no Allow rule names is denied.")),
        ("syscalls", described(syscalls, "The system calls: names, or entries with conditions.")),
    ];
    let spec = object(fields.into_iter().chain(meta(|_| true, true)), &["syscalls"]);
    ruled(
        spec,
        "has(self.selector) != has(self.services)",
        "write either a `selector` of pods (`selector: {}` selects every pod of the namespace) or `services` of the host",
    )
}

/// A name, or a mapping: no type, so that the server neither refuses unknown fields here nor evaluates rules of CEL.
fn entry() -> Value {
    let index = json!({"x-kubernetes-int-or-string": true, "minimum": 0, "maximum": 5, "pattern": NUMBER, "description": "Which argument: 0 to 5."});
    let number =
        |text: &str| json!({"x-kubernetes-int-or-string": true, "pattern": NUMBER, "description": text});
    let arg = object(
        [
            ("index", index),
            (
                "op",
                described(words(OPS.iter().flat_map(|(_, names)| *names)), "The comparison; left out, `==`."),
            ),
            ("value", number("What the argument is compared with; in quotes where it is over 63 bits.")),
            ("valueTwo", number("What is left under the mask, as the OCI writes it.")),
            ("mask", number("The bits that are compared.")),
        ],
        &["index", "value"],
    );
    let name = matching(&item_pattern());
    let fields = [
        ("name", name.clone()),
        ("names", at_most(texts(name), None)),
        (
            "args",
            json!({"type": "array", "maxItems": MAX_ARGS, "items": arg, "description": "Comparisons with arguments; all must hold."}),
        ),
        ("errno", deny("How this is denied.")),
    ];
    let fields: serde_json::Map<String, Value> = fields
        .into_iter()
        .chain(meta(|_| true, true))
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect();
    json!({
        "x-kubernetes-preserve-unknown-fields": true,
        "pattern": item_pattern(),
        "properties": fields,
        "anyOf": [{"required": ["name"]}, {"required": ["names"]}],
        "description": "`read`, `@mount`, `~@mount`, `mount:EACCES`, or a mapping with `name` or `names`.",
    })
}

/// A whole number, in any base.
const NUMBER: &str = "^(-?[0-9]+|0[xX][0-9a-fA-F]+|0o[0-7]+|0b[01]+)$";

/// `~` inverts, `@` is a group, and `:` comes before an errno.
fn item_pattern() -> String {
    let names = either(groups::names().chain(SyscallName::all().map(SyscallName::as_str)));
    format!("^~?({names})(:({}))?$", errno_pattern())
}

fn errno_pattern() -> String {
    format!("kill|[+]?0*[1-9][0-9]{{0,3}}|{}", either(errno::names()))
}

fn deny(text: &str) -> Value {
    json!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": MAX_ERRNO,
        "pattern": format!("^({})$", errno_pattern()),
        "description": format!("{text} A name such as `EPERM`, a number from 1 to {MAX_ERRNO}, or `kill`."),
    })
}
