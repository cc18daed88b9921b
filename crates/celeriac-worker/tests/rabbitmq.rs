//! A worker on a real `RabbitMQ`: what its prefetch holds up and what not, and what becomes of it when the server dies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use celeriac_broker::{DelayQueues, Exchange, ExchangeType, Queue};
use celeriac_testkit::rabbitmq_server::RabbitMqServer;
use tokio::time::timeout;

use support::{Bench, PATIENCE, SUCCESS, next, outcome};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_wait_for_their_time_do_not_hold_up_those_that_could_run() {
    let server = RabbitMqServer::start().await;
    let bench = Bench::on(&server.url());
    let eta = |seconds: i64| {
        let moment = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        format!(r#"{{"eta": "{moment}"}}"#)
    };
    let later = eta(8);
    for number in 0..50 {
        bench.send(&format!("later-{number}"), Some(&later)).await;
    }
    bench.send("now", None).await;
    let worker = bench.worker(|options| (options.prefetch, options.concurrency) = (4, 2)).await;
    let items = next(&worker).await;
    assert_eq!((items.len(), &items[0][2]), (1, &"now".into()), "it is the last of the queue");
    worker.settle(outcome(&items[0], SUCCESS));
    // And each of the others runs once.
    let mut ran = HashSet::new();
    while ran.len() < 50 {
        for item in next(&worker).await {
            assert!(ran.insert(item[2].as_str().unwrap().to_owned()), "{item} runs once");
            worker.settle(outcome(&item, SUCCESS));
        }
    }
    for number in 0..50 {
        assert_eq!(bench.ready(&format!("later-{number}")).await.status, "SUCCESS");
    }
    worker.stop().await;
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_goes_on_after_the_server_was_killed_and_what_ran_runs_again() {
    let mut server = RabbitMqServer::start().await;
    let bench = Bench::on(&server.url());
    let worker = bench.worker(|options| options.max_deliveries = Some(5)).await;
    bench.send("a", None).await;
    let first = next(&worker).await.remove(0);
    server.kill();
    server.start_again().await;
    // Its end counts no more: it comes again, marked, and is counted.
    let again = next(&worker).await.remove(0);
    assert_eq!(again[0], "redelivered");
    worker.settle(outcome(&first, SUCCESS));
    let again = &again[1];
    assert_eq!(again[2], "a");
    let tag = again[0].as_u64().unwrap();
    let count = timeout(PATIENCE, worker.count(tag)).await.expect("it is counted in time");
    assert_eq!(count, 2);
    assert!(worker.begin_counted(tag, count));
    worker.settle(outcome(again, SUCCESS));
    assert_eq!(bench.ready("a").await.status, "SUCCESS");
    let sent = async {
        // The publishing connection was lost too.
        while bench.transport.declare(&[support::queue()]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bench.send("b", None).await;
    };
    timeout(PATIENCE, sent).await.expect("it can be sent in time");
    let item = next(&worker).await.remove(0);
    worker.settle(outcome(&item, SUCCESS));
    assert_eq!(bench.ready("b").await.status, "SUCCESS");
    worker.stop().await;
    worker.close().await.unwrap();
    // The queue that it listened with goes with its channel, a moment later.
    let left = async {
        loop {
            let listed = server.ctl(&["list_queues", "name", "messages"]).await;
            let mut queues: Vec<_> = listed.lines().map(str::to_owned).collect();
            queues.retain(|queue| !queue.starts_with("celeriac.dead"));
            if !queues.iter().any(|queue| queue.starts_with("celeriac.listener.")) {
                return queues;
            }
        }
    };
    let Ok(left) = timeout(PATIENCE, left).await else {
        let queues = server.ctl(&["list_queues", "name", "owner_pid", "consumers"]).await;
        let channels = server.ctl(&["list_channels", "connection", "consumer_count"]).await;
        let connections = server.ctl(&["list_connections", "pid", "channels"]).await;
        panic!("it listens still: {queues}\n{channels}\n{connections}");
    };
    assert_eq!(left, ["celery\t0"], "no count is left");
}

/// The queue `celery`, with delayed delivery.
fn delayed(kind: DelayQueues) -> Queue {
    let exchange =
        Exchange { name: "celery".to_owned(), kind: ExchangeType::Topic, durable: true, auto_delete: false };
    Queue { exchange, routing_key: "celery".to_owned(), delays: Some(kind), ..support::queue() }
}

/// What delayed delivery needs is there in another form; over another connection, since it is declared once on each.
async fn somebody_else_declares_it_otherwise(server: &RabbitMqServer) {
    let other = Bench::on(&server.url()).transport;
    other.declare(&[delayed(DelayQueues::Classic)]).await.unwrap();
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_the_broker_cannot_hold_is_held_by_a_worker_until_its_time() {
    let server = RabbitMqServer::start().await;
    let bench = Bench::on(&server.url());
    somebody_else_declares_it_otherwise(&server).await;
    for id in ["a", "b"] {
        bench.send(id, None).await;
    }
    let worker = bench.worker(|options| options.queues = vec![delayed(DelayQueues::Quorum)]).await;
    let mut first = Vec::new();
    while first.len() < 2 {
        first.extend(next(&worker).await);
    }
    let due = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    for item in &first {
        let id = item[2].as_str().unwrap();
        worker.settle(outcome(item, &bench.delayed_retry(id, delayed(DelayQueues::Quorum), 3)));
    }
    // They are with the worker, since neither RabbitMQ's queue of three seconds nor their own queue has them.
    let held = async {
        while !worker.stats().contains(r#""scheduled":2"#) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, held).await.is_ok(), "the worker holds both: {}", worker.stats());
    let mut again = Vec::new();
    while again.len() < 2 {
        again.extend(next(&worker).await);
    }
    assert!(jiff::Timestamp::now() >= due, "they come when they are due");
    for item in &again {
        assert_eq!(item[6]["retries"], 1, "{item}");
        worker.settle(outcome(item, SUCCESS));
    }
    for id in ["a", "b"] {
        assert_eq!(bench.ready(id).await.status, "SUCCESS");
    }
    worker.stop().await;
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_starts_where_delayed_delivery_cannot_be_declared() {
    let server = RabbitMqServer::start().await;
    let bench = Bench::on(&server.url());
    somebody_else_declares_it_otherwise(&server).await;
    bench.send("now", None).await;
    let kind = DelayQueues::Quorum;
    let worker = bench.worker(|options| options.queues = vec![delayed(kind)]).await;
    let items = next(&worker).await;
    assert_eq!(items[0][2], "now");
    worker.settle(outcome(&items[0], SUCCESS));
    assert_eq!(bench.ready("now").await.status, "SUCCESS");
    worker.stop().await;
    worker.close().await.unwrap();
}
