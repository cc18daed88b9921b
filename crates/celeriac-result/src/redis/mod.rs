//! Redis: Celery's documents under Celery's keys, and waiting by pub/sub.
//!
//! Source of the rules: `celery.backends.redis.RedisBackend`.

mod commands;
mod listener;
mod options;

use std::sync::{Arc, LazyLock, Mutex};

use ::redis::{Script, Value};
use async_trait::async_trait;
use bytes::Bytes;
use celeriac_broker::InlineStore;
use celeriac_broker::redis_result::{STORE_RESULT, lifetime_ms};
use celeriac_broker::redis_url::RedisUrl;
use celeriac_broker::sync::lock;
use celeriac_error::{Error, Result};
use celeriac_protocol::{TaskMeta, result_meta};
use tokio::task::JoinHandle;

use self::commands::{Commands, Operation};
use self::listener::Listener;
use self::options::Options;
use crate::registry::StoreOptions;
use crate::store::{ResultStore, StoreRequest};
use crate::waiters::Waiters;

pub(crate) const SCHEMES: &[&str] = &["redis", "rediss", "redis+socket"];

/// Documents per script. The server runs nothing else meanwhile.
const STORE_CHUNK: usize = 500;

/// Bytes of documents per script, unless a single one is larger.
const STORE_CHUNK_BYTES: usize = 8 << 20;

/// Keys per MGET or DEL.
const MGET_CHUNK: usize = 500;

/// The longest string that Redis keeps.
const LARGEST_DOCUMENT: usize = 512 << 20;

/// Stores a batch; for each document 1, 0, or why Redis refused it.
static STORE_BATCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{STORE_RESULT}
local outcomes = {{}}
for n, key in ipairs(KEYS) do
  local done, outcome = pcall(store_result, key, ARGV[2 * n - 1], ARGV[2 * n])
  if not done then outcome = type(outcome) == 'table' and outcome.err or tostring(outcome) end
  outcomes[n] = outcome
end
return outcomes"
    ))
});

/// Opens a store; nothing is connected yet.
pub(crate) fn open(url: &str, options: &StoreOptions) -> Result<Arc<dyn ResultStore>> {
    let url = Arc::new(RedisUrl::parse(url, &options.options)?);
    let Options { key_prefix, retry, connect_timeout, health_check } =
        Options::read(&url, options.connect_timeout)?;
    let client = url.client()?;
    let commands = Arc::new(Commands::new(Arc::clone(&url), client.clone(), connect_timeout)?);
    let waiters = Arc::new(Waiters::tracking());
    let keys = Arc::new(Keys(key_prefix));
    let listener = Listener {
        url: Arc::clone(&url),
        client,
        commands: Arc::clone(&commands),
        waiters: Arc::clone(&waiters),
        keys: Arc::clone(&keys),
        retry,
        connect_timeout,
        health_check,
    };
    let listening = Mutex::new(Listening::NotYet(Box::new(listener)));
    Ok(Arc::new(RedisStore { url, keys, commands, waiters, listening }))
}

/// Names the key, and the channel, of each task.
struct Keys(String);

impl Keys {
    fn key(&self, task_id: &str) -> String {
        format!("{}{task_id}", self.0)
    }

    fn of<'a>(&self, task_ids: impl Iterator<Item = &'a str>) -> Vec<String> {
        task_ids.map(|id| self.key(id)).collect()
    }

    fn task_id<'a>(&self, channel: &'a str) -> Option<&'a str> {
        channel.strip_prefix(&self.0)
    }
}

enum Listening {
    NotYet(Box<Listener>),
    Running(JoinHandle<()>),
    Ended,
}

struct RedisStore {
    url: Arc<RedisUrl>,
    keys: Arc<Keys>,
    commands: Arc<Commands>,
    waiters: Arc<Waiters>,
    listening: Mutex<Listening>,
}

#[async_trait]
impl ResultStore for RedisStore {
    fn url(&self) -> &str {
        self.url.masked()
    }

    async fn connect(&self) -> Result<()> {
        self.waiters.check_open()?;
        self.commands.run(Operation::Command(&::redis::cmd("PING"))).await
    }

    fn identity(&self) -> Option<String> {
        Some(self.url.identity())
    }

    fn inline(&self, request: &StoreRequest) -> Option<InlineStore> {
        let value = result_meta::encode(&request.meta);
        (value.len() <= LARGEST_DOCUMENT).then(|| InlineStore::Redis {
            database: self.url.database,
            key: self.keys.key(&request.meta.task_id),
            value,
            expires: request.expires,
        })
    }

