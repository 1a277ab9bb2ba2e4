use super::*;

fn feed() -> Arc<Feed> {
    Feed::new(Alerts { cluster_name: "c".into(), host_name: "h".into() })
}

fn numbered(pid: u32) -> Alert {
    Alert { pid, ..Alert::default() }
}

fn counted(feed: &Feed, metric: &str, stream: &str) -> u64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    feed.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = format!("{metric}{{stream=\"{stream}\"}} ");
    text.lines().find_map(|told| told.strip_prefix(&line)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_slow_subscriber_loses_is_told_how_many_and_holds_up_nobody() {
    let feed = feed();
    let mut slow = Box::pin(feed.subscribe("alerts", |alert| Some(alert.clone())).unwrap());
    let mut quick = Box::pin(feed.subscribe("alerts", |alert| Some(alert.clone())).unwrap());
    assert_eq!(counted(&feed, "feed_subscribers", "alerts"), 2);
    let all = u32::try_from(RING).unwrap() * 3;
    for pid in 1..=all {
        feed.publish(&numbered(pid));
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
    feed.publish(&numbered(1)); // nobody is there
}

#[test]
fn there_are_so_many_places_and_one_that_is_left_is_free() {
    let feed = feed();
    let all: Vec<_> = (0..SUBSCRIBERS).map(|_| feed.subscribe("logs", |_| Some(())).unwrap()).collect();
    assert!(feed.subscribe("alerts", |_| Some(())).is_none());
    drop(all);
    assert!(feed.subscribe("alerts", |_| Some(())).is_some());
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
