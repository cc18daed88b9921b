//! Publishing: everything on one channel, in order, many on their way at once, each confirmed.
//!
//! One task owns the channel. What it was given is published even when nobody waits for the outcome any longer, so that
//! dropping a call never leaves half a message behind.
//!
//! A message that no queue takes comes back before it is confirmed. lapin attaches what came back to whichever confirmation
//! it reads next, not to its own, and reads several confirmations in one frame in any order. So all confirmations are
//! looked at together: those of one frame are judged once that whole frame was read, and what came back is found by what is
//! in it.
//!
//! Some messages end the channel, or the connection, for all that are on it, and the broker does not say which one it was. So
//! what was on its way is sent again in smaller and smaller groups, until the one that is to blame is alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::failure::explain;
use super::link::{Link, Live};
use super::properties::{to_amqp, wire_size};
use super::table::short;
use super::topology::Topology;
use crate::fault_point;
use crate::transport::{ExchangeType, Publication};

/// The most messages on their way; fewer when some of them ended the channel, and one by one after the second time.
const WINDOWS: [usize; 3] = [2048, 32, 1];

/// The most bytes on their way, unless one message alone has more.
const WINDOW_BYTES: usize = 32 << 20;

/// How long a confirmation may take after the one before it. The broker confirms what it has written to its disk.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// How long what is left of a channel that ended may take to say so.
const LANDING_TIMEOUT: Duration = Duration::from_secs(2);

/// What a header frame has beside the properties: its type, channel, length, class, weight, size of the body, and its end.
const HEADER_FRAME: usize = 7 + 2 + 2 + 8 + 1;

/// A message that only has to be sent.
pub(super) struct Ready {
    exchange: Arc<str>,
    routing_key: Arc<str>,
    body: Bytes,
    properties: BasicProperties,
    /// Whether it is an error when no queue takes it. A fanout without listeners is none: nobody wants to know.
    mandatory: bool,
    /// How many bytes the header frame has, which cannot be divided.
    header: usize,
}

impl Ready {
    pub(super) fn new(publication: &Publication) -> Result<Self> {
        // So that nothing can go wrong with them later.
        short(&*publication.exchange)?;
        short(&*publication.routing_key)?;
        let properties = to_amqp(&publication.message)?;
        Ok(Self {
            exchange: Arc::clone(&publication.exchange),
            routing_key: Arc::clone(&publication.routing_key),
            body: publication.message.body.clone(),
            header: HEADER_FRAME + wire_size(&properties),
            properties,
            mandatory: publication.exchange_type != ExchangeType::Fanout,
        })
    }

    /// To a queue, by the default exchange.
    pub(super) fn to_queue(queue: &str, body: Bytes, properties: BasicProperties) -> Result<Self> {
        short(queue)?;
        let header = HEADER_FRAME + wire_size(&properties);
        Ok(Self { exchange: "".into(), routing_key: queue.into(), body, properties, mandatory: true, header })
    }
}

/// What one message is to become, if anything stands against it.
fn fate(missing: &HashMap<Arc<str>, Option<Error>>, publication: &Publication) -> Option<Result<()>> {
    let (exchange, routing_key) = (&publication.exchange, &publication.routing_key);
    Some(match (missing.get(exchange)?, publication.exchange_type) {
        (Some(error), _) => Err(error.clone()),
        (None, ExchangeType::Fanout) => Ok(()),
        (None, _) => Err(unroutable(exchange, routing_key)),
    })
}

struct Batch {
    messages: Vec<Ready>,
    reply: oneshot::Sender<Vec<Result<()>>>,
}

/// The way to the broker. Cheap to share.
#[derive(Clone)]
pub(super) struct Lane {
    sender: mpsc::UnboundedSender<Batch>,
    topology: Arc<Topology>,
}

