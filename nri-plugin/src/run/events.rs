//! The thread that turns events of the kernel into alerts.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use tokio::sync::oneshot;

use super::denials::Denials;
use crate::alert::living::{Living, booted};
use crate::alert::{Alert, Alerts};
use crate::exit::chain;
use crate::kernel::Kernel;
use crate::limit::Limiter;
use crate::metrics::Metrics;
use crate::metrics::health::Pulse;
use crate::observe::logs::Logs;
use crate::observe::watches::Watches;
use crate::procs::Procs;
use crate::registry::Registry;
use crate::report::Reporter;

/// How long the difference between the clocks counts.
const SAME: Duration = Duration::from_secs(30);

/// A thread whose end is noticed, also by a panic.
pub(super) struct Thread {
    pub(super) handle: JoinHandle<()>,
    end: oneshot::Receiver<String>,
}

impl Thread {
    pub(super) fn spawn(
        name: &str,
        body: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (sender, end) = oneshot::channel();
        let body = move || {
            let why = body().err().unwrap_or_else(|| "it ended".into());
            let _ending = sender.send(why); // dropped unsent by a panic
        };
        let handle = std::thread::Builder::new()
            .name(name.into())
            .spawn(body)
            .with_context(|| format!("cannot start the thread `{name}`"))?;
        Ok(Self { handle, end })
    }

    /// Why it ended, once it has.
    pub(super) async fn ended(&mut self) -> String {
        (&mut self.end).await.unwrap_or_else(|_| "it panicked".into())
    }
}

/// What becomes of events.
pub(super) struct Events {
    pub(super) registry: Arc<Registry>,
    pub(super) alerts: Alerts,
    pub(super) reporter: Reporter,
    pub(super) metrics: Metrics,
    /// What AppArmor and SELinux deny; `None` where neither is a lock, or nothing can be heard.
    pub(super) denials: Option<Denials>,
    /// See [`Limiter::new`].
    pub(super) rate: u32,
    /// What no policy concerns, and is to be seen.
    pub(super) logs: Logs,
    /// Who collects what containers do.
    pub(super) watches: Arc<Watches>,
    /// Beats as long as the thread lives.
    pub(super) pulse: Arc<Pulse>,
    /// Ends the thread.
    pub(super) stop: Arc<AtomicBool>,
}

impl Events {
    /// Starts the thread.
    pub(super) fn read<K: Kernel>(self, kernel: &Arc<K>) -> anyhow::Result<Thread> {
        let kernel = Arc::clone(kernel);
        Thread::spawn("events", move || {
            let Self { registry, alerts, reporter, metrics, denials, rate, logs, watches, pulse, stop } =
                self;
            let mut clock = BootClock::default();
            let mut living = Living::new(Procs::default());
            let limiter = RefCell::new(Limiter::new(rate, metrics.summarized.clone()));
            let logs = RefCell::new(logs);
            let denials = RefCell::new(denials);
            let counted = |alert: Alert| {
                metrics.verdicts.count(&alert);
                metrics.tally.count(&alert);
                registry.count(&alert);
                limiter.borrow_mut().take(alert, Instant::now())
            };
            let tell = |alert: Alert| counted(alert).into_iter().for_each(|alert| reporter.report(alert));
            let tell_due = || {
                pulse.beat();
                let now = Instant::now();
                limiter.borrow_mut().due(now).into_iter().for_each(|alert| reporter.report(alert));
                logs.borrow_mut().due(now);
                if let Some(denials) = denials.borrow_mut().as_mut() {
                    denials.tell(&alerts, &metrics, &reporter, &tell);
                }
            };
            let go_on = || {
                tell_due();
                !stop.load(Ordering::Relaxed)
            };
            let result = kernel.events(&go_on, &mut |event| {
                tell_due(); // there may be so many events that nobody asks to go on for long
                if !watches.is_empty() {
                    let container = event.container.as_ref().and_then(|id| registry.container(id));
                    watches.note(&event, container.as_ref());
                }
                let make = |clock: &mut BootClock| alerts.event(&event, &registry, clock.time(event.time_ns));
                if event.is_observation() {
                    metrics.observed.inc();
                    let mut logs = logs.borrow_mut();
                    if logs.are_read() {
                        logs.take(make(&mut clock), Instant::now());
                    }
                    return;
                }
                // what is told by a summary is many, and a flood of one container costs no other its look-ups
                if let Some(mut alert) = counted(make(&mut clock)) {
                    living.tell(&mut alert, event.time_ns, Instant::now());
                    reporter.report(alert);
                }
            });
            logs.into_inner().end();
            limiter.into_inner().rest().into_iter().for_each(|alert| reporter.report(alert));
            result.map_err(|error| chain(&error))
        })
    }
}

/// Turns times since boot into times of day. The clock may be set while we run, so the difference is taken again.
#[derive(Debug, Default)]
struct BootClock {
    boot: Option<(SystemTime, Instant)>, // with when it was found out
}

impl BootClock {
    fn time(&mut self, since_boot_ns: u64) -> SystemTime {
        let boot = match self.boot {
            Some((boot, when)) if when.elapsed() < SAME => boot,
            _ => {
                let boot = booted();
                self.boot = Some((boot, Instant::now()));
                boot
            }
        };
        boot + Duration::from_nanos(since_boot_ns)
    }
}
