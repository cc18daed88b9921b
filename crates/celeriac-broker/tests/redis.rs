//! The transport contract on a real Redis, and the keys that Python finds there.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use celeriac_broker::Outcome;
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use redis::AsyncCommands;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

mod redis_support;
use redis_support::*;

celeriac_testkit::transport_contract!(contract, async {
    let server = RedisServer::start().await;
    (server.url(), server)
});

/// Every key as Celery left it: type and value.
fn golden(step: &str) -> Vec<(String, String, Vec<Vec<u8>>)> {
    let vectors: Value =
        serde_json::from_str(include_str!("../../celeriac-protocol/tests/golden/topology_redis.json"))
            .unwrap();
    let steps = vectors["steps"].as_array().unwrap();
    let step = steps.iter().find(|one| one["name"] == step).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let keys = step["keys"].as_array().unwrap().iter().map(|key| {
        let values = key["value"].as_array().unwrap().iter().map(|value| text(&value["text"]).into_bytes());
        (text(&key["key"]), text(&key["type"]), values.collect())
    });
    keys.collect()
}

async fn keys_are_as_celery_leaves_them(step: &str, query: &str) {
    let server = RedisServer::start().await;
    let transport = open(&format!("{}{query}", server.url()));
    let expected = golden(step);
    transport.declare(&[celery_queue("golden")]).await.unwrap();
    for (_, kind, values) in &expected {
        if kind == "list" {
            // The head of a list is the newest.
            for raw in values.iter().rev() {
                let mut publication = to("golden", "");
                publication.message = envelope::decode(raw).unwrap();
                publish(&transport, &[publication]).await;
            }
        }
    }
    let mut connection = server.connection().await;
    let mut found = Vec::new();
    let mut names: Vec<String> = connection.keys("*").await.unwrap();
    names.sort();
    for name in names {
        let kind: String = redis::cmd("TYPE").arg(&name).query_async(&mut connection).await.unwrap();
        let values: Vec<Vec<u8>> = match kind.as_str() {
            "list" => connection.lrange(&name, 0, -1).await.unwrap(),
            _ => connection.smembers(&name).await.unwrap(),
        };
        found.push((name, kind, values));
    }
    let text = |keys: &[(String, String, Vec<Vec<u8>>)]| {
        keys.iter()
            .map(|(name, kind, values)| {
                let values: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value)).collect();
                format!("{name:?} {kind} {values:#?}")
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(text(&found), text(&expected));
}

#[tokio::test]
async fn keys_and_bytes_are_as_celery_leaves_them() {
    keys_are_as_celery_leaves_them("priorities-in-queue", "").await;
}

#[tokio::test]
async fn keys_with_a_prefix_are_as_celery_leaves_them() {
    keys_are_as_celery_leaves_them("prefix-priorities-in-queue", "?global_keyprefix=pre:").await;
}

#[tokio::test]
async fn a_claim_is_recorded_as_kombu_records_it_with_a_score_in_the_future() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    publish(&transport, &[to("a \"queue\"", "body")]).await;
    let mut connection = server.connection().await;
    let raw: String = connection.lindex("a \"queue\"", 0).await.unwrap();
    let consumer = consume(&transport, &["a \"queue\""]).await;
    let delivery = take_one(&consumer).await;

    let unacked: Vec<(String, String)> = connection.hgetall("unacked").await.unwrap();
    let [(tag, record)] = &unacked[..] else { panic!("{unacked:?}") };
    assert_eq!(*record, format!("[{raw}, \"\", \"a \\\"queue\\\"\"]"));
    assert!(serde_json::from_str::<Value>(record).is_ok());
    let now: (f64, f64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    for index in ["unacked_index", "celeriac.leases"] {
        let score: f64 = connection.zscore(index, tag).await.unwrap();
        assert!(score > now.0 && score <= now.0 + LEASE.as_secs_f64() + 1.0, "{index}: {score} at {now:?}");
    }

    settle(&consumer, &delivery, Outcome::Ack).await;
    for key in ["unacked", "unacked_index", "celeriac.leases"] {
        assert!(!connection.exists::<_, bool>(key).await.unwrap(), "{key}");
    }
}

#[tokio::test]
async fn a_closed_consumer_leaves_no_key_behind() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let consumer = consume(&transport, &["q"]).await;
    publish(&transport, &[to("q", "one")]).await;
    let delivery = take_one(&consumer).await;
    settle(&consumer, &delivery, Outcome::Ack).await;
    let nothing = tokio::time::timeout(Duration::from_millis(100), consumer.receive(1)).await;
    assert!(nothing.is_err(), "it waits, so it has a credit");
    within(consumer.close()).await.unwrap();
    let mut connection = server.connection().await;
    let keys: Vec<String> = connection.keys("*").await.unwrap();
    let lasting: Vec<_> = keys.iter().filter(|key| !key.contains("restore_turn")).collect();
    assert!(lasting.is_empty(), "{lasting:?}");
}

