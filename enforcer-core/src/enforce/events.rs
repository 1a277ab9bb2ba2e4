//! The ring buffer, read.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use super::error::{During, EnforceError};
use super::state::Names;
use crate::event::{Event, RawEvent};

/// How many records are read at a time at most, and how many bytes.
const MOST: usize = 4096;
const BYTES: usize = 2 << 20;
/// What libbpf is answered where it is to stop; the record that it was about is read.
const STOP: i32 = -1;

/// Records that were read, to be handed over.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<Vec<u8>>,
    bytes: usize,
}

impl Batch {
    /// Takes a record. The answer is for libbpf, which would otherwise read on as long as the kernel writes.
    fn take(&mut self, record: &[u8]) -> i32 {
        self.records.push(record.to_vec());
        self.bytes = self.bytes.saturating_add(record.len());
        if self.is_full() { STOP } else { 0 }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= MOST || self.bytes >= BYTES
    }
}

/// The stream of events. One reader at a time; it belongs to the thread that made it.
#[derive(Debug)]
pub struct EventStream {
    ring: RingBuffer<'static>,
    batch: Rc<RefCell<Batch>>,
    names: Arc<Names>,
    undecodable: u64,
}

impl EventStream {
    pub(super) fn new(map: &MapHandle, names: Arc<Names>) -> Result<Self, EnforceError> {
        let batch = Rc::<RefCell<Batch>>::default();
        let into = Rc::clone(&batch);
        let mut builder = RingBufferBuilder::new();
        builder.add(map, move |record: &[u8]| into.borrow_mut().take(record)).during("read the events")?;
        Ok(Self { ring: builder.build().during("read the events")?, batch, names, undecodable: 0 })
    }

    /// Waits up to `timeout` for events and hands over each that is there, but of a flood only some thousands: where the
    /// kernel writes as fast as this reads, a call would not end otherwise. The next call hands over the next ones.
    ///
    /// # Errors
    /// When the ring buffer cannot be polled.
    pub fn poll(&mut self, timeout: Duration, mut each: impl FnMut(Event)) -> Result<(), EnforceError> {
        let polled = self.ring.poll(timeout);
        let batch = self.batch.take();
        match polled {
            Err(error) if !batch.is_full() && error.kind() != libbpf_rs::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
        .during("wait for events")?;
        for bytes in batch.records {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As libbpf reads: until the ring is empty, which it never is here, or it is told to stop.
    fn read(batch: &mut Batch, len: usize) -> usize {
        (1..=10 * MOST).find(|_| batch.take(&vec![0; len]) < 0).expect("an end")
    }

    #[test]
    fn a_ring_that_is_never_empty_is_read_in_parts() {
        let batch = RefCell::new(Batch::default());
        for (len, records) in [(64, MOST), (8192, BYTES / 8192), (64, MOST)] {
            assert_eq!(read(&mut batch.borrow_mut(), len), records);
            let batch = batch.take();
            assert!(batch.is_full() && batch.records.len() == records, "the last one is read, too");
        }
        assert!(!batch.borrow().is_full(), "what was handed over does not count");
    }
}
