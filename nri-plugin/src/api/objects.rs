//! The objects of the API and what of them is in force: changes in, policies out. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use enforcer_core::policy::{Namespace, ParsedFile, Policy, PolicyError, SeccompPolicy, parse};
use enforcer_core::ruleset::Class;
use serde_json::json;

use super::object::{self, Key, Object, Resource, Says};

/// The most objects that are taken. More policies than anybody has, and far less than would fill the memory.
pub const MAX_OBJECTS: usize = 20_000;
/// The most bytes of text that the objects may have together.
pub const MAX_BYTES: usize = 32 << 20;
/// The most errors that are told of one object.
const MAX_ERRORS: usize = 10;
/// What to do where there is no room.
const REMOVE: &str = "remove policies that nobody needs";

/// What the API server told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// All the objects there are of a resource.
    All(Resource, Vec<Object>),
    /// An object that came, or is another version.
    Set(Object),
    /// An object is gone.
    Gone(Key),
    /// There is no such kind, and nothing of it was known.
    Missing(Resource),
}

/// Every object, and what is in force of it.
#[derive(Debug)]
pub struct Objects {
    entries: BTreeMap<Key, Entry>,
    bytes: usize,                     // of every text
    left_out: BTreeMap<Key, LeftOut>, // for want of room
    unnamed: BTreeSet<Resource>,      // of which there are more of those than are kept in mind
    freed: bool,                      // there may be room for some of them
    told: bool,                       // an entry's `about` is another one
    read: BTreeSet<Resource>,         // of which a whole list is known
    most: (usize, usize),             // objects, bytes
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            bytes: 0,
            left_out: BTreeMap::new(),
            unnamed: BTreeSet::new(),
            freed: false,
            told: false,
            read: BTreeSet::new(),
            most: (MAX_OBJECTS, MAX_BYTES),
        }
    }
}

/// An object for which there is no room.
#[derive(Debug)]
struct LeftOut {
    bytes: usize, // that it wants
    uid: String,
    generation: i64,
}

/// An object that says something.
#[derive(Debug)]
struct Entry {
    about: Arc<About>,
    text: Result<String, String>, // as the API has it, or why it cannot be read
    good: Option<String>,         // a text that yields what is older than `text` in `yields`
    yields: Option<Yields>,       // in force
    errors: Vec<PolicyError>,     // of `text`, at most `MAX_ERRORS` and one
}

/// What can be told of an object that says something, beside what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// What identifies it.
    pub key: Key,
    /// Tells it from an earlier object of the same name.
    pub uid: String,
    /// See [`Object::generation`].
    pub generation: i64,
    /// Why it is not in force as it is: its first mistake, with what to do. `None`: it has none.
    pub refused: Option<String>,
    /// The policy in force, be it of an older version; `None`: nothing of it is.
    pub policy: Option<Arc<Policy>>,
    /// The same of a seccomp policy.
    pub seccomp: Option<Arc<SeccompPolicy>>,
}

#[derive(Debug, Clone)]
enum Yields {
    Policy(Arc<Policy>),
    Seccomp(Arc<SeccompPolicy>),
    Namespace(Namespace),
}

impl Entry {
    fn bytes(&self) -> usize {
        let text = self.text.as_ref().map_or_else(String::len, String::len);
        text + self.good.as_ref().map_or(0, String::len)
    }
}

/// What is in force of the API's objects at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The policies, by kind, namespace and name.
    pub policies: Vec<Arc<Policy>>,
    /// The seccomp policies likewise.
    pub seccomp: Vec<Arc<SeccompPolicy>>,
    /// The namespaces that set postures, by name.
    pub namespaces: Vec<Namespace>,
    /// What is wrong, by object. The file is the object's kind, namespace and name; lines mean nothing.
    pub errors: Vec<PolicyError>,
    /// The objects that count in an older version than the API's.
    pub kept: Vec<String>,
}

