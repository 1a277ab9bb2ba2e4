//! Follows one resource: lists it, then watches from there; again from where it was when a watch ends, and from the
//! beginning when the server says that this is too long ago.
//!
//! The loop is our own, since what is to be known of a watch, other loops keep to themselves: bookmarks, by which
//! "nothing changed" and "nothing comes" differ; that a definition is missing, which must not read as "there are no
//! policies"; and objects of any shape whatever, of which none may end the watch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::client::{Connector, Way, get, next, silent, whole};
use super::health::{Health, News};
use super::listed::Listed;
use super::object::{Item, Object, Resource};
use super::objects::Change;
use super::trouble::Trouble;
use super::wire::{Event, Lines, Page, encoded, nonsense};

/// Objects in one page of a list; half as many after a page that is too long.
const PAGE: usize = 500;
/// How long the server is asked to keep a watch, in seconds; each watch takes up to half as much again, so that the
/// nodes of a cluster, all started at once, do not come back all at once.
const WATCH: u64 = 240;
/// The wait after a first failure, doubled by each further one up to [`LONGEST`]; a random part of up to one half is
/// taken off, for the same reason.
const SHORTEST: Duration = Duration::from_millis(400);
/// See [`SHORTEST`].
const LONGEST: Duration = Duration::from_secs(30);
/// A watch that ends sooner counts as a failure as to the wait, lest lists and watches follow one another without a pause.
const LASTED: Duration = Duration::from_secs(2);
/// After how many answers without it, one after the other, a kind that was there is missing: some two seconds.
const LASTING: u32 = 4;
/// The least time from a list to one that is asked for since there is room again: who makes and deletes objects must not make
/// every node list them all each time.
const AGAIN: Duration = Duration::from_secs(30);
/// The longest that nothing may come on a watch; servers send a bookmark each minute. After that all is listed, which shows
/// whether the server or somebody before it is silent.
const SILENT: Duration = Duration::from_secs(180);

/// Follows a resource until nobody takes changes any more, or those objects of it that have this name. `again` asks for a
/// list.
pub(super) async fn follow(
    (resource, name): (Resource, Option<String>),
    connector: Arc<Connector>,
    changes: mpsc::Sender<Change>,
    health: Health,
    again: Arc<Notify>,
) {
    let mut wait = Wait(SHORTEST);
    let mut one = Follower::new(resource, changes, health, again);
    one.only = name.map(|name| format!("fieldSelector={}", encoded(&format!("metadata.name={name}"))));
    while !one.changes.is_closed() {
        let ended = one.round(&connector).await;
        // time that went into waiting for an answer that was none is no reason to hurry
        let lasted = one.watching.take().is_some_and(|since| since.elapsed() >= LASTED);
        if lasted {
            wait.0 = SHORTEST;
        }
        match ended {
            Ok(()) if lasted => continue,
            Ok(()) => {}
            Err(trouble) => one.take(trouble).await,
        }
        tokio::time::sleep(wait.next()).await;
    }
}

struct Wait(Duration);

impl Wait {
    fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = wait.saturating_mul(2).min(LONGEST);
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }
}

struct Follower {
    resource: Resource,
    /// Which objects; `None`: all of them.
    only: Option<String>,
    changes: mpsc::Sender<Change>,
    health: Health,
    again: Arc<Notify>,
    way: Option<Way>,
    /// The server that was asked last.
    server: String,
    /// The version up to which everything is known; `None`: nothing is.
    position: Option<String>,
    /// Objects in one page of a list.
    page: usize,
    /// Whether lists are read in pages. Not after a list that took so long that the server forgot its beginning.
    paged: bool,
    /// See [`SILENT`].
    silent: Duration,
    /// See [`AGAIN`].
    pause: Duration,
    /// When all was listed last.
    listed: Option<Instant>,
    /// Since when there is a watch.
    watching: Option<Instant>,
    unsaid: Unsaid,
}

/// A kind that is there and then is not: an API server that starts knows no custom resource for a moment, and that is no
/// news for people. It is, once it lasts.
#[derive(Default)]
struct Unsaid {
    known: bool,     // the kind was there
    absent: u32,     // answers without it since
    something: bool, // news that were kept back
}

impl Follower {
    fn new(resource: Resource, changes: mpsc::Sender<Change>, health: Health, again: Arc<Notify>) -> Self {
        Self {
            resource,
            only: None,
            changes,
            health,
            again,
            way: None,
            server: String::new(),
            position: None,
            page: PAGE,
            paged: true,
            silent: SILENT,
            pause: AGAIN,
            listed: None,
            watching: None,
            unsaid: Unsaid::default(),
        }
    }

    /// Lists where nothing is known, then watches until the watch ends.
    async fn round(&mut self, connector: &Connector) -> Result<(), Trouble> {
        let way = match &self.way {
            Some(way) => way.clone(),
            None => self.way.insert(connector.way().await?).clone(),
        };
        self.server = way.server;
        if self.position.is_none() {
            let (listed, version) = self.list(&way.client).await?;
            let (objects, more) = listed.end();
            let _ending = self.changes.send(Change::All(self.resource, objects)).await;
            if more > 0 {
                let _ending = self.changes.send(Change::More(self.resource, more)).await;
            }
            self.position = Some(version);
            self.listed = Some(Instant::now());
            self.paged = true;
            let news = self.health.listed(self.resource, &self.server);
            self.current(news);
        }
        self.watch(&way.client).await
    }

