//! The transport contract on a real Redis, and the keys that Python finds there.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{InlineStore, Outcome, Settled, Transport, TransportOptions};
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use redis::AsyncCommands;
use serde_json::Value;

mod redis_support;
use redis_support::*;

/// Short enough to wait for.
const SHORT_LEASE: Duration = Duration::from_secs(1);

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
    let mut raws = Vec::new();
    for letter in &letters {
        raws.push(within(transport.dead_letter(&letter.id)).await.unwrap().unwrap().1);
    }
    // What the claiming script put aside comes first.
    raws.sort_unstable();
    let mut expected = malformed.to_vec();
    expected.sort_unstable();
    assert_eq!(raws, expected);
    assert!(letters.iter().all(|letter| letter.queue == "q" && letter.reason == "malformed"));
    assert!(letters.iter().all(|letter| letter.detail.contains("decode")), "{letters:?}");

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

/// One thread with all that a worker does, which can be stopped as a process is.
struct Stoppable {
    runtime: tokio::runtime::Handle,
    _ended: tokio::sync::oneshot::Sender<()>,
}

impl Stoppable {
    fn start() -> Self {
        let (handles, handle) = std::sync::mpsc::channel();
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            handles.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(end);
        });
        Self { runtime: handle.recv().unwrap(), _ended: ended }
    }

    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        within(self.runtime.spawn(work)).await.unwrap()
    }

    /// Nothing runs there until the sender is dropped.
    async fn stop(&self) -> std::sync::mpsc::Sender<()> {
        let (resume, resumed) = std::sync::mpsc::channel();
        let (stopping, stopped) = tokio::sync::oneshot::channel();
        self.runtime.spawn(async move {
            stopping.send(()).unwrap();
            let _ = resumed.recv();
        });
        within(stopped).await.unwrap();
        resume
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
async fn what_can_be_no_message_never_comes_where_kombus_restore_would_end_at_it() {
    let server = RedisServer::start().await;
    let (url, stoppable) = (server.url(), Stoppable::start());
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let in_object = format!("{{\"a\": {nested}}}");
    let malformed: Vec<&[u8]> = vec![b"not json", b"[]", b"", b" {", b"\xff\xfe", nested.as_bytes(), b"}{"];
    // The script parses nothing, so whoever reads these finds out.
    let broken_inside: Vec<&[u8]> = vec![b"{\"a\": }", b"{\"a\": [1}", in_object.as_bytes()];
    let (consumer, queues) = stoppable
        .run(async move {
            let consumer = consume_with_lease(&open(&url), &["q"], SHORT_LEASE).await;
            let waiting = tokio::time::timeout(Duration::from_millis(300), consumer.receive(100)).await;
            assert!(waiting.is_err());
            (consumer, open(&url))
        })
        .await;
    // From here on the server alone acts, as when the claimer is killed.
    let stopped = stoppable.stop().await;
    let mut connection = server.connection().await;
    let good = {
        publish(&open(&server.url()), &[to("elsewhere", "good")]).await;
        connection.lpop::<_, Vec<u8>>("elsewhere", None).await.unwrap()
    };
    let mut together = redis::cmd("LPUSH");
    together.arg("q").arg(&malformed).arg(&good).arg(&broken_inside);
    let _: () = together.query_async(&mut connection).await.unwrap();
    let other = open(&server.url());
    until(|| async { (other.dead_count().await.unwrap() == malformed.len() as u64).then_some(()) }).await;
    let records: Vec<Vec<u8>> = connection.hvals("unacked").await.unwrap();
    assert_eq!(records.len(), 1 + broken_inside.len());
    assert!(records.iter().any(|record| record[1..].starts_with(&good)));
    let letters = other.dead_letters(0, 100).await.unwrap();
    for (letter, raw) in letters.iter().zip(&malformed) {
        let known = (letter.queue.as_str(), letter.reason.as_str(), letter.size);
        assert_eq!(known, ("q", "malformed", raw.len() as u64));
        assert!(letter.at_ms > 1_600_000_000_000);
        assert_eq!(other.dead_letter(&letter.id).await.unwrap().unwrap().1, raw);
    }
    drop(stopped);

    // The consumer is told of each, and the letters say what exactly is wrong.
    let asked = Arc::clone(&consumer);
    let count = malformed.len() + 1 + broken_inside.len();
    let deliveries = stoppable.run(async move { take(&asked, count).await }).await;
    assert_eq!(deliveries.iter().filter(|delivery| delivery.message.is_ok()).count(), 1);
    let refused: Vec<_> = deliveries
        .iter()
        .filter(|delivery| delivery.message.is_err())
        .map(|delivery| only(delivery, Outcome::Dead { reason: "malformed", detail: "seen".to_owned() }))
        .collect();
    let asked = Arc::clone(&consumer);
    for settled in stoppable.run(async move { asked.settle(&refused).await }).await {
        assert_eq!(settled.unwrap(), Settled::Done);
    }
    let letters = within(queues.dead_letters(0, 100)).await.unwrap();
    assert_eq!(letters.len(), malformed.len() + broken_inside.len(), "each once");
    assert!(letters.iter().all(|letter| letter.detail == "seen"), "{letters:?}");
    assert_eq!(connection.hlen::<_, usize>("unacked").await.unwrap(), 1);
    let left: Vec<String> = connection.keys("celeriac.aside:*").await.unwrap();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn a_message_of_another_writer_is_as_good() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    publish(&transport, &[to("q", "one")]).await;
    let raw: String = connection.rpop("q", None).await.unwrap();
    let value: Value = serde_json::from_str(&raw).unwrap();
    let mut names: Vec<_> = value.as_object().unwrap().iter().collect();
    names.reverse();
    let members: Vec<_> = names.iter().map(|(name, value)| format!("\n \"{name}\": {value}")).collect();
    let other = format!(" {{{}\r\n}}\t ", members.join(","));
    let _: () = connection.lpush("q", &other).await.unwrap();
    let consumer = consume(&transport, &["q"]).await;
    let came = take_one(&consumer).await;
    assert_eq!((body(&came), &came.raw[..]), ("one".to_owned(), other.as_bytes()));
    settle(&consumer, &came, Outcome::Ack).await;
    assert_eq!(within(transport.dead_count()).await.unwrap(), 0);
}

/// The server has a parser that refuses a lone surrogate, which Python's and ours read.
#[tokio::test]
async fn a_lone_surrogate_of_another_writer_is_settled_and_dead_nowhere() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let message = concat!(
        r#"{"headers":{"task":"test","note":"\ud800"},"content-type":"application/json","#,
        r#""content-encoding":"utf-8","properties":{"body_encoding":"utf-8"},"body":"one"}"#
    );
    let consumer = consume(&transport, &["q"]).await;
    // Claimed by looking, and by waiting.
    for waits in [false, true] {
        let asked = Arc::clone(&consumer);
        let coming = if waits {
            let coming = tokio::spawn(async move { take_one(&asked).await });
            until(|| async {
                server.connection().await.exists("celeriac.credits").await.ok().filter(|&it| it)
            })
            .await;
            let _: () = connection.lpush("q", message).await.unwrap();
            coming
        } else {
            let _: () = connection.lpush("q", message).await.unwrap();
            tokio::spawn(async move { take_one(&asked).await })
        };
        let came = within(coming).await.unwrap();
        assert_eq!((body(&came), &came.raw[..]), ("one".to_owned(), message.as_bytes()));
        assert_eq!(within(transport.dead_count()).await.unwrap(), 0);
        settle(&consumer, &came, Outcome::Ack).await;
    }
    assert_eq!(within(transport.dead_count()).await.unwrap(), 0);
    assert!(!connection.exists::<_, bool>("unacked").await.unwrap());
}

