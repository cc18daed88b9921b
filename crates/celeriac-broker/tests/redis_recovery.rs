//! What happens on Redis when somebody dies, stands still or comes back after an outage.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use celeriac_broker::{Exchange, ExchangeType, Outcome};
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::time::Duration;

mod redis_support;
use redis_support::*;

/// As short as the transport allows.
const SHORT_LEASE: Duration = Duration::from_millis(500);

fn raw(queue: &str, body: &str) -> String {
    envelope::encode(&to(queue, body).message, "", queue)
}

#[tokio::test]
async fn what_a_dead_holder_had_comes_back_in_order_marked_and_with_its_priority() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut urgent = to("q", "urgent");
    urgent.message.properties.priority = Some(3);
    publish(&transport, &[to("q", "one"), to("q", "two"), urgent]).await;
    let dying = consume_with_lease(&transport, &["q"], SHORT_LEASE).await;
    assert_eq!(take(&dying, 3).await.len(), 3);
    publish(&transport, &[to("q", "three")]).await;
    drop(dying);

    // Looks for what others left, and takes nothing itself.
    let _restorer = consume(&transport, &["elsewhere"]).await;
    let mut connection = server.connection().await;
    until(|| {
        let mut connection = connection.clone();
        async move { (!connection.exists::<_, bool>("unacked").await.unwrap()).then_some(()) }
    })
    .await;
    assert_eq!(connection.llen::<_, u32>("q\x06\x163").await.unwrap(), 1);
    let next = consume(&transport, &["q"]).await;
    let came = take(&next, 4).await;
    let seen: Vec<_> = came.iter().map(|delivery| (body(delivery), redelivered(delivery))).collect();
    let expected = [("one", true), ("two", true), ("three", false), ("urgent", true)];
    assert_eq!(seen, expected.map(|(body, again)| (body.to_owned(), again)));
}

#[tokio::test]
async fn a_malformed_claim_that_somebody_left_goes_to_the_dead_list() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    // As a kill leaves it between the claim and the look at the message.
    for (tag, record) in [("one", "[not json, \"\", \"q\"]"), ("two", "no record")] {
        let _: () = connection.hset("unacked", tag, record).await.unwrap();
        let _: () = connection.zadd("unacked_index", tag, 1).await.unwrap();
        let _: () = connection.zadd("celeriac.leases", tag, 1).await.unwrap();
    }
    let _restorer = consume(&transport, &["elsewhere"]).await;
    let letters = until(|| async {
        let letters = transport.dead_letters(0, 10).await.unwrap();
        (letters.len() == 2).then_some(letters)
    })
    .await;
    let mut kept = Vec::new();
    for letter in &letters {
        let (_, raw) = transport.dead_letter(&letter.id).await.unwrap().unwrap();
        kept.push((letter.queue.as_str(), raw));
    }
    kept.sort_unstable();
    assert_eq!(kept, [("", "no record".into()), ("q", "not json".into())]);
    for key in ["unacked", "unacked_index", "celeriac.leases"] {
        assert!(!connection.exists::<_, bool>(key).await.unwrap(), "{key}");
    }
}

