//! What the parts of a consumer share: what is held, what waits in the buffer, and the channel that it came by.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, ErrorKind};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::consume::Need;
use super::dead::DeadList;
use super::failure::soft;
use super::link::{Live, lock};
use super::properties::{Origin, from_amqp};
use super::publish::Lane;
use super::topology::Topology;
use crate::moment::Moment;
use crate::transport::{Delivery, DeliveryTag, Queue};

/// One message that is held.
pub(super) struct Held {
    /// The tag on the channel.
    pub(super) amqp_tag: u64,
    /// Which consumption it came by.
    pub(super) source: u64,
    pub(super) queue: Arc<str>,
    pub(super) original: Original,
    /// The task id under which its begin was counted, and the count.
    pub(super) begun: Option<(String, u32)>,
}

/// A message as it came, for the dead list.
#[derive(Clone)]
pub(super) struct Original {
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) redelivered: bool,
}

impl Original {
    pub(super) fn origin(&self) -> Origin<'_> {
        Origin {
            exchange: self.exchange.as_str(),
            routing_key: self.routing_key.as_str(),
            redelivered: self.redelivered,
        }
    }
}

impl From<lapin::message::Delivery> for Original {
    fn from(pushed: lapin::message::Delivery) -> Self {
        Self {
            properties: pushed.properties,
            body: Bytes::from(pushed.data),
            exchange: pushed.exchange,
            routing_key: pushed.routing_key,
            redelivered: pushed.redelivered,
        }
    }
}

/// One queue that is consumed.
pub(super) struct Source {
    pub(super) number: u64,
    pub(super) tag: String,
    pub(super) window: u16,
    /// How many of its messages are held.
    pub(super) outstanding: u32,
    /// Since when the broker may push nothing more from it though more was asked for.
    pub(super) wanted: Option<Instant>,
    /// False once the broker has ended it.
    pub(super) is_alive: bool,
    pub(super) task: JoinHandle<()>,
}

/// An open channel, and what is on it.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) live: Arc<Live>,
    pub(super) channel: Arc<Channel>,
    /// Tags on the channel that are held.
    pub(super) outstanding: BTreeMap<u64, u64>,
    /// All tags below it have come.
    pub(super) next_tag: u64,
    /// Those above it that came early.
    pub(super) early: BTreeSet<u64>,
    /// By the name of the queue.
    pub(super) sources: HashMap<String, Source>,
    /// When it was last known that the broker has the channel.
    pub(super) known: Moment,
    /// How long it is certain after that.
    pub(super) patience: Duration,
    pub(super) watcher: JoinHandle<()>,
}

impl Session {
    /// Up to which tag all that is held is among these.
    fn up_to(&self, tags: &BTreeSet<u64>) -> u64 {
        let together = self.outstanding.keys().take_while(|tag| {
            // What has not come yet would be settled too.
            tags.contains(tag) && **tag < self.next_tag
        });
        together.last().copied().unwrap_or(0)
    }
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
pub(super) struct State {
    pub(super) queues: Vec<Queue>,
    pub(super) session: Option<Session>,
    pub(super) last_tag: u64,
    pub(super) last_number: u64,
    pub(super) held: BTreeMap<u64, Held>,
    pub(super) buffer: VecDeque<Delivery>,
    pub(super) lost: Vec<DeliveryTag>,
    /// Told once to whoever receives next, so that nothing is tried again without a pause.
    pub(super) failure: Option<Error>,
    /// What is held is certain again, after it was not.
    pub(super) looked: bool,
    pub(super) was_doubtful: bool,
    pub(super) stopped: bool,
}

/// What the parts of a consumer share.
pub(super) struct Core {
    pub(super) url: String,
    pub(super) topology: Arc<Topology>,
    pub(super) lane: Lane,
    pub(super) dead: Arc<DeadList>,
    pub(super) prefetch: u32,
    pub(super) state: Mutex<State>,
    /// Rung when a waiting receive should look again.
    pub(super) arrived: Notify,
    /// Rung when there is something to tell.
    pub(super) told: Notify,
    /// Held while consumptions are opened, or replaced.
    pub(super) opening: tokio::sync::Mutex<()>,
    /// Held while begins are counted.
    pub(super) beginning: tokio::sync::Mutex<()>,
    /// Held from choosing which tags go together until their frames are on their way: an acknowledgement of all tags up to one
    /// must not overtake what somebody else does with one of those.
    pub(super) settling: tokio::sync::Mutex<()>,
    /// Counts that are being forgotten.
    pub(super) forgetting: tokio::sync::Mutex<JoinSet<()>>,
}

/// Deliveries that are forgotten here, and what the broker is told of them.
pub(super) struct Released {
    pub(super) live: Arc<Live>,
    pub(super) channel: Arc<Channel>,
    /// Which of those that were named were held.
    pub(super) were_held: Vec<bool>,
    /// Above zero, all tags up to it may be settled together.
    pub(super) up_to: u64,
    /// The others.
    pub(super) singly: Vec<u64>,
}

impl Core {
    /// A message was pushed.
    pub(super) fn push(&self, session: u64, source: u64, queue: &Arc<str>, pushed: lapin::message::Delivery) {
        let amqp_tag = pushed.delivery_tag;
        let original = Original::from(pushed);
        let message = from_amqp(&original.properties, original.body.clone(), &original.origin(), None);
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
        held.insert(*last_tag, Held { amqp_tag, source, queue: Arc::clone(queue), original, begun: None });
        buffer.push_back(Delivery {
            tag: DeliveryTag(*last_tag),
            queue: Arc::clone(queue),
            raw: message.body.clone(),
            message: Ok(message),
        });
        drop(state);
        self.arrived.notify_waiters();
    }

