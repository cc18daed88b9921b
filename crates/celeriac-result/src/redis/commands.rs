//! The one connection that carries the commands of a store: opened on use, replaced when it is lost.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation,
};
use celeriac_broker::redis_silence::Silence;
use celeriac_broker::redis_url::{RedisRole, RedisUrl};
use celeriac_broker::sync::lock;
use celeriac_error::{Error, Result};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::watch;

use super::listener::within;

/// After how long without any answer the server is asked whether it still knows the connection.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// How long an operation that finds a silence may be unanswered before it asks.
const MOMENT: Duration = Duration::from_millis(500);

/// How long nothing may have passed on a connection, as the server sees it, for it to be in use: a large document takes
/// its time.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

type Connecting = Shared<BoxFuture<'static, RedisResult<Arc<Open>>>>;

/// Runs commands. Cheap to share; all callers use one connection.
pub(super) struct Commands {
    url: Arc<RedisUrl>,
    client: Client,
    config: AsyncConnectionConfig,
    connect_timeout: Duration,
    /// `redis_socket_timeout`.
    answer_timeout: Option<Duration>,
    current: Mutex<Current>,
}

/// What can be run.
#[derive(Clone, Copy)]
pub(super) enum Operation<'a> {
    Command(&'a Cmd),
    Script(&'a ScriptInvocation<'a>),
}

impl Operation<'_> {
    async fn run<T: FromRedisValue>(self, connection: &mut MultiplexedConnection) -> RedisResult<T> {
        match self {
            Self::Command(command) => command.query_async(connection).await,
            Self::Script(script) => script.invoke_async(connection).await,
        }
    }
}

#[derive(Default)]
struct Current {
    generation: u64,
    connecting: Option<Connecting>,
}

/// A connection.
struct Open {
    connection: MultiplexedConnection,
    /// `None` where the server does not tell, as some that stand before a Redis.
    name: Option<Name>,
    silence: Silence,
    /// When the server was asked whether it knows the connection. One asks at a time.
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// Nothing that was sent and not answered will be.
    is_dead: watch::Sender<bool>,
}

/// What the server calls a connection. The address too, since another server in the place of this one counts from one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    id: u64,
    address: String,
}

impl Name {
    /// From a line of `CLIENT INFO` or `CLIENT LIST`.
    fn read(line: &str) -> Option<Self> {
        Some(Self { id: field(line, "id")?.parse().ok()?, address: field(line, "addr")?.to_owned() })
    }
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

struct Connected {
    open: Arc<Open>,
    generation: u64,
    /// It was open before this call, so it may have been lost since.
    used: bool,
}

impl Open {
    async fn new(client: &Client, config: &AsyncConnectionConfig) -> RedisResult<Arc<Self>> {
        let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
        let info = ::redis::cmd("CLIENT").arg("INFO").query_async::<String>(&mut connection).await;
        let name = match info {
            Ok(line) => Name::read(&line),
            Err(error) if is_lost(&error) || error.is_timeout() => return Err(error),
            Err(_) => None,
        };
        let (silence, asked) = (Silence::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { connection, name, silence, asked, is_dead: watch::Sender::default() }))
    }
}

impl Commands {
    pub(super) fn new(url: Arc<RedisUrl>, client: Client, connect_timeout: Duration) -> Result<Self> {
        let answer_timeout = url.socket_timeout()?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_response_timeout(answer_timeout);
        Ok(Self { url, client, config, connect_timeout, answer_timeout, current: Mutex::default() })
    }

    /// Runs `operation` on the connection. When a connection that was open before turns out to be lost, or a silent one to
    /// be dead, it runs once more on a new one: every operation of a result store may be repeated.
    pub(super) async fn run<T: FromRedisValue>(&self, operation: Operation<'_>) -> Result<T> {
        let begun = Instant::now();
        loop {
            let connected = self.connect().await.map_err(|error| self.error(&error))?;
            match self.attempt(&connected.open, operation).await {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => {
                    let lost = is_lost(&error);
                    if lost || error.is_timeout() {
                        self.discard(connected.generation);
                    }
                    if !(lost && connected.used) {
                        return Err(self.error(&error));
                    }
                }
                None => {
                    self.discard(connected.generation);
                    if let Some(limit) = self.answer_timeout.filter(|limit| begun.elapsed() >= *limit) {
                        return Err(self.url.timed_out(RedisRole::ResultStore, "the answer", limit));
                    }
                }
            }
        }
    }

