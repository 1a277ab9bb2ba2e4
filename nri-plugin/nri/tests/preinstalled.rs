//! Plugins that a runtime starts itself: the connection is descriptor 3, and the environment tells.
#![cfg(test)]

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::*;
use nri::fake::{FakePlugin, Options};
use nri::{Error, Stub};

/// Not a test by itself: the plugin's process, as the other tests start it.
#[tokio::test]
async fn child() {
    if std::env::var_os("NRI_TEST_CHILD").is_none() {
        return;
    }
    let stub = Stub::builder("not-this", "99").socket("/nonexistent").environment();
    let result = stub.run(Arc::new(Recorder::default()), std::future::pending()).await;
    let text = match result {
        Err(Error::Lost(reason)) => format!("lost: {reason}"),
        other => format!("{other:?}"),
    };
    std::fs::write(std::env::var_os("NRI_TEST_CHILD").unwrap(), text).unwrap();
}

fn start(place: &Place, given: OwnedFd, socket: &str) -> std::process::Child {
    // The shell moves our end of the pair from 0 to 3.
    let exe = std::env::current_exe().unwrap();
    Command::new("/bin/sh")
        .args(["-c", "exec 3<&0 0</dev/null; exec \"$0\" --exact child"])
        .arg(exe)
        .env_clear()
        .env("NRI_TEST_CHILD", place.socket())
        .env("NRI_PLUGIN_NAME", "installed")
        .env("NRI_PLUGIN_IDX", "07")
        .env("NRI_PLUGIN_SOCKET", socket)
        .stdin(given)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn outcome(mut child: std::process::Child, place: &Place) -> String {
    let status = within(tokio::task::spawn_blocking(move || child.wait())).await.unwrap().unwrap();
    assert!(status.success());
    std::fs::read_to_string(place.socket()).unwrap()
}

#[tokio::test]
async fn serves_over_descriptor_three_and_ends_with_it() {
    let place = Place::new();
    let (ours, given) = StdUnixStream::pair().unwrap();
    let child = start(&place, given.into(), "3");
    let mut plugin = FakePlugin::over(ours, Options::containerd("2.1.9")).await.unwrap();
    let registration = within(plugin.registered()).await.unwrap();
    assert_eq!((registration.name.as_str(), registration.index.as_str()), ("installed", "07"));
    plugin.configure().await.unwrap();
    plugin.synchronize(&[], &[container("c")]).await.unwrap();
    plugin.start_container(&pod("p"), &container("c")).await.unwrap();
    drop(plugin);
    assert_eq!(outcome(child, &place).await, "lost: the runtime closed the connection");
}

#[tokio::test]
async fn an_environment_that_cannot_be_is_an_error() {
    for (socket, words) in
        [("three", "not the number"), ("0", "not a descriptor"), ("77", "not open"), ("-1", "not a")]
    {
        let place = Place::new();
        let (_ours, given) = StdUnixStream::pair().unwrap();
        let text = outcome(start(&place, given.into(), socket), &place).await;
        assert!(text.contains(words) && text.contains("NRI_PLUGIN_SOCKET"), "{socket}: {text}");
    }
    let place = Place::new();
    let file = std::fs::File::open("/dev/null").unwrap();
    let text = outcome(start(&place, file.into(), "3"), &place).await;
    assert!(text.contains("not a socket"), "{text}");
}

#[tokio::test]
async fn without_the_variable_the_socket_is_dialled() {
    let place = Place::new();
    let mut runtime = nri::fake::FakeRuntime::bind(place.socket(), Options::containerd("2.1.9")).unwrap();
    let running = Running::start(builder(place.socket()).environment(), &Arc::new(Recorder::default()));
    within(runtime.accept()).await.unwrap();
    running.synchronized().await;
}
