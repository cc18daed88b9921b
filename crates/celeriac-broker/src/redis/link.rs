//! A connection that comes back by itself, and what Redis's errors mean.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use celeriac_error::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError};
use tokio::sync::{Mutex, watch};

use super::scripts::Script;
use super::settings::Settings;
use crate::redis_silence::Silence;
use crate::redis_url::{answered, server_answer};

/// After how long without any answer a connection is given up when a caller gives up. Whoever waits to the end has the
/// response time-out.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// One connection for many calls at once. Opened when it is first used; opened again by the next call after it broke.
pub(super) struct Link {
    settings: Arc<Settings>,
    state: Mutex<State>,
    silence: Silence,
    /// The last generation that was given up.
    given_up: AtomicU64,
    /// The last generation that broke.
    broken: watch::Sender<u64>,
}

/// A call on its way. A connection that is silent for ever ends with the response time-out, which callers who do not wait
/// for their answers never come to: each would hand it on to the next.
struct Call<'a> {
    link: &'a Link,
    number: u64,
    generation: u64,
    is_answered: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let silence = &self.link.silence;
        if self.is_answered {
            silence.answered(self.number);
        } else if silence.lasts() >= GIVEN_UP_AFTER {
            self.link.given_up.fetch_max(self.generation, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    generation: u64,
    /// So that many callers who wait for the same attempt share its failure instead of each trying in turn.
    failed: Option<(Instant, Meaning, String)>,
}

impl Link {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            state: Mutex::default(),
            silence: Silence::default(),
            given_up: AtomicU64::new(0),
            broken: watch::Sender::default(),
        }
    }

    /// The connection, for a call that begins now.
    async fn connection(&self) -> Result<(MultiplexedConnection, Call<'_>)> {
        let (connection, generation) = self.opened().await?;
        Ok((connection, Call { link: self, number: self.silence.begin(), generation, is_answered: false }))
    }

    /// Lets the connection go; calls that are under way keep it until they are answered.
    pub(super) async fn close(&self) {
        self.state.lock().await.connection = None;
    }

    async fn opened(&self) -> Result<(MultiplexedConnection, u64)> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection
            && state.generation > self.given_up.load(Ordering::Relaxed)
        {
            return Ok((connection.clone(), state.generation));
        }
        if let Some((when, meaning, reason)) = &state.failed
            && *when >= asked
        {
            return Err(meaning.error(&self.settings.url, reason.clone()));
        }
        match connect(&self.settings, Some(self.settings.response_timeout)).await {
            Ok(connection) => {
                state.failed = None;
                state.generation += 1;
                state.connection = Some(connection.clone());
                self.silence.end();
                Ok((connection, state.generation))
            }
            Err(error) => {
                let (meaning, reason) = Meaning::of(&error);
                state.failed = Some((Instant::now(), meaning, reason.clone()));
                Err(meaning.error(&self.settings.url, reason))
            }
        }
    }

    async fn done<T>(&self, mut call: Call<'_>, outcome: redis::RedisResult<T>) -> Result<T> {
        call.is_answered = true;
        let generation = call.generation;
        drop(call);
        let error = match outcome {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if breaks_connection(&error) {
            let mut state = self.state.lock().await;
            if state.generation == generation {
                state.connection = None;
            }
            drop(state);
            self.broken.send_modify(|last| *last = generation.max(*last));
        }
        Err(explain(&self.settings.url, &error))
    }

    /// Waits for an answer, but not after another call has found that the connection is broken: answers come in the order
    /// of the calls, so this one would only find the same, its own time-out later.
    async fn answer<T>(
        &self,
        call: &Call<'_>,
        query: impl Future<Output = redis::RedisResult<T>>,
    ) -> redis::RedisResult<T> {
        let mut broken = self.broken.subscribe();
        tokio::select! {
            biased;
            outcome = query => outcome,
            _ = broken.wait_for(|last| *last >= call.generation) => {
                Err(io::Error::new(io::ErrorKind::ConnectionReset, "its connection was given up").into())
            }
        }
    }

    /// Opens the connection where there is none. When this fails nothing was sent.
    pub(super) async fn open(&self) -> Result<()> {
        self.opened().await.map(drop)
    }

    /// Sends one command, which may be sent twice: a connection that broke while it was idle is noticed by the next
    /// command only, and that is no reason to report a failure.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let (mut connection, call) = self.connection().await?;
        match self.answer(&call, command.query_async(&mut connection)).await {
            Err(error) if error.is_connection_dropped() => {
                let _ = self.done::<()>(call, Err(error)).await;
                let (mut connection, call) = self.connection().await?;
                let outcome = self.answer(&call, command.query_async(&mut connection)).await;
                self.done(call, outcome).await
            }
            outcome => self.done(call, outcome).await,
        }
    }

    /// Sends several commands in one write, which may be sent twice, as [`command`](Self::command) does.
    pub(super) async fn commands<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T> {
        let (mut connection, call) = self.connection().await?;
        match self.answer(&call, pipeline.query_async(&mut connection)).await {
            Err(error) if error.is_connection_dropped() => {
                let _ = self.done::<()>(call, Err(error)).await;
                self.commands_once(pipeline).await
            }
            outcome => self.done(call, outcome).await,
        }
    }

    /// Sends several commands in one write, once.
    pub(super) async fn commands_once<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T> {
        let (mut connection, call) = self.connection().await?;
        let outcome = self.answer(&call, pipeline.query_async(&mut connection)).await;
        self.done(call, outcome).await
    }

    /// Runs a script; `invocation` came from [`Script::call`]. Loads it where the server does not know it (any more).
    pub(super) async fn script<T: FromRedisValue>(&self, script: &Script, invocation: &Cmd) -> Result<T> {
        let (mut connection, call) = self.connection().await?;
        let outcome = self.answer(&call, script.run(&mut connection, invocation)).await;
        self.done(call, outcome).await
    }
}

