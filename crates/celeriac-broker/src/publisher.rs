//! Batched publishing: what gathers while one write is in flight goes out with the next.
//!
//! A producer appends and goes on; one task writes. Measured, one variadic write of up to [`FLUSH_LIMIT`] messages
//! is what makes a thousand calls in flight a hundred times faster than a call each.
//!
//! Where messages come one at a time, each after the outcome of the one before, there is nothing to gather: then, where the
//! transport can ([`Transport::direct`]), the producer's thread writes the message itself, and the task waits for its outcome only.
//! Where that thread has an event loop it may wait for the outcome too ([`Publisher::watch`]); then the task steps in only where
//! something else waits behind the message, or the outcome is late.
//! Nothing is written this way while anything else is under way, so the order is that of the calls.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use celeriac_error::{Error, Result};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::calls::Call;
use crate::declare::Declarations;
use crate::route::Route;
use crate::sync::lock;
use crate::transport::{Direct, Publication, Queue, Transport, Watch};

/// The most messages of one write; more of them make it slower, not faster.
pub const FLUSH_LIMIT: usize = 512;

/// After how many writes of one message each, one after the other, a connection for the direct way is opened.
const LONE_WRITES: u32 = 8;

/// As many before it is tried again at the most, where it cannot be opened.
const MOST_LONE_WRITES: u32 = 1 << 14;

/// How often somebody looks whether the direct way is still used. In between nobody needs to be told that a message took it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long opening the direct way may take. Others wait.
const OPEN_WITHIN: Duration = Duration::from_millis(500);

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
    /// A task call.
    Call {
        /// Where it goes.
        route: Arc<Route>,
        /// What is sent.
        call: Call,
    },
    /// What could not be made a message.
    Refused(Arc<Error>),
}

impl Payload {
    /// The message; a call becomes one.
    fn into_publication(self) -> Result<Publication, Arc<Error>> {
        let of_call = |route: &Route, call: &Call| {
            route.publication(&call.task_id()?, call.args(), call.kwargs(), call.options())
        };
        match self {
            Self::Message(publication) => Ok(*publication),
            Self::Call { route, call } => of_call(&route, &call).map_err(Arc::new),
            Self::Refused(error) => Err(error),
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
    /// The message that a producer's thread writes, or wrote, until its outcome is there. Nothing else is under way then.
    direct: Option<(Item, Publication)>,
    /// Whether a producer's thread may write: nothing is under way, and the task waits for the outcome of what it writes.
    may_write: bool,
    /// Whether one wrote since the task looked last.
    has_written: bool,
    /// What the event loop that watches the direct way has found wrong with it.
    broken: Option<Error>,
    closing: bool,
}

struct Shared {
    buffer: Mutex<Buffer>,
    wake: Notify,
    idle: Notify,
    timeout: Duration,
    declarations: Arc<Declarations>,
    direct: Option<Arc<dyn Direct>>,
}

impl Shared {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        lock(&self.buffer)
    }

    /// The buffer, as long as it takes messages.
    fn open(&self) -> Result<MutexGuard<'_, Buffer>> {
        let buffer = self.buffer();
        if buffer.closing { Err(Error::Closed("broker connection")) } else { Ok(buffer) }
    }

    fn is_watched(&self) -> bool {
        self.direct.as_ref().is_some_and(|direct| direct.is_watched())
    }

    fn is_declared(&self, item: &Item) -> bool {
        item.queue.as_deref().is_none_or(|queue| self.declarations.knows(queue))
    }

    fn item(&self, pending: Pending) -> (Item, Payload) {
        let Pending { call, payload, queue, policy } = pending;
        (Item { call, queue, policy, deadline: Instant::now() + self.timeout, attempts: 0 }, payload)
    }

