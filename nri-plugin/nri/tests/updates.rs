//! Updates that the plugin sends of its own accord.
#![cfg(test)]

mod common;

use std::sync::Arc;

use common::*;
use nri::fake::{FakeRuntime, Options};
use nri::{ContainerUpdate, LinuxResources, UpdateError};

fn update(id: &str) -> ContainerUpdate {
    let mut resources = LinuxResources::default();
    resources.pids = Some(100);
    ContainerUpdate::new(id, resources)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_all_arrive_while_events_go_on() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
    let mut plugin = within(runtime.accept()).await.unwrap();
    running.synchronized().await;
    let calls: Vec<_> = (0..200)
        .map(|i| {
            let handle = running.handle.clone();
            tokio::spawn(async move { handle.update_containers(vec![update(&format!("c{i}"))]).await })
        })
        .collect();
    for _ in 0..200 {
        plugin.start_container(&pod("p"), &container("c")).await.unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for call in calls {
        assert_eq!(within(call).await.unwrap().unwrap(), []);
        seen.insert(within(plugin.next_update()).await.unwrap()[0].container_id.clone());
    }
    assert_eq!(seen.len(), 200);
}

#[tokio::test]
async fn large_updates_survive_a_reader_written_in_go() {
    let place = Place::new();
    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
    let mut plugin = within(runtime.accept()).await.unwrap();
    running.synchronized().await;
    let updates: Vec<_> = (0..20_000).map(|i| update(&format!("container-{i}"))).collect();
    running.handle.update_containers(updates.clone()).await.unwrap();
    assert!(within(plugin.next_update()).await.unwrap() == updates);
}

#[tokio::test]
async fn failed_updates_come_back() {
    let place = Place::new();
    let mut options = Options::containerd("2.1.9");
    options.failing_updates = vec!["b".to_owned()];
    let mut runtime = FakeRuntime::bind(place.socket(), options).unwrap();
    let running = Running::start(builder(place.socket()), &Arc::new(Recorder::default()));
    let _plugin = within(runtime.accept()).await.unwrap();
    running.synchronized().await;
    let failed = running.handle.update_containers(vec![update("a"), update("b")]).await.unwrap();
    assert_eq!(failed, [update("b")]);
}

#[tokio::test]
async fn not_from_a_handler_and_not_without_a_connection() {
    let place = Place::new();
    let recorder = Arc::new(Recorder::default());
    let running = Running::start(builder(place.socket()), &recorder);
    let error = running.handle.update_containers(vec![update("a")]).await.unwrap_err();
    assert!(matches!(error, UpdateError::NotConnected), "{error}");

    let mut runtime = FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let plugin = within(runtime.accept()).await.unwrap();
    running.synchronized().await;
    *recorder.handle.lock().unwrap() = Some(running.handle.clone());
    // The recorder refuses with the error that it got.
    let error = within(plugin.create_container(&pod("p"), &container("c"))).await.unwrap_err();
    assert!(error.to_string().contains("inside a handler"), "{error}");

    drop((plugin, runtime));
    running.state(|s| !s.is_synchronized()).await;
    let error = within(running.handle.update_containers(vec![update("a")])).await.unwrap_err();
    assert!(matches!(error, UpdateError::NotConnected), "{error}");
}
