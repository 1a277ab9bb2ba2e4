//! The daemon's own log.

use super::*;

/// What takes its log has stopped reading: a full pipe must not keep the runtime waiting.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_no_container_up() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("policies")).unwrap();
    fs::write(dir.path().join("policies/calls.yaml"), SECCOMP).unwrap();
    let mut runtime = FakeRuntime::bind(dir.path().join("nri.sock"), Options::containerd("2.4.0")).unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = Daemon::command(dir.path(), &["--seccomp-only", "--metrics", &address]);
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut daemon = Daemon { dir, process };
    let plugin = runtime.accept().await.unwrap();
    let pod = pod("web", "default");
    // each is a line of some hundred bytes: many times what a pipe holds, and more than may wait
    for number in 0..5000 {
        let container = container(&pod, &format!("c{number}"));
        plugin.create_container(&pod, &container).await.unwrap();
        plugin.remove_container(&pod, &container).await.unwrap();
    }
    let (_, _, page) = metrics::get(&address, "GET /metrics");
    let lost = page.lines().find_map(|line| line.strip_prefix("nri_enforcer_log_lines_lost_total "));
    assert!(lost.unwrap().parse::<u64>().unwrap() > 0, "{lost:?}");
    // nor its own end
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.process.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let begin = Instant::now();
    while daemon.process.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
