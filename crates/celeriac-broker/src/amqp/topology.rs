//! Exchanges, queues and bindings: declared as Celery declares them, and again after the broker has lost them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use celeriac_error::{Error, Result};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::delays;
use super::failure::{explain, soft};
use super::link::{Link, Live, lock};
use super::table::{from_json, short};
use crate::delay;
use crate::transport::{Exchange, ExchangeType, Queue};

/// What a transport has declared, on its consuming connection: an exclusive queue belongs to that one, and the broker never
/// blocks it.
pub(super) struct Topology {
    pub(super) link: Arc<Link>,
    /// In the order in which they were declared.
    declared: Mutex<Vec<Queue>>,
    /// The connection on which all of it was declared last.
    current: tokio::sync::Mutex<u64>,
    /// Exchanges that are known to be there.
    exchanges: Mutex<HashSet<Arc<str>>>,
    /// The connection on which delayed delivery was declared last.
    delays: Mutex<u64>,
}

impl Topology {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            declared: Mutex::default(),
            current: tokio::sync::Mutex::new(0),
            exchanges: Mutex::default(),
            delays: Mutex::new(0),
        }
    }

    /// The connection, with everything on it that was declared before.
    pub(super) async fn live(&self) -> Result<Arc<Live>> {
        let live = self.link.get().await?;
        let mut current = self.current.lock().await;
        if *current >= live.number {
            return Ok(live);
        }
        lock(&self.exchanges).clear();
        let declared = lock(&self.declared).clone();
        for queue in &declared {
            match self.declare_on(&live, queue).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => log::warn!("After reconnecting: {error}"),
            }
        }
        *current = live.number;
        Ok(live)
    }

    /// Declares, and remembers.
    pub(super) async fn declare(&self, queues: &[Queue]) -> Result<()> {
        let live = self.live().await?;
        for queue in queues {
            self.declare_on(&live, queue).await?;
            let mut exchanges = lock(&self.exchanges);
            if !exchanges.contains(queue.exchange.name.as_str()) {
                exchanges.insert(queue.exchange.name.as_str().into());
            }
            drop(exchanges);
            let mut declared = lock(&self.declared);
            if !declared.contains(queue) {
                declared.push(queue.clone());
            }
        }
        Ok(())
    }

    /// With delayed delivery where it is asked for, once on each connection.
    async fn declare_on(&self, live: &Live, queue: &Queue) -> Result<()> {
        let Some(kind) = queue.delays else { return declare_on(live, queue).await };
        if *lock(&self.delays) < live.number {
            delays::declare(live, kind).await?;
            *lock(&self.delays) = live.number;
            lock(&self.exchanges).insert(delay::entrance());
        }
        declare_on(live, queue).await
    }

    /// Which of these exchanges cannot be published to, and why; none when one is not there. To publish to one of those would end
    /// the channel, and with it what others publish.
    pub(super) async fn missing(
        &self,
        names: impl Iterator<Item = (&Arc<str>, ExchangeType)>,
    ) -> HashMap<Arc<str>, Option<Error>> {
        let unknown: Vec<(Arc<str>, ExchangeType)> = {
            let known = lock(&self.exchanges);
            let mut unknown: Vec<(Arc<str>, ExchangeType)> = Vec::new();
            for (name, kind) in names {
                let is_new = !name.is_empty() && !known.contains(name);
                if is_new && unknown.iter().all(|(other, _)| other != name) {
                    unknown.push((Arc::clone(name), kind));
                }
            }
            unknown
        };
        let mut missing = HashMap::new();
        for (name, kind) in unknown {
            match self.is_there(&name, kind).await {
                Ok(true) => _ = lock(&self.exchanges).insert(name),
                Ok(false) => _ = missing.insert(name, None),
                Err(error) => _ = missing.insert(name, Some(error)),
            }
        }
        missing
    }

    async fn is_there(&self, exchange: &str, kind: ExchangeType) -> Result<bool> {
        let name = short(exchange)?;
        let live = self.live().await?;
        let channel = live.channel().await?;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let asked = channel.exchange_declare(name, exchange_kind(kind), options, FieldTable::default());
        match live.raw_answer(asked).await? {
            Ok(()) => {
                close(channel);
                Ok(true)
            }
            Err(error) if matches!(soft(&error), Some((AMQPSoftError::NOTFOUND, _))) => Ok(false),
            Err(error) => Err(explain(&live.url, &error)),
        }
    }

    /// An exchange turned out not to be there.
    pub(super) fn forget_exchange(&self, name: &str) {
        lock(&self.exchanges).remove(name);
    }

    /// How many messages wait in a queue; `None` when there is none of that name.
    pub(super) async fn length(&self, queue: &str) -> Result<Option<u64>> {
        let live = self.live().await?;
        let channel = live.channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = channel.queue_declare(short(queue)?, options, FieldTable::default());
        match live.raw_answer(asked).await? {
            Ok(found) => {
                close(channel);
                Ok(Some(u64::from(found.message_count())))
            }
            Err(error) if matches!(soft(&error), Some((AMQPSoftError::NOTFOUND, _))) => Ok(None),
            Err(error) => Err(explain(&live.url, &error)),
        }
    }

    /// Declares a durable queue of our own; says how many messages it has. Whatever the virtual host's default is, it is a classic
    /// queue: a quorum queue drops what was read too often, and costs a group of servers each.
    pub(super) async fn own_queue(&self, name: &str, mut arguments: FieldTable) -> Result<u64> {
        arguments.insert(short("x-queue-type")?, AMQPValue::LongString("classic".into()));
        let live = self.live().await?;
        let channel = live.channel().await?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let found = live.answer(channel.queue_declare(short(name)?, options, arguments)).await?;
        close(channel);
        Ok(u64::from(found.message_count()))
    }

    /// Deletes a queue; it is no error when there is none.
    pub(super) async fn delete_queue(&self, name: &str) -> Result<()> {
        let live = self.live().await?;
        let channel = live.channel().await?;
        live.answer(channel.queue_delete(short(name)?, QueueDeleteOptions::default())).await?;
        close(channel);
        Ok(())
    }
}

