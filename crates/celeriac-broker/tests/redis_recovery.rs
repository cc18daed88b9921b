//! What happens on Redis when somebody dies, a server restarts, or an answer is lost.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use celeriac_broker::{Exchange, ExchangeType, Outcome, Publication, Settled};
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use redis::AsyncCommands;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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

/// Between a client and the server; can swallow the answer to what has this text in it.
struct Proxy {
    port: u16,
    armed: Arc<AtomicBool>,
}

const TEXT: &[u8] = b"swallow the answer";

impl Proxy {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, armed) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, Arc::clone(&flag)));
            }
        });
        Self { port, armed }
    }
}

async fn forward(mut client: TcpStream, server: u16, armed: Arc<AtomicBool>) {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
    let (mut question, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut swallow = false;
    loop {
        tokio::select! {
            length = client.read(&mut question) => {
                let Ok(length @ 1..) = length else { return };
                let found = question[..length].windows(TEXT.len()).any(|window| window == TEXT);
                swallow |= found && armed.swap(false, Ordering::SeqCst);
                server.write_all(&question[..length]).await.unwrap();
            }
            length = server.read(&mut answer) => {
                let Ok(length @ 1..) = length else { return };
                if swallow || client.write_all(&answer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_settlement_whose_answer_was_lost_may_be_repeated() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let transport = open(&format!("redis://127.0.0.1:{}/0", proxy.port));
    publish(&transport, &[to("q", "first"), to("q", "second")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let deliveries = take(&consumer, 2).await;
    // From now on the server knows the script, so that the first answer is the one that counts.
    settle(&consumer, &deliveries[0], Outcome::Ack).await;

    let mut all = only(&deliveries[1], Outcome::Ack);
    let queue = String::from_utf8(TEXT.to_vec()).unwrap();
    all.publish = vec![to(&queue, "callback")];
    proxy.armed.store(true, Ordering::SeqCst);
    let error = within(consumer.settle(std::slice::from_ref(&all))).await.remove(0).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(within(transport.queue_length(&queue)).await.unwrap(), 1, "it did happen");

    assert_eq!(within(consumer.settle(std::slice::from_ref(&all))).await.remove(0).unwrap(), Settled::Done);
    assert_eq!(within(transport.queue_length(&queue)).await.unwrap(), 1, "it is sent once");
    let again = within(consumer.settle(&[all])).await.remove(0).unwrap();
    assert_eq!(again, Settled::Lost, "once told, it is not held any more");
}
