//! Batched publishing: what gathers while one write is in flight goes out with the next.
//!
//! A producer appends and goes on; one task writes. Measured, one variadic write of up to [`FLUSH_LIMIT`] messages
//! is what makes a thousand calls in flight a hundred times faster than a call each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use celeriac_error::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::declare::Declarations;
use crate::route::Route;
use crate::transport::{Publication, Queue, Transport};

/// The most messages of one write; more of them make it slower, not faster.
pub const FLUSH_LIMIT: usize = 512;

/// When a failed publish is tried again (`task_publish_retry`, `task_publish_retry_policy`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Whether it is tried again at all.
    pub retry: bool,
    /// How often; `None` until the publish timeout ends it.
    pub max_retries: Option<u32>,
    /// The wait before the first retry.
    pub interval_start: Duration,
    /// What every further wait is longer by.
    pub interval_step: Duration,
    /// The longest wait.
    pub interval_max: Duration,
}

impl RetryPolicy {
    fn interval(&self, attempts: u32) -> Duration {
        (self.interval_start + self.interval_step * attempts.saturating_sub(1)).min(self.interval_max)
    }

    fn allows(&self, attempts: u32) -> bool {
        self.retry && self.max_retries.is_none_or(|most| attempts <= most)
    }
}

/// What a flush came to: the calls that are done, and those that failed for good.
#[derive(Debug, Default)]
pub struct Report {
    /// The broker has taken responsibility for these.
    pub done: Vec<u32>,
    /// These will not be tried again.
    pub failed: Vec<(u32, Arc<Error>)>,
}

type Reporter = Box<dyn Fn(Report) + Send + Sync>;

/// What is published: a message, or a task call that is made into one when its turn comes.
#[derive(Debug)]
pub enum Payload {
    /// A message, ready made.
    Message(Box<Publication>),
    /// A task call; all texts as in [`TaskCall`](crate::route::TaskCall).
    Call {
        /// Where it goes.
        route: Arc<Route>,
        /// The task's id.
        task_id: String,
        /// A JSON array in Python's sense.
        args: String,
        /// A JSON object in Python's sense.
        kwargs: String,
        /// See [`TaskOptions::from_json`](celeriac_protocol::task::TaskOptions::from_json).
        options: Option<String>,
    },
}

impl Payload {
    /// The message; a call becomes one.
    fn into_publication(self) -> Result<Publication> {
        match self {
            Self::Message(publication) => Ok(*publication),
            Self::Call { route, task_id, args, kwargs, options } => {
                route.publication(&task_id, &args, &kwargs, options.as_deref())
            }
        }
    }
}

/// One message waiting for its turn.
#[derive(Debug)]
pub struct Pending {
    /// By which the caller knows it in a [`Report`].
    pub call: u32,
    /// What is sent.
    pub payload: Payload,
    /// The queue that must exist first.
    pub queue: Option<Arc<Queue>>,
    /// When it is tried again after a failure.
    pub policy: Arc<RetryPolicy>,
}

/// Everything about a waiting message but the message, which travels beside it.
struct Item {
    call: u32,
    queue: Option<Arc<Queue>>,
    policy: Arc<RetryPolicy>,
    deadline: Instant,
    attempts: u32,
}

#[derive(Default)]
struct Buffer {
    items: VecDeque<(Item, Payload)>,
    closing: bool,
}

struct Shared {
    buffer: Mutex<Buffer>,
    wake: Notify,
    idle: Notify,
    timeout: Duration,
}

