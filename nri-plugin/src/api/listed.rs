//! A list while it is read: what of it there is room for, so that a list of any length takes no more memory than that.

use std::collections::{HashMap, HashSet};

use super::object::{Key, Object, Resource, Says};
use super::room::{Amount, Claim, Room, Rooms, level};

/// How much more than there is room for may be held before it is looked at what is left out: each look costs as much as there
/// is.
const SLACK: Amount = Amount { objects: 4096, bytes: 8 << 20 };

/// What was read of a list. What is left out of a part of it is left out of the whole, too.
#[derive(Debug)]
pub(super) struct Listed {
    objects: Vec<Object>,
    held: Amount,   // texts, and what is told of objects that cannot be read
    named: usize,   // objects without text for want of room
    unnamed: usize, // how many more of those there were than are kept in mind
    room: Room,
    rooms: Rooms,
}

impl Listed {
    pub(super) fn of(resource: Resource) -> Self {
        Self {
            objects: Vec::new(),
            held: Amount::default(),
            named: 0,
            unnamed: 0,
            room: Room::of(resource),
            rooms: Rooms::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn with_rooms(resource: Resource, rooms: Rooms) -> Self {
        Self { rooms, ..Self::of(resource) }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn push(&mut self, object: Object) {
        match &object.says {
            // what says nothing to us is not missed in the list: what was known under its name goes as if it were not there
            Says::Nothing => return,
            Says::Text(text) | Says::Wrong(text) => self.held = self.held.with(text.len()),
            Says::NoRoom(_) => {}
        }
        self.objects.push(object);
        let Amount { objects, bytes } = self.rooms.most(self.room);
        let most = Amount {
            objects: objects.saturating_add(SLACK.objects),
            bytes: bytes.saturating_add(SLACK.bytes),
        };
        if !self.held.fits(most) {
            self.tidy();
        }
    }

    /// The objects, and how many more there are than these. Of some no more is kept than what they are called.
    pub(super) fn end(mut self) -> (Vec<Object>, usize) {
        if !self.held.fits(self.rooms.most(self.room)) {
            self.tidy();
        }
        (self.objects, self.unnamed)
    }

    /// Lets the texts go for which there is no room.
    fn tidy(&mut self) {
        let wants = |object: &Object| match &object.says {
            Says::Text(text) | Says::Wrong(text) => Some(text.len()),
            Says::NoRoom(bytes) => Some(*bytes),
            Says::Nothing => None,
        };
        let claims = self.objects.iter().filter_map(|object| {
            let Object { key, created, .. } = object;
            Some(Claim { key, created, bytes: wants(object)?, older: None })
        });
        let without: HashSet<Key> =
            self.rooms.without(claims).into_iter().map(|(key, _)| key.clone()).collect();
        for object in self.objects.iter_mut().filter(|object| without.contains(&object.key)) {
            if let Says::Text(text) | Says::Wrong(text) = &object.says {
                let bytes = text.len();
                self.held = self.held.without(bytes);
                self.named += 1;
                object.says = Says::NoRoom(bytes);
            }
        }
        let most = self.rooms.most(self.room).objects;
        if self.named > most {
            let named = self.objects.iter().filter(|object| matches!(object.says, Says::NoRoom(_)));
            let forgotten = past(most, named.map(|object| (&object.key, object.created.as_str())));
            let forgotten: HashSet<Key> = forgotten.into_iter().cloned().collect();
            self.objects.retain(|object| !forgotten.contains(&object.key));
            self.named = self.named.saturating_sub(forgotten.len());
            self.unnamed = self.unnamed.saturating_add(forgotten.len());
        }
    }
}

/// Of objects that are left out, those that are too many to be kept in mind: the newest of the namespaces with the most. The
/// oldest of each is kept: by that it is known that its namespace wants more than its share.
pub(super) fn past<'a>(most: usize, left_out: impl Iterator<Item = (&'a Key, &'a str)>) -> Vec<&'a Key> {
    let mut of_each: HashMap<&str, Vec<(&str, &Key)>> = HashMap::new();
    for (key, created) in left_out {
        of_each.entry(&key.namespace).or_default().push((created, key));
    }
    let each = level(most, of_each.values().map(Vec::len).collect()).max(1);
    let mut past = Vec::new();
    for mut keys in of_each.into_values().filter(|keys| keys.len() > each) {
        keys.sort_unstable();
        past.extend(keys.into_iter().skip(each).map(|(_, key)| key));
    }
    past
}
