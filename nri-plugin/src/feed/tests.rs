use super::ring::{BYTES, KEPT, RING};
use super::*;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_stream::StreamExt;

fn feed() -> Arc<Feed> {
    Feed::new(Alerts { cluster_name: "c".into(), host_name: "h".into() })
}

fn numbered(pid: u32) -> Alert {
    Alert { pid, count: 1, ..Alert::default() }
}

fn publish(feed: &Feed, alert: Alert) {
    feed.publish(&Arc::new(alert));
}

fn counted(feed: &Feed, metric: &str, stream: &str) -> u64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    feed.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let labels = if stream.is_empty() { String::new() } else { format!("{{stream=\"{stream}\"}}") };
    let line = format!("{metric}{labels} ");
    text.lines().find_map(|told| told.strip_prefix(&line)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_slow_subscriber_loses_is_told_how_many_and_holds_up_nobody() {
    let feed = feed();
    let mut slow = Box::pin(feed.subscribe("alerts", Peer(None), |alert| Some(alert.clone())).unwrap());
    let mut quick = Box::pin(feed.subscribe("alerts", Peer(None), |alert| Some(alert.clone())).unwrap());
    assert_eq!(counted(&feed, "feed_subscribers", "alerts"), 2);
    let all = u32::try_from(RING).unwrap() * 3;
    for pid in 1..=all {
        publish(&feed, numbered(pid));
        assert_eq!(quick.next().await.unwrap().pid, pid);
    }
    let told = slow.next().await.unwrap();
    assert_eq!((told.operation, told.kind), ("AlertThreshold", crate::alert::SYSTEM_EVENT));
    let lost = u64::from(all) - u64::try_from(RING).unwrap();
    assert!(told.message.starts_with(&format!("{lost} alerts are missing here")), "{}", told.message);
    assert_eq!(counted(&feed, "feed_lost_total", "alerts"), lost);
    let mut next = u32::try_from(lost).unwrap();
    while next < all {
        next += 1;
        assert_eq!(slow.next().await.unwrap().pid, next, "from there on nothing is missing");
    }
    assert_eq!(
        counted(&feed, "feed_sent_total", "alerts"),
        u64::from(all) + 1 + u64::try_from(RING).unwrap()
    );
    drop(slow);
    drop(quick);
    assert_eq!(counted(&feed, "feed_subscribers", "alerts"), 0);
    publish(&feed, numbered(1)); // nobody is there
}

#[tokio::test]
async fn a_lost_summary_is_as_many_as_it_stands_for() {
    let feed = feed();
    publish(&feed, numbered(0)); // before anybody is there
    let mut slow = Box::pin(feed.subscribe("alerts", Peer(None), |alert| Some(alert.clone())).unwrap());
    let mut messages = Box::pin(feed.subscribe("messages", Peer(None), messages::Message::of).unwrap());
    let mut logs = Box::pin(feed.subscribe("logs", Peer(None), |log| Some(log.clone())).unwrap());
    publish(&feed, Alert { count: 500, ..numbered(1) });
    let ring = u32::try_from(RING).unwrap();
    (2..=ring + 2).for_each(|pid| publish(&feed, numbered(pid)));
    let told = slow.next().await.unwrap();
    assert!(told.message.starts_with("501 alerts are missing here"), "{}", told.message);
    assert_eq!(slow.next().await.unwrap().pid, 3);
    let told = messages.next().await.unwrap();
    assert!(told.message.starts_with("up to 501 alerts are missing here"), "{}", told.message);
    let nothing = timeout(Duration::from_millis(20), logs.next()).await;
    assert!(nothing.is_err(), "logs are not alerts");
    let lost = ["alerts", "messages", "logs"].map(|stream| counted(&feed, "feed_lost_total", stream));
    assert_eq!(lost, [501, 501, 0]);
    assert_eq!(counted(&feed, "feed_subscribers", "logs"), 1);
    assert_eq!(feed.ring.readers(), 2, "logs take no part in the ring");
    publish(&feed, Alert { count: 7, ..numbered(9) });
    let mut rest = 0;
    for _ in 0..RING {
        rest += slow.next().await.unwrap().count;
    }
    assert_eq!(rest, u64::from(ring) - 1 + 7, "nothing else is missing");
}

/// The ring has a bound in bytes: what makes place for later ones is a loss like any other.
#[tokio::test]
async fn long_paths_take_no_more_memory_than_there_is_for_them() {
    let feed = feed();
    let mut slow = Box::pin(feed.subscribe("alerts", Peer(None), |alert| Some(alert.clone())).unwrap());
    for pid in 1..=1000 {
        publish(&feed, Alert { resource: "\\xff".repeat(4096), ..numbered(pid) });
    }
    assert!(feed.ring.size().1 <= BYTES, "{:?}", feed.ring.size());
    let told = slow.next().await.unwrap();
    let lost: u32 = told.message.split(' ').next().unwrap().parse().unwrap();
    assert!((300..700).contains(&lost), "{lost}");
    let mut bytes = 0;
    for pid in lost + 1..=1000 {
        let alert = slow.next().await.unwrap();
        assert_eq!(alert.pid, pid, "from there on nothing is missing");
        bytes += alert.size();
    }
    assert!((BYTES / 2..=BYTES).contains(&bytes), "{bytes}");
    let gone = feed.ring.oldest().unwrap();
    drop(slow);
    assert!(gone.upgrade().is_none(), "little is held for nobody");
    let (alerts, bytes) = feed.ring.size();
    assert!(alerts > 0 && bytes <= KEPT.bytes, "{alerts} {bytes}");
}

#[test]
fn there_are_so_many_places_and_one_that_is_left_is_free() {
    let feed = feed();
    let all: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| feed.subscribe("logs", Peer(None), |log| Some(log.clone())).unwrap())
        .collect();
    assert!(matches!(feed.subscribe("alerts", Peer(None), |_| Some(())), Err(Refused::All)));
    drop(all);
    assert!(feed.subscribe("alerts", Peer(None), |_| Some(())).is_ok());
}

