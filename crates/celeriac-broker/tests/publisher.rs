//! Batched publishing against a real server, also while it is away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::declare::Declarations;
use celeriac_broker::publisher::{Payload, Pending, Publisher, Report, RetryPolicy};
use celeriac_broker::{
    ConsumeOptions, ExchangeType, Outcome, Publication, Queue, Settlement, Transport, TransportOptions,
};
use celeriac_protocol::Message;
use celeriac_testkit::rabbitmq_server::RabbitMqServer;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

fn policy(retry: bool, max_retries: Option<u32>) -> Arc<RetryPolicy> {
    Arc::new(RetryPolicy {
        retry,
        max_retries,
        interval_start: Duration::ZERO,
        interval_step: Duration::from_millis(20),
        interval_max: Duration::from_millis(20),
    })
}

fn pending(call: u32, exchange: &str, policy: &Arc<RetryPolicy>) -> Pending {
    let message = Message {
        body: Bytes::from(call.to_string()),
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        headers: "{}".to_owned(),
        ..Message::default()
    };
    let publication = Publication {
        exchange: exchange.into(),
        exchange_type: ExchangeType::Direct,
        routing_key: "celery".into(),
        message,
    };
    Pending {
        call,
        payload: Payload::Message(Box::new(publication)),
        queue: None,
        policy: Arc::clone(policy),
    }
}

fn publisher(
    server: &RedisServer,
    seconds: u64,
) -> (Publisher, Arc<dyn Transport>, UnboundedReceiver<Report>) {
    publisher_on(&server.url(), seconds)
}

fn publisher_on(url: &str, seconds: u64) -> (Publisher, Arc<dyn Transport>, UnboundedReceiver<Report>) {
    let transport = celeriac_broker::open(url, TransportOptions::default()).unwrap();
    let (sender, receiver) = unbounded_channel();
    let publisher = Publisher::start(
        &tokio::runtime::Handle::current(),
        Arc::clone(&transport),
        Arc::new(Declarations::new(Arc::clone(&transport))),
        Duration::from_secs(seconds),
        move |report| drop(sender.send(report)),
    );
    (publisher, transport, receiver)
}

/// The outcomes of `count` calls: the number, and the code of its error.
async fn outcomes(
    receiver: &mut UnboundedReceiver<Report>,
    count: usize,
) -> Vec<(u32, Option<&'static str>)> {
    let mut all = Vec::new();
    while all.len() < count {
        let report = timeout(PATIENCE, receiver.recv()).await.expect("a report in time").unwrap();
        all.extend(report.done.into_iter().map(|call| (call, None)));
        all.extend(report.failed.into_iter().map(|(call, error)| (call, Some(error.code()))));
    }
    all
}

/// What the next report says of the call that failed.
async fn failure(receiver: &mut UnboundedReceiver<Report>) -> (&'static str, String) {
    let report = timeout(PATIENCE, receiver.recv()).await.expect("a report in time").unwrap();
    let (_, error) = &report.failed[0];
    (error.code(), error.to_string())
}

#[tokio::test]
async fn every_call_is_reported_once_and_the_queue_keeps_their_order() {
    let server = RedisServer::start().await;
    let (publisher, transport, mut receiver) = publisher(&server, 10);
    let policy = policy(true, None);
    for call in 0..2000 {
        publisher.publish(pending(call, "", &policy)).unwrap();
    }
    let all = outcomes(&mut receiver, 2000).await;
    assert!(all.iter().all(|(_, error)| error.is_none()));
    assert_eq!(all.iter().map(|(call, _)| *call).collect::<Vec<_>>(), (0..2000).collect::<Vec<_>>());
    assert_eq!(transport.queue_length("celery").await.unwrap(), 2000);
}