#[tokio::test]
async fn kombus_claims_come_back_by_their_bindings_when_they_are_too_old() {
    let server = RedisServer::start().await;
    let transport = open(&format!("{}?visibility_timeout=3600&unacked_restore_interval=0.2", server.url()));
    let mut connection = server.connection().await;
    let now: (f64, f64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    let mut topic = celery_queue("by-topic");
    topic.exchange = Exchange { name: "topics".to_owned(), kind: ExchangeType::Topic, ..Exchange::default() };
    topic.routing_key = "mail.*".to_owned();
    transport.declare(&[celery_queue("direct"), topic]).await.unwrap();
    let claims = [
        ("plain", "", "plain", 3700.0),
        ("direct", "direct", "direct", 3700.0),
        ("topic", "topics", "mail.send", 3700.0),
        ("nowhere", "gone", "key", 3700.0),
        ("unbound", "direct", "other", 3700.0),
        ("young", "", "plain", 3500.0),
    ];
    for (tag, exchange, routing_key, age) in claims {
        let record = format!("[{}, \"{exchange}\", \"{routing_key}\"]", raw(routing_key, tag));
        let _: () = connection.hset("unacked", tag, record).await.unwrap();
        let _: () = connection.zadd("unacked_index", tag, now.0 - age).await.unwrap();
    }

    let consumer = consume(&transport, &["plain", "direct", "by-topic"]).await;
    let mut came = take(&consumer, 3).await;
    came.sort_by_key(body);
    let seen: Vec<_> = came.iter().map(|delivery| (body(delivery), delivery.queue.to_string())).collect();
    let expected = [("direct", "direct"), ("plain", "plain"), ("topic", "by-topic")];
    assert_eq!(seen, expected.map(|(body, queue)| (body.to_owned(), queue.to_owned())));
    assert!(came.iter().all(redelivered));
    let letters = until(|| async {
        let letters = transport.dead_letters(0, 10).await.unwrap();
        (letters.len() == 2).then_some(letters)
    })
    .await;
    assert!(letters.iter().all(|letter| letter.reason == "unroutable"));
    assert!(connection.hexists::<_, _, bool>("unacked", "young").await.unwrap(), "it may be running");
}

#[tokio::test]
async fn kombus_old_claim_is_found_behind_many_that_have_a_lease() {
    let server = RedisServer::start().await;
    let transport = open(&format!("{}?unacked_restore_interval=0.2", server.url()));
    let mut connection = server.connection().await;
    // More than one round looks at.
    let tags: Vec<String> = (0..5000).map(|number| format!("leased {number}")).collect();
    for (index, score) in [("unacked_index", 1.0), ("celeriac.leases", 1e12)] {
        let scored: Vec<(f64, &String)> = tags.iter().map(|tag| (score, tag)).collect();
        let _: () = connection.zadd_multiple(index, &scored).await.unwrap();
    }
    let record = format!("[{}, \"\", \"q\"]", raw("q", "behind"));
    let _: () = connection.hset("unacked", "kombu", record).await.unwrap();
    let _: () = connection.zadd("unacked_index", "kombu", 2).await.unwrap();
    let consumer = consume(&transport, &["q"]).await;
    assert_eq!(body(&take_one(&consumer).await), "behind");
    assert_eq!(connection.zcard::<_, usize>("celeriac.leases").await.unwrap(), tags.len() + 1);
}

#[tokio::test]
async fn what_was_moved_for_a_dead_consumer_comes_back() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    // As a kill leaves it between BLMOVE and its script.
    let _: () = connection.zadd("celeriac.workers", "gone", 1).await.unwrap();
    let _: () = connection.sadd("celeriac.claim:gone", "q").await.unwrap();
    for text in ["one", "two"] {
        let _: () = connection.lpush("celeriac.claim:gone:q", raw("q", text)).await.unwrap();
    }
    let _: () = connection.lpush("q", raw("q", "three")).await.unwrap();
    let _restorer = consume(&transport, &["elsewhere"]).await;
    until(|| {
        let mut connection = connection.clone();
        async move { (connection.llen::<_, u32>("q").await.unwrap() == 3).then_some(()) }
    })
    .await;
    let consumer = consume(&transport, &["q"]).await;
    let came = take(&consumer, 3).await;
    assert_eq!(came.iter().map(body).collect::<Vec<_>>(), ["one", "two", "three"]);
    assert!(!came.iter().any(redelivered), "nobody has seen them");
    assert!(!connection.exists::<_, bool>("celeriac.claim:gone").await.unwrap(), "it is forgotten");
}

