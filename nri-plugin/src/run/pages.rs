//! What is told over HTTP about this daemon.

use std::sync::{Arc, Weak};

use crate::kernel::Kernel;
use crate::lock::Lock;
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
        health.ready("api", move || match (api.has_set(), api.lacks_of_cluster()) {
            (false, _) => Err("the API server has not been read, and no last known policies are here".into()),
            // policies of a namespace that has too many are its own matter: they must not make nodes unready
            (true, true) => {
                Err("policies of the cluster, or postures of namespaces, are left out for want of room"
                    .into())
            }
            (true, false) => Ok(()),
        });
    }
    let observes = status.selection.lock == Lock::Nothing && !status.selection.seccomp_only;
    health.ready("lock", move || match observes {
        true => Err("none works on this node: no rule but seccomp policies is enforced".into()),
        false => Ok(()),
    });
    let injection = Arc::clone(&status.injection);
    // looks at the hook's path, a few components of the host's own disk, as the creation of each selected container does
    health.ready("hook", move || injection.problem().map_or(Ok(()), Err));
    let status = Arc::clone(status);
    let name = if status.connection.is_without_nri() { "no nri, by configuration" } else { "nri" };
    health.ready(name, move || status.connection.problem().map_or(Ok(()), |why| Err(why.into())));
    Pages { registry, health, making: Arc::default() }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::container::Selection;
    use crate::kernel::recording::Recording;
    use crate::metrics::health::PATIENCE;
    use crate::registry::Registry;

    /// What `/healthz` says, whether it is well, and the same of `/readyz`.
    fn health(
        events: &Arc<Pulse>,
        reconciler: &Arc<Pulse>,
        writer: Weak<()>,
        synced: bool,
        lock: Lock,
    ) -> (String, bool, bool) {
        let (dir, registry) = (tempfile::tempdir().unwrap(), Arc::<Registry>::default());
        let selection = Selection { lock, ..Selection::default() };
        let policies = watch::channel(Arc::default()).1;
        let status = Status {
            connection: crate::status::tests::connection(nri::State::Synchronized(Arc::default()), synced),
            ..crate::status::tests::status(selection, &registry, policies, dir.path())
        };
        let pulses = Pulses { events: Arc::clone(events), reconciler: Arc::clone(reconciler) };
        let kernel = Arc::<Recording>::default();
        let alerts = (Arc::new(Pulse::silent_for(PATIENCE * 2)), writer); // it may wait for a reader
        let health = pages(&Metrics::default(), &Arc::new(status), &kernel, pulses, alerts).health;
        let (alive, text) = health.healthz();
        (text, alive, health.readyz().0)
    }

    #[test]
    fn each_thread_that_is_stuck_or_gone_fails_the_check_of_its_name() {
        let [well, stuck] = [Pulse::default(), Pulse::silent_for(PATIENCE * 2)].map(Arc::new);
        let there = Arc::new(());
        let writer = || Arc::downgrade(&there);
        let all = "events: ok\nreconciler: ok\nalerts: ok\n".to_owned();
        assert_eq!(health(&well, &well, writer(), true, Lock::Bpf), (all.clone(), true, true));
        assert_eq!(health(&well, &well, writer(), false, Lock::Bpf), (all.clone(), true, false));
        assert_eq!(
            health(&well, &well, writer(), true, Lock::Nothing),
            (all, true, false),
            "it only observes"
        );
        for (events, reconciler, writer, failed) in [
            (&stuck, &well, writer(), "events: no sign of life for 60 s\n"),
            (&well, &stuck, writer(), "reconciler: no sign of life for 60 s\n"),
            (&well, &well, Weak::new(), "alerts: the thread that writes them is gone\n"),
        ] {
            let (text, alive, ready) = health(events, reconciler, writer, true, Lock::Bpf);
            assert!(!alive && !ready && text.contains(failed), "{text}");
            assert_eq!(text.matches(": ok\n").count(), 2, "{text}");
        }
    }
}
