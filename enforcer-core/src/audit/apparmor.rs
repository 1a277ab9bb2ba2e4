//! AppArmor's records.
//!
//! ```text
//! apparmor="DENIED" operation="open" class="file" profile="nri-enforcer.default.web" name="/etc/passwd" pid=18375 comm="cat"
//! requested_mask="r" denied_mask="r" fsuid=0 ouid=0
//! ```
//!
//! Kernels before 6.3 tell no class, which is known by what else is told then.

use super::{BadRecord, By, Denial, Field, Fields, Object};
use crate::compile::apparmor::ProfileName;
use crate::decide::Verdict;

/// The longest path, in bytes: what AppArmor gives a name (`aa_g_path_max`, twice `PATH_MAX`).
const MAX_PATH: usize = 8192;

/// The profile of ours that a process has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// Its name.
    pub profile: ProfileName,
    /// The child of it that the process is in, by its own name; `None`: it is in the profile itself.
    pub child: Option<String>,
    /// What the kernel adds in words of its own, such as `Failed name lookup - disconnected path`; empty mostly.
    pub info: String,
}

/// Reads what follows the stamp. `None`: it is not about a profile of ours, or no access is told of.
pub(super) fn read(text: &str) -> Option<Result<Denial, BadRecord>> {
    let fields = Fields::of(text);
    let verdict = match fields.get("apparmor")?.value {
        "DENIED" => Verdict::Block,
        "AUDIT" | "ALLOWED" => Verdict::Audit,
        _ => return None,
    };
    // a profile of another policy namespace may have any name
    if fields.get("namespace").is_some() {
        return None;
    }
    let label = fields.get("profile").or_else(|| fields.get("label"))?;
    let (profile, child) = ours(label)?;
    Some(denial(&fields, verdict, profile, child))
}

/// The first profile of ours in a label, which may be of several.
fn ours(label: &Field<'_>) -> Option<(ProfileName, Option<String>)> {
    let label = String::from_utf8(label.bytes()).ok()?;
    label.split("//&").find_map(|one| {
        let (name, child) = one.split_once("//").map_or((one, None), |(name, child)| (name, Some(child)));
        Some((name.parse().ok()?, child.map(str::to_owned)))
    })
}

fn denial(
    fields: &Fields<'_>,
    verdict: Verdict,
    profile: ProfileName,
    child: Option<String>,
) -> Result<Denial, BadRecord> {
    let operation = fields.word("operation")?.ok_or(BadRecord("operation"))?;
    // of what passes there is no mask of what was denied
    let masks =
        if verdict == Verdict::Block { ["denied_mask", "denied"] } else { ["requested_mask", "requested"] };
    let mut permissions = None;
    for mask in masks {
        permissions = permissions.or(fields.word(mask)?);
    }
    let info = fields.get("info").map(|field| field.value.chars().take(200).collect());
    Ok(Denial {
        time: std::time::SystemTime::UNIX_EPOCH,
        serial: 0,
        verdict,
        object: object(fields, &operation)?,
        by: By::AppArmor(Confined { profile, child, info: info.unwrap_or_default() }),
        operation,
        permissions: permissions.unwrap_or_default(),
        pid: fields.number("pid")?.unwrap_or(0),
        comm: fields.comm()?,
        uid: id(fields, "fsuid")?,
        // -1 is nobody's
        owner: id(fields, "ouid")?.filter(|owner| *owner != u32::MAX),
    })
}

/// A user id, which the kernel writes as a signed number (`%d`): from 2^31 on it is negative.
fn id(fields: &Fields<'_>, key: &'static str) -> Result<Option<u32>, BadRecord> {
    let Some(number) = fields.number::<i64>(key)? else { return Ok(None) };
    let negative = || i32::try_from(number).ok().map(i32::cast_unsigned);
    u32::try_from(number).ok().or_else(negative).map(Some).ok_or(BadRecord(key))
}

fn object(fields: &Fields<'_>, operation: &str) -> Result<Object, BadRecord> {
    let text = |key: &str| fields.get(key).map(|field| String::from_utf8_lossy(&field.bytes()).into_owned());
    if let Some(capability) = fields.word("capname")? {
        return Ok(Object::Capability(capability));
    }
    if let Some(family) = fields.word("family")? {
        let kind = fields.word("sock_type")?.ok_or(BadRecord("sock_type"))?;
        let protocol = fields.number("protocol")?.unwrap_or(0);
        return Ok(Object::Socket { family, kind, protocol });
    }
    if let Some(peer) = text("peer") {
        let signal = text("signal").map(|signal| format!("signal={signal} ")).unwrap_or_default();
        return Ok(Object::Other(format!("{signal}peer={peer}")));
    }
    let Some(name) = fields.get("name") else { return Ok(Object::Other(String::new())) };
    let path = name.bytes();
    if path.len() > MAX_PATH {
        return Err(BadRecord("name"));
    }
    // of a mount it is no access to a file that rules are about
    if matches!(operation, "mount" | "umount" | "pivotroot" | "change_profile" | "change_hat" | "stack") {
        return Ok(Object::Other(String::from_utf8_lossy(&path).into_owned()));
    }
    Ok(Object::Path(path))
}
