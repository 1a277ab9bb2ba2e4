//! What a profile's JSON may be.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ActionName, Arg, LinuxSeccomp, Op, SyscallEntry};

/// Keys that are not the specification's. Runtimes ignore them, and Docker's profiles have some.
type Others = BTreeMap<String, IgnoredAny>;

/// A key that is a known one but for the case of its letters.
#[derive(Debug, thiserror::Error)]
#[error("the key `{found}` is `{known}` for some runtimes, and nothing for others: write `{known}`, once")]
pub(super) struct Alike {
    found: String,
    known: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile {
    default_action: ActionName,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<SyscallEntry>>,
    #[serde(flatten)]
    others: Others,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    names: Option<Vec<String>>,
    action: ActionName,
    errno_ret: Option<u32>,
    args: Option<Vec<Arg>>,
    #[serde(flatten)]
    others: Others,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Comparison {
    index: Option<u32>,
    value: Option<u64>,
    value_two: Option<u64>,
    op: Op,
    #[serde(flatten)]
    others: Others,
}

impl TryFrom<Profile> for LinuxSeccomp {
    type Error = Alike;

    fn try_from(read: Profile) -> Result<Self, Alike> {
        refuse(
            &read.others,
            &[
                "defaultAction",
                "defaultErrnoRet",
                "architectures",
                "flags",
                "listenerPath",
                "listenerMetadata",
                "syscalls",
            ],
        )?;
        Ok(Self {
            default_action: read.default_action,
            default_errno_ret: read.default_errno_ret,
            architectures: read.architectures.unwrap_or_default(),
            flags: read.flags,
            listener_path: read.listener_path.unwrap_or_default(),
            listener_metadata: read.listener_metadata.unwrap_or_default(),
            syscalls: read.syscalls.unwrap_or_default(),
        })
    }
}

impl TryFrom<Entry> for SyscallEntry {
    type Error = Alike;

    fn try_from(read: Entry) -> Result<Self, Alike> {
        refuse(&read.others, &["names", "action", "errnoRet", "args"])?;
        Ok(Self {
            names: read.names.unwrap_or_default(),
            action: read.action,
            errno_ret: read.errno_ret,
            args: read.args.unwrap_or_default(),
        })
    }
}

impl TryFrom<Comparison> for Arg {
    type Error = Alike;

    fn try_from(read: Comparison) -> Result<Self, Alike> {
        refuse(&read.others, &["index", "value", "valueTwo", "op"])?;
        let Comparison { index, value, value_two, op, .. } = read;
        let [value, value_two] = [value, value_two].map(Option::unwrap_or_default);
        Ok(Self { index: index.unwrap_or_default(), value, value_two, op })
    }
}

fn refuse(others: &Others, known: &[&'static str]) -> Result<(), Alike> {
    for found in others.keys() {
        if let Some(known) = known.iter().find(|known| folded(known) == folded(found)) {
            return Err(Alike { found: found.clone(), known });
        }
    }
    Ok(())
}

/// As Go compares keys: the long s and the sign of the kelvin are letters as well.
fn folded(key: &str) -> String {
    key.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::Action;

    fn read(json: &str) -> Result<LinuxSeccomp, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn null_is_what_is_absent() {
        let bare = LinuxSeccomp::of(Action::Allow);
        let nulls = r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": null, "architectures": null, "flags": null,
            "listenerPath": null, "listenerMetadata": null, "syscalls": null}"#;
        assert_eq!(read(nulls), Ok(bare.clone()));
        let entry = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": null, "action": "SCMP_ACT_LOG",
            "errnoRet": null, "args": null}, {"names": ["read"], "action": "SCMP_ACT_LOG",
            "args": [{"op": "SCMP_CMP_EQ", "index": null, "value": null, "valueTwo": null}]}]}"#;
        let entry = read(entry).unwrap();
        assert!(entry.syscalls[0].names.is_empty() && entry.syscalls[0].args.is_empty());
        let zero = Arg { index: 0, value: 0, value_two: 0, op: Op::Equal };
        assert_eq!(entry.syscalls[1].args, [zero]);
        // no runtime takes an action or a comparison that is none
        assert!(read(r#"{"defaultAction": null}"#).is_err());
        assert_eq!(read(r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": []}"#).unwrap().flags, Some(vec![]));
    }

    #[test]
    fn a_key_of_other_letters_is_refused_wherever_it_stands_and_other_keys_are_not() {
        let good = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [], "syscalls": [{"names": ["read"], "comment": "",
            "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 18446744073709551615, "op": "SCMP_CMP_EQ"}]}]}"#;
        assert_eq!(read(good).unwrap().syscalls[0].args[0].value, u64::MAX);
        for (key, other) in [
            ("archMap", "Syscalls"),
            ("archMap", "\u{17f}yscalls"),
            ("archMap", "DEFAULTACTION"),
            ("archMap", "Flags"),
            ("comment", "Names"),
            ("comment", "errnoret"),
            ("\"index\"", "\"INDEX\""),
        ] {
            let error = read(&good.replacen(key, other, 1)).unwrap_err();
            let other = other.trim_matches('"');
            assert!(error.contains(&format!("the key `{other}` is `")), "{other}: {error}");
        }
        let twice = good.replacen("archMap", "syscalls", 1);
        assert!(read(&twice).unwrap_err().contains("duplicate field"));
    }
}
