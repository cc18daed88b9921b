//! What happens on Redis when somebody dies, a server restarts, or an answer is lost.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{Exchange, ExchangeType, Outcome, Publication, Settled};
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

mod redis_support;
use redis_support::relay::{Cut, Relay};
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

#[tokio::test]
async fn publishing_and_receiving_go_on_after_a_restart_of_the_server() {
    let options = RedisServerOptions { append_only: true, ..RedisServerOptions::default() };
    let mut server = RedisServer::start_with(options).await;
    let transport = open(&server.url());
    let consumer = consume(&transport, &["q"]).await;
    publish(&transport, &[to("q", "held"), to("q", "waiting")]).await;
    let held = take_one(&consumer).await;
    for round in 0..3 {
        let waiting = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            async move { take_patiently(&consumer).await }
        });
        if round == 1 {
            server.kill();
            server.start_again().await;
        } else {
            server.restart().await;
        }
        let came = within(waiting).await.unwrap();
        assert_eq!(body(&came), if round == 0 { "waiting".to_owned() } else { format!("after {round}") });
        settle_patiently(&consumer, &came).await;
        let next = to("q", &format!("after {}", round + 1));
        until(|| async { transport.publish(std::slice::from_ref(&next)).await.remove(0).ok() }).await;
    }
    settle_patiently(&consumer, &held).await;
}

async fn settle_patiently(
    consumer: &Arc<dyn celeriac_broker::Consumer>,
    delivery: &celeriac_broker::Delivery,
) {
    let settled =
        until(|| async { consumer.settle(&[only(delivery, Outcome::Ack)]).await.remove(0).ok() }).await;
    assert_eq!(settled, Settled::Done);
}

#[tokio::test]
async fn a_waiting_consumer_survives_the_loss_of_scripts_credits_and_connections() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let consumer = consume(&transport, &["q"]).await;
    let mut connection = server.connection().await;
    for mishap in ["SCRIPT FLUSH", "FLUSHALL", "CLIENT KILL TYPE normal SKIPME yes"] {
        let waiting = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            async move { take_patiently(&consumer).await }
        });
        // It waits once it has a credit.
        until(|| {
            let mut connection = connection.clone();
            async move { connection.exists::<_, bool>("celeriac.credits").await.unwrap().then_some(()) }
        })
        .await;
        let words: Vec<&str> = mishap.split(' ').collect();
        let _: redis::Value =
            redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap();
        let _: () = connection.lpush("q", raw("q", mishap)).await.unwrap();
        let came = within(waiting).await.unwrap();
        assert_eq!(body(&came), mishap);
        settle_patiently(&consumer, &came).await;
    }
}

#[tokio::test]
async fn a_subscription_listens_again_after_its_connection_broke() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let exchange = Exchange { name: "all".to_owned(), kind: ExchangeType::Fanout, ..Exchange::default() };
    let mut subscription = within(transport.subscribe(&exchange, &[])).await.unwrap();
    let mut connection = server.connection().await;
    let _: u32 =
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query_async(&mut connection).await.unwrap();
    let publication =
        Publication { exchange: "all".into(), exchange_type: ExchangeType::Fanout, ..to("", "hello") };
    let message = within(async {
        loop {
            // What is sent before it listens again is lost, as with any fanout.
            publish(&transport, std::slice::from_ref(&publication)).await;
            let next = tokio::time::timeout(Duration::from_millis(50), subscription.next());
            if let Ok(message) = next.await {
                break message.unwrap();
            }
        }
    })
    .await;
    assert_eq!(&message.body[..], b"hello");
}

