//! Writes to maps of maps, many at a time.
//!
//! Each such write waits until no CPU can still be reading what was there (`maybe_wait_bpf_programs` in
//! kernel/bpf/syscall.c), some milliseconds: below 6.8 for each value, since then once for each batch of values
//! (06e5c999f102, and only for batches that update). Waits that begin together end together, so many threads do in the
//! time of one wait what one thread does in as many.

use std::thread::{Builder, scope};

use super::error::EnforceError;

/// The threads' stacks, in bytes: they make system calls.
const STACK: usize = 64 << 10;

/// Calls `each` for parts of `items` that are about equal, one for each of `threads` or fewer, all at the same time. The
/// first error, once all have ended. Where no thread is to be had, parts wait one after another.
pub(super) fn spread<T: Sync>(
    items: &[T],
    threads: usize,
    each: impl Fn(&[T]) -> Result<(), EnforceError> + Sync,
) -> Result<(), EnforceError> {
    let size = items.len().div_ceil(threads.max(1)).max(1);
    let mut parts = items.chunks(size);
    let own = parts.next();
    let each = &each;
    scope(|scope| {
        let spawn = |part| {
            let thread = Builder::new().name("maps".into()).stack_size(STACK);
            (part, thread.spawn_scoped(scope, move || each(part)))
        };
        let others: Vec<_> = parts.map(spawn).collect();
        let mut result = own.map_or(Ok(()), each);
        for (part, other) in others {
            let done = match other {
                Ok(thread) => thread.join().unwrap_or(Err(EnforceError::Full("threads"))),
                Err(_) => each(part),
            };
            result = result.and(done);
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_item_is_in_one_part_and_an_error_in_any_is_told() {
        for (items, threads) in [(0, 4), (1, 4), (4, 4), (9, 4), (1000, 64), (7, 0)] {
            let items: Vec<usize> = (0..items).collect();
            let seen = Mutex::new(Vec::new());
            let each = |part: &[usize]| {
                seen.lock().unwrap().extend_from_slice(part);
                if part.contains(&8) { Err(EnforceError::Full("eights")) } else { Ok(()) }
            };
            let result = spread(&items, threads, each);
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable();
            assert_eq!(seen, items);
            assert_eq!(result.is_err(), items.contains(&8));
        }
    }
}
