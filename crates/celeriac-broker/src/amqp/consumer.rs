//! Consuming: one channel for each consumer, one `basic.consume` for each queue, acknowledged by hand.
//!
//! The broker pushes, up to the prefetch of each queue; what was pushed waits in a buffer until it is asked for. A prefetch
//! cannot be changed, so where more are held than it allows (tasks that wait for their time) the queue is consumed anew
//! under another tag: what is held under the old one stays held, and counts no more.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::envelope;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::begin;
use super::dead::DeadList;
use super::failure::{explain, soft};
use super::link::{Live, lock};
use super::properties::{Origin, from_amqp};
use super::publish::Lane;
use super::settle;
use super::table::short;
use super::topology::Topology;
use crate::fault_point;
use crate::moment::Moment;
use crate::transport::{ConsumeOptions, Consumer, Delivery, DeliveryTag, Queue, Settled, Settlement};

/// The prefetch of each queue where the consumer has no limit.
const UNLIMITED: u32 = 1024;

/// How long what the prefetch allows must have been held before more is asked for: what is just being acknowledged makes
/// room by itself.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// How long the broker believes in a silent connection that has no heartbeat.
const WITHOUT_HEARTBEAT: Duration = Duration::from_secs(60);

/// How long at most until the clocks are looked at: a timer may not count the time that the machine slept.
const TICK: Duration = Duration::from_secs(1);

/// One message that is held.
pub(super) struct Held {
    /// The tag on the channel.
    pub(super) amqp_tag: u64,
    /// Which consumption it came by.
    source: u64,
    pub(super) queue: Arc<str>,
    /// The envelope, for the dead list.
    pub(super) raw: Bytes,
    /// The task id under which its begin was counted, and the count.
    pub(super) begun: Option<(String, u32)>,
}

/// One queue that is consumed.
struct Source {
    number: u64,
    tag: String,
    window: u16,
    /// How many of its messages are held.
    outstanding: u32,
    /// False once the broker has ended it.
    is_alive: bool,
    task: JoinHandle<()>,
}

/// An open channel, and what is on it.
struct Session {
    number: u64,
    live: Arc<Live>,
    channel: Arc<Channel>,
    /// Tags on the channel that are held.
    outstanding: BTreeMap<u64, u64>,
    /// All tags below it have come.
    next_tag: u64,
    /// Those above it that came early.
    early: BTreeSet<u64>,
    /// By the name of the queue.
    sources: HashMap<String, Source>,
    /// When it was last known that the broker has the channel.
    known: Moment,
    /// How long it is certain after that.
    patience: Duration,
    watcher: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.watcher.abort();
        for source in self.sources.values() {
            source.task.abort();
        }
    }
}

#[derive(Default)]
struct State {
    queues: Vec<Queue>,
    session: Option<Session>,
    last_tag: u64,
    last_number: u64,
    held: BTreeMap<u64, Held>,
    buffer: VecDeque<Delivery>,
    lost: Vec<DeliveryTag>,
    /// What is held is certain again, after it was not.
    looked: bool,
    was_doubtful: bool,
    stopped: bool,
}

/// What the parts of a consumer share.
pub(super) struct Core {
    url: String,
    topology: Arc<Topology>,
    pub(super) lane: Lane,
    pub(super) dead: Arc<DeadList>,
    prefetch: u32,
    state: Mutex<State>,
    /// Rung when a waiting receive should look again.
    arrived: Notify,
    /// Rung when there is something to tell.
    told: Notify,
    /// Held while consumptions are opened, or replaced.
    opening: tokio::sync::Mutex<()>,
    /// Held while begins are counted.
    pub(super) beginning: tokio::sync::Mutex<()>,
    /// Held from choosing which tags go together until their frames are on their way: an acknowledgement of all tags up to one
    /// must not overtake what somebody else does with one of those.
    pub(super) settling: tokio::sync::Mutex<()>,
}

/// A consumer of `RabbitMQ`.
pub(super) struct AmqpConsumer {
    core: Arc<Core>,
    keeper: JoinHandle<()>,
}

