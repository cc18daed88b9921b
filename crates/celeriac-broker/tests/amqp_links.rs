//! Links to `RabbitMQ` that are slow, cut or stopped up, and what is on its way over them.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp_support;

use std::sync::Arc;
use std::time::Duration;

use amqp_support::*;
use celeriac_broker::{Outcome, Publication, Settled, Settlement};
use celeriac_testkit::rabbitmq_server::RabbitMqServer;
use celeriac_testkit::tcp_proxy::{Mode, TcpProxy};

fn address(server: &RabbitMqServer) -> std::net::SocketAddr {
    ([127, 0, 0, 1], server.port()).into()
}

fn proxy_of(server: &RabbitMqServer) -> TcpProxy {
    TcpProxy::start(address(server)).unwrap()
}

fn url(proxy: &TcpProxy) -> String {
    format!("amqp://127.0.0.1:{}//", proxy.address().port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_came_again_while_it_was_settled_is_lost_to_whoever_had_it_before() {
    let server = RabbitMqServer::start().await;
    let proxy = proxy_of(&server);
    let transport = open_with(&server.url(), serde_json::json!({ "read_url": url(&proxy) }));
    within(transport.declare(&[celery_queue("q"), celery_queue("sent")])).await.unwrap();
    publish(&transport, &[to("q", "one")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let held = take_one(&consumer).await;
    // What it sends must be confirmed first, which takes as long as the alarm.
    raise_alarm(&server).await;
    let settling = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        let settlement = Settlement { publish: vec![to("sent", "two")], ..only(&held, Outcome::Ack) };
        async move { consumer.settle(&[settlement]).await.remove(0) }
    });
    until(|| async { server.ctl(&["list_connections", "state"]).await.contains("blocked").then_some(()) })
        .await;
    proxy.cut().await;
    let again = take_patiently(&consumer).await;
    assert!(!settling.is_finished(), "it is on its way still");
    end_alarm(&server).await;
    assert_eq!(within(settling).await.unwrap().unwrap(), Settled::Lost);
    assert_eq!(within(consumer.still_held(&[again.tag])).await.unwrap(), [true]);
    assert_eq!(unacknowledged(&server, "q").await, 1);
    settle(&consumer, &again, Outcome::Ack).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_that_cannot_be_written_end_with_their_connection_and_stop_nobody() {
    const COUNT: usize = 30_000;
    let server = RabbitMqServer::start().await;
    let proxy = TcpProxy::start_tight(address(&server)).unwrap();
    let (giving, transport) = (open(&server.url()), open(&url(&proxy)));
    within(giving.declare(&[celery_queue("q")])).await.unwrap();
    let batch: Vec<Publication> = (0..COUNT).map(|number| to("q", &number.to_string())).collect();
    publish(&giving, &batch).await;
    let consumer = consume(&transport, &["q"]).await;
    let held = take(&consumer, COUNT).await;
    proxy.set(Mode::Silence).await.unwrap();
    // All but the first: each has a frame of its own then, and all of them are more than the kernel and lapin take for a peer
    // that reads nothing.
    let batch: Vec<Settlement> = held.iter().skip(1).map(|delivery| only(delivery, Outcome::Ack)).collect();
    for settled in within(consumer.settle(&batch)).await {
        assert_eq!(settled.unwrap(), Settled::Lost);
    }
    proxy.set(Mode::Normal).await.unwrap();
    let again = take_patiently(&consumer).await;
    settle(&consumer, &again, Outcome::Ack).await;
    transport.close().await;
    giving.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_long_to_write_is_waited_for_while_the_broker_goes_on_confirming() {
    const COUNT: usize = 240;
    const SIZE: usize = 100_000;
    let server = RabbitMqServer::start().await;
    let proxy = proxy_of(&server);
    let transport = open(&url(&proxy));
    within(transport.declare(&[celery_queue("q")])).await.unwrap();
    let body = "x".repeat(SIZE);
    publish(&transport, &[to("q", &body)]).await;
    // All are on their way at once, for longer than a broker that confirms nothing is waited for.
    let rate = u32::try_from(COUNT * SIZE).unwrap() / 36;
    proxy.set(Mode::Narrow(rate)).await.unwrap();
    let batch: Vec<Publication> = (0..COUNT).map(|_| to("q", &body)).collect();
    publish(&transport, &batch).await;
    proxy.set(Mode::Normal).await.unwrap();
    // And each is there once.
    assert_eq!(within(transport.queue_length("q")).await.unwrap(), COUNT as u64 + 1);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_begins_of_many_tasks_are_counted_at_the_same_time() {
    const COUNT: usize = 20;
    let server = RabbitMqServer::start().await;
    let proxy = proxy_of(&server);
    let transport = open(&url(&proxy));
    within(transport.declare(&[celery_queue("q")])).await.unwrap();
    let batch: Vec<Publication> = (0..COUNT).map(|number| to("q", &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &["q"]).await;
    let held = take(&consumer, COUNT).await;
    let channels = || async { server.ctl(&["list_channels", "pid"]).await.lines().count() };
    let before = channels().await;
    // Each asks something of the broker over a channel of its own, and its answer takes long.
    let far = Mode::Delay { to_server: Duration::ZERO, to_client: Duration::from_secs(5) };
    proxy.set(far).await.unwrap();
    let beginning = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        let tags: Vec<_> = held.iter().map(|delivery| delivery.tag).collect();
        async move {
            let ids: Vec<String> = (0..COUNT).map(|number| format!("task-{number}")).collect();
            let batch: Vec<_> = tags.into_iter().zip(ids.iter().map(String::as_str)).collect();
            consumer.begin(&batch).await
        }
    });
    until(|| async { (channels().await >= before + COUNT).then_some(()) }).await;
    proxy.set(Mode::Normal).await.unwrap();
    assert_eq!(within(beginning).await.unwrap().unwrap(), [Some(2); COUNT]);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_comes_from_another_address_than_what_is_written_goes_to() {
    let server = RabbitMqServer::start().await;
    let (reading, writing) = (proxy_of(&server), proxy_of(&server));
    let transport = open_with(&url(&writing), serde_json::json!({ "read_url": url(&reading) }));
    within(transport.declare(&[celery_queue("q")])).await.unwrap();
    assert_eq!((reading.connections(), writing.connections()), (1, 0));
    publish(&transport, &[to("q", "one")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let delivery = take_one(&consumer).await;
    assert_eq!((reading.connections(), writing.connections()), (1, 1));
    // Each comes again by itself.
    reading.cut().await;
    assert_eq!(within(consumer.lost()).await, [delivery.tag]);
    assert_eq!(body(&take_patiently(&consumer).await), "one");
    writing.cut().await;
    until(|| async { transport.publish(&[to("q", "two")]).await.remove(0).ok() }).await;
    assert_eq!((reading.connections(), writing.connections()), (1, 1));
    transport.close().await;
}
