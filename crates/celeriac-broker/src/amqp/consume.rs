//! Which queues are consumed, and how much the broker may push from each.
//!
//! The broker pushes, up to the prefetch of each queue. A prefetch cannot be changed, so where more are held than it allows
//! (tasks that wait for their time) the queue is consumed anew under another tag: what is held under the old one stays held,
//! and counts no more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use celeriac_error::{Error, Result};
use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use tokio::time::Instant;

use super::certain::WITHOUT_HEARTBEAT;
use super::core::{Core, Session, Source, State};
use super::failure::{explain, soft};
use super::link::{ANSWER_TIMEOUT, Live, lock};
use super::settle::reject;
use super::table::short;
use crate::moment::Moment;
use crate::transport::{Delivery, DeliveryTag, Queue};

/// How long what the prefetch allows must have been held while more is asked for: what is just being acknowledged makes room by
/// itself.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// What a receive that has nothing has to do first.
pub(super) enum Need {
    Nothing,
    /// Some queue is not consumed.
    Open,
    /// The broker may push nothing more from some queue, and may after so long.
    Grow(Duration),
    /// Far more may be pushed than is needed any longer.
    Shrink,
}

impl Core {
    pub(super) fn base(&self) -> u16 {
        u16::try_from(self.prefetch).unwrap_or(u16::MAX)
    }

    /// Whether every queue is consumed, and may be pushed from.
    pub(super) fn need(&self, state: &mut State) -> Need {
        let State { session, queues, held, buffer, .. } = state;
        let Some(session) = session else { return Need::Open };
        let consumed = |queue: &Queue| session.sources.get(&queue.name).is_some_and(|source| source.is_alive);
        if !queues.iter().all(consumed) {
            return Need::Open;
        }
        let mut left: Option<Duration> = None;
        for (queue, source) in &mut session.sources {
            // What waits in the buffer has not been asked for yet.
            let is_full = source.is_alive
                && source.outstanding >= u32::from(source.window)
                && buffer.iter().all(|delivery| *delivery.queue != **queue);
            if is_full {
                let since = *source.wanted.get_or_insert_with(Instant::now);
                let this = EXHAUSTED.saturating_sub(since.elapsed());
                left = Some(left.map_or(this, |left| left.min(this)));
            }
        }
        if let Some(left) = left {
            return Need::Grow(left);
        }
        let needed = self.window(held.len() - buffer.len());
        if session.sources.values().any(|source| source.window / 2 > needed) {
            return Need::Shrink;
        }
        Need::Nothing
    }

    /// The prefetch for somebody who holds so many already.
    pub(super) fn window(&self, held: usize) -> u16 {
        u16::try_from(held / 4).unwrap_or(u16::MAX).max(self.base())
    }

    /// Opens the channel if there is none, and consumes what is not consumed.
    pub(super) async fn open(self: &Arc<Self>) -> Result<()> {
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

    pub(super) async fn try_open(self: &Arc<Self>) -> Result<(), Failure> {
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

    pub(super) async fn new_session(self: &Arc<Self>) -> Result<(u64, Arc<Live>, Arc<Channel>), Failure> {
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
    pub(super) async fn consume_queue(
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
            let source = Source { number, tag, window, outstanding: 0, wanted: None, is_alive: true, task };
            open.sources.insert(queue.to_owned(), source)
        };
        if let Some(old) = old.filter(|old| old.is_alive) {
            self.cancel(live, channel, old).await?;
        }
        Ok(())
    }

    /// Ends a consumption; what it had pushed stays held.
    pub(super) async fn cancel(&self, live: &Live, channel: &Channel, source: Source) -> Result<()> {
        let cancelled = live
            .answer(channel.basic_cancel(short(source.tag.as_str())?, BasicCancelOptions::default()))
            .await;
        // What it had pushed before comes into the buffer.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, source.task).await;
        cancelled
    }

    /// Consumes anew whose prefetch is used up, or too large.
    pub(super) async fn resize(self: &Arc<Self>) -> Result<()> {
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

    /// Ends consuming. What has been pushed and not been asked for stays in the buffer.
    pub(super) async fn cease(self: &Arc<Self>) {
        let _opening = self.opening.lock().await;
        let (live, channel, sources) = {
            let mut state = lock(&self.state);
            let Some(session) = state.session.as_mut() else { return };
            let sources: Vec<Source> = session.sources.drain().map(|(_, source)| source).collect();
            (Arc::clone(&session.live), Arc::clone(&session.channel), sources)
        };
        for source in sources {
            // A connection that is lost consumes nothing either.
            if live.is_up() {
                let _ = self.cancel(&live, &channel, source).await;
            }
        }
    }

    /// What has been pushed and not been asked for.
    pub(super) fn unseen(&self) -> Vec<Delivery> {
        lock(&self.state).buffer.drain(..).collect()
    }

    /// Puts back what nobody has been given.
    pub(super) async fn put_back(self: &Arc<Self>, deliveries: Vec<Delivery>) {
        let _settling = self.settling.lock().await;
        let tags: Vec<DeliveryTag> = deliveries.iter().map(|delivery| delivery.tag).collect();
        let Some(session) = self.session_number() else { return };
        if let Some(released) = self.release(session, &tags, false) {
            reject(&released).await;
        }
    }
}

/// Why nothing is consumed.
pub(super) enum Failure {
    /// A queue is not there.
    Missing,
    /// The connection went meanwhile.
    Lost,
    Other(Error),
}

impl Failure {
    pub(super) fn into_error(self, url: &str) -> Error {
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
pub(super) async fn pump(
    core: Weak<Core>,
    session: u64,
    source: u64,
    queue: Arc<str>,
    mut deliveries: lapin::Consumer,
) {
    while let Some(pushed) = deliveries.next().await {
        let Some(core) = core.upgrade() else { return };
        match pushed {
            Ok(pushed) => core.push(session, source, &queue, pushed),
            Err(error) => return core.fail_session(session, &error),
        }
    }
    if let Some(core) = core.upgrade() {
        core.end_source(session, source);
    }
}