#[tokio::test]
async fn batches_keep_their_order_also_when_their_connection_is_closed() {
    const COUNT: u32 = 20_000;
    let server = RabbitMqServer::start().await;
    let (publisher, transport, mut receiver) = publisher_on(&server.url(), 60);
    let queue = Queue { name: "celery".to_owned(), durable: true, ..Queue::default() };
    transport.declare(std::slice::from_ref(&queue)).await.unwrap();
    let (queue, policy) = (Arc::new(queue), policy(true, None));
    for call in 0..COUNT {
        let mut pending = pending(call, "", &policy);
        if let Payload::Message(publication) = &mut pending.payload {
            publication.message.properties.delivery_mode = Some(2);
        }
        publisher.publish(Pending { queue: Some(Arc::clone(&queue)), ..pending }).unwrap();
    }
    let early = outcomes(&mut receiver, COUNT as usize / 10).await;
    server.ctl(&["close_all_connections", "for a test"]).await;
    let rest = outcomes(&mut receiver, COUNT as usize - early.len()).await;
    let mut told: Vec<u32> = early
        .into_iter()
        .chain(rest)
        .map(|(call, error)| (call, error.is_none()))
        .map(|(call, is_done)| {
            assert!(is_done, "{call}");
            call
        })
        .collect();
    told.sort_unstable();
    assert_eq!(told, (0..COUNT).collect::<Vec<_>>());
    // What was written without an answer is written again, with all that came after it.
    let options = ConsumeOptions {
        queues: vec![(*queue).clone()],
        prefetch: 1000,
        node: "node".to_owned(),
        lease: Duration::from_secs(60),
    };
    let consumer = transport.consume(options).await.unwrap();
    let (mut next, mut last) = (0, None);
    while next < COUNT {
        for delivery in timeout(PATIENCE, consumer.receive(1000)).await.expect("all of them").unwrap() {
            let body = delivery.message.unwrap().body;
            let number: u32 = std::str::from_utf8(&body).unwrap().parse().unwrap();
            assert!(number <= next, "{number} came before {next}");
            assert!(last.is_none_or(|last| number == last + 1 || number < last), "{number} after {last:?}");
            (next, last) = (next.max(number + 1), Some(number));
            let ack =
                Settlement { tag: delivery.tag, publish: Vec::new(), store: None, outcome: Outcome::Ack };
            consumer.settle(&[ack]).await.remove(0).unwrap();
        }
    }
    consumer.close().await.unwrap();
    publisher.close().await;
}

#[tokio::test]
async fn what_is_published_while_the_broker_is_away_arrives_when_it_is_back() {
    let mut server = RedisServer::start().await;
    let (publisher, transport, mut receiver) = publisher(&server, 30);
    let policy = policy(true, None);
    publisher.publish(pending(0, "", &policy)).unwrap();
    outcomes(&mut receiver, 1).await;
    transport.purge("celery").await.unwrap();
    server.kill();
    for call in 1..=100 {
        publisher.publish(pending(call, "", &policy)).unwrap();
    }
    server.start_again().await;
    let all = outcomes(&mut receiver, 100).await;
    assert!(all.iter().all(|(_, error)| error.is_none()), "{all:?}");
    // A write whose answer was lost is written again.
    assert!(transport.queue_length("celery").await.unwrap() >= 100);
}

#[tokio::test]
async fn a_publish_that_nobody_takes_in_time_fails_with_a_code_that_says_so() {
    let mut server = RedisServer::start().await;
    let (publisher, _transport, mut receiver) = publisher(&server, 1);
    server.kill();
    publisher.publish(pending(7, "", &policy(true, None))).unwrap();
    assert_eq!(outcomes(&mut receiver, 1).await, vec![(7, Some("ERR_CELERIAC_PUBLISH_TIMEOUT"))]);
}

#[tokio::test]
async fn without_retry_the_first_failure_counts() {
    let mut server = RedisServer::start().await;
    let (publisher, _transport, mut receiver) = publisher(&server, 30);
    server.kill();
    publisher.publish(pending(7, "", &policy(false, None))).unwrap();
    assert_eq!(outcomes(&mut receiver, 1).await, vec![(7, Some("ERR_CELERIAC_BROKER_UNAVAILABLE"))]);
    publisher.publish(pending(8, "", &policy(true, Some(2)))).unwrap();
    assert_eq!(outcomes(&mut receiver, 1).await, vec![(8, Some("ERR_CELERIAC_BROKER_UNAVAILABLE"))]);
}

#[tokio::test]
async fn a_message_that_no_queue_would_get_fails_and_holds_up_no_other() {
    let server = RedisServer::start().await;
    let (publisher, _transport, mut receiver) = publisher(&server, 30);
    let policy = policy(true, None);
    publisher.publish(pending(1, "nowhere", &policy)).unwrap();
    publisher.publish(pending(2, "", &policy)).unwrap();
    let mut all = outcomes(&mut receiver, 2).await;
    all.sort_unstable();
    assert_eq!(all, vec![(1, Some("ERR_CELERIAC_UNROUTABLE")), (2, None)]);
}

#[tokio::test]
async fn closing_settles_what_waits_and_takes_nothing_more() {
    let server = RedisServer::start().await;
    let (publisher, transport, mut receiver) = publisher(&server, 10);
    let policy = policy(true, None);
    for call in 0..700 {
        publisher.publish(pending(call, "", &policy)).unwrap();
    }
    timeout(PATIENCE, publisher.close()).await.expect("closing ends");
    assert_eq!(outcomes(&mut receiver, 700).await.len(), 700);
    assert_eq!(transport.queue_length("celery").await.unwrap(), 700);
    let refused = publisher.publish(pending(700, "", &policy)).unwrap_err();
    assert_eq!(refused.code(), "ERR_CELERIAC_CLOSED");
    timeout(PATIENCE, publisher.close()).await.expect("closing twice is fine");
}

