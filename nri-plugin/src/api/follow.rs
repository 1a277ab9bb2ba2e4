//! Follows one resource: lists it, then watches from there; again from where it was when a watch ends, and from the
//! beginning when the server says that this is too long ago.
//!
//! The loop is our own, since what is to be known of a watch, other loops keep to themselves: bookmarks, by which
//! "nothing changed" and "nothing comes" differ; that a definition is missing, which must not read as "there are no
//! policies"; and objects of any shape whatever, of which none may end the watch.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::{ANSWER, Connector, get, next, whole};
use super::health::{Health, News};
use super::object::{Object, Resource};
use super::objects::Change;
use super::trouble::Trouble;

/// Objects in one page of a list.
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
/// The longest line of a watch, in bytes; no object is nearly as large.
const MAX_LINE: usize = 64 << 20;

/// Follows a resource until nobody takes changes any more.
pub(super) async fn follow(
    resource: Resource,
    connector: Arc<Connector>,
    changes: mpsc::Sender<Change>,
    health: Health,
) {
    let mut wait = Wait(SHORTEST);
    let mut one = Follower {
        resource,
        changes,
        health,
        client: None,
        position: None,
        paged: true,
        watching: None,
        unsaid: Unsaid::default(),
    };
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
            Err(trouble) => one.take(trouble),
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
    changes: mpsc::Sender<Change>,
    health: Health,
    client: Option<kube::Client>,
    /// The version up to which everything is known; `None`: nothing is.
    position: Option<String>,
    /// Whether lists are read in pages. Not after a list that took so long that the server forgot its beginning.
    paged: bool,
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
    /// Lists where nothing is known, then watches until the watch ends.
    async fn round(&mut self, connector: &Connector) -> Result<(), Trouble> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(connector.client().await?).clone(),
        };
        if self.position.is_none() {
            let (objects, version) = self.list(&client).await?;
            let _ending = self.changes.send(Change::All(self.resource, objects)).await;
            self.position = Some(version);
            self.paged = true;
            self.current();
        }
        self.watch(&client).await
    }

    /// Notes what stands in the way, and from where to go on.
    fn take(&mut self, trouble: Trouble) {
        match &trouble {
            Trouble::Gone => {
                self.paged = self.position.is_some();
                self.position = None;
                tracing::debug!(kind = %self.resource, "{trouble}: {}", trouble.help());
                return;
            }
            // what comes under the name later has a history of its own
            // and the same event would make no more sense the next time
            Trouble::Absent | Trouble::Nonsense(_) => self.position = None,
            Trouble::Forbidden(_) => {}
            // another token, certificate or address may have come
            Trouble::Configuration(_)
            | Trouble::Unreachable(_)
            | Trouble::Unauthorized(_)
            | Trouble::Refused(..) => {
                self.client = None;
            }
        }
        let unsaid = &mut self.unsaid;
        unsaid.absent = if trouble == Trouble::Absent { unsaid.absent.saturating_add(1) } else { 0 };
        unsaid.something |= self.health.trouble(self.resource, trouble.clone()) == News::Tell;
        if unsaid.absent >= LASTING {
            self.health.missing(self.resource);
        }
        let early = unsaid.known && (1..LASTING).contains(&unsaid.absent);
        if unsaid.something && !early {
            unsaid.something = false;
            tracing::error!(kind = %self.resource, help = trouble.help(), "{trouble}");
        }
    }

    fn current(&mut self) {
        self.unsaid = Unsaid { known: true, ..Unsaid::default() };
        if self.health.current(self.resource) == News::Tell {
            tracing::info!(kind = %self.resource, "in step with the API server");
        }
    }

    async fn list(&self, client: &kube::Client) -> Result<(Vec<Object>, String), Trouble> {
        let mut objects = Vec::new();
        let mut from = String::new();
        loop {
            let mut path = self.resource.path();
            if self.paged {
                path.push_str(&format!("?limit={PAGE}"));
            }
            if !from.is_empty() {
                path.push_str(&format!("&continue={}", encoded(&from)));
            }
            let page = whole(get(client, &path).await?.into_body()).await?;
            let mut page: Value = serde_json::from_slice(&page).map_err(|error| nonsense(&error))?;
            let items = page.get_mut("items").map(Value::take);
            let text = |name| page.pointer(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (version, more) = (text("/metadata/resourceVersion"), text("/metadata/continue"));
            // `items` is null in an empty list of some servers; a page without it is no list, and no proof of anything
            let items = match items {
                Some(Value::Array(items)) => items,
                Some(Value::Null) => Vec::new(),
                _ => return Err(nonsense(&"a list without items")),
            };
            if version.is_empty() {
                return Err(nonsense(&"a list without a version"));
            }
            objects.extend(items.into_iter().filter_map(|item| self.object(item)));
            if more.is_empty() {
                return Ok((objects, version));
            }
            if !self.paged || more == from {
                return Err(nonsense(&"a list without an end"));
            }
            from = more;
        }
    }

    fn object(&self, value: Value) -> Option<Object> {
        let object = Object::new(self.resource, value);
        if object.is_none() {
            tracing::error!(kind = %self.resource, "the API server gives an object without a name");
        }
        object
    }

    async fn watch(&mut self, client: &kube::Client) -> Result<(), Trouble> {
        let seconds = rand::random_range(WATCH..=WATCH + WATCH / 2);
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            self.resource.path(),
            encoded(self.position.as_deref().unwrap_or_default()),
        );
        let mut body = get(client, &path).await?.into_body();
        self.watching = Some(Instant::now());
        self.current();
        // the server ends the watch; where it does not, nobody may be there any more
        let longest = Duration::from_secs(seconds).saturating_add(ANSWER);
        let mut text = Vec::new();
        loop {
            let part = tokio::select! {
                part = next(&mut body, longest) => part?,
                () = self.changes.closed() => return Ok(()),
            };
            let Some(part) = part else { return Ok(()) };
            text.extend_from_slice(&part);
            let mut rest = text.as_slice();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end);
                rest = after.get(1..).unwrap_or_default();
                if !line.is_empty() {
                    self.event(serde_json::from_slice(line).map_err(|error| nonsense(&error))?).await?;
                }
            }
            let left = rest.len();
            text.drain(..text.len().saturating_sub(left));
            if left > MAX_LINE {
                return Err(nonsense(&"an event without an end"));
            }
        }
    }

    async fn event(&mut self, mut event: Value) -> Result<(), Trouble> {
        let object = event.get_mut("object").map(Value::take).unwrap_or_default();
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
        let change = match event.get("type").and_then(Value::as_str) {
            Some("BOOKMARK") => None,
            Some("ADDED" | "MODIFIED") => self.object(object).map(Change::Set),
            Some("DELETED") => self.object(object).map(|object| Change::Gone(object.key)),
            Some("ERROR") => {
                let code =
                    object.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
                return Err(Trouble::of_status(code.unwrap_or(500), object.to_string().as_bytes()));
            }
            other => return Err(nonsense(&format!("an event of the type `{}`", other.unwrap_or_default()))),
        };
        if let Some(change) = change {
            let _ending = self.changes.send(change).await;
        }
        self.position = version.or(self.position.take());
        self.current();
        Ok(())
    }
}

fn nonsense(what: &dyn std::fmt::Display) -> Trouble {
    Trouble::Nonsense(what.to_string())
}

/// A value of a query.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