#[tokio::test]
async fn what_was_moved_for_us_while_we_were_away_comes_with_the_next_message() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let consumer = consume(&transport, &["q"]).await;
    let nothing = tokio::time::timeout(Duration::from_millis(100), consumer.receive(2)).await;
    assert!(nothing.is_err());
    let mut connection = server.connection().await;
    let names: Vec<String> = connection.zrange("celeriac.workers", 0, -1).await.unwrap();
    let private = format!("celeriac.claim:{}:q", names[0]);
    let _: () = connection.lpush(&private, raw("q", "left")).await.unwrap();
    publish(&transport, &[to("q", "new")]).await;
    let came = take(&consumer, 2).await;
    assert_eq!(came.iter().map(body).collect::<Vec<_>>(), ["left", "new"]);
}

#[tokio::test]
async fn an_outage_longer_than_a_lease_takes_nothing_from_those_who_live() {
    let options = RedisServerOptions { append_only: true, ..RedisServerOptions::default() };
    let mut server = RedisServer::start_with(options).await;
    let transport = open(&server.url());
    // Longer than the time between two signs of life: everybody sees that the server is away.
    let holder = consume_with_lease(&transport, &["q"], Duration::from_secs(2)).await;
    publish(&transport, &[to("q", "held")]).await;
    let held = take_one(&holder).await;
    // So many that one of them finds the server before its holder does.
    let mut watching = Vec::new();
    for _ in 0..20 {
        watching.push(consume(&open(&server.url()), &["elsewhere"]).await);
    }
    for round in 0..3 {
        server.kill();
        until(|| async { (!holder.leases_stand()).then_some(()) }).await;
        server.start_again().await;
        assert_eq!(within(holder.lost()).await, [], "in round {round}");
        assert!(holder.leases_stand());
    }
    settle(&holder, &held, Outcome::Ack).await;

    // But whoever is really gone is noticed again.
    let next = to("q", "left");
    until(|| async { transport.publish(std::slice::from_ref(&next)).await.remove(0).ok() }).await;
    let left = take_patiently(&holder).await;
    drop(holder);
    until(|| async { (transport.queue_length("q").await.unwrap() == 1).then_some(()) }).await;
    assert_eq!(body(&left), "left");
}

/// The server's clock, in seconds.
async fn now(connection: &mut MultiplexedConnection) -> f64 {
    let (seconds, micros): (f64, f64) = redis::cmd("TIME").query_async(connection).await.unwrap();
    seconds + micros / 1e6
}

/// The only consumer that the server knows.
async fn only_name(connection: &mut MultiplexedConnection) -> String {
    let mut names: Vec<String> = connection.zrange("celeriac.workers", 0, -1).await.unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    names.remove(0)
}

/// Waits until this consumer has given a sign of life that many seconds from now.
async fn until_it_lived_for(connection: &MultiplexedConnection, name: &str, seconds: f64) {
    let since = now(&mut connection.clone()).await;
    until(|| {
        let mut connection = connection.clone();
        async move {
            let seen: f64 = connection.zscore("celeriac.workers", name).await.unwrap();
            (seen >= since + seconds).then_some(())
        }
    })
    .await;
}

/// Records a claim whose lease ends at that moment, as a worker leaves it that is killed.
async fn leave_claim(connection: &mut MultiplexedConnection, tag: &str, expiry: f64) {
    let record = format!("[{}, \"\", \"q\"]", raw("q", tag));
    let _: () = connection.hset("unacked", tag, record).await.unwrap();
    for index in ["unacked_index", "celeriac.leases"] {
        let _: () = connection.zadd(index, tag, expiry).await.unwrap();
    }
}

/// Waits until a list has that many messages.
async fn until_length(connection: &MultiplexedConnection, list: &str, length: usize) {
    until(|| {
        let mut connection = connection.clone();
        async move { (connection.llen::<_, usize>(list).await.unwrap() == length).then_some(()) }
    })
    .await;
}

/// Longer than a consumer counts as one that may just have come back from an outage.
const SETTLED_IN: f64 = 2.5;

