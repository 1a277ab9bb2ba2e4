//! The objects of the API and what of them is in force: changes in, policies out. No I/O. Which of them there is room for is
//! told by [`room`](super::room).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use enforcer_core::coverage::{Gap, GapReason};
use enforcer_core::policy::{Namespace, ParsedFile, Policy, PolicyError, PolicyId, SeccompPolicy, parse};
use enforcer_core::ruleset::Class;
use serde_json::json;

use super::listed::past;
use super::node::{self, NodeLabels};
use super::object::{self, Key, Object, Resource, Says};
use super::room::{Amount, Claim, Place, Room, Rooms};

/// The most errors that are told of one object.
const MAX_ERRORS: usize = 10;
/// What to do where there is no room.
const REMOVE: &str = "remove policies that nobody needs";

/// What the API server told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// All the objects there are of a resource; those that say nothing may be left out.
    All(Resource, Vec<Object>),
    /// An object that came, or is another version.
    Set(Object),
    /// An object is gone.
    Gone(Key),
    /// The list had so many more objects of a resource than were told: they are left out for want of room. 0: it is not
    /// known how many.
    More(Resource, usize),
    /// There is no such kind, and nothing of it was known.
    Missing(Resource),
}

/// Every object, and what is in force of it.
#[derive(Debug, Default)]
pub struct Objects {
    entries: BTreeMap<Key, Entry>,
    held: BTreeMap<Room, Amount>,       // the texts of entries
    replaced: BTreeMap<Key, Entry>,     // what an entry was before, until it is known whether it has room
    left_out: BTreeMap<Key, LeftOut>, // for want of room; what there is an entry of counts in an older version
    unnamed: BTreeMap<Resource, usize>, // of which there were more when they were listed than are kept in mind; 0: not known
    listed: BTreeSet<Resource>,         // by the changes that are being taken
    fitting: BTreeSet<Resource>,        // of which something is left out for which there is room by now
    freed: bool,                        // there may be more room than before
    told: bool,                         // an entry's `about` is another one
    read: BTreeSet<Resource>,           // of which a whole list is known
    node: Option<String>,               // whose labels are wanted
    rooms: Rooms,
}

/// An object for which there is no room.
#[derive(Debug)]
struct LeftOut {
    bytes: usize, // that it wants
    uid: String,
    generation: i64,
    created: String,
}

/// An object that says something.
#[derive(Debug, Clone)]
struct Entry {
    about: Arc<About>,
    created: String,              // see `Object::created`
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

impl About {
    /// Whether it is a namespace, and no policy.
    #[must_use]
    pub fn is_of_namespace(&self) -> bool {
        self.key.resource == Resource::Namespaces
    }
}

#[derive(Debug, Clone)]
enum Yields {
    Policy(Arc<Policy>),
    Seccomp(Arc<SeccompPolicy>),
    Namespace(Namespace),
    Node(Arc<BTreeMap<String, String>>),
}

impl Entry {
    /// Those of its texts: the last good one stays in memory, too.
    fn bytes(&self) -> usize {
        let good = self.good.as_ref().map_or(0, String::len);
        self.text.as_ref().map_or_else(String::len, String::len).saturating_add(good)
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
    /// The namespaces of which policies are left out for want of room, with the gap that this is for whatever runs there: it is
    /// not known whom these policies select.
    pub left_out: BTreeMap<String, Gap>,
    /// The labels of this node.
    pub node: NodeLabels,
    /// Of what it is not known yet which objects there are: neither the server nor the last known set has told them all.
    pub unread: BTreeSet<Resource>,
}

impl Objects {
    /// Takes a change; whether anything differs now.
    pub fn apply(&mut self, change: Change) -> bool {
        self.apply_all([change])
    }

    /// Takes changes that came together; whether anything differs now.
    pub fn apply_all(&mut self, changes: impl IntoIterator<Item = Change>) -> bool {
        let changed = changes.into_iter().fold(false, |changed, change| self.take(change) | changed);
        self.settle() | changed
    }

    /// From now on labels of the node with this name are wanted.
    pub(super) fn of_node(&mut self, name: &str) {
        self.node = Some(name.to_owned());
        let other = |key: &&Key| key.resource == Resource::Node && key.name != name;
        let others: Vec<Key> = self.entries.keys().filter(other).cloned().collect();
        for key in others {
            self.remove(&key);
        }
    }

