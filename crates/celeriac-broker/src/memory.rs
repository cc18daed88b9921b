//! `memory://`: queues inside this process, for tests and for one-process programs (`kombu.transport.memory`).
//!
//! `memory://` is one broker and `memory://name` another; whoever opens the same name in the process shares it, and it
//! keeps its messages until the process ends. There is nothing to lease: a consumer that is dropped hands back what it
//! held.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::{DeliveryInfo, Message, envelope};
use tokio::sync::{Notify, mpsc};

use crate::dead::DeadLetter;
use crate::registry::TransportOptions;
use crate::sync::{listen, lock};
use crate::transport::{
    ConsumeOptions, Consumer, Delivery, DeliveryTag, Exchange, ExchangeType, Features, Outcome, Publication,
    Queue, Settled, Settlement, Subscription, Transport,
};
use crate::virtual_exchange::{binds, queues_for};

pub(crate) const SCHEMES: &[&str] = &["memory"];

/// The oldest dead letters go when there are more: memory is all there is.
const MAX_DEAD_LETTERS: usize = 10_000;

/// Where it is written that one goes.
const LOGGER: &str = "celery.worker.consumer";

/// Every broker of the process, by the URL's text after `memory://`.
static BROKERS: LazyLock<Mutex<HashMap<String, Arc<Broker>>>> = LazyLock::new(Mutex::default);

#[allow(clippy::unnecessary_wraps, reason = "the registry's signature")]
pub(crate) fn open(url: &str, _options: TransportOptions) -> Result<Arc<dyn Transport>> {
    let name = url.split_once("://").map_or("", |(_, rest)| rest);
    let name = name.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let broker = Arc::clone(lock(&BROKERS).entry(name.to_owned()).or_default());
    let id = broker.lock().next_number();
    Ok(Arc::new(MemoryTransport { url: url.to_owned(), id, broker, closed: AtomicBool::new(false) }))
}

#[derive(Default)]
struct Broker {
    state: Mutex<State>,
    /// Rung whenever a waiting receive should look again.
    changed: Notify,
}

impl Broker {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[derive(Default)]
struct State {
    /// For transports, consumers and messages alike: only ever grows.
    last_number: u64,
    queues: HashMap<Arc<str>, BTreeMap<Place, Stored>>,
    /// Binding key and queue, by exchange.
    bindings: HashMap<String, Vec<(String, Arc<str>)>>,
    listeners: Vec<Listener>,
    consumers: BTreeMap<u64, Claims>,
    auto_delete: HashSet<Arc<str>>,
    dead: Vec<(DeadLetter, Bytes)>,
    /// How often the bodies of tasks that came back have begun, by task id.
    begun: HashMap<String, u32>,
}

/// Where a message stands in its queue: priority, then age. It keeps its place while it is held.
type Place = (u8, u64);

struct Stored {
    /// `None` where the bytes cannot be read: a replay puts them back all the same.
    message: Option<Message>,
    raw: Bytes,
}

impl Stored {
    fn decoded(raw: Bytes) -> Self {
        Self { message: envelope::decode(&raw).ok(), raw }
    }

    fn is_redelivered(&self) -> bool {
        self.message.as_ref().is_some_and(|message| message.properties.delivery_info.redelivered)
    }
}

/// A subscription's end of the line.
struct Listener {
    transport: u64,
    exchange: String,
    routing_keys: Vec<String>,
    kind: ExchangeType,
    sender: mpsc::UnboundedSender<Message>,
}

/// What one consumer takes from, and holds.
struct Claims {
    transport: u64,
    queues: Vec<Arc<str>>,
    last_tag: u64,
    held: BTreeMap<u64, (Arc<str>, Place, Stored)>,
    /// Whose begins were counted.
    begun: HashMap<u64, String>,
    stopped: bool,
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn take_dead(&mut self, id: &str) -> Option<(DeadLetter, Bytes)> {
        let place = self.dead.iter().position(|(letter, _)| letter.id == id)?;
        Some(self.dead.remove(place))
    }