impl Shared {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes for callers that do not wait. Cheap to share.
pub struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    /// Starts the task that writes. `timeout` (`publishTimeout`) bounds each message, retries included; `report` is
    /// called after every flush, from that task.
    pub fn start(
        runtime: &Handle,
        transport: Arc<dyn Transport>,
        declarations: Arc<Declarations>,
        timeout: Duration,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Self {
        let shared =
            Arc::new(Shared { buffer: Mutex::default(), wake: Notify::new(), idle: Notify::new(), timeout });
        let flusher =
            Flusher { shared: Arc::clone(&shared), transport, declarations, report: Box::new(report) };
        runtime.spawn(flusher.run());
        Self { shared }
    }

    /// Appends a message; its outcome comes with a report.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close).
    pub fn publish(&self, pending: Pending) -> Result<()> {
        let deadline = Instant::now() + self.shared.timeout;
        let was_empty = {
            let mut buffer = self.shared.buffer();
            if buffer.closing {
                return Err(Error::Closed("broker connection"));
            }
            let Pending { call, payload, queue, policy } = pending;
            buffer.items.push_back((Item { call, queue, policy, deadline, attempts: 0 }, payload));
            buffer.items.len() == 1
        };
        if was_empty {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Takes nothing more, and resolves once everything that was taken is settled one way or the other.
    pub async fn close(&self) {
        let idle = self.shared.idle.notified();
        self.shared.buffer().closing = true;
        self.shared.wake.notify_one();
        idle.await;
        // A second caller finds the flusher gone: pass the word on.
        self.shared.idle.notify_one();
    }
}

struct Flusher {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    declarations: Arc<Declarations>,
    report: Reporter,
}

impl Flusher {
    async fn run(self) {
        loop {
            let batch = self.take();
            if batch.is_empty() {
                if self.shared.buffer().closing {
                    break;
                }
                self.shared.wake.notified().await;
                continue;
            }
            if let Some(pause) = self.flush(batch).await {
                tokio::time::sleep(pause).await;
            }
        }
        self.shared.idle.notify_one();
    }

    fn take(&self) -> Vec<(Item, Payload)> {
        let mut buffer = self.shared.buffer();
        let count = buffer.items.len().min(FLUSH_LIMIT);
        buffer.items.drain(..count).collect()
    }

    /// Writes one batch and reports it; what may be tried again goes back to the front of the buffer, in order.
    /// Says how long to wait before the next write.
    async fn flush(&self, batch: Vec<(Item, Payload)>) -> Option<Duration> {
        let (batch, publications) = self.build(batch);
        let deadline = batch.iter().map(|item| item.deadline).min()?;
        // A message whose time is up gets one more try: the broker may have come back.
        let deadline = deadline.max(Instant::now() + Duration::from_millis(100));
        let outcomes = match tokio::time::timeout_at(deadline, self.write(&batch, &publications)).await {
            Ok(outcomes) => outcomes,
            Err(_) => batch.iter().map(|_| Err(Arc::new(self.silent()))).collect(),
        };
        self.sort(batch, publications, outcomes)
    }

    /// Makes messages of calls; what cannot be one is reported as failed and left out.
    fn build(&self, batch: Vec<(Item, Payload)>) -> (Vec<Item>, Vec<Publication>) {
        let mut items = Vec::with_capacity(batch.len());
        let mut publications = Vec::with_capacity(batch.len());
        let mut failed = Vec::new();
        for (item, payload) in batch {
            match payload.into_publication() {
                Ok(publication) => {
                    publications.push(publication);
                    items.push(item);
                }
                Err(error) => failed.push((item.call, Arc::new(error))),
            }
        }
        if !failed.is_empty() {
            (self.report)(Report { done: Vec::new(), failed });
        }
        (items, publications)
    }

    fn silent(&self) -> Error {
        let url = self.transport.url().to_owned();
        match self.transport.hindrance() {
            Some(reason) => Error::BrokerNotReady { url, reason },
            None => Error::BrokerUnavailable { url, reason: "no answer in time".to_owned() },
        }
    }

    async fn write(&self, batch: &[Item], publications: &[Publication]) -> Vec<Result<(), Arc<Error>>> {
        let queues = batch.iter().filter_map(|item| item.queue.as_deref());
        match self.declarations.ensure(queues).await {
            Ok(()) => {
                let outcomes = self.transport.publish(publications).await;
                outcomes.into_iter().map(|outcome| outcome.map_err(Arc::new)).collect()
            }
            Err(error) if error.is_transient() => {
                let error = Arc::new(error);
                batch.iter().map(|_| Err(Arc::clone(&error))).collect()
            }
            Err(_) => self.write_one_by_one(batch, publications).await,
        }
    }

    /// A queue that cannot be declared fails the messages that need it, and no others.
    async fn write_one_by_one(
        &self,
        batch: &[Item],
        publications: &[Publication],
    ) -> Vec<Result<(), Arc<Error>>> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for (item, publication) in batch.iter().zip(publications) {
            let queue = item.queue.as_deref();
            let outcome = match self.declarations.ensure(queue.into_iter()).await {
                Ok(()) => self.transport.publish(std::slice::from_ref(publication)).await.pop(),
                Err(error) => Some(Err(error)),
            };
            outcomes.push(outcome.unwrap_or(Ok(())).map_err(Arc::new));
        }
        outcomes
    }

    fn sort(
        &self,
        batch: Vec<Item>,
        publications: Vec<Publication>,
        outcomes: Vec<Result<(), Arc<Error>>>,
    ) -> Option<Duration> {
        let now = Instant::now();
        let mut report = Report { done: Vec::with_capacity(batch.len()), failed: Vec::new() };
        let mut again = Vec::new();
        let mut pause: Option<Duration> = None;
        for ((mut item, publication), outcome) in batch.into_iter().zip(publications).zip(outcomes) {
            match outcome {
                Ok(()) => report.done.push(item.call),
                Err(error) if !error.is_transient() => report.failed.push((item.call, error)),
                Err(error) => {
                    item.attempts += 1;
                    let interval = item.policy.interval(item.attempts);
                    if !item.policy.allows(item.attempts) {
                        report.failed.push((item.call, error));
                    } else if now + interval >= item.deadline {
                        report.failed.push((item.call, Arc::new(self.timed_out(&error))));
                    } else {
                        pause = Some(pause.map_or(interval, |shortest| shortest.min(interval)));
                        again.push((item, Payload::Message(Box::new(publication))));
                    }
                }
            }
        }
        if !again.is_empty() {
            let mut buffer = self.shared.buffer();
            for item in again.into_iter().rev() {
                buffer.items.push_front(item);
            }
        }
        if !report.done.is_empty() || !report.failed.is_empty() {
            (self.report)(report);
        }
        pause
    }

    fn timed_out(&self, last: &Error) -> Error {
        Error::PublishTimeout { seconds: self.shared.timeout.as_secs_f64(), reason: last.to_string() }
    }
}