    fn take(&mut self, change: Change) -> bool {
        match change {
            // labels that were there are better than none: a node that is deleted goes on
            Change::All(Resource::Node, nodes) => {
                nodes.into_iter().fold(false, |changed, node| self.set(node) | changed)
            }
            Change::Gone(Key { resource: Resource::Node, .. }) => false,
            Change::All(resource, objects) => {
                let present: BTreeSet<Key> = objects.iter().map(|object| object.key.clone()).collect();
                let gone = |key: &&Key| key.resource == resource && !present.contains(key);
                let gone: Vec<Key> = self.entries.keys().filter(gone).cloned().collect();
                self.read.insert(resource);
                self.listed.insert(resource);
                // others may have had to wait for what is gone
                let waits = |key: &Key| key.resource == resource && !present.contains(key);
                self.freed |= self.left_out.keys().any(waits);
                let before = self.left_out.len();
                self.left_out.retain(|key, _| key.resource != resource);
                let gave_up = before != self.left_out.len();
                self.told |= gave_up;
                let mut changed = self.unnamed.remove(&resource).is_some() | gave_up;
                for key in gone {
                    changed |= self.remove(&key);
                }
                for object in objects {
                    changed |= self.set(object);
                }
                changed
            }
            Change::Set(object) => self.set(object),
            Change::Gone(key) => {
                let was_out = self.leave_in(&key);
                self.remove(&key) | was_out
            }
            Change::More(resource, count) => {
                let is_new = !self.unnamed.contains_key(&resource);
                self.forget(resource, count);
                is_new | (count > 0)
            }
            Change::Missing(resource) => {
                self.read.insert(resource);
                false
            }
        }
    }

    /// Leaves out what there is no room for; whether anything differs now.
    fn settle(&mut self) -> bool {
        let (mut replaced, listed) = (std::mem::take(&mut self.replaced), std::mem::take(&mut self.listed));
        self.fitting.clear();
        let full = |room: &Room| !self.held(*room).fits(self.rooms.most(*room));
        if self.left_out.is_empty() && !Room::ALL.iter().any(full) {
            return false;
        }
        let claim = |key, older: Option<&Entry>| {
            let (entry, out) = (self.entries.get(key), self.left_out.get(key));
            let bytes = out.map(|out| out.bytes).or_else(|| entry.map(Entry::bytes)).unwrap_or_default();
            let created = out.map(|out| &out.created).or_else(|| entry.map(|entry| &entry.created));
            Claim { key, created: created.map_or("", |made| made), bytes, older: older.map(Entry::bytes) }
        };
        let in_force = self.entries.iter().map(|(key, entry)| {
            claim(key, self.left_out.get(key).map_or_else(|| replaced.get(key), |_| Some(entry)))
        });
        let others = self.left_out.keys().filter(|key| !self.entries.contains_key(key));
        let without = self.rooms.without(in_force.chain(others.map(|key| claim(key, None))));
        let news = without.iter().filter(|(key, place)| {
            let is_older = self.left_out.contains_key(key);
            self.entries.contains_key(key) && !(is_older && *place == Place::Older)
        });
        let news: Vec<(Key, Place)> = news.map(|(key, place)| ((*key).clone(), *place)).collect();
        let without: HashSet<&Key> = without.into_iter().map(|(key, _)| key).collect();
        let fitting = self.left_out.keys().filter(|key| !without.contains(key)).map(|key| key.resource);
        self.fitting = fitting.collect();
        let changed = !news.is_empty();
        for (key, place) in news {
            self.leave_out_of_room(key, place, &mut replaced);
        }
        let left_out = self.left_out.iter().map(|(key, one)| (key, one.created.as_str()));
        let past: Vec<Key> =
            past(self.rooms.most(Room::Shared).objects, left_out).into_iter().cloned().collect();
        let forgotten = !past.is_empty();
        for key in past {
            self.drop_entry(&key); // an older version of what is not told of any more
            self.left_out.remove(&key);
            // of what comes by and by it is not known whether it was forgotten before
            self.forget(key.resource, usize::from(listed.contains(&key.resource)));
        }
        changed | forgotten
    }

    /// So many more objects of a list are not kept in mind.
    fn forget(&mut self, resource: Resource, count: usize) {
        let known = self.unnamed.entry(resource).or_default();
        *known = known.saturating_add(count);
    }

    /// Of an object in force only its older version stays so, or nothing.
    fn leave_out_of_room(&mut self, key: Key, place: Place, replaced: &mut BTreeMap<Key, Entry>) {
        let Some(entry) = self.drop_entry(&key) else { return };
        self.told = true;
        // else what was in force is the older version itself
        if !self.left_out.contains_key(&key) {
            let (About { uid, generation, .. }, bytes) = (About::clone(&entry.about), entry.bytes());
            let before = replaced.remove(&key).filter(|_| place == Place::Older);
            before.into_iter().for_each(|before| self.hold(key.clone(), before));
            self.left_out.insert(key, LeftOut { bytes, uid, generation, created: entry.created });
        }
    }

