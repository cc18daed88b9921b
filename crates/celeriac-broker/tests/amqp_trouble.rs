//! Brokers that are silent, full, gone or closed to us, and readers that are slow.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp_support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use amqp_support::*;
use celeriac_broker::{Exchange, ExchangeType, Outcome, Publication, Settled, Settlement};
use celeriac_testkit::rabbitmq_server::{RabbitMqServer, RabbitMqServerOptions};
use futures_util::FutureExt;

fn signal(server: &RabbitMqServer, name: &str) {
    let process = server.process_id().expect("it runs").to_string();
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &process]).status().unwrap();
    assert!(sent.success());
}

/// Resolves once every thread of the server has stopped: until then it may still answer.
async fn stop(server: &RabbitMqServer) {
    signal(server, "STOP");
    let tasks = format!("/proc/{}/task", server.process_id().expect("it runs"));
    let is_stopped = |path: std::path::PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        // After the name in brackets, which may hold anything.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    };
    until(|| async {
        let threads: Vec<_> = std::fs::read_dir(&tasks).into_iter().flatten().flatten().collect();
        threads.into_iter().all(|thread| is_stopped(thread.path())).then_some(())
    })
    .await;
}

/// A URL with another user.
fn url_as(server: &RabbitMqServer, user: &str) -> String {
    server.url().replace("amqp://", &format!("amqp://{user}:{user}@"))
}

