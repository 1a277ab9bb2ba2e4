//! From the names of a policy to the objects of rules.

use super::error::{Errors, Located, nearest, shown, suggest};
use super::rules::{EndpointDoc, ObjectDoc};
use crate::capability::Capability;
use crate::network::{CidrError, Endpoint, Ports, PortsError, Protocol};
use crate::path::{AbsPath, PathError};
use crate::pattern::{Pattern, PatternError, PatternProblem};
use crate::preset::Preset;
use crate::ruleset::Object;
use crate::syscall::Syscall;

/// What a rule is about; empty where it is wrong, or nothing that is enforced. Errors are taken down.
pub(super) fn objects(errors: &Errors<'_>, doc: &ObjectDoc) -> Vec<Object> {
    let one = match doc {
        ObjectDoc::Path(path) => file_path(errors, path).map(Object::Path),
        ObjectDoc::BaseName(name) => base_name(errors, name).map(Object::BaseName),
        ObjectDoc::Directory { dir, recursive } => {
            directory(errors, dir).map(|dir| Object::Directory { dir, recursive: *recursive })
        }
        ObjectDoc::Pattern(text) => pattern(errors, text).map(Object::Pattern),
        ObjectDoc::Protocols(text) => {
            return protocols(errors, text).into_iter().map(Object::Sockets).collect();
        }
        ObjectDoc::Endpoint(doc) => return endpoints(errors, doc),
        ObjectDoc::Capability(text) => {
            let names = || Capability::all().map(Capability::name);
            let given = text.value.to_ascii_lowercase();
            let bare = given.strip_prefix("cap_").unwrap_or(&given);
            known(errors, text, bare, Capability::by_name(&text.value), "capability", names())
                .map(Object::Capability)
        }
        ObjectDoc::Syscalls(names) | ObjectDoc::SyscallsOfPath(names) => {
            return names.iter().filter_map(|name| syscall(errors, name)).map(Object::Syscall).collect();
        }
        ObjectDoc::Preset(text) => {
            let names = Preset::ALL.map(Preset::as_str);
            known(errors, text, &text.value, Preset::by_name(&text.value), "preset", names)
                .map(Object::Preset)
        }
        ObjectDoc::AppArmor(_) | ObjectDoc::Unenforced(_) => None,
    };
    one.into_iter().collect()
}

/// What a text was found to name; takes down that it names nothing.
fn known<'n, T>(
    errors: &Errors<'_>,
    text: &Located<String>,
    given: &str,
    found: Option<T>,
    what: &str,
    names: impl IntoIterator<Item = &'n str> + Clone,
) -> Option<T> {
    if found.is_none() {
        let message = format!("`{}` is no {what}", shown(&text.value));
        errors.add(&text.place, message, Some(suggest(given, names)));
    }
    found
}

/// One protocol, or several with commas between them.
fn protocols(errors: &Errors<'_>, text: &Located<String>) -> Vec<Protocol> {
    let names = Protocol::EACH.map(Protocol::as_str);
    let each = text.value.split(',').map(str::trim).filter_map(|name| {
        let found = Protocol::by_name(name);
        if found.is_none() {
            let message = format!("`{}` is no protocol", shown(name));
            errors.add(&text.place, message, Some(suggest(name, names)));
        }
        found
    });
    each.collect()
}

fn syscall(errors: &Errors<'_>, text: &Located<String>) -> Option<Syscall> {
    let found = Syscall::by_name(&text.value);
    if found.is_none() {
        let help = match nearest(&text.value, Syscall::all().map(Syscall::name)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "write a name of `man 2 syscalls`, in lower case, such as `unlink`".to_owned(),
        };
        errors.add(&text.place, format!("`{}` is no system call", shown(&text.value)), Some(help));
    }
    found
}

fn pattern(errors: &Errors<'_>, text: &Located<String>) -> Option<Pattern> {
    match text.value.parse() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let error: PatternError = error;
            let help = match error.problem {
                PatternProblem::Relative if !text.value.contains('/') => {
                    format!("for the name in any directory write `/**/{}`", shown(&text.value))
                }
                _ => "`*` stops at `/`, `**` does not; `?`, `[a-z]`, `{a,b}`, and `\\` before a sign that is meant as \
                      itself"
                    .to_owned(),
            };
            errors.add(&text.place, error.to_string(), Some(help));
            None
        }
    }
}