/// In the background: nobody needs the answer.
pub(super) fn close(channel: Channel) {
    tokio::spawn(async move {
        // One that is closed already says so; a connection that is lost closes it too.
        let _ = tokio::time::timeout(super::link::ANSWER_TIMEOUT, channel.close(200, "OK".into())).await;
    });
}

fn exchange_kind(kind: ExchangeType) -> ExchangeKind {
    match kind {
        ExchangeType::Direct => ExchangeKind::Direct,
        ExchangeType::Topic => ExchangeKind::Topic,
        ExchangeType::Fanout => ExchangeKind::Fanout,
        ExchangeType::Headers => ExchangeKind::Headers,
    }
}

/// On a channel of its own, which a refusal ends.
async fn declare_on(live: &Live, queue: &Queue) -> Result<()> {
    let channel = live.channel().await?;
    declare_exchange(live, &channel, &queue.exchange).await?;
    let options = QueueDeclareOptions {
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        ..QueueDeclareOptions::default()
    };
    let asked = channel.queue_declare(short(queue.name.as_str())?, options, arguments(&queue.arguments)?);
    let what = || format!("queue `{}`", queue.name);
    checked(live, live.raw_answer(asked).await?, what)?;
    if !queue.exchange.name.is_empty() {
        let asked = channel.queue_bind(
            short(queue.name.as_str())?,
            short(queue.exchange.name.as_str())?,
            short(queue.routing_key.as_str())?,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        checked(live, live.raw_answer(asked).await?, what)?;
    }
    if queue.delays.is_some() {
        delays::bind(live, &channel, queue).await?;
    }
    close(channel);
    Ok(())
}

/// Declares an exchange, unless it is one that the broker has by itself.
pub(super) async fn declare_exchange(live: &Live, channel: &Channel, exchange: &Exchange) -> Result<()> {
    if exchange.name.is_empty() || exchange.name.starts_with("amq.") {
        return Ok(());
    }
    let options = ExchangeDeclareOptions {
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        ..ExchangeDeclareOptions::default()
    };
    let name = short(exchange.name.as_str())?;
    let asked = channel.exchange_declare(name, exchange_kind(exchange.kind), options, FieldTable::default());
    checked(live, live.raw_answer(asked).await?, || format!("exchange `{}`", exchange.name))
}

pub(super) fn checked<T>(live: &Live, answer: lapin::Result<T>, what: impl Fn() -> String) -> Result<()> {
    let Err(error) = answer else { return Ok(()) };
    let Some((kind, said)) = soft(&error) else { return Err(explain(&live.url, &error)) };
    let what = what();
    let remedy = match kind {
        AMQPSoftError::PRECONDITIONFAILED => format!(
            "{what} exists with other settings. Declare it with those that it has, or delete it first (it is made again): {said}"
        ),
        AMQPSoftError::RESOURCELOCKED => format!("{what} is exclusive to another connection: {said}"),
        AMQPSoftError::ACCESSREFUSED => format!("this user may not declare {what}: {said}"),
        _ => format!("{what} cannot be declared: {said}"),
    };
    Err(Error::Refused { url: live.url.clone(), reason: remedy })
}

/// `x-…` arguments. In these py-amqp writes whole numbers as everywhere, so nothing is converted.
fn arguments(text: &str) -> Result<FieldTable> {
    from_json(text)
}

/// The arguments of a queue that goes when nobody has used it for a while.
pub(super) fn expiring(milliseconds: i32, most: i32) -> FieldTable {
    let mut arguments = FieldTable::default();
    if let Ok(name) = short("x-expires") {
        arguments.insert(name, AMQPValue::LongInt(milliseconds));
    }
    if let Ok(name) = short("x-max-length") {
        arguments.insert(name, AMQPValue::LongInt(most));
    }
    arguments
}
