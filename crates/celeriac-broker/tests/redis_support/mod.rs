//! What the tests of single transports share.
// Each file of tests uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
pub mod relay;

use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{Consumer, Transport};

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
