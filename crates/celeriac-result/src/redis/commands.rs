//! The one connection that carries the commands of a store: opened on use, replaced when it is lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation,
};
use celeriac_broker::redis_url::{RedisRole, RedisUrl};
use celeriac_error::{Error, Result};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

/// Runs commands. Cheap to share; all callers use one connection.
pub(super) struct Commands {
    url: Arc<RedisUrl>,
    client: Client,
    config: AsyncConnectionConfig,
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

struct Connected {
    connection: MultiplexedConnection,
    generation: u64,
    /// It was open before this call, so it may have been lost since.
    used: bool,
}

impl Commands {
    pub(super) fn new(url: Arc<RedisUrl>, client: Client, connect_timeout: Duration) -> Result<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_response_timeout(url.socket_timeout()?);
        Ok(Self { url, client, config, current: Mutex::default() })
    }

    /// Runs `operation` on the connection. When a connection that was open before turns out to be lost, it runs once
    /// more on a new one: every operation of a result store may be repeated.
    pub(super) async fn run<T: FromRedisValue>(&self, operation: Operation<'_>) -> Result<T> {
        loop {
            let mut connected = self.connect().await.map_err(|error| self.error(&error))?;
            match operation.run(&mut connected.connection).await {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let lost = error.is_unrecoverable_error() || error.is_connection_dropped();
                    if lost || error.is_timeout() {
                        self.discard(connected.generation);
                    }
                    if !(lost && connected.used) {
                        return Err(self.error(&error));
                    }
                }
            }
        }
    }

    /// Lets go of the connection; the next command opens another. What is being run on it still comes to its end.
    pub(super) fn let_go(&self) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).connecting = None;
    }

    fn error(&self, error: &RedisError) -> Error {
        self.url.error(RedisRole::ResultStore, error)
    }

    async fn connect(&self) -> RedisResult<Connected> {
        let (connecting, generation) = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.connecting.is_none() {
                current.generation += 1;
            }
            let connecting = current.connecting.get_or_insert_with(|| self.begin()).clone();
            (connecting, current.generation)
        };
        let used = connecting.peek().is_some();
        match connecting.await {
            Ok(connection) => Ok(Connected { connection, generation, used }),
            Err(error) => {
                self.discard(generation);
                Err(error)
            }
        }
    }

    /// In a task of its own, so that it goes on when the caller who began it is gone.
    fn begin(&self) -> Connecting {
        let (client, config) = (self.client.clone(), self.config.clone());
        let task =
            tokio::spawn(async move { client.get_multiplexed_async_connection_with_config(&config).await });
        async move {
            task.await.unwrap_or_else(|error| {
                Err(RedisError::from((ErrorKind::Io, "connecting was broken off", error.to_string())))
            })
        }
        .boxed()
        .shared()
    }

    fn discard(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation == generation {
            current.connecting = None;
        }
    }
}
