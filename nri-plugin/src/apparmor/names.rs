//! The names of profiles: who may name which.
//!
//! A name belongs to a namespace, so that no pod of another one can have a say in what is in the profile.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_core::compile::apparmor::{NAME_PREFIX, ProfileName};
use enforcer_core::enforce::ContainerId;
use enforcer_core::enforce::apparmor::AppArmorError;

/// Annotations of a pod that name the profile of a container, whose name follows: Kubernetes' own from before the field
/// `appArmorProfile`, which it still reads, and ours.
const ANNOTATIONS: [&str; 2] =
    ["container.apparmor.security.beta.kubernetes.io/", "apparmor.nri-enforcer.io/"];
/// The most profiles that one pod may name: each is compiled, and no pod has so many containers.
pub const MOST: usize = 32;
/// How many characters of a pod's name are in the name of a profile: with the longest names of the others it has 200 bytes
/// at most.
const MOST_OF_POD: usize = 58;
/// What the value begins with, for a profile of the node.
const LOCALHOST: &str = "localhost/";
/// What stands in the place of a namespace for podman's containers. No namespace of Kubernetes has a `_`.
const PODMAN: &str = "podman_";

/// What the names of profiles of a namespace begin with.
#[must_use]
pub fn prefix(namespace: &str) -> String {
    format!("{NAME_PREFIX}{namespace}.")
}

/// Whether pods of the namespace may have the profile.
#[must_use]
pub fn belongs(name: &ProfileName, namespace: &str) -> bool {
    // the name of a namespace has no dot
    !namespace.is_empty()
        && name.as_str().strip_prefix(&prefix(namespace)).is_some_and(|rest| !rest.is_empty())
}

/// Whether the profile is of some namespace, or of a container of podman's: only such are this daemon's to make and remove.
#[must_use]
pub fn is_of_namespace(name: &ProfileName) -> bool {
    let rest = name.as_str().strip_prefix(NAME_PREFIX).unwrap_or_default();
    rest.split_once('.').is_some_and(|(namespace, _)| belongs(name, namespace))
}

/// The profile of a container of podman's.
///
/// # Errors
/// When its id makes no name.
pub fn of_podman(id: &ContainerId) -> Result<ProfileName, AppArmorError> {
    let name = format!("{}{id}", prefix(PODMAN));
    name.parse().map_err(|error| AppArmorError::Io {
        what: "name its AppArmor profile".into(),
        source: std::io::Error::other(error),
    })
}

/// The profile that a container is to have: the one that its pod names for it, else one that it may name, by pod and
/// container. Where replicas share one, or an admission policy names it, that is told by the pod.
#[must_use]
pub fn wanted(
    namespace: &str,
    pod: &str,
    container: &str,
    annotations: &BTreeMap<String, String>,
) -> Option<ProfileName> {
    let own = || {
        let pod: String = pod.chars().take(MOST_OF_POD).collect();
        format!("{}{}.{container}", prefix(namespace), pod.trim_end_matches('-')).parse().ok()
    };
    asked(namespace, annotations).remove(container).or_else(own).filter(|name| belongs(name, namespace))
}

