//! What the runtime tells of a container, as the policies know it.

use std::collections::BTreeMap;

use enforcer_core::subject::Subject;
use nri::PodSandbox;
use nri_enforcer_hook::state::OWN_ANNOTATIONS;

use crate::podman::{IMAGE_LABEL, TAG_LABEL};
use crate::seccomp::ledger::Created;

/// Annotations in which runtimes before NRI 0.12.2 tell the image's name (containerd, CRI-O).
const IMAGE_ANNOTATIONS: [&str; 2] = ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"];
/// The labels that are not the pod's own: kubelet's (pkg/kubelet/types/labels.go), whatever the pod says there, and containerd's.
/// Any other key is one that a pod may have and a policy may select by.
const BOOKKEEPING: [&str; 6] = [
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.uid",
    "io.kubernetes.container.name",
    "io.cri-containerd.kind",
    "io.cri-containerd.image",
];

/// The labels that the pod has in Kubernetes, without those that kubelet and the runtime keep their books with, and those
/// that tell an image's name where the daemon writes them.
fn own_labels(pod: &PodSandbox) -> BTreeMap<String, String> {
    let books = |key: &str| key == IMAGE_LABEL || key == TAG_LABEL || BOOKKEEPING.contains(&key);
    pod.labels
        .iter()
        .filter(|(key, _)| !books(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The first annotation of a pod that only this daemon writes, and only on containers.
pub(super) fn own(pod: &PodSandbox) -> Option<&String> {
    pod.annotations.keys().find(|key| key.starts_with(OWN_ANNOTATIONS))
}

/// What a container was created with, by its annotations. Nothing where its pod has such annotations, which the runtime may
/// have handed on: then they are anybody's word. Nor where the pod is not known.
pub(super) fn created(pod: Option<&PodSandbox>, container: &nri::Container) -> Created {
    match pod {
        Some(pod) if own(pod).is_none() => Created::of(&container.annotations),
        _ => Created::default(),
    }
}

/// What policies select a container by, and the name of its image.
pub(super) fn describe(pod: Option<&PodSandbox>, container: &nri::Container) -> (Subject, String) {
    let subject = match pod {
        Some(pod) => Subject {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            labels: own_labels(pod),
            container: container.name.clone(),
            ..Subject::default()
        },
        None => {
            // only a runtime that contradicts itself lists a container without its pod; kubelet's labels remain
            let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
            tracing::error!(
                container = container.id,
                "listed without its pod: policies that select by label do not reach it"
            );
            Subject {
                namespace: label("io.kubernetes.pod.namespace"),
                pod: label("io.kubernetes.pod.name"),
                labels: BTreeMap::new(),
                container: container.name.clone(),
                ..Subject::default()
            }
        }
    };
    let told = container.image.as_ref().map(|image| image.name.clone()).filter(|name| !name.is_empty());
    let annotated = || IMAGE_ANNOTATIONS.iter().find_map(|key| container.annotations.get(*key).cloned());
    let image = told.or_else(annotated).unwrap_or_default();
    (subject, image)
}
