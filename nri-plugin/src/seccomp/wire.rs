//! Profiles of the OCI in NRI's messages, which have the same words.

use enforcer_core::seccomp::oci::{ActionName, Arg, LinuxSeccomp, Op, SyscallEntry};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A profile as an adjustment carries it. Runtimes lose the errno of the default action on the way, so give the form
/// that does without ([`SeccompProfile::without_default_errno`](enforcer_core::seccomp::SeccompProfile)).
#[must_use]
pub fn to_nri(profile: &LinuxSeccomp) -> nri::LinuxSeccomp {
    let LinuxSeccomp {
        default_action,
        default_errno_ret,
        architectures,
        flags,
        listener_path,
        listener_metadata,
        syscalls,
    } = profile;
    let mut policy = nri::LinuxSeccomp::default();
    policy.default_action = word(default_action);
    policy.default_errno = *default_errno_ret;
    policy.architectures.clone_from(architectures);
    policy.flags = flags.clone().unwrap_or_default();
    policy.listener_path.clone_from(listener_path);
    policy.listener_metadata.clone_from(listener_metadata);
    policy.syscalls = syscalls.iter().map(entry_to_nri).collect();
    policy
}

fn entry_to_nri(entry: &SyscallEntry) -> nri::LinuxSyscall {
    let mut syscall = nri::LinuxSyscall::default();
    syscall.names.clone_from(&entry.names);
    syscall.action = word(&entry.action);
    syscall.errno_ret = entry.errno_ret;
    syscall.args = entry
        .args
        .iter()
        .map(|arg| {
            let mut to = nri::LinuxSeccompArg::default();
            (to.index, to.value, to.value_two, to.op) = (arg.index, arg.value, arg.value_two, word(&arg.op));
            to
        })
        .collect();
    syscall
}

/// The profile that a runtime shows.
///
/// # Errors
/// When it has a word that is not known here; the text says which.
pub fn from_nri(policy: &nri::LinuxSeccomp) -> Result<LinuxSeccomp, serde_json::Error> {
    let syscalls = policy.syscalls.iter().map(|syscall| {
        let args = syscall.args.iter().map(|arg| {
            let op: Op = named(&arg.op)?;
            Ok(Arg { index: arg.index, value: arg.value, value_two: arg.value_two, op })
        });
        Ok(SyscallEntry {
            names: syscall.names.clone(),
            action: named::<ActionName>(&syscall.action)?,
            errno_ret: syscall.errno_ret,
            args: args.collect::<Result<_, serde_json::Error>>()?,
        })
    });
    Ok(LinuxSeccomp {
        default_action: named(&policy.default_action)?,
        default_errno_ret: policy.default_errno,
        architectures: policy.architectures.clone(),
        // the wire does not tell an empty list from none, which means other flags; a runtime that filled it in has some
        flags: (!policy.flags.is_empty()).then(|| policy.flags.clone()),
        listener_path: policy.listener_path.clone(),
        listener_metadata: policy.listener_metadata.clone(),
        syscalls: syscalls.collect::<Result<_, serde_json::Error>>()?,
    })
}

/// The OCI's word for it.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        // these enums are words alone; a runtime refuses an empty one
        _ => String::new(),
    }
}

fn named<T: DeserializeOwned>(word: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(Value::String(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "listenerPath": "/run/agent.sock", "listenerMetadata": "x",
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 4294967295, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["socket"], "action": "SCMP_ACT_LOG",
             "args": [{"index": 0, "value": 18446744073709551615, "op": "SCMP_CMP_NE"}]}
        ]}"#;

    #[test]
    fn a_profile_goes_there_and_back_without_a_loss() {
        let profile: LinuxSeccomp = serde_json::from_str(PROFILE).unwrap();
        let policy = to_nri(&profile);
        assert_eq!(policy.default_action, "SCMP_ACT_ERRNO");
        assert_eq!(policy.syscalls[2].args[0].op, "SCMP_CMP_MASKED_EQ");
        assert_eq!(from_nri(&policy).unwrap(), profile);
    }

    #[test]
    fn an_unknown_word_is_an_error_that_names_it() {
        let mut policy = to_nri(&serde_json::from_str(PROFILE).unwrap());
        policy.syscalls[0].action = "SCMP_ACT_MAYBE".into();
        assert!(from_nri(&policy).unwrap_err().to_string().contains("SCMP_ACT_MAYBE"));
        policy.syscalls.clear();
        policy.default_action.clear();
        assert!(from_nri(&policy).is_err());
    }
}
