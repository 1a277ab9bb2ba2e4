//! An object of the API, brought down to what policies are made of.

use std::fmt;

use enforcer_core::policy::{Kind, crd_plural};
use serde_json::{Map, Value, json};

/// What is watched: each kind of policy, and namespaces for their postures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Policies of a kind.
    Policies(Kind),
    /// Namespaces.
    Namespaces,
}

impl Resource {
    /// All that is watched.
    pub const ALL: [Self; 5] = [
        Self::Policies(Kind::KubeArmorPolicy),
        Self::Policies(Kind::KubeArmorClusterPolicy),
        Self::Policies(Kind::KubeArmorHostPolicy),
        Self::Policies(Kind::KubeArmorSeccompPolicy),
        Self::Namespaces,
    ];

    /// The objects' `kind`.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Policies(kind) => kind.as_str(),
            Self::Namespaces => "Namespace",
        }
    }

    /// The resource whose objects have this `kind`.
    #[must_use]
    pub fn by_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.kind() == kind)
    }

    /// The objects' `apiVersion`.
    const fn api_version(self) -> &'static str {
        match self {
            Self::Policies(_) => "security.kubearmor.com/v1",
            Self::Namespaces => "v1",
        }
    }

    /// The path of the objects of every namespace.
    pub(super) fn path(self) -> String {
        match self {
            Self::Policies(kind) => format!("/apis/{}/{}", self.api_version(), crd_plural(kind)),
            Self::Namespaces => format!("/api/{}/namespaces", self.api_version()),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// What identifies an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Of what sort it is.
    pub resource: Resource,
    /// Its namespace; empty for what lives in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// `KIND NAMESPACE/NAME`, or `KIND NAME` for what lives in no namespace.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, namespace, name } = self;
        if namespace.is_empty() {
            write!(f, "{resource} {name}")
        } else {
            write!(f, "{resource} {namespace}/{name}")
        }
    }
}

/// An object, without what the cluster keeps in it for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What identifies it.
    pub key: Key,
    /// Tells it from an earlier object of the same name; empty where the server gave none.
    pub uid: String,
    /// The document that the parser of files reads; `None`: it says nothing to us (a namespace without postures).
    pub text: Option<String>,
}

impl Object {
    /// Takes an object as the API server gives it. `status` and all of `metadata` but names are left out, since they say
    /// nothing about what is enforced, and a field that a later API server adds must not make every policy a wrong one.
    /// Kind and version are those of the resource, which the items of some lists lack. `None`: it has no name.
    #[must_use]
    pub fn new(resource: Resource, value: Value) -> Option<Self> {
        let Value::Object(mut fields) = value else { return None };
        let metadata = fields.remove("metadata").unwrap_or_default();
        let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
        if name.is_empty() {
            return None;
        }
        let mut kept = Map::new();
        kept.insert("name".into(), json!(name));
        let says = match resource {
            Resource::Policies(_) => {
                if !namespace.is_empty() {
                    kept.insert("namespace".into(), json!(namespace));
                }
                fields.remove("status");
                true
            }
            Resource::Namespaces => {
                let annotations: Map<String, Value> = metadata
                    .get("annotations")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .filter(|(key, _)| key.starts_with("kubearmor-") && key.ends_with("-posture"))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                let says = !annotations.is_empty();
                fields.clear();
                kept.insert("annotations".into(), Value::Object(annotations));
                says
            }
        };
        fields.insert("apiVersion".into(), json!(resource.api_version()));
        fields.insert("kind".into(), json!(resource.kind()));
        fields.insert("metadata".into(), Value::Object(kept));
        // indented, as YAML does not take arbitrarily long lines before a `:`
        let text = says.then(|| format!("{:#}", Value::Object(fields)));
        Some(Self { key: Key { resource, namespace, name }, uid, text })
    }
}
