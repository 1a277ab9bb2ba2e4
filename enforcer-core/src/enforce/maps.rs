//! The kernel's maps, with typed keys and values.

use std::marker::PhantomData;

use enforcer_bpf::{Shared, types};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};

use super::error::{During, EnforceError};
use super::image::Places;

/// One map of known value type.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    pub(super) map: MapHandle,
    name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

/// Keys of the maps: integers, and a pidfd for task storage.
pub(super) trait Key: Copy {
    type Bytes: AsRef<[u8]>;
    fn bytes(self) -> Self::Bytes;
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

macro_rules! integer_key {
    ($($int:ty),*) => {$(
        impl Key for $int {
            type Bytes = [u8; size_of::<$int>()];
            fn bytes(self) -> Self::Bytes {
                self.to_ne_bytes()
            }
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_ne_bytes)
            }
        }
    )*};
}
integer_key!(u32, u64, i32);

macro_rules! struct_key {
    ($($name:ident),*) => {$(
        impl Key for types::$name {
            type Bytes = [u8; size_of::<types::$name>()];
            fn bytes(self) -> Self::Bytes {
                let mut bytes = [0; size_of::<types::$name>()];
                bytes.iter_mut().zip(Shared::bytes(&self)).for_each(|(to, from)| *to = *from);
                bytes
            }
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                Self::of(bytes)
            }
        }
    )*};
}
struct_key!(exempt_cgroup, exempt_program);

impl<K: Key, V: Shared> Table<K, V> {
    pub(super) fn of(object: &Object, name: &'static str) -> Result<Self, EnforceError> {
        Ok(Self { map: handle(object, name)?, name, types: PhantomData })
    }

    pub(super) fn get(&self, key: K) -> Result<Option<V>, EnforceError> {
        let bytes =
            self.map.lookup(key.bytes().as_ref(), MapFlags::ANY).during(format!("read {}", self.name))?;
        bytes.map(|bytes| self.value(&bytes)).transpose()
    }

    pub(super) fn set(&self, key: K, value: &V, flags: MapFlags) -> Result<(), EnforceError> {
        self.map.update(key.bytes().as_ref(), value.bytes(), flags).during(format!("write {}", self.name))
    }

    /// Removes a key; one that is absent is no error.
    pub(super) fn remove(&self, key: K) -> Result<(), EnforceError> {
        match self.map.delete(key.bytes().as_ref()) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
        .during(format!("delete from {}", self.name))
    }

    /// How many entries there can be.
    pub(super) fn room(&self) -> u32 {
        self.map.max_entries()
    }

    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, EnforceError> {
        let keys: Vec<Vec<u8>> = self.map.keys().collect();
        let mut entries = Vec::with_capacity(keys.len());
        for bytes in keys {
            let Some(key) = K::from_bytes(&bytes) else { continue };
            if let Some(value) = self.get(key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    fn value(&self, bytes: &[u8]) -> Result<V, EnforceError> {
        V::of(bytes).ok_or_else(|| EnforceError::ReadBack(format!("{} bytes in {}", bytes.len(), self.name)))
    }
}

/// A handle on a map of the loaded object.
pub(super) fn handle(object: &Object, name: &'static str) -> Result<MapHandle, EnforceError> {
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or(EnforceError::Full("a map is missing from the object"))?;
    MapHandle::try_from(&map).during(format!("open map {name}"))
}

/// The maps that user space writes.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) armed: Table<u32, types::armed>,
    pub(super) containers: Table<u64, types::container>,
    pub(super) cgroups: Table<u64, u64>,
    pub(super) namespaces: Table<u32, types::entry_ns>,
    pub(super) armed_namespaces: Table<u32, types::namespace_bits>,
    pub(super) host: Table<u32, types::host>,
    pub(super) exempt_cgroups: Table<types::exempt_cgroup, u32>,
    pub(super) exempt_programs: Table<types::exempt_program, u32>,
    pub(super) subjects: Table<i32, types::subject>, // by pidfd
    pub(super) mark: Table<u32, types::mark>,
    pub(super) held: Table<u32, types::held_search>,
    pub(super) held_files: Table<u64, types::held_file>,
    pub(super) places: Places,
    pub(super) published: Table<u32, types::published>,
    pub(super) counters: MapHandle,
    pub(super) events: MapHandle,
}

impl Maps {
    pub(super) fn of(object: &Object) -> Result<Self, EnforceError> {
        Ok(Self {
            armed: Table::of(object, "armed")?,
            containers: Table::of(object, "containers")?,
            cgroups: Table::of(object, "cgroup_containers")?,
            namespaces: Table::of(object, "namespace_containers")?,
            armed_namespaces: Table::of(object, "armed_namespaces")?,
            host: Table::of(object, "host")?,
            exempt_cgroups: Table::of(object, "exempt_cgroups")?,
            exempt_programs: Table::of(object, "exempt_programs")?,
            subjects: Table::of(object, "task_subjects")?,
            mark: Table::of(object, "mark")?,
            held: Table::of(object, "held")?,
            held_files: Table::of(object, "held_files")?,
            places: Places { rulesets: handle(object, "rulesets")?, automata: handle(object, "automata")? },
            published: Table::of(object, "published")?,
            counters: handle(object, "counters")?,
            events: handle(object, "events")?,
        })
    }
}
