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
/// The most characters of an object that is no path.
const MAX_WORDS: usize = 2048;

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
pub(super) fn read(text: &str) -> Option<Denial> {
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
    let confined = Confined { profile, child, info: String::new() };
    Some(denial(&fields, verdict, confined))
}

/// The first profile of ours in a label, which may be of several.
fn ours(label: &Field<'_>) -> Option<(ProfileName, Option<String>)> {
    let label = String::from_utf8(label.bytes()).ok()?;
    label.split("//&").find_map(|one| {
        let (name, child) = one.split_once("//").map_or((one, None), |(name, child)| (name, Some(child)));
        Some((name.parse().ok()?, child.map(str::to_owned)))
    })
}

/// Who was denied something is known. What else makes no sense costs the rule, and never the alert.
fn denial(fields: &Fields<'_>, verdict: Verdict, confined: Confined) -> Denial {
    let mut doubt = Doubt::default();
    let operation =
        doubt.or_none(fields.word("operation").and_then(|word| word.ok_or(BadRecord("operation"))));
    // of what passes there is no mask of what was denied
    let masks =
        if verdict == Verdict::Block { ["denied_mask", "denied"] } else { ["requested_mask", "requested"] };
    let masks = masks.map(|mask| doubt.or_none(fields.word(mask)));
    let info = fields.get("info").map(|field| field.value.chars().take(200).collect());
    let object = object(fields, &operation, &mut doubt);
    Denial {
        time: std::time::SystemTime::UNIX_EPOCH,
        serial: 0,
        verdict,
        object,
        by: By::AppArmor(Confined { info: info.unwrap_or_default(), ..confined }),
        operation,
        permissions: masks.into_iter().flatten().next().unwrap_or_default(),
        pid: doubt.or_none(fields.number("pid")).unwrap_or(0),
        comm: doubt.or_none(fields.comm()),
        uid: doubt.or_none(id(fields, "fsuid")),
        // -1 is nobody's
        owner: doubt.or_none(id(fields, "ouid")).filter(|owner| *owner != u32::MAX),
        doubt: doubt.0,
    }
}

/// The first of what makes no sense.
#[derive(Default)]
struct Doubt(Option<BadRecord>);

impl Doubt {
    fn or_none<T: Default>(&mut self, read: Result<T, BadRecord>) -> T {
        read.unwrap_or_else(|bad| {
            self.0.get_or_insert(bad);
            T::default()
        })
    }
}

/// A user id, which the kernel writes as a signed number (`%d`): from 2^31 on it is negative.
fn id(fields: &Fields<'_>, key: &'static str) -> Result<Option<u32>, BadRecord> {
    let Some(number) = fields.number::<i64>(key)? else { return Ok(None) };
    let negative = || i32::try_from(number).ok().map(i32::cast_unsigned);
    u32::try_from(number).ok().or_else(negative).map(Some).ok_or(BadRecord(key))
}

fn object(fields: &Fields<'_>, operation: &str, doubt: &mut Doubt) -> Object {
    // of what is in words there is no more than can be read
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(MAX_WORDS).collect::<String>();
    let text = |key: &str| fields.get(key).map(|field| words(&field.bytes()));
    if let Some(capability) = doubt.or_none(fields.word("capname")) {
        return Object::Capability(capability);
    }
    if let Some(family) = doubt.or_none(fields.word("family")) {
        let kind = fields.word("sock_type").and_then(|word| word.ok_or(BadRecord("sock_type")));
        let (kind, protocol) = (doubt.or_none(kind), doubt.or_none(fields.number::<i64>("protocol")));
        return socket(family, kind, protocol.unwrap_or(0));
    }
    if let Some(peer) = text("peer") {
        let signal = text("signal").map(|signal| format!("signal={signal} ")).unwrap_or_default();
        return Object::Other(format!("{signal}peer={peer}"));
    }
    let Some(name) = fields.get("name") else { return Object::Other(String::new()) };
    let path = name.bytes();
    if path.len() > MAX_PATH {
        doubt.or_none(Err::<(), _>(BadRecord("name")));
        return Object::Other(words(&path));
    }
    // of a mount it is no access to a file that rules are about
    if matches!(operation, "mount" | "umount" | "pivotroot" | "change_profile" | "change_hat" | "stack") {
        return Object::Other(words(&path));
    }
    Object::Path(path)
}

/// AppArmor is asked before a protocol is looked at, so it may be any number (`%d`) that a process has made up.
fn socket(family: String, kind: String, protocol: i64) -> Object {
    let low = if family == "packet" { protocol & 0xffff } else { protocol }; // `packet_create` cuts it off
    match u16::try_from(low) {
        Ok(protocol) => Object::Socket { family, kind, protocol },
        Err(_) => Object::Other(format!("family={family} sock_type={kind} protocol={protocol}")),
    }
}