/// An endpoint for each range of ports and each protocol.
fn endpoints(errors: &Errors<'_>, doc: &EndpointDoc) -> Vec<Object> {
    let EndpointDoc { listens, cidr, ports, protocol } = doc;
    let net = match cidr.as_ref().map(|text| (text, text.value.parse())) {
        None => None,
        Some((_, Ok(net))) => Some(net),
        Some((text, Err(error))) => {
            let help = match &error {
                CidrError::Bits(net) => {
                    format!("write `{net}`, or `{}` for the address alone", host(&text.value))
                }
                CidrError::Shape | CidrError::Prefix { .. } => {
                    "write it as in `10.0.0.0/8` or `fd00::/8`".into()
                }
            };
            errors.add(&text.place, format!("`{}`: {error}", shown(&text.value)), Some(help));
            return Vec::new();
        }
    };
    let protocols: Vec<_> = match protocol {
        None => vec![None],
        Some(text) => protocols(errors, text).into_iter().map(Some).collect(),
    };
    let ranges = match ports.is_empty() {
        true => vec![Ports::ALL],
        false => ports.iter().filter_map(|text| port_range(errors, text)).collect(),
    };
    let each = ranges.iter().flat_map(|ports| protocols.iter().map(move |protocol| (*ports, *protocol)));
    each.map(|(ports, protocol)| {
        let endpoint = Endpoint { net, ports, protocol };
        if *listens { Object::Listener(endpoint) } else { Object::Destination(endpoint) }
    })
    .collect()
}

fn host(text: &str) -> &str {
    text.split_once('/').map_or(text, |(address, _)| address)
}

fn port_range(errors: &Errors<'_>, text: &Located<String>) -> Option<Ports> {
    let error = match text.value.parse() {
        Ok(ports) => return Some(ports),
        Err(error) => error,
    };
    let help = match error {
        PortsError::Shape => Some("names of services are not read; write the number".to_owned()),
        PortsError::Order { .. } => None,
    };
    errors.add(&text.place, format!("`{}`: {error}", shown(&text.value)), help);
    None
}

/// A path that names a file: it does not end in `/`.
pub(super) fn file_path(errors: &Errors<'_>, text: &Located<String>) -> Option<AbsPath> {
    if text.value.starts_with('/') && text.value.ends_with('/') {
        let message = format!("`{}` is a directory", shown(&text.value));
        let help = "use `matchDirectories`, or leave the last `/` out".to_owned();
        errors.add(&text.place, message, Some(help));
        return None;
    }
    path(errors, text)
}

fn directory(errors: &Errors<'_>, text: &Located<String>) -> Option<AbsPath> {
    if text.value.starts_with('/') && !text.value.ends_with('/') {
        let message = format!("the directory `{}` does not end in `/`", shown(&text.value));
        let help = format!("write `{}/`, or use `matchPaths` for a file", shown(&text.value));
        errors.add(&text.place, message, Some(help));
        return None;
    }
    path(errors, text)
}

fn path(errors: &Errors<'_>, text: &Located<String>) -> Option<AbsPath> {
    let error = match AbsPath::new(&text.value) {
        Ok(path) => return Some(path),
        Err(error) => error,
    };
    let help = match error {
        PathError::Empty | PathError::Relative => Some("write the path from the root of the container on"),
        PathError::ParentComponent => Some("write the path that is meant, without `..`"),
        PathError::ZeroByte | PathError::TooLong(_) => None,
    };
    let message =
        if text.value.is_empty() { error.to_string() } else { format!("{error}: `{}`", shown(&text.value)) };
    errors.add(&text.place, message, help.map(str::to_owned));
    None
}

fn base_name(errors: &Errors<'_>, name: &Located<String>) -> Option<String> {
    let text = &name.value;
    if text.is_empty() || text.contains(['/', '\0']) || matches!(&**text, "." | "..") {
        let message = format!("`{}` is no name of an executable", shown(text));
        errors.add(&name.place, message, Some("write the last part of its path, such as `sh`".to_owned()));
        return None;
    }
    Some(text.clone())
}