    #[cfg(test)]
    pub(super) fn with_rooms(rooms: Rooms) -> Self {
        Self { rooms, ..Self::default() }
    }

    fn held(&self, room: Room) -> Amount {
        self.held.get(&room).copied().unwrap_or_default()
    }

    /// Puts an entry into its place, which is empty.
    fn hold(&mut self, key: Key, entry: Entry) {
        let held = self.held.entry(Room::of(key.resource)).or_default();
        *held = held.with(entry.bytes());
        self.entries.insert(key, entry);
    }

    fn drop_entry(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        let held = self.held.entry(Room::of(key.resource)).or_default();
        *held = held.without(entry.bytes());
        Some(entry)
    }

    /// How many objects of a resource are left out, not counting those that are not kept in mind, and whether there are such.
    #[must_use]
    pub fn left_out(&self, resource: Resource) -> (usize, bool) {
        let of = |key: &&Key| key.resource == resource;
        (self.left_out.keys().filter(of).count(), self.unnamed.contains_key(&resource))
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
        self.fitting.iter().chain(self.unnamed.keys()).copied().collect()
    }

    /// The resources of which more objects are left out than are kept in mind.
    pub fn unnamed(&self) -> impl Iterator<Item = Resource> {
        self.unnamed.keys().copied()
    }

    /// What to keep for the next start: for each object the last good version, if there is one, and then the last one; and
    /// what is left out, without its text.
    pub fn saved(&self) -> Vec<Object> {
        let versions = |(key, entry): (&Key, &Entry)| {
            let object = |text: &String| Object {
                key: key.clone(),
                uid: entry.about.uid.clone(),
                generation: entry.about.generation,
                created: entry.created.clone(),
                says: Says::Text(text.clone()),
            };
            entry.good.iter().chain(&entry.text).map(object).collect::<Vec<_>>()
        };
        let without_text = |(key, one): (&Key, &LeftOut)| Object {
            key: key.clone(),
            uid: one.uid.clone(),
            generation: one.generation,
            created: one.created.clone(),
            says: Says::NoRoom(one.bytes),
        };
        self.entries.iter().flat_map(versions).chain(self.left_out.iter().map(without_text)).collect()
    }

