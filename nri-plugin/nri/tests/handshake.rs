//! Registration, versions, subscriptions, and connecting again.
#![cfg(test)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use nri::fake::{FakeError, FakeRuntime, Options};
use nri::{Event, EventMask, Lost, NriVersion, State, Stub};

#[tokio::test]
async fn registers_configures_and_synchronizes() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9+unknown")).unwrap();
    runtime.options.config = "a: b".to_owned();
    let recorder = Arc::new(Recorder::default());
    let running = Running::start(builder(place.socket()), &recorder);

    let mut plugin = within(runtime.connected()).await.unwrap();
    let registration = within(plugin.registered()).await.unwrap();
    assert_eq!((registration.name.as_str(), registration.index.as_str()), ("recorder", "42"));
    assert_eq!(registration.nri_version, "v0.12.2");
    assert_eq!(plugin.configure().await.unwrap(), EventMask::OLDEST);
    let State::Registered(info) = running.state(|s| matches!(s, State::Registered(_))).await else {
        panic!()
    };
    assert_eq!((info.name.as_str(), info.version.as_str()), ("containerd", "2.1.9+unknown"));
    assert_eq!(info.nri_version, Some(NriVersion::new(0, 8, 0)));
    assert!(!info.nri_version_stated);
    assert_eq!(info.unavailable, EventMask::ALL - EventMask::OLDEST);
    assert_eq!(info.config, "a: b");
    assert_eq!(info.request_timeout, Some(Duration::from_secs(2)));
    plugin.synchronize(&[pod("p")], &[container("c")]).await.unwrap();
    running.synchronized().await;
    assert_eq!(recorder.synchronized.lock().unwrap().1[0].id, "c");

    running.stop().await.unwrap();
    within(plugin.closed()).await;
}

#[tokio::test]
async fn subscribes_to_what_each_runtime_knows() {
    for (version, stated, known) in [
        ("1.7.24~ds1", false, 0x7ff),
        ("v2.0.5", false, 0x7ff),
        ("2.1.9+unknown", false, 0x7ff),
        ("v2.2.1", false, 0x3fff),
        ("v2.3.0", true, 0x3fff),
    ] {
        let place = Place::new();
        let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd(version)).unwrap();
        let recorder = Arc::new(Recorder::default());
        let running = Running::start(builder(place.socket()), &recorder);
        let plugin = within(runtime.accept()).await.unwrap();
        assert_eq!(plugin.events().bits(), known, "{version}");
        let state = running.synchronized().await;
        assert_eq!(state.runtime().unwrap().nri_version_stated, stated, "{version}");
    }
}

#[tokio::test]
async fn other_runtimes_than_containerd() {
    for (name, version, known) in
        [("cri-o", "1.33.1", 0x7ff), ("cri-o", "1.34.0", 0x3fff), ("other", "1", 0x7ff)]
    {
        let place = Place::new();
        let mut options = Options::runtime(name, version);
        options.nri_version = String::new();
        let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
        let _running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
        let plugin = within(runtime.accept()).await.unwrap();
        assert_eq!(plugin.events().bits(), known, "{name} {version}");
    }
}

#[tokio::test]
async fn a_stated_version_beats_the_table() {
    let place = Place::new();
    let mut options = Options::containerd("2.1.9");
    options.nri_version = "v0.10.0".to_owned();
    options.known_events = EventMask::ALL;
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let _running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
    assert_eq!(within(runtime.accept()).await.unwrap().events(), EventMask::ALL);
}

#[tokio::test]
async fn a_dropped_subscription_is_tried_again_with_fewer_events() {
    let place = Place::new();
    let mut options = Options::containerd("2.2.1");
    // A build that calls itself newer than it is.
    options.known_events = EventMask::OLDEST;
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
    assert!(matches!(within(runtime.accept()).await, Err(FakeError::InvalidEvents(0x3800))));
    let plugin = within(runtime.accept()).await.unwrap();
    assert_eq!(plugin.events(), EventMask::OLDEST);
    let state = running.synchronized().await;
    assert!(state.runtime().unwrap().unavailable.contains(Event::ValidateContainerAdjustment));
}

#[tokio::test]
async fn nothing_left_to_subscribe_to_is_an_error_and_not_everything() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("1.7.24")).unwrap();
    let only_new = builder(place.socket()).events(Event::ValidateContainerAdjustment);
    let running = Running::start(only_new, &Arc::new(Recorder::default()));
    let error = within(runtime.accept()).await.unwrap_err();
    assert!(error.to_string().contains("knows none of the events"), "{error}");
    let state = running.state(|s| matches!(s, State::Lost { .. })).await;
    let State::Lost { reason: Lost::Configure(why), .. } = state else { panic!("{state:?}") };
    assert!(why.contains("ValidateContainerAdjustment"), "{why}");
}

#[tokio::test]
async fn the_plugin_can_choose_fewer_events_but_not_more() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.3.0")).unwrap();
    let recorder = Arc::new(Recorder::default());
    *recorder.subset.lock().unwrap() = Some(Event::StartContainer | Event::RemoveContainer);
    let wanted = Event::StartContainer | Event::CreateContainer;
    let _running = Running::start(builder(place.socket()).events(wanted), &recorder);
    let plugin = within(runtime.accept()).await.unwrap();
    assert_eq!(plugin.events(), EventMask::from(Event::StartContainer));
}