impl AmqpConsumer {
    pub(super) async fn start(
        url: &str,
        topology: Arc<Topology>,
        lane: Lane,
        dead: Arc<DeadList>,
        options: ConsumeOptions,
    ) -> Result<Self> {
        let core = Arc::new(Core {
            url: url.to_owned(),
            topology,
            lane,
            dead,
            prefetch: if options.prefetch == 0 {
                UNLIMITED
            } else {
                options.prefetch.min(u32::from(u16::MAX))
            },
            state: Mutex::new(State { queues: options.queues, ..State::default() }),
            arrived: Notify::new(),
            told: Notify::new(),
            opening: tokio::sync::Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            settling: tokio::sync::Mutex::default(),
        });
        core.open().await?;
        let keeper = tokio::spawn(keep(Arc::downgrade(&core)));
        Ok(Self { core, keeper })
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        self.keeper.abort();
        let mut state = lock(&self.core.state);
        state.stopped = true;
        // The channel closes with it, and the broker puts back what was held.
        state.session = None;
    }
}

/// What a receive that has nothing has to do first.
enum Need {
    Nothing,
    /// Some queue is not consumed.
    Open,
    /// The broker may push nothing more from some queue.
    Grow,
    /// Far more may be pushed than is needed any longer.
    Shrink,
}

impl Core {
    fn base(&self) -> u16 {
        u16::try_from(self.prefetch).unwrap_or(u16::MAX)
    }

    /// Whether every queue is consumed, and may be pushed from.
    fn need(&self, state: &State) -> Need {
        let Some(session) = &state.session else { return Need::Open };
        let consumed = |queue: &Queue| session.sources.get(&queue.name).is_some_and(|source| source.is_alive);
        if !state.queues.iter().all(consumed) {
            return Need::Open;
        }
        if session.sources.values().any(|source| source.outstanding >= u32::from(source.window)) {
            return Need::Grow;
        }
        let needed = self.window(state.held.len() - state.buffer.len());
        if session.sources.values().any(|source| source.window / 2 > needed) {
            return Need::Shrink;
        }
        Need::Nothing
    }

    /// The prefetch for somebody who holds so many already.
    fn window(&self, held: usize) -> u16 {
        u16::try_from(held / 4).unwrap_or(u16::MAX).max(self.base())
    }

    /// Opens the channel if there is none, and consumes what is not consumed.
    async fn open(self: &Arc<Self>) -> Result<()> {
        let _opening = self.opening.lock().await;
        if lock(&self.state).stopped {
            return Ok(());
        }
        match self.try_open().await {
            // It was deleted: made again once.
            Err(Failure::Missing) => {
                let queues = lock(&self.state).queues.clone();
                self.topology.declare(&queues).await?;
                self.try_open().await.map_err(|failure| failure.into_error(&self.url))
            }
            outcome => outcome.map_err(|failure| failure.into_error(&self.url)),
        }
    }

    async fn try_open(self: &Arc<Self>) -> Result<(), Failure> {
        let session = lock(&self.state)
            .session
            .as_ref()
            .map(|session| (session.number, Arc::clone(&session.live), Arc::clone(&session.channel)));
        let (number, live, channel) = match session {
            Some(session) => session,
            None => self.new_session().await?,
        };
        let (queues, window) = {
            let state = lock(&self.state);
            let Some(session) = state.session.as_ref().filter(|session| session.number == number) else {
                return Err(Failure::Lost);
            };
            let consumed =
                |queue: &&Queue| !session.sources.get(&queue.name).is_some_and(|source| source.is_alive);
            let queues: Vec<String> =
                state.queues.iter().filter(consumed).map(|queue| queue.name.clone()).collect();
            (queues, self.window(state.held.len() - state.buffer.len()))
        };
        for queue in queues {
            self.consume_queue(number, &live, &channel, &queue, window).await?;
        }
        Ok(())
    }

    async fn new_session(self: &Arc<Self>) -> Result<(u64, Arc<Live>, Arc<Channel>), Failure> {
        let live = self.topology.live().await?;
        let channel = Arc::new(live.channel().await?);
        let mut state = lock(&self.state);
        state.last_number += 1;
        let number = state.last_number;
        let mut ended = live.ended();
        let weak = Arc::downgrade(self);
        let watcher = tokio::spawn(async move {
            // An error means that the connection itself is gone.
            let _ = ended.wait_for(|ended| *ended).await;
            if let Some(core) = weak.upgrade() {
                core.end_session(number, "the connection was lost");
            }
        });
        state.session = Some(Session {
            number,
            live: Arc::clone(&live),
            channel: Arc::clone(&channel),
            outstanding: BTreeMap::new(),
            next_tag: 1,
            early: BTreeSet::new(),
            sources: HashMap::new(),
            known: Moment::now(),
            patience: live.patience().unwrap_or(WITHOUT_HEARTBEAT),
            watcher,
        });
        Ok((number, live, channel))
    }