#[tokio::test]
async fn urgent_messages_come_first_whatever_their_queue() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let with = |queue: &str, body: &str, priority| {
        let mut publication = to(queue, body);
        publication.message.properties.priority = Some(priority);
        publication
    };
    publish(&transport, &[with("a", "a9", 9), with("b", "b3", 3), with("a", "a3", 3), with("b", "b0", 0)])
        .await;
    let consumer = consume(&transport, &["a", "b"]).await;
    let mut came = Vec::new();
    for _ in 0..4 {
        came.push(body(&take_one(&consumer).await));
    }
    assert_eq!(came[0], "b0");
    assert_eq!(came[3], "a9");
}

#[tokio::test]
async fn a_full_queue_starves_no_other() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let many: Vec<_> = (0..100).map(|number| to("full", &number.to_string())).collect();
    publish(&transport, &many).await;
    publish(&transport, &[to("other", "alone")]).await;
    let consumer = consume(&transport, &["full", "other"]).await;
    let batch = within(consumer.receive(10)).await.unwrap();
    assert!(batch.iter().any(|delivery| body(delivery) == "alone"));
    assert_eq!(batch.len(), 10, "what one has not, the other gives");

    publish(&transport, &[to("other", "again")]).await;
    let two = [take_one(&consumer).await, take_one(&consumer).await];
    assert!(two.iter().any(|delivery| body(delivery) == "again"), "{two:?}");
}

#[tokio::test]
async fn a_strict_order_of_queues_is_kept_when_asked_for() {
    let server = RedisServer::start().await;
    let transport = open(&format!("{}?queue_order_strategy=priority", server.url()));
    publish(&transport, &[to("second", "3"), to("first", "1"), to("first", "2")]).await;
    let consumer = consume(&transport, &["first", "second"]).await;
    assert_eq!(take(&consumer, 3).await.iter().map(body).collect::<Vec<_>>(), ["1", "2", "3"]);
}

#[tokio::test]
async fn messages_come_on_more_lists_than_there_are_connections() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let names: Vec<String> = (0..20).map(|number| format!("q{number}")).collect();
    let consumer = consume(&transport, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (queue, priority) in [("q0", 0), ("q0", 9), ("q19", 0), ("q19", 9)] {
        let waiting = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            async move { consumer.receive(5).await }
        });
        tokio::task::yield_now().await;
        let mut publication = to(queue, &format!("{queue} {priority}"));
        publication.message.properties.priority = Some(priority);
        publish(&transport, &[publication]).await;
        let batch = within(waiting).await.unwrap().unwrap();
        assert_eq!(batch.iter().map(body).collect::<Vec<_>>(), [format!("{queue} {priority}")]);
    }
}

#[tokio::test]
async fn queues_that_expire_do_so_as_kombu_has_it() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut queue = celery_queue("replies");
    queue.arguments = r#"{"x-expires": 90000}"#.to_owned();
    transport.declare(&[queue]).await.unwrap();
    publish(&transport, &[to("replies", "one")]).await;
    let mut connection = server.connection().await;
    let ttl: i64 = connection.pttl("replies").await.unwrap();
    assert!((1..=90_000).contains(&ttl), "{ttl}");
    assert!(!connection.exists::<_, bool>("_kombu.binding_permanent.replies").await.unwrap());
    let bound: Vec<String> = connection.smembers("_kombu.binding.replies").await.unwrap();
    assert_eq!(bound, ["replies\x06\x16\x06\x16replies"]);
    let deadline: f64 = connection.zscore("_kombu.binding_deadlines", "replies").await.unwrap();
    let now: (f64, f64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    // kombu keeps a binding for an hour at least.
    let left = deadline / 1000.0 - now.0;
    assert!((3500.0..3700.0).contains(&left), "{left}");
}