#[test]
fn one_address_has_so_many_streams_and_the_others_have_theirs() {
    let feed = feed();
    let [one, other] = ["127.0.0.2", "127.0.0.1"].map(|address| Peer(Some(address.parse().unwrap())));
    let alerts = |peer| feed.subscribe("alerts", peer, |_| Some(()));
    let all: Vec<_> = (0..OF_ONE).map(|_| alerts(one).unwrap()).collect();
    assert!(matches!(feed.subscribe("logs", one, |log| Some(log.clone())), Err(Refused::OfOne)));
    assert!(alerts(other).is_ok() && alerts(Peer(None)).is_ok());
    assert_eq!(counted(&feed, "feed_refused_total", ""), 1);
    drop(all);
    assert!(alerts(one).is_ok());
}

/// A connection from this address, begun; whether the server answered.
async fn begin(at: SocketAddr, from: &str) -> (TcpStream, bool) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let mut stream = socket.connect(at).await.unwrap();
    let mut frame = [0; 9];
    let begun = async {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        stream.read_exact(&mut frame).await
    };
    let answered = timeout(Duration::from_secs(2), begun).await.is_ok_and(|answer| answer.is_ok());
    (stream, answered && frame[3] == 4) // SETTINGS
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_hold_all_connections() {
    let feed = feed();
    let listener = serve::open(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let serve::Listener::Tcp(tcp) = &listener else { panic!("{listener:?}") };
    let at = tcp.local_addr().unwrap();
    tokio::spawn(serve::serve(listener, Arc::clone(&feed)));
    let mut held = Vec::new();
    for _ in 0..serve::CALLERS {
        held.push(begin(at, "127.0.0.2").await);
    }
    assert_eq!(held.iter().filter(|(_, answered)| *answered).count(), 4);
    assert_eq!(counted(&feed, "feed_refused_total", ""), 12);
    assert!(begin(at, "127.0.0.1").await.1, "another one is served");
    drop(held);
    let mut tries = 0;
    while !begin(at, "127.0.0.2").await.1 {
        tries += 1;
        assert!(tries < 100, "its places are free again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn messages_are_what_the_daemon_itself_says() {
    let notice = Alert {
        kind: crate::alert::SYSTEM_EVENT,
        namespace_name: "n".into(),
        pod_name: "web-1".into(),
        container_name: "main".into(),
        message: "it runs unprotected".into(),
        timestamp: 7,
        ..Alert::default()
    };
    let message = messages::Message::of(&notice).unwrap();
    assert_eq!(
        (message.message.as_str(), message.level.as_str()),
        ("n/web-1/main: it runs unprotected", "WARN")
    );
    assert_eq!(messages::Message::of(&Alert { kind: "MatchedPolicy", ..notice.clone() }), None);
    let of_node = Alert { kind: crate::alert::SYSTEM_EVENT, message: "lost".into(), ..Alert::default() };
    assert_eq!(messages::Message::of(&of_node).unwrap().message, "lost");
}

#[tokio::test]
async fn logs_are_a_stream_of_their_own_and_push_no_alert_out() {
    let feed = feed();
    assert!(!feed.has_readers_of_logs());
    let mut alerts = Box::pin(feed.subscribe("alerts", Peer(None), |alert| Some(alert.clone())).unwrap());
    let mut logs =
        Box::pin(feed.subscribe("logs", Peer(None), |log| Some(messages::Log::from(log))).unwrap());
    assert!(feed.has_readers_of_logs());
    publish(&feed, numbered(1));
    let log = |pid| Arc::new(Alert { kind: crate::observe::log::CONTAINER_LOG, ..numbered(pid) });
    let all = u32::try_from(RING).unwrap() + 10;
    (0..all).for_each(|pid| feed.publish_log(&log(pid)));
    assert_eq!(alerts.next().await.unwrap().pid, 1);
    let lost = logs.next().await.unwrap();
    assert_eq!(lost.kind, crate::alert::SYSTEM_EVENT);
    assert!(lost.event_data["Message"].starts_with("10 logs are missing here"), "{lost:?}");
    let first = logs.next().await.unwrap();
    assert_eq!((first.pid, first.kind.as_str()), (10, "ContainerLog"));
    assert!(timeout(Duration::from_millis(20), alerts.next()).await.is_err(), "no log is an alert");
    drop(logs);
    assert!(!feed.has_readers_of_logs());
}

/// Beside KubeArmor on the same node it is the first thing that goes wrong.
#[tokio::test]
async fn a_port_that_somebody_has_is_told_with_what_to_do() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap();
    let error = serve::open(&at.to_string().parse().unwrap()).await.unwrap_err().to_string();
    let wanted =
        format!("cannot listen at `{at}` (--feed): somebody does already, as KubeArmor does at 32767;");
    assert!(error.starts_with(&wanted), "{error}");
}

fn pid(line: &[u8]) -> u64 {
    assert_eq!(line.last(), Some(&b'\n'));
    let alert: serde_json::Value = serde_json::from_slice(line).unwrap();
    alert["PID"].as_u64().unwrap()
}

#[tokio::test]
async fn the_last_alerts_are_kept_for_a_reader_who_comes_later_and_no_log_is() {
    let feed = feed();
    let (all, kept) = (1000, u32::try_from(KEPT.alerts).unwrap());
    (0..all).for_each(|pid| publish(&feed, numbered(pid)));
    let log = Arc::new(Alert { kind: crate::observe::log::CONTAINER_LOG, ..numbered(7) });
    feed.publish_log(&log);
    assert_eq!((feed.ring.size().0, feed.logs.size().0), (KEPT.alerts, 0));
    let wanted: Vec<u64> = (all - kept..all).map(u64::from).collect();
    assert_eq!(feed.last_lines().iter().map(|line| pid(line)).collect::<Vec<_>>(), wanted);

    let mut reader = feed.follow_lines();
    assert_eq!(counted(&feed, "feed_subscribers", "command"), 1);
    publish(&feed, numbered(all)); // before any was read
    for number in wanted.iter().copied().chain([u64::from(all)]) {
        assert_eq!(pid(&reader.next().await.unwrap()), number, "none is missing, and none told twice");
    }
    assert!(timeout(Duration::from_millis(20), reader.next()).await.is_err());
    // a gRPC subscriber begins with what comes
    let mut subscriber = Box::pin(feed.subscribe("alerts", Peer(None), |alert| Some(alert.pid)).unwrap());
    publish(&feed, numbered(all + 1));
    assert_eq!(subscriber.next().await, Some(all + 1));

    let ring = u32::try_from(RING).unwrap();
    (0..ring + 5).for_each(|number| publish(&feed, numbered(number)));
    let lost: serde_json::Value = serde_json::from_slice(&reader.next().await.unwrap()).unwrap();
    assert_eq!(lost["Data"], "notice=dropped count=6", "one was not read yet: {lost}");
    assert_eq!(counted(&feed, "feed_lost_total", "command"), 6);
    assert_eq!(pid(&reader.next().await.unwrap()), 5);
    drop(reader);
    assert_eq!(counted(&feed, "feed_subscribers", "command"), 0);
}