    async fn store(&self, batch: &[StoreRequest]) -> Vec<Result<()>> {
        let documents: Vec<String> = batch.iter().map(|request| result_meta::encode(&request.meta)).collect();
        let mut results = Vec::with_capacity(batch.len());
        // One chunk after the other: two documents of one task are stored in their order.
        while results.len() < batch.len() {
            let start = results.len();
            if documents[start].len() > LARGEST_DOCUMENT {
                results.push(Err(too_large(&batch[start].meta.task_id)));
                continue;
            }
            let mut bytes = 0;
            let fitting = documents[start..].iter().take(STORE_CHUNK).take_while(|document| {
                bytes += document.len();
                bytes <= STORE_CHUNK_BYTES || bytes == document.len()
            });
            let end = start + fitting.count();
            results.extend(self.store_chunk(&batch[start..end], &documents[start..end]).await);
        }
        results
    }

    async fn get(&self, task_ids: &[&str]) -> Result<Vec<Option<TaskMeta>>> {
        self.waiters.check_open()?;
        let mut found = Vec::with_capacity(task_ids.len());
        for chunk in task_ids.chunks(MGET_CHUNK) {
            for (task_id, document) in
                chunk.iter().zip(read_documents(&self.commands, &self.keys, chunk).await?)
            {
                found.push(document.map(|document| decode(task_id, &document)).transpose()?);
            }
        }
        Ok(found)
    }

    async fn wait(&self, task_id: &str) -> Result<TaskMeta> {
        let wait = self.waiters.begin(task_id)?;
        self.listen();
        wait.finish().await
    }

    fn waiting(&self) -> usize {
        self.waiters.len()
    }

    async fn forget(&self, task_ids: &[&str]) -> Result<()> {
        self.waiters.check_open()?;
        for chunk in task_ids.chunks(MGET_CHUNK) {
            let keys = self.keys.of(chunk.iter().copied());
            self.commands.run::<()>(Operation::Command(::redis::cmd("DEL").arg(&keys))).await?;
        }
        Ok(())
    }

    async fn close(&self) {
        self.waiters.close();
        self.end_listening();
        self.commands.let_go();
    }
}

impl RedisStore {
    async fn store_chunk(&self, batch: &[StoreRequest], documents: &[String]) -> Vec<Result<()>> {
        match self.run_store(batch, documents).await {
            Ok(outcomes) => outcomes
                .into_iter()
                .map(|outcome| match outcome {
                    Value::Int(_) => Ok(()),
                    refused => {
                        let reason =
                            ::redis::from_redis_value(refused).unwrap_or_else(|error| error.to_string());
                        let url = self.url().to_owned();
                        // A full memory empties, a replica may become the master again: trying later helps.
                        let passes = ["OOM", "MISCONF", "READONLY", "NOREPLICAS", "BUSY", "LOADING"];
                        Err(if passes.iter().any(|code| reason.starts_with(code)) {
                            Error::ResultStoreNotReady { url, reason: format!("it answered `{reason}`") }
                        } else {
                            Error::Refused { url, reason }
                        })
                    }
                })
                .collect(),
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn run_store(&self, batch: &[StoreRequest], documents: &[String]) -> Result<Vec<Value>> {
        self.waiters.check_open()?;
        let mut invocation = STORE_BATCH.prepare_invoke();
        for (request, document) in batch.iter().zip(documents) {
            invocation
                .key(self.keys.key(&request.meta.task_id))
                .arg(document)
                .arg(lifetime_ms(request.expires));
        }
        let outcomes: Vec<Value> = self.commands.run(Operation::Script(&invocation)).await?;
        if outcomes.len() == batch.len() {
            return Ok(outcomes);
        }
        Err(Error::Internal(format!(
            "the store script answered {} times for {}",
            outcomes.len(),
            batch.len()
        )))
    }

    /// Starts the listener with the first wait, when a runtime is there to run it.
    fn listen(&self) {
        let mut listening = lock(&self.listening);
        if matches!(*listening, Listening::NotYet(_))
            && let Listening::NotYet(listener) = std::mem::replace(&mut *listening, Listening::Ended)
        {
            *listening = Listening::Running(tokio::spawn(listener.run()));
        }
    }

    fn end_listening(&self) {
        let mut listening = lock(&self.listening);
        if let Listening::Running(task) = std::mem::replace(&mut *listening, Listening::Ended) {
            task.abort();
        }
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.end_listening();
    }
}

/// The documents of up to [`MGET_CHUNK`] tasks, as they are stored.
async fn read_documents(commands: &Commands, keys: &Keys, task_ids: &[&str]) -> Result<Vec<Option<Bytes>>> {
    if task_ids.is_empty() {
        return Ok(Vec::new());
    }
    let keys = keys.of(task_ids.iter().copied());
    commands.run(Operation::Command(::redis::cmd("MGET").arg(&keys))).await
}

fn decode(task_id: &str, document: &[u8]) -> Result<TaskMeta> {
    result_meta::decode(document).map_err(|error| crate::of_task(task_id, None, error))
}

fn too_large(task_id: &str) -> Error {
    Error::InvalidArgument {
        what: format!("the result of task {task_id}"),
        reason:
            "it is larger than the 512 MB that Redis keeps under one key: store it elsewhere and return where"
                .to_owned(),
    }
}
