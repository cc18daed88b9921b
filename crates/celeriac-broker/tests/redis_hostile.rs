//! What nobody should have written to Redis, and where it ends: in the dead list, stopping nobody.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use celeriac_broker::{Outcome, Settled};
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::RedisServer;
use redis::AsyncCommands;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

mod redis_support;
use redis_support::stoppable::Stoppable;
use redis_support::*;

/// Short enough to wait for.
const SHORT_LEASE: Duration = Duration::from_secs(1);

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
