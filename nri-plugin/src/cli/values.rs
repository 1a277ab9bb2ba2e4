//! What flags of several commands take.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use enforcer_core::capability::Capability;
use enforcer_core::policy::{Kind, PolicyId};
use enforcer_core::ruleset::{Class, Effect, PostureAction, Postures};

/// How a command answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// A verdict as `--expect` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExpectedVerdict {
    /// The access passes.
    Allow,
    /// The access passes and is reported.
    Audit,
    /// The access is denied.
    Block,
}

/// `CLASS=ACTION` of `--posture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posture {
    /// Left of the `=`.
    pub class: Class,
    /// Right of the `=`, in any case.
    pub action: PostureAction,
}

impl Posture {
    /// Reads both halves.
    ///
    /// # Errors
    /// When one of them is no such thing; the text names what there is.
    pub fn new(class: &str, action: &str) -> Result<Self, String> {
        let class = class.parse::<Class>().map_err(|error| error.to_string())?;
        if !class.can(Effect::Allow) {
            return Err(format!(
                "{class} rules allow nothing, so no posture decides there; there are `process`, `file`, `network`, \
                 `capabilities`"
            ));
        }
        let action =
            action.to_ascii_lowercase().parse::<PostureAction>().map_err(|error| error.to_string())?;
        Ok(Self { class, action })
    }
}

impl FromStr for Posture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (class, action) = text.split_once('=').ok_or("expected CLASS=ACTION, for example file=block")?;
        Self::new(class, action)
    }
}

/// The postures that the flags describe; the last flag of a class wins.
#[must_use]
pub fn postures(flags: &[Posture]) -> Postures {
    flags.iter().fold(Postures::default(), |postures, flag| postures.with(flag.class, flag.action))
}

/// `--base`: the seccomp profile that a container has before any policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseChoice {
    /// The one that a runtime gives where nothing else is asked.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// This one.
    File(PathBuf),
}

impl FromStr for BaseChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "runtime-default" => Self::RuntimeDefault,
            "unconfined" => Self::Unconfined,
            path => Self::File(path.into()),
        })
    }
}

/// `--libseccomp`: a version of three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LibseccompVersion(pub (u32, u32, u32));

impl Default for LibseccompVersion {
    /// That of Debian 12.
    fn default() -> Self {
        Self((2, 5, 4))
    }
}

impl FromStr for LibseccompVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Vec<u32> = text.split('.').map_while(|number| number.parse().ok()).collect();
        match *numbers {
            [major, minor, patch] if text.split('.').count() == 3 => Ok(Self((major, minor, patch))),
            _ => Err("expected three numbers, for example 2.5.4".into()),
        }
    }
}

/// `--cap`: a name, as `man 7 capabilities` has it.
pub(super) fn capability(text: &str) -> Result<Capability, String> {
    Capability::by_name(text)
        .ok_or_else(|| format!("`{text}` is no capability; names are those of `man 7 capabilities`"))
}

/// `KEY=VALUE` of `--label`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Left of the first `=`.
    pub key: String,
    /// Right of it; may be empty.
    pub value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.into(), value: value.into() }),
            _ => Err("expected KEY=VALUE, for example app=web".into()),
        }
    }
}

/// A policy as `--remove` names it: its kind, as `kubectl get` takes it, its namespace where the kind has one, and its name.
///
/// # Errors
/// Those of the text, for people.
pub fn policy_id(text: &str) -> Result<PolicyId, String> {
    let mut parts = text.split('/');
    let kind = parts.next().unwrap_or_default();
    let is = |one: &Kind| {
        let short = match one {
            Kind::KubeArmorPolicy => "ksp",
            Kind::KubeArmorClusterPolicy => "csp",
            Kind::KubeArmorHostPolicy => "hsp",
            Kind::KubeArmorSeccompPolicy => "kscmp",
        };
        kind == short || one.as_str().eq_ignore_ascii_case(kind)
    };
    let kind = Kind::ALL.into_iter().find(is).ok_or_else(|| {
        format!("`{kind}` is no kind of policy; kinds are ksp, csp, hsp and kscmp, or their full names")
    })?;
    let cluster_wide = matches!(kind, Kind::KubeArmorClusterPolicy | Kind::KubeArmorHostPolicy);
    match (cluster_wide, parts.next(), parts.next(), parts.next()) {
        (true, Some(name), None, None) if !name.is_empty() => {
            Ok(PolicyId { kind, namespace: String::new(), name: name.to_owned() })
        }
        (false, Some(namespace), Some(name), None) if !namespace.is_empty() && !name.is_empty() => {
            Ok(PolicyId { kind, namespace: namespace.to_owned(), name: name.to_owned() })
        }
        (true, ..) => Err(format!("a {kind} is named {kind}/NAME")),
        (false, ..) => Err(format!("a {kind} is named {kind}/NAMESPACE/NAME")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_named_as_kubectl_names_them() {
        let id = |text| policy_id(text).map(|id| (id.kind, id.to_string()));
        assert_eq!(id("ksp/default/web"), Ok((Kind::KubeArmorPolicy, "default/web".to_owned())));
        assert_eq!(id("kubearmorhostpolicy/ssh"), Ok((Kind::KubeArmorHostPolicy, "ssh".to_owned())));
        assert_eq!(id("KubeArmorSeccompPolicy/a/b"), Ok((Kind::KubeArmorSeccompPolicy, "a/b".to_owned())));
        for (text, wanted) in [
            ("", "`` is no kind"),
            ("web", "`web` is no kind"),
            ("ksp", "KubeArmorPolicy/NAMESPACE/NAME"),
            ("ksp/web", "KubeArmorPolicy/NAMESPACE/NAME"),
            ("ksp//web", "KubeArmorPolicy/NAMESPACE/NAME"),
            ("ksp/a/b/c", "KubeArmorPolicy/NAMESPACE/NAME"),
            ("csp/a/b", "KubeArmorClusterPolicy/NAME"),
            ("hsp/", "KubeArmorHostPolicy/NAME"),
        ] {
            let error = policy_id(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn the_last_posture_of_a_class_wins() {
        let flags: Vec<Posture> = ["file=block", "process=audit", "file=allow"]
            .iter()
            .map(|flag| flag.parse().expect("valid"))
            .collect();
        let postures = postures(&flags);
        assert_eq!(postures.file, PostureAction::Allow);
        assert_eq!(postures.process, Some(PostureAction::Audit));
        assert_eq!(postures.network, PostureAction::Audit);
    }

    #[test]
    fn a_bad_posture_or_label_says_what_is_possible() {
        assert!("files=block".parse::<Posture>().expect_err("no such class").contains("`network`"));
        assert!("syscall=block".parse::<Posture>().expect_err("no posture").contains("`network`"));
        assert!("file=deny".parse::<Posture>().expect_err("no such action").contains("`block`"));
        assert!("=x".parse::<Label>().is_err());
        assert_eq!("a=b=c".parse(), Ok(Label { key: "a".into(), value: "b=c".into() }));
    }
}