impl Objects {
    /// Takes a change; whether anything differs now.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::All(resource, objects) => {
                let present: BTreeSet<Key> = objects.iter().map(|object| object.key.clone()).collect();
                let gone = |key: &&Key| key.resource == resource && !present.contains(key);
                let gone: Vec<Key> = self.entries.keys().filter(gone).cloned().collect();
                self.read.insert(resource);
                let before = self.left_out.len();
                self.left_out.retain(|key, _| key.resource != resource);
                let gave_up = before != self.left_out.len();
                self.told |= gave_up;
                let mut changed = self.unnamed.remove(&resource) | gave_up;
                for key in gone {
                    changed |= self.remove(&key);
                }
                for object in objects {
                    changed |= self.set(object);
                }
                changed
            }
            Change::Set(object) => self.set(object),
            Change::Gone(key) => self.remove(&key) | self.leave_in(&key),
            Change::Missing(resource) => {
                self.read.insert(resource);
                false
            }
        }
    }

    /// How many objects of a resource say something.
    #[must_use]
    pub fn count(&self, resource: Resource) -> usize {
        self.entries.keys().filter(|key| key.resource == resource).count()
    }

    /// The resources of which the server has told everything, be it at an earlier start.
    #[must_use]
    pub const fn read(&self) -> &BTreeSet<Resource> {
        &self.read
    }

    /// Takes from an earlier start of which resources everything was known.
    pub fn restore_read(&mut self, read: BTreeSet<Resource>) {
        self.read = read;
    }

    /// The resources of which something was left out for which there is room by now. They are to be listed again. Each
    /// time that room comes back they are told once.
    pub fn wanted(&mut self) -> BTreeSet<Resource> {
        if !std::mem::take(&mut self.freed) {
            return BTreeSet::new();
        }
        let (most_objects, most_bytes) = self.most;
        let fits = |(key, one): &(&Key, &LeftOut)| {
            (self.entries.contains_key(key) || self.entries.len() < most_objects)
                && self.bytes.saturating_add(one.bytes) <= most_bytes
        };
        let wanted = self.left_out.iter().filter(fits).map(|(key, _)| key.resource);
        wanted.chain(self.unnamed.iter().copied()).collect()
    }

    /// What to keep for the next start: for each object the last good version, if there is one, and then the last one.
    pub fn saved(&self) -> Vec<Object> {
        let versions = |(key, entry): (&Key, &Entry)| {
            let object = |text: &String| Object {
                key: key.clone(),
                uid: entry.about.uid.clone(),
                generation: entry.about.generation,
                says: Says::Text(text.clone()),
            };
            entry.good.iter().chain(&entry.text).map(object).collect::<Vec<_>>()
        };
        self.entries.iter().flat_map(versions).collect()
    }

    /// What can be told of each policy, by kind, namespace and name; also of those that are left out, but for those of which
    /// the names are not kept either.
    #[must_use]
    pub fn abouts(&self) -> Vec<Arc<About>> {
        let mut abouts: BTreeMap<&Key, Arc<About>> =
            self.entries.iter().map(|(key, entry)| (key, Arc::clone(&entry.about))).collect();
        for (key, LeftOut { uid, generation, .. }) in &self.left_out {
            // what is in force of it is an older version
            let old = self.entries.get(key).filter(|entry| entry.about.uid == *uid);
            let about = About {
                key: key.clone(),
                uid: uid.clone(),
                generation: *generation,
                refused: Some(format!("is left out: {}; {REMOVE}", self.why_left_out())),
                policy: old.and_then(|entry| entry.about.policy.clone()),
                seccomp: old.and_then(|entry| entry.about.seccomp.clone()),
            };
            abouts.insert(key, Arc::new(about));
        }
        abouts.into_values().filter(|about| about.key.resource != Resource::Namespaces).collect()
    }

    fn why_left_out(&self) -> String {
        let (most_objects, most_bytes) = self.most;
        format!("there are more than {most_objects} objects or {most_bytes} bytes")
    }

    /// Whether [`abouts`](Self::abouts) has something else to tell than the last time that this was asked.
    pub const fn told(&mut self) -> bool {
        std::mem::replace(&mut self.told, false)
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.entries.remove(key) else { return false };
        self.told = true;
        self.bytes = self.bytes.saturating_sub(entry.bytes());
        self.freed = true;
        true
    }

    fn leave_in(&mut self, key: &Key) -> bool {
        let was_out = self.left_out.remove(key).is_some();
        self.told |= was_out;
        was_out
    }

    fn leave_out(&mut self, key: Key, one: LeftOut) -> bool {
        if self.left_out.len() >= self.most.0 && !self.left_out.contains_key(&key) {
            return self.unnamed.insert(key.resource);
        }
        self.told = true;
        self.left_out.insert(key, one).is_none()
    }

    fn set(&mut self, object: Object) -> bool {
        let Object { key, uid, generation, says } = object;
        // an object that was deleted and made again takes nothing over from the one before
        let mut changed = false;
        if self.entries.get(&key).is_some_and(|before| before.about.uid != uid) {
            changed = self.remove(&key);
        }
        let text = match says {
            Says::Nothing => return self.remove(&key) | self.leave_in(&key) | changed,
            Says::NoRoom(bytes) => return self.leave_out(key, LeftOut { bytes, uid, generation }) | changed,
            Says::Text(text) => Ok(text),
            Says::Wrong(why) => Err(why),
        };
        let before = self.entries.get_mut(&key);
        if let Some(before) = before.filter(|before| before.text == text) {
            // the server may count on where nothing changed that counts here
            if before.about.generation != generation {
                before.about = Arc::new(About { generation, ..About::clone(&before.about) });
                self.told = true;
            }
            return self.leave_in(&key) | changed;
        }
        let (most_objects, most_bytes) = self.most;
        let room = self.entries.contains_key(&key) || self.entries.len() < most_objects;
        let bytes = text.as_ref().map_or_else(String::len, String::len);
        if !room || self.bytes.saturating_add(bytes) > most_bytes {
            return self.leave_out(key, LeftOut { bytes, uid, generation }) | changed;
        }
        let before = self.entries.remove(&key);
        let old = before.as_ref().map_or(0, Entry::bytes);
        let entry = entry(&key, (uid, generation), text, before);
        self.told = true;
        self.freed |= entry.bytes() < old;
        self.bytes = self.bytes.saturating_sub(old).saturating_add(entry.bytes());
        self.leave_in(&key);
        self.entries.insert(key, entry);
        true
    }

    /// What is in force now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (key, entry) in &self.entries {
            match &entry.yields {
                Some(Yields::Policy(policy)) => snapshot.policies.push(Arc::clone(policy)),
                Some(Yields::Seccomp(policy)) => snapshot.seccomp.push(Arc::clone(policy)),
                Some(Yields::Namespace(namespace)) => snapshot.namespaces.push(namespace.clone()),
                None => {}
            }
            if entry.good.is_some() {
                snapshot.kept.push(key.to_string());
            }
            snapshot.errors.extend(entry.errors.iter().cloned());
        }
        let why = self.why_left_out();
        let left_out =
            |file: String, message| PolicyError { help: Some(REMOVE.to_owned()), ..error(file, message) };
        let each = self.left_out.keys().map(|key| left_out(key.to_string(), format!("is left out: {why}")));
        let more = self
            .unnamed
            .iter()
            .map(|resource| left_out(resource.to_string(), format!("more are left out: {why}")));
        snapshot.errors.extend(each.chain(more));
        snapshot
    }
}

