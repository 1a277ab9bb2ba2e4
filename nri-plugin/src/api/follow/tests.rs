//! A server that answers what a table says, in the place of one that does what API servers do.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::client::MAX_PAGE;
use super::super::object::Key;
use super::super::object::Says;
use super::super::room::MAX_BYTES;
use super::super::wire::MAX_LINE;
use super::*;
use enforcer_core::policy::Kind;

const KIND: Resource = Resource::Policies(Kind::KubeArmorPolicy);

/// What is answered: a status, a body, and whether the connection then stays as it is.
#[derive(Clone)]
struct Answer(u16, String, bool);

fn ok(body: impl std::fmt::Display) -> Answer {
    Answer(200, body.to_string(), false)
}

fn status(code: u16) -> Answer {
    Answer(code, json!({"kind": "Status", "message": "no", "code": code}).to_string(), false)
}

/// A watch with these events, which then is silent.
fn watch(events: &[serde_json::Value]) -> Answer {
    Answer(200, events.iter().map(|event| format!("{event}\n")).collect(), true)
}

fn item(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "7"}, "spec": {}})
}

fn list(version: &str, names: &[&str], more: &str) -> Answer {
    let items: Vec<_> = names.iter().map(|name| item(name)).collect();
    ok(json!({"metadata": {"resourceVersion": version, "continue": more}, "items": items}))
}

struct Server {
    follower: Follower,
    connector: Connector,
    changes: mpsc::Receiver<Change>,
    requests: Arc<Mutex<Vec<String>>>,
    health: Health,
    again: Arc<Notify>,
    _dir: tempfile::TempDir,
}

type Answers = Box<dyn FnMut(&str) -> Answer + Send>;

impl Server {
    async fn start(resource: Resource, mut answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let Some(asked) = head.split(' ').nth(1) else { continue };
                seen.lock().unwrap().push(asked.to_owned());
                let Answer(code, body, stays) = answers(asked);
                let head = format!("HTTP/1.1 {code} X\r\nConnection: close\r\n\r\n");
                let _gone = stream.write_all(head.as_bytes()).await;
                let _gone = stream.write_all(body.as_bytes()).await;
                if stays {
                    open.push(stream);
                }
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let (sender, changes) = mpsc::channel(1000);
        let (health, again) = (Health::default(), Arc::new(Notify::new()));
        let follower = Follower::new(resource, sender, health.clone(), Arc::clone(&again));
        let connector = Connector { kubeconfig: Some(kubeconfig) };
        Self { follower, connector, changes, requests, health, again, _dir: dir }
    }

    /// One that gives these answers, one after the other.
    async fn scripted(answers: impl IntoIterator<Item = Answer>) -> Self {
        let mut answers: VecDeque<Answer> = answers.into_iter().collect();
        Self::start(KIND, Box::new(move |_| answers.pop_front().unwrap_or_else(|| status(503)))).await
    }

    /// One round, or what it has come to after a moment; what stands in the way is noted.
    async fn round(&mut self) -> Option<Result<(), Trouble>> {
        let round = self.follower.round(&self.connector);
        let ended = tokio::time::timeout(Duration::from_secs(1), round).await.ok();
        if let Some(Err(trouble)) = &ended {
            self.follower.take(trouble.clone()).await;
        }
        ended
    }

    fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.requests.lock().unwrap());
        let short = |one: String| one.split("kubearmorpolicies").last().unwrap_or_default().to_owned();
        asked.into_iter().map(short).collect()
    }

    /// What was told: all names of a list, or that one came or went.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(change) = self.changes.try_recv() {
            told.push(match change {
                Change::All(_, objects) => {
                    let names = objects.iter().map(|object| object.key.name.clone());
                    format!("all: {}", names.collect::<Vec<_>>().join(" "))
                }
                Change::Set(object) => format!("set: {}", object.key.name),
                Change::Gone(Key { name, .. }) => format!("gone: {name}"),
                Change::More(..) => "more".to_owned(),
                Change::Missing(_) => "missing".to_owned(),
            });
        }
        told
    }
}

fn is_watch(path: &str, version: &str) -> bool {
    path.starts_with("?watch=1&allowWatchBookmarks=true&")
        && path.ends_with(&format!("&resourceVersion={version}"))
}

