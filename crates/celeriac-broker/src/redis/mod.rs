//! `redis://`: kombu's Redis transport, key by key, with claims that are not lost.
//!
//! Messages are in lists as kombu leaves them (`kombu.transport.redis`), so that Python's producers and workers are on the
//! same queues. What is held is in kombu's `unacked` too, so that a Python worker restores it when none of ours is left; beside
//! it `celeriac.leases` says until when it is ours. Kept in one script each: claiming, settling, putting back.

mod begin;
mod consumer;
mod core;
mod dead;
mod direct;
mod fanout;
mod keys;
mod lease;
mod link;
mod listener;
mod malformed;
mod publish;
mod record;
mod restore;
mod routing;
mod scripts;
mod settings;
mod settle;
mod unanswered;
mod waiting;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use tokio::sync::watch;

use self::consumer::RedisConsumer;
use self::core::{Core, Sources, lock};
use self::dead::DeadList;
use self::direct::DirectConnection;
use self::link::Link;
use self::routing::Router;
use self::settings::Settings;
use crate::dead::DeadLetter;
use crate::registry::TransportOptions;
use crate::transport::{
    ConsumeOptions, Consumer, Direct, Exchange, Features, Publication, Queue, SHORTEST_LEASE, Subscription,
    Transport,
};

pub(crate) const SCHEMES: &[&str] = &["redis", "rediss", "redis+socket"];

// The registry hands them over.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn open(url: &str, options: TransportOptions) -> Result<Arc<dyn Transport>> {
    let settings = Arc::new(Settings::new(url, &options)?);
    let router = Arc::new(Router::new(Arc::clone(&settings)));
    Ok(Arc::new(RedisTransport {
        link: Link::new(Arc::clone(&settings)),
        direct: DirectConnection::new(&settings, &router),
        router,
        settings,
        closed: AtomicBool::new(false),
        ended: watch::Sender::new(false),
        consumers: Mutex::default(),
    }))
}

struct RedisTransport {
    settings: Arc<Settings>,
    /// For everything that does not block.
    link: Link,
    direct: Option<Arc<DirectConnection>>,
    router: Arc<Router>,
    closed: AtomicBool,
    /// Tells subscriptions.
    ended: watch::Sender<bool>,
    consumers: Mutex<Vec<Weak<RedisConsumer>>>,
}

impl RedisTransport {
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            Err(Error::Closed("connection to the broker"))
        } else {
            Ok(())
        }
    }

    fn dead_list(&self) -> DeadList<'_> {
        DeadList { settings: &self.settings, link: &self.link }
    }
}

#[async_trait]
impl Transport for RedisTransport {
    fn features(&self) -> Features {
        Features { priority: true, fanout: true, interoperable: true, amqp: false }
    }

    fn url(&self) -> &str {
        &self.settings.url
    }

    fn same_server(&self, identity: &str) -> bool {
        self.settings.identity == identity
    }

    async fn connect(&self) -> Result<()> {
        self.check_open()?;
        self.link.command(&redis::cmd("PING")).await
    }

    async fn declare(&self, queues: &[Queue]) -> Result<()> {
        self.check_open()?;
        self.router.declare(&self.link, queues).await
    }

    async fn publish(&self, batch: &[Publication]) -> Vec<Result<()>> {
        if self.closed.load(Ordering::SeqCst) {
            return batch.iter().map(|_| self.check_open()).collect();
        }
        publish::publish(&self.settings, &self.router, &self.link, batch).await
    }

    fn direct(&self) -> Option<Arc<dyn Direct>> {
        self.direct.clone().map(|direct| direct as Arc<dyn Direct>)
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.check_open()?;
        let sources = Sources::new(&self.settings, &options.queues)?;
        let name = format!("{}:{}", options.node, uuid::Uuid::new_v4().simple());
        let (settings, router) = (Arc::clone(&self.settings), Arc::clone(&self.router));
        let core = Core::new(settings, router, name, options.lease.max(SHORTEST_LEASE), sources);
        let consumer = Arc::new(RedisConsumer::start(core).await?);
        let mut consumers = lock(&self.consumers);
        consumers.retain(|consumer| consumer.strong_count() > 0);
        consumers.push(Arc::downgrade(&consumer));
        Ok(consumer)
    }

    async fn subscribe(&self, exchange: &Exchange, routing_keys: &[String]) -> Result<Box<dyn Subscription>> {
        self.check_open()?;
        fanout::subscribe(&self.settings, exchange, routing_keys, self.ended.subscribe()).await
    }

    async fn queue_length(&self, queue: &str) -> Result<u64> {
        self.check_open()?;
        let mut lengths = redis::pipe();
        for list in self.settings.keys.lists(queue) {
            lengths.cmd("LLEN").arg(list);
        }
        Ok(self.link.commands::<Vec<u64>>(&lengths).await?.into_iter().sum())
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.check_open()?;
        self.settings.keys.check_queue(queue)?;
        let mut purge = redis::pipe();
        purge.atomic();
        for list in self.settings.keys.lists(queue) {
            purge.cmd("LLEN").arg(&list);
            purge.cmd("DEL").arg(&list).ignore();
        }
        Ok(self.link.commands_once::<Vec<u64>>(&purge).await?.into_iter().sum())
    }

    async fn dead_letters(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>> {
        self.check_open()?;
        self.dead_list().list(offset, limit).await
    }

    async fn dead_count(&self) -> Result<u64> {
        self.check_open()?;
        self.dead_list().count().await
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<(DeadLetter, Bytes)>> {
        self.check_open()?;
        self.dead_list().get(id).await
    }

    async fn replay_dead(&self, ids: &[String], queue: Option<&str>) -> Result<Vec<bool>> {
        self.check_open()?;
        self.dead_list().replay(ids, queue).await
    }

    async fn drop_dead(&self, ids: &[String]) -> Result<Vec<bool>> {
        self.check_open()?;
        self.dead_list().drop(ids).await
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(direct) = &self.direct {
            direct.close();
        }
        self.ended.send_replace(true);
        let consumers: Vec<_> = lock(&self.consumers).drain(..).filter_map(|weak| weak.upgrade()).collect();
        for consumer in consumers {
            // What cannot be handed back now comes back after its lease.
            let _ = consumer.close().await;
        }
        self.link.close().await;
    }
}
