//! Settling on Redis: what is sent, stored and acknowledged in one step, or not at all.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use celeriac_broker::{InlineStore, Outcome, Settled};
use celeriac_testkit::redis_server::RedisServer;
use redis::AsyncCommands;
use std::time::Duration;

mod redis_support;
use redis_support::*;

/// Short enough to wait for.
const SHORT_LEASE: Duration = Duration::from_secs(1);

fn stored(database: i64, key: &str, value: &str, expires: Option<Duration>) -> InlineStore {
    InlineStore::Redis { database, key: key.to_owned(), value: value.to_owned(), expires }
}

#[tokio::test]
async fn a_claim_that_somebody_else_restored_stores_and_publishes_nothing() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    publish(&transport, &[to("q", "one")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let delivery = take_one(&consumer).await;
    let mut connection = server.connection().await;
    // As kombu restores: it knows nothing of leases.
    let tags: Vec<String> = connection.hkeys("unacked").await.unwrap();
    let _: () = connection.del(&["unacked", "unacked_index"]).await.unwrap();
    assert_eq!(tags.len(), 1);

    assert_eq!(within(consumer.still_held(&[delivery.tag])).await.unwrap(), [false]);
    let mut all = only(&delivery, Outcome::Ack);
    all.publish = vec![to("callbacks", "callback")];
    all.store = Some(stored(0, "result", "{}", None));
    let settled = within(consumer.settle(&[all])).await.remove(0).unwrap();
    assert_eq!(settled, Settled::Lost);
    for key in ["callbacks", "result"] {
        assert!(!connection.exists::<_, bool>(key).await.unwrap(), "{key}");
    }
}

#[tokio::test]
async fn a_result_is_stored_and_announced_in_its_own_database() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    assert!(transport.same_server(&format!("redis://127.0.0.1:{}", server.port())));
    assert!(!transport.same_server("redis://127.0.0.1:1"));
    let client = redis::Client::open(server.url()).unwrap();
    let mut heard = client.get_async_pubsub().await.unwrap();
    heard.subscribe("celery-task-meta-x").await.unwrap();

    publish(&transport, &[to("q", "one"), to("q", "two"), to("q", "three")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let deliveries = take(&consumer, 3).await;
    let failure = r#"{"status": "FAILURE", "result": {"note": "\"status\": \"SUCCESS\""}}"#;
    let success = r#"{"status": "SUCCESS", "result": 1}"#;
    let late = r#"{"status": "RETRY", "result": 2}"#;
    for (delivery, value) in deliveries.iter().zip([failure, success, late]) {
        let mut all = only(delivery, Outcome::Ack);
        all.store = Some(stored(3, "celery-task-meta-x", value, Some(Duration::from_secs(500))));
        assert_eq!(within(consumer.settle(&[all])).await.remove(0).unwrap(), Settled::Done);
    }

    let mut connection = server.connection().await;
    assert!(!connection.exists::<_, bool>("celery-task-meta-x").await.unwrap());
    let _: () = redis::cmd("SELECT").arg(3).query_async(&mut connection).await.unwrap();
    let value: String = connection.get("celery-task-meta-x").await.unwrap();
    assert_eq!(value, success, "a result is not replaced once the task has succeeded");
    let ttl: i64 = connection.ttl("celery-task-meta-x").await.unwrap();
    assert!((1..=500).contains(&ttl), "{ttl}");
    let mut messages = heard.into_on_message();
    for expected in [failure, success] {
        let message = within(futures_util::StreamExt::next(&mut messages)).await.unwrap();
        assert_eq!(message.get_payload::<String>().unwrap(), expected);
    }
    // The connection is still on the broker's database.
    publish(&transport, &[to("q", "four")]).await;
    assert_eq!(body(&take_one(&consumer).await), "four");
}

#[tokio::test]
async fn each_claim_of_a_batch_is_settled_by_what_became_of_it() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let names = ["stored", "restored", "refused", "out of the index", "ignored", "elsewhere"];
    publish(&transport, &names.map(|name| to("q", name))).await;
    let consumer = consume(&transport, &["q"]).await;
    let deliveries = take(&consumer, names.len()).await;
    assert_eq!(deliveries.iter().map(body).collect::<Vec<_>>(), names);
    let mut connection = server.connection().await;
    let mut tags: Vec<String> = connection.hkeys("unacked").await.unwrap();
    tags.sort();
    assert_eq!(tags.len(), names.len(), "one claim, whose messages are numbered");

    let _: () = connection.hdel("unacked", &tags[1]).await.unwrap();
    let _: () = connection.zrem("unacked_index", &[&tags[1], &tags[3]]).await.unwrap();
    let _: () = connection.rpush("result 2", "no result").await.unwrap();
    let settlement = |place: usize, database| {
        let mut one = only(&deliveries[place], Outcome::Ack);
        one.store = Some(stored(database, &format!("result {place}"), "{}", None));
        one
    };
    let batch = [
        settlement(0, 0),
        settlement(1, 0),
        settlement(2, 0),
        settlement(3, 0),
        only(&deliveries[4], Outcome::Ack),
        settlement(5, 3),
    ];
    let results = within(consumer.settle(&batch)).await;
    let found: Vec<_> = results.iter().map(|result| result.as_ref().ok()).collect();
    let (done, lost) = (Some(&Settled::Done), Some(&Settled::Lost));
    assert_eq!(found, [done, lost, None, done, done, done]);
    assert_eq!(results[2].as_ref().unwrap_err().code(), "ERR_CELERIAC_REFUSED");
    for (place, is_there) in [(0, true), (1, false), (3, true), (4, false), (5, false)] {
        let key = format!("result {place}");
        assert_eq!(connection.exists::<_, bool>(&key).await.unwrap(), is_there, "{key}");
    }
    let _: () = redis::cmd("SELECT").arg(3).query_async(&mut connection).await.unwrap();
    assert!(connection.exists::<_, bool>("result 5").await.unwrap());
    let _: () = redis::cmd("SELECT").arg(0).query_async(&mut connection).await.unwrap();

    // What was refused is held as before: whoever restores would find it.
    assert_eq!(connection.hkeys::<_, Vec<String>>("unacked").await.unwrap(), [tags[2].clone()]);
    let (now, _): (f64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    let score: f64 = connection.zscore("unacked_index", &tags[2]).await.unwrap();
    assert!(score > now, "{score} is after {now}");
    assert_eq!(within(consumer.still_held(&[deliveries[2].tag])).await.unwrap(), [true]);
    let _: () = connection.del("result 2").await.unwrap();
    let again = within(consumer.settle(&[settlement(2, 0)])).await.remove(0).unwrap();
    assert_eq!(again, Settled::Done);
    for key in ["unacked", "unacked_index"] {
        assert!(!connection.exists::<_, bool>(key).await.unwrap(), "{key}");
    }
}

#[tokio::test]
async fn a_settlement_whose_message_cannot_be_written_is_not_acknowledged() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let _: () = connection.set("callbacks", "no list").await.unwrap();
    publish(&transport, &[to("q", "one"), to("q", "two")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let deliveries = take(&consumer, 2).await;
    let mut bad = only(&deliveries[0], Outcome::Ack);
    bad.publish = vec![to("callbacks", "callback")];
    let results = within(consumer.settle(&[bad, only(&deliveries[1], Outcome::Ack)])).await;
    assert_eq!(results[0].as_ref().unwrap_err().code(), "ERR_CELERIAC_REFUSED");
    assert_eq!(*results[1].as_ref().unwrap(), Settled::Done);
    let tags = [deliveries[0].tag, deliveries[1].tag];
    assert_eq!(within(consumer.still_held(&tags)).await.unwrap(), [true, false]);
}

#[tokio::test]
async fn what_is_held_is_renewed_begun_and_settled_when_the_memory_of_the_server_is_full() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    publish(&transport, &[to("q", "one")]).await;
    let consumer = consume_with_lease(&transport, &["q"], SHORT_LEASE).await;
    let delivery = take_one(&consumer).await;
    let mut connection = server.connection().await;
    let tag = connection.hkeys::<_, Vec<String>>("unacked").await.unwrap().remove(0);
    let _: () =
        redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query_async(&mut connection).await.unwrap();
    assert!(connection.set::<_, _, ()>("key", "value").await.is_err(), "the memory is full");
    let before: f64 = connection.zscore("celeriac.leases", &tag).await.unwrap();
    until(|| {
        let (mut connection, tag) = (connection.clone(), tag.clone());
        async move {
            let now: f64 = connection.zscore("celeriac.leases", tag).await.unwrap();
            (now > before + SHORT_LEASE.as_secs_f64()).then_some(())
        }
    })
    .await;
    let begun = within(consumer.begin(&[(delivery.tag, "task")])).await.unwrap();
    assert_eq!(begun, [Some(2)]);
    let mut all = only(&delivery, Outcome::Ack);
    all.publish = vec![to("callbacks", "callback")];
    all.store = Some(stored(0, "result", "document", None));
    assert_eq!(within(consumer.settle(&[all])).await.remove(0).unwrap(), Settled::Done);
    assert_eq!(within(transport.queue_length("callbacks")).await.unwrap(), 1);
    assert_eq!(connection.get::<_, String>("result").await.unwrap(), "document");
}
