//! Native delayed delivery: `RabbitMQ` itself holds messages until their time.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_support::*;
use celeriac_broker::declare::Declarations;
use celeriac_broker::publisher::{Payload, Pending, Publisher, RetryPolicy};
use celeriac_broker::{DelayQueues, ExchangeType, Outcome, Queue, delay};
use celeriac_testkit::rabbitmq_server::RabbitMqServer;

fn delayed_queue(name: &str, kind: DelayQueues) -> Queue {
    let mut queue = celery_queue(name);
    queue.exchange.kind = ExchangeType::Topic;
    queue.delays = Some(kind);
    queue
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_message_comes_to_its_queue_when_its_time_has_come() {
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    within(transport.declare(&[delayed_queue("later", DelayQueues::Quorum), celery_queue("now")]))
        .await
        .unwrap();
    let consumer = consume(&transport, &["later", "now"]).await;
    let sent = Instant::now();
    let key = |seconds| delay::routing_key(seconds, "later");
    let through =
        |seconds: u32| through(&delay::entrance(), ExchangeType::Topic, &key(seconds), &seconds.to_string());
    publish(&transport, &[through(3), through(1), to("now", "0")]).await;
    for seconds in ["0", "1", "3"] {
        let delivery = take_one(&consumer).await;
        assert_eq!(body(&delivery), seconds);
        assert!(
            sent.elapsed().as_secs() >= seconds.parse().unwrap(),
            "{seconds} came after {:?}",
            sent.elapsed()
        );
        settle(&consumer, &delivery, Outcome::Ack).await;
    }
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_a_fanout_exchange_only_the_queues_own_key_leads_from_there() {
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    let mut queue = delayed_queue("all", DelayQueues::Quorum);
    queue.exchange.name = "everybody".to_owned();
    queue.exchange.kind = ExchangeType::Fanout;
    within(transport.declare(&[queue])).await.unwrap();
    let consumer = consume(&transport, &["all"]).await;
    let held = |seconds, key: &str, text: &str| {
        through(&delay::entrance(), ExchangeType::Topic, &delay::routing_key(seconds, key), text)
    };
    // The one that comes last shows that the others are not still to come.
    let sent = [
        held(1, "anything", "lost"),
        held(1, "all", "first"),
        held(2, "a.all", "second"),
        held(3, "all", "last"),
    ];
    publish(&transport, &sent).await;
    for text in ["first", "second", "last"] {
        let delivery = take_one(&consumer).await;
        assert_eq!(body(&delivery), text);
        settle(&consumer, &delivery, Outcome::Ack).await;
    }
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_declared_again_after_it_was_lost() {
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    within(transport.declare(&[delayed_queue("later", DelayQueues::Classic)])).await.unwrap();
    server.ctl(&["stop_app"]).await;
    server.ctl(&["force_reset"]).await;
    server.ctl(&["start_app"]).await;
    let through = through(&delay::entrance(), ExchangeType::Topic, &delay::routing_key(1, "later"), "1");
    until(|| async { transport.publish(std::slice::from_ref(&through)).await.remove(0).ok() }).await;
    let consumer = consume(&transport, &["later"]).await;
    assert_eq!(body(&take_one(&consumer).await), "1");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_another_type_are_refused_by_name() {
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    within(transport.declare(&[delayed_queue("later", DelayQueues::Classic)])).await.unwrap();
    let other = open(&server.url());
    let error = within(other.declare(&[delayed_queue("later", DelayQueues::Quorum)])).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_REFUSED");
    assert!(error.to_string().contains("queue `celery_delayed_0`"), "{error}");
    other.close().await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_held_is_sent_at_once_and_a_queue_that_is_refused_itself_fails_its_own() {
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    // One is there with an exchange that is not what it is to be.
    let declared = [delayed_queue("later", DelayQueues::Classic), celery_queue("other")];
    within(transport.declare(&declared)).await.unwrap();
    let consumer = consume(&transport, &["later"]).await;

    let client = open(&server.url());
    let (sender, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let publisher = Publisher::start(
        &tokio::runtime::Handle::current(),
        Arc::clone(&client),
        Arc::new(Declarations::new(Arc::clone(&client))),
        DEADLINE,
        move |report| drop(sender.send(report)),
    );
    let policy = Arc::new(RetryPolicy {
        retry: true,
        max_retries: None,
        interval_start: Duration::ZERO,
        interval_step: Duration::ZERO,
        interval_max: Duration::ZERO,
    });
    let pending = |call: u32, queue: &str| {
        let key = delay::routing_key(100_000, queue);
        let publication = through(&delay::entrance(), ExchangeType::Topic, &key, &call.to_string());
        Pending {
            call,
            payload: Payload::Message(Box::new(publication)),
            queue: Some(Arc::new(delayed_queue(queue, DelayQueues::Quorum))),
            policy: Arc::clone(&policy),
        }
    };
    let mut seen = BTreeMap::new();
    // Then one by one, to see that it is remembered.
    for calls in [vec![(1, "later"), (2, "other"), (3, "later")], vec![(4, "later")], vec![(5, "later")]] {
        let most = seen.len() + calls.len();
        publisher.publish_all(calls.iter().map(|(call, queue)| pending(*call, queue)).collect()).unwrap();
        while seen.len() < most {
            let report = within(reports.recv()).await.unwrap();
            seen.extend(report.done.into_iter().map(|call| (call, None)));
            seen.extend(report.failed.into_iter().map(|(call, error)| (call, Some(error.to_string()))));
        }
    }
    let refusal = seen.remove(&2).flatten().unwrap();
    assert!(refusal.contains("exchange `other` exists with other settings"), "{refusal}");
    assert_eq!(seen, BTreeMap::from([(1, None), (3, None), (4, None), (5, None)]));
    for text in ["1", "3", "4", "5"] {
        let delivery = take_one(&consumer).await;
        assert_eq!(body(&delivery), text);
        let info = &delivery.message.as_ref().unwrap().properties.delivery_info;
        assert_eq!((&*info.exchange, &*info.routing_key), ("later", "later"));
        settle(&consumer, &delivery, Outcome::Ack).await;
    }
    within(publisher.close()).await;
    client.close().await;
    transport.close().await;
}
