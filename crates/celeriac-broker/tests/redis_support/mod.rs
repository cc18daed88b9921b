//! What the tests of single transports share.
// Each file of tests uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
pub mod relay;
pub mod stoppable;

use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{Consumer, Transport};
use celeriac_testkit::redis_server::RedisServer;
use redis::AsyncCommands;

pub use common::*;

/// Longer than a test.
pub const LEASE: Duration = Duration::from_secs(60);

/// How long anything that must happen may take, on a machine that has much else to do.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub async fn consume(transport: &Arc<dyn Transport>, queues: &[&str]) -> Arc<dyn Consumer> {
    consume_with_lease(transport, queues, LEASE).await
}

pub async fn consume_with_lease(
    transport: &Arc<dyn Transport>,
    queues: &[&str],
    lease: Duration,
) -> Arc<dyn Consumer> {
    consume_with(transport, queues, 0, lease).await
}

/// What a connection is refused with, which shows no password.
pub async fn code_of(transport: &Arc<dyn Transport>) -> &'static str {
    let error = within(transport.connect()).await.unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    error.code()
}

/// Nothing of ours is left where it is held.
pub async fn holds_nothing(server: &RedisServer) {
    let mut connection = server.connection().await;
    for key in ["unacked", "unacked_index", "celeriac.leases"] {
        assert!(!connection.exists::<_, bool>(key).await.unwrap(), "{key}");
    }
}