#[tokio::test]
async fn a_holder_of_the_turn_that_died_delays_what_is_due_by_little() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let mut connection = server.connection().await;
    let _restorer = consume_with_lease(&transport, &["elsewhere"], SHORT_LEASE).await;
    let restorer = only_name(&mut connection).await;
    until_it_lived_for(&connection, &restorer, SETTLED_IN).await;
    for round in 1..=5 {
        let dying = consume_with_lease(&transport, &["elsewhere"], SHORT_LEASE).await;
        until(|| {
            let (mut connection, restorer) = (connection.clone(), &restorer);
            async move {
                let holder: Option<String> = connection.get("celeriac.restore_turn").await.unwrap();
                holder.is_some_and(|holder| holder != *restorer).then_some(())
            }
        })
        .await;
        drop(dying);
        let due = now(&mut connection).await;
        leave_claim(&mut connection, "left", due).await;
        until_length(&connection, "q", round).await;
        let late = now(&mut connection).await - due;
        // Of the two seconds that are promised, so that what comes back can still begin within them.
        assert!(late < 1.0, "{late} s in round {round}");
    }
}

#[tokio::test]
async fn what_was_moved_for_a_killed_consumer_comes_back_as_soon_as_what_it_held() {
    let lease = Duration::from_secs(1);
    let server = RedisServer::start().await;
    let mut connection = server.connection().await;
    let _restorer = consume_with_lease(&open(&server.url()), &["elsewhere"], lease).await;
    let restorer = only_name(&mut connection).await;
    until_it_lived_for(&connection, &restorer, SETTLED_IN).await;
    let killed = now(&mut connection).await;
    // It gave a sign of life at that very moment.
    let _: () = connection.zadd("celeriac.workers", "killed", format!("{killed:.3}")).await.unwrap();
    let _: () = connection.sadd("celeriac.claim:killed", "q").await.unwrap();
    let _: () = connection.lpush("celeriac.claim:killed:q", raw("q", "moved")).await.unwrap();
    until_length(&connection, "q", 1).await;
    let took = now(&mut connection).await - killed;
    assert!(took < lease.as_secs_f64() + 2.0, "{took} s");
}

#[tokio::test]
async fn a_living_consumer_that_was_taken_for_dead_loses_nothing_and_doubles_nothing() {
    let server = RedisServer::start().await;
    let (transport, direct) = (open(&server.url()), open(&server.url()));
    let mut connection = server.connection().await;
    let consumer = consume(&transport, &["q"]).await;
    let name = only_name(&mut connection).await;
    let _restorer = consume_with_lease(&direct, &["elsewhere"], SHORT_LEASE).await;
    for round in 0..3 {
        let text = round.to_string();
        let waiting = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            async move { take_one(&consumer).await }
        });
        until(|| {
            let (mut connection, name) = (connection.clone(), &name);
            async move { connection.hexists::<_, _, bool>("celeriac.credits", name).await.unwrap().then_some(()) }
        })
        .await;
        let private = format!("celeriac.claim:{name}:q");
        // What a BLMOVE moved whose script has not come yet.
        let _: () = connection.lpush(&private, raw("q", &text)).await.unwrap();
        until(|| {
            let (mut connection, name, private) = (connection.clone(), &name, &private);
            async move {
                // Again and again: it gives signs of life.
                let _: () = connection.zadd("celeriac.workers", name, 1).await.unwrap();
                (!connection.exists::<_, bool>(private).await.unwrap()).then_some(())
            }
        })
        .await;
        let came = within(waiting).await.unwrap();
        assert_eq!(body(&came), text);
        settle(&consumer, &came, Outcome::Ack).await;
        assert_eq!(within(direct.queue_length("q")).await.unwrap(), 0);
    }
    holds_nothing(&server).await;
}

