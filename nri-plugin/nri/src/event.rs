//! Events and subscriptions.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};

use crate::version::NriVersion;

macro_rules! events {
    ($( $(#[$meta:meta])* $name:ident = $number:literal $label:literal, )*) => {
        /// What a runtime tells a plugin about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Event {
            $( $(#[$meta])* $name = $number, )*
        }

        impl Event {
            /// Every event, in the order of the protocol's numbers.
            pub const ALL: &'static [Event] = &[$( Event::$name, )*];

            /// The event with a number of the protocol; `None`: not known to this version of the crate.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<Self> {
                match number {
                    $( $number => Some(Self::$name), )*
                    _ => None,
                }
            }

            /// Its name, as the protocol's remote procedure is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $label, )* }
            }
        }
    };
}

events! {
    /// A pod's sandbox is up. An error fails the pod.
    RunPodSandbox = 1 "RunPodSandbox",
    /// A pod was stopped.
    StopPodSandbox = 2 "StopPodSandbox",
    /// A pod was removed. Neither this nor the stop is sent for pods older than the runtime's own start.
    RemovePodSandbox = 3 "RemovePodSandbox",
    /// A container is about to be created. An error fails the creation.
    CreateContainer = 4 "CreateContainer",
    /// A container was created.
    PostCreateContainer = 5 "PostCreateContainer",
    /// A container's process exists, but its command does not run yet. An error fails the start, except under
    /// CRI-O, which only logs it.
    StartContainer = 6 "StartContainer",
    /// A container was started.
    PostStartContainer = 7 "PostStartContainer",
    /// A container's resources are about to change. An error fails the change.
    UpdateContainer = 8 "UpdateContainer",
    /// A container's resources were changed.
    PostUpdateContainer = 9 "PostUpdateContainer",
    /// A container ended or was stopped.
    StopContainer = 10 "StopContainer",
    /// A container was removed.
    RemoveContainer = 11 "RemoveContainer",
    /// A pod's resources are about to change. An error fails the change. NRI 0.10.
    UpdatePodSandbox = 12 "UpdatePodSandbox",
    /// A pod's resources were changed. NRI 0.10.
    PostUpdatePodSandbox = 13 "PostUpdatePodSandbox",
    /// The sum of all adjustments is up for a last look. An error, or a validator that cannot be reached, fails
    /// the creation. NRI 0.10.
    ValidateContainerAdjustment = 14 "ValidateContainerAdjustment",
}

impl Event {
    /// Its bit in a subscription.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << (self as u32 - 1)
    }

    /// Whether an error answer stops what the event is about (in containerd). For such an event a handler that is
    /// late is cancelled and answered for with an error; for the others the handler may run to its end.
    #[must_use]
    pub const fn is_fatal(self) -> bool {
        matches!(
            self,
            Self::RunPodSandbox
                | Self::CreateContainer
                | Self::StartContainer
                | Self::UpdateContainer
                | Self::UpdatePodSandbox
                | Self::ValidateContainerAdjustment
        )
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of events.
///
/// ```
/// use nri::{Event, EventMask};
///
/// let mask = Event::CreateContainer | Event::StartContainer;
/// assert!(mask.contains(Event::StartContainer));
/// assert_eq!(mask.bits(), 0x28);
/// assert_eq!(EventMask::ALL.bits(), 0x3fff);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct EventMask(u32);

impl EventMask {
    /// No event.
    pub const NONE: Self = Self(0);
    /// Every event that this version of the crate knows.
    pub const ALL: Self = Self(0x3fff);
    /// Every event that all runtimes know, those before NRI 0.10 included.
    pub const OLDEST: Self = Self(0x7ff);

    /// The events that a runtime of this NRI version knows. A runtime drops a plugin that asks for any other.
    /// `None`: not known, so the oldest set.
    #[must_use]
    pub fn known_to(version: Option<NriVersion>) -> Self {
        match version {
            Some(version) if version >= NriVersion::new(0, 10, 0) => Self::ALL,
            _ => Self::OLDEST,
        }
    }

    /// The protocol's bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The set of the protocol's bits; unknown ones are left out.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// Whether `event` is in it.
    #[must_use]
    pub const fn contains(self, event: Event) -> bool {
        self.0 & event.bit() != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The events in it.
    pub fn iter(self) -> impl Iterator<Item = Event> {
        Event::ALL.iter().copied().filter(move |event| self.contains(*event))
    }
}

impl From<Event> for EventMask {
    fn from(event: Event) -> Self {
        Self(event.bit())
    }
}

impl FromIterator<Event> for EventMask {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        events.into_iter().fold(Self::NONE, |mask, event| mask | event)
    }
}

impl<T: Into<EventMask>> BitOr<T> for EventMask {
    type Output = Self;
    fn bitor(self, other: T) -> Self {
        Self(self.0 | other.into().0)
    }
}

impl<T: Into<EventMask>> BitOr<T> for Event {
    type Output = EventMask;
    fn bitor(self, other: T) -> EventMask {
        EventMask::from(self) | other
    }
}

impl<T: Into<EventMask>> BitOrAssign<T> for EventMask {
    fn bitor_assign(&mut self, other: T) {
        self.0 |= other.into().0;
    }
}

impl BitAnd for EventMask {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for EventMask {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for EventMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, event) in self.iter().enumerate() {
            write!(f, "{}{event}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for EventMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventMask({:#x}: {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_protocol() {
        assert_eq!(Event::RunPodSandbox.bit(), 0x1);
        assert_eq!(Event::StartContainer.bit(), 0x20);
        assert_eq!(Event::ValidateContainerAdjustment.bit(), 0x2000);
        assert_eq!(Event::ALL.iter().copied().collect::<EventMask>(), EventMask::ALL);
        for event in Event::ALL {
            assert_eq!(Event::from_number(*event as i32), Some(*event));
        }
        assert_eq!(Event::from_number(0), None);
        assert_eq!(Event::from_number(15), None);
    }

    #[test]
    fn masks_by_version() {
        assert_eq!(EventMask::known_to(None).bits(), 0x7ff);
        assert_eq!(EventMask::known_to(Some(NriVersion::new(0, 9, 9))).bits(), 0x7ff);
        assert_eq!(EventMask::known_to(Some(NriVersion::new(0, 10, 0))).bits(), 0x3fff);
        assert_eq!(EventMask::known_to(Some(NriVersion::new(1, 0, 0))).bits(), 0x3fff);
    }
}