    fn queue(&mut self, name: &str) -> &mut BTreeMap<Place, Stored> {
        if !self.queues.contains_key(name) {
            self.queues.insert(name.into(), BTreeMap::new());
        }
        self.queues.entry(name.into()).or_default()
    }

    /// The queues and the listeners that a publication leads to.
    fn route(&self, publication: &Publication) -> Result<(Vec<Arc<str>>, Vec<usize>)> {
        let (exchange, routing_key) = (&*publication.exchange, &*publication.routing_key);
        if exchange.is_empty() {
            return Ok((vec![Arc::clone(&publication.routing_key)], Vec::new()));
        }
        let kind = publication.exchange_type;
        let table = self.bindings.get(exchange).map(Vec::as_slice).unwrap_or_default();
        let table = table.iter().map(|(binding_key, queue)| (binding_key.as_str(), &**queue));
        let queues: Vec<Arc<str>> = queues_for(kind, table, routing_key).into_iter().map(Arc::from).collect();
        let hears = |listener: &Listener| {
            listener.exchange == exchange
                && (listener.kind == ExchangeType::Fanout
                    || listener.routing_keys.iter().any(|key| binds(listener.kind, key, routing_key)))
        };
        let listeners: Vec<usize> =
            (0..self.listeners.len()).filter(|&index| hears(&self.listeners[index])).collect();
        if queues.is_empty() && listeners.is_empty() && kind != ExchangeType::Fanout {
            return Err(Error::Unroutable {
                exchange: exchange.to_owned(),
                routing_key: routing_key.to_owned(),
            });
        }
        Ok((queues, listeners))
    }

    fn deliver(&mut self, publication: &Publication, (queues, listeners): (Vec<Arc<str>>, Vec<usize>)) {
        let mut message = publication.message.clone();
        message.properties.delivery_info = DeliveryInfo {
            exchange: publication.exchange.as_ref().to_owned(),
            routing_key: publication.routing_key.as_ref().to_owned(),
            redelivered: false,
        };
        message.properties.delivery_tag.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        for listener in listeners {
            // One that is gone is swept out when the next one comes.
            let _ = self.listeners[listener].sender.send(message.clone());
        }
        if queues.is_empty() {
            return;
        }
        let raw = Bytes::from(envelope::encode(&message, &publication.exchange, &publication.routing_key));
        for queue in queues {
            let place = (message.properties.priority.unwrap_or(0), self.next_number());
            self.queue(&queue).insert(place, Stored { message: Some(message.clone()), raw: raw.clone() });
        }
    }

    /// The most urgent messages of the consumer's queues. The queue that was taken from last is asked last next time,
    /// as kombu's `round_robin_cycle` does, so that a full queue starves no other.
    fn claim(&mut self, consumer: u64, max: usize) -> Vec<Delivery> {
        let Self { queues, consumers, .. } = self;
        let Some(claims) = consumers.get_mut(&consumer).filter(|claims| !claims.stopped) else {
            return Vec::new();
        };
        let mut deliveries = Vec::new();
        let mut last = None;
        while deliveries.len() < max {
            let next = claims
                .queues
                .iter()
                .enumerate()
                .filter_map(|(index, queue)| {
                    Some((queues.get(queue)?.first_key_value()?.0.0, index, queue.clone()))
                })
                .min_by_key(|(priority, index, _)| (*priority, *index));
            let Some((_, index, queue)) = next else { break };
            let Some((place, stored)) = queues.get_mut(&queue).and_then(BTreeMap::pop_first) else { break };
            claims.last_tag += 1;
            deliveries.push(Delivery {
                tag: DeliveryTag(claims.last_tag),
                queue: queue.clone(),
                raw: stored.raw.clone(),
                message: stored.message.clone().map_or_else(|| envelope::decode(&stored.raw), Ok),
            });
            claims.held.insert(claims.last_tag, (queue, place, stored));
            last = Some(index);
        }
        if let Some(index) = last {
            let queue = claims.queues.remove(index);
            claims.queues.push(queue);
        }
        deliveries
    }

