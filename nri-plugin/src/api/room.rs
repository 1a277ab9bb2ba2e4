//! Which objects there is room for, so that nobody who may make some takes the room of others. No I/O, no clock.
//!
//! There are three rooms: postures of namespaces, policies of the whole cluster, and policies that live in a namespace. Who
//! may make those of the first two is trusted with the cluster. The third is shared between namespaces: each may have as much
//! as makes all of them together fill it, where those that want less have what they want. So a namespace that wants no more
//! than an equal share loses nothing, whatever others do ([`level`]).
//!
//! A namespace that wants more has its oldest objects, by the server's time of creation and then by name, up to the first that
//! is past its share. That depends on what there is alone, and not on the order in which it was told: each node takes the same.

use std::collections::{BTreeMap, HashMap};

use enforcer_core::policy::Kind;

use super::object::{Key, Resource};

/// The most policies of namespaces that are taken, all together. More than anybody has, and far less than would fill the
/// memory.
pub const MAX_OBJECTS: usize = 20_000;
/// The most bytes of text that these may have.
pub const MAX_BYTES: usize = 32 << 20;
/// The most policies of the whole cluster.
pub const MAX_CLUSTER: usize = 4_000;
/// The most bytes of text that these may have.
pub const MAX_CLUSTER_BYTES: usize = 8 << 20;
/// The most namespaces with postures.
pub const MAX_NAMESPACES: usize = 10_000;
/// The most bytes of text that these may have.
pub const MAX_NAMESPACES_BYTES: usize = 4 << 20;

/// The most policies that a report can be about.
pub const MAX_REPORTED: usize = MAX_OBJECTS + MAX_CLUSTER;

/// How much there is of something, or may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) objects: usize,
    pub(super) bytes: usize,
}

impl Amount {
    /// Whether it is no more than that.
    pub(super) const fn fits(self, most: Self) -> bool {
        self.objects <= most.objects && self.bytes <= most.bytes
    }

    /// This, and one object more.
    pub(super) const fn with(self, bytes: usize) -> Self {
        Self { objects: self.objects.saturating_add(1), bytes: self.bytes.saturating_add(bytes) }
    }

    /// This without one object.
    pub(super) const fn without(self, bytes: usize) -> Self {
        Self { objects: self.objects.saturating_sub(1), bytes: self.bytes.saturating_sub(bytes) }
    }
}

/// One of the rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Room {
    /// That of postures, and of the node.
    Namespaces,
    /// That of policies of the whole cluster, and of hosts.
    Cluster,
    /// That of policies of namespaces.
    Shared,
}

impl Room {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Namespaces, Self::Cluster, Self::Shared];

    /// Where objects of the resource belong.
    pub(super) const fn of(resource: Resource) -> Self {
        match resource {
            Resource::Namespaces | Resource::Node => Self::Namespaces,
            Resource::Policies(Kind::KubeArmorClusterPolicy | Kind::KubeArmorHostPolicy) => Self::Cluster,
            Resource::Policies(Kind::KubeArmorPolicy | Kind::KubeArmorSeccompPolicy) => Self::Shared,
        }
    }

    /// Why an object has no place in it, for people.
    pub(super) fn full(self, rooms: &Rooms) -> String {
        let Amount { objects, bytes } = rooms.most(self);
        match self {
            Self::Namespaces => {
                format!("there are more than {objects} namespaces with postures, or {bytes} bytes")
            }
            Self::Cluster => {
                format!("there are more than {objects} policies of the cluster, or {bytes} bytes")
            }
            Self::Shared => {
                format!(
                    "its namespace has more than its share of the room for {objects} policies and {bytes} bytes"
                )
            }
        }
    }
}

/// What wants room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) key: &'a Key,
    /// When the server made it; empty: long ago.
    pub(super) created: &'a str,
    /// How long its text is.
    pub(super) bytes: usize,
    /// How long an older text of it is, which counts where there is no room for the new one; `None`: there is none.
    pub(super) older: Option<usize>,
}

