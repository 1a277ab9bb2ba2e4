//! What the OCI hook let through without the daemon's word, since its mode is `open`: while no daemon was there, was too
//! late, or refused it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nri_enforcer_hook::spool::{Found, OpenStart, read, remove};

/// How often to look for it. What was told is removed by the next look: by then it is usually written.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// What is known from one look to the next.
#[derive(Debug, Default)]
struct Known {
    told: BTreeMap<String, OpenStart>, // and not removed yet
    problems: Vec<String>,
}

/// Looks at what the hook has recorded in `dir`, now and after each such time, and has `tell` tell each once. What it does not take is
/// told with the next look.
pub(super) async fn watch(
    dir: PathBuf,
    every: Duration,
    tell: impl Fn(&OpenStart) -> bool + Send + Sync + 'static,
) {
    let known = Arc::new(Mutex::new(Known::default()));
    let tell = Arc::new(tell);
    loop {
        let (dir, known, tell) = (dir.clone(), Arc::clone(&known), Arc::clone(&tell));
        // a file system that hangs is to keep nobody else waiting
        let looking = tokio::task::spawn_blocking(move || {
            known.lock().unwrap_or_else(PoisonError::into_inner).look(&dir, tell.as_ref());
        });
        if let Err(error) = looking.await {
            tracing::error!(%error, "cannot look for what the OCI hook let through");
        }
        tokio::time::sleep(every).await;
    }
}

impl Known {
    fn look(&mut self, dir: &Path, tell: &impl Fn(&OpenStart) -> bool) {
        let mut problems = Vec::new();
        // one that stays is told once
        self.told.retain(|name, start| match remove(dir, name, start) {
            Ok(()) => false,
            Err(problem) => {
                problems.push(problem);
                true
            }
        });
        let Found { starts, problems: more } =
            read(dir).unwrap_or_else(|problem| Found { starts: Vec::new(), problems: vec![problem] });
        problems.extend(more);
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::error!("what the OCI hook let through is not known completely: {problem}");
        }
        self.problems = problems;
        let new: Vec<_> = starts.into_iter().filter(|(name, _)| !self.told.contains_key(name)).collect();
        if !new.is_empty() {
            let containers: u64 = new.iter().map(|(_, start)| start.more.max(1)).sum();
            tracing::warn!(containers, "the OCI hook let containers start without this daemon's word");
        }
        self.told.extend(new.into_iter().filter(|(_, start)| tell(start)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use nri_enforcer_hook::spool::record;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn each_is_told_once_whenever_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("open-starts");
        let (tell, told) = channel();
        let telling = move |start: &OpenStart| tell.send(start.clone()).is_ok();
        let watching = tokio::spawn(watch(spool.clone(), Duration::from_millis(5), telling));
        for number in 0..3_u64 {
            let start = OpenStart { time_millis: number, id: format!("c{number}"), ..OpenStart::default() };
            record(&spool, &start).unwrap();
            assert_eq!(told.recv_timeout(Duration::from_secs(20)).unwrap(), start);
            std::fs::write(spool.join("bad.json"), "what follows is told all the same").unwrap();
        }
        while std::fs::read_dir(&spool).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(told.try_iter().count(), 0);
        watching.abort();
    }

    #[test]
    fn what_is_not_taken_is_told_again_and_nothing_is_removed_before_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("open-starts");
        let start = OpenStart { time_millis: 1, id: "c1".into(), ..OpenStart::default() };
        record(&spool, &start).unwrap();
        let left = || read(&spool).unwrap().starts.len();
        let mut known = Known::default();
        known.look(&spool, &|_| false);
        assert_eq!(left(), 1, "nobody took it");
        let told = std::cell::Cell::new(0);
        let count = |_: &OpenStart| {
            told.set(told.get() + left());
            true
        };
        known.look(&spool, &count);
        assert_eq!((told.get(), left()), (1, 1), "it is there while it is told, and after");
        known.look(&spool, &count);
        assert_eq!((told.get(), left()), (1, 0));
        // the next daemon tells what one before it did not remove
        record(&spool, &start).unwrap();
        known.look(&spool, &count);
        Known::default().look(&spool, &count);
        assert_eq!(told.get(), 3);
    }

    #[test]
    fn what_cannot_be_removed_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("open-starts");
        record(&spool, &OpenStart::default()).unwrap();
        let mut known = Known::default();
        let told = std::cell::Cell::new(0);
        let count = |_: &OpenStart| {
            told.set(told.get() + 1);
            true
        };
        known.look(&spool, &count);
        // a directory takes the record's place, which no file's removal removes
        let (name, _) = read(&spool).unwrap().starts.remove(0);
        std::fs::rename(spool.join(&name), dir.path().join("aside")).unwrap();
        std::fs::create_dir(spool.join(&name)).unwrap();
        known.look(&spool, &count);
        assert!(known.problems.iter().any(|problem| problem.contains("cannot be removed")), "{known:?}");
        std::fs::remove_dir(spool.join(&name)).unwrap();
        std::fs::rename(dir.path().join("aside"), spool.join(&name)).unwrap();
        known.look(&spool, &count);
        assert_eq!((told.get(), known.told.len()), (1, 0));
    }
}
