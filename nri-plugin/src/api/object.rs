//! An object of the API, brought down to what policies are made of.

use std::collections::BTreeMap;
use std::fmt;

use enforcer_core::policy::{Kind, crd_plural};
use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// The longest text of one object, in bytes; API servers store 1.5 MB.
pub const MAX_TEXT: usize = 4 << 20;
/// The most bytes of a namespace's annotations that count, with their names. There are eight, and each is a word or a list of
/// a few: who may annotate a namespace must not take the room of all others' postures.
const MAX_ANNOTATIONS: usize = 4096;

/// What is watched: each kind of policy, namespaces for their postures and visibility, and where host policies are enforced
/// the node for its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Policies of a kind.
    Policies(Kind),
    /// Namespaces.
    Namespaces,
    /// The node that the daemon is on.
    Node,
}

impl Resource {
    /// What policies and postures are made of, which is always watched.
    pub const ALL: [Self; 5] = [
        Self::Policies(Kind::KubeArmorPolicy),
        Self::Policies(Kind::KubeArmorClusterPolicy),
        Self::Policies(Kind::KubeArmorHostPolicy),
        Self::Policies(Kind::KubeArmorSeccompPolicy),
        Self::Namespaces,
    ];

    /// Whether its objects say what holds for containers.
    #[must_use]
    pub const fn is_of_containers(self) -> bool {
        !matches!(self, Self::Policies(Kind::KubeArmorHostPolicy) | Self::Node)
    }

    /// The objects' `kind`.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Policies(kind) => kind.as_str(),
            Self::Namespaces => "Namespace",
            Self::Node => "Node",
        }
    }

    /// The resource whose objects have this `kind`.
    #[must_use]
    pub fn by_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().chain([Self::Node]).find(|one| one.kind() == kind)
    }

    /// The objects' `apiVersion`.
    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::Policies(_) => "security.kubearmor.com/v1",
            Self::Namespaces | Self::Node => "v1",
        }
    }

    /// The path of the objects of every namespace.
    pub(super) fn path(self) -> String {
        match self {
            Self::Policies(kind) => format!("/apis/{}/{}", self.api_version(), crd_plural(kind)),
            Self::Namespaces => format!("/api/{}/namespaces", self.api_version()),
            Self::Node => format!("/api/{}/nodes", self.api_version()),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// What identifies an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Which version of its spec the server calls it, from 1; 0: not told.
    pub generation: i64,
    /// When the server made it, as it writes times: earlier is less. Empty: not told.
    pub created: String,
    /// What it says.
    pub says: Says,
}

/// What an object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// Nothing to us: a namespace without postures and visibility.
    Nothing,
    /// The document that the parser of files reads.
    Text(String),
    /// Nothing that can be read, and why.
    Wrong(String),
    /// So many bytes of text, for which there was no room.
    NoRoom(usize),
}

/// An object as the API server gives it: its fields, of which none has been looked into. What is in one, however deep,
/// is no hindrance to reading the others.
#[derive(Debug)]
pub struct Item<'a> {
    fields: Fields<'a>,
    metadata: Fields<'a>,
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

impl<'a> Item<'a> {
    /// Takes an object. What is none has no fields.
    #[must_use]
    pub fn new(text: &'a RawValue) -> Self {
        let mut fields = within(text);
        let metadata = fields.remove("metadata").map(within).unwrap_or_default();
        Self { fields, metadata }
    }

    fn text(&self, name: &str) -> String {
        self.metadata.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    /// The version that it has, or that a bookmark tells; `None`: there is none.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        Some(self.text("resourceVersion")).filter(|version| !version.is_empty())
    }