    /// Notes what stands in the way, and from where to go on.
    async fn take(&mut self, trouble: Trouble) {
        match &trouble {
            Trouble::Gone => {
                self.paged = self.position.is_some();
                self.position = None;
                tracing::debug!(kind = %self.resource, "{trouble}: {}", trouble.help());
                return;
            }
            // the same event would make no more sense the next time
            Trouble::Nonsense(_) | Trouble::TooLong(_) => self.position = None,
            // what comes under the name later has a history of its own
            Trouble::Absent => (self.position, self.way) = (None, None),
            // another token, certificate or address may have come
            Trouble::Configuration(_)
            | Trouble::Unreachable(_)
            | Trouble::Unauthorized(_)
            | Trouble::Forbidden(_)
            | Trouble::Refused(..) => self.way = None,
        }
        let unsaid = &mut self.unsaid;
        unsaid.absent = if trouble == Trouble::Absent { unsaid.absent.saturating_add(1) } else { 0 };
        unsaid.something |= self.health.trouble(self.resource, trouble.clone()) == News::Tell;
        if unsaid.absent >= LASTING && self.health.missing(self.resource, &self.server) {
            let _ending = self.changes.send(Change::Missing(self.resource)).await;
        }
        let early = unsaid.known && (1..LASTING).contains(&unsaid.absent);
        if unsaid.something && !early {
            unsaid.something = false;
            tracing::error!(kind = %self.resource, help = trouble.help(), "{trouble}");
        }
    }

    fn current(&mut self, news: News) {
        self.unsaid = Unsaid { known: true, ..Unsaid::default() };
        if news == News::Tell {
            tracing::info!(kind = %self.resource, "in step with the API server");
        }
    }

    async fn list(&mut self, client: &kube::Client) -> Result<(Listed, String), Trouble> {
        let mut listed = Listed::of(self.resource);
        let mut from = String::new();
        loop {
            let limit = self.paged.then(|| format!("limit={}", self.page));
            let more = (!from.is_empty()).then(|| format!("continue={}", encoded(&from)));
            let path = self.path(limit.into_iter().chain(more));
            let page = match whole(get(client, &path).await?.into_body()).await {
                Err(Trouble::TooLong(_)) if !self.paged || self.page > 1 => {
                    if self.paged {
                        self.page /= 2;
                    }
                    self.paged = true;
                    continue;
                }
                page => page?,
            };
            let Page { metadata, items } = serde_json::from_slice(&page).map_err(|error| nonsense(&error))?;
            if metadata.version.is_empty() {
                return Err(nonsense(&"a list without a version"));
            }
            let items = items.into_iter().flatten().map(Item::new);
            items.filter_map(|item| self.object(&item)).for_each(|object| listed.push(object));
            let more = metadata.more.unwrap_or_default();
            if more.is_empty() {
                return Ok((listed, metadata.version));
            }
            if !self.paged || more == from {
                return Err(nonsense(&"a list without an end"));
            }
            from = more;
        }
    }

    /// Where the objects are, asked for in this way.
    fn path(&self, how: impl IntoIterator<Item = String>) -> String {
        let how: Vec<String> = self.only.iter().cloned().chain(how).collect();
        let mark = if how.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", self.resource.path(), how.join("&"))
    }

    fn object(&self, item: &Item<'_>) -> Option<Object> {
        let object = item.object(self.resource);
        if object.is_none() {
            tracing::error!(kind = %self.resource, "the API server gives an object without a name");
        }
        object
    }

    async fn watch(&mut self, client: &kube::Client) -> Result<(), Trouble> {
        let seconds = rand::random_range(WATCH..=WATCH + WATCH / 2);
        let path = self.path([format!(
            "watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            encoded(self.position.as_deref().unwrap_or_default()),
        )]);
        let mut body = get(client, &path).await?.into_body();
        self.watching = Some(Instant::now());
        // that something answers is no proof yet that anything will come
        self.unsaid = Unsaid { known: true, ..Unsaid::default() };
        if self.health.answers(self.resource) == News::Tell {
            tracing::info!(kind = %self.resource, "the API server answers again");
        }
        let mut lines = Lines::default();
        loop {
            let part = tokio::select! {
                part = next(&mut body, self.silent) => match part {
                    Ok(part) => part,
                    Err(trouble) => {
                        if trouble == silent(self.silent) {
                            self.position = None;
                        }
                        return Err(trouble);
                    }
                },
                () = self.changes.closed() => return Ok(()),
                () = wanted(self.listed, self.pause, &self.again) => {
                    self.position = None;
                    return Ok(());
                }
            };
            let Some(part) = part else { return Ok(()) };
            for line in lines.take(&part) {
                self.event(&line).await?;
            }
            lines.bounded()?;
        }
    }

    async fn event(&mut self, line: &[u8]) -> Result<(), Trouble> {
        let Event { sort, object } = serde_json::from_slice(line).map_err(|error| nonsense(&error))?;
        let item = Item::new(object);
        let change = match sort.as_str() {
            "BOOKMARK" => None,
            "ADDED" | "MODIFIED" => self.object(&item).map(Change::Set),
            "DELETED" => item.key(self.resource).map(Change::Gone),
            "ERROR" => return Err(Trouble::of_status(item.code().unwrap_or(500), object.get().as_bytes())),
            other => return Err(nonsense(&format!("an event of the type `{other}`"))),
        };
        if let Some(change) = change {
            let _ending = self.changes.send(change).await;
        }
        self.position = item.version().or(self.position.take());
        let news = self.health.current(self.resource);
        self.current(news);
        Ok(())
    }
}

/// A list is asked for, and the last one is long enough ago.
async fn wanted(listed: Option<Instant>, pause: Duration, again: &Notify) {
    if let Some(listed) = listed {
        sleep_until(listed + pause).await;
    }
    again.notified().await;
}

#[cfg(test)]
mod tests;
