//! A broker in one `SQLite` file, for several processes and without a server: the tables of
//! `kombu.transport.sqlalchemy`, so that Python joins in with the same URL.
//!
//! kombu takes a message by `visible = 0` and its ack touches nothing, so a row that is done and a row that is lost
//! look alike there. Our claims have a row in a table of our own, written in the claiming transaction: it says who
//! holds the message, and only such messages are ever put back. What Python took is never touched.

mod consumer;
mod engine;
mod failure;
mod location;
mod schema;
mod session;
mod subscription;
mod thread;
mod watch;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::envelope;
use tokio::sync::mpsc;

use self::consumer::{ConsumerState, SqliteConsumer, repeat};
use self::engine::{Engine, Request};
use self::location::Location;
use self::session::Outgoing;
use self::subscription::{Listener, SqliteSubscription};
use crate::dead::DeadLetter;
use crate::registry::TransportOptions;
use crate::sync::lock;
use crate::transport::{
    ConsumeOptions, Consumer, Exchange, Features, Publication, Queue, SHORTEST_LEASE, Subscription, Transport,
};

pub(crate) const SCHEMES: &[&str] = &["sqla+sqlite", "sqlalchemy+sqlite"];

/// Options: `synchronous` (off, normal, full, extra; normal), `busy_timeout` (seconds; 5), and kombu's
/// `queue_tablename`, `message_tablename` and `polling_interval` (seconds; where it is given the file is looked at that
/// often instead of being watched, which file systems shared over a network need).
#[allow(clippy::needless_pass_by_value, reason = "the registry's signature")]
pub(crate) fn open(url: &str, options: TransportOptions) -> Result<Arc<dyn Transport>> {
    let engine = Engine::start(Location::parse(url, &options)?)?;
    Ok(Arc::new(SqliteTransport { engine, consumers: Mutex::default() }))
}

struct SqliteTransport {
    engine: Arc<Engine>,
    consumers: Mutex<Vec<Weak<ConsumerState>>>,
}

fn outgoing(publication: &Publication) -> Outgoing {
    Outgoing {
        exchange: Arc::clone(&publication.exchange),
        kind: publication.exchange_type,
        routing_key: Arc::clone(&publication.routing_key),
        priority: publication.message.properties.priority.unwrap_or(0),
        payload: envelope::encode(&publication.message, &publication.exchange, &publication.routing_key),
    }
}

fn unroutable(publication: &Publication) -> Error {
    Error::Unroutable {
        exchange: publication.exchange.as_ref().to_owned(),
        routing_key: publication.routing_key.as_ref().to_owned(),
    }
}

/// The row of an id of the dead list; any other spelling of the number names nothing.
fn dead_number(id: &str) -> Option<i64> {
    id.parse().ok().filter(|number: &i64| number.to_string() == id)
}

#[async_trait]
impl Transport for SqliteTransport {
    fn features(&self) -> Features {
        Features { priority: true, fanout: true, interoperable: true, amqp: false }
    }

    fn url(&self) -> &str {
        &self.engine.location.url
    }

    fn hindrance(&self) -> Option<String> {
        let location = &self.engine.location;
        let path = location.path.display();
        location.locked.load(Ordering::Relaxed).then(|| format!("another process holds the lock on {path}"))
    }

    async fn connect(&self) -> Result<()> {
        // A write: a file that can only be read is of no use to a broker.
        self.engine.write(|_| Ok(())).await
    }

    async fn declare(&self, queues: &[Queue]) -> Result<()> {
        let queues = queues.to_vec();
        self.engine
            .write(move |session| {
                for queue in &queues {
                    session.queue(&queue.name)?;
                    if !queue.exchange.name.is_empty() {
                        session.bind(&queue.exchange.name, &queue.routing_key, &queue.name)?;
                    }
                }
                Ok(())
            })
            .await
    }

