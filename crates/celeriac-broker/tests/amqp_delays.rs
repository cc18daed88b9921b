//! Native delayed delivery: `RabbitMQ` itself holds messages until their time.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp_support;

use std::time::Instant;

use amqp_support::*;
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