#[tokio::test]
async fn a_settlement_whose_answer_was_lost_may_be_repeated() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let transport = open(&relay.url());
    publish(&transport, &[to("q", "first"), to("q", "second")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let deliveries = take(&consumer, 2).await;
    // From now on the server knows the script, so that the first answer is the one that counts.
    settle(&consumer, &deliveries[0], Outcome::Ack).await;

    let mut all = only(&deliveries[1], Outcome::Ack);
    let queue = "swallow the answer";
    all.publish = vec![to(queue, "callback")];
    relay.cut_next(Cut::AnswerTo(queue));
    let error = within(consumer.settle(std::slice::from_ref(&all))).await.remove(0).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(within(transport.queue_length(queue)).await.unwrap(), 1, "it did happen");

    assert_eq!(within(consumer.settle(std::slice::from_ref(&all))).await.remove(0).unwrap(), Settled::Done);
    assert_eq!(within(transport.queue_length(queue)).await.unwrap(), 1, "it is sent once");
    let again = within(consumer.settle(&[all])).await.remove(0).unwrap();
    assert_eq!(again, Settled::Lost, "once told, it is not held any more");
}

#[tokio::test]
async fn a_settlement_without_an_answer_is_not_believed_once_the_lease_ran_out() {
    let options = RedisServerOptions { append_only: true, ..RedisServerOptions::default() };
    let mut server = RedisServer::start_with(options).await;
    let relay = Relay::start(server.port()).await;
    let transport = open(&relay.url());
    let consumer = consume_with_lease(&transport, &["q"], Duration::from_secs(1)).await;
    publish(&transport, &[to("q", "known"), to("q", "taken")]).await;
    let deliveries = take(&consumer, 2).await;
    // From now on the server knows the script.
    settle(&consumer, &deliveries[0], Outcome::Ack).await;
    let mut settlement = only(&deliveries[1], Outcome::Ack);
    let queue = "never sent";
    settlement.publish = vec![to(queue, "callback")];
    relay.cut_next(Cut::Question(queue));
    let error = within(consumer.settle(std::slice::from_ref(&settlement))).await.remove(0).unwrap_err();
    assert!(error.is_transient(), "{error}");

    server.kill();
    until(|| async { (!consumer.leases_stand()).then_some(()) }).await;
    server.start_again().await;
    // As somebody takes over what nobody renewed.
    let mut connection = server.connection().await;
    let _: () = connection.del(&["unacked", "unacked_index", "celeriac.leases"]).await.unwrap();
    let settled =
        until(|| async { consumer.settle(std::slice::from_ref(&settlement)).await.remove(0).ok() }).await;
    assert_eq!(settled, Settled::Lost);
    assert_eq!(within(open(&server.url()).queue_length(queue)).await.unwrap(), 0);
}

/// In every message, and in nothing else that is sent.
const MARK: &str = r#""task": "test""#;

/// Nothing of ours is left where it is held.
async fn holds_nothing(server: &RedisServer) {
    let mut connection = server.connection().await;
    for key in ["unacked", "unacked_index", "celeriac.leases"] {
        assert!(!connection.exists::<_, bool>(key).await.unwrap(), "{key}");
    }
}

#[tokio::test]
async fn what_a_sweep_claimed_whose_answer_was_lost_comes_before_its_lease_is_over() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let mut low = to("b", "three");
    low.message.properties.priority = Some(9);
    publish(&open(&server.url()), &[to("a", "one"), to("a", "two"), low]).await;
    let transport = open(&relay.url());
    let consumer = consume(&transport, &["a", "b"]).await;
    relay.cut_next(Cut::AnswerWith(MARK));
    let error = within(consumer.receive(5)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let mut connection = server.connection().await;
    assert_eq!(connection.hlen::<_, u32>("unacked").await.unwrap(), 3, "it did happen");

    let came = take(&consumer, 3).await;
    let mut seen: Vec<_> =
        came.iter().map(|one| (body(one), one.queue.to_string(), redelivered(one))).collect();
    seen.sort();
    let expected = [("one", "a", false), ("three", "b", false), ("two", "a", false)];
    assert_eq!(seen, expected.map(|(body, queue, again)| (body.to_owned(), queue.to_owned(), again)));
    for delivery in &came[..2] {
        settle(&consumer, delivery, Outcome::Ack).await;
    }
    // The last goes back to where it came from.
    within(consumer.close()).await.unwrap();
    let list = if body(&came[2]) == "three" { "b\x06\x169" } else { "a" };
    assert_eq!(connection.llen::<_, u32>(list).await.unwrap(), 1);
    holds_nothing(&server).await;
}

#[tokio::test]
async fn what_a_waiting_connection_claimed_whose_answer_was_lost_comes_before_its_lease_is_over() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let (direct, transport) = (open(&server.url()), open(&relay.url()));
    let consumer = consume(&transport, &["q"]).await;
    for text in ["first", "second"] {
        let waiting = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            async move { take_patiently(&consumer).await }
        });
        let connection = server.connection().await;
        until(|| {
            let mut connection = connection.clone();
            async move { waits(&mut connection).await }
        })
        .await;
        relay.cut_next(Cut::AnswerWith(MARK));
        publish(&direct, &[to("q", text)]).await;
        let came = within(waiting).await.unwrap();
        assert_eq!((body(&came), redelivered(&came)), (text.to_owned(), false));
        assert!(!relay.is_armed(), "the answer was cut off");
        settle_patiently(&consumer, &came).await;
        holds_nothing(&server).await;
    }
}

