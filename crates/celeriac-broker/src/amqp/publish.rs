//! Publishing: everything on one channel, in order, many on their way at once, each confirmed.
//!
//! One task owns the channel. What it was given is published even when nobody waits for the outcome any longer, so that
//! dropping a call never leaves half a message behind.
//!
//! A message that no queue takes comes back before it is confirmed. lapin attaches what came back to whichever confirmation
//! it reads next, not to its own, and reads several confirmations in one frame in any order. So all confirmations are
//! looked at together: those of one frame are judged once that whole frame was read, and what came back is found by what is
//! in it.

use std::collections::{BTreeMap, VecDeque};
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
use lapin::protocol::AMQPSoftError;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::failure::{explain, soft};
use super::link::{Link, Live};
use super::properties::to_amqp;
use super::table::short;
use super::topology::Topology;
use crate::fault_point;
use crate::transport::{ExchangeType, Publication};

/// The most messages on their way.
const WINDOW: usize = 2048;

/// How long a confirmation may take. The broker confirms what it has written to its disk.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// A message that only has to be sent.
pub(super) struct Ready {
    exchange: Arc<str>,
    routing_key: Arc<str>,
    body: Bytes,
    properties: BasicProperties,
    /// Whether it is an error when no queue takes it. A fanout without listeners is none: nobody wants to know.
    mandatory: bool,
}

impl Ready {
    pub(super) fn new(publication: &Publication) -> Result<Self> {
        // So that nothing can go wrong with them later.
        short(&*publication.exchange)?;
        short(&*publication.routing_key)?;
        Ok(Self {
            exchange: Arc::clone(&publication.exchange),
            routing_key: Arc::clone(&publication.routing_key),
            body: publication.message.body.clone(),
            properties: to_amqp(&publication.message)?,
            mandatory: publication.exchange_type != ExchangeType::Fanout,
        })
    }