/// Opens a connection of one's own. Without `response_timeout` it may block, and its user must watch over it.
pub(super) async fn connect(
    settings: &Settings,
    response_timeout: Option<Duration>,
) -> redis::RedisResult<MultiplexedConnection> {
    // redis-rs gives up on an answer after 500 ms unless told otherwise.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(response_timeout);
    let connecting = settings.client.get_multiplexed_async_connection_with_config(&config);
    limited(settings.connect_timeout, connecting).await
}

/// Bounds what redis-rs does not: the login is answered within its response time-out, and there may be none.
pub(super) async fn limited<T>(
    limit: Duration,
    future: impl Future<Output = redis::RedisResult<T>>,
) -> redis::RedisResult<T> {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}")).into())
    })
}

/// Whether the connection cannot be used after this.
pub(super) fn breaks_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// Our error for one of redis-rs's.
pub(super) fn explain(url: &str, error: &RedisError) -> Error {
    let (meaning, reason) = Meaning::of(error);
    meaning.error(url, reason)
}

/// Our error for one that a script or a pipeline gave as text.
pub(super) fn explain_text(url: &str, text: &str) -> Error {
    Meaning::of_answer(text).error(url, text.to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The credentials are wrong.
    Credentials,
    /// It cannot be reached.
    Away,
    /// It answered that it cannot do this at the moment.
    NotNow,
    /// It will not work.
    Never,
}

impl Meaning {
    /// With the reason in the server's own words, where it gave one.
    fn of(error: &RedisError) -> (Self, String) {
        if let Some(answer) = server_answer(error) {
            return (Self::of_answer(&answer), answer);
        }
        let meaning = match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Credentials,
            ErrorKind::Io => Self::Away,
            _ if breaks_connection(error) => Self::Away,
            _ => Self::Never,
        };
        (meaning, error.to_string())
    }

    fn of_answer(text: &str) -> Self {
        match text.split(' ').next().unwrap_or_default() {
            "NOAUTH" | "WRONGPASS" => Self::Credentials,
            // Before ACLs.
            "ERR" if text.contains("invalid password") || text.contains("without any password") => {
                Self::Credentials
            }
            // A full memory empties when somebody consumes; a replica may become the master again.
            "OOM" | "MISCONF" | "READONLY" | "NOREPLICAS" | "BUSY" | "LOADING" | "MASTERDOWN"
            | "TRYAGAIN" | "CLUSTERDOWN" | "UNBLOCKED" | "NOSCRIPT" => Self::NotNow,
            "ERR" if text.contains("max number of clients") => Self::NotNow,
            _ => Self::Never,
        }
    }

    fn error(self, url: &str, reason: String) -> Error {
        let url = url.to_owned();
        match self {
            Self::Credentials => Error::AuthenticationFailed { url, reason },
            Self::Away => Error::BrokerUnavailable { url, reason },
            Self::NotNow => Error::BrokerNotReady { url, reason: answered(&reason) },
            Self::Never => Error::Refused { url, reason },
        }
    }
}