#[tokio::test]
async fn what_is_too_much_for_the_line_is_left_to_others_and_takes_nothing_with_it() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let direct = open(&server.url());
    let mut heavy = to("q", "heavy");
    heavy.message.headers = format!(r#"{{"task": "{TOO_MUCH}"}}"#);
    publish(&direct, &[to("q", "before"), heavy, to("q", "after")]).await;
    let consumer = consume(&open(&relay.url()), &["q"]).await;
    relay.withhold(TOO_MUCH);
    let error = within(consumer.receive(3)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let mut connection = server.connection().await;
    assert_eq!(connection.hlen::<_, u32>("unacked").await.unwrap(), 3, "it did happen");
    // Somebody waits for it: otherwise ours would come by it again and again.
    let other = consume(&direct, &["q"]).await;
    let elsewhere = tokio::spawn(async move { body(&take_one(&other).await) });
    for text in ["before", "after"] {
        let came = take_patiently(&consumer).await;
        assert_eq!((body(&came), redelivered(&came)), (text.to_owned(), false));
    }
    // It may have asked for it once more meanwhile, and would look for that when it is asked again.
    assert!(within(consumer.pause()).await.is_empty());
    assert_eq!(within(elsewhere).await.unwrap(), "heavy");
}

/// The task of a message that no answer comes with.
const TOO_MUCH: &str = "too_much";

/// Whether somebody is blocked on a list.
async fn waits(connection: &mut MultiplexedConnection) -> Option<()> {
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(connection).await.unwrap();
    clients.lines().any(|client| client.contains(" flags=b ")).then_some(())
}

/// Lets it wait until the server knows, then lets it not claim any more.
async fn wait_and_pause(server: &RedisServer, consumer: &Arc<dyn celeriac_broker::Consumer>) {
    let waiting = tokio::spawn({
        let consumer = Arc::clone(consumer);
        async move { take_patiently(&consumer).await }
    });
    let mut connection = server.connection().await;
    loop {
        until(|| {
            let mut connection = connection.clone();
            async move { waits(&mut connection).await }
        })
        .await;
        if connection.exists("celeriac.credits").await.unwrap() {
            break;
        }
    }
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert!(within(consumer.pause()).await.is_empty());
}

#[tokio::test]
async fn a_claim_that_reaches_the_server_after_its_connection_broke_is_found_too() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let transport = open(&relay.url());
    let consumer = consume(&transport, &["q"]).await;
    // The server knows the scripts.
    wait_and_pause(&server, &consumer).await;
    within(consumer.set_queues(vec![celery_queue("q"), celery_queue("other")])).await.unwrap();
    relay.cut_next(Cut::Question("\"other\""));
    let error = within(consumer.receive(2)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    // By now it has looked, and found nothing.
    wait_and_pause(&server, &consumer).await;
    publish(&open(&server.url()), &[to("q", "late")]).await;
    let mut connection = server.connection().await;
    until(|| {
        let mut connection = connection.clone();
        async move { (connection.llen::<_, u32>("q").await.unwrap() == 1).then_some(()) }
    })
    .await;
    relay.send_what_was_kept().await;
    assert_eq!(connection.hlen::<_, u32>("unacked").await.unwrap(), 1, "it did happen");
    let came = take_patiently(&consumer).await;
    assert_eq!(body(&came), "late");
    settle_patiently(&consumer, &came).await;
    holds_nothing(&server).await;
}

#[tokio::test]
async fn what_was_moved_for_a_busy_consumer_goes_back_when_its_connection_does() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let consumer = consume(&open(&relay.url()), &["q"]).await;
    wait_and_pause(&server, &consumer).await;
    let mut connection = server.connection().await;
    let names: Vec<String> = connection.zrange("celeriac.workers", 0, -1).await.unwrap();
    let private = format!("celeriac.claim:{}:q", names[0]);
    // As a break leaves it between BLMOVE and its script.
    let _: () = connection.lpush(&private, raw("q", "moved")).await.unwrap();
    relay.cut_all();
    until(|| {
        let mut connection = connection.clone();
        async move { (connection.llen::<_, u32>("q").await.unwrap() == 1).then_some(()) }
    })
    .await;
    assert!(!connection.exists::<_, bool>(&private).await.unwrap());
}