#[tokio::test]
async fn configure_may_come_before_the_answer_to_the_registration() {
    let place = Place::new();
    let mut options = Options::containerd("2.1.9");
    options.registration_delay = Duration::from_millis(300);
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
    let started = Instant::now();
    let plugin = within(runtime.accept()).await.unwrap();
    running.synchronized().await;
    assert!(started.elapsed() < Duration::from_millis(250), "waited for the answer");
    tokio::time::sleep(Duration::from_millis(400)).await;
    plugin.start_container(&pod("p"), &container("c")).await.unwrap();
}

#[tokio::test]
async fn a_registration_may_take_longer_than_five_seconds() {
    let place = Place::new();
    let mut options = Options::containerd("2.1.9");
    options.registration_delay = Duration::from_secs(6);
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let recorder = Arc::new(Recorder::default());
    let running = Running::start(builder(place.socket()), &recorder);
    let mut plugin = within(runtime.connected()).await.unwrap();
    plugin.registered().await.unwrap();
    // The runtime is busy and configures only then.
    tokio::time::sleep(Duration::from_millis(6500)).await;
    plugin.configure().await.unwrap();
    plugin.synchronize(&[], &[]).await.unwrap();
    running.synchronized().await;
    assert_eq!(running.handle.counters().connections, 1);
}

#[tokio::test]
async fn a_refused_registration_says_why_and_is_tried_again() {
    let place = Place::new();
    let mut options = Options::containerd("2.1.9");
    options.refuse_registration = "no plugins today".to_owned();
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
    let plugin = within(runtime.connected()).await.unwrap();
    let state = running.state(|s| matches!(s, State::Lost { .. })).await;
    assert!(
        matches!(&state, State::Lost { reason: Lost::Register(why), retry_in: Some(_) } if why == "no plugins today"),
        "{state:?}"
    );
    drop(plugin);
    runtime.options.refuse_registration.clear();
    // The tries that were refused meanwhile are still in the queue.
    loop {
        if let Ok(_plugin) = within(runtime.accept()).await {
            running.synchronized().await;
            break;
        }
    }
}

#[tokio::test]
async fn a_refused_configuration_is_told_to_both_sides() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let recorder = Arc::new(Recorder::default()).told("Configure", Act::Refuse("line 3: what is this"));
    let running = Running::start(builder(place.socket()), &recorder);
    let error = within(runtime.accept()).await.unwrap_err();
    assert!(
        matches!(&error, FakeError::Status { message, .. } if message == "line 3: what is this"),
        "{error}"
    );
    let state = running.state(|s| matches!(s, State::Lost { .. })).await;
    assert!(matches!(state, State::Lost { reason: Lost::Configure(_), .. }), "{state:?}");
}

#[tokio::test]
async fn connects_again_at_every_stage_of_a_drop() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
    let started = Instant::now();
    // Dropped at once, after the registration, after Configure, after the first part of Synchronize.
    for stage in 0..4 {
        let mut plugin = within(runtime.connected()).await.unwrap();
        if stage > 0 {
            within(plugin.registered()).await.unwrap();
        }
        if stage > 1 {
            plugin.configure().await.unwrap();
        }
        if stage > 2 {
            let part = [0x18, 1]; // nothing but `more`
            plugin.call("Synchronize", part.to_vec()).await.unwrap();
        }
        drop(plugin);
    }
    let plugin = within(runtime.accept()).await.unwrap();
    running.synchronized().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // In service, then dropped: back at once.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    drop(plugin);
    let dropped = Instant::now();
    let _plugin = within(runtime.accept()).await.unwrap();
    assert!(dropped.elapsed() < Duration::from_millis(200), "{:?}", dropped.elapsed());
    running.synchronized().await;
    assert_eq!(running.handle.counters().connections, 6);
}

#[tokio::test]
async fn survives_a_runtime_that_restarts() {
    let place = Place::new();
    let recorder = Arc::new(Recorder::default());
    // The plugin is there before the runtime.
    let running = Running::start(builder(place.socket()), &recorder);
    let state = running.state(|s| matches!(s, State::Lost { .. })).await;
    let State::Lost { reason: Lost::Connect { socket, .. }, .. } = state else { panic!("{state:?}") };
    assert_eq!(socket, place.socket().display().to_string());
    for version in ["1.7.24~ds1", "2.3.0"] {
        let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd(version)).unwrap();
        runtime.options.containers = vec![container(version)];
        let plugin = within(runtime.accept()).await.unwrap();
        let state = running.synchronized().await;
        assert_eq!(state.runtime().unwrap().version, version);
        assert_eq!(recorder.synchronized.lock().unwrap().1[0].id, version);
        drop((plugin, runtime));
        running.state(|s| matches!(s, State::Lost { .. } | State::Connecting { .. })).await;
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn without_reconnection_the_loss_is_the_result() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let mut running =
        Running::start(builder(place.socket()).reconnect(false), &Arc::new(Recorder::default()));
    drop(within(runtime.accept()).await.unwrap());
    let result = within(&mut running.task).await.unwrap();
    assert!(matches!(result, Err(nri::Error::Lost(Lost::Closed))), "{result:?}");
    assert!(matches!(&*running.handle.state().borrow(), State::Lost { retry_in: None, .. }));
}

#[test]
fn names_that_a_runtime_would_refuse_are_refused_here() {
    for name in ["", "a b", "a/b", "ä"] {
        assert!(matches!(Stub::builder(name, "10").build(), Err(nri::Error::Name(_))), "{name}");
    }
    for index in ["", "1", "100", "ab", "-1"] {
        assert!(matches!(Stub::builder("ok", index).build(), Err(nri::Error::Index(_))), "{index}");
    }
    assert!(matches!(Stub::builder("ok", "00").events(EventMask::NONE).build(), Err(nri::Error::NoEvents)));
    assert!(Stub::builder("a.b_c+d-9", "00").build().is_ok());
}