/// The profiles of ours that a pod names, by container; not more than [`MOST`]. One that its namespace may not name, and
/// those that are too many, are told and left out: containers that have them are not created.
#[must_use]
pub fn asked(namespace: &str, annotations: &BTreeMap<String, String>) -> BTreeMap<String, ProfileName> {
    let mut found = BTreeMap::new();
    let (mut names, mut left_out) = (BTreeSet::new(), 0_usize);
    for key in ANNOTATIONS {
        let named = annotations.iter().filter_map(|(name, value)| Some((name.strip_prefix(key)?, value)));
        for (container, value) in named {
            let name = value.strip_prefix(LOCALHOST).unwrap_or(value);
            if !name.starts_with(NAME_PREFIX) {
                continue;
            }
            match name.parse::<ProfileName>() {
                Ok(name) if belongs(&name, namespace) && names.len() >= MOST && !names.contains(&name) => {
                    left_out += 1;
                }
                Ok(name) if belongs(&name, namespace) => {
                    names.insert(name.clone());
                    found.insert(container.to_owned(), name);
                }
                Ok(name) => {
                    let advice = format!("name one that begins with `{}`", prefix(namespace));
                    tracing::error!(namespace, container, profile = %name, advice, "a pod names the AppArmor profile of another namespace");
                }
                Err(error) => {
                    tracing::error!(namespace, container, %error, "a pod names an AppArmor profile")
                }
            }
        }
    }
    if left_out > 0 {
        tracing::error!(
            namespace,
            left_out,
            "a pod names more than {MOST} AppArmor profiles: the others are not loaded"
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(annotations: &[(&str, &str)]) -> Vec<(String, String)> {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let asked = asked("shop", &annotations.collect());
        asked.into_iter().map(|(container, name)| (container, name.to_string())).collect()
    }

    #[test]
    fn a_pod_names_profiles_of_its_own_namespace_alone() {
        let key = "container.apparmor.security.beta.kubernetes.io/web";
        let found = [("web".to_owned(), "nri-enforcer.shop.web".to_owned())];
        assert_eq!(names(&[(key, "localhost/nri-enforcer.shop.web")]), found);
        assert_eq!(names(&[("apparmor.nri-enforcer.io/web", "nri-enforcer.shop.web")]), found);
        for other in [
            "localhost/nri-enforcer.bank.web",
            "localhost/nri-enforcer.shop.",
            "localhost/nri-enforcer.shop",
            "localhost/nri-enforcer.shopper.web",
            "localhost/nri-enforcer.podman_.1",
            "localhost/nri-enforcer.shop.a//b",
            "localhost/nri-enforcer.shop.a b",
            "localhost/docker-default",
            "runtime/default",
            "unconfined",
        ] {
            assert_eq!(names(&[(key, other)]), [], "{other}");
        }
    }

    /// Each is compiled.
    #[test]
    fn a_pod_names_so_many_and_no_more() {
        let named = |one: &dyn Fn(usize) -> String| {
            let key = |n: usize| (format!("apparmor.nri-enforcer.io/c{n}"), one(n));
            asked("shop", &(0..1000).map(key).collect())
        };
        let found: BTreeSet<_> = named(&|n| format!("nri-enforcer.shop.p{n}")).into_values().collect();
        assert_eq!(found.len(), 32);
        assert_eq!(named(&|_| "nri-enforcer.shop.web".to_owned()).len(), 1000, "one name is one profile");
    }

    #[test]
    fn a_container_is_to_have_what_its_pod_names_or_a_name_of_its_own() {
        let named = |annotations: &[(&str, &str)], pod: &str, container: &str| {
            let all = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            wanted("shop", pod, container, &all.collect()).map(|name| name.to_string())
        };
        let web = ("apparmor.nri-enforcer.io/web", "nri-enforcer.shop.ours");
        assert_eq!(named(&[web], "web-1", "web").unwrap(), "nri-enforcer.shop.ours");
        assert_eq!(named(&[web], "web-1", "log").unwrap(), "nri-enforcer.shop.web-1.log");
        let strange = ("apparmor.nri-enforcer.io/web", "nri-enforcer.bank.theirs");
        assert_eq!(named(&[strange], "web-1", "web").unwrap(), "nri-enforcer.shop.web-1.web");
        let long = "n".repeat(63);
        let name = wanted(&long, &"p".repeat(253), &long, &BTreeMap::new()).unwrap().to_string();
        assert_eq!((name.len(), name.matches('p').count()), (199, 58));
        assert_eq!(named(&[], "a b", "web"), None, "no name of a pod");
        assert_eq!(wanted("", "web-1", "web", &BTreeMap::new()), None);
    }

    #[test]
    fn no_namespace_of_kubernetes_names_podmans() {
        let name = of_podman(&ContainerId::new("0f").unwrap()).unwrap();
        assert_eq!(name.as_str(), "nri-enforcer.podman_.0f");
        assert!(!belongs(&name, "podman") && !belongs(&name, "default") && !belongs(&name, ""));
        assert!(of_podman(&ContainerId::new("../x y").unwrap()).is_err());
    }
}
