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
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::protocol::AMQPSoftError;
use lapin::protocol::basic::{gen_properties, parse_properties};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::begin;
use super::core::Original;
use super::failure::{explain, soft};
use super::link::{ANSWER_TIMEOUT, FRAME_MAX, Live};
use super::properties::{from_amqp, wire_size};
use super::publish::{Lane, Ready};
use super::table::{long, short, text, whole};
use super::topology::Topology;
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

/// How many letters are taken at first.
const FIRST_WINDOW: u16 = 64;

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
    original: Original,
}

/// The right to read.
struct Reader {
    live: Arc<Live>,
    channel: Channel,
    topology: Arc<Topology>,
    /// How many letters there are.
    total: u64,
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
                pack(&letter, original)
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
        let count = reader.total;
        reader.end().await;
        Ok(count)
    }

    pub(super) async fn list(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let reader = self.read().await?;
        let mut letters = Vec::new();
        let mut place = 0;
        let read = reader
            .take(|got| {
                if place >= offset {
                    letters.push(unpack(got).letter);
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
            .take(|got| {
                if id_of(&got) == Some(id) {
                    let taken = unpack(got);
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
            let Original { properties, body, .. } = &taken.original;
            messages.push(Ready::to_queue(destination, body.clone(), replayed(properties))?);
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
        loop {
            let live = self.topology.live().await?;
            let channel = live.channel().await?;
            let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            let asked = channel.queue_declare(short(LOCK)?, options, FieldTable::default());
            match live.raw_answer(asked).await? {
                Ok(_) => {
                    let topology = Arc::clone(&self.topology);
                    let mut reader = Reader { live, channel, topology, total: 0, _reading: reading };
                    return match self.declare().await {
                        Ok(total) => {
                            reader.total = total;
                            Ok(reader)
                        }
                        Err(error) => {
                            reader.end().await;
                            Err(error)
                        }
                    };
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
    /// Takes one letter after the other, for as long as `wanted` says so. They are consumed, some at first, then more and more:
    /// to ask for each by itself takes a round trip a letter.
    async fn take(&self, mut wanted: impl FnMut(lapin::message::Delivery) -> bool + Send) -> Result<()> {
        let mut left = self.total;
        let mut window = FIRST_WINDOW;
        while left > 0 {
            self.live.answer(self.channel.basic_qos(window, BasicQosOptions { global: false })).await?;
            let options = BasicConsumeOptions::default();
            let asked = self.channel.basic_consume(short(QUEUE)?, "".into(), options, FieldTable::default());
            let mut coming = self.live.answer(asked).await?;
            let count = left.min(u64::from(window));
            for _ in 0..count {
                match tokio::time::timeout(ANSWER_TIMEOUT, coming.next()).await {
                    Ok(Some(Ok(got))) => {
                        if !wanted(got) {
                            return Ok(());
                        }
                    }
                    Ok(Some(Err(error))) => return Err(explain(&self.live.url, &error)),
                    // That is all that there is.
                    _ => return Ok(()),
                }
            }
            left -= count;
            window = window.saturating_mul(4);
            self.live.answer(self.channel.basic_cancel(coming.tag(), BasicCancelOptions::default())).await?;
        }
        Ok(())
    }

    async fn find(&self, ids: &[String]) -> Result<HashMap<String, Taken>> {
        let mut found = HashMap::new();
        let mut left: std::collections::HashSet<&str> = ids.iter().map(String::as_str).collect();
        if left.is_empty() {
            return Ok(found);
        }
        self.take(|got| {
            if id_of(&got).is_some_and(|id| left.remove(id)) {
                let taken = unpack(got);
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
        // The broker answers once all of it is in its place. To reject it would only begin with that.
        let _ = tokio::time::timeout(PATIENCE, self.channel.close(200, "OK".into())).await;
        // Over another channel: when this one was closed meanwhile, the lock would stand as long as the connection.
        if let Err(error) = self.topology.delete_queue(LOCK).await {
            log::debug!("The lock of the dead list stays: {error}");
        }
    }
}

/// What may be said of why a message is there.
fn shortened(detail: &str) -> &str {
    let mut end = detail.len().min(LONGEST_DETAIL);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    &detail[..end]
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

/// Properties as they are sent again.
fn replayed(given: &BasicProperties) -> BasicProperties {
    let mut properties = anonymous(given, given.headers().clone());
    if let Some(expiration) = given.expiration() {
        properties = properties.with_expiration(expiration.clone());
    }
    if let Some(mode) = given.delivery_mode() {
        properties = properties.with_delivery_mode(*mode);
    }
    properties
}

/// The message as it is kept: with its own properties and headers, for as long as it takes, and on disk. Where its headers leave
/// no room for ours, they come before its body.
fn pack(letter: &DeadLetter, original: Original) -> Result<Ready> {
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
    Ready::to_queue(QUEUE, join(given, &original.body)?, properties)
}

/// Properties as they are on the wire, with their length before them, and a body after them.
fn join(properties: &BasicProperties, body: &[u8]) -> Result<Bytes> {
    let written = gen_properties(properties)(Vec::new().into());
    let (written, _) = written.map_err(|error| Error::Encode { reason: error.to_string() })?.into_inner();
    Ok([&(written.len() as u32).to_be_bytes()[..], &written, body].concat().into())
}

/// What [`join`] has joined.
fn split(joined: &Bytes) -> Option<(BasicProperties, Bytes)> {
    let (length, rest) = joined.split_first_chunk()?;
    let properties = rest.get(..u32::from_be_bytes(*length) as usize)?;
    let (_, read) = parse_properties(properties).ok()?;
    Some((read, joined.slice(length.len() + properties.len()..)))
}

/// The message as it was, from how it is kept.
fn original(got: lapin::message::Delivery, known: &FieldTable) -> Original {
    let is = |name: &str| matches!(known.inner().get(name), Some(AMQPValue::Boolean(true)));
    let name = |field: &str| text(known, field).and_then(|name| short(name).ok());
    let body = Bytes::from(got.data);
    let joined = if is("whole") { split(&body) } else { None };
    let (properties, body) = joined.unwrap_or_else(|| {
        let headers = got.properties.headers().iter().flat_map(FieldTable::inner);
        let headers = headers.filter(|(name, _)| name.as_str() != HEADER);
        let headers: BTreeMap<_, _> = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut properties = anonymous(&got.properties, (!is("headerless")).then(|| headers.into()));
        if let Some(expiration) = name("expiration") {
            properties = properties.with_expiration(expiration);
        }
        if let Some(mode) = whole(known, "delivery_mode").and_then(|mode| u8::try_from(mode).ok()) {
            properties = properties.with_delivery_mode(mode);
        }
        if let Some(user) = name("user_id") {
            properties = properties.with_user_id(user);
        }
        (properties, body)
    });
    Original {
        properties,
        body,
        exchange: name("exchange").unwrap_or_default(),
        routing_key: name("routing_key").unwrap_or_default(),
        redelivered: is("redelivered"),
    }
}

/// The id of a letter, where it is one of ours.
fn id_of(got: &lapin::message::Delivery) -> Option<&str> {
    match got.properties.headers().as_ref()?.inner().get(HEADER)? {
        AMQPValue::FieldTable(known) => text(known, "id"),
        _ => None,
    }
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
        return Taken { amqp_tag, letter, raw, original };
    };
    let original = original(got, &known);
    let raw = envelope_of(&original);
    let field = |name: &str| text(&known, name).unwrap_or_default();
    let mut letter = DeadLetter::new(field("queue"), field("reason"), field("detail"), &raw);
    letter.at_ms = whole(&known, "at_ms").map_or(0, |at| at as u64);
    field("id").clone_into(&mut letter.id);
    Taken { amqp_tag, letter, raw, original }
}
