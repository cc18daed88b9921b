//! How consumers on Redis wait on more lists than they have connections.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use celeriac_broker::{Consumer, Delivery, Outcome, Publication, Transport};
use celeriac_testkit::redis_server::RedisServer;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;

mod redis_support;
use redis_support::relay::Relay;
use redis_support::*;

/// Two queues of four steps; one list and the bell have a connection.
const QUEUES: [&str; 2] = ["a", "b"];

async fn many_lists(server: &RedisServer) -> (Arc<dyn Transport>, Arc<dyn Consumer>) {
    let transport = open(&format!("{}?waiting_connections=2", server.url()));
    let consumer = consume(&transport, &QUEUES).await;
    (transport, consumer)
}

fn receive(consumer: &Arc<dyn Consumer>, most: usize) -> JoinHandle<Vec<Delivery>> {
    let consumer = Arc::clone(consumer);
    tokio::spawn(async move { until(|| async { consumer.receive(most).await.ok() }).await })
}

fn urgency(queue: &str, priority: u8, text: &str) -> Publication {
    let mut publication = to(queue, text);
    publication.message.properties.priority = Some(priority);
    publication
}

/// Until so many consumers wait, so that the server knows.
async fn waiting(connection: &mut MultiplexedConnection, count: usize) {
    until(|| {
        let mut connection = connection.clone();
        async move {
            let credits: usize = connection.hlen("celeriac.credits").await.unwrap();
            let clients: String =
                redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
            // Each on its list and on the bell.
            let blocked = clients.lines().filter(|client| client.contains(" flags=b ")).count();
            (credits == count && blocked == 2 * count).then_some(())
        }
    })
    .await;
}

