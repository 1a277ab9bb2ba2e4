//! The list of what runs: in parts, late, and huge.
#![cfg(test)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use nri::fake::{FakeRuntime, Options};
use nri::{Container, ContainerUpdate, LinuxResources, PodSandbox, State};

fn many(count: usize, bytes: usize) -> (Vec<PodSandbox>, Vec<Container>) {
    let filler = "x".repeat(bytes);
    let pods = (0..count).map(|i| {
        let mut pod = pod(&format!("p{i}"));
        pod.annotations.insert("filler".to_owned(), filler.clone());
        pod
    });
    let containers = (0..count).map(|i| {
        let mut container = container(&format!("c{i}"));
        container.pid = u32::try_from(i + 1).unwrap();
        container.annotations.insert("filler".to_owned(), filler.clone());
        container
    });
    (pods.collect(), containers.collect())
}

#[tokio::test]
async fn three_thousand_containers_in_parts_are_delivered_once() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let recorder = Arc::new(Recorder::default());
    let update = ContainerUpdate::new("c7", LinuxResources::default());
    *recorder.updates.lock().unwrap() = vec![update.clone()];
    let running = Running::start(builder(place.socket()), &recorder);
    let (pods, containers) = many(3000, 2000);
    let mut plugin = within(runtime.connected()).await.unwrap();
    plugin.registered().await.unwrap();
    plugin.configure().await.unwrap();
    let (updates, parts) = within(plugin.synchronize(&pods, &containers)).await.unwrap();
    assert!(parts > 2, "{parts}");
    assert_eq!(updates, [update]);
    running.synchronized().await;
    assert_eq!(recorder.names(), ["Configure", "Synchronize"]);
    assert!(*recorder.synchronized.lock().unwrap() == (pods, containers));
}

#[tokio::test]
async fn one_large_message_works_as_well_as_many_small_ones() {
    for (largest, count) in [(4 << 20, 900), (20_000, 100)] {
        let place = Place::new();
        let mut options = Options::containerd("2.1.9");
        options.largest_message = largest;
        (options.pods, options.containers) = many(count, 2000);
        let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
        let recorder = Arc::new(Recorder::default());
        let _running = Running::start(builder(place.socket()), &recorder);
        within(runtime.accept()).await.unwrap();
        assert_eq!(recorder.synchronized.lock().unwrap().1.len(), count);
        assert_eq!(recorder.names(), ["Configure", "Synchronize"]);
    }
}

#[tokio::test]
async fn parts_of_a_broken_connection_do_not_reach_the_next_one() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let recorder = Arc::new(Recorder::default());
    let _running = Running::start(builder(place.socket()), &recorder);
    let mut plugin = within(runtime.connected()).await.unwrap();
    plugin.registered().await.unwrap();
    plugin.configure().await.unwrap();
    // containers { id: "z" }, more
    plugin.call("Synchronize", vec![0x12, 3, 0x0a, 1, b'z', 0x18, 1]).await.unwrap();
    drop(plugin);
    runtime.options.containers = vec![container("a")];
    let _plugin = within(runtime.accept()).await.unwrap();
    let ids: Vec<_> = recorder.synchronized.lock().unwrap().1.iter().map(|c| c.id.clone()).collect();
    assert_eq!(ids, ["a"]);
}

#[tokio::test]
async fn a_late_synchronisation_keeps_the_plugin_and_follows_up() {
    let place = Place::new();
    let mut options = Options::containerd("2.1.9");
    options.request_timeout = Duration::from_millis(500);
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let recorder = Arc::new(Recorder::default()).told("Synchronize", Act::Hang(Duration::from_millis(800)));
    let update = ContainerUpdate::new("c", LinuxResources::default());
    *recorder.updates.lock().unwrap() = vec![update.clone()];
    let running = Running::start(builder(place.socket()), &recorder);
    let (mut plugin, updates) = within(runtime.accept_with_updates()).await.unwrap();
    assert_eq!(updates, []);
    // Events are served meanwhile, but nobody is told that the plugin is in step.
    plugin.start_container(&pod("p"), &container("c")).await.unwrap();
    assert!(matches!(&*running.handle.state().borrow(), State::Registered(_)));
    running.synchronized().await;
    assert_eq!(within(plugin.next_update()).await.unwrap(), [update]);
}

#[tokio::test]
async fn a_late_synchronisation_that_fails_ends_the_connection() {
    let place = Place::new();
    let mut options = Options::containerd("2.1.9");
    options.request_timeout = Duration::from_millis(300);
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let recorder = Arc::new(Recorder::default());
    recorder.told("Synchronize", Act::HangThenRefuse(Duration::from_millis(500), "too much"));
    let running = Running::start(builder(place.socket()), &recorder);
    let plugin = within(runtime.accept()).await.unwrap();
    let state = running.state(|s| matches!(s, State::Lost { .. })).await;
    assert!(format!("{state:?}").contains("too much"), "{state:?}");
    within(plugin.closed()).await;
}

#[tokio::test]
async fn a_late_synchronisation_does_not_speak_for_the_next_connection() {
    let place = Place::new();
    let mut options = Options::containerd("2.1.9");
    options.request_timeout = Duration::from_millis(300);
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let recorder = Arc::new(Recorder::default()).told("Synchronize", Act::Hang(Duration::from_millis(800)));
    let running = Running::start(builder(place.socket()), &recorder);
    drop(within(runtime.accept()).await.unwrap());
    let mut plugin = within(runtime.connected()).await.unwrap();
    plugin.registered().await.unwrap();
    plugin.configure().await.unwrap();
    within(async {
        while !recorder.finished("Synchronize") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matches!(&*running.handle.state().borrow(), State::Registered(_)));
    let error = running.handle.update_containers(Vec::new()).await.unwrap_err();
    assert!(matches!(error, nri::UpdateError::NotConnected), "{error}");
}