    /// What can be told of each policy, by kind, namespace and name; also of those that are left out, but for those of which
    /// the names are not kept either. And of each namespace that has a mistake.
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
                refused: Some(format!("is left out: {}; {REMOVE}", self.full(key.resource))),
                policy: old.and_then(|entry| entry.about.policy.clone()),
                seccomp: old.and_then(|entry| entry.about.seccomp.clone()),
            };
            abouts.insert(key, Arc::new(about));
        }
        let is_told = |about: &Arc<About>| match about.key.resource {
            Resource::Policies(_) => true,
            Resource::Namespaces => about.refused.is_some(),
            Resource::Node => false,
        };
        abouts.into_values().filter(is_told).collect()
    }

    fn full(&self, resource: Resource) -> String {
        Room::of(resource).full(&self.rooms)
    }

    /// Whether [`abouts`](Self::abouts) has something else to tell than the last time that this was asked.
    pub const fn told(&mut self) -> bool {
        std::mem::replace(&mut self.told, false)
    }

    fn remove(&mut self, key: &Key) -> bool {
        self.replaced.remove(key);
        if self.drop_entry(key).is_none() {
            return false;
        }
        (self.told, self.freed) = (true, true);
        true
    }

    fn leave_in(&mut self, key: &Key) -> bool {
        let was_out = self.left_out.remove(key).is_some();
        self.told |= was_out;
        self.freed |= was_out; // others may have had to wait for it
        was_out
    }

    fn set(&mut self, object: Object) -> bool {
        let Object { key, uid, generation, created, says } = object;
        // an object that was deleted and made again takes nothing over from the one before
        let mut changed = false;
        if self.entries.get(&key).is_some_and(|before| before.about.uid != uid) {
            changed = self.remove(&key);
        }
        let text = match says {
            Says::Nothing => return self.remove(&key) | self.leave_in(&key) | changed,
            Says::NoRoom(bytes) => {
                self.told = true;
                let one = LeftOut { bytes, uid, generation, created };
                return self.left_out.insert(key, one).is_none() | changed;
            }
            Says::Text(text) => Ok(text),
            Says::Wrong(why) => Err(why),
        };
        if let Some(before) = self.entries.get_mut(&key).filter(|before| before.text == text) {
            before.created = created; // what was saved may not have it
            // the server may count on where nothing changed that counts here
            if before.about.generation != generation {
                before.about = Arc::new(About { generation, ..About::clone(&before.about) });
                self.told = true;
            }
            return self.leave_in(&key) | changed;
        }
        let before = self.drop_entry(&key);
        if let Some(before) = &before {
            self.replaced.entry(key.clone()).or_insert_with(|| before.clone());
        }
        let old = before.as_ref().map_or(0, Entry::bytes);
        let entry = entry(&key, (uid, generation, created), text, before);
        self.freed |= entry.bytes() < old;
        self.told = true;
        self.leave_in(&key);
        self.hold(key, entry);
        true
    }

    /// What is in force now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let unread = Resource::ALL.into_iter().filter(|one| !self.read.contains(one));
        let mut snapshot = Snapshot { unread: unread.collect(), ..Snapshot::default() };
        if self.node.is_some() {
            snapshot.node = NodeLabels::Unknown;
        }
        for (key, entry) in &self.entries {
            match &entry.yields {
                Some(Yields::Policy(policy)) => snapshot.policies.push(Arc::clone(policy)),
                Some(Yields::Seccomp(policy)) => snapshot.seccomp.push(Arc::clone(policy)),
                Some(Yields::Namespace(namespace)) => snapshot.namespaces.push(namespace.clone()),
                Some(Yields::Node(labels)) if self.node.as_ref() == Some(&key.name) => {
                    snapshot.node = NodeLabels::Known(Arc::clone(labels));
                }
                Some(Yields::Node(_)) | None => {}
            }
            if entry.good.is_some() {
                snapshot.kept.push(key.to_string());
            }
            snapshot.errors.extend(entry.errors.iter().cloned());
        }
        let left_out =
            |file: String, message| PolicyError { help: Some(REMOVE.to_owned()), ..error(file, message) };
        let each = self
            .left_out
            .keys()
            .map(|key| left_out(key.to_string(), format!("is left out: {}", self.full(key.resource))));
        let more = self.unnamed.iter().map(|(resource, count)| {
            let counted = match count {
                0 => String::new(),
                count => format!(" ({count} when all were listed)"),
            };
            left_out(resource.to_string(), format!("more are left out{counted}: {}", self.full(*resource)))
        });
        snapshot.errors.extend(each.chain(more));
        snapshot.left_out = self.gaps();
        snapshot
    }

    /// See [`Snapshot::left_out`].
    fn gaps(&self) -> BTreeMap<String, Gap> {
        let mut gaps = BTreeMap::new();
        // what counts in an older version is told by the policy alone
        let nothing = self.left_out.keys().filter(|key| !self.entries.contains_key(key));
        for Key { resource, namespace, name } in nothing {
            let Resource::Policies(kind) = *resource else { continue };
            if !namespace.is_empty() && !gaps.contains_key(namespace) {
                let policy = PolicyId { kind, namespace: namespace.clone(), name: name.clone() };
                let reason = GapReason::LeftOut;
                let gap =
                    Gap { policy, field: "spec".to_owned(), reason, advice: reason.advice().to_owned() };
                gaps.insert(namespace.clone(), gap);
            }
        }
        gaps
    }
}

/// An error of a whole object.
const fn error(file: String, message: String) -> PolicyError {
    PolicyError { file, line: 0, column: 0, field: String::new(), message, help: None }
}

/// The object with this text, which an older version may help out.
fn entry(
    key: &Key,
    (uid, generation, created): (String, i64, String),
    text: Result<String, String>,
    before: Option<Entry>,
) -> Entry {
    let mut of_node = None;
    let ParsedFile { policies, seccomp, namespaces, mut errors } = match &text {
        Ok(text) if key.resource == Resource::Node => {
            let labels = node::labels(text);
            let errors = labels.as_ref().err().map(|why| error(key.to_string(), why.clone()));
            of_node = labels.ok().map(|labels| Yields::Node(Arc::new(labels)));
            ParsedFile { errors: errors.into_iter().collect(), ..ParsedFile::default() }
        }
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
    let new = policies.chain(seccomp).chain(namespaces).chain(of_node).next();
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
        Some(Yields::Namespace(_) | Yields::Node(_)) | None => (None, None),
    };
    let about = About { key: key.clone(), uid, generation, refused: refused(&errors), policy, seccomp };
    Entry { about: Arc::new(about), created, text, good, yields, errors }
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
