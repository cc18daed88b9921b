//! Leases on Redis that run out while somebody stands still, and those who hear of it.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use celeriac_broker::{Outcome, Settled};
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::RedisServer;
use redis::AsyncCommands;
use std::sync::Arc;
use std::time::Duration;

mod redis_support;
use redis_support::stoppable::Stoppable;
use redis_support::*;

/// Short enough to wait for.
const SHORT_LEASE: Duration = Duration::from_secs(1);

/// Takes a claim from its holder as kombu does, which knows nothing of leases: the message with this text goes back.
async fn take_away(mut connection: redis::aio::MultiplexedConnection, list: &str, text: &str) {
    let claims: Vec<(String, String)> = connection.hgetall("unacked").await.unwrap();
    let (tag, record) = claims.into_iter().find(|(_, record)| encoded_in(record, text)).unwrap();
    let raw = record[1..].rsplitn(3, ", ").nth(2).unwrap();
    let mut both = redis::pipe();
    both.atomic().zrem("unacked_index", &tag).hdel("unacked", &tag).rpush(list, raw);
    let _: () = both.query_async(&mut connection).await.unwrap();
}

fn encoded_in(record: &str, text: &str) -> bool {
    let raw = record[1..].rsplitn(3, ", ").nth(2).unwrap();
    envelope::decode(raw.as_bytes()).unwrap().body == text
}

#[tokio::test]
async fn a_consumer_is_told_what_it_lost() {
    let server = RedisServer::start().await;
    let subject = celeriac_testkit::transport_contract::Subject::new(server.url());
    let server = &server;
    celeriac_testkit::transport_contract::a_consumer_is_told_what_it_lost(&subject, |text| async move {
        let mut connection = server.connection().await;
        let records: Vec<String> = connection.hvals("unacked").await.unwrap();
        let queue: String =
            serde_json::from_str(records[0].rsplit_once(", ").unwrap().1.trim_end_matches(']')).unwrap();
        take_away(connection, &queue, text).await;
    })
    .await;
}