impl Lane {
    /// Starts the task, which ends with the last lane.
    pub(super) fn start(link: Arc<Link>, topology: Arc<Topology>) -> Self {
        let (sender, batches) = mpsc::unbounded_channel();
        let task = Task {
            link,
            url: String::new(),
            topology: Arc::clone(&topology),
            open: None,
            waiting: VecDeque::new(),
            again: Vec::new(),
            flying: FuturesUnordered::new(),
            entries: BTreeMap::new(),
            bytes: 0,
            tries: 0,
            last: 0,
            landed: Instant::now(),
            ending: None,
            stuck: None,
            was_alone: None,
            replies: BTreeMap::new(),
            last_reply: 0,
        };
        tokio::spawn(task.run(batches));
        Self { sender, topology }
    }

    /// Publishes a batch; the results are in its order.
    pub(super) async fn publish(&self, batch: &[Publication]) -> Vec<Result<()>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let ready: Vec<Result<Ready>> = batch.iter().map(Ready::new).collect();
        let fitting = batch.iter().zip(&ready).filter(|(_, ready)| ready.is_ok());
        let names = fitting.map(|(publication, _)| (&publication.exchange, publication.exchange_type));
        let missing = self.topology.missing(names).await;
        let mut outcomes: Vec<Option<Result<()>>> = Vec::with_capacity(batch.len());
        let mut messages = Vec::with_capacity(batch.len());
        for (publication, ready) in batch.iter().zip(ready) {
            outcomes.push(match ready {
                Err(error) => Some(Err(error)),
                Ok(message) => {
                    let fate = fate(&missing, publication);
                    if fate.is_none() {
                        messages.push(message);
                    }
                    fate
                }
            });
        }
        let mut sent = self.send(messages).await.into_iter();
        let missing = || Err(Error::Internal("a publication without an outcome".to_owned()));
        outcomes.into_iter().map(|outcome| outcome.or_else(|| sent.next()).unwrap_or_else(missing)).collect()
    }

    /// Publishes messages whose exchanges are there.
    pub(super) async fn send(&self, messages: Vec<Ready>) -> Vec<Result<()>> {
        let count = messages.len();
        if count == 0 {
            return Vec::new();
        }
        fault_point!("amqp.publish.before");
        let (reply, outcomes) = oneshot::channel();
        let closed = || (0..count).map(|_| Err(Error::Closed("connection to the broker"))).collect();
        if self.sender.send(Batch { messages, reply }).is_err() {
            return closed();
        }
        let outcomes = outcomes.await.unwrap_or_else(|_| closed());
        fault_point!("amqp.publish.after");
        outcomes
    }
}

fn unroutable(exchange: &str, routing_key: &str) -> Error {
    Error::Unroutable { exchange: exchange.to_owned(), routing_key: routing_key.to_owned() }
}

type Flight = BoxFuture<'static, (u64, lapin::Result<Confirmation>)>;

/// One message that waits for its turn.
struct Waiting {
    message: Ready,
    reply: u64,
    place: usize,
    /// How many channels have ended while it was on its way.
    tries: usize,
}

/// One message on its way.
struct Entry {
    waiting: Waiting,
    sent: Instant,
    returned: bool,
}

/// The outcomes of one batch, as far as they are known.
struct Reply {
    outcomes: Vec<Option<Result<()>>>,
    left: usize,
    sender: Option<oneshot::Sender<Vec<Result<()>>>>,
}

struct Open {
    live: Arc<Live>,
    channel: Arc<Channel>,
}

struct Task {
    link: Arc<Link>,
    /// Of the connection that was open last.
    url: String,
    topology: Arc<Topology>,
    open: Option<Open>,
    waiting: VecDeque<Waiting>,
    /// What is sent again once everything has landed that was on the same channel, with its number there.
    again: Vec<(u64, Waiting)>,
    flying: FuturesUnordered<Flight>,
    entries: BTreeMap<u64, Entry>,
    /// How many bytes the entries have.
    bytes: usize,
    /// Those of all entries.
    tries: usize,
    last: u64,
    /// When the last confirmation came.
    landed: Instant,
    /// Since when the channel of the entries is gone.
    ending: Option<Instant>,
    /// Since when the broker takes no messages.
    stuck: Option<Instant>,
    /// Whether there was only one message on its way when the channel ended.
    was_alone: Option<bool>,
    replies: BTreeMap<u64, Reply>,
    last_reply: u64,
}

