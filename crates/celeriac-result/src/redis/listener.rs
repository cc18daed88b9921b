//! Waiting on Redis: one connection that listens to the channel of every awaited id. Nothing is polled.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{PubSub, PubSubSink, PubSubStream};
use ::redis::{Client, ErrorKind, RedisError, RedisResult};
use celeriac_broker::redis_url::{RedisRole, RedisUrl};
use celeriac_protocol::result_meta::is_ready;
use futures_util::StreamExt;

use super::Keys;
use super::commands::Commands;
use super::options::RetryPolicy;
use crate::waiters::Waiters;

/// Ids per SUBSCRIBE or UNSUBSCRIBE.
const SUBSCRIBE_CHUNK: usize = 1000;

/// How long the server may take to answer a PING before the connection counts as lost.
const PING_LIMIT: Duration = Duration::from_secs(10);

/// Listens for the waits of one store, for as long as the store lives.
pub(super) struct Listener {
    pub(super) url: Arc<RedisUrl>,
    pub(super) client: Client,
    pub(super) commands: Arc<Commands>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) keys: Arc<Keys>,
    pub(super) retry: RetryPolicy,
    pub(super) connect_timeout: Duration,
    /// How often a connection on which nothing happens is tried.
    pub(super) health_check: Duration,
}

/// Nobody waits for a listener that is no more.
struct EndsWaits(Arc<Waiters>);

impl Drop for EndsWaits {
    fn drop(&mut self) {
        self.0.break_off("listener");
    }
}

impl Listener {
    /// Runs until it is aborted. Without waits no connection is opened; one that is open stays.
    pub(super) async fn run(self) {
        let _guard = EndsWaits(Arc::clone(&self.waiters));
        let mut failures = 0;
        loop {
            while self.waiters.len() == 0 {
                self.waiters.changed().await;
            }
            let mut heard = false;
            let lost = match self.connect().await {
                Ok(connection) => self.listen(connection, &mut heard).await,
                Err(error) => error,
            };
            if heard {
                failures = 0;
            }
            // Where one connection was lost without a word, the other most likely was too.
            self.commands.let_go();
            let error = self.url.error(RedisRole::ResultStore, &lost);
            if let Some(delay) = self.retry.delay(failures).filter(|_| error.is_transient()) {
                failures += 1;
                tokio::time::sleep(delay).await;
            } else {
                failures = 0;
                self.waiters.fail_all(|| error.clone());
            }
        }
    }

    async fn connect(&self) -> RedisResult<PubSub> {
        within(self.connect_timeout, "connecting", self.client.get_async_pubsub()).await
    }

    /// Listens until the connection is lost; says why it was. `heard` becomes true once the server has taken a
    /// subscription.
    async fn listen(&self, connection: PubSub, heard: &mut bool) -> RedisError {
        let (sink, stream) = connection.split();
        tokio::select! {
            error = self.hear(stream) => error,
            error = self.subscribe(sink, heard) => error,
        }
    }

    /// Ends waits as documents are published.
    async fn hear(&self, mut stream: PubSubStream) -> RedisError {
        while let Some(message) = stream.next().await {
            if let Some(task_id) = self.keys.task_id(message.get_channel_name()) {
                self.take(task_id, message.get_payload_bytes());
            }
        }
        RedisError::from((ErrorKind::Io, "the server closed the connection"))
    }

    /// Keeps the subscriptions in step with the waits. What gathers while the server answers goes out together.
    async fn subscribe(&self, mut sink: PubSubSink, heard: &mut bool) -> RedisError {
        // On a new connection everything that is awaited counts as new. In this order no id falls between.
        let mut changes = self.waiters.take_changes();
        changes.awaited = self.waiters.ids();
        let mut subscribed: HashSet<Arc<str>> = HashSet::new();
        loop {
            let released: Vec<Arc<str>> =
                changes.released.into_iter().filter(|id| subscribed.remove(id)).collect();
            let added: Vec<Arc<str>> =
                changes.awaited.iter().filter(|id| subscribed.insert(Arc::clone(id))).cloned().collect();
            if let Err(error) = self.send(&mut sink, &released, &added).await {
                return error;
            }
            *heard = true;
            // Only now, when whatever is published from here on is heard.
            if let Err(error) = self.read(&changes.awaited).await {
                return error;
            }
            changes = loop {
                if tokio::time::timeout(self.health_check, self.waiters.changed()).await.is_ok() {
                    break self.waiters.take_changes();
                }
                if let Err(error) = within(PING_LIMIT, "PING", sink.ping::<::redis::Value>()).await {
                    return error;
                }
            };
        }
    }

    async fn send(
        &self,
        sink: &mut PubSubSink,
        released: &[Arc<str>],
        added: &[Arc<str>],
    ) -> RedisResult<()> {
        let limit = self.connect_timeout.max(PING_LIMIT);
        for chunk in released.chunks(SUBSCRIBE_CHUNK) {
            let keys = self.keys.of(chunk.iter().map(AsRef::as_ref));
            within(limit, "UNSUBSCRIBE", sink.unsubscribe(keys)).await?;
        }
        for chunk in added.chunks(SUBSCRIBE_CHUNK) {
            let keys = self.keys.of(chunk.iter().map(AsRef::as_ref));
            within(limit, "SUBSCRIBE", sink.subscribe(keys)).await?;
        }
        Ok(())
    }

    /// Ends the waits whose documents are there already.
    async fn read(&self, awaited: &[Arc<str>]) -> RedisResult<()> {
        for chunk in awaited.chunks(super::MGET_CHUNK) {
            let ids: Vec<&str> =
                chunk.iter().map(AsRef::as_ref).filter(|id| self.waiters.awaits(id)).collect();
            let documents = super::read_documents(&self.commands, &self.keys, &ids).await;
            // The commands have a connection of their own: when it fails, this one is no better off.
            let documents = documents.map_err(|error| {
                RedisError::from((ErrorKind::Io, "reading what is awaited failed", error.to_string()))
            })?;
            for (id, document) in ids.iter().zip(documents) {
                if let Some(document) = document {
                    self.take(id, &document);
                }
            }
        }
        Ok(())
    }

    fn take(&self, task_id: &str, document: &[u8]) {
        if !self.waiters.awaits(task_id) {
            return;
        }
        match super::decode(task_id, document) {
            Ok(meta) if is_ready(&meta.status) => self.waiters.resolve(task_id, &meta),
            Ok(_) => {}
            Err(error) => self.waiters.fail(task_id, || error.clone()),
        }
    }
}

/// Bounds how long `what` may take.
pub(super) async fn within<T>(
    limit: Duration,
    what: &'static str,
    answer: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(result) => result,
        Err(_) => Err(RedisError::from((
            ErrorKind::Io,
            "no answer",
            format!("{what} took longer than {} s", limit.as_secs_f64()),
        ))),
    }
}