#[tokio::test]
async fn only_what_was_lost_is_told_of_a_great_many() {
    const HELD: usize = 2500;
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let batch: Vec<_> = (0..HELD).map(|number| to("q", &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume_with_lease(&transport, &["q"], SHORT_LEASE).await;
    let deliveries = take(&consumer, HELD).await;
    let taken = ["3", "1700", "2499"];
    for text in taken {
        take_away(connection.clone(), "taken", text).await;
    }
    // An index that somebody broke is mended: the claim is still ours alone.
    let intact: String = connection.hkeys::<_, Vec<String>>("unacked").await.unwrap().remove(0);
    let _: () = connection.zrem("unacked_index", &intact).await.unwrap();
    let mut lost = Vec::new();
    while lost.len() < taken.len() {
        lost.extend(within(consumer.lost()).await);
    }
    let mut texts: Vec<_> = lost
        .iter()
        .map(|tag| body(deliveries.iter().find(|delivery| delivery.tag == *tag).unwrap()))
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, ["1700", "2499", "3"]);
    until(|| {
        let mut connection = connection.clone();
        let intact = intact.clone();
        async move { connection.zscore::<_, _, Option<f64>>("unacked_index", intact).await.unwrap() }
    })
    .await;
    for key in ["unacked_index", "celeriac.leases"] {
        assert_eq!(connection.zcard::<_, usize>(key).await.unwrap(), HELD - taken.len(), "{key}");
    }
    let kept: Vec<_> = deliveries.iter().filter(|delivery| !lost.contains(&delivery.tag)).collect();
    let batch: Vec<_> = kept.iter().map(|delivery| only(delivery, Outcome::Ack)).collect();
    for settled in within(consumer.settle(&batch)).await {
        assert_eq!(settled.unwrap(), Settled::Done);
    }
}

#[tokio::test]
async fn a_consumer_that_was_stopped_learns_what_it_lost_before_it_is_sure_again() {
    let server = RedisServer::start().await;
    let (url, stoppable) = (server.url(), Stoppable::start());
    let (consumer, deliveries) = stoppable
        .run(async move {
            let transport = open(&url);
            publish(&transport, &[to("q", "one"), to("q", "two")]).await;
            let consumer = consume_with_lease(&transport, &["q"], SHORT_LEASE).await;
            let deliveries = take(&consumer, 2).await;
            (consumer, deliveries)
        })
        .await;
    assert!(consumer.leases_stand());

    // Nobody took anything: it is told that there is nothing.
    let stopped = stoppable.stop().await;
    until(|| async { (!consumer.leases_stand()).then_some(()) }).await;
    drop(stopped);
    let asked = Arc::clone(&consumer);
    assert_eq!(stoppable.run(async move { asked.lost().await }).await, []);
    assert!(consumer.leases_stand());

    let stopped = stoppable.stop().await;
    let other = open(&server.url());
    let restorer = consume(&other, &["elsewhere"]).await;
    until(|| async { (other.queue_length("q").await.unwrap() == 2).then_some(()) }).await;
    assert!(!consumer.leases_stand());
    drop(stopped);
    let asked = Arc::clone(&consumer);
    let mut lost = stoppable.run(async move { asked.lost().await }).await;
    lost.sort_unstable();
    assert_eq!(lost, deliveries.iter().map(|delivery| delivery.tag).collect::<Vec<_>>());
    let asked = Arc::clone(&consumer);
    let late = deliveries.iter().map(|delivery| only(delivery, Outcome::Ack)).collect::<Vec<_>>();
    for settled in stoppable.run(async move { asked.settle(&late).await }).await {
        assert_eq!(settled.unwrap(), Settled::Lost);
    }
    restorer.close().await.unwrap();
}

#[tokio::test]
async fn what_was_claimed_for_a_stopped_consumer_and_taken_back_is_never_handed_out() {
    let server = RedisServer::start().await;
    let (url, stoppable) = (server.url(), Stoppable::start());
    let consumer = stoppable
        .run(async move {
            let consumer = consume_with_lease(&open(&url), &["q"], SHORT_LEASE).await;
            // It waits from now on: the server claims for it.
            let waiting = tokio::time::timeout(Duration::from_millis(300), consumer.receive(10)).await;
            assert!(waiting.is_err());
            consumer
        })
        .await;
    let stopped = stoppable.stop().await;
    let other = open(&server.url());
    publish(&other, &[to("q", "late")]).await;
    let mut connection = server.connection().await;
    until(|| {
        let mut connection = connection.clone();
        async move { (connection.hlen::<_, usize>("unacked").await.unwrap() == 1).then_some(()) }
    })
    .await;
    let restorer = consume(&other, &["elsewhere"]).await;
    until(|| async { (other.queue_length("q").await.unwrap() == 1).then_some(()) }).await;
    drop(stopped);
    let asked = Arc::clone(&consumer);
    let came = stoppable.run(async move { take_one(&asked).await }).await;
    assert!(redelivered(&came), "the first claim of it is not ours any more");
    let asked = Arc::clone(&consumer);
    let settlement = only(&came, Outcome::Ack);
    let settled = stoppable.run(async move { asked.settle(&[settlement]).await.remove(0) }).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    assert_eq!(connection.hlen::<_, usize>("unacked").await.unwrap(), 0);
    restorer.close().await.unwrap();
}

#[tokio::test]
async fn ten_thousand_leases_that_ran_out_at_once_all_come_back_and_stale_ones_are_in_nobodys_way() {
    const CLAIMS: usize = 10_000;
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let mut raws = Vec::new();
    let source = open(&server.url());
    publish(&source, &(0..CLAIMS).map(|number| to("q", &number.to_string())).collect::<Vec<_>>()).await;
    for raw in connection.lrange::<_, Vec<String>>("q", 0, -1).await.unwrap().into_iter().rev() {
        raws.push(raw);
    }
    let mut claims = redis::pipe();
    claims.del("q").ignore();
    for (number, raw) in raws.iter().enumerate() {
        // kombu restored the claim, and left the lease.
        claims.zadd("celeriac.leases", format!("stale-{number}"), 1).ignore();
        let (tag, score) = (format!("node:0:{number}"), 2.0 + number as f64 / 1e5);
        claims.hset("unacked", &tag, format!("[{raw}, \"\", \"q\"]")).ignore();
        claims.zadd("unacked_index", &tag, score).ignore();
        claims.zadd("celeriac.leases", &tag, score).ignore();
    }
    let _: () = claims.query_async(&mut connection).await.unwrap();

    let consumer = consume(&transport, &["q"]).await;
    let mut came = Vec::new();
    for delivery in take(&consumer, CLAIMS).await {
        assert!(redelivered(&delivery));
        came.push(body(&delivery).parse::<usize>().unwrap());
    }
    came.sort_unstable();
    assert!(came.into_iter().eq(0..CLAIMS), "each once");
    assert_eq!(connection.zcard::<_, usize>("celeriac.leases").await.unwrap(), CLAIMS, "what we hold now");
}

#[tokio::test]
async fn workers_that_come_and_go_all_the_time_restore_too() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    publish(&transport, &[to("q", "one")]).await;
    let mut connection = server.connection().await;
    let raw: String = connection.lpop("q", None).await.unwrap();
    let _: () = connection.hset("unacked", "tag", format!("[{raw}, \"\", \"q\"]")).await.unwrap();
    let _: () = connection.zadd("unacked_index", "tag", 1).await.unwrap();
    let _: () = connection.zadd("celeriac.leases", "tag", 1).await.unwrap();
    within(async {
        while transport.queue_length("q").await.unwrap() == 0 {
            let consumer = consume(&transport, &["elsewhere"]).await;
            consumer.set_queues(vec![celery_queue("other")]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            consumer.close().await.unwrap();
        }
    })
    .await;
}
