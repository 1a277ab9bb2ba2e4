//! What the OCI hook let through without the daemon's word, since its mode is `open`: while no daemon was there, was too
//! late, or refused it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nri_enforcer_hook::spool::{OpenStart, take};

/// How often to look for it.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Takes what the hook has recorded in `dir`, now and after each such time, and has `tell` tell each once.
pub(super) async fn watch(dir: PathBuf, every: Duration, tell: impl Fn(OpenStart) + Send + Sync + 'static) {
    let told = Arc::new(Mutex::new(Vec::<String>::new()));
    let tell = Arc::new(tell);
    loop {
        let (dir, told, tell) = (dir.clone(), Arc::clone(&told), Arc::clone(&tell));
        // a file system that hangs is to keep nobody else waiting
        let looking = tokio::task::spawn_blocking(move || {
            let (starts, problems) = take(&dir).unwrap_or_else(|problem| (vec![], vec![problem]));
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            for problem in problems.iter().filter(|problem| !told.contains(problem)) {
                tracing::error!("what the OCI hook let through is not known completely: {problem}");
            }
            *told = problems; // one that stays is told once
            if !starts.is_empty() {
                let containers = starts.len();
                tracing::warn!(containers, "the OCI hook let containers start without this daemon's word");
            }
            starts.into_iter().for_each(|start| tell(start));
        });
        if let Err(error) = looking.await {
            tracing::error!(%error, "cannot look for what the OCI hook let through");
        }
        tokio::time::sleep(every).await;
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
        let telling = move |start| tell.send(start).unwrap();
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
}
