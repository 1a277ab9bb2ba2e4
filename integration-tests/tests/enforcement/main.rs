//! What is enforced on real containers, and what goes on being enforced when things go wrong. Each test runs in a fresh
//! guest; see `lab::testing`.

mod failures;
mod host;
mod learned;
mod paths;
mod start;
mod told;
mod tricks;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use failures::{containerd_killed, daemon_killed, daemon_stalled, policies_changed_under_load};
use host::host_policies;
use lab::image;
use lab::node::RunningContainer;
use lab::testing::{Node, in_guest};
use lab::vm::{Containerd, Kernel, Spec};
use paths::{links, volumes};
use start::{first_instruction, what_is_not_selected};
use told::alerts;
use tricks::{evasion, full_preemption};

const POLICY: &str = include_str!("../../../examples/policies/block-etc-passwd-read.yaml");
/// What the policy selects.
const LABEL: (&str, &str) = ("app", "my-web-app");
/// What `first` exits with: EACCES, and success.
const DENIED: i32 = 13;
const OPENED: i32 = 0;

/// A test for each machine: `name: spec, body;`.
macro_rules! guest_tests {
    ($($name:ident: $spec:expr, $body:ident;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            in_guest(stringify!($name), &$spec, true, |node| Box::pin($body(node)))
        }
    )*};
}

const fn node(kernel: Kernel, containerd: Containerd) -> (Kernel, Containerd) {
    (kernel, containerd)
}

fn spec((kernel, containerd): (Kernel, Containerd)) -> Spec {
    Spec::node(kernel, containerd)
}

const OLD: (Kernel, Containerd) = node(Kernel::V6_1, Containerd::V1_7);
const OLD_KERNEL: (Kernel, Containerd) = node(Kernel::V6_1, Containerd::V2_1);
const OLD_RUNTIME: (Kernel, Containerd) = node(Kernel::V6_12, Containerd::V1_7);
const NEWEST: (Kernel, Containerd) = node(Kernel::Newest, Containerd::V2_1);
const NEW: (Kernel, Containerd) = node(Kernel::V6_12, Containerd::V2_1);

guest_tests! {
    first_instruction_linux_6_1_containerd_1_7: spec(OLD), first_instruction;
    first_instruction_linux_6_1_containerd_2_1: spec(OLD_KERNEL), first_instruction;
    first_instruction_linux_6_12_containerd_1_7: spec(OLD_RUNTIME), first_instruction;
    first_instruction_linux_6_12_containerd_2_1: spec(NEW), first_instruction;
    first_instruction_linux_newest_containerd_2_1: spec(NEWEST), first_instruction;
    daemon_killed_linux_6_1: spec(OLD), daemon_killed;
    daemon_killed_linux_6_12: spec(NEW), daemon_killed;
    daemon_stalled_linux_6_12: spec(NEW), daemon_stalled;
    containerd_killed_1_7: spec(OLD_RUNTIME), containerd_killed;
    containerd_killed_2_1: spec(OLD_KERNEL), containerd_killed;
    policies_changed_under_load_linux_6_1: spec(OLD_KERNEL), policies_changed_under_load;
    policies_changed_under_load_linux_6_12: spec(OLD_RUNTIME), policies_changed_under_load;
    evasion_linux_6_1: spec(OLD), evasion;
    evasion_linux_6_12: spec(NEW), evasion;
    full_preemption_linux_6_1: Spec { append: "preempt=full".into(), ..spec(OLD) }, full_preemption;
    links_linux_6_1: spec(OLD), links;
    links_linux_6_12: spec(NEW), links;
    volumes_linux_6_1: spec(OLD_KERNEL), volumes;
    volumes_linux_6_12: spec(OLD_RUNTIME), volumes;
    what_is_not_selected_linux_6_12: spec(OLD_RUNTIME), what_is_not_selected;
    host_policies_linux_6_12: spec(NEW), host_policies;
    alerts_linux_6_12: spec(NEW), alerts;
}

/// Waits up to half a minute until the container is denied.
async fn becomes_denied(node: &Node, container: &RunningContainer) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if node.exec(container, "/bin/first").await?.exit == DENIED {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(false)
}

/// Runs `first` outside any container.
fn on_host() -> Result<Option<i32>> {
    let path = "/tmp/first";
    if !std::path::Path::new(path).exists() {
        std::fs::write(path, image::FIRST)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(Command::new(path).output()?.status.code())
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