    async fn publish(&self, batch: &[Publication]) -> Vec<Result<()>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let all: Vec<Outgoing> = batch.iter().map(outgoing).collect();
        let taken = self
            .engine
            .write(move |session| {
                let mut taken = Vec::with_capacity(all.len());
                for outgoing in &all {
                    let route = session.route(outgoing)?;
                    if let Some(route) = &route {
                        session.put(outgoing, route)?;
                    }
                    taken.push(route.is_some());
                }
                Ok(taken)
            })
            .await;
        match taken {
            Ok(taken) => taken
                .into_iter()
                .zip(batch)
                .map(|(taken, publication)| if taken { Ok(()) } else { Err(unroutable(publication)) })
                .collect(),
            Err(error) => repeat(&error, batch.len()),
        }
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let options = ConsumeOptions { lease: options.lease.max(SHORTEST_LEASE), ..options };
        let (node, lease) = (options.node.clone(), options.lease);
        let holder = self.engine.write(move |session| session.add_holder(&node, lease)).await?;
        let state = Arc::new(ConsumerState::new(holder, &options));
        self.engine.send(Request::Renew(Arc::clone(&state)))?;
        let mut consumers = lock(&self.consumers);
        consumers.retain(|consumer| consumer.strong_count() > 0);
        consumers.push(Arc::downgrade(&state));
        Ok(Arc::new(SqliteConsumer { engine: Arc::clone(&self.engine), state }))
    }

    async fn subscribe(&self, exchange: &Exchange, routing_keys: &[String]) -> Result<Box<dyn Subscription>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (joining, keys) = (exchange.clone(), routing_keys.to_vec());
        let joined = self.engine.write(move |session| Listener::join(session, &joining, &keys)).await?;
        let listener = Arc::new(Listener::new(joined, exchange, routing_keys, sender));
        self.engine.send(Request::Feed(Arc::clone(&listener)))?;
        Ok(Box::new(SqliteSubscription { engine: Arc::clone(&self.engine), listener, receiver }))
    }

    async fn queue_length(&self, queue: &str) -> Result<u64> {
        let queue = queue.to_owned();
        self.engine.read(move |session| session.count_waiting(&queue)).await
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        let queue = queue.to_owned();
        self.engine.write(move |session| session.purge(&queue)).await
    }

    async fn dead_letters(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>> {
        self.engine.read(move |session| session.dead_letters(offset, limit)).await
    }

    async fn dead_count(&self) -> Result<u64> {
        self.engine.read(|session| session.dead_count()).await
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<(DeadLetter, Bytes)>> {
        let Some(id) = dead_number(id) else { return Ok(None) };
        self.engine
            .read(move |session| {
                let Some(letter) = session.dead_letter(id)? else { return Ok(None) };
                Ok(session.dead_raw(id)?.map(|raw| (letter, raw)))
            })
            .await
    }

    async fn replay_dead(&self, ids: &[String], queue: Option<&str>) -> Result<Vec<bool>> {
        let numbers: Vec<Option<i64>> = ids.iter().map(|id| dead_number(id)).collect();
        let letters = self
            .engine
            .read(move |session| {
                numbers
                    .iter()
                    .map(|id| match id {
                        Some(id) => Ok(session.dead_letter(*id)?.map(|letter| (*id, letter))),
                        None => Ok(None),
                    })
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        let mut moves = Vec::with_capacity(letters.len());
        for found in letters {
            moves.push(match found {
                Some((id, letter)) => Some((id, letter.destination(queue)?.to_owned(), letter)),
                None => None,
            });
        }
        self.engine
            .write(move |session| {
                moves
                    .iter()
                    .map(|found| match found {
                        Some((id, queue, letter)) => session.replay_dead(*id, queue, letter),
                        None => Ok(false),
                    })
                    .collect()
            })
            .await
    }

    async fn drop_dead(&self, ids: &[String]) -> Result<Vec<bool>> {
        let numbers: Vec<Option<i64>> = ids.iter().map(|id| dead_number(id)).collect();
        self.engine
            .write(move |session| {
                numbers.iter().map(|id| id.map_or(Ok(false), |id| session.drop_dead(id))).collect()
            })
            .await
    }

    async fn close(&self) {
        let consumers: Vec<_> = {
            let consumers = lock(&self.consumers);
            consumers.iter().filter_map(Weak::upgrade).collect()
        };
        for consumer in consumers {
            // What cannot be handed back now comes back when the lease has run out.
            let _ = SqliteConsumer::leave(&self.engine, &consumer).await;
        }
        self.engine.close().await;
    }
}
