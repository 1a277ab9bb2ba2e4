//! Pure work on many things at once.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread;

/// Threads that work at once, at most.
const MAX_THREADS: usize = 8;

/// What `work` makes of each thing, in their order: on as many CPUs as this process may use, where there is more to do
/// than beginning a thread costs (some 20 microseconds), which so many things are `worth`.
///
/// # Panics
/// Where `work` does.
#[must_use]
pub fn map<T: Sync, R: Send>(things: &[T], worth: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let work = &work;
    let each = move |part: &[T]| part.iter().map(work).collect::<Vec<_>>();
    // finding it out reads files of cgroups, which takes longer than most of the work
    static CPUS: OnceLock<usize> = OnceLock::new();
    let cpus = *CPUS.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get));
    let threads = cpus.min(MAX_THREADS).min(things.len() / worth.max(1));
    if threads < 2 {
        return each(things);
    }
    let mut parts = things.chunks(things.len().div_ceil(threads));
    let own = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let begin = |part| {
            let spawned =
                thread::Builder::new().name("parallel".into()).spawn_scoped(scope, move || each(part));
            (part, spawned.ok()) // none to be had: done below
        };
        let others: Vec<_> = parts.map(begin).collect();
        let mut done = each(own);
        for (part, thread) in others {
            done.extend(match thread.map(thread::ScopedJoinHandle::join) {
                Some(Ok(done)) => done,
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                None => each(part),
            });
        }
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept_however_many_there_are() {
        for count in [0, 1, 2, 3, 15, 16, 17, 1_000] {
            let numbers: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = numbers.iter().map(|number| number * 2).collect();
            for worth in [0, 1, 16, 2_000] {
                assert_eq!(map(&numbers, worth, |number| number * 2), doubled);
            }
        }
    }

    #[test]
    #[should_panic(expected = "the last one")]
    fn a_panic_is_not_lost() {
        let _never = map(&[1, 2, 3, 4], 1, |number| assert!(*number != 4, "the last one"));
    }
}