    fn settle(&mut self, consumer: u64, settlement: &Settlement) -> Result<Settled> {
        if settlement.store.is_some() {
            return Err(Error::NotSupported {
                what: "storing a result".to_owned(),
                by: "memory://".to_owned(),
            });
        }
        let held = |state: &Self| {
            state.consumers.get(&consumer).is_some_and(|claims| claims.held.contains_key(&settlement.tag.0))
        };
        if !held(self) {
            return Ok(Settled::Lost);
        }
        let routes: Vec<_> =
            settlement.publish.iter().map(|publication| self.route(publication)).collect::<Result<_>>()?;
        let Some(claims) = self.consumers.get_mut(&consumer) else { return Ok(Settled::Lost) };
        let Some((queue, place, stored)) = claims.held.remove(&settlement.tag.0) else {
            return Ok(Settled::Lost);
        };
        if let Some(task_id) = claims.begun.remove(&settlement.tag.0)
            && !settlement.outcome.keeps_count()
        {
            self.begun.remove(&task_id);
        }
        for (publication, route) in settlement.publish.iter().zip(routes) {
            self.deliver(publication, route);
        }
        match &settlement.outcome {
            Outcome::Ack => {}
            Outcome::Requeue { redelivered } => self.put_back(&queue, place, stored, *redelivered),
            Outcome::Abandon => self.put_back(&queue, place, stored, true),
            Outcome::Dead { reason, detail } => {
                let mut letter = DeadLetter::new(&queue, reason, detail, &stored.raw);
                letter.id = self.next_number().to_string();
                if self.dead.len() == MAX_DEAD_LETTERS {
                    let (oldest, _) = self.dead.remove(0);
                    log::warn!(
                        target: LOGGER,
                        "The dead list of memory:// holds {MAX_DEAD_LETTERS} messages at most: the oldest is gone ({}, \
                         task {}).",
                        oldest.reason, oldest.task_id.as_deref().unwrap_or("unknown"),
                    );
                }
                self.dead.push((letter, stored.raw));
            }
        }
        Ok(Settled::Done)
    }

    /// To its old place, which is before whatever came later.
    fn put_back(&mut self, queue: &str, place: Place, mut stored: Stored, redelivered: bool) {
        if redelivered && !stored.is_redelivered() {
            if let Some(message) = &mut stored.message {
                message.properties.delivery_info.redelivered = true;
            }
            if let Some(marked) = envelope::mark_redelivered(&stored.raw) {
                stored = Stored::decoded(Bytes::from(marked));
            }
        }
        self.queue(queue).insert(place, stored);
    }

