//! Calls one handler: with a deadline before the runtime's, and proof against its panics.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::handle::IN_HANDLER;
use crate::plugin::{Context, Refusal};
use crate::state::RuntimeInfo;

/// The runtime's limit where neither the request nor the configuration tells it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest limit taken seriously; beyond it arithmetic with clocks might not be possible.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// How a call ended.
pub(crate) enum Outcome<T> {
    /// The handler answered.
    Done(T),
    /// The handler refused.
    Refused(Refusal),
    /// The handler panicked, with these words.
    Panicked(String),
    /// The handler was not done in time. It still runs, and knows that it is late.
    Late(JoinHandle<Result<T, Refusal>>),
}

/// The time a handler gets: 60 % of what the runtime gives the request, so that our answer, an error if need be,
/// is there before the runtime drops the plugin and lets the container through.
pub(crate) fn budget(timeout_nano: i64, configured: Option<Duration>) -> Duration {
    let limit = match u64::try_from(timeout_nano) {
        Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos),
        _ => configured.unwrap_or(DEFAULT_TIMEOUT),
    };
    limit.min(LONGEST_TIMEOUT) * 6 / 10
}

/// Tells the handler, when dropped, that its answer is no longer waited for.
struct Cancel(watch::Sender<bool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Calls a handler and waits for it, for `budget` at most.
pub(crate) async fn call<T, F>(
    runtime: Arc<RuntimeInfo>,
    budget: Duration,
    handler: impl FnOnce(Context) -> F,
) -> Outcome<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Refusal>> + Send + 'static,
{
    let deadline = Instant::now() + budget;
    let (cancel, cancelled) = watch::channel(false);
    let cancel = Cancel(cancel);
    let context = Context::new(deadline, cancelled, runtime);
    let mut task = tokio::spawn(IN_HANDLER.scope((), handler(context)));
    let result = tokio::select! {
        biased;
        result = &mut task => result,
        () = tokio::time::sleep_until(deadline.into()) => return Outcome::Late(task),
    };
    drop(cancel);
    finished(result)
}

/// What a handler's task came to.
pub(crate) fn finished<T>(result: Result<Result<T, Refusal>, tokio::task::JoinError>) -> Outcome<T> {
    match result {
        Ok(Ok(answer)) => Outcome::Done(answer),
        Ok(Err(refusal)) => Outcome::Refused(refusal),
        Err(error) if error.is_panic() => Outcome::Panicked(words(&*error.into_panic())),
        Err(error) => Outcome::Panicked(error.to_string()),
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_below_the_runtimes_limit() {
        let ms = Duration::from_millis;
        assert_eq!(budget(1_910_000_000, None), ms(1146));
        assert_eq!(budget(0, Some(ms(5000))), ms(3000));
        assert_eq!(budget(-1, None), ms(1200));
        assert_eq!(budget(i64::MAX, None), Duration::from_secs(2160));
        assert_eq!(budget(0, Some(Duration::MAX)), Duration::from_secs(2160));
    }
}
