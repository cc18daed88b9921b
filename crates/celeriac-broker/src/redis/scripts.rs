//! The Lua scripts. What has to happen together or not at all happens in one of them.

use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs};

use super::malformed::MALFORMED;
use crate::redis_result::STORE_RESULT;

/// The function that puts a message into the dead list.
const BURY: &str = include_str!("bury.lua");

pub(super) static CLAIM: LazyLock<Script> = LazyLock::new(|| claiming(include_str!("claim.lua")));
pub(super) static WAKE: LazyLock<Script> = LazyLock::new(|| claiming(include_str!("wake.lua")));
pub(super) static SETTLE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{STORE_RESULT}{BURY}{}", include_str!("settle.lua"))));
pub(super) static BIND_LASTING: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("bind_lasting.lua")));
pub(super) static BEGIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("begin.lua")));
pub(super) static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));
pub(super) static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("beat.lua")));
pub(super) static EXPIRED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("expired.lua")));
pub(super) static RESTORE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{BURY}{}", include_str!("restore.lua"))));
pub(super) static REPLAY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("replay.lua")));
pub(super) static DROP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("drop.lua")));
pub(super) static ABANDONED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("abandoned.lua")));
pub(super) static RUNG: LazyLock<Script> = LazyLock::new(|| claiming(include_str!("rung.lua")));
pub(super) static RING: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("ring.lua")));
pub(super) static TURN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("turn.lua")));
pub(super) static FOUND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("found.lua")));
pub(super) static BIND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("bind.lua")));

fn claiming(source: &str) -> Script {
    Script::new(&format!("{BURY}{MALFORMED}{}{source}", include_str!("pop.lua")))
}

/// A script and the digest by which the server knows it.
pub(super) struct Script(redis::Script);

impl Script {
    fn new(source: &str) -> Self {
        Self(redis::Script::new(source))
    }

    /// The call with its keys; the arguments follow with [`Cmd::arg`].
    pub(super) fn call(&self, keys: &[impl ToRedisArgs]) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(self.0.get_hash()).arg(keys.len());
        for key in keys {
            call.arg(key);
        }
        call
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        call: &Cmd,
    ) -> RedisResult<T> {
        match call.query_async(connection).await {
            // The server was restarted, or somebody flushed its scripts.
            Err(error) if is_missing(&error) => {
                self.load(connection).await?;
                call.query_async(connection).await
            }
            outcome => outcome,
        }
    }

    pub(super) async fn load(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.0.load_async(connection).await.map(drop)
    }
}

/// Whether the server did not know a script.
pub(super) fn is_missing(error: &redis::RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