/// What is no list drops nothing, and brings nothing in step.
#[tokio::test]
async fn what_is_no_list_tells_nothing() {
    for (answer, what) in [
        (ok("{}"), "missing field `items`"),
        (ok("<html>"), "expected value"),
        (ok(json!({"items": []})), "without a version"),
        (ok(json!({"metadata": {"resourceVersion": "1"}})), "missing field `items`"),
        (ok(json!({"metadata": {"resourceVersion": "1"}, "items": 7})), "invalid type"),
        (ok(r#"{"metadata": {"resourceVersion": "1"}, "items": ["#), "EOF"),
        (status(401), "does not know who asks"),
        (status(403), "refuses"),
        (status(404), "no such kind"),
        (status(500), "answers 500"),
    ] {
        let mut server = Server::scripted([answer]).await;
        let ended = server.round().await.unwrap().unwrap_err().to_string();
        assert!(ended.contains(what), "{ended}");
        assert_eq!(
            (server.told().len(), server.health.staleness(), server.follower.position.as_deref()),
            (0, None, None)
        );
        assert_eq!(server.health.troubles().len(), 1, "{what}");
    }
    // an empty one of some servers
    let mut server =
        Server::scripted([ok(json!({"metadata": {"resourceVersion": "1"}, "items": null}))]).await;
    server.round().await;
    assert_eq!(server.told(), ["all: "]);
}

/// What an answer comes to, from which place the next request goes on, and whether the kubeconfig is read again.
#[tokio::test]
async fn the_place_is_kept_where_it_still_is_one() {
    let error =
        |code: u16| json!({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "no"}});
    for (answer, kept, way) in [
        (status(401), true, false),
        (status(403), true, false),
        (status(404), false, false),
        (status(410), false, true),
        (status(500), true, false),
        (watch(&[error(410)]), false, true),
        (watch(&[error(500)]), true, false),
        (watch(&[json!({"type": "STRANGE", "object": {}})]), false, true),
        (watch(&[json!(7)]), false, true),
        (Answer(200, "x".repeat(MAX_LINE + 1), true), false, true),
    ] {
        let what = format!("{} {:.60}", answer.0, answer.1);
        let mut server = Server::scripted([list("5", &["a"], ""), answer, list("9", &["b"], "")]).await;
        let mut ended = None;
        for _ in 0..20 {
            ended = ended.or(server.round().await);
            if ended.is_some() {
                break;
            }
        }
        assert!(matches!(ended, Some(Err(_))), "{what}: {ended:?}");
        assert_eq!(server.told(), ["all: a"], "{what}");
        assert_eq!(
            (server.follower.position.is_some(), server.follower.way.is_some()),
            (kept, way),
            "{what}"
        );
        server.asked();
        server.round().await;
        let asked = server.asked();
        assert_eq!(is_watch(&asked[0], "5"), kept, "{what}: {asked:?}");
    }
    // nobody there
    let mut server = Server::scripted([list("5", &["a"], "")]).await;
    server.round().await;
    std::fs::write(server.connector.kubeconfig.as_ref().unwrap(), "x: [").unwrap();
    let ended = server.round().await.unwrap();
    assert!(matches!(ended, Err(Trouble::Configuration(_))), "{ended:?}");
    assert_eq!(server.follower.position.as_deref(), Some("5"));
}

/// Only what comes on a watch shows that something comes, and a bookmark alone moves the place.
#[tokio::test]
async fn a_watch_that_says_nothing_is_not_in_step() {
    let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}});
    let events = [
        json!({"type": "ADDED", "object": item("b")}),
        json!({"type": "DELETED", "object": item("a")}),
        bookmark,
    ];
    let mut server = Server::scripted([list("5", &["a"], ""), status(503), watch(&[]), watch(&events)]).await;
    server.round().await;
    assert_eq!(server.health.troubles().len(), 1);
    let read = Instant::now();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for resource in Resource::ALL.into_iter().filter(|one| *one != KIND) {
        server.health.current(resource);
    }
    assert!(server.round().await.is_none(), "the watch is open");
    assert!(server.health.troubles().is_empty());
    assert!(server.health.staleness().unwrap() >= read.elapsed(), "since the list");
    server.told();
    let before = Instant::now();
    assert!(server.round().await.is_none());
    assert_eq!(server.told(), ["set: b", "gone: a"]);
    for resource in Resource::ALL.into_iter().filter(|one| *one != KIND) {
        server.health.current(resource);
    }
    assert!(server.health.staleness().unwrap() < before.elapsed(), "since what came");
    assert_eq!(server.follower.position.as_deref(), Some("8"));
}

/// A watch on which nothing comes for long is followed by a list; so is one when room came back.
#[tokio::test]
async fn a_silent_watch_and_room_for_more_end_in_a_list() {
    let mut server =
        Server::scripted([list("5", &["a"], ""), watch(&[]), list("6", &["b"], ""), watch(&[])]).await;
    server.follower.silent = Duration::from_millis(50);
    let ended = server.round().await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("silent for"), "{ended}");
    server.follower.silent = SILENT;
    assert_eq!(server.follower.pause, AGAIN);
    server.follower.pause = Duration::ZERO;
    server.again.notify_one();
    assert_eq!(server.round().await, Some(Ok(())));
    assert_eq!(server.told(), ["all: a", "all: b"]);
    assert_eq!(server.follower.position, None, "the next one is a list, too");
}

/// Of the nodes of a cluster each daemon asks for its own.
#[tokio::test]
async fn one_object_is_asked_for_by_its_name() {
    let server = Server::scripted([list("5", &["node-1"], ""), watch(&[])]).await;
    let (connector, health) = (Arc::new(server.connector.clone()), server.health.clone());
    let (sender, mut changes) = mpsc::channel(8);
    let followed = (Resource::Node, Some("node-1".to_owned()));
    let following = tokio::spawn(follow(followed, connector, sender, health, Arc::default()));
    let Some(Change::All(Resource::Node, nodes)) = changes.recv().await else { panic!("no list") };
    assert_eq!(nodes[0].key.name, "node-1");
    let asked = server.asked();
    let wanted = "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1&limit=500";
    assert_eq!(asked[0], wanted);
    following.abort();
}

