//! `amqp://`: `RabbitMQ`, as kombu's `pyamqp` transport uses it.
//!
//! Exchanges, queues and bindings are those that Celery declares, and messages have their body as it is, so that Python's
//! producers and workers are on the same queues. Every publication is confirmed, and refused when no queue takes it. There are two
//! connections: when the broker runs out of memory or disk it stops reading from those that publish, and acknowledgements must
//! go on.

mod begin;
mod certain;
mod consume;
mod consumer;
mod core;
mod dead;
mod delays;
mod failure;
mod link;
mod properties;
mod publish;
mod settings;
mod settle;
mod subscription;
mod table;
mod topology;

use std::sync::{Arc, Mutex, OnceLock, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use lapin::options::QueuePurgeOptions;
use lapin::protocol::AMQPSoftError;
use serde_json::Value;
use tokio::sync::watch;

use self::consumer::AmqpConsumer;
use self::dead::DeadList;
use self::failure::{explain, soft};
use self::link::{Link, lock};
use self::publish::Lane;
use self::settings::Settings;
use self::table::short;
use self::topology::Topology;
use crate::dead::DeadLetter;
use crate::registry::TransportOptions;
use crate::transport::{
    ConsumeOptions, Consumer, Exchange, Features, Publication, Queue, Subscription, Transport,
};

/// kombu makes the last two the first.
pub(crate) const SCHEMES: &[&str] = &["amqp", "amqps", "pyamqp", "librabbitmq"];

// The registry hands them over.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn open(url: &str, options: TransportOptions) -> Result<Arc<dyn Transport>> {
    let settings = Arc::new(Settings::new(url, &options)?);
    // Another address of the same cluster, where `broker_read_url` names one.
    let reading = options.options.get("read_url").and_then(Value::as_str).filter(|url| !url.is_empty());
    let (reading, leads) = match reading {
        None => (Arc::clone(&settings), true),
        Some(url) => (Arc::new(Settings::new(url, &options)?), false),
    };
    let consuming = Arc::new(Link::new(reading, "consuming", None));
    let leader = leads.then(|| Arc::clone(&consuming));
    let topology = Arc::new(Topology::new(Arc::clone(&consuming)));
    Ok(Arc::new(AmqpTransport {
        publishing: Arc::new(Link::new(Arc::clone(&settings), "publishing", leader)),
        dead: Arc::new(DeadList::new(Arc::clone(&topology))),
        settings,
        consuming,
        topology,
        lane: OnceLock::new(),
        ended: watch::Sender::new(false),
        consumers: Mutex::default(),
    }))
}

struct AmqpTransport {
    settings: Arc<Settings>,
    publishing: Arc<Link>,
    /// For everything else.
    consuming: Arc<Link>,
    topology: Arc<Topology>,
    dead: Arc<DeadList>,
    /// Its task is started with the first publication.
    lane: OnceLock<Lane>,
    /// Tells subscriptions.
    ended: watch::Sender<bool>,
    consumers: Mutex<Vec<Weak<AmqpConsumer>>>,
}

impl AmqpTransport {
    fn lane(&self) -> &Lane {
        self.lane.get_or_init(|| Lane::start(Arc::clone(&self.publishing), Arc::clone(&self.topology)))
    }
}

/// Runs to its end though nobody waits for it any longer: what was taken out of the dead list is put back.
async fn finish<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let finished = tokio::spawn(work).await;
    finished.unwrap_or_else(|error| Err(Error::Internal(format!("the dead list: {error}"))))
}

#[async_trait]
impl Transport for AmqpTransport {
    fn features(&self) -> Features {
        Features { priority: true, fanout: true, interoperable: true, amqp: true }
    }

    fn url(&self) -> &str {
        &self.settings.url
    }

    async fn connect(&self) -> Result<()> {
        self.topology.live().await.map(drop)
    }

    async fn declare(&self, queues: &[Queue]) -> Result<()> {
        self.topology.declare(queues).await
    }

    async fn publish(&self, batch: &[Publication]) -> Vec<Result<()>> {
        if let Err(error) = self.publishing.check_open() {
            return batch.iter().map(|_| Err(error.clone())).collect();
        }
        self.lane().publish(batch).await
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.consuming.check_open()?;
        let (topology, dead) = (Arc::clone(&self.topology), Arc::clone(&self.dead));
        let consumer =
            AmqpConsumer::start(&self.settings.url, topology, self.lane().clone(), dead, options).await?;
        let consumer = Arc::new(consumer);
        let mut consumers = lock(&self.consumers);
        consumers.retain(|consumer| consumer.strong_count() > 0);
        consumers.push(Arc::downgrade(&consumer));
        Ok(consumer)
    }

    async fn subscribe(&self, exchange: &Exchange, routing_keys: &[String]) -> Result<Box<dyn Subscription>> {
        self.consuming.check_open()?;
        subscription::subscribe(Arc::clone(&self.topology), exchange, routing_keys, self.ended.subscribe())
            .await
    }

    async fn queue_length(&self, queue: &str) -> Result<u64> {
        Ok(self.topology.length(queue).await?.unwrap_or(0))
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        let live = self.topology.live().await?;
        let channel = live.channel().await?;
        match live.raw_answer(channel.queue_purge(short(queue)?, QueuePurgeOptions::default())).await? {
            Ok(count) => {
                topology::close(channel);
                Ok(u64::from(count))
            }
            Err(error) if matches!(soft(&error), Some((AMQPSoftError::NOTFOUND, _))) => Ok(0),
            Err(error) => Err(explain(&live.url, &error)),
        }
    }

    async fn dead_letters(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>> {
        let dead = Arc::clone(&self.dead);
        finish(async move { dead.list(offset, limit).await }).await
    }

    async fn dead_count(&self) -> Result<u64> {
        let dead = Arc::clone(&self.dead);
        finish(async move { dead.count().await }).await
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<(DeadLetter, Bytes)>> {
        let (dead, id) = (Arc::clone(&self.dead), id.to_owned());
        finish(async move { dead.get(&id).await }).await
    }

    async fn replay_dead(&self, ids: &[String], queue: Option<&str>) -> Result<Vec<bool>> {
        let (dead, lane) = (Arc::clone(&self.dead), self.lane().clone());
        let (ids, queue) = (ids.to_vec(), queue.map(str::to_owned));
        finish(async move { dead.replay(&lane, &ids, queue.as_deref()).await }).await
    }

    async fn drop_dead(&self, ids: &[String]) -> Result<Vec<bool>> {
        let (dead, ids) = (Arc::clone(&self.dead), ids.to_vec());
        finish(async move { dead.remove(&ids).await }).await
    }

    async fn close(&self) {
        self.ended.send_replace(true);
        let consumers: Vec<_> = lock(&self.consumers).drain(..).filter_map(|weak| weak.upgrade()).collect();
        for consumer in consumers {
            // What cannot be handed back now comes back when the connection is gone.
            let _ = consumer.close().await;
        }
        self.publishing.close().await;
        self.consuming.close().await;
    }
}
