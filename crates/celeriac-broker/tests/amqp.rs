//! What is special about `RabbitMQ`: topology, returns, alarms, recovery, virtual hosts, encryption, prefetch.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp_support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use amqp_support::*;
use celeriac_broker::{Exchange, ExchangeType, Outcome, Publication, Queue, Settled, Settlement};
use celeriac_protocol::envelope;
use celeriac_testkit::rabbitmq_server::{RabbitMqServer, RabbitMqServerOptions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_no_queue_fails_by_itself_among_a_thousand() {
    let server = RabbitMqServer::shared().await;
    let transport = open(&server.url());
    let (queue, nowhere) = (fresh(), fresh());
    within(transport.declare(&[celery_queue(&queue)])).await.unwrap();
    let batch: Vec<Publication> = (0..1000)
        .map(|number| {
            // The same exchange for all: what differs is the routing key.
            let target = if number % 7 == 3 { &nowhere } else { &queue };
            through(&queue, ExchangeType::Direct, target, &number.to_string())
        })
        .collect();
    // Several batches on their way at once: each return must find its own.
    let sending: Vec<_> = (0..4)
        .map(|_| {
            let (transport, batch) = (Arc::clone(&transport), batch.clone());
            tokio::spawn(async move { transport.publish(&batch).await })
        })
        .collect();
    for sent in sending {
        let outcomes = within(sent).await.unwrap();
        for (number, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(()) => assert_ne!(number % 7, 3, "message {number} has no queue"),
                Err(error) => {
                    assert_eq!(number % 7, 3, "message {number}: {error}");
                    assert_eq!(error.code(), "ERR_CELERIAC_UNROUTABLE");
                    assert!(error.to_string().contains(&nowhere), "{error}");
                }
            }
        }
    }
    let routed = 4 * (0..1000).filter(|number| number % 7 != 3).count() as u64;
    assert_eq!(within(transport.queue_length(&queue)).await.unwrap(), routed);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_was_deleted_takes_nothing_along() {
    let (server, transport) = own_server(&["kept", "gone"]).await;
    publish(&transport, &[through("gone", ExchangeType::Direct, "gone", "before")]).await;
    server
        .ctl(&[
            "eval",
            r#"rabbit_exchange:delete({resource,<<"/">>,exchange,<<"gone">>}, false, <<"test">>)."#,
        ])
        .await;
    let outcomes = within(
        transport.publish(&[through("gone", ExchangeType::Direct, "gone", "lost"), to("kept", "kept")]),
    )
    .await;
    assert_eq!(outcomes[0].as_ref().unwrap_err().code(), "ERR_CELERIAC_UNROUTABLE");
    // Its neighbour is sent again, as it may have been taken before.
    assert!(outcomes[1].is_ok(), "{outcomes:?}");
    assert!((1..=2).contains(&within(transport.queue_length("kept")).await.unwrap()));
    let error =
        within(transport.publish(&[through("gone", ExchangeType::Direct, "gone", "lost")])).await.remove(0);
    assert_eq!(error.unwrap_err().code(), "ERR_CELERIAC_UNROUTABLE");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_that_rejects_says_so() {
    let server = RabbitMqServer::shared().await;
    let transport = open(&server.url());
    let name = fresh();
    let mut queue = celery_queue(&name);
    r#"{"x-max-length": 1, "x-overflow": "reject-publish"}"#.clone_into(&mut queue.arguments);
    within(transport.declare(&[queue])).await.unwrap();
    publish(&transport, &[to(&name, "fits")]).await;
    let outcomes = within(transport.publish(&[to(&name, "one"), to(&name, "two"), to(&name, "three")])).await;
    let error = outcomes.into_iter().find_map(Result::err).expect("not all of them fit");
    assert!(error.to_string().contains("basic.nack"), "{error}");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_go_on_while_an_alarm_blocks_what_publishes() {
    let (server, transport) = own_server(&["q"]).await;
    publish(&transport, &[to("q", "one"), to("q", "two")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let deliveries = take(&consumer, 2).await;
    raise_alarm(&server).await;
    let sending = tokio::spawn({
        let transport = Arc::clone(&transport);
        async move { transport.publish(&[to("q", "blocked")]).await }
    });
    settle(&consumer, &deliveries[0], Outcome::Ack).await;
    until(|| async { (unacknowledged(&server, "q").await == 1).then_some(()) }).await;
    assert!(!sending.is_finished(), "the broker takes nothing");
    end_alarm(&server).await;
    assert!(within(sending).await.unwrap().remove(0).is_ok(), "it takes messages again");
    assert_eq!(body(&take_one(&consumer).await), "blocked");
    settle(&consumer, &deliveries[1], Outcome::Ack).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_settings_is_refused_by_name_and_nothing_else_suffers() {
    let (_server, transport, name) = shared_server().await;
    publish(&transport, &[to(&name, "one")]).await;
    let consumer = consume(&transport, &[&name]).await;
    let delivery = take_one(&consumer).await;
    let mut other = celery_queue(&name);
    r#"{"x-max-priority": 5}"#.clone_into(&mut other.arguments);
    let error = within(transport.declare(&[other])).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_REFUSED");
    assert!(error.to_string().contains(&name) && error.to_string().contains("delete it"), "{error}");
    publish(&transport, &[to(&name, "two")]).await;
    settle(&consumer, &delivery, Outcome::Ack).await;
    assert_eq!(body(&take_one(&consumer).await), "two");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_beyond_64_bits_are_refused_and_their_neighbours_are_taken() {
    let (_server, transport, name) = shared_server().await;
    let mut big = to(&name, "big");
    big.message.headers = r#"{"n": 12345678901234567890123}"#.to_owned();
    let outcomes = within(transport.publish(&[to(&name, "one"), big, to(&name, "two")])).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert_eq!(outcomes[1].as_ref().unwrap_err().code(), "ERR_CELERIAC_ENCODE");
    assert_eq!(within(transport.queue_length(&name)).await.unwrap(), 2);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_a_missing_vhost_and_a_closed_port_are_told_apart() {
    let server = RabbitMqServer::shared().await;
    let port = server.url().split(':').nth(2).unwrap().trim_end_matches('/').to_owned();
    let code = |url: String| async move {
        let error = within(open(&url).connect()).await.unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        (error.code(), error.is_transient())
    };
    assert_eq!(
        code(format!("amqp://guest:secret@127.0.0.1:{port}//")).await,
        ("ERR_CELERIAC_AUTHENTICATION_FAILED", false),
    );
    assert_eq!(code(format!("amqp://127.0.0.1:{port}/missing")).await, ("ERR_CELERIAC_REFUSED", false));
    let closed = closed_port();
    assert_eq!(
        code(format!("amqp://u:secret@127.0.0.1:{closed}//")).await,
        ("ERR_CELERIAC_BROKER_UNAVAILABLE", true),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_login_method_says_who_it_is() {
    let server = RabbitMqServer::shared().await;
    for (query, is_let_in) in [
        ("login_method=PLAIN&heartbeat=0", true),
        ("login_method=AMQPLAIN", true),
        // The server has no plugin that reads it from a certificate, and hangs up.
        ("login_method=EXTERNAL", false),
    ] {
        let transport = open(&format!("{}?{query}", server.url()));
        let connected = within(transport.connect()).await;
        assert_eq!(connected.is_ok(), is_let_in, "{query}: {connected:?}");
        transport.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn virtual_hosts_are_apart() {
    let options =
        RabbitMqServerOptions { vhosts: vec!["a b".to_owned()], ..RabbitMqServerOptions::default() };
    let server = RabbitMqServer::start_with(options).await;
    let (root, other) = (open(&server.url()), open(&server.url_of("a%20b")));
    for transport in [&root, &other] {
        within(transport.declare(&[celery_queue("q")])).await.unwrap();
    }
    publish(&other, &[to("q", "there")]).await;
    assert_eq!(within(root.queue_length("q")).await.unwrap(), 0);
    assert_eq!(within(other.queue_length("q")).await.unwrap(), 1);
    root.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_url_is_used_when_the_first_does_not_answer_and_after_it_was_lost() {
    let mut first = RabbitMqServer::start().await;
    let second = RabbitMqServer::start().await;
    let transport = open(&format!("amqp://127.0.0.1:{}//;{};{}", closed_port(), first.url(), second.url()));
    within(transport.declare(&[celery_queue("q")])).await.unwrap();
    publish(&transport, &[to("q", "to the first")]).await;
    first.kill();
    // What was declared is declared there too.
    until(|| async {
        let outcome = transport.publish(&[to("q", "to the second")]).await.remove(0);
        match outcome {
            Ok(()) => Some(()),
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                None
            }
        }
    })
    .await;
    let consumer = consume(&transport, &["q"]).await;
    assert_eq!(body(&take_one(&consumer).await), "to the second");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_on_after_the_server_was_killed() {
    let mut server = RabbitMqServer::start().await;
    let transport = open(&server.url());
    let mut passing = celery_queue("passing");
    passing.durable = false;
    passing.exchange.durable = false;
    within(transport.declare(&[celery_queue("q"), passing])).await.unwrap();
    let events = Exchange { name: "events".to_owned(), kind: ExchangeType::Fanout, ..Exchange::default() };
    let mut listener = within(transport.subscribe(&events, &[])).await.unwrap();
    let mut persistent = to("q", "confirmed");
    persistent.message.properties.delivery_mode = Some(2);
    publish(&transport, &[persistent.clone(), persistent]).await;
    let consumer = consume(&transport, &["q", "passing"]).await;
    let deliveries = take(&consumer, 2).await;
    let waiting = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { take_patiently(&consumer).await }
    });

    server.kill();
    let mut lost: Vec<_> = within(consumer.lost()).await;
    lost.sort_unstable();
    assert_eq!(lost, [deliveries[0].tag, deliveries[1].tag]);
    let mut late = Settlement {
        tag: deliveries[0].tag,
        publish: vec![to("passing", "never sent")],
        store: None,
        outcome: Outcome::Ack,
    };
    assert_eq!(within(consumer.settle(std::slice::from_ref(&late))).await.remove(0).unwrap(), Settled::Lost);
    late.tag = deliveries[1].tag;
    assert_eq!(within(consumer.begin(&[(late.tag, "task")])).await.unwrap(), [None]);
    server.start_again().await;

    // What was confirmed and not acknowledged comes again.
    let first = within(waiting).await.unwrap();
    let second = take_patiently(&consumer).await;
    assert_eq!((body(&first).as_str(), body(&second).as_str()), ("confirmed", "confirmed"));
    assert!(redelivered(&first) && redelivered(&second));
    settle(&consumer, &first, Outcome::Ack).await;
    settle(&consumer, &second, Outcome::Ack).await;
    // What the broker has forgotten was declared again.
    publish(&transport, &[through("passing", ExchangeType::Direct, "passing", "again")]).await;
    assert_eq!(body(&take_patiently(&consumer).await), "again");
    let heard = tokio::spawn(async move { listener.next().await });
    until(|| async {
        publish(&transport, &[through("events", ExchangeType::Fanout, "", "heard")]).await;
        heard.is_finished().then_some(())
    })
    .await;
    assert_eq!(within(heard).await.unwrap().unwrap().body, "heard");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_deleted_under_its_consumer_is_made_again() {
    let (server, transport) = own_server(&["q"]).await;
    let consumer = consume(&transport, &["q"]).await;
    server.ctl(&["delete_queue", "q"]).await;
    let waiting = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { take_patiently(&consumer).await }
    });
    until(|| async {
        transport.publish(&[through("q", ExchangeType::Direct, "q", "again")]).await.remove(0).ok()
    })
    .await;
    assert_eq!(body(&within(waiting).await.unwrap()), "again");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_pushes_no_more_than_the_prefetch_until_more_is_held() {
    let (server, transport) = own_server(&["q"]).await;
    let batch: Vec<Publication> = (0..200).map(|number| to("q", &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume_with_prefetch(&transport, &["q"], 4).await;
    let mut held = take(&consumer, 1).await;
    until(|| async { (unacknowledged(&server, "q").await == 4).then_some(()) }).await;
    assert_eq!(within(transport.queue_length("q")).await.unwrap(), 196, "others may have the rest");
    // Tasks that wait for their time: far more than the prefetch are held, and none twice.
    held.extend(take(&consumer, 199).await);
    let bodies: Vec<String> = held.iter().map(body).collect();
    assert_eq!(bodies, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
    // All are acknowledged under whatever tag they came by.
    let batch: Vec<Settlement> = held.iter().rev().map(|delivery| only(delivery, Outcome::Ack)).collect();
    for settled in within(consumer.settle(&batch)).await {
        assert_eq!(settled.unwrap(), Settled::Done);
    }
    until(|| async { (unacknowledged(&server, "q").await == 0).then_some(()) }).await;
    // And back down, once as much is no longer needed.
    let batch: Vec<Publication> = (0..200).map(|number| to("q", &number.to_string())).collect();
    let one = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { take(&consumer, 1).await }
    });
    until(|| async { (prefetch(&server, "q").await == [4]).then_some(()) }).await;
    publish(&transport, &batch).await;
    within(one).await.unwrap();
    until(|| async { (unacknowledged(&server, "q").await == 4).then_some(()) }).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_in_any_order_settle_what_they_name_and_nothing_else() {
    const COUNT: usize = 400;
    let server = RabbitMqServer::shared().await;
    let transport = open(&server.url());
    let queues = [fresh(), fresh()];
    let declared: Vec<Queue> = queues.iter().map(|name| celery_queue(name)).collect();
    within(transport.declare(&declared)).await.unwrap();
    let batch: Vec<Publication> =
        (0..COUNT).map(|number| to(&queues[number % 2], &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &[&queues[0], &queues[1]]).await;
    let held = take(&consumer, COUNT).await;
    // Every third is kept, the others go in batches that begin anywhere.
    let (kept, mut done): (Vec<_>, Vec<_>) =
        held.into_iter().enumerate().partition(|(place, _)| place % 3 == 0);
    done.sort_by_key(|(place, _)| place * 7919 % COUNT);
    for some in done.chunks(11) {
        let batch: Vec<Settlement> = some.iter().map(|(_, delivery)| only(delivery, Outcome::Ack)).collect();
        for settled in within(consumer.settle(&batch)).await {
            assert_eq!(settled.unwrap(), Settled::Done);
        }
    }
    within(consumer.close()).await.unwrap();
    let again = consume(&transport, &[&queues[0], &queues[1]]).await;
    let came: HashSet<String> = take(&again, kept.len()).await.iter().map(body).collect();
    let expected: HashSet<String> = kept.iter().map(|(_, delivery)| body(delivery)).collect();
    assert_eq!(came, expected);
    let more = tokio::time::timeout(Duration::from_millis(150), again.receive(1)).await;
    assert!(more.is_err(), "nothing else came back");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_is_consumed_like_any_other() {
    let server = RabbitMqServer::shared().await;
    let transport = open(&server.url());
    let name = fresh();
    let mut queue = celery_queue(&name);
    r#"{"x-queue-type": "quorum"}"#.clone_into(&mut queue.arguments);
    within(transport.declare(&[queue])).await.unwrap();
    let batch: Vec<Publication> = (0..20).map(|number| to(&name, &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume_with_prefetch(&transport, &[&name], 3).await;
    let held = take(&consumer, 20).await;
    assert_eq!(
        held.iter().map(body).collect::<Vec<_>>(),
        (0..20).map(|number| number.to_string()).collect::<Vec<_>>()
    );
    settle(&consumer, &held[7], Outcome::Requeue { redelivered: true }).await;
    for (place, delivery) in held.iter().enumerate() {
        if place != 7 {
            settle(&consumer, delivery, Outcome::Ack).await;
        }
    }
    let again = take_one(&consumer).await;
    assert_eq!((body(&again).as_str(), redelivered(&again)), ("7", true));
    assert_eq!(within(consumer.begin(&[(again.tag, "task")])).await.unwrap(), [Some(2)]);
    settle(&consumer, &again, Outcome::Ack).await;
    within(consumer.close()).await.unwrap();
    assert_eq!(within(transport.queue_length(&name)).await.unwrap(), 0);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn settlements_at_the_same_time_do_not_overtake_each_other() {
    const COUNT: usize = 4000;
    let (_server, transport, name) = shared_server().await;
    let batch: Vec<Publication> = (0..COUNT).map(|number| to(&name, &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &[&name]).await;
    let held = take(&consumer, COUNT).await;
    // Neighbours are settled by different callers: acknowledged by most, put back by one.
    let settling: Vec<_> = (0..8)
        .map(|caller| {
            let outcome = if caller == 3 { Outcome::Requeue { redelivered: true } } else { Outcome::Ack };
            let mine: Vec<Settlement> = held
                .iter()
                .enumerate()
                .filter(|(place, _)| place % 8 == caller)
                .map(|(_, delivery)| only(delivery, outcome.clone()))
                .collect();
            let consumer = Arc::clone(&consumer);
            tokio::spawn(async move {
                for some in mine.chunks(3) {
                    for settled in consumer.settle(some).await {
                        assert_eq!(settled.unwrap(), Settled::Done);
                    }
                }
            })
        })
        .collect();
    for settled in settling {
        within(settled).await.unwrap();
    }
    let again = take(&consumer, COUNT / 8).await;
    let came: HashSet<String> = again.iter().map(body).collect();
    let expected: HashSet<String> =
        (0..COUNT).filter(|place| place % 8 == 3).map(|place| place.to_string()).collect();
    assert_eq!(came, expected);
    // The channel has not ended: what came last is still held.
    assert!(within(consumer.still_held(&[again[0].tag])).await.unwrap()[0]);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_stays_in_the_dead_list_and_expires_again_after_a_replay() {
    let (_server, transport) = own_server(&["q"]).await;
    let mut short_lived = to("q", "short-lived");
    short_lived.message.properties.expiration = Some("1000".to_owned());
    short_lived.message.properties.delivery_mode = Some(1);
    publish(&transport, &[short_lived]).await;
    let consumer = consume(&transport, &["q"]).await;
    let delivery = take_one(&consumer).await;
    settle(&consumer, &delivery, Outcome::Dead { reason: "rejected", detail: "no".to_owned() }).await;
    within(consumer.close()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let letter = within(transport.dead_letters(0, 10)).await.unwrap().remove(0);
    let (_, raw) = within(transport.dead_letter(&letter.id)).await.unwrap().unwrap();
    let message = delivery.message.as_ref().unwrap();
    assert_eq!(raw, envelope::encode(message, "", "q"));
    assert_eq!(within(transport.replay_dead(&[letter.id], None)).await.unwrap(), [true]);
    assert_eq!(within(transport.queue_length("q")).await.unwrap(), 1);
    until(|| async { (transport.queue_length("q").await.unwrap() == 0).then_some(()) }).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_of_a_task_leaves_no_queue_behind_once_it_is_settled() {
    let (server, transport) = own_server(&["q"]).await;
    publish(&transport, &[to("q", "task")]).await;
    let consumer = consume(&transport, &["q"]).await;
    let delivery = take_one(&consumer).await;
    assert_eq!(within(consumer.begin(&[(delivery.tag, "task-1")])).await.unwrap(), [Some(2)]);
    let queues = server.ctl(&["list_queues", "name", "messages", "arguments"]).await;
    assert!(queues.contains("celeriac.begun.task-1\t1"), "{queues}");
    assert!(queues.contains("x-expires"), "{queues}");
    settle(&consumer, &delivery, Outcome::Ack).await;
    within(consumer.close()).await.unwrap();
    let queues = server.ctl(&["list_queues", "name"]).await;
    assert!(!queues.contains("celeriac.begun"), "{queues}");
    transport.close().await;
}