#[tokio::test]
async fn a_publish_fails_with_what_the_server_said() {
    let server = RedisServer::start().await;
    let (publisher, _, mut reports) = publisher(&server, 1);
    let mut connection = server.connection().await;
    for (command, set, back, said) in [
        ("CONFIG", vec!["SET", "maxmemory", "1"], vec!["SET", "maxmemory", "0"], "OOM command not allowed"),
        ("REPLICAOF", vec!["127.0.0.1", "1"], vec!["NO", "ONE"], "READONLY You can't write"),
    ] {
        let () = redis::cmd(command).arg(set).query_async(&mut connection).await.unwrap();
        publisher.publish(pending(1, "", &policy(true, None))).unwrap();
        let (code, text) = failure(&mut reports).await;
        assert_eq!(code, "ERR_CELERIAC_PUBLISH_TIMEOUT", "{text}");
        assert!(text.contains(&format!("cannot do that now: it answered `{said}")), "{text}");
        let () = redis::cmd(command).arg(back).query_async(&mut connection).await.unwrap();
    }
    let asking = RedisServerOptions { password: Some("secret".to_owned()), ..RedisServerOptions::default() };
    let server = RedisServer::start_with(asking).await;
    let url = format!("redis://127.0.0.1:{}/0", server.port());
    let transport = celeriac_broker::open(&url, TransportOptions::default()).unwrap();
    let Payload::Message(publication) = pending(1, "", &policy(true, None)).payload else {
        panic!("it is a message")
    };
    let error = transport.publish(&[*publication]).await.remove(0).unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_AUTHENTICATION_FAILED", "{error}");
}

