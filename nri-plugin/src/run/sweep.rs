//! What is done now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::exit::chain;
use crate::kernel::Kernel;
use crate::metrics::node::{NORMAL, RING, RING_LOGS};
use crate::order::Order;

/// Orders a sweep after each such time, and tells what the kernel side counted since; `lost` is told how many events the
/// ring buffer had no room for: the first time, since the programs were loaded, which an earlier daemon may have told.
pub(super) async fn sweep<K: Kernel>(
    kernel: Arc<K>,
    orders: Sender<Order>,
    every: Duration,
    lost: impl Fn(u64) + Send,
) {
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        tokio::time::sleep(every).await;
        if orders.send(Order::Sweep).is_err() {
            return;
        }
        let kernel = Arc::clone(&kernel);
        let counters = match tokio::task::spawn_blocking(move || kernel.counters()).await {
            Ok(Ok(counters)) => counters,
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "cannot read the counters");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the counters");
                continue;
            }
        };
        for (name, count) in counters.into_iter().filter(|(name, _)| !NORMAL.contains(&name.as_str())) {
            let before = told.insert(name.clone(), count).unwrap_or(0);
            if count > before {
                let new = count - before;
                tracing::warn!(counter = name, new, total = count, "the kernel side counted");
                if name == RING {
                    lost(new);
                }
            }
        }
    }
}

/// For how many events, of alerts and of logs, the kernel's ring buffer had no room since the programs were loaded; `None`:
/// not known.
pub(super) fn ring_dropped<K: Kernel>(kernel: &K) -> Option<u64> {
    let counters = kernel
        .counters()
        .inspect_err(|error| tracing::warn!(error = chain(error), "cannot read the counters"));
    let dropped = counters.ok()?.into_iter().filter(|(name, _)| name == RING || name == RING_LOGS);
    Some(dropped.map(|(_, count)| count).sum())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::SystemTime;

    use super::*;
    use crate::alert::{Alert, Alerts, SYSTEM_EVENT};
    use crate::kernel::recording::Recording;

    #[tokio::test(flavor = "multi_thread")]
    async fn events_that_the_ring_had_no_room_for_are_an_alert_each_time_there_are_more() {
        let kernel = Arc::<Recording>::default();
        let ((orders, ordered), (lost, told)) = (channel(), channel());
        let alerts = Alerts { cluster_name: "c".into(), host_name: "h".into() };
        let tell = move |count| lost.send(alerts.ring_full(count, SystemTime::now())).unwrap();
        let every = Duration::from_millis(5);
        let sweeping = tokio::spawn(sweep(Arc::clone(&kernel), orders, every, tell));
        let next = || -> Alert { told.recv_timeout(Duration::from_secs(10)).unwrap() };
        let first = next();
        assert_eq!((first.kind, first.data.as_str()), (SYSTEM_EVENT, "notice=ring-full count=3"));
        assert!(first.message.starts_with("3 accesses have no alert"), "{}", first.message);
        kernel.drops(40);
        assert_eq!(next().data, "notice=ring-full count=40");
        for _ in 0..5 {
            let _swept = ordered.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        assert_eq!(told.try_iter().count(), 0, "each once");
        sweeping.abort();
    }
}
