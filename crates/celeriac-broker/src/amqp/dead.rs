//! The dead list: a durable queue, in which every message keeps its body, its properties and its headers, beside one header
//! of ours that says why it is there.
//!
//! A queue can only be read by taking everything out and putting it back. Nothing is acknowledged that is not dropped or
//! confirmed elsewhere, so a process that dies while it reads leaves all of it in its place. One reads at a time: an
//! exclusive queue of the broker is the lock, which goes with its connection.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::envelope;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::begin;
use super::core::Original;
use super::failure::{explain, soft};
use super::link::{FRAME_MAX, Live};
use super::properties::{from_amqp, to_amqp, wire_size};
use super::publish::{Lane, Ready};
use super::table::{long, short, text, whole};
use super::topology::{Topology, close};
use crate::dead::DeadLetter;
use crate::fault_point;

/// The dead list.
const QUEUE: &str = "celeriac.dead";

/// Who has declared it reads the list.
const LOCK: &str = "celeriac.dead.lock";

/// What is known of a letter.
const HEADER: &str = "x-celeriac-dead";

/// The longest detail, in bytes.
const LONGEST_DETAIL: usize = 4096;

/// What a header frame has beside the properties, and some more.
const ROOM: usize = 64;

/// How soon it is tried again to become the one who reads.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// How long it is tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// The dead list of one vhost.
pub(super) struct DeadList {
    topology: Arc<Topology>,
    /// Held by the one of this process who reads.
    reading: Arc<tokio::sync::Mutex<()>>,
}

/// A letter that was taken out.
struct Taken {
    amqp_tag: u64,
    letter: DeadLetter,
    /// The envelope.
    raw: Bytes,
    /// As it is sent again.
    properties: BasicProperties,
    body: Bytes,
}

/// The right to read.
struct Reader {
    live: Arc<Live>,
    channel: Channel,
    topology: Arc<Topology>,
    _reading: OwnedMutexGuard<()>,
}

impl DeadList {
    pub(super) fn new(topology: Arc<Topology>) -> Self {
        Self { topology, reading: Arc::default() }
    }