    /// Consumes a queue; what consumed it before is cancelled afterwards, so that a queue that goes with its last consumer stays.
    async fn consume_queue(
        self: &Arc<Self>,
        session: u64,
        live: &Arc<Live>,
        channel: &Arc<Channel>,
        queue: &str,
        window: u16,
    ) -> Result<(), Failure> {
        live.answer(channel.basic_qos(window, BasicQosOptions { global: false })).await?;
        let number = {
            let mut state = lock(&self.state);
            state.last_number += 1;
            state.last_number
        };
        let tag = format!("celeriac.{number}");
        let asked = channel.basic_consume(
            short(queue)?,
            short(tag.as_str())?,
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let deliveries = match live.raw_answer(asked).await? {
            Ok(deliveries) => deliveries,
            Err(error) => {
                self.end_session(session, "a queue could not be consumed");
                if matches!(soft(&error), Some((AMQPSoftError::NOTFOUND, _))) {
                    return Err(Failure::Missing);
                }
                return Err(explain(&live.url, &error).into());
            }
        };
        let name: Arc<str> = queue.into();
        let old = {
            // Under the lock, so that nothing is pushed before the source is known.
            let mut state = lock(&self.state);
            let Some(open) = state.session.as_mut().filter(|open| open.number == session) else {
                return Err(Failure::Lost);
            };
            let task = tokio::spawn(pump(Arc::downgrade(self), session, number, name, deliveries));
            let source = Source { number, tag, window, outstanding: 0, is_alive: true, task };
            open.sources.insert(queue.to_owned(), source)
        };
        if let Some(old) = old.filter(|old| old.is_alive) {
            self.cancel(live, channel, old).await?;
        }
        Ok(())
    }

    /// Ends a consumption; what it had pushed stays held.
    async fn cancel(&self, live: &Live, channel: &Channel, source: Source) -> Result<()> {
        let cancelled = live
            .answer(channel.basic_cancel(short(source.tag.as_str())?, BasicCancelOptions::default()))
            .await;
        // What it had pushed before comes into the buffer.
        let _ = tokio::time::timeout(super::link::ANSWER_TIMEOUT, source.task).await;
        cancelled
    }

    /// Consumes anew whose prefetch is used up, or too large.
    async fn resize(self: &Arc<Self>) -> Result<()> {
        let _opening = self.opening.lock().await;
        let (number, live, channel, queues, window) = {
            let state = lock(&self.state);
            let Some(session) = state.session.as_ref().filter(|_| !state.stopped) else { return Ok(()) };
            let window = self.window(state.held.len() - state.buffer.len());
            let wrong = |source: &Source| {
                source.is_alive
                    && (source.outstanding >= u32::from(source.window) || source.window / 2 > window)
            };
            let queues: Vec<String> = session
                .sources
                .iter()
                .filter(|(_, source)| wrong(source))
                .map(|(queue, _)| queue.clone())
                .collect();
            (session.number, Arc::clone(&session.live), Arc::clone(&session.channel), queues, window)
        };
        for queue in queues {
            log::debug!("Queue {queue:?} is consumed anew with a prefetch of {window}.");
            match self.consume_queue(number, &live, &channel, &queue, window).await {
                // Made again by the next receive.
                Err(Failure::Missing | Failure::Lost) => return Ok(()),
                outcome => outcome.map_err(|failure| failure.into_error(&self.url))?,
            }
        }
        Ok(())
    }

    /// A message was pushed.
    fn push(&self, session: u64, source: u64, queue: &Arc<str>, pushed: lapin::message::Delivery) {
        let amqp_tag = pushed.delivery_tag;
        let origin = Origin {
            exchange: pushed.exchange.as_str(),
            routing_key: pushed.routing_key.as_str(),
            redelivered: pushed.redelivered,
        };
        let message = from_amqp(&pushed.properties, Bytes::from(pushed.data), &origin, None);
        let raw = Bytes::from(envelope::encode(&message, origin.exchange, origin.routing_key));
        let mut state = lock(&self.state);
        let State { session: open, last_tag, held, buffer, .. } = &mut *state;
        let Some(open) = open.as_mut().filter(|open| open.number == session) else { return };
        *last_tag += 1;
        open.outstanding.insert(amqp_tag, *last_tag);
        open.early.insert(amqp_tag);
        while open.early.remove(&open.next_tag) {
            open.next_tag += 1;
        }
        if let Some(source) = open.sources.values_mut().find(|one| one.number == source) {
            source.outstanding += 1;
        }
        held.insert(
            *last_tag,
            Held { amqp_tag, source, queue: Arc::clone(queue), raw: raw.clone(), begun: None },
        );
        buffer.push_back(Delivery {
            tag: DeliveryTag(*last_tag),
            queue: Arc::clone(queue),
            raw,
            message: Ok(message),
        });
        drop(state);
        self.arrived.notify_waiters();
    }

    /// The broker consumes a queue for us no longer: it was deleted, or its node is gone.
    fn end_source(&self, session: u64, number: u64) {
        let mut state = lock(&self.state);
        let Some(open) = state.session.as_mut().filter(|open| open.number == session) else { return };
        if let Some(source) = open.sources.values_mut().find(|source| source.number == number) {
            source.is_alive = false;
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    /// The channel is gone, and what was held with it.
    pub(super) fn end_session(&self, number: u64, reason: &str) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.session.as_ref().is_none_or(|session| session.number != number) {
            return;
        }
        let session = state.session.take();
        let unseen: BTreeSet<u64> = state.buffer.drain(..).map(|delivery| delivery.tag.0).collect();
        let held = std::mem::take(&mut state.held);
        if !held.is_empty() && !state.stopped {
            log::warn!(
                "{}: {reason}; {} messages that were held go back to their queues.",
                self.url,
                held.len(),
            );
        }
        state.lost.extend(held.into_keys().filter(|tag| !unseen.contains(tag)).map(DeliveryTag));
        state.looked = true;
        state.was_doubtful = false;
        drop(session);
        self.arrived.notify_waiters();
        self.told.notify_waiters();
    }

    /// Takes from the buffer, or says what must be done first; `None` once it was stopped.
    fn take(&self, max: usize) -> Option<Result<Vec<Delivery>, Need>> {
        let mut state = lock(&self.state);
        if state.stopped {
            return None;
        }
        if state.buffer.is_empty() {
            let need = self.need(&state);
            return Some(Err(need));
        }
        let count = state.buffer.len().min(max.max(1));
        Some(Ok(state.buffer.drain(..count).collect()))
    }

    /// Whether what is held is certainly still held.
    fn stands(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(session) = &state.session else { return true };
        let stands = session.known.age() < session.patience;
        if !stands {
            state.was_doubtful = true;
        }
        stands
    }

    /// Asks the broker whether it has the channel still.
    async fn ask(self: &Arc<Self>) -> Result<()> {
        let _opening = self.opening.lock().await;
        let Some((number, live, channel)) = lock(&self.state)
            .session
            .as_ref()
            .map(|session| (session.number, Arc::clone(&session.live), Arc::clone(&session.channel)))
        else {
            return Ok(());
        };
        let sent = Moment::now();
        let window = self.base();
        if let Err(error) = live.answer(channel.basic_qos(window, BasicQosOptions { global: false })).await {
            self.end_session(number, "the channel was lost");
            return Err(error);
        }
        let mut state = lock(&self.state);
        let was_doubtful = std::mem::take(&mut state.was_doubtful);
        if let Some(session) = state.session.as_mut().filter(|session| session.number == number) {
            session.known = sent;
        }
        if was_doubtful {
            state.looked = true;
            drop(state);
            self.told.notify_waiters();
        }
        Ok(())
    }

    /// [`ask`](Self::ask), where it is not certain.
    pub(super) async fn make_certain(self: &Arc<Self>) -> Result<()> {
        if self.stands() {
            return Ok(());
        }
        match self.ask().await {
            // It is known now: nothing is held any longer.
            Err(error) if error.is_transient() => Ok(()),
            outcome => outcome,
        }
    }

    /// Ends consuming. What has been pushed and not been asked for is given to the caller.
    async fn cease(self: &Arc<Self>) -> Vec<Delivery> {
        let _opening = self.opening.lock().await;
        let (live, channel, sources) = {
            let mut state = lock(&self.state);
            let Some(session) = state.session.as_mut() else { return Vec::new() };
            let sources: Vec<Source> = session.sources.drain().map(|(_, source)| source).collect();
            (Arc::clone(&session.live), Arc::clone(&session.channel), sources)
        };
        for source in sources {
            // A connection that is lost consumes nothing either.
            if !live.is_up() || self.cancel(&live, &channel, source).await.is_err() {
                break;
            }
        }
        lock(&self.state).buffer.drain(..).collect()
    }

    /// Puts back what nobody has been given.
    async fn put_back(self: &Arc<Self>, deliveries: Vec<Delivery>) {
        let _settling = self.settling.lock().await;
        let tags: Vec<DeliveryTag> = deliveries.iter().map(|delivery| delivery.tag).collect();
        let Some((channel, amqp_tags)) = self.release(&tags) else { return };
        for tag in amqp_tags {
            let _ = channel.basic_reject(tag, BasicRejectOptions { requeue: true }).await;
        }
    }

    /// Forgets deliveries: the channel, and their tags on it.
    pub(super) fn release(&self, tags: &[DeliveryTag]) -> Option<(Arc<Channel>, Vec<u64>)> {
        let mut state = lock(&self.state);
        let State { session, held, .. } = &mut *state;
        let session = session.as_mut()?;
        let mut amqp_tags = Vec::with_capacity(tags.len());
        for tag in tags {
            let Some(one) = held.remove(&tag.0) else { continue };
            session.outstanding.remove(&one.amqp_tag);
            if let Some(source) = session.sources.values_mut().find(|source| source.number == one.source) {
                source.outstanding = source.outstanding.saturating_sub(1);
            }
            amqp_tags.push(one.amqp_tag);
        }
        let channel = Arc::clone(&session.channel);
        Some((channel, amqp_tags))
    }

    /// Which acknowledgements go out together: all tags up to the first, where that is above zero, and the others singly.
    pub(super) fn group(&self, tags: &BTreeSet<u64>) -> (u64, Vec<u64>) {
        let state = lock(&self.state);
        let Some(session) = &state.session else { return (0, Vec::new()) };
        let mut up_to = 0;
        for tag in session.outstanding.keys() {
            // What has not come yet would be acknowledged too.
            if !tags.contains(tag) || *tag >= session.next_tag {
                break;
            }
            up_to = *tag;
        }
        let singly: Vec<u64> = tags.range(up_to + 1..).copied().collect();
        (up_to, singly)
    }

    pub(super) fn with_held<T>(&self, tag: DeliveryTag, look: impl FnOnce(&mut Held) -> T) -> Option<T> {
        lock(&self.state).held.get_mut(&tag.0).map(look)
    }

    pub(super) fn is_held(&self, tag: DeliveryTag) -> bool {
        lock(&self.state).held.contains_key(&tag.0)
    }

    pub(super) fn session_number(&self) -> Option<u64> {
        lock(&self.state).session.as_ref().map(|session| session.number)
    }

    pub(super) fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Room was made.
    pub(super) fn ring(&self) {
        self.arrived.notify_waiters();
    }
}

/// Why nothing is consumed.
enum Failure {
    /// A queue is not there.
    Missing,
    /// The connection went meanwhile.
    Lost,
    Other(Error),
}

impl Failure {
    fn into_error(self, url: &str) -> Error {
        match self {
            Self::Missing => Error::Refused {
                url: url.to_owned(),
                reason: "a queue that is consumed was deleted".to_owned(),
            },
            Self::Lost => {
                Error::BrokerUnavailable { url: url.to_owned(), reason: "the connection was lost".to_owned() }
            }
            Self::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Takes what is pushed from one queue.
async fn pump(core: Weak<Core>, session: u64, source: u64, queue: Arc<str>, mut deliveries: lapin::Consumer) {
    while let Some(pushed) = deliveries.next().await {
        let Some(core) = core.upgrade() else { return };
        match pushed {
            Ok(pushed) => core.push(session, source, &queue, pushed),
            Err(error) => {
                let said = soft(&error).map(|(_, said)| said.to_owned());
                core.end_session(session, &said.unwrap_or_else(|| error.to_string()));
                return;
            }
        }
    }
    if let Some(core) = core.upgrade() {
        core.end_source(session, source);
    }
}

/// Sees to it that it is known whether the broker has the channel still.
async fn keep(core: Weak<Core>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(core) = core.upgrade() else { return };
        let is_due = lock(&core.state)
            .session
            .as_ref()
            .is_some_and(|session| session.known.age() > session.patience / 4);
        if is_due && let Err(error) = core.ask().await {
            log::debug!("{error}");
        }
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn receive(&self, max: usize) -> Result<Vec<Delivery>> {
        let core = &self.core;
        loop {
            let arrived = core.arrived.notified();
            tokio::pin!(arrived);
            // Before looking, so that nothing comes between looking and waiting.
            arrived.as_mut().enable();
            let need = match core.take(max) {
                None => return Ok(Vec::new()),
                Some(Ok(deliveries)) => {
                    fault_point!("amqp.receive.after");
                    return Ok(deliveries);
                }
                Some(Err(need)) => need,
            };
            match need {
                Need::Nothing => arrived.await,
                // Finished even when this receive is dropped meanwhile.
                Need::Open => run(core, |core| async move { core.open().await }).await?,
                Need::Shrink => run(core, |core| async move { core.resize().await }).await?,
                Need::Grow => {
                    if tokio::time::timeout(EXHAUSTED, arrived).await.is_err() {
                        run(core, |core| async move { core.resize().await }).await?;
                    }
                }
            }
        }
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<Result<Settled>> {
        settle::settle(&self.core, batch).await
    }

    async fn still_held(&self, tags: &[DeliveryTag]) -> Result<Vec<bool>> {
        self.core.make_certain().await?;
        let state = lock(&self.core.state);
        Ok(tags.iter().map(|tag| state.held.contains_key(&tag.0)).collect())
    }

    async fn begin(&self, batch: &[(DeliveryTag, &str)]) -> Result<Vec<Option<u32>>> {
        begin::begin(&self.core, batch).await
    }

    fn leases_stand(&self) -> bool {
        self.core.stands()
    }

    async fn lost(&self) -> Vec<DeliveryTag> {
        loop {
            let told = self.core.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            {
                let mut state = lock(&self.core.state);
                if std::mem::take(&mut state.looked) || !state.lost.is_empty() {
                    return std::mem::take(&mut state.lost);
                }
            }
            told.await;
        }
    }

    async fn set_queues(&self, queues: Vec<Queue>) -> Result<()> {
        lock(&self.core.state).queues = queues;
        run(&self.core, |core| async move {
            let (others, session) = {
                let _opening = core.opening.lock().await;
                let mut state = lock(&core.state);
                let State { queues, session, .. } = &mut *state;
                let Some(session) = session.as_mut() else { return Ok(()) };
                let gone: Vec<String> = session
                    .sources
                    .keys()
                    .filter(|name| queues.iter().all(|queue| queue.name != **name))
                    .cloned()
                    .collect();
                let others: Vec<Source> =
                    gone.iter().filter_map(|name| session.sources.remove(name)).collect();
                (others, (Arc::clone(&session.live), Arc::clone(&session.channel)))
            };
            for source in others {
                core.cancel(&session.0, &session.1, source).await?;
            }
            let unwanted: Vec<Delivery> = {
                let mut state = lock(&core.state);
                let State { queues, buffer, .. } = &mut *state;
                let (wanted, unwanted) = buffer
                    .drain(..)
                    .partition(|delivery| queues.iter().any(|queue| queue.name == *delivery.queue));
                *buffer = wanted;
                Vec::from(unwanted)
            };
            core.put_back(unwanted).await;
            if !lock(&core.state).stopped {
                core.open().await?;
            }
            core.ask().await
        })
        .await
    }

    async fn pause(&self) -> Vec<Delivery> {
        self.core.cease().await
    }

    async fn stop(&self) {
        lock(&self.core.state).stopped = true;
        self.core.arrived.notify_waiters();
        let core = Arc::clone(&self.core);
        let stopping = tokio::spawn(async move {
            let unseen = core.cease().await;
            if !unseen.is_empty() {
                core.put_back(unseen).await;
                // Once this is answered the queues have them again.
                let _ = core.ask().await;
            }
        });
        let _ = stopping.await;
    }

    async fn close(&self) -> Result<()> {
        self.stop().await;
        let _opening = self.core.opening.lock().await;
        let session = {
            let mut state = lock(&self.core.state);
            state.held.clear();
            state.buffer.clear();
            state.session.take()
        };
        let Some(session) = session else { return Ok(()) };
        if session.live.is_up() {
            // The broker answers once everything is back in its queue. Where it does not, that is back all the same.
            let closing = session.channel.close(200, "OK".into());
            let _ = tokio::time::timeout(super::link::ANSWER_TIMEOUT, closing).await;
        }
        Ok(())
    }
}

/// Runs to its end, whoever waits for it.
async fn run<F: Future<Output = Result<()>> + Send + 'static>(
    core: &Arc<Core>,
    what: impl FnOnce(Arc<Core>) -> F,
) -> Result<()> {
    let running = tokio::spawn(what(Arc::clone(core)));
    running.await.unwrap_or_else(|error| Err(Error::Internal(format!("the consumer: {error}"))))
}