#[tokio::test]
async fn a_unix_socket_is_as_good() {
    let server = RedisServer::start().await;
    let transport = open(&format!("redis+socket://{}?virtual_host=2", server.socket().display()));
    publish(&transport, &[to("q", "one")]).await;
    let consumer = consume(&transport, &["q"]).await;
    assert_eq!(body(&take_one(&consumer).await), "one");
    let other = open(&server.url_of(2));
    assert_eq!(within(other.queue_length("q")).await.unwrap(), 0);
    within(transport.close()).await;
    assert_eq!(within(other.queue_length("q")).await.unwrap(), 1);
}

#[tokio::test]
async fn a_wrong_password_and_a_closed_port_are_told_apart() {
    let options =
        RedisServerOptions { password: Some("s:e@cret".to_owned()), ..RedisServerOptions::default() };
    let mut server = RedisServer::start_with(options).await;
    let at = format!("127.0.0.1:{}", server.port());
    let right = open(&format!("redis://:s%3Ae%40cret@{at}/0"));
    within(right.connect()).await.unwrap();
    assert_eq!(
        code_of(&open(&format!("redis://:secret@{at}/0"))).await,
        "ERR_CELERIAC_AUTHENTICATION_FAILED"
    );
    assert_eq!(
        code_of(&open(&format!("redis://me:secret@{at}"))).await,
        "ERR_CELERIAC_AUTHENTICATION_FAILED"
    );
    assert_eq!(code_of(&open(&format!("redis://{at}"))).await, "ERR_CELERIAC_AUTHENTICATION_FAILED");
    server.kill();
    assert_eq!(code_of(&open(&format!("redis://:secret@{at}/0"))).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
    assert_eq!(code_of(&right).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
    let results = within(right.publish(&[to("q", "one")])).await;
    assert!(results[0].as_ref().unwrap_err().is_transient());
}

#[tokio::test]
async fn a_queue_with_the_name_of_a_key_of_the_transport_is_refused_everywhere() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let refused = |error: celeriac_error::Error, name: &str| {
        assert_eq!(error.code(), "ERR_CELERIAC_INVALID_ARGUMENT", "{error}");
        assert!(error.to_string().contains(&format!("the queue `{name}`")), "{error}");
        assert!(error.to_string().contains("choose another name"), "{error}");
    };
    publish(&transport, &[to("q", "no task")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let delivery = take_one(&consumer).await;
    settle(&consumer, &delivery, Outcome::Dead { reason: "rejected", detail: String::new() }).await;
    let letter = within(transport.dead_letters(0, 1)).await.unwrap().remove(0).id;
    let mut connection = server.connection().await;
    let keys = async |connection: &mut redis::aio::MultiplexedConnection| {
        let mut keys: Vec<String> = connection.keys("*").await.unwrap();
        keys.retain(|key| !key.starts_with("celeriac.restore_turn"));
        keys.sort();
        keys
    };
    let before = keys(&mut connection).await;
    for name in ["unacked", "celeriac.workers", "_kombu.binding.celery"] {
        refused(within(transport.publish(&[to(name, "one")])).await.remove(0).unwrap_err(), name);
        refused(within(transport.declare(&[celery_queue(name)])).await.unwrap_err(), name);
        refused(within(transport.purge(name)).await.unwrap_err(), name);
        refused(
            within(transport.replay_dead(std::slice::from_ref(&letter), Some(name))).await.unwrap_err(),
            name,
        );
        let options = celeriac_broker::ConsumeOptions {
            queues: vec![celery_queue(name)],
            prefetch: 1,
            node: "celery@test".to_owned(),
            lease: LEASE,
        };
        refused(within(transport.consume(options)).await.err().unwrap(), name);
    }
    assert_eq!(keys(&mut connection).await, before, "nothing was written");
}

#[tokio::test]
async fn a_server_whose_memory_is_full_takes_the_bindings_of_a_worker_that_starts() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    publish(&transport, &[to("q", "one")]).await;
    let mut connection = server.connection().await;
    let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query_async(&mut connection).await.unwrap();
    let mut expiring = celery_queue("expiring");
    expiring.arguments = r#"{"x-expires": 60000}"#.to_owned();
    within(transport.declare(&[celery_queue("q"), expiring])).await.unwrap();
    let consumer = consume(&transport, &["q"]).await;
    assert_eq!(body(&take_one(&consumer).await), "one");
}