/// A user who may configure, write and read what these expressions match.
async fn add_user(server: &RabbitMqServer, user: &str, rights: [&str; 3]) {
    server.ctl(&["add_user", user, user]).await;
    server.ctl(&[&["set_permissions", user], &rights[..]].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_falls_silent_is_left_and_used_again_when_it_speaks() {
    let server = RabbitMqServer::start().await;
    let transport = open(&format!("{}?heartbeat=2", server.url()));
    within(transport.declare(&[celery_queue("q")])).await.unwrap();
    publish(&transport, &[to("q", "one"), to("q", "two"), to("q", "three")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let held = take(&consumer, 3).await;
    assert!(consumer.leases_stand());
    stop(&server).await;
    let sending = tokio::spawn({
        let transport = Arc::clone(&transport);
        async move { transport.publish(&[to("q", "unheard")]).await }
    });
    // Nothing of what is held is certain any longer.
    until(|| async { (!consumer.leases_stand()).then_some(()) }).await;
    let settlement = Settlement { publish: vec![to("q", "never sent")], ..only(&held[0], Outcome::Ack) };
    let settled = within(consumer.settle(&[settlement])).await.remove(0).unwrap();
    assert_eq!(settled, Settled::Lost);
    let mut lost = within(consumer.lost()).await;
    lost.sort_unstable();
    assert_eq!(lost, held.iter().map(|delivery| delivery.tag).collect::<Vec<_>>());
    assert_eq!(within(consumer.still_held(&lost)).await.unwrap(), [false; 3]);
    let error = within(sending).await.unwrap().remove(0).unwrap_err();
    assert!(error.is_transient(), "{error}");
    signal(&server, "CONT");

    let mut came = HashSet::new();
    until(|| async { transport.publish(&[to("q", "heard")]).await.remove(0).ok() }).await;
    while !["one", "two", "three", "heard"].iter().all(|wanted| came.contains(*wanted)) {
        let delivery = take_patiently(&consumer).await;
        assert_ne!(body(&delivery), "never sent");
        came.insert(body(&delivery));
        within(consumer.settle(&[only(&delivery, Outcome::Ack)])).await.remove(0).unwrap();
    }
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_that_lasts_is_named_and_takes_no_further_connections() {
    let (server, transport) = own_server(&["q"]).await;
    publish(&transport, &[to("q", "before")]).await;
    let connections = || async { server.ctl(&["list_connections", "pid"]).await.lines().count() };
    assert_eq!(connections().await, 2);
    raise_alarm(&server).await;
    // The first waits as long as it may; those after it are told at once.
    for round in 0..4 {
        let error = within(transport.publish(&[to("q", "blocked")])).await.remove(0).unwrap_err();
        assert!(error.is_transient());
        assert!(error.to_string().contains("takes no messages for now"), "round {round}: {error}");
    }
    assert_eq!(connections().await, 2);
    end_alarm(&server).await;
    until(|| async { transport.publish(&[to("q", "after")]).await.remove(0).ok() }).await;
    assert_eq!(connections().await, 2);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_connections_go_to_the_same_server_when_one_of_them_has_to_move() {
    let first = RabbitMqServer::start().await;
    let second = RabbitMqServer::start().await;
    let transport = open(&format!("{};{}", first.url(), second.url()));
    within(transport.declare(&[celery_queue("q")])).await.unwrap();
    publish(&transport, &[to("q", "to the first")]).await;
    // Only the consuming connection ends, and cannot come back.
    first.ctl(&["suspend_listeners"]).await;
    let listed = first.ctl(&["list_connections", "pid", "client_properties"]).await;
    let consuming = listed.lines().find(|line| line.contains("celeriac consuming")).unwrap();
    first.ctl(&["close_connection", consuming.split('\t').next().unwrap(), "moved"]).await;
    let elsewhere = open(&second.url());
    // Until it is known that the connection was lost, the first server has what is sent.
    until(|| async {
        let _ = transport.connect().await;
        let _ = transport.publish(&[to("q", "moving")]).await;
        (elsewhere.queue_length("q").await.unwrap() > 0).then_some(())
    })
    .await;
    let before = within(elsewhere.queue_length("q")).await.unwrap();
    publish(&transport, &[to("q", "moved"), to("q", "moved")]).await;
    assert_eq!(within(elsewhere.queue_length("q")).await.unwrap(), before + 2);
    let consumer = consume(&transport, &["q"]).await;
    assert_eq!(body(&take_one(&consumer).await), "moving");
    transport.close().await;
    elsewhere.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_prefetch_is_held_gets_more_beside_one_that_always_has_something() {
    let server = RabbitMqServer::shared().await;
    let transport = open(&server.url());
    let (held, busy) = (fresh(), fresh());
    within(transport.declare(&[celery_queue(&held), celery_queue(&busy)])).await.unwrap();
    let batch: Vec<Publication> = (0..40).map(|number| to(&held, &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume_with_prefetch(&transport, &[&held, &busy], 4).await;
    let feeding = tokio::spawn({
        let (transport, busy) = (Arc::clone(&transport), busy.clone());
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            loop {
                pace.tick().await;
                let _ = transport.publish(&[to(&busy, "now")]).await;
            }
        }
    });
    // Of the first queue all are held, as tasks are whose time has not come.
    let mut came = HashSet::new();
    within(async {
        while came.len() < 40 {
            for delivery in consumer.receive(1).await.unwrap() {
                if *delivery.queue == *held {
                    came.insert(body(&delivery));
                } else {
                    settle(&consumer, &delivery, Outcome::Ack).await;
                }
            }
        }
    })
    .await;
    feeding.abort();
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_nobody_waits_for_leaves_no_queue_consumed_twice() {
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    let names = ["a", "b", "c", "d"];
    for name in names {
        within(transport.declare(&[celery_queue(name)])).await.unwrap();
    }
    let consumer = consume_with_prefetch(&transport, &names, 4).await;
    assert!(consumer.pause().now_or_never().is_none(), "it takes some round trips");
    publish(&transport, &[to("d", "one")]).await;
    assert_eq!(body(&take_one(&consumer).await), "one");
    for name in names {
        until(|| async { (prefetch(&server, name).await == [4]).then_some(()) }).await;
    }
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_reads_slowly_holds_a_thousand_messages_and_misses_none() {
    const COUNT: usize = 3000;
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    let events = Exchange { name: "events".to_owned(), kind: ExchangeType::Fanout, ..Exchange::default() };
    let mut listener = within(transport.subscribe(&events, &[])).await.unwrap();
    let batch: Vec<Publication> =
        (0..COUNT).map(|number| through("events", ExchangeType::Fanout, "", &number.to_string())).collect();
    publish(&transport, &batch).await;
    until(|| async {
        let listed = server.ctl(&["list_queues", "messages_ready", "messages_unacknowledged"]).await;
        (listed.trim() == "2000\t1000").then_some(())
    })
    .await;
    for number in 0..COUNT {
        let message = within(listener.next()).await.unwrap();
        assert_eq!(message.body, number.to_string());
    }
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_fails_half_way_leaves_no_queue_behind() {
    let server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    let events = Exchange { name: "events".to_owned(), kind: ExchangeType::Topic, ..Exchange::default() };
    let keys = ["fits".to_owned(), "k".repeat(300)];
    let error = within(transport.subscribe(&events, &keys)).await.err().expect("the second key is too long");
    assert_eq!(error.code(), "ERR_CELERIAC_ENCODE");
    assert_eq!(server.ctl(&["list_queues", "name"]).await.trim(), "");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_read_the_dead_list_keeps_nobody_else_from_it() {
    let server = RabbitMqServer::start().await;
    add_user(&server, "blind", [".*", ".*", "^q$"]).await;
    let (blind, seeing) = (open(&url_as(&server, "blind")), open(&server.url()));
    assert_eq!(within(seeing.dead_count()).await.unwrap(), 0);
    publish(&seeing, &[to("celeriac.dead", "somebody's")]).await;
    let error = within(blind.dead_letters(0, 10)).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_REFUSED", "{error}");
    // The connection of the first is open still.
    within(blind.connect()).await.unwrap();
    let letters = tokio::time::timeout(Duration::from_secs(20), seeing.dead_letters(0, 10)).await;
    assert_eq!(letters.expect("nobody else reads it").unwrap().len(), 1);
    blind.close().await;
    seeing.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_begins_may_not_be_counted_begins_all_the_same() {
    let server = RabbitMqServer::start().await;
    // The default exchange, by which the counts go, may not be written to.
    add_user(&server, "narrow", [".*", "^q$", ".*"]).await;
    let (giving, narrow) = (open(&server.url()), open(&url_as(&server, "narrow")));
    within(giving.declare(&[celery_queue("q")])).await.unwrap();
    publish(&giving, &[to("q", "one"), to("q", "two")]).await;
    let consumer = consume(&narrow, &["q"]).await;
    let held = take(&consumer, 2).await;
    let begun = within(consumer.begin(&[(held[0].tag, "task-1"), (held[1].tag, "task-2")])).await;
    assert_eq!(begun.unwrap(), [Some(2), Some(2)]);
    settle(&consumer, &held[0], Outcome::Ack).await;
    narrow.close().await;
    giving.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn begins_are_counted_together_and_by_task() {
    let (_server, transport, queue) = shared_server().await;
    let batch: Vec<Publication> = (0..200).map(|number| to(&queue, &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &[&queue]).await;
    let held = take(&consumer, 200).await;
    let ids: Vec<String> = (0..200).map(|number| format!("{queue}.{}", number % 150)).collect();
    let begun: Vec<_> = held.iter().zip(&ids).map(|(delivery, id)| (delivery.tag, id.as_str())).collect();
    let counts = within(consumer.begin(&begun)).await.unwrap();
    for (number, count) in counts.iter().enumerate() {
        assert_eq!(*count, Some(if number < 150 { 2 } else { 3 }), "delivery {number}");
    }
    assert_eq!(within(consumer.begin(&begun[..1])).await.unwrap(), [Some(2)], "once a delivery");
    // It goes on where it was, once it comes again.
    within(consumer.close()).await.unwrap();
    let consumer = consume(&transport, &[&queue]).await;
    let again = take_one(&consumer).await;
    assert_eq!(body(&again), "0");
    assert_eq!(within(consumer.begin(&[(again.tag, &ids[0])])).await.unwrap(), [Some(4)]);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_the_broker_has_closed_makes_what_was_held_lost_and_nothing_an_error() {
    let options = RabbitMqServerOptions {
        configuration: vec!["consumer_timeout = 1000".to_owned()],
        ..RabbitMqServerOptions::default()
    };
    let server = RabbitMqServer::start_with(options).await;
    // How often it looks.
    server.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 1000)."]).await;
    let transport = open(&server.url());
    within(transport.declare(&[celery_queue("q")])).await.unwrap();
    publish(&transport, &[to("q", "one")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let held = take_one(&consumer).await;
    assert_eq!(within(consumer.lost()).await, [held.tag]);
    let settled = within(consumer.settle(&[only(&held, Outcome::Ack)])).await.remove(0);
    assert_eq!(settled.unwrap(), Settled::Lost);
    assert_eq!(within(consumer.begin(&[(held.tag, "task")])).await.unwrap(), [None]);
    let again = take_patiently(&consumer).await;
    assert!(redelivered(&again));
    settle(&consumer, &again, Outcome::Ack).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_ask_for_what_is_not_there_more_often_than_there_are_channels_spoils_nothing() {
    let (_server, transport) = own_server(&["q"]).await;
    publish(&transport, &[to("q", "one")]).await;
    for round in 0..4500 {
        let asked = within(transport.queue_length(if round % 3 == 0 { "q" } else { "missing" })).await;
        let length = asked.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(length, u64::from(round % 3 == 0), "round {round}");
    }
    publish(&transport, &[to("q", "two")]).await;
    transport.close().await;
}
