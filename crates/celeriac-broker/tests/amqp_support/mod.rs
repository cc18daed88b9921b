//! What the tests of `RabbitMQ` share.
// Each file of tests uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{Consumer, Transport, TransportOptions};
use celeriac_testkit::rabbitmq_server::{RabbitMqServer, SharedRabbitMqServer};

pub use common::*;

/// How long anything that must happen may take, on a machine that has much else to do.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn open_with(url: &str, options: serde_json::Value) -> Arc<dyn Transport> {
    let serde_json::Value::Object(options) = options else { unreachable!("options are an object") };
    celeriac_broker::open(url, TransportOptions { options, ..TransportOptions::default() }).unwrap()
}

/// A server of its own, with these queues. It ends with what this gives first.
pub async fn own_server(queues: &[&str]) -> (RabbitMqServer, Arc<dyn Transport>) {
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    let queues: Vec<_> = queues.iter().map(|name| celery_queue(name)).collect();
    within(transport.declare(&queues)).await.unwrap();
    (server, transport)
}

/// A queue of its own on a server that others use too.
pub async fn shared_server() -> (Arc<SharedRabbitMqServer>, Arc<dyn Transport>, String) {
    let server = RabbitMqServer::shared().await;
    let (transport, queue) = (open(&server.url()), fresh());
    within(transport.declare(&[celery_queue(&queue)])).await.unwrap();
    (server, transport, queue)
}

/// The memory of the server is full, as it believes: it takes no messages.
pub async fn raise_alarm(server: &RabbitMqServer) {
    server.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
    until(|| async {
        server.ctl(&["eval", "rabbit_alarm:get_alarms()."]).await.contains("memory").then_some(())
    })
    .await;
}

/// It takes messages again.
pub async fn end_alarm(server: &RabbitMqServer) {
    server.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
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
