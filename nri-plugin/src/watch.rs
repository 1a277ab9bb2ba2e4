//! Notices that policy directories change, and reads them again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::set::PolicySet;
use crate::store::{Reload, Store};

/// How long a directory must be quiet after a change that is complete before it is read, so that several files saved
/// together are one reading.
const QUIET: Duration = Duration::from_millis(5);
/// The same while somebody may still be writing: half a file can be a valid one.
const UNFINISHED: Duration = Duration::from_millis(100);
/// The longest that a directory which never becomes quiet delays a reading.
const AT_MOST: Duration = Duration::from_secs(1);

/// A change of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// Files were closed after writing, renamed, removed: there is no more to come of them.
    Complete(Vec<PathBuf>),
    /// Files were made or written to, and may be open.
    Unfinished(Vec<PathBuf>),
}

/// Reads `store` again whenever its directories change, when the API server tells something, when `nudge` is notified, and every `rescan` as a safety net
/// (notifications can be lost, and a directory can be replaced), and publishes what is in force. Runs until every
/// receiver of `policies` is gone. After each reading `each` is called, changed or not.
pub async fn watch(
    mut store: Store,
    dirs: Vec<PathBuf>,
    rescan: Duration,
    policies: watch::Sender<Arc<PolicySet>>,
    nudge: Arc<tokio::sync::Notify>,
    mut each: impl FnMut(&Reload) + Send,
) {
    let (sender, mut changes) = mpsc::channel(CHANGES);
    let mut watcher = watcher(sender);
    let mut said = Vec::new();
    let mut first = true;
    loop {
        if let Some(watcher) = &mut watcher {
            follow(watcher, &dirs, &mut said);
        }
        // the first reading does not wait: what changed before the directories were watched made no notification
        let mut every_file = true;
        let mut told = store.api_changes();
        if !std::mem::take(&mut first) {
            tokio::select! {
                () = policies.closed() => return,
                () = told.more() => every_file = false,
                () = nudge.notified() => {}
                () = tokio::time::sleep(rescan) => {}
                Some(change) = changes.recv() => {
                    every_file = false;
                    settle(change, &mut changes).await;
                }
            }
        }
        let reading = tokio::task::spawn_blocking(move || {
            let reload = if every_file { store.reload() } else { store.reload_changed() };
            (store, reload)
        });
        let reload = match reading.await {
            Ok((read, reload)) => {
                store = read;
                reload
            }
            Err(error) => {
                // what is in force stays; there is no store left to read with, so the process must not pretend to watch
                tracing::error!(%error, "reading the policies failed; they are no longer watched");
                return;
            }
        };
        if reload.changed {
            policies.send_replace(Arc::clone(&reload.set));
        }
        each(&reload);
    }
}

/// How many changes wait at most; those that do not fit come in a burst, which is settled as a whole.
const CHANGES: usize = 64;

/// Waits until changes have stopped: for [`QUIET`] if every file is whole, else for [`UNFINISHED`]; for [`AT_MOST`].
async fn settle(first: Change, changes: &mut mpsc::Receiver<Change>) {
    let end = Instant::now() + AT_MOST;
    let mut open = BTreeSet::new();
    let mut next = Some(first);
    while let Some(change) = next
        && Instant::now() < end
    {
        match change {
            Change::Complete(paths) => open.retain(|path| !paths.contains(path)),
            Change::Unfinished(paths) => open.extend(paths),
        }
        let quiet = if open.is_empty() { QUIET } else { UNFINISHED };
        next = tokio::time::timeout(quiet, changes.recv()).await.ok().flatten();
    }
}

/// A watcher that sends each change; one that does not fit says nothing new.
fn watcher(sender: mpsc::Sender<Change>) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if let Some(change) = change(&event) {
            let _full = sender.try_send(change);
        }
    });
    watcher
        .inspect_err(
            |error| tracing::warn!(%error, "cannot watch for changes; policies are only read periodically"),
        )
        .ok()
}

/// What an event is. Reading the directory ourselves makes access events: they must not start another reading.
fn change(event: &notify::Result<notify::Event>) -> Option<Change> {
    use notify::EventKind::{Access, Create, Modify};
    use notify::event::{AccessKind, AccessMode, ModifyKind};
    let Ok(event) = event else { return Some(Change::Complete(Vec::new())) };
    let paths = event.paths.clone();
    match event.kind {
        Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Complete(paths)),
        Access(_) => None,
        Create(_) | Modify(ModifyKind::Data(_) | ModifyKind::Any) => Some(Change::Unfinished(paths)),
        _ => Some(Change::Complete(paths)),
    }
}

