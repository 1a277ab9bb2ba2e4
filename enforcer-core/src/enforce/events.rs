//! The ring buffer, read.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use super::error::{During, EnforceError};
use super::state::Names;
use crate::event::{Event, RawEvent};

/// The stream of events. One reader at a time; it belongs to the thread that made it.
#[derive(Debug)]
pub struct EventStream {
    ring: RingBuffer<'static>,
    records: Rc<RefCell<Vec<Vec<u8>>>>,
    names: Arc<Names>,
    undecodable: u64,
}

impl EventStream {
    pub(super) fn new(map: &MapHandle, names: Arc<Names>) -> Result<Self, EnforceError> {
        let records = Rc::new(RefCell::new(Vec::new()));
        let into = Rc::clone(&records);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(map, move |bytes: &[u8]| {
                into.borrow_mut().push(bytes.to_vec());
                0
            })
            .during("read the events")?;
        Ok(Self { ring: builder.build().during("read the events")?, records, names, undecodable: 0 })
    }

    /// Waits up to `timeout` for events and hands over each that is there.
    ///
    /// # Errors
    /// When the ring buffer cannot be polled.
    pub fn poll(&mut self, timeout: Duration, mut each: impl FnMut(Event)) -> Result<(), EnforceError> {
        match self.ring.poll(timeout) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
        .during("wait for events")?;
        for bytes in self.records.take() {
            match RawEvent::decode(&bytes) {
                Ok(raw) => each(self.name(raw)),
                Err(_) => self.undecodable += 1,
            }
        }
        Ok(())
    }

    /// Records that were no events of this version's programs.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    fn name(&self, raw: RawEvent) -> Event {
        Event {
            container: self.names.container(raw.container_key),
            ruleset: self.names.ruleset(raw.ruleset_id),
            ..raw.event
        }
    }
}
