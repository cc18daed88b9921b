//! The first connection of a worker: tried again, or not, as the settings say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use celeriac_testkit::redis_server::RedisServer;
use celeriac_worker::Worker;
use support::{Bench, PATIENCE};
use tokio::time::timeout;

fn worker(url: &str, retry: bool, max_retries: Option<u32>) -> Worker {
    Bench::on(url).worker_to_start(|options| {
        options.control_exchange = None;
        options.connection_retry_on_startup = retry;
        options.connection_max_retries = max_retries;
    })
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

#[tokio::test]
async fn a_worker_waits_for_a_broker_that_is_there_and_not_ready() {
    let server = RedisServer::start().await;
    let mut connection = server.connection().await;
    let replica = |of: [&'static str; 2]| {
        let mut command = redis::cmd("REPLICAOF");
        command.arg(&of);
        command
    };
    let () = replica(["127.0.0.1", "1"]).query_async(&mut connection).await.unwrap();
    let error = timeout(PATIENCE, worker(&server.url(), false, None).start()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_BROKER_UNAVAILABLE");
    assert!(error.to_string().contains("cannot do that now: it answered `READONLY"), "{error}");
    let worker = worker(&server.url(), true, Some(100));
    let starting = tokio::spawn({
        let worker = worker.clone();
        async move { worker.start().await }
    });
    let () = replica(["NO", "ONE"]).query_async(&mut connection).await.unwrap();
    timeout(PATIENCE, starting).await.expect("it starts in time").unwrap().unwrap();
    worker.close().await.unwrap();
}
