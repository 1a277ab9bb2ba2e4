//! A node without NRI, by configuration.

use super::metrics::{Page, address, get};
use super::*;

const FLAGS: [&str; 3] = ["--seccomp-only", "--nri-socket=none", "--metrics=127.0.0.1:0"];

#[tokio::test(flavor = "multi_thread")]
async fn it_is_as_good_as_any_other_and_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("--podman-storage={}", dir.path().join("no-podman").display());
    let daemon = Daemon::start(dir, &[("calls.yaml", SECCOMP)], &[&FLAGS[..], &[storage.as_str()]].concat());
    daemon.wait("ready", || daemon.dir.path().join("ready").exists()).await;
    let (code, out, err) = daemon.status(&[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("No NRI, by configuration") && !out.contains("not connected"), "{out}");
    let (code, told) = daemon.told(&[]);
    let about = &told["daemon"];
    assert_eq!((code, &about["connected"], &about["withoutNri"]), (0, &true.into(), &true.into()));
    let at = address(&daemon).await;
    let (code, _, text) = get(&at, "GET /readyz");
    assert!(code == 200 && text.contains("no nri, by configuration: ok\n"), "{code} {text}");
    let page = Page::get(&at);
    for (name, value) in [("wanted", 0.0), ("connected", 0.0), ("synchronized", 1.0)] {
        assert_eq!(page.sum(&format!("nri_enforcer_nri_{name}"), &[]), value, "{name}");
    }
    assert!(daemon.log().contains("in service, without NRI") && !daemon.log().contains("no connection"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_while_it_is_not_known_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let storage = dir.path().join("storage");
    fs::create_dir_all(storage.join("overlay-containers")).unwrap();
    fs::write(storage.join("overlay-containers/containers.json"), "[{").unwrap();
    let storage = format!("--podman-storage={}", storage.display());
    let daemon = Daemon::start(dir, &[("calls.yaml", SECCOMP)], &[&FLAGS[..], &[storage.as_str()]].concat());
    daemon.wait("that it is told", || daemon.log().contains("containers.json` makes no sense")).await;
    let (code, out, _) = daemon.status(&[]);
    assert!(code == 1 && out.contains("what runs has not been taken over yet"), "{code} {out}");
    let (code, _, text) = get(&address(&daemon).await, "GET /readyz");
    let why = "no nri, by configuration: what runs has not been taken over yet\n";
    assert!(code == 503 && text.contains(why), "{code} {text}");
    assert!(!daemon.dir.path().join("ready").exists());
}

#[test]
fn no_hook_can_be_put_into_containers_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir, &[], &[&FLAGS[..], &["--hook=/hook"]].concat());
    assert_eq!(daemon.process.wait().unwrap().code(), Some(2));
    assert!(daemon.log().contains("--hook without NRI"), "{}", daemon.log());
}
