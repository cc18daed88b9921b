//! The dead list: a durable queue, in which every message keeps its body, its properties and its headers, beside one header
//! of ours that says why it is there.
//!
//! A queue can only be read by taking everything out and putting it back. Nothing is acknowledged that is not dropped or
//! confirmed elsewhere, so a process that dies while it reads leaves all of it in its place. One reads at a time: an
//! exclusive queue of the broker is the lock, which goes with its connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::{Message, envelope};
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::begin;
use super::failure::{explain, soft};
use super::link::Live;
use super::properties::{Origin, from_amqp, to_amqp};
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
    raw: Bytes,
}

/// The right to read.
struct Reader {
    live: Arc<Live>,
    channel: Channel,
    _reading: OwnedMutexGuard<()>,
}

impl DeadList {
    pub(super) fn new(topology: Arc<Topology>) -> Self {
        Self { topology, reading: Arc::default() }
    }

    /// Adds messages, each with the queue that it was taken from, the reason, the detail and the envelope.
    pub(super) async fn add(
        &self,
        lane: &Lane,
        letters: Vec<(Arc<str>, &'static str, String, Bytes)>,
    ) -> Vec<Result<()>> {
        let count = letters.len();
        let all = |error: Error| (0..count).map(|_| Err(error.clone())).collect();
        if let Err(error) = self.declare().await {
            return all(error);
        }
        let messages: Result<Vec<Ready>> = letters
            .into_iter()
            .map(|(queue, reason, detail, raw)| {
                let mut letter = DeadLetter::new(&queue, reason, &detail, &raw);
                let id = uuid::Uuid::new_v4().simple().to_string();
                id[..16].clone_into(&mut letter.id);
                pack(&letter, &raw)
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
            let message = envelope::decode(&taken.raw)?;
            let destination = taken.letter.destination(queue)?;
            messages.push(Ready::to_queue(destination, message.body.clone(), anonymous(&message)?)?);
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
                Ok(_) => return Ok(Reader { live, channel, _reading: reading }),
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
        let Ok(name) = short(LOCK) else { return };
        let _ = self.live.answer(self.channel.queue_delete(name, QueueDeleteOptions::default())).await;
        close(self.channel).await;
    }
}

/// Properties that may be published by whoever publishes them: the broker refuses another's user.
fn anonymous(message: &Message) -> Result<BasicProperties> {
    let mut message = message.clone();
    if message.properties.other.contains("user_id") {
        let object = format!("{{{}}}", message.properties.other);
        let members = celeriac_protocol::json::object_members(object.as_bytes())?;
        let kept = members.iter().filter(|(name, _)| name != "user_id");
        message.properties.other =
            kept.map(|(name, value)| format!("\"{name}\": {value}")).collect::<Vec<_>>().join(", ");
    }
    to_amqp(&message)
}

/// The message as it is kept: for as long as it takes, and on disk.
fn pack(letter: &DeadLetter, raw: &Bytes) -> Result<Ready> {
    let mut message = envelope::decode(raw)?;
    let origin = std::mem::take(&mut message.properties.delivery_info);
    let mut known = FieldTable::default();
    known.insert("id".into(), long(&letter.id));
    known.insert("queue".into(), long(&letter.queue));
    known.insert("reason".into(), long(&letter.reason));
    known.insert("detail".into(), long(&letter.detail));
    known.insert("at_ms".into(), AMQPValue::LongLongInt(letter.at_ms as i64));
    known.insert("exchange".into(), long(&origin.exchange));
    known.insert("routing_key".into(), long(&origin.routing_key));
    known.insert("redelivered".into(), AMQPValue::Boolean(origin.redelivered));
    if let Some(expiration) = message.properties.expiration.take() {
        known.insert("expiration".into(), long(&expiration));
    }
    if let Some(mode) = message.properties.delivery_mode {
        known.insert("delivery_mode".into(), AMQPValue::LongInt(i32::from(mode)));
    }
    let properties = anonymous(&message)?;
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(HEADER.into(), AMQPValue::FieldTable(known));
    Ready::to_queue(QUEUE, message.body, properties.with_headers(headers).with_delivery_mode(2))
}

/// What is known of a message in the list. One that somebody else has put there is listed too: what is hidden is never looked
/// after.
fn unpack(got: lapin::message::Delivery) -> Taken {
    let known = match got.properties.headers().as_ref().and_then(|headers| headers.inner().get(HEADER)) {
        Some(AMQPValue::FieldTable(known)) => Some(known.clone()),
        _ => None,
    };
    let is_ours = known.is_some();
    let known = known.unwrap_or_default();
    let origin = Origin {
        exchange: text(&known, "exchange").unwrap_or_default(),
        routing_key: text(&known, "routing_key").unwrap_or_default(),
        redelivered: matches!(known.inner().get("redelivered"), Some(AMQPValue::Boolean(true))),
    };
    let mut message = from_amqp(&got.properties, Bytes::from(got.data), &origin, Some(HEADER));
    if is_ours {
        message.properties.expiration = text(&known, "expiration").map(str::to_owned);
        message.properties.delivery_mode =
            whole(&known, "delivery_mode").and_then(|mode| u8::try_from(mode).ok());
    }
    let raw = Bytes::from(envelope::encode(&message, origin.exchange, origin.routing_key));
    let (reason, detail) = if is_ours {
        (text(&known, "reason").unwrap_or_default(), text(&known, "detail").unwrap_or_default())
    } else {
        ("unreadable", "it was put into the list by somebody else")
    };
    let mut letter = DeadLetter::new(text(&known, "queue").unwrap_or_default(), reason, detail, &raw);
    letter.at_ms = whole(&known, "at_ms").map_or(0, |at| at as u64);
    letter.id = match text(&known, "id") {
        Some(id) => id.to_owned(),
        None => String::new(),
    };
    Taken { amqp_tag: got.delivery_tag, letter, raw }
}
