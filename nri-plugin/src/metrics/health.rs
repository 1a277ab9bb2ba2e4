//! Whether the daemon lives, and whether it is in service.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::order::Order;

/// How long a thread may say nothing before it counts as stuck. The longest thing that one does between two signs of
/// life is to look up links in a container, on a disk that may be slow.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often the reconciler is asked whether it lives.
pub const ASK: Duration = Duration::from_secs(2);

/// When a thread last gave a sign of life.
#[derive(Debug)]
pub struct Pulse {
    begin: Instant,
    last: AtomicU64, // milliseconds since `begin`
    asked: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begin: Instant::now(), last: AtomicU64::new(0), asked: AtomicBool::new(false) }
    }
}

impl Pulse {
    /// Of a thread that has said nothing for so long.
    #[cfg(test)]
    pub(crate) fn silent_for(time: Duration) -> Self {
        Self { begin: Instant::now().checked_sub(time).unwrap(), ..Self::default() }
    }

    /// The thread lives.
    pub fn beat(&self) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
    }

    /// How long ago it said so.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begin.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    /// # Errors
    /// When that is too long ago.
    pub fn check(&self) -> Result<(), String> {
        let age = self.age();
        if age > PATIENCE {
            return Err(format!("no sign of life for {} s", age.as_secs()));
        }
        Ok(())
    }
}

/// Asks the reconciler for signs of life, one at a time, until it is gone.
pub async fn watch(orders: Sender<Order>, pulse: Arc<Pulse>, every: Duration) {
    loop {
        if !pulse.asked.swap(true, Ordering::Relaxed) && orders.send(Order::Ping(Arc::clone(&pulse))).is_err()
        {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What has to hold. Checks must not block.
#[derive(Default)]
pub struct Health {
    live: Vec<(&'static str, Check)>,
    ready: Vec<(&'static str, Check)>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names =
            |checks: &[(&'static str, Check)]| checks.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        f.debug_struct("Health")
            .field("live", &names(&self.live))
            .field("ready", &names(&self.ready))
            .finish()
    }
}

impl Health {
    /// Adds what must hold for the daemon to live: where it does not, only a restart helps.
    pub fn live(
        &mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.live.push((name, Box::new(check)));
    }

    /// Adds what must hold, besides that, for the daemon to be in service.
    pub fn ready(
        &mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.ready.push((name, Box::new(check)));
    }

    /// Whether the daemon lives, and a line for each check.
    #[must_use]
    pub fn healthz(&self) -> (bool, String) {
        judge(self.live.iter())
    }

    /// Whether the daemon is in service, and a line for each check.
    #[must_use]
    pub fn readyz(&self) -> (bool, String) {
        judge(self.live.iter().chain(&self.ready))
    }
}

fn judge<'a>(checks: impl Iterator<Item = &'a (&'static str, Check)>) -> (bool, String) {
    let (mut good, mut text) = (true, String::new());
    for (name, check) in checks {
        let result = check();
        good &= result.is_ok();
        let _infallible = writeln!(text, "{name}: {}", result.err().as_deref().unwrap_or("ok"));
    }
    (good, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_check_that_fails_is_told_among_the_others() {
        let mut health = Health::default();
        health.live("threads", || Ok(()));
        health.ready("nri", || Err("not connected".into()));
        assert_eq!(health.healthz(), (true, "threads: ok\n".into()));
        assert_eq!(health.readyz(), (false, "threads: ok\nnri: not connected\n".into()));
        health.live("reconciler", || Err("stuck".into()));
        assert!(!health.healthz().0 && !health.readyz().0, "what does not live is not in service");
    }

    #[test]
    fn a_thread_that_says_nothing_counts_as_stuck() {
        let pulse = Pulse::silent_for(PATIENCE + Duration::from_secs(5));
        assert!(pulse.check().unwrap_err().contains("35 s"));
        pulse.beat();
        assert_eq!(pulse.check(), Ok(()));
    }

    #[tokio::test]
    async fn the_reconciler_is_asked_again_only_after_an_answer() {
        let (orders, taken) = std::sync::mpsc::channel();
        let (pulse, every) = (Arc::new(Pulse::default()), Duration::from_millis(5));
        let watching = tokio::spawn(watch(orders, Arc::clone(&pulse), every));
        for _ in 0..2 {
            tokio::time::sleep(every * 20).await;
            assert_eq!(taken.try_iter().count(), 1);
            pulse.beat();
        }
        drop(taken);
        tokio::time::timeout(ASK, watching).await.unwrap().unwrap();
    }
}
