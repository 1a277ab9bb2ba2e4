//! The names that Kubernetes and KubeArmor know.

/// The only version of the API there is.
pub(super) const API_VERSION: &str = "security.kubearmor.com/v1";

/// The label that narrows a selector to containers; it is no label of a pod.
pub(super) const CONTAINER_NAME: &str = "kubearmor.io/container.name";

/// The label that picks hosts by name: `*`, or names with commas.
pub(super) const HOST_NAMES: &str = "kubearmor.io/hostname";
/// The same by a regular expression.
pub(super) const HOST_PATTERN: &str = "kubearmor.io/hostnamereg";

/// Labels that controllers set anew with every rollout. Nothing selects by them.
pub(super) const IGNORED_LABELS: [&str; 3] =
    ["pod-template-hash", "pod-template-generation", "controller-revision-hash"];

/// One part of a DNS name: RFC 1123 in lower case, as namespaces and containers are named.
pub(super) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_part(text)
}

/// Parts with dots between them, as other objects are named.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_part)
}

fn is_dns_part(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// `name` or `prefix/name`.
pub(super) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && !name.is_empty() && is_label_value(name),
        None => !text.is_empty() && is_label_value(text),
    }
}

/// A label's value; it may be empty.
pub(super) fn is_label_value(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63 && text.chars().all(inner) && end(text.chars().next()) && end(text.chars().next_back())
}
