//! What the tests of `RabbitMQ` share.
// Each file of tests uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{Consumer, Transport, TransportOptions};
use celeriac_testkit::rabbitmq_server::RabbitMqServer;

pub use common::*;

/// How long anything that must happen may take, on a machine that has much else to do.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn open_with(url: &str, options: serde_json::Value) -> Arc<dyn Transport> {
    let serde_json::Value::Object(options) = options else { unreachable!("options are an object") };
    celeriac_broker::open(url, TransportOptions { options, ..TransportOptions::default() }).unwrap()
}

/// A name that no other test has.
pub fn fresh() -> String {
    format!("test.{}", uuid::Uuid::new_v4().simple())
}

/// A port on which nobody listens.
pub fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub async fn consume(transport: &Arc<dyn Transport>, queues: &[&str]) -> Arc<dyn Consumer> {
    consume_with_prefetch(transport, queues, 0).await
}

pub async fn consume_with_prefetch(
    transport: &Arc<dyn Transport>,
    queues: &[&str],
    prefetch: u32,
) -> Arc<dyn Consumer> {
    consume_with(transport, queues, prefetch, Duration::from_secs(60)).await
}

/// How many messages of a queue are held by consumers, as the broker says.
pub async fn unacknowledged(server: &RabbitMqServer, queue: &str) -> u64 {
    let listed = server.ctl(&["list_queues", "name", "messages_unacknowledged"]).await;
    let count = listed.lines().find_map(|line| line.strip_prefix(queue)?.trim().parse().ok());
    count.unwrap_or(u64::MAX)
}

/// The prefetch of each consumer of a queue, as the broker says.
pub async fn prefetch(server: &RabbitMqServer, queue: &str) -> Vec<u32> {
    let listed = server.ctl(&["list_consumers", "queue_name", "prefetch_count"]).await;
    listed.lines().filter_map(|line| line.strip_prefix(queue)?.trim().parse().ok()).collect()
}