#[tokio::test]
async fn a_consumer_that_starts_after_an_outage_takes_nothing_from_those_who_live() {
    let options = RedisServerOptions { append_only: true, ..RedisServerOptions::default() };
    let mut server = RedisServer::start_with(options).await;
    let transport = open(&server.url());
    // An outage shows by two seconds without a sign of life. Of a shorter lease less may be left, where a busy machine renews late.
    let lease = Duration::from_secs(5);
    let holder = consume_with_lease(&transport, &["q"], lease).await;
    publish(&transport, &[to("q", "held")]).await;
    let held = take_one(&holder).await;
    let mut starting = Vec::new();
    for round in 0..3 {
        server.kill();
        starting.clear();
        until(|| async { (!holder.leases_stand()).then_some(()) }).await;
        server.start_again().await;
        // Two: the second one finds the first, which knows no more than it.
        for _ in 0..2 {
            starting.push(consume_with_lease(&open(&server.url()), &["elsewhere"], lease).await);
        }
        assert_eq!(within(holder.lost()).await, [], "in round {round}");
        assert!(holder.leases_stand());
    }
    settle(&holder, &held, Outcome::Ack).await;
}

#[tokio::test]
async fn after_everybody_died_a_consumer_that_starts_leaves_time_for_those_who_may_live_and_then_restores() {
    let server = RedisServer::start().await;
    let mut connection = server.connection().await;
    let silent_since = now(&mut connection).await - 10.0;
    let _: () = connection.zadd("celeriac.workers", "silent", silent_since).await.unwrap();
    leave_claim(&mut connection, "left", silent_since + 5.0).await;
    let start = now(&mut connection).await;
    let lease = Duration::from_secs(2);
    let _restorer = consume_with_lease(&open(&server.url()), &["elsewhere"], lease).await;
    let names: Vec<String> = connection.zrange("celeriac.workers", 1, 1).await.unwrap();
    // With the second of its signs of life it could have restored by the first.
    until_it_lived_for(&connection, &names[0], 0.1).await;
    assert!(connection.hexists::<_, _, bool>("unacked", "left").await.unwrap(), "whose it is may renew it");
    until_length(&connection, "q", 1).await;
    let took = now(&mut connection).await - start;
    assert!(took < 10.0, "{took} s");
}

#[tokio::test]
async fn what_others_left_comes_back_when_the_memory_of_the_server_is_full() {
    let server = RedisServer::start().await;
    let mut connection = server.connection().await;
    let _: () = connection.zadd("celeriac.workers", "gone", 1).await.unwrap();
    let _: () = connection.sadd("celeriac.claim:gone", "q").await.unwrap();
    let _: () = connection.lpush("celeriac.claim:gone:q", raw("q", "moved")).await.unwrap();
    let _restorer = consume(&open(&server.url()), &["elsewhere"]).await;
    leave_claim(&mut connection, "left", 1.0).await;
    let _: () =
        redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query_async(&mut connection).await.unwrap();
    assert!(connection.set::<_, _, ()>("key", "value").await.is_err(), "the memory is full");
    until_length(&connection, "q", 2).await;
}

#[tokio::test]
async fn leases_that_run_out_while_their_renewal_is_under_way_are_told_of_when_it_is_answered() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let lease = Duration::from_secs(3);
    let consumer = consume_with_lease(&transport, &["q"], lease).await;
    publish(&transport, &[to("q", "held")]).await;
    let held = take_one(&consumer).await;
    // The first renewal, a third of a lease from now, is answered after the lease, and within one of its own.
    let mut connection = server.connection().await;
    let pause = lease + lease / 6;
    let _: () = redis::cmd("CLIENT")
        .arg("PAUSE")
        .arg(pause.as_millis() as u64)
        .arg("ALL")
        .query_async(&mut connection)
        .await
        .unwrap();
    until(|| async { (!consumer.leases_stand()).then_some(()) }).await;
    assert_eq!(within(consumer.lost()).await, []);
    assert!(consumer.leases_stand());
    settle(&consumer, &held, Outcome::Ack).await;
}