#[tokio::test]
async fn a_list_in_pages_goes_on_and_one_that_is_forgotten_is_read_at_once() {
    let mut server =
        Server::scripted([list("5", &["a"], "x+/="), status(410), list("6", &["a", "b"], ""), status(503)])
            .await;
    assert_eq!(server.round().await, Some(Err(Trouble::Gone)));
    assert_eq!(server.asked(), ["?limit=500", "?limit=500&continue=x%2B%2F%3D"]);
    server.round().await;
    assert_eq!(server.told(), ["all: a b"]);
    let asked = server.asked();
    assert!(asked[0].is_empty() && is_watch(&asked[1], "6"), "{asked:?}");
    // one that goes round in circles
    let mut server = Server::scripted([list("5", &["a"], "x"), list("5", &["a"], "x")]).await;
    let ended = server.round().await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("without an end") && server.told().is_empty(), "{ended}");
}

/// 280 MB of objects: fewer at a time are asked for, and of those past the room the names are kept.
#[tokio::test]
async fn a_list_of_large_objects_comes_through() {
    let large = format!("\"{}\"", "x".repeat(1_400_000));
    let page = move |path: &str| {
        if path.contains("watch=1") {
            return watch(&[]);
        }
        let number = |name: &str| {
            path.split(name).nth(1).and_then(|rest| rest.split('&').next()?.parse::<usize>().ok())
        };
        let (limit, from) = (number("limit=").unwrap(), number("continue=").unwrap_or(0));
        let to = (from + limit).min(200);
        // a page that is too long need not be longer than that
        let to = to.min(from + MAX_PAGE / large.len() + 1);
        let items: Vec<String> = (from..to)
            .map(|number| {
                format!(r#"{{"metadata": {{"name": "o{number}", "namespace": "n"}}, "spec": {large}}}"#)
            })
            .collect();
        let more = if to == 200 { String::new() } else { to.to_string() };
        ok(format!(
            r#"{{"metadata": {{"resourceVersion": "5", "continue": "{more}"}}, "items": [{}]}}"#,
            items.join(",")
        ))
    };
    let mut server = Server::start(KIND, Box::new(page)).await;
    let round = server.follower.round(&server.connector);
    // it ends in a watch
    tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! {
            ended = round => panic!("{ended:?}"),
            change = server.changes.recv() => {
                let Some(Change::All(_, objects)) = change else { panic!("no list") };
                let whole = objects.iter().filter(|object| matches!(object.says, Says::Text(_))).count();
                let names = objects.iter().filter(|object| matches!(object.says, Says::NoRoom(1_400_000..))).count();
                assert_eq!((whole, names), (MAX_BYTES / 1_400_150, 200 - MAX_BYTES / 1_400_150));
            }
        }
    })
    .await
    .unwrap();
}

/// Whoever answers 404 to everything is no API server without policies.
#[tokio::test]
async fn a_server_that_knows_nothing_makes_no_set() {
    let health = Health::default();
    let (sender, mut changes) = mpsc::channel(100);
    for resource in Resource::ALL {
        let mut server = Server::start(resource, Box::new(|_| status(404))).await;
        (server.follower.health, server.follower.changes) = (health.clone(), sender.clone());
        for _ in 0..2 * LASTING {
            assert!(matches!(server.round().await, Some(Err(Trouble::Absent))));
        }
        assert!(server.health.staleness().is_none());
    }
    assert!(!health.has_set() && changes.try_recv().is_err());

    // one that gives lists may be without a kind
    let mut server = Server::scripted((0..LASTING).map(|_| status(404))).await;
    let address = server.connector.way().await.unwrap().server;
    server.health.listed(Resource::Namespaces, &address);
    for _ in 0..LASTING {
        server.round().await;
    }
    assert_eq!(server.told(), ["missing"]);
}

/// An object whose parts are deeper than a decoder goes stops neither its list nor its watch.
#[tokio::test]
async fn one_object_stops_no_other() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let bad = format!(r#"{{"metadata": {{"name": "bad", "namespace": "n"}}, "spec": {{"ports": {deep}}}}}"#);
    let all = format!(r#"{{"metadata": {{"resourceVersion": "5"}}, "items": [{bad}, {}]}}"#, item("good"));
    let events = format!(
        "{{\"type\": \"ADDED\", \"object\": {bad}}}\n{}\n",
        json!({"type": "ADDED", "object": item("c")})
    );
    let mut server = Server::scripted([ok(all), Answer(200, events, true)]).await;
    assert!(server.round().await.is_none(), "the watch goes on");
    assert_eq!(server.told(), ["all: bad good", "set: bad", "set: c"]);
}
