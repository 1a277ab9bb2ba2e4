//! The border between this crate's types and the generated messages, crossed in both directions.
//!
//! A plugin reads what the runtime sends and writes adjustments; the fake runtime does the opposite with the
//! same types, so every conversion exists both ways and a round trip loses nothing.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::Hash;

use protobuf::MessageField;

use crate::proto::api;

/// Conversion between a public type and its shape on the wire, `W`.
pub(crate) trait Wire<W>: Sized {
    /// Reads the wire form. It cannot fail: what is absent is empty, what is unknown is kept as a number.
    fn from_wire(wire: W) -> Self;
    /// Writes the wire form.
    fn into_wire(self) -> W;
}

macro_rules! identity {
    ($($t:ty),*) => { $(
        impl Wire<$t> for $t {
            fn from_wire(wire: $t) -> Self { wire }
            fn into_wire(self) -> $t { self }
        }
    )* };
}
identity!(String, bool, i32, i64, u32, u64);

impl<T: Wire<W>, W> Wire<Vec<W>> for Vec<T> {
    fn from_wire(wire: Vec<W>) -> Self {
        wire.into_iter().map(T::from_wire).collect()
    }
    fn into_wire(self) -> Vec<W> {
        self.into_iter().map(T::into_wire).collect()
    }
}

impl<K: Ord + Hash, T: Wire<W>, W> Wire<HashMap<K, W>> for BTreeMap<K, T> {
    fn from_wire(wire: HashMap<K, W>) -> Self {
        wire.into_iter().map(|(key, value)| (key, T::from_wire(value))).collect()
    }
    fn into_wire(self) -> HashMap<K, W> {
        self.into_iter().map(|(key, value)| (key, value.into_wire())).collect()
    }
}

/// Presence on the wire is the presence of the message.
impl<T: Wire<W>, W> Wire<MessageField<W>> for Option<T> {
    fn from_wire(wire: MessageField<W>) -> Self {
        wire.0.map(|boxed| T::from_wire(*boxed))
    }
    fn into_wire(self) -> MessageField<W> {
        MessageField::from_option(self.map(T::into_wire))
    }
}

/// The wire's wrapper messages: a present wrapper around zero means "set to zero".
macro_rules! wrappers {
    ($($wire:ident.$field:ident => $t:ty),* $(,)?) => { $(
        impl Wire<api::$wire> for $t {
            fn from_wire(wire: api::$wire) -> Self { Wire::from_wire(wire.$field) }
            fn into_wire(self) -> api::$wire {
                api::$wire { $field: Wire::into_wire(self), ..Default::default() }
            }
        }
    )* };
}
wrappers! {
    OptionalString.value => String,
    OptionalInt.value => i64,
    OptionalUInt32.value => u32,
    OptionalInt64.value => i64,
    OptionalUInt64.value => u64,
    OptionalBool.value => bool,
    OptionalFileMode.value => u32,
    OptionalRepeatedString.value => Vec<String>,
    LinuxPids.limit => i64,
    CDIDevice.name => String,
    LinuxNetDevice.name => String,
    CompoundFieldOwners.owners => BTreeMap<String, String>,
}

/// The place of a field on the wire, under its other name where it has one.
macro_rules! wire_field {
    ($wire:ident, $field:ident) => {
        $wire.$field
    };
    ($wire:ident, $field:ident, $wire_field:ident) => {
        $wire.$wire_field
    };
}

/// Defines a public struct and its conversions. `field => wire_field` where the names differ.
macro_rules! mirror {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $wire:ident {
            $( $(#[$field_meta:meta])* $field:ident $(=> $wire_field:ident)? : $t:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $t, )*
        }

        impl $crate::types::wire::Wire<$crate::proto::api::$wire> for $name {
            fn from_wire(wire: $crate::proto::api::$wire) -> Self {
                Self { $( $field: $crate::types::wire::Wire::from_wire(
                    $crate::types::wire::wire_field!(wire, $field $(, $wire_field)?)), )* }
            }
            fn into_wire(self) -> $crate::proto::api::$wire {
                let mut wire = $crate::proto::api::$wire::default();
                $( $crate::types::wire::wire_field!(wire, $field $(, $wire_field)?) =
                    $crate::types::wire::Wire::into_wire(self.$field); )*
                wire
            }
        }
    };
}

/// Defines a public enum that keeps numbers it does not know.
macro_rules! mirror_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $wire:ty {
            $( $(#[$variant_meta:meta])* $variant:ident = $wire_variant:ident, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $( $(#[$variant_meta])* $variant, )*
            /// A number that this version of the crate has no name for.
            Other(i32),
        }

        impl $crate::types::wire::Wire<protobuf::EnumOrUnknown<$wire>> for $name {
            fn from_wire(wire: protobuf::EnumOrUnknown<$wire>) -> Self {
                match wire.enum_value() {
                    $( Ok(<$wire>::$wire_variant) => Self::$variant, )*
                    #[expect(clippy::allow_attributes, reason = "not every wire enum has values left over")]
                    #[allow(unreachable_patterns, reason = "as above")]
                    Ok(other) => Self::Other(protobuf::Enum::value(&other)),
                    Err(number) => Self::Other(number),
                }
            }
            fn into_wire(self) -> protobuf::EnumOrUnknown<$wire> {
                match self {
                    $( Self::$variant => protobuf::EnumOrUnknown::new(<$wire>::$wire_variant), )*
                    Self::Other(number) => protobuf::EnumOrUnknown::from_i32(number),
                }
            }
        }
    };
}
pub(crate) use {mirror, mirror_enum, wire_field};
