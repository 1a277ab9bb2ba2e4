//! A handler that is late, or panics, is an error in time: never a lost connection, which would let the container
//! through.
#![cfg(test)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use nri::fake::{FakeError, FakePlugin, FakeRuntime, Options};
use nri::{Event, EventMask, Lost, State, Validation};

async fn start(recorder: &Arc<Recorder>, limit: Duration) -> (FakePlugin, Running, Place) {
    let place = Place::new();
    let mut options = Options::containerd("v2.3.1");
    options.request_timeout = limit;
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let running = Running::start(builder(place.socket()).events(EventMask::ALL), recorder);
    let plugin = within(runtime.accept()).await.unwrap();
    running.synchronized().await;
    (plugin, running, place)
}

fn code(error: &FakeError) -> i32 {
    match error {
        FakeError::Status { code, .. } => *code,
        other => panic!("fails open: {other}"),
    }
}

#[tokio::test]
async fn a_late_handler_fails_closed_before_the_runtime_gives_up() {
    let recorder = Arc::new(Recorder::default());
    let late = [
        "RunPodSandbox",
        "CreateContainer",
        "StartContainer",
        "ValidateContainerAdjustment",
        "UpdateContainer",
    ];
    for handler in late {
        recorder.told(handler, Act::Hang(Duration::from_secs(60)));
    }
    let limit = Duration::from_secs(1);
    let (plugin, running, _place) = start(&recorder, limit).await;
    let (p, c) = (pod("p"), container("c"));
    for handler in late {
        let started = Instant::now();
        let error = match handler {
            "RunPodSandbox" => plugin.event(Event::RunPodSandbox, &p, None).await.unwrap_err(),
            "CreateContainer" => plugin.create_container(&p, &c).await.unwrap_err(),
            "StartContainer" => plugin.start_container(&p, &c).await.unwrap_err(),
            "UpdateContainer" => plugin.update_container(&p, &c, &Default::default()).await.unwrap_err(),
            _ => plugin.validate(&Validation::default()).await.unwrap_err(),
        };
        let took = started.elapsed();
        assert_eq!(code(&error), 4, "{handler}: {error}");
        assert!(error.to_string().contains(handler), "{error}");
        assert!(took >= Duration::from_millis(590) && took < limit, "{handler}: {took:?}");
    }
    // The handlers were dropped, not left running.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(Arc::strong_count(&recorder), 3, "handlers hold the plugin");
    assert_eq!(running.handle.counters().deadlines, 5);
    assert_eq!(recorder.finished.lock().unwrap().len(), 2, "only Configure and Synchronize ran to their end");
    plugin.remove_container(&p, &c).await.unwrap();
}

#[tokio::test]
async fn the_requests_own_limit_counts_and_the_handler_knows_it() {
    let recorder = Arc::new(Recorder::default());
    let (plugin, _running, _place) = start(&recorder, Duration::from_secs(10)).await;
    plugin.start_container(&pod("p"), &container("c")).await.unwrap();
    let remaining = *recorder.remaining.lock().unwrap();
    assert!(remaining <= Duration::from_secs(6) && remaining > Duration::from_millis(5900), "{remaining:?}");
}

#[tokio::test]
async fn a_late_handler_of_an_event_that_cannot_be_refused_runs_to_its_end() {
    let recorder =
        Arc::new(Recorder::default()).told("RemoveContainer", Act::Hang(Duration::from_millis(600)));
    let (plugin, _running, _place) = start(&recorder, Duration::from_millis(400)).await;
    let error = plugin.remove_container(&pod("p"), &container("c")).await.unwrap_err();
    assert_eq!(code(&error), 4);
    within(async {
        while !recorder.finished("RemoveContainer") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(recorder.cancelled("RemoveContainer"), "the handler was told that it is late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_is_answered_for_too() {
    let recorder =
        Arc::new(Recorder::default()).told("StartContainer", Act::Block(Duration::from_millis(900)));
    let (plugin, _running, _place) = start(&recorder, Duration::from_millis(500)).await;
    let error = plugin.start_container(&pod("p"), &container("c")).await.unwrap_err();
    assert_eq!(code(&error), 4);
    within(async {
        while !recorder.cancelled("StartContainer") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_plugin_stays() {
    let recorder = Arc::new(Recorder::default());
    for handler in ["CreateContainer", "StartContainer", "ValidateContainerAdjustment"] {
        recorder.told(handler, Act::Panic("index 7 out of 3"));
    }
    let (plugin, running, _place) = start(&recorder, Duration::from_secs(2)).await;
    let errors = [
        plugin.create_container(&pod("p"), &container("c")).await.map(|_| ()).unwrap_err(),
        plugin.start_container(&pod("p"), &container("c")).await.unwrap_err(),
        plugin.validate(&Validation::default()).await.map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(code(&error), 13);
        assert!(error.to_string().contains("index 7 out of 3"), "{error}");
    }
    assert_eq!(running.handle.counters().panics, 3);
    plugin.remove_container(&pod("p"), &container("c")).await.unwrap();
}

#[tokio::test]
async fn a_panic_or_a_refusal_in_synchronize_ends_the_connection_with_its_reason() {
    for (act, words) in [(Act::Panic("oh"), "panicked"), (Act::Refuse("no kernel"), "no kernel")] {
        let place = Place::new();
        let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
        let recorder = Arc::new(Recorder::default()).told("Synchronize", act);
        let running = Running::start(builder(place.socket()), &recorder);
        let error = within(runtime.accept()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        let state = running.state(|s| matches!(s, State::Lost { .. })).await;
        let State::Lost { reason: Lost::Synchronize(why), .. } = state else { panic!("{state:?}") };
        assert!(why.contains(words), "{why}");
        // The next connection works.
        recorder.acts.lock().unwrap().clear();
        loop {
            if within(runtime.accept()).await.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_shutdown_answers_what_was_asked_before_it() {
    let recorder =
        Arc::new(Recorder::default()).told("CreateContainer", Act::Hang(Duration::from_millis(400)));
    let (plugin, running, _place) = start(&recorder, Duration::from_secs(2)).await;
    let (p, c) = (pod("p"), container("c"));
    let create = plugin.create_container(&p, &c);
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.stop().await.unwrap();
    };
    let (created, ()) = tokio::join!(create, stop);
    created.unwrap();
    within(plugin.closed()).await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_where_nothing_is_asked() {
    let recorder = Arc::new(Recorder::default());
    let (_plugin, running, _place) = start(&recorder, Duration::from_secs(2)).await;
    let started = Instant::now();
    running.stop().await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn a_plugin_killed_in_a_call_is_what_fails_open() {
    // The other side of the coin: shows that the fake runtime would notice.
    let recorder = Arc::new(Recorder::default()).told("StartContainer", Act::Hang(Duration::from_secs(60)));
    let (plugin, running, _place) = start(&recorder, Duration::from_secs(2)).await;
    let (p, c) = (pod("p"), container("c"));
    let call = plugin.start_container(&p, &c);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(running);
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        result = call => result.unwrap_err(),
        () = kill => panic!(),
    };
    assert!(error.fails_open(), "{error}");
}