impl Task {
    async fn run(mut self, mut batches: mpsc::UnboundedReceiver<Batch>) {
        loop {
            self.launch().await;
            let end = self.patience();
            let freed = self.stuck.and_then(|_| self.link.peek()).map(Live::freed);
            tokio::select! {
                Some(landed) = self.flying.next(), if !self.flying.is_empty() => self.judge(landed),
                batch = batches.recv(), if self.waiting.is_empty() && self.again.is_empty() => match batch {
                    Some(batch) => self.accept(batch),
                    None if self.entries.is_empty() => return,
                    None => {
                        // The last lane is gone, and so is everybody who waits.
                        self.open = None;
                        return;
                    }
                },
                () = async { if let Some(freed) = freed { freed.await } }, if self.stuck.is_some() => {
                    self.stuck = None;
                }
                () = tokio::time::sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                    self.time_out();
                }
            }
        }
    }

    /// Until when the next thing has to happen.
    fn patience(&self) -> Option<Instant> {
        let oldest =
            self.entries.first_key_value().map(|(_, entry)| entry.sent.max(self.landed) + CONFIRM_TIMEOUT);
        let ending = self.ending.map(|since| since + LANDING_TIMEOUT);
        let stuck = self.stuck.filter(|_| !self.waiting.is_empty()).map(|since| since + CONFIRM_TIMEOUT);
        [oldest, ending, stuck].into_iter().flatten().min()
    }

    fn accept(&mut self, batch: Batch) {
        // Nobody waits for it any longer, and none of it was sent: whoever gave it has tried again, or told that it failed.
        if batch.reply.is_closed() {
            return;
        }
        self.last_reply += 1;
        let (reply, left) = (self.last_reply, batch.messages.len());
        let outcomes = std::iter::repeat_with(|| None).take(left).collect();
        self.replies.insert(reply, Reply { outcomes, left, sender: Some(batch.reply) });
        let waiting = batch.messages.into_iter().enumerate();
        self.waiting.extend(waiting.map(|(place, message)| Waiting { message, reply, place, tries: 0 }));
    }

    /// Sends what waits, as far as the window allows.
    async fn launch(&mut self) {
        if self.entries.is_empty() {
            self.ending = None;
            self.again.sort_unstable_by_key(|(number, _)| *number);
            while let Some((_, waiting)) = self.again.pop() {
                self.waiting.push_front(waiting);
            }
        }
        while self.has_room() {
            if self.is_stuck() {
                return;
            }
            let (channel, frame_max) = match self.channel().await {
                Ok(Some(channel)) => channel,
                Ok(None) => return,
                Err(error) => return self.refuse_waiting(&error),
            };
            while self.has_room() {
                let Some(waiting) = self.waiting.pop_front() else { break };
                let header = waiting.message.header;
                if header > frame_max {
                    let reason = format!(
                        "the headers and properties have {header} bytes, and the broker takes at most {frame_max}"
                    );
                    self.settle(waiting.reply, waiting.place, Err(Error::Encode { reason }));
                    continue;
                }
                self.last += 1;
                self.tries = waiting.tries;
                self.bytes += waiting.message.body.len();
                self.flying.push(fly(Arc::clone(&channel), self.last, &waiting.message));
                let entry = Entry { waiting, sent: Instant::now(), returned: false };
                self.entries.insert(self.last, entry);
            }
        }
    }

    /// Whether the next message may be sent now.
    fn has_room(&self) -> bool {
        let Some(next) = self.waiting.front() else { return false };
        self.entries.is_empty()
            || next.tries == self.tries
                && self.entries.len() < WINDOWS[next.tries]
                && self.bytes + next.message.body.len() <= WINDOW_BYTES
    }

    /// Whether the broker takes no messages for now. What waits is told so when that takes too long: on a connection that is
    /// blocked nothing can be asked either.
    fn is_stuck(&mut self) -> bool {
        let live = self.link.peek();
        let Some((live, reason)) = live.and_then(|live| live.blocked().map(|reason| (live, reason))) else {
            self.stuck = None;
            return false;
        };
        if self.stuck.get_or_insert_with(Instant::now).elapsed() >= CONFIRM_TIMEOUT {
            self.refuse_waiting(&live.unavailable(takes_none(&reason)));
        }
        true
    }

    fn refuse_waiting(&mut self, error: &Error) {
        while let Some(waiting) = self.waiting.pop_front() {
            self.settle(waiting.reply, waiting.place, Err(error.clone()));
        }
    }

    /// The channel, and the largest frame on it. None when something must land first that was on another.
    async fn channel(&mut self) -> Result<Option<(Arc<Channel>, usize)>> {
        if let Some(open) = &self.open {
            let is_up = open.live.is_up();
            if is_up && open.channel.status().connected() && self.link.is_in_place(&open.live) {
                return Ok(Some((Arc::clone(&open.channel), open.live.frame_max())));
            }
            if !is_up && !open.live.is_over() {
                // Given up: nobody will say anything any more.
                self.fail_all("the connection was lost");
            }
            self.end();
        }
        if !self.entries.is_empty() {
            return Ok(None);
        }
        self.was_alone = None;
        // What was declared is there again before anything is sent to it.
        self.topology.live().await?;
        let live = self.link.get().await?;
        let channel = Arc::new(live.channel().await?);
        live.answer(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        self.url.clone_from(&live.url);
        let frame_max = live.frame_max();
        self.open = Some(Open { live, channel: Arc::clone(&channel) });
        Ok(Some((channel, frame_max)))
    }

    /// One confirmation has landed: looks at all others that have, and tells the outcomes.
    fn judge(&mut self, first: (u64, lapin::Result<Confirmation>)) {
        let mut landed = vec![first];
        self.drain(&mut landed);
        let judged = landed.len();
        self.landed = Instant::now();
        // The frame that brought the last of them is read to its end once this lock was free.
        if let Some(open) = &self.open {
            let channel = Arc::clone(&open.channel);
            if let Some(Ok(returned)) = pin!(channel.wait_for_confirms()).now_or_never() {
                self.mark_all(returned);
            }
        }
        self.drain(&mut landed);
        let (mut ended, mut taken) = (None, 0);
        let mut outcomes = Vec::with_capacity(landed.len());
        for (number, outcome) in landed {
            let outcome = match outcome {
                Ok(Confirmation::Ack(returned)) => {
                    self.mark_all(returned);
                    taken += 1;
                    Ok(true)
                }
                Ok(Confirmation::Nack(returned)) => {
                    self.mark_all(returned);
                    taken += 1;
                    Ok(false)
                }
                Ok(Confirmation::NotRequested) => Ok(true),
                Err(error) => {
                    ended.get_or_insert_with(|| error.clone());
                    Err(error)
                }
            };
            outcomes.push((number, outcome));
        }
        if let Some(error) = &ended {
            log::debug!("The publishing channel ended: {error}");
            // What was confirmed did not end it.
            self.was_alone.get_or_insert(self.entries.len() == taken + 1);
        }
        // What landed after the lock was free may have a companion that is still being read.
        let later = outcomes.split_off(judged);
        for (number, outcome) in outcomes {
            self.tell(number, outcome);
        }
        for (number, outcome) in later {
            let again =
                outcome.map(|taken| if taken { Confirmation::Ack(None) } else { Confirmation::Nack(None) });
            self.flying.push(std::future::ready((number, again)).boxed());
        }
        if ended.is_some() {
            self.end();
        }
    }

    fn drain(&mut self, landed: &mut Vec<(u64, lapin::Result<Confirmation>)>) {
        while let Some(Some(one)) = self.flying.next().now_or_never() {
            landed.push(one);
        }
    }

    fn mark_all(&mut self, returned: impl IntoIterator<Item = BasicReturnMessage>) {
        for message in returned {
            self.mark(&message);
        }
    }

    /// Finds what came back among what was sent.
    fn mark(&mut self, returned: &BasicReturnMessage) {
        let back = &returned.delivery;
        let found = self.entries.values_mut().find(|entry| {
            let message = &entry.waiting.message;
            !entry.returned
                && *message.exchange == *back.exchange.as_str()
                && *message.routing_key == *back.routing_key.as_str()
                && message.properties.correlation_id() == back.properties.correlation_id()
                && message.body == back.data
        });
        if let Some(entry) = found {
            entry.returned = true;
        }
    }

    fn tell(&mut self, number: u64, outcome: lapin::Result<bool>) {
        let Some(mut entry) = self.take(number) else { return };
        let url = self.url.clone();
        let message = &entry.waiting.message;
        let outcome = match outcome {
            _ if entry.returned => Err(unroutable(&message.exchange, &message.routing_key)),
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::BrokerUnavailable {
                url,
                reason:
                    "it could not take the message: a queue is full, or cannot be written to (basic.nack)"
                        .to_owned(),
            }),
            Err(error) => match self.blame(&error, message, url) {
                Blame::Innocent => {
                    self.again.push((number, entry.waiting));
                    return;
                }
                Blame::Suspect => {
                    entry.waiting.tries = (entry.waiting.tries + 1).min(WINDOWS.len() - 1);
                    self.again.push((number, entry.waiting));
                    return;
                }
                Blame::Told(outcome) => outcome,
            },
        };
        self.settle(entry.waiting.reply, entry.waiting.place, outcome);
    }

    fn take(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.bytes -= entry.waiting.message.body.len();
        Some(entry)
    }

    /// What the end of the channel means for one message.
    fn blame(&self, error: &lapin::Error, message: &Ready, url: String) -> Blame {
        let Some((kind, said)) = refusal(error) else {
            let error = explain(&url, error);
            let is_up = self.link.peek().is_some();
            return match error {
                // It was never sent.
                Error::BrokerUnavailable { .. } if is_up => Blame::Innocent,
                Error::BrokerUnavailable { .. } | Error::Encode { .. } => Blame::Told(Err(error)),
                other => Blame::Told(Err(Error::BrokerUnavailable { url, reason: other.to_string() })),
            };
        };
        let name = if message.exchange.is_empty() { "amq.default" } else { &*message.exchange };
        // A virtual host and a user may be called the same.
        let is_named = said.contains(&format!("exchange '{name}'"));
        let is_alone = self.was_alone == Some(true);
        Blame::Told(match kind {
            Some(AMQPSoftError::NOTFOUND) if is_named => {
                self.topology.forget_exchange(&message.exchange);
                if message.mandatory {
                    Err(unroutable(&message.exchange, &message.routing_key))
                } else {
                    Ok(())
                }
            }
            Some(AMQPSoftError::ACCESSREFUSED) if is_named => {
                Err(Error::Refused { url, reason: said.to_owned() })
            }
            Some(AMQPSoftError::PRECONDITIONFAILED)
                if refused_size(said).is_some_and(|size| message.body.len() >= size) =>
            {
                Err(Error::Refused { url, reason: said.to_owned() })
            }
            _ if is_alone => Err(Error::Refused { url, reason: said.to_owned() }),
            _ => return Blame::Suspect,
        })
    }

    fn settle(&mut self, reply: u64, place: usize, outcome: Result<()>) {
        let Some(batch) = self.replies.get_mut(&reply) else { return };
        if batch.outcomes[place].replace(outcome).is_none() {
            batch.left -= 1;
        }
        if batch.left == 0
            && let Some(mut batch) = self.replies.remove(&reply)
            && let Some(sender) = batch.sender.take()
        {
            let missing = || Err(Error::Internal("a publication without an outcome".to_owned()));
            let outcomes =
                batch.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect();
            // Whoever no longer waits needs no answer.
            let _ = sender.send(outcomes);
        }
    }

    /// The channel is gone: all others on it land with the same error, each by itself.
    fn end(&mut self) {
        self.open = None;
        if !self.entries.is_empty() {
            self.ending.get_or_insert_with(Instant::now);
        }
    }

    fn fail_all(&mut self, reason: &str) {
        let url = self.url.clone();
        self.flying = FuturesUnordered::new();
        self.bytes = 0;
        for (_, entry) in std::mem::take(&mut self.entries) {
            let message = &entry.waiting.message;
            let outcome = if entry.returned {
                Err(unroutable(&message.exchange, &message.routing_key))
            } else {
                Err(Error::BrokerUnavailable { url: url.clone(), reason: reason.to_owned() })
            };
            self.settle(entry.waiting.reply, entry.waiting.place, outcome);
        }
    }

    /// Something has taken too long.
    fn time_out(&mut self) {
        let now = Instant::now();
        if self.ending.take_if(|since| *since + LANDING_TIMEOUT <= now).is_some() {
            return self.fail_all("the connection was lost");
        }
        let Some((_, oldest)) = self.entries.first_key_value() else { return };
        if oldest.sent.max(self.landed) + CONFIRM_TIMEOUT > now {
            return;
        }
        if let Some(reason) = self.open.as_ref().and_then(|open| open.live.blocked()) {
            // It is there, and takes messages again one day. Until then nothing more is given to it.
            self.stuck = now.checked_sub(CONFIRM_TIMEOUT);
            return self.fail_all(&takes_none(&reason));
        }
        self.fail_all(&format!("it has confirmed nothing for {} s", CONFIRM_TIMEOUT.as_secs()));
        if let Some(open) = self.open.take() {
            // Nobody is there.
            open.live.give_up();
        }
    }
}