#[tokio::test]
async fn ten_megabytes_of_blanks_are_buried_once() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let blanks = " ".repeat(10_000_000);
    let malformed = [format!("{{{blanks}"), format!("[{blanks}"), blanks];
    let consumer = consume(&transport, &["q"]).await;
    for raw in &malformed {
        let _: () = connection.lpush("q", raw).await.unwrap();
        let came = take_one(&consumer).await;
        assert!(came.message.is_err() && came.raw == raw);
        settle(&consumer, &came, Outcome::Dead { reason: "malformed", detail: "seen".to_owned() }).await;
    }
    let letters = within(transport.dead_letters(0, 10)).await.unwrap();
    assert_eq!(letters.len(), malformed.len());
    for (letter, raw) in letters.iter().zip(&malformed) {
        assert_eq!(letter.detail, "seen");
        assert!(transport.dead_letter(&letter.id).await.unwrap().unwrap().1 == raw);
    }
    for key in ["q", "unacked", "unacked_index", "celeriac.leases"] {
        assert!(!connection.exists::<_, bool>(key).await.unwrap(), "{key}");
    }
}

/// Waits (on so many lists that some have no connection of their own) or looks while a key of the dead list is none, and
/// gets everything all the same.
async fn a_wrong_key_stops_nothing(server: &RedisServer, key: &str, waits: bool, lists: usize) {
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    let names: Vec<String> = (0..lists).map(|number| format!("q{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let last = names[lists - 1];
    let consumer = consume(&transport, &names).await;
    // Two letters that are there before.
    publish(&transport, &[to(last, "old one"), to(last, "old two")]).await;
    for delivery in take(&consumer, 2).await {
        let outcome = Outcome::Dead { reason: "rejected", detail: "\"at_ms\":5 is no time".to_owned() };
        settle(&consumer, &delivery, outcome).await;
    }
    let old = within(transport.dead_letters(0, 10)).await.unwrap();
    assert_eq!(old.len(), 2);

    let asked = Arc::clone(&consumer);
    let asking = waits.then(|| tokio::spawn(async move { asked.receive(10).await }));
    if waits {
        until(|| async { server.connection().await.exists("celeriac.credits").await.ok().filter(|&it| it) })
            .await;
    }
    // One command, so that the script finds it as soon as it finds a message.
    let good = envelope::encode(&to(last, "good").message, "", last);
    redis::pipe()
        .atomic()
        .set(key, "no number, no hash, no set")
        .lpush(last, &["not json", &good, "[]"])
        .exec_async(&mut connection)
        .await
        .unwrap();
    let mut came = match asking {
        Some(asking) => within(asking).await.unwrap().unwrap(),
        None => Vec::new(),
    };
    while came.len() < 3 {
        came.extend(within(consumer.receive(10)).await.unwrap());
    }
    let mut seen: Vec<&[u8]> = came.iter().map(|delivery| &delivery.raw[..]).collect();
    seen.sort_unstable();
    let mut expected: Vec<&[u8]> = vec![b"not json", b"[]", good.as_bytes()];
    expected.sort_unstable();
    assert_eq!(seen, expected, "{key}");
    assert_eq!(came.iter().filter(|delivery| delivery.message.is_ok()).count(), 1);
    let held: usize = connection.hlen("unacked").await.unwrap();
    assert_eq!((held, within(transport.queue_length(last)).await.unwrap()), (1, 0));

    // What was written there is kept, and what was in the list before is still listed: whole, but for what was overwritten.
    let kept: String = connection.get(format!("{key}.wrong_type:1")).await.unwrap();
    assert_eq!(kept, "no number, no hash, no set");
    let letters = within(transport.dead_letters(0, 10)).await.unwrap();
    assert_eq!(letters.len(), 4, "{key}: {letters:?}");
    for letter in &letters {
        let (_, raw) = within(transport.dead_letter(&letter.id)).await.unwrap().unwrap();
        let is_old = old.iter().any(|old| old.id == letter.id);
        assert!(is_old || [&b"not json"[..], b"[]"].contains(&&raw[..]), "{key}: {raw:?}");
        match key {
            "celeriac.dead" if is_old => assert_eq!(letter.reason, "unreadable"),
            "celeriac.dead_raw" if is_old => assert!(raw.is_empty()),
            _ if is_old => {
                assert!(old.contains(letter), "{key}: {letter:?}");
                assert_eq!(raw.len() as u64, letter.size);
            }
            _ => assert_eq!(letter.reason, "malformed"),
        }
    }
    assert!(letters.iter().zip(&letters[1..]).all(|(one, next)| one.at_ms <= next.at_ms), "{key}");
    within(consumer.close()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_type_in_the_dead_list_stops_no_claim_and_loses_nothing() {
    let server = RedisServer::start().await;
    for key in ["celeriac.dead", "celeriac.dead_raw", "celeriac.dead_index", "celeriac.dead_last"] {
        for (waits, lists) in [(false, 1), (true, 1), (true, 20)] {
            a_wrong_key_stops_nothing(&server, key, waits, lists).await;
        }
    }
}

#[tokio::test]
async fn a_wrong_type_in_the_dead_list_keeps_nobody_from_settling_or_restoring() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let consumer = consume(&transport, &["q"]).await;
    for key in ["celeriac.dead", "celeriac.dead_raw", "celeriac.dead_index", "celeriac.dead_last"] {
        let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
        publish(&transport, &[to("q", "rejected"), to("q", "good")]).await;
        let deliveries = take(&consumer, 2).await;
        let _: () = connection.rpush(key, "a list").await.unwrap();
        let outcome = Outcome::Dead { reason: "rejected", detail: "no".to_owned() };
        let batch = [only(&deliveries[0], outcome), only(&deliveries[1], Outcome::Ack)];
        for settled in within(consumer.settle(&batch)).await {
            assert_eq!(settled.unwrap(), Settled::Done, "{key}");
        }
        assert_eq!(within(transport.dead_count()).await.unwrap(), 1, "{key}");

        // A second one, and a claim that somebody left which nobody can read.
        let mut claim = redis::pipe();
        claim.atomic().del(key).rpush(key, "another list");
        claim.hset("unacked", "left", "[not json, \"\", \"q\"]");
        claim.zadd("unacked_index", "left", 1).zadd("celeriac.leases", "left", 1);
        let _: () = claim.query_async(&mut connection).await.unwrap();
        until(|| {
            let mut connection = connection.clone();
            async move {
                let raws: Vec<String> = connection.hvals("celeriac.dead_raw").await.unwrap_or_default();
                raws.contains(&"not json".to_owned()).then_some(())
            }
        })
        .await;
        let kept: Vec<String> = connection.lrange(format!("{key}.wrong_type:2"), 0, -1).await.unwrap();
        assert_eq!(kept, ["another list"]);
        assert!(!connection.exists::<_, bool>("unacked").await.unwrap(), "{key}");
    }
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

/// Keeps what is logged.
struct Lines(std::sync::Mutex<Vec<(String, String)>>);

static LINES: Lines = Lines(std::sync::Mutex::new(Vec::new()));

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push((record.target().to_owned(), record.args().to_string()));
    }

    fn flush(&self) {}
}

#[tokio::test]
async fn what_restorers_put_into_the_dead_list_has_one_line_in_the_log() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(log::LevelFilter::Error);
    let server = RedisServer::start().await;
    let mut connection = server.connection().await;
    let transports: Vec<_> = (0..4).map(|_| open(&server.url())).collect();
    let mut consumers = Vec::new();
    for transport in &transports {
        consumers.push(consume(transport, &["elsewhere"]).await);
    }
    for number in 0..50 {
        let (tag, record) = (format!("tag-{number}"), format!("[{{left {number}-}}, \"\", \"the queue\"]"));
        let mut claim = redis::pipe();
        claim.atomic().hset("unacked", &tag, record).zadd("unacked_index", &tag, 1).zadd(
            "celeriac.leases",
            &tag,
            1,
        );
        let _: () = claim.query_async(&mut connection).await.unwrap();
    }
    let lines = until(|| async {
        let lines = LINES.0.lock().unwrap().clone();
        let ours: Vec<_> = lines.into_iter().filter(|(_, line)| line.contains("the queue")).collect();
        (ours.len() >= 50).then_some(ours)
    })
    .await;
    assert_eq!(lines.len(), 50);
    for number in 0..50 {
        let start = format!("It begins with \"{{left {number}-}}\"");
        assert_eq!(lines.iter().filter(|(_, line)| line.contains(&start)).count(), 1, "{start}");
    }
    assert!(lines.iter().all(|(target, _)| target == "celery.worker.consumer"));
    assert_eq!(within(transports[0].dead_count()).await.unwrap(), 50);
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

#[tokio::test]
async fn a_dead_message_without_a_queue_is_replayed_only_where_it_is_told_to() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    publish(&transport, &[to("q", "one")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let delivery = take_one(&consumer).await;
    settle(&consumer, &delivery, Outcome::Dead { reason: "rejected", detail: String::new() }).await;
    // As an older or a newer version may have left it.
    let _: () = connection.hset("celeriac.dead", "strange", "{}").await.unwrap();
    let _: () = connection.hset("celeriac.dead_raw", "strange", b"\xff\xfe".as_slice()).await.unwrap();
    let _: () = connection.zadd("celeriac.dead_index", "strange", 5).await.unwrap();

    let letters = within(transport.dead_letters(0, 10)).await.unwrap();
    let known: Vec<_> =
        letters.iter().map(|letter| (letter.reason.as_str(), letter.queue.as_str(), letter.size)).collect();
    assert_eq!(known, [("unreadable", "", 2), ("rejected", "q", delivery.raw.len() as u64)]);
    assert_eq!((letters[0].id.as_str(), letters[0].at_ms), ("strange", 5));
    let ids = [letters[1].id.clone(), "strange".to_owned()];
    let error = within(transport.replay_dead(&ids, None)).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_INVALID_ARGUMENT");
    assert_eq!(within(transport.queue_length("q")).await.unwrap(), 0, "nothing was moved");
    assert_eq!(within(transport.dead_count()).await.unwrap(), 2);
    assert_eq!(within(transport.replay_dead(&ids, Some("other"))).await.unwrap(), [true, true]);
    let moved: Vec<Vec<u8>> = connection.lrange("other", 0, -1).await.unwrap();
    assert_eq!(moved, [b"\xff\xfe".to_vec(), delivery.raw.to_vec()]);
    for key in ["celeriac.dead", "celeriac.dead_raw", "celeriac.dead_index"] {
        assert!(!connection.exists::<_, bool>(key).await.unwrap(), "{key}");
    }
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
    let (_server, port, certificates) = start_with_tls("no").await;
    let ca_certs = certificates.file("certificate.pem");
    let with = |query: &str| format!("rediss://localhost:{port}/0{query}");
    for url in [with("?ssl_cert_reqs=none"), with(&format!("?ssl_ca_certs={ca_certs}"))] {
        carry_a_message(&open(&url)).await;
    }
    assert_eq!(code_of(&open(&with(""))).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
    assert_eq!(code_of(&open(&with("?ssl_cert_reqs=required"))).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_takes_ours() {
    let (_server, port, certificates) = start_with_tls("yes").await;
    let ca_certs = certificates.file("certificate.pem");
    let url = format!("redis://localhost:{port}/0");
    let open = |ssl: serde_json::Value| {
        let options = serde_json::json!({ "ssl": ssl }).as_object().cloned().unwrap_or_default();
        celeriac_broker::open(&url, TransportOptions { options, ..TransportOptions::default() }).unwrap()
    };
    let (certfile, keyfile) = (certificates.file("certificate.pem"), certificates.file("key.pem"));
    carry_a_message(&open(serde_json::json!({
        "ssl_ca_certs": ca_certs, "ssl_certfile": certfile, "ssl_keyfile": keyfile,
    })))
    .await;
    let without = open(serde_json::json!({ "ssl_ca_certs": ca_certs }));
    assert_eq!(code_of(&without).await, "ERR_CELERIAC_BROKER_UNAVAILABLE");
}

/// A server that only speaks TLS on the port that is given, and the folder with its certificate.
async fn start_with_tls(auth_clients: &str) -> (RedisServer, u16, Folder) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempdir();
    std::fs::write(folder.file("certificate.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let tls = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", folder.file("certificate.pem")),
        ("--tls-key-file", folder.file("key.pem")),
        ("--tls-ca-cert-file", folder.file("certificate.pem")),
        ("--tls-auth-clients", auth_clients.to_owned()),
    ];
    let arguments = tls.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let options = RedisServerOptions { arguments, ..RedisServerOptions::default() };
    (RedisServer::start_with(options).await, port, folder)
}

async fn carry_a_message(transport: &Arc<dyn Transport>) {
    let consumer = consume(transport, &["q"]).await;
    publish(transport, &[to("q", "hidden")]).await;
    let delivery = take_one(&consumer).await;
    assert_eq!(body(&delivery), "hidden");
    settle(&consumer, &delivery, Outcome::Ack).await;
    within(transport.close()).await;
}

/// A folder that goes when it is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

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