    /// Ends a consumer: what it holds goes back, and its auto-delete queues go when it was their last.
    fn end_consumer(&mut self, consumer: u64) {
        let Some(claims) = self.consumers.remove(&consumer) else { return };
        for (_, (queue, place, stored)) in claims.held {
            self.put_back(&queue, place, stored, true);
        }
        for queue in claims.queues {
            if self.auto_delete.contains(&queue)
                && !self.consumers.values().any(|other| other.queues.contains(&queue))
            {
                self.auto_delete.remove(&queue);
                self.queues.remove(&queue);
                for table in self.bindings.values_mut() {
                    table.retain(|(_, bound)| *bound != queue);
                }
            }
        }
    }
}

struct MemoryTransport {
    url: String,
    id: u64,
    broker: Arc<Broker>,
    closed: AtomicBool,
}

impl MemoryTransport {
    fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed("broker connection"));
        }
        Ok(self.broker.lock())
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn features(&self) -> Features {
        Features { priority: true, fanout: true, interoperable: false, amqp: false }
    }

    fn url(&self) -> &str {
        &self.url
    }

    async fn connect(&self) -> Result<()> {
        self.open_state().map(drop)
    }

    async fn declare(&self, queues: &[Queue]) -> Result<()> {
        let mut state = self.open_state()?;
        for queue in queues {
            state.queue(&queue.name);
            if queue.auto_delete {
                state.auto_delete.insert(queue.name.as_str().into());
            }
            if !queue.exchange.name.is_empty() {
                let table = state.bindings.entry(queue.exchange.name.clone()).or_default();
                let binding = (queue.routing_key.clone(), Arc::from(queue.name.as_str()));
                if !table.contains(&binding) {
                    table.push(binding);
                }
            }
        }
        Ok(())
    }

    async fn publish(&self, batch: &[Publication]) -> Vec<Result<()>> {
        let results = batch
            .iter()
            .map(|publication| {
                let mut state = self.open_state()?;
                let route = state.route(publication)?;
                state.deliver(publication, route);
                Ok(())
            })
            .collect();
        self.broker.changed.notify_waiters();
        results
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let mut state = self.open_state()?;
        let id = state.next_number();
        let queues = options.queues.iter().map(|queue| queue.name.as_str().into()).collect();
        let claims = Claims {
            transport: self.id,
            queues,
            last_tag: 0,
            held: BTreeMap::new(),
            begun: HashMap::new(),
            stopped: false,
        };
        state.consumers.insert(id, claims);
        Ok(Arc::new(MemoryConsumer { id, broker: Arc::clone(&self.broker) }))
    }

    async fn subscribe(&self, exchange: &Exchange, routing_keys: &[String]) -> Result<Box<dyn Subscription>> {
        let mut state = self.open_state()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        state.listeners.retain(|listener| !listener.sender.is_closed());
        state.listeners.push(Listener {
            transport: self.id,
            exchange: exchange.name.clone(),
            routing_keys: routing_keys.to_vec(),
            kind: exchange.kind,
            sender,
        });
        Ok(Box::new(MemorySubscription(receiver)))
    }

    async fn queue_length(&self, queue: &str) -> Result<u64> {
        Ok(self.open_state()?.queues.get(queue).map_or(0, |waiting| waiting.len() as u64))
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        let mut state = self.open_state()?;
        Ok(state.queues.get_mut(queue).map_or(0, |waiting| std::mem::take(waiting).len() as u64))
    }

    async fn dead_letters(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>> {
        let state = self.open_state()?;
        Ok(state.dead.iter().skip(offset).take(limit).map(|(letter, _)| letter.clone()).collect())
    }

    async fn dead_count(&self) -> Result<u64> {
        Ok(self.open_state()?.dead.len() as u64)
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<(DeadLetter, Bytes)>> {
        Ok(self.open_state()?.dead.iter().find(|(letter, _)| letter.id == id).cloned())
    }

    async fn replay_dead(&self, ids: &[String], queue: Option<&str>) -> Result<Vec<bool>> {
        let mut state = self.open_state()?;
        // All of it is looked at before anything moves.
        for (letter, _) in state.dead.iter().filter(|(letter, _)| ids.contains(&letter.id)) {
            letter.destination(queue)?;
        }
        let mut replayed = Vec::with_capacity(ids.len());
        for id in ids {
            let letter = state.take_dead(id);
            replayed.push(letter.is_some());
            let Some((letter, raw)) = letter else { continue };
            if let Some(task_id) = &letter.task_id {
                state.begun.remove(task_id);
            }
            let destination = letter.destination(queue)?;
            let place = (letter.priority, state.next_number());
            state.queue(destination).insert(place, Stored::decoded(raw));
        }
        drop(state);
        self.broker.changed.notify_waiters();
        Ok(replayed)
    }

    async fn drop_dead(&self, ids: &[String]) -> Result<Vec<bool>> {
        let mut state = self.open_state()?;
        Ok(ids.iter().map(|id| state.take_dead(id).is_some()).collect())
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut state = self.broker.lock();
        state.listeners.retain(|listener| listener.transport != self.id);
        let consumers = state.consumers.iter().filter(|(_, claims)| claims.transport == self.id);
        for consumer in consumers.map(|(&consumer, _)| consumer).collect::<Vec<_>>() {
            state.end_consumer(consumer);
        }
        drop(state);
        self.broker.changed.notify_waiters();
    }
}

struct MemoryConsumer {
    id: u64,
    broker: Arc<Broker>,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn receive(&self, max: usize) -> Result<Vec<Delivery>> {
        loop {
            let changed = listen(&self.broker.changed);
            {
                let mut state = self.broker.lock();
                let deliveries = state.claim(self.id, max.max(1));
                if !deliveries.is_empty() || state.consumers.get(&self.id).is_none_or(|claims| claims.stopped)
                {
                    return Ok(deliveries);
                }
            }
            changed.await;
        }
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<Result<Settled>> {
        let mut state = self.broker.lock();
        let results = batch.iter().map(|settlement| state.settle(self.id, settlement)).collect();
        drop(state);
        let puts = |settlement: &Settlement| {
            !settlement.publish.is_empty()
                || matches!(settlement.outcome, Outcome::Requeue { .. } | Outcome::Abandon)
        };
        if batch.iter().any(puts) {
            self.broker.changed.notify_waiters();
        }
        results
    }

    async fn still_held(&self, tags: &[DeliveryTag]) -> Result<Vec<bool>> {
        let state = self.broker.lock();
        let claims = state.consumers.get(&self.id);
        Ok(tags.iter().map(|tag| claims.is_some_and(|claims| claims.held.contains_key(&tag.0))).collect())
    }

    async fn begin(&self, batch: &[(DeliveryTag, &str)]) -> Result<Vec<Option<u32>>> {
        let mut state = self.broker.lock();
        let State { consumers, begun, .. } = &mut *state;
        let claims = consumers.get_mut(&self.id);
        let Some(claims) = claims else { return Ok(vec![None; batch.len()]) };
        let counts = batch.iter().map(|(tag, task_id)| {
            claims.held.contains_key(&tag.0).then(|| {
                let count = begun.entry((*task_id).to_owned()).or_insert(1);
                if claims.begun.insert(tag.0, (*task_id).to_owned()).is_none() {
                    *count += 1;
                }
                *count
            })
        });
        Ok(counts.collect())
    }

    /// There is nothing that could run out: claims last as long as their consumer.
    fn leases_stand(&self) -> bool {
        true
    }

    fn read(&self, raw: &Bytes) -> Option<Result<Message>> {
        Some(envelope::decode(raw))
    }

    /// Nobody else can take over what is held.
    async fn lost(&self) -> Vec<DeliveryTag> {
        std::future::pending().await
    }

    async fn set_queues(&self, queues: Vec<Queue>) -> Result<()> {
        if let Some(claims) = self.broker.lock().consumers.get_mut(&self.id) {
            claims.queues = queues.iter().map(|queue| queue.name.as_str().into()).collect();
        }
        self.broker.changed.notify_waiters();
        Ok(())
    }

    async fn stop(&self) {
        if let Some(claims) = self.broker.lock().consumers.get_mut(&self.id) {
            claims.stopped = true;
        }
        self.broker.changed.notify_waiters();
    }

    async fn close(&self) -> Result<()> {
        let mut state = self.broker.lock();
        state.end_consumer(self.id);
        drop(state);
        self.broker.changed.notify_waiters();
        Ok(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.broker.lock().end_consumer(self.id);
        self.broker.changed.notify_waiters();
    }
}

struct MemorySubscription(mpsc::UnboundedReceiver<Message>);

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Option<Message> {
        self.0.recv().await
    }
}
