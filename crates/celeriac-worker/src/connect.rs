//! The first connection, and how long to wait between tries.

use std::time::{Duration, Instant};

use celeriac_error::{Error, Result};

use crate::consume::stop_or;
use crate::logger;
use crate::state::Shared;

/// Growing pauses between tries.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    start: Duration,
    step: Duration,
    most: Duration,
    last_line: Option<Instant>,
}

impl Backoff {
    /// The first connection, as `kombu.Connection.ensure_connection` waits: 2, 4, 6 … 30 s.
    pub(crate) const fn for_startup() -> Self {
        Self::new(Duration::from_secs(2), Duration::from_secs(2), Duration::from_secs(30))
    }

    /// A connection that was there: it is most often back at once, and work waits.
    pub(crate) const fn for_reconnect() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_millis(150), Duration::from_secs(1))
    }

    const fn new(start: Duration, step: Duration, most: Duration) -> Self {
        Self { failures: 0, start, step, most, last_line: None }
    }

    /// Counts a failure, and says how long to wait.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = (self.start + self.step * self.failures).min(self.most);
        self.failures += 1;
        pause
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
        self.last_line = None;
    }

    /// Whether a line in the log would be news: at most one in five seconds.
    pub(crate) fn is_worth_a_line(&mut self) -> bool {
        is_news(&mut self.last_line)
    }
}

/// Whether another line about what goes on would be news, given when the last one was: at most one in five seconds.
pub(crate) fn is_news(last_line: &mut Option<Instant>) -> bool {
    let news = last_line.is_none_or(|at| at.elapsed() > Duration::from_secs(5));
    if news {
        *last_line = Some(Instant::now());
    }
    news
}

/// Connects to the broker and the result store, trying again as the settings allow.
pub(crate) async fn connect(shared: &Shared) -> Result<()> {
    ensure(shared, || shared.transport.connect()).await?;
    if let Some(store) = &shared.store {
        match store.connect().await {
            Err(error) if error.is_transient() => {
                log::warn!(target: logger::WORKER, "{error}. Results are stored once it is back.");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Does what a start needs of the broker, trying again as the settings allow.
pub(crate) async fn ensure<T, F>(shared: &Shared, attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut backoff = Backoff::for_startup();
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let retry = shared.options.connection_retry_on_startup && error.is_transient();
        let most = shared.options.connection_max_retries;
        if !retry || most.is_some_and(|most| backoff.failures() >= most) {
            return Err(error);
        }
        let pause = backoff.next();
        let most = most.map_or_else(|| "∞".to_owned(), |most| most.to_string());
        log::error!(
            target: logger::CONSUMER,
            "consumer: {error}. Trying again in {:.2} seconds... ({}/{most})",
            pause.as_secs_f64(),
            backoff.failures(),
        );
        stop_or(shared, pause).await;
        if shared.is_stopping() {
            return Err(Error::Closed("worker"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_told_at_once_and_then_now_and_then() {
        let mut last = None;
        assert_eq!([is_news(&mut last), is_news(&mut last), is_news(&mut last)], [true, false, false]);
        last = last.and_then(|at| at.checked_sub(Duration::from_secs(6)));
        assert!(is_news(&mut last));
    }
}
