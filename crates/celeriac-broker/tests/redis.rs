//! The transport contract on a real Redis, and the keys that Python finds there.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{InlineStore, Outcome, Settled, Transport};
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use redis::AsyncCommands;
use serde_json::Value;

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
async fn a_malformed_message_ends_in_the_dead_list_and_stops_nobody() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let malformed: [&[u8]; 4] =
        [b"not json", b"{}", br#"{"body": "%%%", "properties": {"body_encoding": "base64"}}"#, b"\xff\xfe"];
    publish(&transport, &[to("q", "before")]).await;
    for raw in malformed {
        let _: () = connection.lpush("q", raw).await.unwrap();
    }
    publish(&transport, &[to("q", "after")]).await;

    let consumer = consume(&transport, &["q"]).await;
    let deliveries = take(&consumer, 6).await;
    // kombu's restore would end at the first of them.
    let unacked: Vec<Vec<u8>> = connection.hvals("unacked").await.unwrap();
    assert_eq!(unacked.len(), 2);
    let letters = within(transport.dead_letters(0, 10)).await.unwrap();
    for (letter, raw) in letters.iter().zip(malformed) {
        assert_eq!(within(transport.dead_letter(&letter.id)).await.unwrap().unwrap().1, raw);
    }
    assert_eq!(letters.len(), malformed.len());
    assert!(letters.iter().all(|letter| letter.queue == "q" && letter.reason == "malformed"));
    assert!(letters[0].detail.contains("decode"), "{}", letters[0].detail);

    assert_eq!(body(&deliveries[0]), "before");
    assert_eq!(body(&deliveries[5]), "after");
    for delivery in &deliveries[1..5] {
        assert!(delivery.message.is_err());
        assert_eq!(within(consumer.still_held(&[delivery.tag])).await.unwrap(), [true]);
        settle(&consumer, delivery, Outcome::Dead { reason: "malformed", detail: "seen".to_owned() }).await;
    }
    let letters = within(transport.dead_letters(0, 10)).await.unwrap();
    assert_eq!(letters.len(), 4, "settling what is there already adds nothing");
    assert!(letters.iter().all(|letter| letter.detail == "seen"));
    within(consumer.close()).await.unwrap();
    assert_eq!(within(transport.queue_length("q")).await.unwrap(), 2, "they do not come back");
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

async fn code_of(transport: &Arc<dyn Transport>) -> &'static str {
    let error = within(transport.connect()).await.unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    error.code()
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
async fn an_encrypted_connection_checks_the_certificate_unless_told_otherwise() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempdir();
    let file = |name: &str| folder.0.join(name).to_string_lossy().into_owned();
    std::fs::write(file("certificate.pem"), made.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let tls = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", file("certificate.pem")),
        ("--tls-key-file", file("key.pem")),
        ("--tls-ca-cert-file", file("certificate.pem")),
        ("--tls-auth-clients", "no".to_owned()),
    ];
    let arguments = tls.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let _server =
        RedisServer::start_with(RedisServerOptions { arguments, ..RedisServerOptions::default() }).await;

    let with = |query: &str| format!("rediss://localhost:{port}/0?ssl_cert_reqs={query}");
    for url in [with("none"), with(&format!("required&ssl_ca_certs={}", file("certificate.pem")))] {
        let transport = open(&url);
        let consumer = consume(&transport, &["q"]).await;
        publish(&transport, &[to("q", "hidden")]).await;
        let delivery = take_one(&consumer).await;
        assert_eq!(body(&delivery), "hidden");
        settle(&consumer, &delivery, Outcome::Ack).await;
        within(transport.close()).await;
    }
    assert_eq!(code_of(&open(&with("required"))).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
}

/// A folder that goes when it is dropped.
struct Folder(std::path::PathBuf);

fn tempdir() -> Folder {
    let path = std::env::temp_dir().join(format!("celeriac-test-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&path).unwrap();
    Folder(path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
