//! What the rules of each list hold.

use super::{ArgsDoc, EndpointDoc, Extra, List, MAX_ENTRIES, ObjectDoc, some_items};
use crate::coverage::GapReason;
use crate::policy::decode::{Cursor, Fields};
use crate::policy::error::Located;
use crate::posture::Class;

/// The most arguments of `allowedArgs`, as KubeArmor has it.
pub(in crate::policy) const MAX_ARGS: usize = 20;

pub(super) const PROCESS: [List; 3] = [
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

pub(super) const FILE: [List; 3] = [
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

pub(super) const NETWORK: [List; 4] = [
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

pub(super) const CAPABILITIES: [List; 1] = [("matchCapabilities", |fields, extra| {
    extra.sources = sources(fields);
    fields.require("capability", "name one, such as `net_raw`")?.text().map(ObjectDoc::Capability)
})];

pub(super) const SYSCALLS: [List; 2] = [
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

pub(super) const DEVICES: [List; 1] = [("matchDevice", |fields, _| {
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
