//! Parts that the daemon cannot do without, each a task. The end of any of them is noticed and told by its name: a daemon that
//! goes on without one looks well from outside, and one that ends is started again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

/// How a part ended; an error says why.
pub type Ended = Result<(), String>;

/// Tasks of which none should end. They are aborted when this is dropped.
#[derive(Debug, Default)]
pub struct Parts {
    tasks: JoinSet<Ended>,
    names: HashMap<Id, &'static str>,
    #[cfg(test)]
    failing: Option<&'static str>,
}

impl Parts {
    /// The same, but that the part of this name panics in place of what it has to do.
    #[cfg(test)]
    pub(crate) fn failing(name: &'static str) -> Self {
        Self { failing: Some(name), ..Self::default() }
    }

    /// Starts a part; what it gives aborts it.
    pub fn start(
        &mut self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        self.start_fallible(name, async {
            part.await;
            Ok(())
        })
    }

    /// The same of a part that can say why it ends.
    pub fn start_fallible(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Ended> + Send + 'static,
    ) -> AbortHandle {
        #[cfg(test)]
        let part = {
            let fails = self.failing == Some(name);
            async move { if fails { panic!("a fault of {name}") } else { part.await } }
        };
        let started = self.tasks.spawn(part);
        self.names.insert(started.id(), name);
        started
    }

    /// Waits until one has ended: which, and why. Forever where there is none.
    pub async fn ended(&mut self) -> String {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.tell(ended).1,
            None => std::future::pending().await,
        }
    }

    /// Gives all of them so long to end, which they were asked to; who did not is told, and aborted.
    pub async fn finish(mut self, patience: Duration) -> Vec<&'static str> {
        let deadline = Instant::now() + patience;
        while let Ok(Some(ended)) = timeout_at(deadline, self.tasks.join_next_with_id()).await {
            if let (true, why) = self.tell(ended) {
                tracing::warn!("at the end {why}");
            }
        }
        let mut late: Vec<_> = self.names.into_values().collect();
        late.sort_unstable();
        late
    }

    /// Whether it ended badly, and which one why.
    fn tell(&mut self, ended: Result<(Id, Ended), JoinError>) -> (bool, String) {
        let (id, bad, why) = match ended {
            Ok((id, Ok(()))) => (id, false, "by itself".to_owned()),
            Ok((id, Err(why))) => (id, true, why),
            Err(error) => (error.id(), error.is_panic(), panicked(error)),
        };
        let name = self.names.remove(&id).unwrap_or("a part");
        (bad, format!("{name} ended: {why}"))
    }
}

/// Does the work on a thread of this name, with a runtime of its own, and waits for its end.
///
/// # Errors
/// That of the work, or why it is not done.
pub async fn alone(name: &'static str, work: impl Future<Output = Ended> + Send + 'static) -> Ended {
    let (ended, has_ended) = oneshot::channel();
    let body = move || {
        let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(work),
            Err(error) => Err(format!("cannot start tokio: {error}")),
        };
        let _nobody = ended.send(result); // dropped unsent by a panic
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| format!("cannot start the thread `{name}`: {error}"))?;
    has_ended.await.unwrap_or_else(|_| Err("it panicked".to_owned()))
}

/// Why a task came to no end of its own.
fn panicked(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "it was aborted".to_owned() };
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    match text.or_else(|| payload.downcast_ref::<String>().cloned()) {
        Some(text) => format!("it panicked: {text}"),
        None => "it panicked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_to_end_is_told_with_its_reason() {
        let mut parts = Parts::default();
        parts.start("one", std::future::pending());
        parts.start("two", async {});
        assert_eq!(parts.ended().await, "two ended: by itself");
        parts.start_fallible("three", async { Err("no room".to_owned()) });
        assert_eq!(parts.ended().await, "three ended: no room");
        parts.start("four", async { panic!("at {}", 4) });
        assert_eq!(parts.ended().await, "four ended: it panicked: at 4");
        assert_eq!(parts.finish(Duration::ZERO).await, ["one"]);
    }

    #[tokio::test]
    async fn where_there_is_none_nothing_ends() {
        let mut none = Parts::default();
        tokio::time::timeout(Duration::from_millis(20), none.ended()).await.unwrap_err();
        assert!(none.finish(Duration::from_secs(60)).await.is_empty());
    }
}