    /// To a queue, by the default exchange.
    pub(super) fn to_queue(queue: &str, body: Bytes, properties: BasicProperties) -> Result<Self> {
        short(queue)?;
        Ok(Self { exchange: "".into(), routing_key: queue.into(), body, properties, mandatory: true })
    }
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
            flying: FuturesUnordered::new(),
            entries: BTreeMap::new(),
            last: 0,
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
        let names = batch.iter().map(|publication| (&publication.exchange, publication.exchange_type));
        let missing = match self.topology.missing(names).await {
            Ok(missing) => missing,
            Err(error) => return batch.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut outcomes: Vec<Option<Result<()>>> = Vec::with_capacity(batch.len());
        let mut messages = Vec::with_capacity(batch.len());
        for publication in batch {
            if missing.contains(&publication.exchange) {
                outcomes.push(Some(match publication.exchange_type {
                    ExchangeType::Fanout => Ok(()),
                    _ => Err(unroutable(&publication.exchange, &publication.routing_key)),
                }));
                continue;
            }
            match Ready::new(publication) {
                Ok(message) => {
                    messages.push(message);
                    outcomes.push(None);
                }
                Err(error) => outcomes.push(Some(Err(error))),
            }
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

/// One message on its way.
struct Entry {
    message: Ready,
    reply: u64,
    place: usize,
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
    flying: FuturesUnordered<Flight>,
    entries: BTreeMap<u64, Entry>,
    last: u64,
    replies: BTreeMap<u64, Reply>,
    last_reply: u64,
}

impl Task {
    async fn run(mut self, mut batches: mpsc::UnboundedReceiver<Batch>) {
        let mut waiting: VecDeque<(Ready, u64, usize)> = VecDeque::new();
        loop {
            self.launch(&mut waiting).await;
            let oldest = self.entries.first_key_value().map(|(_, entry)| entry.sent + CONFIRM_TIMEOUT);
            tokio::select! {
                Some(landed) = self.flying.next(), if !self.flying.is_empty() => self.judge(landed),
                batch = batches.recv(), if waiting.is_empty() => match batch {
                    Some(batch) => self.accept(batch, &mut waiting),
                    None if self.entries.is_empty() => return,
                    None => {
                        // The last lane is gone, and so is everybody who waits.
                        self.open = None;
                        return;
                    }
                },
                () = tokio::time::sleep_until(oldest.unwrap_or_else(Instant::now)), if oldest.is_some() => {
                    self.time_out();
                }
            }
        }
    }

    fn accept(&mut self, batch: Batch, waiting: &mut VecDeque<(Ready, u64, usize)>) {
        // Nobody waits for it any longer, and none of it was sent: whoever gave it has tried again, or told that it failed.
        if batch.reply.is_closed() {
            return;
        }
        self.last_reply += 1;
        let left = batch.messages.len();
        let outcomes = std::iter::repeat_with(|| None).take(left).collect();
        self.replies.insert(self.last_reply, Reply { outcomes, left, sender: Some(batch.reply) });
        waiting.extend(
            batch.messages.into_iter().enumerate().map(|(place, message)| (message, self.last_reply, place)),
        );
    }

    /// Sends what waits, as far as the window allows.
    async fn launch(&mut self, waiting: &mut VecDeque<(Ready, u64, usize)>) {
        if waiting.is_empty() || self.entries.len() >= WINDOW {
            return;
        }
        let channel = match self.channel().await {
            Ok(channel) => channel,
            Err(error) => {
                for (_, reply, place) in waiting.drain(..) {
                    self.settle(reply, place, Err(error.clone()));
                }
                return;
            }
        };
        while self.entries.len() < WINDOW {
            let Some((message, reply, place)) = waiting.pop_front() else { break };
            self.last += 1;
            let number = self.last;
            self.flying.push(fly(Arc::clone(&channel), number, &message));
            let entry = Entry { message, reply, place, sent: Instant::now(), returned: false };
            self.entries.insert(number, entry);
        }
    }

    async fn channel(&mut self) -> Result<Arc<Channel>> {
        if let Some(open) = &self.open {
            if open.live.is_up() && open.channel.status().connected() {
                return Ok(Arc::clone(&open.channel));
            }
            self.open = None;
            self.fail_all("the connection was lost");
        }
        // What was declared is there again before anything is sent to it.
        self.topology.live().await?;
        let live = self.link.get().await?;
        let channel = Arc::new(live.channel().await?);
        live.answer(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        self.url.clone_from(&live.url);
        self.open = Some(Open { live, channel: Arc::clone(&channel) });
        Ok(channel)
    }

    /// One confirmation has landed: looks at all others that have, and tells the outcomes.
    fn judge(&mut self, first: (u64, lapin::Result<Confirmation>)) {
        let mut landed = vec![first];
        self.drain(&mut landed);
        let judged = landed.len();
        // The frame that brought the last of them is read to its end once this lock was free.
        if let Some(open) = &self.open {
            let channel = Arc::clone(&open.channel);
            if let Some(Ok(returned)) = pin!(channel.wait_for_confirms()).now_or_never() {
                self.mark_all(returned);
            }
        }
        self.drain(&mut landed);
        let mut ended = None;
        let mut outcomes = Vec::with_capacity(landed.len());
        for (number, outcome) in landed {
            let outcome = match outcome {
                Ok(Confirmation::Ack(returned)) => {
                    self.mark_all(returned);
                    Ok(true)
                }
                Ok(Confirmation::Nack(returned)) => {
                    self.mark_all(returned);
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
        if let Some(error) = ended {
            self.end(&error);
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
            !entry.returned
                && *entry.message.exchange == *back.exchange.as_str()
                && *entry.message.routing_key == *back.routing_key.as_str()
                && entry.message.properties.correlation_id() == back.properties.correlation_id()
                && entry.message.body == back.data
        });
        if let Some(entry) = found {
            entry.returned = true;
        }
    }

    fn tell(&mut self, number: u64, outcome: lapin::Result<bool>) {
        let Some(entry) = self.entries.remove(&number) else { return };
        let url = self.url.clone();
        let message = &entry.message;
        let outcome = match outcome {
            _ if entry.returned => Err(unroutable(&message.exchange, &message.routing_key)),
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::BrokerUnavailable {
                url,
                reason:
                    "it could not take the message: a queue is full, or cannot be written to (basic.nack)"
                        .to_owned(),
            }),
            Err(error) => self.blame(&error, message, url),
        };
        self.settle(entry.reply, entry.place, outcome);
    }

    /// What the end of the channel means for one message: the broker names what it refused, the others may be tried again.
    fn blame(&self, error: &lapin::Error, message: &Ready, url: String) -> Result<()> {
        let Some((kind, said)) = soft(error) else {
            let error = explain(&url, error);
            return Err(match error {
                Error::BrokerUnavailable { .. } | Error::Encode { .. } => error,
                // The connection ends for everybody on it.
                other => Error::BrokerUnavailable { url, reason: other.to_string() },
            });
        };
        let name = if message.exchange.is_empty() { "amq.default" } else { &*message.exchange };
        // A virtual host and a user may be called the same.
        let is_named = said.contains(&format!("exchange '{name}'"));
        match kind {
            AMQPSoftError::NOTFOUND if is_named => {
                self.topology.forget_exchange(&message.exchange);
                if message.mandatory {
                    Err(unroutable(&message.exchange, &message.routing_key))
                } else {
                    Ok(())
                }
            }
            AMQPSoftError::ACCESSREFUSED if is_named => Err(Error::Refused { url, reason: said.to_owned() }),
            AMQPSoftError::PRECONDITIONFAILED
                if refused_size(said).is_some_and(|size| message.body.len() >= size) =>
            {
                Err(Error::Refused { url, reason: said.to_owned() })
            }
            AMQPSoftError::PRECONDITIONFAILED if refused_size(said).is_none() && self.entries.is_empty() => {
                Err(Error::Refused { url, reason: said.to_owned() })
            }
            _ => Err(Error::BrokerUnavailable {
                url,
                reason: format!("the channel was closed while the message was on its way: {said}"),
            }),
        }
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
    fn end(&mut self, error: &lapin::Error) {
        if self.open.take().is_some() {
            log::debug!("The publishing channel ended: {error}");
        }
    }

    fn fail_all(&mut self, reason: &str) {
        let url = self.url.clone();
        self.flying = FuturesUnordered::new();
        for (_, entry) in std::mem::take(&mut self.entries) {
            let outcome = if entry.returned {
                Err(unroutable(&entry.message.exchange, &entry.message.routing_key))
            } else {
                Err(Error::BrokerUnavailable { url: url.clone(), reason: reason.to_owned() })
            };
            self.settle(entry.reply, entry.place, outcome);
        }
    }

    /// The oldest was not confirmed in time.
    fn time_out(&mut self) {
        let blocked = self.open.as_ref().and_then(|open| open.live.blocked());
        let reason = match &blocked {
            Some(reason) => format!("it takes no messages for now: {reason}"),
            None => format!("it has confirmed nothing for {} s", CONFIRM_TIMEOUT.as_secs()),
        };
        self.fail_all(&reason);
        if let Some(open) = self.open.take()
            && blocked.is_none()
        {
            // Nobody is there.
            open.live.give_up();
        }
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
