//! What a pod belongs to, as its labels and its name tell. The API server knows better and is not asked; where labels and
//! name do not fit each other, nothing is said.

use std::collections::BTreeMap;

use enforcer_core::subject::Subject;
use serde::Serialize;

/// Names of pods are cut to this length, and then say less than they should.
const CUT: usize = 63;
/// The characters that make the names of pods of one owner different.
const SUFFIX: usize = 5;

/// The owner of a pod; all empty where it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Owner {
    /// `Deployment`, `StatefulSet`, `DaemonSet` or `Job`.
    #[serde(rename = "Ref")]
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

impl Owner {
    /// The owner of the pod of a container.
    #[must_use]
    pub fn of(subject: &Subject) -> Self {
        match find(&subject.pod, &subject.labels) {
            Some((kind, name)) => Self { kind, name: name.to_owned(), namespace: subject.namespace.clone() },
            None => Self::default(),
        }
    }
}

fn find<'a>(pod: &'a str, labels: &'a BTreeMap<String, String>) -> Option<(&'static str, &'a str)> {
    let label = |key: &str| labels.get(key).map(String::as_str).filter(|value| !value.is_empty());
    if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
        let fits = pod.strip_prefix(job).is_some_and(|rest| rest.starts_with('-'));
        return fits.then_some(("Job", job));
    }
    if pod.len() >= CUT {
        return None;
    }
    if let Some(named) = label("statefulset.kubernetes.io/pod-name") {
        let (name, ordinal) = pod.rsplit_once('-')?;
        let fits = named == pod && !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
        return fits.then_some(("StatefulSet", name));
    }
    let (base, suffix) = pod.rsplit_once('-')?;
    if suffix.len() != SUFFIX
        || !suffix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    {
        return None;
    }
    if let Some(hash) = label("pod-template-hash") {
        let name = base.strip_suffix(hash)?.strip_suffix('-')?;
        return Some(("Deployment", name));
    }
    label("controller-revision-hash").map(|_| ("DaemonSet", base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_where_labels_and_name_agree() {
        let long = format!("{}-abcde", "x".repeat(57));
        for (pod, labels, owner) in [
            ("web-6b7f-abcde", &[("pod-template-hash", "6b7f")][..], ("Deployment", "web")),
            ("a-b-c-6b7f-abcde", &[("pod-template-hash", "6b7f")], ("Deployment", "a-b-c")),
            ("web-6b7f-abcde", &[("pod-template-hash", "other")], ("", "")),
            ("web", &[("pod-template-hash", "6b7f")], ("", "")),
            ("db-11", &[("statefulset.kubernetes.io/pod-name", "db-11")], ("StatefulSet", "db")),
            ("db-x", &[("statefulset.kubernetes.io/pod-name", "db-x")], ("", "")),
            ("db-1", &[("statefulset.kubernetes.io/pod-name", "db-2")], ("", "")),
            ("agent-x1y2z", &[("controller-revision-hash", "77")], ("DaemonSet", "agent")),
            ("agent-X1Y2Z", &[("controller-revision-hash", "77")], ("", "")),
            (&long, &[("controller-revision-hash", "77")], ("", "")),
            ("pi-abcde", &[("job-name", "pi")], ("Job", "pi")),
            ("pi-abcde", &[("batch.kubernetes.io/job-name", "pi"), ("job-name", "e")], ("Job", "pi")),
            ("mine", &[("job-name", "pi")], ("", "")),
            ("web-1", &[("app", "web")], ("", "")),
            ("", &[("controller-revision-hash", "77")], ("", "")),
        ] {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let subject = Subject { namespace: "n".into(), pod: pod.into(), labels, ..Subject::default() };
            let found = Owner::of(&subject);
            assert_eq!((found.kind, found.name.as_str()), owner, "{pod}");
            assert_eq!(found.namespace.is_empty(), found.kind.is_empty());
        }
    }
}
