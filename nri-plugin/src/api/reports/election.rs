//! Who of all daemons writes the statuses: the holder of a lease.
//!
//! Whether a lease is over is judged by this node's own clock alone, from the moment at which it was seen to change last,
//! so that clocks that differ do no harm. All takes of it name the version that they replace: of several one succeeds.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::{Line, Shared, jittered, now};
use crate::api::client::{Way, Write, read, write};
use crate::api::trouble::Trouble;
use crate::api::wire::encoded;

/// The lease.
pub(super) const NAME: &str = "nri-enforcer-status";
/// How long giving it back may take at the end.
pub(super) const RESIGNING: Duration = Duration::from_secs(1);

/// Stands for election until `resigned`; `leading` says whether this daemon holds the lease.
pub(super) async fn stand(shared: Shared, leading: watch::Sender<bool>, mut resigned: oneshot::Receiver<()>) {
    let (mut line, mut seen) = (Line::new(&shared.health), Seen::default());
    let lease = shared.pace.lease();
    let mut next = Instant::now() + jittered(shared.pace.look());
    loop {
        tokio::select! {
            _ = &mut resigned => break,
            () = sleep_until(next) => {}
        }
        let begin = Instant::now();
        let since = seen.taken.filter(|_| *leading.borrow()).map(|taken| taken.elapsed());
        let longest = patience(lease, since);
        // an answer that comes too late is none: the lease is over by then
        let asked = async {
            let way = line.way(&shared.connector).await?;
            match round(&shared, &way, &mut seen).await? {
                Some(held) => Ok(held),
                None => Ok(round(&shared, &way, &mut seen).await?.unwrap_or(false)),
            }
        };
        let answer = tokio::time::timeout(longest, asked).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(Trouble::Unreachable(format!("no answer within {} seconds", longest.as_secs_f32())))
        });
        let held =
            match line.note("stand for election as the one who writes the statuses of policies", answer) {
                Ok(held) => held,
                // held until it is over
                Err(_) => *leading.borrow() && seen.taken.is_some_and(|taken| taken.elapsed() < lease),
            };
        if leading.send_replace(held) != held {
            match held {
                true => tracing::info!("writes the statuses of policies from now on"),
                false => tracing::warn!("writes the statuses of policies no more: another daemon does"),
            }
        }
        next = match (held, seen.over(lease)) {
            (true, _) => begin + lease / 3,
            // at the earliest when it is over, and not together with everybody who waits for that
            (false, Some(over)) => {
                let look = Instant::now() + lease / 2 + jittered(lease);
                if over > Instant::now() { look.min(over + jittered(lease / 2)) } else { look }
            }
            (false, None) => Instant::now() + lease / 2 + jittered(lease),
        };
    }
    if leading.send_replace(false)
        && let Some(way) = line.way.clone()
        && give_back(&shared, &way).await.is_ok()
    {
        tracing::info!("another daemon may write the statuses of policies now");
    }
}

/// How long an answer may take. `since`: how long ago the lease was asked for, where it is held; no longer than it is held.
fn patience(lease: Duration, since: Option<Duration>) -> Duration {
    since.map_or(lease / 2, |since| lease.saturating_sub(since).min(lease / 2))
}

/// The lease as it was seen last.
#[derive(Debug, Default)]
struct Seen {
    state: Option<(String, String)>, // holder, when it was renewed
    since: Option<Instant>,          // when that was seen first
    taken: Option<Instant>,          // when it was asked for, where this daemon got it last
}

impl Seen {
    /// Takes what the lease says.
    fn see(&mut self, holder: &str, renewed: &str) {
        let state = (holder.to_owned(), renewed.to_owned());
        if self.state.as_ref() != Some(&state) {
            (self.state, self.since) = (Some(state), Some(Instant::now()));
        }
    }

    /// When it is over, by what was seen.
    fn over(&self, lease: Duration) -> Option<Instant> {
        self.since.map(|since| since + lease)
    }
}

