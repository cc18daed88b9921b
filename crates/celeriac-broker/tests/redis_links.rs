//! What happens on Redis when a connection breaks, a server restarts, or an answer is lost.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use celeriac_broker::{Exchange, ExchangeType, Outcome, Publication, Settled};
use celeriac_protocol::envelope;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

mod redis_support;
use redis_support::relay::{Cut, Relay};
use redis_support::*;

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

fn raw(queue: &str, body: &str) -> String {
    envelope::encode(&to(queue, body).message, "", queue)
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

#[tokio::test]
async fn a_closed_transport_has_no_connection_however_long_somebody_refers_to_it() {
    let server = RedisServer::start().await;
    let mut connection = server.connection().await;
    let transport = open(&server.url());
    publish(&transport, &[to("q", "one")]).await;
    let consumer = consume(&transport, &["q"]).await;
    take_one(&consumer).await;
    transport.close().await;
    drop(consumer);
    until(|| async {
        let clients: String =
            redis::cmd("CLIENT").arg("LIST").query_async(&mut connection.clone()).await.unwrap();
        (clients.lines().count() == 1).then_some(())
    })
    .await;
    let _: () = redis::cmd("PING").query_async(&mut connection).await.unwrap();
    drop(transport);
}