    /// The broker consumes a queue for us no longer: it was deleted, or its node is gone.
    pub(super) fn end_source(&self, session: u64, number: u64) {
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

    /// The channel is gone, and this is why.
    pub(super) fn fail_session(&self, number: u64, error: &lapin::Error) {
        if let ErrorKind::ParsingError(_) = error.kind() {
            let mut state = lock(&self.state);
            let queues: Vec<&str> = state.queues.iter().map(|queue| queue.name.as_str()).collect();
            let reason = format!(
                "a message in one of the queues {} cannot be read and ends the connection each time that it comes: {error}",
                queues.join(", ")
            );
            log::error!("{}: {reason}", self.url);
            state.failure = Some(Error::BrokerUnavailable { url: self.url.clone(), reason });
        }
        let said = soft(error).map_or_else(|| error.to_string(), |(_, said)| said.to_owned());
        self.end_session(number, &said);
    }

    /// Takes from the buffer, or says what must be done first; `None` once it was stopped. And whether what the broker may push
    /// is used up from some queue, for too long.
    pub(super) fn take(&self, max: usize) -> Option<Result<(Vec<Delivery>, bool), Need>> {
        let mut state = lock(&self.state);
        if state.stopped {
            return None;
        }
        let need = self.need(&mut state);
        if state.buffer.is_empty() {
            return Some(Err(need));
        }
        let is_overdue = matches!(need, Need::Grow(left) if left.is_zero());
        let count = state.buffer.len().min(max.max(1));
        Some(Ok((state.buffer.drain(..count).collect(), is_overdue)))
    }

    /// Forgets deliveries of this session; `None` when it has ended. What has been settled already is not among them.
    pub(super) fn release(&self, number: u64, tags: &[DeliveryTag], together: bool) -> Option<Released> {
        let mut state = lock(&self.state);
        let State { session, held, .. } = &mut *state;
        let session = session.as_mut().filter(|session| session.number == number)?;
        let mut amqp_tags = BTreeSet::new();
        let mut were_held = Vec::with_capacity(tags.len());
        for tag in tags {
            let Some(one) = held.remove(&tag.0) else {
                were_held.push(false);
                continue;
            };
            if let Some(source) = session.sources.values_mut().find(|source| source.number == one.source) {
                source.outstanding = source.outstanding.saturating_sub(1);
                source.wanted = None;
            }
            amqp_tags.insert(one.amqp_tag);
            were_held.push(true);
        }
        let up_to = if together { session.up_to(&amqp_tags) } else { 0 };
        for tag in &amqp_tags {
            session.outstanding.remove(tag);
        }
        Some(Released {
            live: Arc::clone(&session.live),
            channel: Arc::clone(&session.channel),
            were_held,
            up_to,
            singly: amqp_tags.range(up_to + 1..).copied().collect(),
        })
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