    /// Adds messages, each with the queue that it was taken from, the reason and the detail.
    pub(super) async fn add(
        &self,
        lane: &Lane,
        letters: Vec<(Arc<str>, &'static str, String, Original)>,
    ) -> Vec<Result<()>> {
        let count = letters.len();
        let all = |error: Error| (0..count).map(|_| Err(error.clone())).collect();
        if let Err(error) = self.declare().await {
            return all(error);
        }
        let messages: Result<Vec<Ready>> = letters
            .into_iter()
            .map(|(queue, reason, detail, original)| {
                let raw = envelope_of(&original);
                let mut letter = DeadLetter::new(&queue, reason, shortened(&detail), &raw);
                let id = uuid::Uuid::new_v4().simple().to_string();
                id[..16].clone_into(&mut letter.id);
                pack(&letter, original, raw)
            })
            .collect();
        fault_point!("amqp.bury.before");
        let outcomes = match messages {
            Ok(messages) => lane.send(messages).await,
            Err(error) => all(error),
        };
        fault_point!("amqp.bury.after");
        outcomes
    }

    async fn declare(&self) -> Result<u64> {
        self.topology.own_queue(QUEUE, FieldTable::default()).await
    }

    pub(super) async fn count(&self) -> Result<u64> {
        let reader = self.read().await?;
        let count = self.declare().await;
        reader.end().await;
        count
    }

    pub(super) async fn list(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let reader = self.read().await?;
        let mut letters = Vec::new();
        let mut place = 0;
        let read = reader
            .take(|taken| {
                if place >= offset {
                    letters.push(taken.letter);
                }
                place += 1;
                letters.len() < limit
            })
            .await;
        reader.end().await;
        read.map(|()| letters)
    }

    pub(super) async fn get(&self, id: &str) -> Result<Option<(DeadLetter, Bytes)>> {
        let reader = self.read().await?;
        let mut found = None;
        let read = reader
            .take(|taken| {
                if taken.letter.id == id {
                    found = Some((taken.letter, taken.raw));
                }
                found.is_none()
            })
            .await;
        reader.end().await;
        read.map(|()| found)
    }

    pub(super) async fn remove(&self, ids: &[String]) -> Result<Vec<bool>> {
        let reader = self.read().await?;
        let outcome = async {
            let mut found = reader.find(ids).await?;
            let mut dropped = Vec::with_capacity(ids.len());
            for id in ids {
                let Some(taken) = found.remove(id) else {
                    dropped.push(false);
                    continue;
                };
                reader.acknowledge(taken.amqp_tag).await?;
                dropped.push(true);
            }
            Ok(dropped)
        }
        .await;
        reader.end().await;
        outcome
    }

    pub(super) async fn replay(&self, lane: &Lane, ids: &[String], queue: Option<&str>) -> Result<Vec<bool>> {
        let reader = self.read().await?;
        let outcome = self.move_out(&reader, lane, ids, queue).await;
        reader.end().await;
        outcome
    }

    async fn move_out(
        &self,
        reader: &Reader,
        lane: &Lane,
        ids: &[String],
        queue: Option<&str>,
    ) -> Result<Vec<bool>> {
        let mut found = reader.find(ids).await?;
        // All of it is looked at before anything moves.
        for taken in found.values() {
            taken.letter.destination(queue)?;
        }
        let mut moved = Vec::with_capacity(ids.len());
        let mut messages = Vec::new();
        let mut sources = Vec::new();
        for id in ids {
            let taken = found.remove(id);
            moved.push(taken.is_some());
            let Some(taken) = taken else { continue };
            let destination = taken.letter.destination(queue)?;
            messages.push(Ready::to_queue(destination, taken.body.clone(), taken.properties.clone())?);
            sources.push(taken);
        }
        fault_point!("amqp.replay.before");
        let outcomes = lane.send(messages).await;
        fault_point!("amqp.replay.after");
        let mut first_error = None;
        for (taken, outcome) in sources.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    if let Some(task_id) = &taken.letter.task_id {
                        begin::forget_one(&self.topology, task_id).await;
                    }
                    reader.acknowledge(taken.amqp_tag).await?;
                }
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        first_error.map_or(Ok(moved), Err)
    }

    /// Waits until nobody else reads.
    async fn read(&self) -> Result<Reader> {
        let reading = Arc::clone(&self.reading).lock_owned().await;
        let end = Instant::now() + PATIENCE;
        self.declare().await?;
        loop {
            let live = self.topology.live().await?;
            let channel = live.channel().await?;
            let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            let asked = channel.queue_declare(short(LOCK)?, options, FieldTable::default());
            match live.raw_answer(asked).await? {
                Ok(_) => {
                    let topology = Arc::clone(&self.topology);
                    return Ok(Reader { live, channel, topology, _reading: reading });
                }
                Err(error) if matches!(soft(&error), Some((AMQPSoftError::RESOURCELOCKED, _))) => {
                    if Instant::now() > end {
                        let reason = "somebody else reads the dead list and does not end".to_owned();
                        return Err(live.unavailable(reason));
                    }
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(error) => return Err(explain(&live.url, &error)),
            }
        }
    }
}

impl Reader {
    /// Takes one letter after the other, for as long as `wanted` says so.
    async fn take(&self, mut wanted: impl FnMut(Taken) -> bool + Send) -> Result<()> {
        loop {
            let asked = self.channel.basic_get(short(QUEUE)?, BasicGetOptions::default());
            let Some(got) = self.live.answer(asked).await? else { return Ok(()) };
            let taken = unpack(got.delivery);
            if !wanted(taken) {
                return Ok(());
            }
        }
    }