/// The node that listens.
async fn listener(connection: &mut MultiplexedConnection) -> String {
    until(|| {
        let mut connection = connection.clone();
        async move {
            let turns: Vec<String> = connection.keys("celeriac.listener:*").await.unwrap();
            connection.get::<_, Option<String>>(turns.first()?).await.unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn a_message_on_any_list_reaches_whoever_waits() {
    let server = RedisServer::start().await;
    let (transport, one) = many_lists(&server).await;
    let (_other_transport, other) = many_lists(&server).await;
    let mut connection = server.connection().await;
    // Whoever of them it is that listens, the one that waits gets it.
    for consumer in [&one, &other] {
        for queue in QUEUES {
            for priority in [0, 3, 6, 9, 9, 9] {
                let waits = receive(consumer, 5);
                waiting_at_least_one(&mut connection).await;
                publish(&transport, &[urgency(queue, priority, &format!("{queue} {priority}"))]).await;
                let came = within(waits).await.unwrap();
                assert_eq!(came.iter().map(body).collect::<Vec<_>>(), [format!("{queue} {priority}")]);
                assert_eq!(&*came[0].queue, queue);
                settle(consumer, &came[0], Outcome::Ack).await;
            }
        }
    }
}

async fn waiting_at_least_one(connection: &mut MultiplexedConnection) {
    until(|| {
        let mut connection = connection.clone();
        async move { connection.exists::<_, bool>("celeriac.credits").await.unwrap().then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn a_message_goes_back_to_the_list_that_the_bell_named() {
    let server = RedisServer::start().await;
    let (transport, consumer) = many_lists(&server).await;
    let mut connection = server.connection().await;
    let waits = receive(&consumer, 5);
    waiting(&mut connection, 1).await;
    publish(&transport, &[urgency("b", 6, "one")]).await;
    assert_eq!(within(waits).await.unwrap().len(), 1);
    let records: Vec<String> = connection.hvals("unacked").await.unwrap();
    assert!(records[0].ends_with(r#", "", "b"]"#), "{}", records[0]);
    within(consumer.close()).await.unwrap();
    assert_eq!(connection.llen::<_, u32>("b\x06\x166").await.unwrap(), 1);
    let keys: Vec<String> = connection.keys("*").await.unwrap();
    let lasting: Vec<_> =
        keys.iter().filter(|key| *key != "b\x06\x166" && !key.contains("restore_turn")).collect();
    assert!(lasting.is_empty(), "{lasting:?}");
}

#[tokio::test]
async fn those_who_wait_share_what_comes_at_once() {
    let server = RedisServer::start().await;
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(many_lists(&server).await);
    }
    let waits: Vec<_> = consumers.iter().map(|(_, consumer)| receive(consumer, 5)).collect();
    let mut connection = server.connection().await;
    waiting(&mut connection, 3).await;
    listener(&mut connection).await;
    let many: Vec<_> = (0..15).map(|number| urgency("b", 9, &format!("{number:02}"))).collect();
    publish(&consumers[0].0, &many).await;
    let mut all = Vec::new();
    for one in waits {
        let came = within(one).await.unwrap();
        assert_eq!(came.len(), 5);
        all.extend(came.iter().map(body));
    }
    all.sort();
    assert_eq!(all, (0..15).map(|number| format!("{number:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_comes_while_all_are_busy_is_claimed_by_whoever_is_free_first() {
    let server = RedisServer::start().await;
    let (transport, one) = many_lists(&server).await;
    let (_other_transport, other) = many_lists(&server).await;
    let mut connection = server.connection().await;
    let waits = [receive(&one, 1), receive(&other, 1)];
    waiting(&mut connection, 2).await;
    publish(&transport, &[urgency("b", 3, "1"), urgency("b", 6, "2")]).await;
    for busy in waits {
        assert_eq!(within(busy).await.unwrap().len(), 1);
    }
    let later = [("a", 3), ("b", 3), ("a", 9), ("b", 9)];
    for (queue, priority) in later {
        publish(&transport, &[urgency(queue, priority, &format!("{queue} {priority}"))]).await;
    }
    let mut came: Vec<_> = take(&other, 4).await.iter().map(body).collect();
    came.sort();
    assert_eq!(came, ["a 3", "a 9", "b 3", "b 9"]);
    // And when it waits again, it is told again.
    for (queue, priority) in later {
        let waits = receive(&other, 3);
        waiting_at_least_one(&mut connection).await;
        publish(&transport, &[urgency(queue, priority, "again")]).await;
        assert_eq!(within(waits).await.unwrap().iter().map(body).collect::<Vec<_>>(), ["again"]);
    }
}

#[tokio::test]
async fn another_one_listens_when_the_listener_is_gone() {
    let server = RedisServer::start().await;
    let mut connection = server.connection().await;
    let (_first_transport, mut listening) = many_lists(&server).await;
    for round in ["closed", "killed", "closed again"] {
        let before = listener(&mut connection).await;
        let (transport, next) = many_lists(&server).await;
        if round == "killed" {
            // Dropped, it gives up nothing.
            drop(listening);
        } else {
            within(listening.close()).await.unwrap();
        }
        let waits = receive(&next, 5);
        waiting_at_least_one(&mut connection).await;
        publish(&transport, &[urgency("b", 9, round)]).await;
        let came = within(waits).await.unwrap();
        assert_eq!(came.iter().map(body).collect::<Vec<_>>(), [round]);
        settle(&next, &came[0], Outcome::Ack).await;
        assert_ne!(listener(&mut connection).await, before);
        listening = next;
    }
}

#[tokio::test]
async fn a_listener_whose_connection_broke_listens_again() {
    let server = RedisServer::start().await;
    let (transport, consumer) = many_lists(&server).await;
    let mut connection = server.connection().await;
    for text in ["one", "two"] {
        let waits = receive(&consumer, 5);
        waiting(&mut connection, 1).await;
        let tracking = until(|| {
            let mut connection = connection.clone();
            async move {
                let clients: String =
                    redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
                let client = clients.lines().find(|client| client.contains(" flags=t "))?;
                client.split(' ').find_map(|part| part.strip_prefix("id=")).map(str::to_owned)
            }
        })
        .await;
        let _: u32 =
            redis::cmd("CLIENT").arg(&["KILL", "ID", &tracking]).query_async(&mut connection).await.unwrap();
        publish(&transport, &[urgency("b", 9, text)]).await;
        let came = within(waits).await.unwrap();
        assert_eq!(came.iter().map(body).collect::<Vec<_>>(), [text]);
        settle(&consumer, &came[0], Outcome::Ack).await;
    }
}

#[tokio::test]
async fn a_listener_whose_connection_alone_fell_silent_listens_again() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let transport = open(&format!("{}?waiting_connections=2&socket_timeout=1", relay.url()));
    let consumer = consume(&transport, &QUEUES).await;
    let mut connection = server.connection().await;
    let waits = receive(&consumer, 5);
    waiting(&mut connection, 1).await;
    until(|| {
        let mut connection = connection.clone();
        async move {
            let clients: String =
                redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
            // It has read the lists.
            clients
                .lines()
                .any(|client| client.contains(" flags=t ") && client.contains("evalsha"))
                .then_some(())
        }
    })
    .await;
    relay.silence_those_that_asked("TRACKING");
    publish(&open(&server.url()), &[urgency("b", 9, "heard")]).await;
    assert_eq!(within(waits).await.unwrap().iter().map(body).collect::<Vec<_>>(), ["heard"]);
}

#[tokio::test]
async fn lists_are_looked_at_where_the_server_refuses_to_tell_of_changes() {
    let server = RedisServer::start().await;
    let mut connection = server.connection().await;
    let _: () = redis::cmd("ACL")
        .arg(&["SETUSER", "limited", "on", ">word", "~*", "&*", "+@all", "-client|tracking"])
        .query_async(&mut connection)
        .await
        .unwrap();
    let transport =
        open(&format!("redis://limited:word@127.0.0.1:{}/0?waiting_connections=1", server.port()));
    let consumer = consume(&transport, &QUEUES).await;
    for (queue, priority) in [("a", 0), ("b", 9), ("b", 9)] {
        let waits = receive(&consumer, 5);
        waiting_at_least_one(&mut connection).await;
        publish(&transport, &[urgency(queue, priority, "told")]).await;
        assert_eq!(within(waits).await.unwrap().iter().map(body).collect::<Vec<_>>(), ["told"]);
    }
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
    assert!(!clients.contains(" flags=t "), "{clients}");
}

#[tokio::test]
async fn a_key_that_is_no_list_takes_nothing_with_it() {
    let server = RedisServer::start().await;
    let (transport, consumer) = many_lists(&server).await;
    let mut connection = server.connection().await;
    publish(&transport, &[to("a", "one"), to("a", "two")]).await;
    let _: () = connection.set("b\x06\x169", "no list").await.unwrap();
    let came = take(&consumer, 2).await;
    assert_eq!(came.iter().map(body).collect::<Vec<_>>(), ["one", "two"]);
    let error = within(consumer.receive(1)).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_REFUSED");
    let _: () = connection.del("b\x06\x169").await.unwrap();
    let waits = receive(&consumer, 1);
    waiting(&mut connection, 1).await;
    publish(&transport, &[urgency("b", 9, "three")]).await;
    assert_eq!(within(waits).await.unwrap().iter().map(body).collect::<Vec<_>>(), ["three"]);
}

#[tokio::test]
async fn a_flushed_database_does_not_deafen_the_listener() {
    let server = RedisServer::start().await;
    let (transport, consumer) = many_lists(&server).await;
    let mut connection = server.connection().await;
    let waits = receive(&consumer, 5);
    waiting(&mut connection, 1).await;
    listener(&mut connection).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    publish(&transport, &[urgency("a", 9, "after")]).await;
    assert_eq!(within(waits).await.unwrap().iter().map(body).collect::<Vec<_>>(), ["after"]);
}

async fn nothing_comes(consumer: &Arc<dyn Consumer>, most: usize, slots: isize) {
    let received =
        tokio::time::timeout(Duration::from_millis(150), consumer.receive_share(most, slots)).await;
    assert!(received.is_err(), "{received:?}");
}

#[tokio::test]
async fn what_could_not_begin_yet_is_left_to_others_unless_there_is_much() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let consumer = consume(&transport, &["q"]).await;
    let share = |most, slots| {
        let consumer = Arc::clone(&consumer);
        async move { within(consumer.receive_share(most, slots)).await.unwrap().len() }
    };
    let many = |count: usize| (0..count).map(|number| to("q", &number.to_string())).collect::<Vec<_>>();
    publish(&transport, &many(12)).await;
    assert_eq!(share(40, 5).await, 5, "as many as can begin");
    assert_eq!(share(40, 0).await, 1, "one of seven is a quarter: one worker, and perhaps one of Python's");
    nothing_comes(&consumer, 40, -1).await;
    assert_eq!(share(40, 2).await, 2);
    assert_eq!(share(3, 40).await, 3);
    assert_eq!(share(40, 40).await, 1);

    // The same when it waits.
    let waits = tokio::spawn(share(40, 2));
    waiting_at_least_one(&mut server.connection().await).await;
    publish(&transport, &many(7)).await;
    assert_eq!(within(waits).await.unwrap(), 2);
    assert_eq!(share(40, 40).await, 5);

    publish(&transport, &many(400)).await;
    assert_eq!(share(50, 1).await, 50, "of a deep queue as many as may be held");
    assert_eq!(share(50, -50).await, 37, "a quarter of 350, less what waits already");
}

#[tokio::test]
async fn a_consumer_without_a_free_slot_leaves_what_comes_to_one_that_has() {
    let server = RedisServer::start().await;
    let (transport, busy) = many_lists(&server).await;
    let (_other_transport, free) = many_lists(&server).await;
    let mut connection = server.connection().await;
    // It waited before, so the server knows it.
    let waits = receive(&busy, 2);
    waiting(&mut connection, 1).await;
    waits.abort();
    nothing_comes(&busy, 2, 0).await;
    let waits = receive(&free, 5);
    waiting_at_least_one(&mut connection).await;
    for (queue, priority) in [("a", 0), ("b", 9)] {
        publish(&transport, &[urgency(queue, priority, "for the free one")]).await;
    }
    let mut count = within(waits).await.unwrap().len();
    while count < 2 {
        count += within(receive(&free, 5)).await.unwrap().len();
    }
    nothing_comes(&busy, 2, 0).await;
}

/// How often the server has run this command, also in scripts.
async fn runs(connection: &mut MultiplexedConnection, command: &str) -> u64 {
    let statistics: String = redis::cmd("INFO").arg("commandstats").query_async(connection).await.unwrap();
    let calls = statistics.split_once(&format!("cmdstat_{command}:calls=")).map(|(_, calls)| calls);
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// Lets it begin, and go as far as it comes without anything else going on.
async fn begin<T: Unpin>(future: &mut (impl Future<Output = T> + Unpin)) {
    let begun = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await;
    assert!(begun.is_pending());
}

#[tokio::test]
async fn whoever_waits_asks_again_when_a_claim_asked_for_before_takes_back_its_credit() {
    let server = RedisServer::start().await;
    let transport = open(&server.url());
    let consumer = consume(&transport, &["q"]).await;
    let mut connection = server.connection().await;
    let waits = receive(&consumer, 5);
    until(|| {
        let mut connection = connection.clone();
        async move {
            let clients: String =
                redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
            let blocked = clients.lines().filter(|client| client.contains(" flags=b ")).count();
            (blocked == 4 && connection.exists("celeriac.credits").await.unwrap()).then_some(())
        }
    })
    .await;
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    let before = runs(&mut connection, "hdel").await;
    // It wants to look once, and is dropped before it has: the next one finds the credit as it was, so it only waits.
    begin(&mut consumer.receive_share(5, 0)).await;
    let mut waits = consumer.receive(5);
    begin(&mut waits).await;
    until(|| {
        let mut connection = connection.clone();
        async move { (runs(&mut connection, "hdel").await > before).then_some(()) }
    })
    .await;
    publish(&transport, &[to("q", "one")]).await;
    assert_eq!(within(waits).await.unwrap().iter().map(body).collect::<Vec<_>>(), ["one"]);
}

/// Waits until the server has claimed so many messages for anybody.
async fn claimed(connection: &mut MultiplexedConnection, count: usize) {
    until(|| {
        let mut connection = connection.clone();
        async move { (connection.hlen::<_, usize>("unacked").await.unwrap() == count).then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn what_was_taken_over_before_its_answer_came_is_handed_out_by_nobody_else() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let lease = Duration::from_secs(1);
    let consumer = consume_with_lease(&open(&relay.url()), &["q"], lease).await;
    let direct = open(&server.url());
    let mut connection = server.connection().await;
    let waits = receive(&consumer, 5);
    waiting_at_least_one(&mut connection).await;
    // Only the answer is late; renewals go on.
    relay.hold_answer_with(r#""task": "test""#);
    publish(&direct, &[to("q", "late")]).await;
    claimed(&mut connection, 1).await;
    let leases: Vec<(String, f64)> = connection.zrange_withscores("celeriac.leases", 0, -1).await.unwrap();
    // As somebody does who takes it over.
    let _: () = connection.del(&["unacked", "unacked_index", "celeriac.leases"]).await.unwrap();
    until(|| {
        let (mut connection, end) = (connection.clone(), leases[0].1);
        async move {
            let (seconds, _): (f64, f64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
            (seconds > end).then_some(())
        }
    })
    .await;
    until(|| async { consumer.leases_stand().then_some(()) }).await;
    assert!(relay.release_held_answer(), "it was held until now");
    publish(&direct, &[to("q", "next")]).await;
    assert_eq!(within(waits).await.unwrap().iter().map(body).collect::<Vec<_>>(), ["next"]);
}

#[tokio::test]
async fn what_a_connection_claimed_that_does_not_answer_is_back_when_its_consumer_has_closed() {
    let server = RedisServer::start().await;
    let relay = Relay::start(server.port()).await;
    let consumer = consume(&open(&relay.url()), &["q"]).await;
    let mut connection = server.connection().await;
    let waits = receive(&consumer, 5);
    until(|| {
        let mut connection = connection.clone();
        async move {
            let credits: usize = connection.hlen("celeriac.credits").await.unwrap();
            let clients: String =
                redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
            let blocked = clients.lines().filter(|client| client.contains(" flags=b ")).count();
            (credits == 1 && blocked == 4).then_some(())
        }
    })
    .await;
    // Only connections that wait ask for their id.
    relay.silence_those_that_asked("\r\nID\r\n");
    publish(&open(&server.url()), &[to("q", "one")]).await;
    claimed(&mut connection, 1).await;
    within(consumer.close()).await.unwrap();
    assert!(within(waits).await.unwrap().is_empty());
    assert_eq!(connection.hlen::<_, u32>("unacked").await.unwrap(), 0);
    assert_eq!(connection.llen::<_, u32>("q").await.unwrap(), 1);
}

#[tokio::test]
async fn a_claim_ends_when_its_messages_are_large() {
    let server = RedisServer::start().await;
    let (transport, consumer) = many_lists(&server).await;
    let large = "x".repeat(17 << 20);
    let mut connection = server.connection().await;
    for (queue, priority) in [("a", 0), ("b", 9)] {
        // What is there already, and what comes while it waits.
        let large = [urgency(queue, priority, &large), urgency(queue, priority, &large)];
        publish(&transport, &large).await;
        for _ in &large {
            assert_eq!(within(consumer.receive(10)).await.unwrap().len(), 1);
        }
        let waits = receive(&consumer, 10);
        waiting(&mut connection, 1).await;
        publish(&transport, &large).await;
        assert_eq!(within(waits).await.unwrap().len(), 1);
        assert_eq!(within(receive(&consumer, 10)).await.unwrap().len(), 1);
    }
}