/// What an object gets that has no room for its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Room for its older text alone.
    Older,
    /// No room at all.
    Nothing,
}

#[cfg(test)]
thread_local! {
    /// How often all that wants room was looked at.
    pub(super) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How much room there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rooms {
    namespaces: Amount,
    cluster: Amount,
    shared: Amount,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            namespaces: Amount { objects: MAX_NAMESPACES, bytes: MAX_NAMESPACES_BYTES },
            cluster: Amount { objects: MAX_CLUSTER, bytes: MAX_CLUSTER_BYTES },
            shared: Amount { objects: MAX_OBJECTS, bytes: MAX_BYTES },
        }
    }
}

impl Rooms {
    /// With so much in each.
    #[cfg(test)]
    pub(super) const fn of_each(most: Amount) -> Self {
        Self { namespaces: most, cluster: most, shared: most }
    }

    /// How much there is room for.
    pub(super) const fn most(&self, room: Room) -> Amount {
        match room {
            Room::Namespaces => self.namespaces,
            Room::Cluster => self.cluster,
            Room::Shared => self.shared,
        }
    }

    /// Those of the claims that do not get room for their text, with what they get. Together the others have no more than
    /// there is, older texts included.
    pub(super) fn without<'a>(&self, claims: impl Iterator<Item = Claim<'a>>) -> Vec<(&'a Key, Place)> {
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + 1);
        let mut rooms: BTreeMap<Room, HashMap<&str, Vec<Claim<'a>>>> = BTreeMap::new();
        for claim in claims {
            let room = Room::of(claim.key.resource);
            let tenant = if room == Room::Shared { claim.key.namespace.as_str() } else { "" };
            rooms.entry(room).or_default().entry(tenant).or_default().push(claim);
        }
        let mut without = Vec::new();
        for (room, tenants) in rooms {
            let wanted = |claims: &[Claim<'_>]| {
                claims.iter().fold(Amount::default(), |sum, claim| sum.with(claim.bytes))
            };
            let wanted: Vec<Amount> = tenants.values().map(|claims| wanted(claims)).collect();
            let most = self.most(room);
            let each = Amount {
                objects: level(most.objects, wanted.iter().map(|one| one.objects).collect()),
                bytes: level(most.bytes, wanted.iter().map(|one| one.bytes).collect()),
            };
            let over = tenants.into_values().zip(wanted).filter(|(_, wanted)| !wanted.fits(each));
            over.for_each(|(claims, _)| share(claims, each, &mut without));
        }
        without
    }
}

/// Gives a tenant's claims so much room, the oldest first.
fn share<'a>(mut claims: Vec<Claim<'a>>, most: Amount, without: &mut Vec<(&'a Key, Place)>) {
    claims.sort_unstable_by_key(|claim| (claim.created, claim.key));
    let mut used = Amount::default();
    let mut claims = claims.into_iter().peekable();
    while let Some(claim) = claims.next_if(|claim| used.with(claim.bytes).fits(most)) {
        used = used.with(claim.bytes);
    }
    // no later one that is small takes the place of an earlier one that is large: else what there is room for could hang on
    // what else is known
    for Claim { key, older, .. } in claims {
        let older = older.map(|older| used.with(older)).filter(|with| with.fits(most));
        used = older.unwrap_or(used);
        without.push((key, if older.is_some() { Place::Older } else { Place::Nothing }));
    }
}

/// The most that each may have so that all together have no more than `total`, where nobody has more than it wants. No less
/// than an equal share, and the less the more others want.
pub(super) fn level(total: usize, mut wanted: Vec<usize>) -> usize {
    wanted.sort_unstable();
    let (mut left, mut many) = (total, wanted.len());
    for want in wanted {
        let equal = left.checked_div(many).unwrap_or(total);
        if want > equal {
            return equal;
        }
        (left, many) = (left.saturating_sub(want), many.saturating_sub(1));
    }
    total
}

#[cfg(test)]
mod tests;
