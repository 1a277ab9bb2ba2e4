//! Follows the reports of all nodes: lists them, then watches from there. After any trouble all is listed again.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::definition::path;
use super::wire::NodeReport;
use super::{Line, Shared, jittered};
use crate::api::client::{Way, get, next, whole};
use crate::api::trouble::Trouble;
use crate::api::wire::{Event, Lines, Page, encoded, nonsense};

/// Reports in one page of a list: as many as fit into the most bytes of one, where each is as large as it may be.
const PAGE: usize = 20;
/// How long the server is asked to keep a watch, in seconds.
const WATCH: u64 = 240;
/// The longest that nothing may come on a watch; servers send a bookmark each minute.
const SILENT: Duration = Duration::from_secs(180);
/// The longest wait after a failure.
const LONGEST: Duration = Duration::from_secs(60);

/// What is told of the reports.
#[derive(Debug)]
pub(super) enum Change {
    /// All of them follow, up to [`Listed`](Self::Listed).
    List,
    /// One that came, or is another version.
    Set(Box<NodeReport>),
    /// The node's is gone.
    Gone(String),
    /// That were all.
    Listed,
}

/// What every object has, and a status its code.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    metadata: HeadMetadata,
    code: u16,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HeadMetadata {
    name: String,
    #[serde(rename = "resourceVersion")]
    version: String,
}

/// Follows until nobody takes changes any more.
pub(super) async fn follow(shared: Shared, changes: mpsc::Sender<Change>) {
    let (mut line, mut position) = (Line::new(&shared.health), None);
    let mut wait = shared.pace.evaluate();
    while !changes.is_closed() {
        let begin = Instant::now();
        let round = async {
            let way = line.way(&shared.connector).await?;
            round(&way, &line, &mut position, &changes).await
        };
        let ended = tokio::select! {
            ended = round => ended,
            () = changes.closed() => return,
        };
        let lasted = begin.elapsed() > wait;
        if line.note("follow the reports of nodes", ended).is_err() {
            position = None;
        }
        wait = match lasted {
            true => shared.pace.evaluate(),
            false => wait.saturating_mul(2).min(LONGEST),
        };
        sleep(jittered(wait)).await;
    }
}

/// Lists where nothing is known, then watches until the watch ends.
async fn round(
    way: &Way,
    line: &Line,
    position: &mut Option<String>,
    changes: &mpsc::Sender<Change>,
) -> Result<(), Trouble> {
    let version = match position.take() {
        Some(version) => version,
        None => list(way, changes).await?,
    };
    let mut version = version;
    let seconds = rand::random_range(WATCH..=WATCH + WATCH / 2);
    let query = format!("watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}");
    let mut body = get(&way.client, &format!("{}?{query}&resourceVersion={}", path(), encoded(&version)))
        .await?
        .into_body();
    line.works();
    let mut lines = Lines::default();
    while let Some(part) = next(&mut body, SILENT).await? {
        for line in lines.take(&part) {
            event(&line, &mut version, changes).await?;
        }
        lines.bounded()?;
    }
    *position = Some(version);
    Ok(())
}

async fn list(way: &Way, changes: &mpsc::Sender<Change>) -> Result<String, Trouble> {
    let _ending = changes.send(Change::List).await;
    let mut from = String::new();
    loop {
        let more = if from.is_empty() { String::new() } else { format!("&continue={}", encoded(&from)) };
        let page =
            whole(get(&way.client, &format!("{}?limit={PAGE}{more}", path())).await?.into_body()).await?;
        let Page { metadata, items } = serde_json::from_slice(&page).map_err(|error| nonsense(&error))?;
        for item in items.into_iter().flatten() {
            set(item, changes).await;
        }
        let more = metadata.more.unwrap_or_default();
        if more.is_empty() || more == from {
            let _ending = changes.send(Change::Listed).await;
            return Ok(metadata.version);
        }
        from = more;
    }
}

async fn event(line: &[u8], version: &mut String, changes: &mpsc::Sender<Change>) -> Result<(), Trouble> {
    let Event { sort, object } = serde_json::from_slice(line).map_err(|error| nonsense(&error))?;
    let head: Head = serde_json::from_str(object.get()).unwrap_or_default();
    match sort.as_str() {
        "ADDED" | "MODIFIED" => set(object, changes).await,
        "DELETED" => {
            let _ending = changes.send(Change::Gone(head.metadata.name)).await;
        }
        "ERROR" => return Err(Trouble::of_status(head.code, object.get().as_bytes())),
        _ => {} // a bookmark
    }
    if !head.metadata.version.is_empty() {
        *version = head.metadata.version;
    }
    Ok(())
}

/// Hands a report on. One that cannot be read, which a daemon of another version may have written, does not count.
async fn set(object: &RawValue, changes: &mpsc::Sender<Change>) {
    let change = match serde_json::from_str::<NodeReport>(object.get()) {
        Ok(report) => Change::Set(Box::new(report)),
        Err(error) => {
            let Head { metadata, .. } = serde_json::from_str(object.get()).unwrap_or_default();
            tracing::debug!(%error, report = metadata.name, "the report of a node cannot be read");
            Change::Gone(metadata.name)
        }
    };
    let _ending = changes.send(change).await;
}