    /// Appends messages, and wakes the task unless it will look at the buffer anyway.
    fn append(
        &self,
        mut buffer: MutexGuard<'_, Buffer>,
        messages: impl IntoIterator<Item = (Item, Payload)>,
    ) {
        let had_none = buffer.items.is_empty() && (buffer.direct.is_none() || self.is_watched());
        buffer.items.extend(messages);
        let has_some = !buffer.items.is_empty();
        drop(buffer);
        if had_none && has_some {
            self.wake.notify_one();
        }
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
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            wake: Notify::new(),
            idle: Notify::new(),
            timeout,
            declarations,
            direct: transport.direct(),
        });
        let report = Box::new(report);
        let flusher = Flusher {
            writer: Writer { shared: Arc::clone(&shared), transport },
            report,
            flying: FuturesUnordered::new(),
            last: 0,
            again: BTreeMap::new(),
            pause: None,
            alone: 0,
            enough_alone: LONE_WRITES,
            look: None,
            seen: None,
            is_late: false,
        };
        runtime.spawn(flusher.run());
        Self { shared }
    }

    /// Publishes a message; its outcome comes with a report.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close).
    pub fn publish(&self, pending: Pending) -> Result<()> {
        let shared = &self.shared;
        let mut buffer = shared.open()?;
        let (item, payload) = shared.item(pending);
        let direct = shared.direct.as_ref().filter(|_| {
            buffer.may_write
                && buffer.items.is_empty()
                && buffer.direct.is_none()
                && shared.is_declared(&item)
        });
        let Some(direct) = direct else {
            shared.append(buffer, [(item, payload)]);
            return Ok(());
        };
        let publication = match payload.into_publication() {
            Ok(publication) => publication,
            Err(error) => {
                shared.append(buffer, [(item, Payload::Refused(error))]);
                return Ok(());
            }
        };
        let Some(bytes) = direct.encode(&publication) else {
            shared.append(buffer, [(item, Payload::Message(Box::new(publication)))]);
            return Ok(());
        };
        buffer.has_written = true;
        buffer.direct = Some((item, publication));
        drop(buffer);
        if !direct.write(&bytes) {
            let mut buffer = shared.buffer();
            if let Some((item, publication)) = buffer.direct.take() {
                buffer.items.push_front((item, Payload::Message(Box::new(publication))));
                drop(buffer);
                shared.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Publishes messages, in their order: all, or after an error none.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close).
    pub fn publish_all(&self, mut pending: Vec<Pending>) -> Result<()> {
        if pending.len() == 1
            && let Some(lone) = pending.pop()
        {
            return self.publish(lone);
        }
        let buffer = self.shared.open()?;
        self.shared.append(buffer, pending.into_iter().map(|pending| self.shared.item(pending)));
        Ok(())
    }

    /// A socket for the event loop of the thread that publishes: what it reads from it, it gives to [`answer`](Self::answer),
    /// nothing when it ends. `None` unless there is one that nobody watches yet.
    pub fn watch(&self) -> Option<Watch> {
        if !self.shared.buffer().may_write {
            return None;
        }
        let watch = self.shared.direct.as_ref()?.watch()?;
        // The task waits no longer.
        self.shared.wake.notify_one();
        Some(watch)
    }

    /// The socket of [`watch`](Self::watch) cannot be read there: what comes on it is read here, now and from then on.
    pub fn unwatch(&self) {
        if let Some(direct) = &self.shared.direct {
            direct.unwatch();
            self.shared.wake.notify_one();
        }
    }

    /// Takes what was read from the socket of [`watch`](Self::watch). Gives the call that is done by it, which no report names then.
    pub fn answer(&self, connection: u32, bytes: &[u8]) -> Option<u32> {
        let outcome = self.shared.direct.as_ref()?.feed(connection, bytes)?;
        self.answered(outcome)
    }

    /// Reads the socket of [`watch`](Self::watch) without waiting. Gives what [`answer`](Self::answer) would have.
    pub fn read_answer(&self) -> Option<u32> {
        let outcome = self.shared.direct.as_ref()?.read()?;
        self.answered(outcome)
    }

    fn answered(&self, outcome: Result<()>) -> Option<u32> {
        let mut buffer = self.shared.buffer();
        let done = match outcome {
            Ok(()) => Some(buffer.direct.take()?.0.call),
            Err(error) => {
                buffer.may_write = false;
                buffer.broken = Some(error);
                None
            }
        };
        let has_work = buffer.broken.is_some() || !buffer.items.is_empty() || buffer.closing;
        drop(buffer);
        if has_work {
            self.shared.wake.notify_one();
        }
        done
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

/// What the task does next.
enum Next {
    Write(Vec<(Item, Payload)>),
    /// The direct way is broken.
    Mend(Error),
    Wait,
    End,
}

/// A batch that was written, and what became of it.
struct Landed {
    number: u64,
    items: Vec<Item>,
    publications: Vec<Publication>,
    outcomes: Vec<Result<(), Arc<Error>>>,
}

struct Flusher {
    writer: Writer,
    report: Reporter,
    /// What is being written.
    flying: FuturesUnordered<BoxFuture<'static, Landed>>,
    /// The number of the last batch.
    last: u64,
    /// What is tried again once everything has landed, by the batch that it was in, so that its order is kept.
    again: BTreeMap<u64, Vec<(Item, Payload)>>,
    /// Until when nothing is written, after a failure.
    pause: Option<Instant>,
    /// How many writes had one message each, since the last that had more.
    alone: u32,
    /// How many of them it takes until the direct way is opened.
    enough_alone: u32,
    /// There while producers may write themselves: when to look whether they do.
    look: Option<Pin<Box<Sleep>>>,
    /// The call that a producer wrote and that was under way when the task looked last.
    seen: Option<u32>,
    /// Whether it was under way at the look before, too.
    is_late: bool,
}

impl Flusher {
    async fn run(mut self) {
        loop {
            match self.next() {
                Next::Write(batch) => {
                    self.alone = if batch.len() == 1 { self.alone.saturating_add(1) } else { 0 };
                    self.launch(batch);
                }
                Next::Mend(error) => self.sort_direct(Err(error)),
                Next::Wait => self.wait().await,
                Next::End => break,
            }
        }
        if let Some(direct) = &self.writer.shared.direct {
            direct.close();
        }
        self.writer.shared.idle.notify_one();
    }

    fn next(&mut self) -> Next {
        let mut buffer = self.writer.shared.buffer();
        if let Some(error) = buffer.broken.take() {
            return Next::Mend(error);
        }
        if buffer.direct.is_some() {
            return Next::Wait;
        }
        buffer.may_write = false;
        let all_landed = self.flying.is_empty();
        if all_landed {
            while let Some((_, items)) = self.again.pop_last() {
                for item in items.into_iter().rev() {
                    buffer.items.push_front(item);
                }
            }
        }
        // One after the other: of two that are on their way at once the second may be there first.
        let may_launch = self.pause.is_none() && all_landed;
        if may_launch && !buffer.items.is_empty() {
            let count = buffer.items.len().min(FLUSH_LIMIT);
            return Next::Write(buffer.items.drain(..count).collect());
        }
        if buffer.closing && buffer.items.is_empty() && all_landed {
            return Next::End;
        }
        buffer.may_write = self.look.is_some() && all_landed && buffer.items.is_empty();
        Next::Wait
    }

    /// Waits until there is something to do, and does what came first.
    async fn wait(&mut self) {
        let shared = &self.writer.shared;
        let direct = shared.direct.as_ref().filter(|_| self.look.is_some());
        let reads = direct.is_some_and(|direct| {
            self.is_late || !direct.is_watched() || {
                let buffer = shared.buffer();
                buffer.closing || !buffer.items.is_empty()
            }
        });
        if let Some(direct) = direct
            && !reads
        {
            direct.leave_to_watcher();
        }
        let (look, pause) = (&mut self.look, self.pause);
        tokio::select! {
            biased;
            Some(landed) = self.flying.next(), if !self.flying.is_empty() => self.land(landed).await,
            outcome = async {
                match direct {
                    Some(direct) => direct.outcome().await,
                    None => pending().await,
                }
            }, if reads => self.sort_direct(outcome),
            () = shared.wake.notified() => {}
            () = async {
                match look {
                    Some(look) => look.await,
                    None => pending().await,
                }
            } => self.look(),
            () = async {
                match pause {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => pending().await,
                }
            } => self.pause = None,
        }
    }

    /// Makes messages of a batch and has them written.
    fn launch(&mut self, batch: Vec<(Item, Payload)>) {
        let (items, publications) = self.build(batch);
        if items.is_empty() {
            return;
        }
        self.last += 1;
        self.flying.push(self.writer.clone().flush(self.last, items, publications).boxed());
    }

    async fn land(&mut self, landed: Landed) {
        if self.sort(landed) && self.flying.is_empty() {
            self.open_direct().await;
        }
    }

    /// Lets producers write themselves once messages come one at a time.
    async fn open_direct(&mut self) {
        let Some(direct) = &self.writer.shared.direct else { return };
        if self.look.is_some() || self.alone < self.enough_alone {
            return;
        }
        if !direct.is_open() && !matches!(tokio::time::timeout(OPEN_WITHIN, direct.open()).await, Ok(Ok(())))
        {
            self.alone = 0;
            // It holds up who comes meanwhile, and there may be no second connection to be had.
            self.enough_alone = (2 * self.enough_alone).min(MOST_LONE_WRITES);
            return;
        }
        self.enough_alone = LONE_WRITES;
        self.look = Some(Box::pin(tokio::time::sleep(LOOK_EVERY)));
    }

    /// Ends what a producer wrote too long ago; takes no more from them when none did for a while.
    fn look(&mut self) {
        let mut buffer = self.writer.shared.buffer();
        let now = Instant::now();
        let call = buffer.direct.as_ref().map(|(item, _)| item.call);
        let was_late = self.is_late && call == self.seen;
        self.is_late = call.is_some() && call == self.seen;
        self.seen = call;
        let next = match &buffer.direct {
            Some((item, _)) if was_late && item.deadline <= now => None,
            Some((item, _)) if item.deadline > now => Some(item.deadline.min(now + LOOK_EVERY)),
            Some(_) => Some(now + LOOK_EVERY),
            None => buffer.has_written.then_some(now + LOOK_EVERY),
        };
        buffer.has_written = false;
        if let (Some(next), Some(look)) = (next, &mut self.look) {
            look.as_mut().reset(next);
            return;
        }
        buffer.may_write = false;
        let is_silent = buffer.direct.is_some();
        drop(buffer);
        if is_silent {
            if let Some(direct) = &self.writer.shared.direct {
                direct.close();
            }
            return self.sort_direct(Err(self.writer.silent()));
        }
        // The connection is kept, for the next one that comes alone.
        self.look = None;
        self.alone = LONE_WRITES - 1;
    }

    /// [`sort`](Self::sort) for the message that a producer wrote.
    fn sort_direct(&mut self, outcome: Result<()>) {
        self.is_late = false;
        if outcome.is_err() {
            self.look = None;
            self.alone = 0;
        }
        let mut buffer = self.writer.shared.buffer();
        buffer.may_write = false;
        let Some((item, publication)) = buffer.direct.take() else { return };
        drop(buffer);
        self.last += 1;
        self.sort(Landed {
            number: self.last,
            items: vec![item],
            publications: vec![publication],
            outcomes: vec![outcome.map_err(Arc::new)],
        });
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
                Err(error) => failed.push((item.call, error)),
            }
        }
        if !failed.is_empty() {
            (self.report)(Report { done: Vec::new(), failed });
        }
        (items, publications)
    }

    /// Reports what a batch came to; what may be tried again is kept for that. Whether nothing has to be.
    fn sort(&mut self, landed: Landed) -> bool {
        let Landed { number, items, publications, outcomes } = landed;
        let now = Instant::now();
        let mut report = Report { done: Vec::with_capacity(items.len()), failed: Vec::new() };
        let mut again = Vec::new();
        let mut pause: Option<Duration> = None;
        for ((mut item, publication), outcome) in items.into_iter().zip(publications).zip(outcomes) {
            match outcome {
                Ok(()) => report.done.push(item.call),
                Err(error) if !error.is_transient() => report.failed.push((item.call, error)),
                Err(error) => {
                    item.attempts += 1;
                    let interval = item.policy.interval(item.attempts);
                    if !item.policy.allows(item.attempts) {
                        report.failed.push((item.call, error));
                    } else if now + interval >= item.deadline {
                        report.failed.push((item.call, Arc::new(self.writer.timed_out(&error))));
                    } else {
                        pause = Some(pause.map_or(interval, |shortest| shortest.min(interval)));
                        again.push((item, Payload::Message(Box::new(publication))));
                    }
                }
            }
        }
        if let Some(pause) = pause {
            let until = now + pause;
            self.pause = Some(self.pause.map_or(until, |other| other.max(until)));
            self.again.insert(number, again);
        }
        if !report.done.is_empty() || !report.failed.is_empty() {
            (self.report)(report);
        }
        pause.is_none()
    }
}

/// What writes a batch.
#[derive(Clone)]
struct Writer {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
}

impl Writer {
    /// Writes one batch.
    async fn flush(self, number: u64, items: Vec<Item>, publications: Vec<Publication>) -> Landed {
        let now = Instant::now();
        let deadline = items.iter().map(|item| item.deadline).min().unwrap_or(now);
        // A message whose time is up gets one more try: the broker may have come back.
        let deadline = deadline.max(now + Duration::from_millis(100));
        let outcomes = match tokio::time::timeout_at(deadline, self.write(&items, &publications)).await {
            Ok(outcomes) => outcomes,
            Err(_) => items.iter().map(|_| Err(Arc::new(self.silent()))).collect(),
        };
        Landed { number, items, publications, outcomes }
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
        let declarations = &self.shared.declarations;
        match declarations.ensure_for_sending(queues).await {
            Ok(()) => {
                let queues = batch.iter().map(|item| item.queue.as_deref());
                let outcomes = self.transport.publish(&declarations.undelayed(publications, queues)).await;
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
            let (queue, declarations) = (item.queue.as_deref(), &self.shared.declarations);
            let outcome = match declarations.ensure_for_sending(queue.into_iter()).await {
                Ok(()) => {
                    let sent = declarations.undelayed(std::slice::from_ref(publication), [queue].into_iter());
                    self.transport.publish(&sent).await.pop()
                }
                Err(error) => Some(Err(error)),
            };
            outcomes.push(outcome.unwrap_or(Ok(())).map_err(Arc::new));
        }
        outcomes
    }

    fn timed_out(&self, last: &Error) -> Error {
        Error::PublishTimeout { seconds: self.shared.timeout.as_secs_f64(), reason: last.to_string() }
    }
}