    async fn find(&self, ids: &[String]) -> Result<HashMap<String, Taken>> {
        let mut found = HashMap::new();
        let mut left: std::collections::HashSet<&str> = ids.iter().map(String::as_str).collect();
        if left.is_empty() {
            return Ok(found);
        }
        self.take(|taken| {
            if left.remove(taken.letter.id.as_str()) {
                found.insert(taken.letter.id.clone(), taken);
            }
            !left.is_empty()
        })
        .await?;
        Ok(found)
    }

    async fn acknowledge(&self, amqp_tag: u64) -> Result<()> {
        self.live.answer(self.channel.basic_ack(amqp_tag, BasicAckOptions::default())).await
    }

    /// Puts back what was not acknowledged, in its order, and lets others read.
    async fn end(self) {
        let options = BasicNackOptions { multiple: true, requeue: true };
        // Tag 0 is everything.
        let _ = self.live.answer(self.channel.basic_nack(0, options)).await;
        // Over a channel of its own: when this one was closed meanwhile, the lock would stand as long as the connection.
        if let Err(error) = self.topology.delete_queue(LOCK).await {
            log::debug!("The lock of the dead list stays: {error}");
        }
        close(self.channel);
    }
}

/// What may be said of why a message is there.
fn shortened(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(LONGEST_DETAIL)]
}

fn envelope_of(original: &Original) -> Bytes {
    let message = from_amqp(&original.properties, original.body.clone(), &original.origin(), None);
    Bytes::from(envelope::encode(&message, original.exchange.as_str(), original.routing_key.as_str()))
}

/// Properties with these headers that may be published by whoever publishes them, and for as long as it takes: the broker
/// refuses another's user.
fn anonymous(given: &BasicProperties, headers: Option<FieldTable>) -> BasicProperties {
    let mut properties = BasicProperties::default();
    if let Some(headers) = headers {
        properties = properties.with_headers(headers);
    }
    for (text, with) in [
        (given.content_type(), BasicProperties::with_content_type as fn(BasicProperties, ShortString) -> _),
        (given.content_encoding(), BasicProperties::with_content_encoding),
        (given.correlation_id(), BasicProperties::with_correlation_id),
        (given.reply_to(), BasicProperties::with_reply_to),
        (given.message_id(), BasicProperties::with_message_id),
        (given.kind(), BasicProperties::with_type),
        (given.app_id(), BasicProperties::with_app_id),
        (given.cluster_id(), BasicProperties::with_cluster_id),
    ] {
        if let Some(text) = text {
            properties = with(properties, text.clone());
        }
    }
    if let Some(priority) = given.priority() {
        properties = properties.with_priority(*priority);
    }
    if let Some(timestamp) = given.timestamp() {
        properties = properties.with_timestamp(*timestamp);
    }
    properties
}

/// The message as it is kept: with its own properties and headers, for as long as it takes, and on disk. Where its headers leave
/// no room for ours, its envelope is the body.
fn pack(letter: &DeadLetter, original: Original, raw: Bytes) -> Result<Ready> {
    let mut known = FieldTable::default();
    known.insert("id".into(), long(&letter.id));
    known.insert("queue".into(), long(&letter.queue));
    known.insert("reason".into(), long(&letter.reason));
    known.insert("detail".into(), long(&letter.detail));
    known.insert("at_ms".into(), AMQPValue::LongLongInt(letter.at_ms as i64));
    known.insert("exchange".into(), long(original.exchange.as_str()));
    known.insert("routing_key".into(), long(original.routing_key.as_str()));
    known.insert("redelivered".into(), AMQPValue::Boolean(original.redelivered));
    let given = &original.properties;
    if let Some(expiration) = given.expiration() {
        known.insert("expiration".into(), long(expiration.as_str()));
    }
    if let Some(mode) = given.delivery_mode() {
        known.insert("delivery_mode".into(), AMQPValue::LongInt(i32::from(*mode)));
    }
    if let Some(user) = given.user_id() {
        known.insert("user_id".into(), long(user.as_str()));
    }
    if given.headers().is_none() {
        known.insert("headerless".into(), AMQPValue::Boolean(true));
    }
    let mut headers = given.headers().clone().unwrap_or_default();
    headers.insert(HEADER.into(), AMQPValue::FieldTable(known.clone()));
    let properties = anonymous(given, Some(headers)).with_delivery_mode(2);
    if wire_size(&properties) + ROOM <= FRAME_MAX as usize {
        return Ready::to_queue(QUEUE, original.body, properties);
    }
    known.insert("whole".into(), AMQPValue::Boolean(true));
    let mut headers = FieldTable::default();
    headers.insert(HEADER.into(), AMQPValue::FieldTable(known));
    let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(2);
    Ready::to_queue(QUEUE, raw, properties)
}