#[tokio::test]
async fn a_publish_fails_with_the_word_that_the_file_is_locked() {
    let folder = std::env::temp_dir().join(format!("celeriac-locked-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("broker.db");
    let url = format!("sqla+sqlite:///{}", path.display());
    let (publisher, transport, mut reports) = publisher_on(&url, 1);
    transport.connect().await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    publisher.publish(pending(1, "", &policy(true, None))).unwrap();
    let (_, text) = failure(&mut reports).await;
    assert!(text.contains("another process holds the lock on"), "{text}");
    other.execute_batch("COMMIT").unwrap();
    publisher.publish(pending(2, "", &policy(true, None))).unwrap();
    assert_eq!(outcomes(&mut reports, 1).await, [(2, None)]);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Sends calls one by one, each when the one before is there, until the publisher has a connection of its own for that.
async fn one_by_one(
    server: &RedisServer,
    publisher: &Publisher,
    receiver: &mut UnboundedReceiver<Report>,
) -> (u32, Vec<String>) {
    let mut connection = server.connection().await;
    let begin = connections(&mut connection).await;
    let policy = policy(true, None);
    for call in 0..1000 {
        publisher.publish(pending(call, "", &policy)).unwrap();
        assert_eq!(outcomes(receiver, 1).await, [(call, None)]);
        let now = connections(&mut connection).await;
        // One for what comes together, one for what comes alone.
        if now.len() == begin.len() + 2 {
            let last_write: Vec<String> = now.into_iter().filter(|id| !begin.contains(id)).collect();
            return (call + 1, last_write);
        }
    }
    panic!("the publisher has opened no connection for calls that come alone")
}

async fn connections(connection: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(connection).await.unwrap();
    list.lines().filter_map(|line| line.split(' ').next()?.strip_prefix("id=")).map(str::to_owned).collect()
}

/// The bodies in the queue, oldest first.
async fn bodies(server: &RedisServer) -> Vec<String> {
    let mut connection = server.connection().await;
    let raw: Vec<Vec<u8>> =
        redis::cmd("LRANGE").arg("celery").arg(0).arg(-1).query_async(&mut connection).await.unwrap();
    let body = |raw: &Vec<u8>| {
        let message = celeriac_protocol::envelope::decode(&Bytes::copy_from_slice(raw)).unwrap();
        String::from_utf8(message.body.to_vec()).unwrap()
    };
    raw.iter().rev().map(body).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn calls_that_come_alone_and_calls_that_come_together_keep_their_order() {
    let server = RedisServer::start().await;
    let (publisher, _transport, mut receiver) = publisher(&server, 10);
    let (mut next, _) = one_by_one(&server, &publisher, &mut receiver).await;
    let policy = policy(true, None);
    for size in [1, 1, 3, 1, 700, 1, 1, 2] {
        for call in next..next + size {
            publisher.publish(pending(call, "", &policy)).unwrap();
        }
        let all = outcomes(&mut receiver, size as usize).await;
        assert_eq!(all, (next..next + size).map(|call| (call, None)).collect::<Vec<_>>());
        next += size;
    }
    let together = (next..next + 5).map(|call| pending(call, "", &policy)).collect();
    publisher.publish_all(together).unwrap();
    outcomes(&mut receiver, 5).await;
    assert_eq!(bodies(&server).await, numbers(0..next + 5));
    publisher.publish(pending(next + 5, "", &policy)).unwrap();
    timeout(PATIENCE, publisher.close()).await.expect("closing ends");
    assert_eq!(outcomes(&mut receiver, 1).await, [(next + 5, None)]);
    assert_eq!(bodies(&server).await, numbers(0..next + 6));
}

#[tokio::test]
async fn calls_that_come_alone_arrive_when_their_connection_is_cut_or_the_server_is_restarted() {
    let mut server = RedisServer::start().await;
    let (publisher, transport, mut receiver) = publisher(&server, 30);
    let (next, ids) = one_by_one(&server, &publisher, &mut receiver).await;
    let mut connection = server.connection().await;
    for id in ids {
        let () =
            redis::cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async(&mut connection).await.unwrap();
    }
    let policy = policy(true, None);
    for call in next..next + 30 {
        publisher.publish(pending(call, "", &policy)).unwrap();
        assert_eq!(outcomes(&mut receiver, 1).await, [(call, None)]);
    }
    // What was written to the connection as it was cut may have been written again.
    let there = bodies(&server).await;
    assert_eq!(
        numbers(0..next + 30),
        there.iter().fold(Vec::new(), |mut seen, body| {
            if !seen.contains(body) {
                seen.push(body.clone());
            }
            seen
        })
    );
    server.kill();
    publisher.publish(pending(1, "", &policy)).unwrap();
    server.start_again().await;
    assert_eq!(outcomes(&mut receiver, 1).await, [(1, None)]);
    assert!(transport.queue_length("celery").await.unwrap() >= 1);
}

#[tokio::test]
async fn a_call_that_comes_alone_fails_in_time_when_the_server_is_silent() {
    let server = RedisServer::start().await;
    let (publisher, _transport, mut receiver) = publisher(&server, 1);
    one_by_one(&server, &publisher, &mut receiver).await;
    let mut connection = server.connection().await;
    let () = redis::cmd("CLIENT")
        .arg("PAUSE")
        .arg(600_000)
        .arg("WRITE")
        .query_async(&mut connection)
        .await
        .unwrap();
    publisher.publish(pending(7, "", &policy(true, None))).unwrap();
    assert_eq!(outcomes(&mut receiver, 1).await, [(7, Some("ERR_CELERIAC_PUBLISH_TIMEOUT"))]);
    let () = redis::cmd("CLIENT").arg("UNPAUSE").query_async(&mut connection).await.unwrap();
    publisher.publish(pending(8, "", &policy(true, None))).unwrap();
    assert_eq!(outcomes(&mut receiver, 1).await, [(8, None)]);
}

#[tokio::test]
async fn a_call_that_comes_alone_fails_with_what_the_server_said() {
    let server = RedisServer::start().await;
    let (publisher, _transport, mut receiver) = publisher(&server, 1);
    one_by_one(&server, &publisher, &mut receiver).await;
    let mut connection = server.connection().await;
    let () = redis::cmd("DEL").arg("celery").query_async(&mut connection).await.unwrap();
    let () = redis::cmd("SET").arg("celery").arg("no list").query_async(&mut connection).await.unwrap();
    publisher.publish(pending(7, "", &policy(true, None))).unwrap();
    let (code, text) = failure(&mut receiver).await;
    assert_eq!(code, "ERR_CELERIAC_REFUSED", "{text}");
    assert!(text.contains("WRONGTYPE"), "{text}");
}

#[tokio::test]
async fn a_long_message_that_comes_alone_arrives_whole() {
    let server = RedisServer::start().await;
    let (publisher, _transport, mut receiver) = publisher(&server, 10);
    let (next, _) = one_by_one(&server, &publisher, &mut receiver).await;
    let policy = policy(true, None);
    let mut bodies_sent = numbers(0..next);
    for (call, length) in (next..).zip([4000, 8000, 8500, 100_000, 3_000_000]) {
        let mut long = pending(call, "", &policy);
        let Payload::Message(publication) = &mut long.payload else { panic!("it is a message") };
        publication.message.body = Bytes::from("x".repeat(length));
        bodies_sent.push("x".repeat(length));
        publisher.publish(long).unwrap();
        assert_eq!(outcomes(&mut receiver, 1).await, [(call, None)]);
    }
    assert!(bodies(&server).await == bodies_sent, "a long message was changed");
}
