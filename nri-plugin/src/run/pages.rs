//! What is told over HTTP about this daemon.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use crate::kernel::Kernel;
use crate::metrics::Metrics;
use crate::metrics::health::{Health, Pulse};
use crate::metrics::node::Node;
use crate::metrics::serve::Pages;
use crate::status::serve::Status;

/// The threads that matter, by name: their signs of life.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulses {
    pub(super) events: Arc<Pulse>,
    pub(super) reconciler: Arc<Pulse>,
}

/// The pages of a daemon whose policies are read and whose programs are attached. `writer` writes its alerts, and gives
/// the signs of life `alerts`: it may wait for whoever reads them, which no restart would change, so it only has to exist.
pub(super) fn pages<K: Kernel>(
    metrics: &Metrics,
    status: &Arc<Status>,
    kernel: &Arc<K>,
    Pulses { events, reconciler }: Pulses,
    (alerts, writer): (Arc<Pulse>, Weak<()>),
) -> Pages {
    let mut registry = metrics.registry();
    let threads =
        vec![("events", Arc::clone(&events)), ("reconciler", Arc::clone(&reconciler)), ("alerts", alerts)];
    let node = Node {
        status: Arc::clone(status),
        kernel: Box::new(Arc::clone(kernel)),
        threads,
        errors: metrics.scrape_errors.clone(),
    };
    registry.sub_registry_with_prefix(crate::metrics::PREFIX).register_collector(Box::new(node));

    let mut health = Health::default();
    health.live("events", move || events.check());
    health.live("reconciler", move || reconciler.check());
    health.live("alerts", move || match writer.strong_count() {
        0 => Err("the thread that writes them is gone".into()),
        _ => Ok(()),
    });
    if let Some(api) = status.api.clone() {
        health.ready("api", move || match api.has_set() {
            true => Ok(()),
            false => Err("the API server has not been read, and no last known policies are here".into()),
        });
    }
    let injection = Arc::clone(&status.injection);
    // looks at the hook's path, a few components of the host's own disk, as the creation of each selected container does
    health.ready("hook", move || injection.problem().map_or(Ok(()), Err));
    let status = Arc::clone(status);
    health.ready("nri", move || {
        match (status.connection.borrow().is_synchronized(), *status.synced.borrow()) {
            (true, true) => Ok(()),
            (true, false) => Err("what runs has not been taken over yet".into()),
            (false, _) => Err("not connected to the runtime".into()),
        }
    });
    Pages { registry, health, making: Mutex::default() }
}
