//! The transport contract on `memory://`, and what is special about it.

mod support;

use std::time::Duration;

use celeriac_broker::{ExchangeType, Outcome, Settlement};
use support::{body, consume, exchange, open, publish, queue, take, through, to, within};

celeriac_testkit::transport_contract!(contract, async { ("memory://contract".to_owned(), ()) });

const LEASE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_name_tells_brokers_apart() {
    let (one, same, other) = (open("memory://one"), open("memory://one/"), open("memory://other"));
    publish(&one, &[to("names", "here")]).await;
    assert_eq!(within(same.queue_length("names")).await.unwrap(), 1);
    assert_eq!(within(other.queue_length("names")).await.unwrap(), 0);
}

#[tokio::test]
async fn messages_outlive_the_transport_that_published_them() {
    let transport = open("memory://outlive");
    publish(&transport, &[to("q", "still here")]).await;
    transport.close().await;
    drop(transport);
    let consumer = consume(&open("memory://outlive"), &["q"], LEASE).await;
    assert_eq!(body(&take(&consumer, 1).await[0]), "still here");
}

#[tokio::test]
async fn a_listener_on_a_topic_exchange_hears_what_its_keys_match() {
    let transport = open("memory://topics");
    let events = exchange("events", ExchangeType::Topic);
    let mut listener = transport.subscribe(&events, &["task.#".to_owned()]).await.unwrap();
    let refused = transport.publish(&[through("events", ExchangeType::Topic, "worker.online", "no")]).await;
    assert_eq!(refused[0].as_ref().unwrap_err().code(), "ERR_CELERIAC_UNROUTABLE");
    publish(&transport, &[through("events", ExchangeType::Topic, "task.sent", "yes")]).await;
    assert_eq!(within(listener.next()).await.unwrap().body, "yes");
}

#[tokio::test]
async fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let transport = open("memory://auto-delete");
    let mut broadcast = queue("broadcast");
    broadcast.exchange = exchange("all", ExchangeType::Fanout);
    broadcast.auto_delete = true;
    transport.declare(&[broadcast]).await.unwrap();
    let (first, second) =
        (consume(&transport, &["broadcast"], LEASE).await, consume(&transport, &["broadcast"], LEASE).await);
    let send = || async { publish(&transport, &[through("all", ExchangeType::Fanout, "", "x")]).await };
    first.close().await.unwrap();
    send().await;
    assert_eq!(take(&second, 1).await.len(), 1);
    second.close().await.unwrap();
    send().await;
    assert_eq!(transport.queue_length("broadcast").await.unwrap(), 0);
}

#[tokio::test]
async fn a_full_queue_does_not_starve_another() {
    let transport = open("memory://fair");
    let batch: Vec<_> = (0..10).map(|_| to("full", "full")).chain([to("other", "other")]).collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &["full", "other"], LEASE).await;
    let first_two: Vec<_> =
        [take(&consumer, 1).await, take(&consumer, 1).await].iter().map(|it| body(&it[0])).collect();
    assert_eq!(first_two, ["full", "other"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_replayed_with_its_bytes() {
    let transport = open("memory://unreadable");
    // What says so in its headers is written as it is.
    let mut broken = to("q", "x");
    broken.message.headers = "{not json".to_owned();
    publish(&transport, &[broken, to("q", "good")]).await;
    let consumer = consume(&transport, &["q"], LEASE).await;
    let mut raws = Vec::new();
    for delivery in take(&consumer, 2).await {
        let outcome = Outcome::Dead { reason: "malformed", detail: "no".to_owned() };
        let settlement = Settlement { tag: delivery.tag, publish: Vec::new(), store: None, outcome };
        within(consumer.settle(&[settlement])).await.remove(0).unwrap();
        raws.push(delivery.raw);
    }
    let letters = within(transport.dead_letters(0, 10)).await.unwrap();
    let ids: Vec<String> = letters.into_iter().map(|letter| letter.id).collect();
    assert_eq!(within(transport.replay_dead(&ids, None)).await.unwrap(), [true, true]);

    let replayed = take(&consumer, 2).await;
    assert_eq!(replayed.iter().map(|delivery| delivery.raw.clone()).collect::<Vec<_>>(), raws);
    assert!(replayed[0].message.is_err());
    assert_eq!(body(&replayed[1]), "good");
    assert_eq!(within(transport.dead_count()).await.unwrap(), 0);
    // Handed back, it still is what it was.
    within(consumer.close()).await.unwrap();
    let other = consume(&transport, &["q"], LEASE).await;
    assert_eq!(take(&other, 1).await[0].raw, raws[0]);
}