/// Takes or renews the lease, where that is possible; whether it is held. `None`: it was, and changed meanwhile, be it by
/// nobody else: an earlier write may have come late.
async fn round(shared: &Shared, way: &Way, seen: &mut Seen) -> Result<Option<bool>, Trouble> {
    let (all, one) = paths(shared, way);
    // many look, and for them the server's cache will do, as whoever takes it names the version; the holder must not be
    // refused for a cache that is behind
    let held = seen.state.as_ref().is_some_and(|(holder, _)| *holder == shared.node_name);
    let path = if held { one.clone() } else { format!("{one}?resourceVersion=0") };
    let lease = match read(&way.client, &path).await {
        Ok(lease) => Some(lease),
        Err(Trouble::Absent) => None,
        Err(trouble) => {
            // it can be neither taken nor renewed
            let failed = Err(trouble);
            shared.count("lease", &failed);
            return failed;
        }
    };
    let begin = Instant::now();
    let text = |pointer: &str| -> String {
        let value = lease.as_ref().and_then(|lease| lease.pointer(pointer));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (holder, renewed) = (text("/spec/holderIdentity"), text("/spec/renewTime"));
    let mine = holder == shared.node_name;
    let free = match &lease {
        None => true,
        Some(_) => {
            seen.see(&holder, &renewed);
            let over = seen.over(shared.pace.lease()).is_some_and(|over| over <= Instant::now());
            holder.is_empty() || mine || over
        }
    };
    if !free {
        return Ok(Some(false));
    }
    let time = now();
    let changes = lease
        .as_ref()
        .and_then(|lease| lease.pointer("/spec/leaseTransitions"))
        .and_then(Value::as_i64)
        .unwrap_or_default();
    let acquired = if mine { text("/spec/acquireTime") } else { String::new() };
    let body = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, "resourceVersion": text("/metadata/resourceVersion")},
        "spec": {
            "holderIdentity": shared.node_name,
            "leaseDurationSeconds": shared.pace.lease().as_secs(),
            "acquireTime": if acquired.is_empty() { time.clone() } else { acquired },
            "renewTime": time,
            "leaseTransitions": if mine { changes } else { changes.saturating_add(1) },
        },
    });
    let answer = match lease {
        None => write(&way.client, Write::Create, &all, &body).await,
        Some(_) => write(&way.client, Write::Replace, &one, &body).await,
    };
    shared.count("lease", &answer);
    let held = taken(mine, answer.map(drop))?;
    if held == Some(true) {
        seen.see(&shared.node_name, &time);
        seen.taken = Some(begin);
    }
    Ok(held)
}

/// Whether the lease is held after an answer to taking it; `None`: it has to be read again. `mine`: it was held before.
fn taken(mine: bool, answer: Result<(), Trouble>) -> Result<Option<bool>, Trouble> {
    match answer {
        Ok(()) => Ok(Some(true)),
        // an earlier write of this daemon that came late may have changed it
        Err(Trouble::Refused(409, _)) if mine => Ok(None),
        // somebody was faster
        Err(Trouble::Refused(409, _)) => Ok(Some(false)),
        Err(trouble) => Err(trouble),
    }
}

/// Lets others have the lease at once.
async fn give_back(shared: &Shared, way: &Way) -> Result<(), Trouble> {
    let (_, one) = paths(shared, way);
    let lease = read(&way.client, &one).await?;
    let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str);
    if holder != Some(shared.node_name.as_str()) {
        return Ok(());
    }
    let version = lease.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    let body = json!({"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": ""}});
    let answer = write(&way.client, Write::Merge, &one, &body).await;
    shared.count("lease", &answer);
    answer.map(drop)
}

/// Where leases are, and where this one is.
fn paths(shared: &Shared, way: &Way) -> (String, String) {
    let namespace = shared.namespace.as_deref().unwrap_or(way.client.default_namespace());
    let all = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", encoded(namespace));
    let one = format!("{all}/{NAME}");
    (all, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_not_waited_for_when_the_lease_is_over() {
        let seconds = Duration::from_secs;
        for (since, wanted) in [(None, 30), (Some(0), 30), (Some(30), 30), (Some(50), 10), (Some(61), 0)] {
            assert_eq!(patience(seconds(60), since.map(seconds)), seconds(wanted), "{since:?}");
        }
    }

    #[test]
    fn a_lease_that_changed_meanwhile_is_read_again_by_its_holder_and_lost_to_all_others() {
        let (conflict, other) =
            (|| Trouble::Refused(409, String::new()), || Trouble::Refused(500, String::new()));
        for (mine, answer, wanted) in [
            (false, Ok(()), Ok(Some(true))),
            (true, Ok(()), Ok(Some(true))),
            (true, Err(conflict()), Ok(None)),
            (false, Err(conflict()), Ok(Some(false))),
            (true, Err(other()), Err(other())),
            (false, Err(Trouble::Absent), Err(Trouble::Absent)),
        ] {
            assert_eq!(taken(mine, answer.clone()), wanted, "{mine} {answer:?}");
        }
    }
}