    /// `None` when the connection is dead: the operation was not run, or its answer will not come.
    async fn attempt<T: FromRedisValue>(
        &self,
        open: &Open,
        operation: Operation<'_>,
    ) -> Option<RedisResult<T>> {
        let call = open.silence.begin();
        let mut connection = open.connection.clone();
        let mut is_dead = open.is_dead.subscribe();
        tokio::select! {
            biased;
            outcome = operation.run(&mut connection) => {
                if !matches!(&outcome, Err(error) if error.is_timeout()) {
                    open.silence.answered(call);
                }
                Some(outcome)
            }
            _ = is_dead.wait_for(|is_dead| *is_dead) => None,
            () = self.watch(open) => None,
        }
    }

    /// Comes to its end when the connection is dead.
    ///
    /// One that is silent may be at work: on a large document, or the server has other things to do. So the server is
    /// asked on another connection when anything passed on this one. Where nothing did, it closes its side: what was sent
    /// and is still on its way is not run after what is run later.
    async fn watch(&self, open: &Open) {
        let Some(name) = &open.name else { return std::future::pending().await };
        let mut wait = MOMENT;
        loop {
            tokio::time::sleep(wait).await;
            wait = SILENCE_LIMIT.saturating_sub(open.silence.lasts());
            if !wait.is_zero() {
                continue;
            }
            let mut asked = open.asked.lock().await;
            if let Some(asked) = *asked {
                wait = SILENCE_LIMIT.saturating_sub(asked.elapsed());
                if !wait.is_zero() {
                    continue;
                }
            }
            // A server that does not answer now may be busy or away; then there is nothing to be gained.
            let answered =
                within(self.connect_timeout.max(SILENCE_LIMIT), "CLIENT", self.end_idle(name)).await;
            *asked = Some(Instant::now());
            if answered.unwrap_or(false) {
                open.is_dead.send_replace(true);
                return;
            }
            wait = SILENCE_LIMIT;
        }
    }

    /// Has the server end a connection on which nothing passes; says whether it is gone now.
    async fn end_idle(&self, name: &Name) -> RedisResult<bool> {
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&self.config).await?;
        let mut list = ::redis::cmd("CLIENT");
        list.arg("LIST").arg("ID").arg(name.id);
        let listed: String = list.query_async(&mut connection).await?;
        let Some(line) = listed.lines().find(|line| Name::read(line).as_ref() == Some(name)) else {
            return Ok(true);
        };
        let idle = field(line, "idle").and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        if Duration::from_secs(idle) < IDLE_LIMIT {
            return Ok(false);
        }
        let mut kill = ::redis::cmd("CLIENT");
        kill.arg("KILL").arg("ID").arg(name.id).arg("ADDR").arg(&name.address);
        kill.query_async::<u64>(&mut connection).await.map(|_| true)
    }

    /// Lets go of the connection; the next command opens another. What is being run on it still comes to its end.
    pub(super) fn let_go(&self) {
        lock(&self.current).connecting = None;
    }

    fn error(&self, error: &RedisError) -> Error {
        self.url.error(RedisRole::ResultStore, error)
    }

    async fn connect(&self) -> RedisResult<Connected> {
        let (connecting, generation) = {
            let mut current = lock(&self.current);
            if current.connecting.is_none() {
                current.generation += 1;
            }
            let connecting = current.connecting.get_or_insert_with(|| self.begin()).clone();
            (connecting, current.generation)
        };
        let used = connecting.peek().is_some();
        match connecting.await {
            Ok(open) => Ok(Connected { open, generation, used }),
            Err(error) => {
                self.discard(generation);
                Err(error)
            }
        }
    }

    /// In a task of its own, so that it goes on when the caller who began it is gone.
    fn begin(&self) -> Connecting {
        let (client, config) = (self.client.clone(), self.config.clone());
        let limit = self.connect_timeout;
        // redis-rs lets the login take as long as any answer.
        let task =
            tokio::spawn(async move { within(limit, "connecting", Open::new(&client, &config)).await });
        async move {
            task.await.unwrap_or_else(|error| {
                Err(RedisError::from((ErrorKind::Io, "connecting was broken off", error.to_string())))
            })
        }
        .boxed()
        .shared()
    }

    fn discard(&self, generation: u64) {
        let mut current = lock(&self.current);
        if current.generation == generation {
            current.connecting = None;
        }
    }
}

fn is_lost(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_connection_dropped()
}