/// The message as it was, from how it is kept.
fn original(got: lapin::message::Delivery, known: &FieldTable) -> (Original, Option<Bytes>) {
    let is = |name: &str| matches!(known.inner().get(name), Some(AMQPValue::Boolean(true)));
    let name = |field: &str| text(known, field).and_then(|name| short(name).ok()).unwrap_or_default();
    let body = Bytes::from(got.data);
    let (whole_body, read) = if is("whole") {
        let message = envelope::decode(&body).ok();
        (Some(body.clone()), message.and_then(|message| Some((to_amqp(&message).ok()?, message.body))))
    } else {
        (None, None)
    };
    let (mut properties, body) = read.unwrap_or((got.properties, body));
    if whole_body.is_none() {
        let headers = properties.headers().clone().unwrap_or_default();
        let headers = headers.inner().iter().filter(|(name, _)| name.as_str() != HEADER);
        let headers: BTreeMap<_, _> = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
        properties = anonymous(&properties, (!is("headerless")).then(|| headers.into()));
        if let Some(expiration) = text(known, "expiration").and_then(|text| short(text).ok()) {
            properties = properties.with_expiration(expiration);
        }
        if let Some(mode) = whole(known, "delivery_mode").and_then(|mode| u8::try_from(mode).ok()) {
            properties = properties.with_delivery_mode(mode);
        }
    }
    let original = Original {
        properties,
        body,
        exchange: name("exchange"),
        routing_key: name("routing_key"),
        redelivered: is("redelivered"),
    };
    (original, whole_body)
}

/// What is known of a message in the list. One that somebody else has put there is listed too: what is hidden is never looked
/// after.
fn unpack(got: lapin::message::Delivery) -> Taken {
    let amqp_tag = got.delivery_tag;
    let known = match got.properties.headers().as_ref().and_then(|headers| headers.inner().get(HEADER)) {
        Some(AMQPValue::FieldTable(known)) => Some(known.clone()),
        _ => None,
    };
    let Some(known) = known else {
        let original = Original::from(got);
        let original =
            Original { exchange: "".into(), routing_key: "".into(), redelivered: false, ..original };
        let raw = envelope_of(&original);
        let detail = "it was put into the list by somebody else";
        let mut letter = DeadLetter::new("", "unreadable", detail, &raw);
        letter.at_ms = 0;
        return Taken { amqp_tag, letter, raw, properties: original.properties, body: original.body };
    };
    let (mut original, raw) = original(got, &known);
    let replayed = original.properties.clone();
    if let Some(user) = text(&known, "user_id").and_then(|user| short(user).ok()) {
        original.properties = original.properties.with_user_id(user);
    }
    let raw = raw.unwrap_or_else(|| envelope_of(&original));
    let field = |name: &str| text(&known, name).unwrap_or_default();
    let mut letter = DeadLetter::new(field("queue"), field("reason"), field("detail"), &raw);
    letter.at_ms = whole(&known, "at_ms").map_or(0, |at| at as u64);
    field("id").clone_into(&mut letter.id);
    Taken { amqp_tag, letter, raw, properties: replayed, body: original.body }
}