/// An error of a whole object.
const fn error(file: String, message: String) -> PolicyError {
    PolicyError { file, line: 0, column: 0, field: String::new(), message, help: None }
}

/// The object with this text, which an older version may help out.
fn entry(
    key: &Key,
    (uid, generation): (String, i64),
    text: Result<String, String>,
    before: Option<Entry>,
) -> Entry {
    let ParsedFile { policies, seccomp, namespaces, mut errors } = match &text {
        Ok(text) => parse(&key.to_string(), text),
        Err(why) => ParsedFile { errors: vec![error(key.to_string(), why.clone())], ..ParsedFile::default() },
    };
    let more = errors.len().saturating_sub(MAX_ERRORS);
    if more > 0 {
        errors.truncate(MAX_ERRORS);
        errors.push(error(key.to_string(), format!("and {more} more errors")));
    }
    let policies = policies.into_iter().map(|policy| Yields::Policy(Arc::new(policy)));
    let seccomp = seccomp.into_iter().map(|policy| Yields::Seccomp(Arc::new(policy)));
    let namespaces = namespaces.into_iter().map(Yields::Namespace);
    let new = policies.chain(seccomp).chain(namespaces).next();
    if new.is_none() && errors.is_empty() {
        // no version of the parser answers so; if one did, the object must not be lost in silence
        errors.push(error(key.to_string(), "says nothing that can be enforced".to_owned()));
    }
    let old_text =
        before.as_ref().and_then(|before| before.good.as_ref().or(before.text.as_ref().ok()).cloned());
    let (yields, good) = match (new, before.and_then(|before| before.yields)) {
        (Some(Yields::Namespace(mut new)), Some(Yields::Namespace(old))) => {
            let good = new.keep(&old).then(|| document(&new));
            (Some(Yields::Namespace(new)), good)
        }
        (Some(new), _) => (Some(new), None),
        (None, Some(old)) => (Some(old), old_text),
        (None, None) => (None, None),
    };
    let (policy, seccomp) = match &yields {
        Some(Yields::Policy(policy)) => (Some(Arc::clone(policy)), None),
        Some(Yields::Seccomp(policy)) => (None, Some(Arc::clone(policy))),
        Some(Yields::Namespace(_)) | None => (None, None),
    };
    let about = About { key: key.clone(), uid, generation, refused: refused(&errors), policy, seccomp };
    Entry { about: Arc::new(about), text, good, yields, errors }
}

/// The first mistake for people, and how many more there are. Lines mean nothing: the text is not as it was written.
fn refused(errors: &[PolicyError]) -> Option<String> {
    let PolicyError { field, message, help, .. } = errors.first()?;
    let colon = if field.is_empty() { "" } else { ": " };
    let help = help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    let more = match errors.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some(format!("{field}{colon}{message}{help}{more}"))
}

/// A namespace that sets these postures and this visibility: they may come from several versions.
fn document(namespace: &Namespace) -> String {
    let annotations = namespace.postures().iter().map(|(class, action)| {
        let class = match class {
            Class::Capability => "capabilities".to_owned(),
            class => class.to_string(),
        };
        (format!("kubearmor-{class}-posture"), action.to_string())
    });
    let visibility = namespace.visibility().map(|seen| ("kubearmor-visibility".to_owned(), seen.to_string()));
    let annotations: BTreeMap<String, String> = annotations.chain(visibility).collect();
    let metadata = json!({"name": namespace.name(), "annotations": annotations});
    object::document(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
}

#[cfg(test)]
mod tests;
