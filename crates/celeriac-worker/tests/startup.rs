//! The first connection of a worker: tried again, or not, as the settings say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::declare::Declarations;
use celeriac_broker::producer::Producer;
use celeriac_broker::publisher::Publisher;
use celeriac_broker::{Queue, TransportOptions};
use celeriac_testkit::redis_server::RedisServer;
use celeriac_worker::{Worker, WorkerOptions};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

fn worker(url: &str, retry: bool, max_retries: Option<u32>) -> Worker {
    let transport = celeriac_broker::open(url, TransportOptions::default()).unwrap();
    let declarations = Arc::new(Declarations::new(Arc::clone(&transport)));
    let publisher = Publisher::start(
        &tokio::runtime::Handle::current(),
        Arc::clone(&transport),
        Arc::clone(&declarations),
        Duration::from_secs(5),
        |_| {},
    );
    let options = WorkerOptions {
        hostname: "celery@test".to_owned(),
        pid: 1,
        queues: vec![Queue { name: "celery".to_owned(), durable: true, ..Queue::default() }],
        tasks: HashMap::new(),
        concurrency: 1,
        prefetch: 4,
        eta_task_limit: None,
        lease: Duration::from_secs(30),
        patience: celeriac_worker::PATIENCE,
        lease_max_hold: None,
        max_deliveries: None,
        unknown_task_requeues: 0,
        accept_content: vec!["application/json".to_owned()],
        result_expires: None,
        result_extended: false,
        control_exchange: None,
        connection_retry: true,
        connection_retry_on_startup: retry,
        connection_max_retries: max_retries,
    };
    Worker::new(options, transport, None, Arc::new(Producer::new(publisher)), declarations)
}

#[tokio::test]
async fn a_worker_waits_for_its_broker() {
    let mut server = RedisServer::start().await;
    server.kill();
    let worker = worker(&server.url(), true, Some(100));
    let starting = tokio::spawn({
        let worker = worker.clone();
        async move { worker.start().await }
    });
    server.start_again().await;
    timeout(PATIENCE, starting).await.expect("it starts in time").unwrap().unwrap();
    worker.close().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_may_not_wait_ends_with_the_reason() {
    let mut server = RedisServer::start().await;
    server.kill();
    for (retry, max_retries) in [(false, None), (true, Some(0))] {
        let worker = worker(&server.url(), retry, max_retries);
        let error = timeout(PATIENCE, worker.start()).await.expect("it ends in time").unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_BROKER_UNAVAILABLE");
    }
}
