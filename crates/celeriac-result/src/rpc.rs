//! `rpc://`: results as messages to a queue of the client's own (`celery.backends.rpc`).
//!
//! Nothing is stored anywhere: who asks for a result must be the client that sent the task, and each message is read once. So
//! what has come is kept here, the latest [`KEPT`] documents, and nothing of it outlives the process. The queue goes with its
//! client, and what is sent to a client that is gone is dropped, as in Celery.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_broker::{
    ConsumeOptions, Consumer, Delivery, ExchangeType, Outcome, Publication, Queue, Settlement, Transport,
    TransportOptions, url,
};
use celeriac_error::{Error, Result};
use celeriac_protocol::result_meta::{self, is_ready};
use celeriac_protocol::{Message, Properties, TaskMeta};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::registry::StoreOptions;
use crate::store::{ResultStore, StoreRequest};
use crate::waiters::Waiters;

pub(crate) const SCHEMES: &[&str] = &["rpc"];

/// How many documents are kept that nobody has asked for (`MESSAGE_BUFFER_MAX` of Celery).
const KEPT: usize = 8192;

/// `result_expires`, in seconds.
const EXPIRES: f64 = 86_400.0;

/// How soon it is tried again to listen.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Opens the results of one client. The options are `broker` (its URL), `broker_options`, `reply_to` (the name of
/// the queue, a UUID unless given), `expires` (seconds) and `persistent`.
pub(crate) fn open(store_url: &str, options: &StoreOptions) -> Result<Arc<dyn ResultStore>> {
    let given = &options.options;
    let wrong =
        |reason: &str| Error::InvalidUrl { url: url::without_password(store_url), reason: reason.to_owned() };
    let broker =
        given.get("broker").and_then(Value::as_str).ok_or_else(|| wrong("rpc:// needs the broker's URL"))?;
    let transport = celeriac_broker::open(
        broker,
        TransportOptions {
            options: given.get("broker_options").and_then(Value::as_object).cloned().unwrap_or_default(),
            connect_timeout: options.connect_timeout,
        },
    )?;
    let reply_to = given.get("reply_to").and_then(Value::as_str).filter(|name| !name.is_empty());
    let seconds =
        given.get("expires").and_then(Value::as_f64).filter(|seconds| *seconds > 0.0).unwrap_or(EXPIRES);
    let queue = Queue {
        name: reply_to.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
        durable: true,
        auto_delete: true,
        arguments: format!("{{\"x-expires\": {}}}", (seconds * 1000.0) as i64),
        ..Queue::default()
    };
    let persistent = given.get("persistent").and_then(Value::as_bool).unwrap_or(false);
    Ok(Arc::new(RpcStore {
        place: Arc::new(Place { transport, queue, waiters: Arc::default(), cache: Mutex::default() }),
        delivery_mode: if persistent { 2 } else { 1 },
        listening: tokio::sync::Mutex::default(),
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came, by task id, and in which order.
#[derive(Default)]
struct Cache {
    by_id: HashMap<String, TaskMeta>,
    order: VecDeque<String>,
}

impl Cache {
    /// A SUCCESS is final.
    fn put(&mut self, meta: &TaskMeta) {
        if self.by_id.get(&meta.task_id).is_some_and(|known| known.status == "SUCCESS") {
            return;
        }
        if self.by_id.insert(meta.task_id.clone(), meta.clone()).is_none() {
            self.order.push_back(meta.task_id.clone());
        }
        while self.by_id.len() > KEPT {
            let Some(oldest) = self.order.pop_front() else { return };
            self.by_id.remove(&oldest);
        }
    }

    fn remove(&mut self, id: &str) {
        if self.by_id.remove(id).is_some() {
            self.order.retain(|known| known != id);
        }
    }
}

struct Place {
    transport: Arc<dyn Transport>,
    queue: Queue,
    waiters: Arc<Waiters>,
    cache: Mutex<Cache>,
}

struct RpcStore {
    place: Arc<Place>,
    delivery_mode: u8,
    /// The task that listens, once somebody has asked for something.
    listening: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl RpcStore {
    async fn listen(&self) -> Result<()> {
        self.place.waiters.check_open()?;
        let mut listening = self.listening.lock().await;
        if listening.is_some() {
            return Ok(());
        }
        let place = Arc::clone(&self.place);
        let consumer = place.consume().await?;
        *listening = Some(tokio::spawn(async move { place.run(consumer).await }));
        Ok(())
    }

    fn message(&self, request: &StoreRequest, correlation_id: &str) -> Message {
        Message {
            body: Bytes::from(result_meta::encode(&request.meta)),
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            headers: "{}".to_owned(),
            properties: Properties {
                correlation_id: Some(correlation_id.to_owned()),
                delivery_mode: Some(self.delivery_mode),
                priority: Some(0),
                ..Properties::default()
            },
        }
    }
}

impl Drop for RpcStore {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.get_mut().take() {
            listening.abort();
        }
    }
}

impl Place {
    async fn consume(&self) -> Result<Arc<dyn Consumer>> {
        self.transport.declare(std::slice::from_ref(&self.queue)).await?;
        let options = ConsumeOptions {
            queues: vec![self.queue.clone()],
            prefetch: 0,
            node: "rpc".to_owned(),
            lease: Duration::from_secs(30),
        };
        self.transport.consume(options).await
    }

    async fn run(&self, consumer: Arc<dyn Consumer>) {
        loop {
            match consumer.receive(256).await {
                Ok(deliveries) if deliveries.is_empty() => return,
                Ok(deliveries) => {
                    let read = deliveries.iter().map(|delivery| {
                        self.take(delivery);
                        Settlement {
                            tag: delivery.tag,
                            publish: Vec::new(),
                            store: None,
                            outcome: Outcome::Ack,
                        }
                    });
                    // One that comes again is known already.
                    consumer.settle(&read.collect::<Vec<_>>()).await;
                }
                Err(error) => {
                    log::debug!("Results do not come for now: {error}");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    fn take(&self, delivery: &Delivery) {
        let Ok(message) = &delivery.message else { return };
        let meta = match result_meta::decode(&message.body) {
            Ok(meta) => meta,
            Err(error) => {
                let Some(id) = &message.properties.correlation_id else { return };
                return self.waiters.fail(id, || crate::of_task(id, None, error.clone()));
            }
        };
        lock(&self.cache).put(&meta);
        if is_ready(&meta.status) {
            self.waiters.resolve(&meta.task_id, &meta);
        }
    }
}

#[async_trait]
impl ResultStore for RpcStore {
    fn url(&self) -> &'static str {
        "rpc://"
    }

    /// Listens too: the queue must be there before the first task is sent, and stay there until somebody asks.
    async fn connect(&self) -> Result<()> {
        self.listen().await
    }

    async fn store(&self, batch: &[StoreRequest]) -> Vec<Result<()>> {
        if let Err(error) = self.place.waiters.check_open() {
            return batch.iter().map(|_| Err(error.clone())).collect();
        }
        let replies: Vec<Option<Publication>> = batch
            .iter()
            .map(|request| {
                let reply_to = request.reply_to.as_deref().filter(|queue| !queue.is_empty())?;
                let correlation_id = request.correlation_id.as_deref().unwrap_or(&request.meta.task_id);
                Some(Publication {
                    exchange: "".into(),
                    exchange_type: ExchangeType::Direct,
                    routing_key: reply_to.into(),
                    message: self.message(request, correlation_id),
                })
            })
            .collect();
        let sent: Vec<Publication> = replies.iter().flatten().cloned().collect();
        let mut outcomes = self.place.transport.publish(&sent).await.into_iter();
        let outcomes = replies.into_iter().map(|reply| match reply.and_then(|_| outcomes.next()) {
            // Nobody wants to know, or nobody is there any longer.
            None | Some(Err(Error::Unroutable { .. })) => Ok(()),
            Some(outcome) => outcome,
        });
        outcomes.collect()
    }

    async fn get(&self, task_ids: &[&str]) -> Result<Vec<Option<TaskMeta>>> {
        self.listen().await?;
        let cache = lock(&self.place.cache);
        Ok(task_ids.iter().map(|id| cache.by_id.get(*id).cloned()).collect())
    }

    async fn wait(&self, task_id: &str) -> Result<TaskMeta> {
        // In this order nothing that comes meanwhile is missed.
        let wait = self.place.waiters.begin(task_id)?;
        self.listen().await?;
        let known = lock(&self.place.cache).by_id.get(task_id).cloned();
        match known.filter(|meta| is_ready(&meta.status)) {
            Some(meta) => Ok(meta),
            None => wait.finish().await,
        }
    }

    fn waiting(&self) -> usize {
        self.place.waiters.len()
    }

    async fn forget(&self, task_ids: &[&str]) -> Result<()> {
        self.place.waiters.check_open()?;
        let mut cache = lock(&self.place.cache);
        for id in task_ids {
            cache.remove(id);
        }
        Ok(())
    }

    async fn close(&self) {
        self.place.waiters.close();
        if let Some(listening) = self.listening.lock().await.take() {
            listening.abort();
        }
        self.place.transport.close().await;
    }
}