#[tokio::test]
async fn a_consumer_whose_connections_broke_is_remembered_though_it_stopped_before_it_closed() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let mut connection = server.connection().await;
    for (breaks, remembered) in [(false, 0), (true, 1)] {
        let consumer = consume(&open(&relay.url()), &["q"]).await;
        wait_and_pause(&server, &consumer).await;
        if breaks {
            relay.cut_all();
            // It waits again.
            wait_and_pause(&server, &consumer).await;
        }
        within(consumer.stop()).await;
        within(consumer.close()).await.unwrap();
        // The server may still move a message for a connection that it does not know to be broken.
        assert_eq!(connection.zcard::<_, u32>("celeriac.workers").await.unwrap(), remembered);
    }
}

/// Cuts come at random moments, so this one looks for what nobody thought of.
#[tokio::test]
async fn cut_connections_lose_nothing_and_double_nothing() {
    const MESSAGES: usize = 400;
    let mut state = uuid::Uuid::new_v4().as_u128() as u64 | 1;
    println!("seed {state}");
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let direct = open(&server.url());
    let consumer = consume(&open(&relay.url()), &["a", "b"]).await;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut sent = 0;
    while seen.len() < MESSAGES {
        let count = random(8) as usize + 1;
        let batch: Vec<_> = (sent..MESSAGES.min(sent + count))
            .map(|number| to(if random(2) == 0 { "a" } else { "b" }, &number.to_string()))
            .collect();
        sent += batch.len();
        match random(6) {
            0 => relay.cut_next(Cut::AnswerWith(MARK)),
            1 => relay.cut_all(),
            _ => {}
        }
        let receiving = tokio::spawn({
            let (consumer, most) = (Arc::clone(&consumer), random(12) as usize + 1);
            async move { until(|| async { consumer.receive(most).await.ok() }).await }
        });
        if random(2) == 0 {
            tokio::task::yield_now().await;
        }
        publish(&direct, &batch).await;
        let came = within(receiving).await.unwrap();
        for delivery in &came {
            assert!(!redelivered(delivery), "no lease was over");
            *seen.entry(body(delivery)).or_default() += 1;
            settle_patiently(&consumer, delivery).await;
        }
    }
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    within(consumer.close()).await.unwrap();
    holds_nothing(&server).await;
}
