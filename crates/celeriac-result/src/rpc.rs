//! `rpc://`: results as messages to a queue of the client's own (`celery.backends.rpc`).
//!
//! Nothing is stored anywhere: who asks for a result must be the client that sent the task, and each message is read once. So
//! what has come is kept here, the latest [`KEPT`] bytes of it, and nothing of it outlives the process. The queue goes with its
//! client, and what is sent to a client that is gone is dropped, as in Celery.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_broker::sync::lock;
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

/// What the store calls itself.
const URL: &str = "rpc://";

/// How many bytes of documents are kept. Celery keeps 8192 of them (`MESSAGE_BUFFER_MAX`), and who asks for an older one waits for
/// ever.
const KEPT: usize = 64 << 20;

/// What a document costs beside its texts.
const OVERHEAD: usize = 512;

/// Of how many documents it is known that they were dropped.
const DROPPED: usize = 100_000;

/// `result_expires`, in seconds.
const EXPIRES: f64 = 86_400.0;

/// How soon it is tried again to listen.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Opens the results of one client. The options are `broker` (its URL), `broker_options`, `reply_to` (the name of
/// the queue, a UUID unless given), `expires` (seconds), `persistent`, and `kept_bytes` (of results in memory).
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
    let kept = given.get("kept_bytes").and_then(Value::as_u64).map_or(KEPT, |bytes| bytes as usize);
    let persistent = given.get("persistent").and_then(Value::as_bool).unwrap_or(false);
    Ok(Arc::new(RpcStore {
        place: Arc::new(Place {
            transport,
            queue,
            waiters: Arc::default(),
            cache: Mutex::new(Cache::new(kept)),
            failure: Mutex::default(),
        }),
        delivery_mode: if persistent { 2 } else { 1 },
        listening: tokio::sync::Mutex::default(),
    }))
}

/// What came for one task: a document, or why there is none.
type Came = Result<TaskMeta>;

fn size(came: &Came) -> usize {
    OVERHEAD
        + came.as_ref().map_or(0, |meta| {
            let shown = meta.traceback.as_ref().map_or(0, String::len);
            2 * meta.task_id.len() + meta.result_json.len() + meta.children_json.len() + shown
        })
}

/// What came, by task id, and in which order.
struct Cache {
    kept: usize,
    bytes: usize,
    by_id: HashMap<String, Came>,
    order: VecDeque<String>,
    /// Ids whose documents had to go, the latest of them.
    dropped: HashSet<String>,
    dropped_order: VecDeque<String>,
}

impl Cache {
    fn new(kept: usize) -> Self {
        Self {
            kept,
            bytes: 0,
            by_id: HashMap::new(),
            order: VecDeque::new(),
            dropped: HashSet::new(),
            dropped_order: VecDeque::new(),
        }
    }

    /// A SUCCESS is final.
    fn put(&mut self, id: &str, came: Came) {
        if matches!(self.by_id.get(id), Some(Ok(known)) if known.status == "SUCCESS") {
            return;
        }
        self.bytes += size(&came);
        match self.by_id.insert(id.to_owned(), came) {
            None => self.order.push_back(id.to_owned()),
            Some(before) => self.bytes -= size(&before),
        }
        // The newest stays, however large it is.
        while self.bytes > self.kept && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else { return };
            self.bytes -= self.by_id.remove(&oldest).as_ref().map_or(0, size);
            self.drop(oldest);
        }
    }

    fn drop(&mut self, id: String) {
        if self.dropped.is_empty() {
            log::warn!("More than {} bytes of results have come; the oldest are dropped.", self.kept);
        }
        if self.dropped.insert(id.clone()) {
            self.dropped_order.push_back(id);
        }
        if self.dropped.len() > DROPPED
            && let Some(oldest) = self.dropped_order.pop_front()
        {
            self.dropped.remove(&oldest);
        }
    }

    fn get(&self, id: &str) -> Option<Came> {
        if self.dropped.contains(id) && !self.by_id.contains_key(id) {
            let reason = format!(
                "the result of task {id} came, and was dropped for newer ones before it was asked for"
            );
            return Some(Err(Error::Refused { url: URL.to_owned(), reason }));
        }
        self.by_id.get(id).cloned()
    }

    fn remove(&mut self, id: &str) {
        if let Some(came) = self.by_id.remove(id) {
            self.bytes -= size(&came);
            self.order.retain(|known| known != id);
        }
    }
}

struct Place {
    transport: Arc<dyn Transport>,
    queue: Queue,
    waiters: Arc<Waiters>,
    cache: Mutex<Cache>,
    /// Why no results come, where that does not end by itself.
    failure: Mutex<Option<Error>>,
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
        let mut is_told = false;
        loop {
            match consumer.receive(256).await {
                Ok(deliveries) if deliveries.is_empty() => return,
                Ok(deliveries) => {
                    is_told = false;
                    *lock(&self.failure) = None;
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
                    let is_new = !std::mem::replace(&mut is_told, true);
                    let level = if is_new { log::Level::Warn } else { log::Level::Debug };
                    log::log!(level, "Results do not come for now: {error}");
                    // Waiting does not make it right.
                    if !error.is_transient() {
                        self.waiters.fail_all(|| error.clone());
                    }
                    *lock(&self.failure) = (!error.is_transient()).then_some(error);
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    fn take(&self, delivery: &Delivery) {
        let Ok(message) = &delivery.message else { return };
        match read(message) {
            Ok(meta) => {
                lock(&self.cache).put(&meta.task_id, Ok(meta.clone()));
                if is_ready(&meta.status) {
                    self.waiters.resolve(&meta.task_id, &meta);
                }
            }
            // Whoever asks is told, however late.
            Err(error) => {
                let Some(id) = &message.properties.correlation_id else { return };
                let error = crate::of_task(id, None, error);
                lock(&self.cache).put(id, Err(error.clone()));
                self.waiters.fail(id, || error.clone());
            }
        }
    }
}

/// The document of a message; Celery's are JSON unless `result_serializer` says otherwise.
fn read(message: &Message) -> Result<TaskMeta> {
    let kind = message.content_type.as_str();
    if !["", "application/json"].contains(&kind) {
        return Err(Error::Decode {
            reason: format!("its content type is `{kind}`, and results are read as application/json only"),
        });
    }
    result_meta::decode(&message.body)
}

#[async_trait]
impl ResultStore for RpcStore {
    fn url(&self) -> &'static str {
        URL
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
        task_ids.iter().map(|id| cache.get(id).transpose()).collect()
    }

    async fn wait(&self, task_id: &str) -> Result<TaskMeta> {
        // In this order nothing that comes meanwhile is missed.
        let wait = self.place.waiters.begin(task_id)?;
        self.listen().await?;
        let known = lock(&self.place.cache).get(task_id).transpose()?;
        if let Some(meta) = known.filter(|meta| is_ready(&meta.status)) {
            return Ok(meta);
        }
        let failure = lock(&self.place.failure).clone();
        failure.map_or(Ok(()), Err)?;
        wait.finish().await
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