/// Watches each directory, again each time: one that was replaced is another directory under the same name.
fn follow(watcher: &mut RecommendedWatcher, dirs: &[PathBuf], said: &mut Vec<PathBuf>) {
    for dir in dirs {
        let watched: &Path = dir;
        match watcher.watch(watched, RecursiveMode::NonRecursive) {
            Ok(()) => said.retain(|other| other != dir),
            Err(error) if !said.contains(dir) => {
                tracing::warn!(dir = %dir.display(), %error, "cannot watch the directory; it is only read periodically");
                said.push(dir.clone());
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {name: p, namespace: n}\n\
        spec:\n  selector: {matchLabels: {app: web}}\n  file: {matchPaths: [{path: /x}]}\n  action: Block\n";

    async fn until(policies: &mut watch::Receiver<Arc<PolicySet>>, len: usize) {
        let wait = policies.wait_for(|set| set.len() == len);
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("in time").expect("still watched");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_are_noticed_without_waiting_for_the_rescan() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = vec![dir.path().to_path_buf()];
        let (sender, mut policies) = watch::channel(Arc::default());
        let rescan = Duration::from_secs(3600);
        let task =
            tokio::spawn(watch(Store::new(dirs.clone()), dirs, rescan, sender, Arc::default(), |_| {}));
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::fs::write(dir.path().join("p.yaml"), POLICY).unwrap();
        until(&mut policies, 1).await;
        std::fs::remove_file(dir.path().join("p.yaml")).unwrap();
        until(&mut policies, 0).await;
        drop(policies);
        tokio::time::timeout(Duration::from_secs(10), task).await.expect("ends with its readers").unwrap();
    }

    /// Without any directory, too.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_api_server_tells_is_noticed_without_waiting_for_the_rescan() {
        let snapshot = |text: &str| {
            let parsed = enforcer_core::policy::parse("p", text);
            let policies = parsed.policies.into_iter().map(Arc::new).collect();
            Arc::new(crate::api::Snapshot { policies, ..Default::default() })
        };
        let (told, snapshots) = watch::channel(snapshot(""));
        let (sender, mut policies) = watch::channel(Arc::default());
        let store = Store::new(vec![]).with_api(snapshots);
        let rescan = Duration::from_secs(3600);
        tokio::spawn(watch(store, vec![], rescan, sender, Arc::default(), |_| {}));
        for _ in 0..20 {
            told.send_replace(snapshot(POLICY));
            until(&mut policies, 1).await;
            told.send_replace(snapshot(""));
            until(&mut policies, 0).await;
        }
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_given_the_time_to_become_whole() {
        let (sender, mut changes) = mpsc::channel(CHANGES);
        let begin = Instant::now();
        let writing = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            sender.send(Change::Complete(vec!["other".into()])).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            sender.send(Change::Complete(vec!["file".into()])).await.unwrap();
            sender // what was complete does not wait for its end
        });
        settle(Change::Unfinished(vec!["file".into()]), &mut changes).await;
        assert!(begin.elapsed() >= Duration::from_millis(60));
        let _sender = writing.await.unwrap();
    }

    #[test]
    fn only_changes_are_changes() {
        use notify::EventKind::{Access, Create, Modify, Remove};
        use notify::event::{
            AccessKind, AccessMode, CreateKind, DataChange, ModifyKind, RemoveKind, RenameMode,
        };
        let change = |kind| change(&Ok(notify::Event::new(kind)));
        assert_eq!(change(Access(AccessKind::Open(AccessMode::Any))), None);
        assert_eq!(change(Access(AccessKind::Close(AccessMode::Read))), None);
        assert_eq!(change(Access(AccessKind::Close(AccessMode::Write))), Some(Change::Complete(vec![])));
        assert_eq!(change(Create(CreateKind::File)), Some(Change::Unfinished(vec![])));
        assert_eq!(change(Modify(ModifyKind::Data(DataChange::Any))), Some(Change::Unfinished(vec![])));
        assert_eq!(change(Modify(ModifyKind::Name(RenameMode::To))), Some(Change::Complete(vec![])));
        assert_eq!(change(Remove(RemoveKind::File)), Some(Change::Complete(vec![])));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_replaced_directory_is_found_by_the_rescan() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("policies");
        std::fs::create_dir(&dir).unwrap();
        let (sender, mut policies) = watch::channel(Arc::default());
        let rescan = Duration::from_millis(50);
        let store = Store::new(vec![dir.clone()]);
        let _task = tokio::spawn(watch(store, vec![dir.clone()], rescan, sender, Arc::default(), |_| {}));
        std::fs::rename(&dir, parent.path().join("old")).unwrap();
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("p.yaml"), POLICY).unwrap();
        until(&mut policies, 1).await;
    }
}
