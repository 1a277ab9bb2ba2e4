//! SELinux's records.
//!
//! ```text
//! avc:  denied  { read } for  pid=311 comm="head" name="secret" dev="vda" ino=1234 scontext=system_u:system_r:host_t:s0
//! tcontext=nri_enforcer_rw_u:object_r:base_t:s0 tclass=file permissive=0
//! ```

use super::{BadRecord, By, Denial, Fields, Object};
use crate::compile::selinux::Label;
use crate::decide::Verdict;

/// The longest path, in bytes.
const MAX_PATH: usize = 4096;
/// The longest label of a process, in bytes; categories take room.
const MAX_CONTEXT: usize = 4096;
/// The most bytes of permissions.
const MAX_PERMISSIONS: usize = 512;

/// An object with a label of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// What its label denies.
    pub label: Label,
    /// The class of the object, such as `file` and `dir`.
    pub class: String,
    /// The label of who acted.
    pub source: String,
}

/// Reads what follows the stamp. `None`: the object has no label of ours, or nothing was denied.
pub(super) fn read(text: &str) -> Option<Result<Denial, BadRecord>> {
    let rest = text.strip_prefix("avc:")?.trim_start().strip_prefix("denied")?.trim_start();
    let (permissions, rest) = rest.strip_prefix('{')?.split_once('}')?;
    let fields = Fields::of(rest);
    let target = fields.get("tcontext").filter(|field| !field.quoted)?.value;
    let label = Label::of_user(target.split(':').next()?)?;
    Some(denial(&fields, permissions.trim(), label))
}

fn denial(fields: &Fields<'_>, permissions: &str, label: Label) -> Result<Denial, BadRecord> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_ ".contains(&byte);
    if permissions.len() > MAX_PERMISSIONS || !permissions.bytes().all(is_word) {
        return Err(BadRecord("permissions"));
    }
    let source = fields.get("scontext").ok_or(BadRecord("scontext"))?.value;
    let plain = source.bytes().all(|byte| byte.is_ascii_graphic());
    if source.len() > MAX_CONTEXT || !plain {
        return Err(BadRecord("scontext"));
    }
    let class = fields.word("tclass")?.ok_or(BadRecord("tclass"))?;
    // absent before 3.19: then it was denied
    let passes = fields.get("permissive").is_some_and(|field| field.value == "1");
    let bytes = |key: &'static str| match fields.get(key).map(super::Field::bytes) {
        Some(bytes) if bytes.len() > MAX_PATH => Err(BadRecord(key)),
        bytes => Ok(bytes),
    };
    let object = match bytes("path")?.filter(|path| path.first() == Some(&b'/')) {
        Some(path) => Object::Path(path),
        None => Object::File { name: bytes("name")?.unwrap_or_default(), inode: fields.number("ino")? },
    };
    Ok(Denial {
        time: std::time::SystemTime::UNIX_EPOCH,
        serial: 0,
        verdict: if passes { Verdict::Audit } else { Verdict::Block },
        by: By::Selinux(Labelled { label, class, source: source.to_owned() }),
        operation: permissions.split(' ').next().unwrap_or_default().to_owned(),
        permissions: permissions.to_owned(),
        object,
        pid: fields.number("pid")?.unwrap_or(0),
        comm: fields.comm()?,
        uid: None,
        owner: None,
        doubt: None,
    })
}