/// What the end of a channel means for one message that was on it.
enum Blame {
    Told(Result<()>),
    /// It has not ended it.
    Innocent,
    /// It, or another.
    Suspect,
}

fn takes_none(reason: &str) -> String {
    format!("it takes no messages for now: {reason}")
}

/// What the broker said when a message made it close the channel, or the connection.
fn refusal(error: &lapin::Error) -> Option<(Option<AMQPSoftError>, &str)> {
    let ErrorKind::ProtocolError(said) = error.kind() else { return None };
    let message = said.get_message().as_str();
    match said.kind() {
        AMQPErrorKind::Soft(kind) => Some((Some(kind.clone()), message)),
        // It closes for other reasons.
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED | AMQPHardError::INTERNALERROR) => None,
        AMQPErrorKind::Hard(_) => Some((None, message)),
    }
}

fn fly(channel: Arc<Channel>, number: u64, message: &Ready) -> Flight {
    let (exchange, routing_key) = (Arc::clone(&message.exchange), Arc::clone(&message.routing_key));
    let (body, properties) = (message.body.clone(), message.properties.clone());
    let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
    async move {
        let sent =
            channel.basic_publish((&*exchange).into(), (&*routing_key).into(), options, &body, properties);
        let outcome = match sent.await {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        (number, outcome)
    }
    .boxed()
}

/// How many bytes the message had that the broker found too large.
fn refused_size(said: &str) -> Option<usize> {
    let (_, rest) = said.split_once("message size ")?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}