    /// The code of a status; `None`: it is none.
    pub(super) fn code(&self) -> Option<u16> {
        self.fields.get("code").and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// What identifies it; `None`: it has no name.
    #[must_use]
    pub fn key(&self, resource: Resource) -> Option<Key> {
        let (namespace, name) = (self.text("namespace"), self.text("name"));
        (!name.is_empty()).then_some(Key { resource, namespace, name })
    }

    /// The object. `status` and all of `metadata` but names are left out, since they say nothing about what is enforced,
    /// and a field that a later API server adds must not make every policy a wrong one. Kind and version are those of
    /// the resource, which the items of some lists lack. `None`: it has no name.
    #[must_use]
    pub fn object(&self, resource: Resource) -> Option<Object> {
        let key = self.key(resource)?;
        let says = self.says(&key).unwrap_or_else(Says::Wrong);
        let generation = self.metadata.get("generation").and_then(|raw| serde_json::from_str(raw.get()).ok());
        let (uid, created) = (self.text("uid"), self.text("creationTimestamp"));
        Some(Object { uid, generation: generation.unwrap_or_default(), created, key, says })
    }

    fn says(&self, key: &Key) -> Result<Says, String> {
        let resource = key.resource;
        let mut kept = Map::new();
        kept.insert("name".into(), json!(key.name));
        let mut fields = Map::new();
        match resource {
            Resource::Policies(_) => {
                if !key.namespace.is_empty() {
                    kept.insert("namespace".into(), json!(key.namespace));
                }
                let left = self.fields.iter().filter(|(name, _)| *name != "status");
                short(left.clone().map(|(_, raw)| raw.get().len()).sum())?;
                for (name, raw) in left {
                    fields.insert(name.clone(), decoded(raw)?);
                }
            }
            Resource::Namespaces => {
                let annotations = self.metadata.get("annotations").map_or(Ok(None), |raw| {
                    serde_json::from_str::<Option<Fields<'_>>>(raw.get())
                        .map_err(|error| format!("has annotations that cannot be read: {error}"))
                })?;
                let annotations = annotations.unwrap_or_default();
                let ours = |name: &str| {
                    name.starts_with("kubearmor-")
                        && (name.ends_with("-posture") || name.ends_with("-visibility"))
                };
                let annotations = annotations.into_iter().filter(|(name, _)| ours(name));
                let annotations =
                    annotations
                        .map(|(name, raw)| Ok((name, decoded(raw)?)))
                        .collect::<Result<Map<String, Value>, String>>()?;
                if annotations.is_empty() {
                    return Ok(Says::Nothing);
                }
                let bytes =
                    annotations.iter().map(|(name, value)| name.len() + document(value).len()).sum::<usize>();
                if bytes > MAX_ANNOTATIONS {
                    return Err(format!(
                        "has annotations of {bytes} bytes about postures and visibility, more than {MAX_ANNOTATIONS}"
                    ));
                }
                kept.insert("annotations".into(), Value::Object(annotations));
            }
            Resource::Node => {
                let labels = self.metadata.get("labels").map_or(Ok(json!({})), |raw| decoded(raw))?;
                kept.insert("labels".into(), labels);
            }
        }
        fields.insert("apiVersion".into(), json!(resource.api_version()));
        fields.insert("kind".into(), json!(resource.kind()));
        fields.insert("metadata".into(), Value::Object(kept));
        let text = document(&Value::Object(fields));
        short(text.len())?;
        Ok(Says::Text(text))
    }
}

/// The fields of an object; none where it is no object.
fn within(text: &RawValue) -> Fields<'_> {
    serde_json::from_str(text.get()).unwrap_or_default()
}

fn decoded(text: &RawValue) -> Result<Value, String> {
    serde_json::from_str(text.get()).map_err(|error| format!("cannot be read: {error}"))
}

fn short(bytes: usize) -> Result<(), String> {
    match bytes <= MAX_TEXT {
        true => Ok(()),
        false => Err(format!("has {bytes} bytes, more than {MAX_TEXT}")),
    }
}

/// A document as it is kept: each key on a line of its own, as YAML does not take arbitrarily long lines before a `:`, and
/// no indentation, which would make of a deep object many times what its author wrote.
pub(super) fn document(value: &Value) -> String {
    let mut text = Vec::new();
    let lines = PrettyFormatter::with_indent(b"");
    // neither can fail: the keys are strings, and what is written is UTF-8
    let _written = value.serialize(&mut Serializer::with_formatter(&mut text, lines));
    String::from_utf8(text).unwrap_or_default()
}
