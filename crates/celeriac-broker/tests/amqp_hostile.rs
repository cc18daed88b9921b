//! Messages that nobody should send: each is held, buried and replayed like any other, or refused by itself.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp_support;
#[path = "amqp_support/stranger.rs"]
mod stranger;

use std::collections::HashSet;
use std::sync::Arc;

use amqp_support::*;
use celeriac_broker::{Delivery, ExchangeType, Outcome, Publication, Transport};
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use stranger::{RawProperties, Stranger, long};

fn port(url: &str) -> u16 {
    url.trim_end_matches('/').rsplit_once(':').unwrap().1.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_that_are_not_utf_8_are_read_and_their_neighbours_are_not_given_out_again() {
    let (server, transport, queue) = shared_server().await;
    let mut stranger = Stranger::connect(port(&server.url()));
    publish(&transport, &[to(&queue, "before")]).await;
    let headers = [&[4, b'n', 0xe4, b'm', b'e', b'S'][..], &long(b"\xe4")].concat();
    stranger.publish(
        &queue,
        b"strange",
        &RawProperties {
            headers: Some(headers),
            correlation_id: Some(b"m\xfcller".to_vec()),
            reply_to: Some(vec![0xff; 255]),
        },
    );
    publish(&transport, &[to(&queue, "after")]).await;

    let consumer = consume(&transport, &[&queue]).await;
    let held = take(&consumer, 3).await;
    assert_eq!(held.iter().map(body).collect::<Vec<_>>(), ["before", "strange", "after"]);
    let message = held[1].message.as_ref().unwrap();
    assert_eq!(message.properties.correlation_id.as_deref(), Some("m\u{fffd}ller"));
    assert!(message.properties.reply_to.as_deref().is_some_and(|queue| queue.len() <= 255));
    assert!(
        message.headers.contains("n\u{fffd}me") || message.headers.contains(r"n\ufffdme"),
        "{}",
        message.headers
    );
    let tags: Vec<_> = held.iter().map(|delivery| delivery.tag).collect();
    assert_eq!(within(consumer.still_held(&tags)).await.unwrap(), [true; 3]);
    settle(&consumer, &held[0], Outcome::Ack).await;
    settle(&consumer, &held[2], Outcome::Ack).await;
    settle(&consumer, &held[1], Outcome::Dead { reason: "malformed", detail: "strange".to_owned() }).await;
    within(consumer.close()).await.unwrap();
    assert_eq!(within(transport.queue_length(&queue)).await.unwrap(), 0);
    let letter = letter_of(&transport, &queue).await;
    assert_eq!(within(transport.replay_dead(&[letter], None)).await.unwrap(), [true]);
    let consumer = consume(&transport, &[&queue]).await;
    assert_eq!(body(&take_one(&consumer).await), "strange");
    transport.close().await;
}

/// The id of the only letter of a queue.
async fn letter_of(transport: &Arc<dyn Transport>, queue: &str) -> String {
    let letters = within(transport.dead_letters(0, usize::MAX)).await.unwrap();
    let mut ids = letters.into_iter().filter(|letter| letter.queue == queue).map(|letter| letter.id);
    let id = ids.next().expect("it is in the list");
    assert_eq!(ids.next(), None);
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_as_deep_as_a_frame_holds_end_no_process() {
    let (server, transport, queue) = shared_server().await;
    let mut stranger = Stranger::connect(port(&server.url()));
    for kind in [b'F', b'A'] {
        let mut nested = Vec::new();
        while nested.len() < 130_000 {
            let value = [&[kind][..], &u32::try_from(nested.len()).unwrap().to_be_bytes()].concat();
            let name: &[u8] = if kind == b'F' { &[0] } else { &[] };
            // From the inside out.
            nested = [name, &value, &nested].concat();
        }
        let headers = if kind == b'F' { nested } else { [&[1, b'a'][..], &nested].concat() };
        stranger.publish(
            &queue,
            b"deep",
            &RawProperties { headers: Some(headers), ..RawProperties::default() },
        );
    }
    let consumer = consume(&transport, &[&queue]).await;
    for _ in 0..2 {
        let delivery = take_one(&consumer).await;
        assert_eq!(body(&delivery), "deep");
        settle(&consumer, &delivery, Outcome::Dead { reason: "malformed", detail: "d".repeat(100_000) })
            .await;
    }
    let letters = within(transport.dead_letters(0, usize::MAX)).await.unwrap();
    let deep: Vec<_> = letters.into_iter().filter(|letter| letter.queue == queue).collect();
    assert_eq!(deep.len(), 2);
    let ids: Vec<String> = deep.iter().map(|letter| letter.id.clone()).collect();
    assert!(deep.iter().all(|letter| letter.detail.len() == 4096));
    assert_eq!(within(transport.replay_dead(&ids, None)).await.unwrap(), [true, true]);
    for _ in 0..2 {
        let delivery = take_one(&consumer).await;
        assert_eq!(body(&delivery), "deep");
        settle(&consumer, &delivery, Outcome::Ack).await;
    }
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_ends_the_channel_is_refused_by_itself_among_a_hundred() {
    let (_server, transport, queue) = shared_server().await;
    let mut batch: Vec<Publication> = (0..100).map(|number| to(&queue, &number.to_string())).collect();
    // The broker takes no message in another user's name, and closes the channel.
    for bad in [17, 62] {
        r#""user_id": "somebody""#.clone_into(&mut batch[bad].message.properties.other);
    }
    let outcomes = within(transport.publish(&batch)).await;
    for (number, outcome) in outcomes.iter().enumerate() {
        if [17, 62].contains(&number) {
            let error = outcome.as_ref().unwrap_err();
            assert_eq!(error.code(), "ERR_CELERIAC_REFUSED", "{error}");
            assert!(error.to_string().contains("user_id"), "{error}");
        } else {
            assert!(outcome.is_ok(), "message {number}: {outcome:?}");
        }
    }
    let consumer = consume(&transport, &[&queue]).await;
    let mut came = HashSet::new();
    while came.len() < 98 {
        came.extend(within(consumer.receive(1000)).await.unwrap().iter().map(body));
    }
    assert!(!came.contains("17") && !came.contains("62"));
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lives_longer_than_the_broker_can_count_is_sent_without_an_expiration() {
    let (_server, transport, queue) = shared_server().await;
    let mut long_lived = to(&queue, "sixty days");
    long_lived.message.properties.expiration = Some("5184000000".to_owned());
    let mut wrong = to(&queue, "wrong");
    wrong.message.properties.expiration = Some("soon".to_owned());
    let outcomes = within(transport.publish(&[long_lived, wrong, to(&queue, "neighbour")])).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(outcomes[1].as_ref().unwrap_err().code(), "ERR_CELERIAC_ENCODE");
    assert_eq!(within(transport.queue_length(&queue)).await.unwrap(), 2);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_beyond_255_bytes_are_refused_and_their_neighbours_are_taken() {
    let (_server, transport, queue) = shared_server().await;
    let long = "x".repeat(256);
    let batch = [
        to(&queue, "one"),
        through(&long, ExchangeType::Direct, "key", "exchange"),
        through(&queue, ExchangeType::Direct, &long, "key"),
        to(&queue, "two"),
    ];
    let outcomes = within(transport.publish(&batch)).await;
    assert!(outcomes[0].is_ok() && outcomes[3].is_ok(), "{outcomes:?}");
    for outcome in &outcomes[1..3] {
        assert_eq!(outcome.as_ref().unwrap_err().code(), "ERR_CELERIAC_ENCODE");
    }
    assert_eq!(within(transport.queue_length(&queue)).await.unwrap(), 2);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_up_to_a_frame_are_taken_and_beyond_it_refused_and_no_connection_ends() {
    let (server, transport) = own_server(&["q"]).await;
    let queue = "q";
    let with_headers = |size: usize| {
        let mut publication = to(queue, "large");
        publication.message.headers = format!(r#"{{"pad": "{}"}}"#, "p".repeat(size));
        publication
    };
    publish(&transport, &[to(queue, "first")]).await;
    let connections = server.ctl(&["list_connections", "pid"]).await;
    // Whether it fits changes at one size.
    let sizes = 131_072 - 160..131_072 - 10;
    let batch: Vec<Publication> = sizes.clone().map(with_headers).collect();
    let outcomes = within(transport.publish(&batch)).await;
    let taken = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    assert!(taken > 0 && taken < outcomes.len(), "{taken}");
    for outcome in &outcomes[taken..] {
        assert_eq!(outcome.as_ref().unwrap_err().code(), "ERR_CELERIAC_ENCODE");
    }
    let huge = within(transport.publish(&[with_headers(6 << 20), to(queue, "small")])).await;
    assert_eq!(huge[0].as_ref().unwrap_err().code(), "ERR_CELERIAC_ENCODE");
    assert!(huge[1].is_ok());
    assert_eq!(server.ctl(&["list_connections", "pid"]).await, connections, "nobody was disconnected");
    within(transport.purge(queue)).await.unwrap();

    // What fits exactly leaves no room for what the dead list says of it.
    let largest = with_headers(sizes.start + taken - 1);
    publish(&transport, std::slice::from_ref(&largest)).await;
    let consumer = consume(&transport, &[queue]).await;
    let delivery = take_one(&consumer).await;
    settle(&consumer, &delivery, Outcome::Dead { reason: "rejected", detail: "no".to_owned() }).await;
    let id = letter_of(&transport, queue).await;
    let (letter, raw) = within(transport.dead_letter(&id)).await.unwrap().unwrap();
    assert_eq!((letter.reason.as_str(), letter.size), ("rejected", raw.len() as u64));
    assert_eq!(within(transport.replay_dead(&[id], None)).await.unwrap(), [true]);
    let again = take_one(&consumer).await;
    assert_eq!(again.message.as_ref().unwrap().headers, largest.message.headers);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_list_keeps_the_types_of_headers_and_the_properties_of_others() {
    let (server, transport, queue) = shared_server().await;
    let connection =
        lapin::Connection::connect(&server.url(), lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut tagged = FieldTable::default();
    tagged.insert("__type__".into(), AMQPValue::LongString("datetime".into()));
    tagged.insert("__value__".into(), AMQPValue::LongString("2026-01-02T03:04:05".into()));
    let mut headers = FieldTable::default();
    headers.insert("tagged".into(), AMQPValue::FieldTable(tagged));
    headers.insert("time".into(), AMQPValue::Timestamp(1_767_323_045));
    headers.insert("bytes".into(), AMQPValue::ByteArray(vec![0xff, 0, 1].into()));
    headers.insert("text".into(), AMQPValue::LongString(vec![0xff, 0xfe].into()));
    headers.insert("float".into(), AMQPValue::Float(0.1));
    headers.insert("small".into(), AMQPValue::ShortShortUInt(200));
    let sent = BasicProperties::default()
        .with_headers(headers)
        .with_user_id("guest".into())
        .with_expiration("3600000".into())
        .with_message_id("m".into())
        .with_timestamp(7);
    let confirm = channel.basic_publish(
        "".into(),
        queue.as_str().into(),
        BasicPublishOptions::default(),
        b"\xff",
        sent.clone(),
    );
    confirm.await.unwrap().await.unwrap();

    let consumer = consume(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    settle(&consumer, &delivery, Outcome::Dead { reason: "malformed", detail: String::new() }).await;
    within(consumer.close()).await.unwrap();
    let id = letter_of(&transport, &queue).await;
    assert_eq!(within(transport.replay_dead(&[id], None)).await.unwrap(), [true]);
    let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
    got.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
    assert_eq!(got.delivery.data, b"\xff");
    let came = &got.delivery.properties;
    assert_eq!(came.headers(), sent.headers());
    assert_eq!(
        (came.message_id(), came.timestamp(), came.expiration()),
        (sent.message_id(), sent.timestamp(), sent.expiration())
    );
    assert_eq!(*came.delivery_mode(), None);
    connection.close(200, "OK".into()).await.unwrap();
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_dead_list_is_complete_however_soon_it_is_read_again() {
    const COUNT: usize = 1500;
    let (_server, transport) = own_server(&["q"]).await;
    let queue = "q";
    let batch: Vec<Publication> = (0..COUNT).map(|number| to(queue, &number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &[queue]).await;
    let held = take(&consumer, COUNT).await;
    let dead =
        |delivery: &Delivery| only(delivery, Outcome::Dead { reason: "rejected", detail: body(delivery) });
    for settled in within(consumer.settle(&held.iter().map(dead).collect::<Vec<_>>())).await {
        settled.unwrap();
    }
    for round in 0..3 {
        let all = within(transport.dead_letters(0, 2 * COUNT)).await.unwrap();
        let details: Vec<usize> = all.iter().map(|letter| letter.detail.parse().unwrap()).collect();
        assert_eq!(details, (0..COUNT).collect::<Vec<_>>(), "round {round}");
        assert_eq!(within(transport.dead_count()).await.unwrap(), COUNT as u64);
        let end = within(transport.dead_letters(COUNT - 10, 100)).await.unwrap();
        assert_eq!(end.len(), 10, "round {round}");
    }
    let ids: Vec<String> =
        within(transport.dead_letters(0, COUNT)).await.unwrap().into_iter().map(|letter| letter.id).collect();
    assert_eq!(within(transport.replay_dead(&ids, None)).await.unwrap(), vec![true; COUNT]);
    assert_eq!(within(transport.dead_count()).await.unwrap(), 0);
    let again = take(&consumer, COUNT).await;
    assert_eq!(again.iter().map(body).collect::<HashSet<_>>().len(), COUNT);
    transport.close().await;
}
