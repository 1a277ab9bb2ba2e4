//! What a policy is called.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of policy document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Namespaced; selects pods by label.
    KubeArmorPolicy,
    /// Cluster-wide; selects by namespace and label.
    KubeArmorClusterPolicy,
    /// Cluster-wide; selects nodes and speaks about the host's own processes.
    KubeArmorHostPolicy,
    /// Namespaced; selects pods by label and speaks about their system calls, by seccomp.
    KubeArmorSeccompPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::KubeArmorPolicy,
        Self::KubeArmorClusterPolicy,
        Self::KubeArmorHostPolicy,
        Self::KubeArmorSeccompPolicy,
    ];

    /// The name in a document's `kind` field.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KubeArmorPolicy => "KubeArmorPolicy",
            Self::KubeArmorClusterPolicy => "KubeArmorClusterPolicy",
            Self::KubeArmorHostPolicy => "KubeArmorHostPolicy",
            Self::KubeArmorSeccompPolicy => "KubeArmorSeccompPolicy",
        }
    }

    /// Whether policies of this kind live in a namespace.
    #[must_use]
    pub const fn namespaced(self) -> bool {
        matches!(self, Self::KubeArmorPolicy | Self::KubeArmorSeccompPolicy)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The identity of a policy: two policies with equal ids are versions of one another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyId {
    /// The kind of document.
    pub kind: Kind,
    /// The namespace; empty for the cluster-wide kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// `namespace/name`, or `name` alone for the cluster-wide kinds.
impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}
