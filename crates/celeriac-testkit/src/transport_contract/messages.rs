//! Messages go in and come out: unchanged, in order, once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::{ExchangeType, Publication};
use celeriac_protocol::{DeliveryInfo, Message, Properties};

use super::support::*;

/// Body, headers and properties come back as they were published, whatever bytes the body has.
pub async fn a_published_message_comes_back_unchanged(subject: &Subject) {
    let transport = subject.open();
    within("connect", transport.connect()).await.expect("the broker answers");
    let queue = new_queue(&transport).await;
    let consumer = consume(&transport, &[&queue]).await;
    let headers = if transport.features().amqp {
        r#"{"e": [], "f": 1.0, "n": 1234567890123456789, "task": "t", "u": "\u00e4\"", "\u00e4": {}}"#
    } else {
        r#"{"task": "t", "n": 12345678901234567890123, "x": NaN, "f": 1.0, "e": [], "u": "\u00e4\"", "ä": {}}"#
    };
    let sent = Message {
        body: Bytes::from_static(b"\x00\xff\x80 not text \"{}"),
        content_type: "application/x-anything".to_owned(),
        content_encoding: "binary".to_owned(),
        headers: headers.to_owned(),
        properties: Properties {
            correlation_id: Some("id \u{1f600}".to_owned()),
            reply_to: Some("reply".to_owned()),
            delivery_mode: Some(2),
            priority: Some(3),
            expiration: Some("60000".to_owned()),
            ..Properties::default()
        },
    };
    let publication = Publication {
        exchange: "".into(),
        exchange_type: ExchangeType::Direct,
        routing_key: queue.name.as_str().into(),
        message: sent.clone(),
    };
    publish(&transport, &[publication]).await;

    let delivery = take_one(&consumer).await;
    assert_eq!(&*delivery.queue, queue.name);
    let mut came = delivery.message.expect("the envelope can be read");
    let expected =
        DeliveryInfo { exchange: String::new(), routing_key: queue.name.clone(), redelivered: false };
    assert_eq!(came.properties.delivery_info, expected);
    // Where it went and under which tag are the transport's to say.
    came.properties.delivery_info = DeliveryInfo::default();
    came.properties.delivery_tag = None;
    assert_eq!(came, sent);
    transport.close().await;
}

/// First in, first out, across batches and single messages.
pub async fn messages_come_in_the_order_in_which_they_were_published(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let expected: Vec<String> = (0..120).map(|number| number.to_string()).collect();
    let publications: Vec<_> = expected.iter().map(|body| to(&queue, body)).collect();
    publish(&transport, &publications[..100]).await;
    for publication in &publications[100..] {
        publish(&transport, std::slice::from_ref(publication)).await;
    }
    let consumer = consume(&transport, &[&queue]).await;
    assert_eq!(bodies(&take(&consumer, 120).await), expected);
    transport.close().await;
}

/// `receive(max)` gives at once what is there, never more than `max`, and the rest with the next call.
pub async fn a_batch_takes_what_is_there_up_to_max(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let batch: Vec<_> = (0..5).map(|number| to(&queue, number.to_string())).collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &[&queue]).await;
    let first = within("receive", consumer.receive(3)).await.expect("receive succeeds");
    assert!((1..=3).contains(&first.len()), "{} messages for at most 3", first.len());
    let rest = take(&consumer, 5 - first.len()).await;
    assert_eq!([bodies(&first), bodies(&rest)].concat(), ["0", "1", "2", "3", "4"]);
    assert!(first.iter().chain(&rest).map(|delivery| delivery.tag).is_sorted(), "tags grow");
    transport.close().await;
}

/// A receive on an empty queue stays pending, and a message that another connection publishes ends it.
pub async fn an_empty_receive_waits_until_a_message_comes(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    let queue = new_queue(&transport).await;
    let consumer = consume(&transport, &[&queue]).await;
    let waiting = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { consumer.receive(10).await }
    });
    nothing_comes(&consumer, QUIET).await;
    assert!(!waiting.is_finished());
    publish(&other, &[to(&queue, "at last")]).await;
    let came = within("the waiting receive", waiting).await.expect("no panic").expect("receive succeeds");
    assert_eq!(bodies(&came), ["at last"]);
    transport.close().await;
    other.close().await;
}

/// Receives that are cancelled at any moment neither lose nor double anything.
pub async fn dropping_a_receive_loses_nothing(subject: &Subject) {
    const COUNT: usize = 300;
    let (transport, other) = (subject.open(), subject.open());
    let queue = new_queue(&transport).await;
    let consumer = consume(&transport, &[&queue]).await;
    let producer = tokio::spawn({
        let (other, queue) = (Arc::clone(&other), queue.clone());
        async move {
            for number in 0..COUNT {
                publish(&other, &[to(&queue, number.to_string())]).await;
            }
        }
    });
    let mut came = Vec::new();
    within("receiving with cancelled calls between", async {
        let mut patience = 0;
        while came.len() < COUNT {
            // From none at all to two milliseconds, so that the call is dropped in each of its steps.
            patience = (patience + 1) % 41;
            let limit = Duration::from_micros(patience * 50);
            if let Ok(batch) = tokio::time::timeout(limit, consumer.receive(7)).await {
                came.extend(batch.expect("receive succeeds"));
            }
        }
    })
    .await;
    within("the producer", producer).await.expect("no panic");
    let distinct: HashSet<String> = bodies(&came).into_iter().collect();
    assert_eq!((came.len(), distinct.len()), (COUNT, COUNT), "each exactly once");
    acknowledge(&consumer, &came).await;
    assert_eq!(waiting_in(&transport, &queue).await, 0);
    transport.close().await;
    other.close().await;
}

/// Where there are priorities at all, 0 comes first, as on kombu's Redis transport, and last with AMQP; within one, the oldest.
pub async fn lower_priority_numbers_come_first(subject: &Subject) {
    let transport = subject.open();
    if !transport.features().priority {
        return;
    }
    let queue = new_priority_queue(&transport).await;
    // 0, 3, 6 and 9 are the steps that kombu keeps apart on Redis.
    let batch: Vec<_> = [(9, "9a"), (3, "3a"), (0, "0a"), (9, "9b"), (6, "6a"), (0, "0b"), (3, "3b")]
        .into_iter()
        .map(|(priority, body)| {
            let mut publication = to(&queue, body);
            publication.message.properties.priority = Some(priority);
            publication
        })
        .collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &[&queue]).await;
    let came = bodies(&take(&consumer, batch.len()).await);
    if transport.features().amqp {
        assert_eq!(came, ["9a", "9b", "6a", "3a", "3b", "0a", "0b"]);
    } else {
        assert_eq!(came, ["0a", "0b", "3a", "3b", "6a", "9a", "9b"]);
    }
    transport.close().await;
}

/// What consumers hold does not count, and is not purged.
pub async fn queue_length_counts_what_waits_and_purge_removes_it(subject: &Subject) {
    let transport = subject.open();
    let (queue, neighbour) = (new_queue(&transport).await, new_queue(&transport).await);
    assert_eq!(waiting_in(&transport, &queue).await, 0);
    let batch: Vec<_> = (0..5).map(|number| to(&queue, number.to_string())).collect();
    publish(&transport, &batch).await;
    publish(&transport, &[to(&neighbour, "stays")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let held = take(&consumer, 2).await;
    within("stop", consumer.stop()).await;
    assert_eq!(waiting_in(&transport, &queue).await, 3);

    assert_eq!(within("purge", transport.purge(&queue.name)).await.expect("purging succeeds"), 3);
    assert_eq!(waiting_in(&transport, &queue).await, 0);
    assert_eq!(within("purge", transport.purge(&queue.name)).await.expect("purging succeeds"), 0);
    assert_eq!(waiting_in(&transport, &neighbour).await, 1);
    acknowledge(&consumer, &held).await;
    transport.close().await;
}

/// Five producers and five consumers, each on a connection of its own: 5,000 messages, each exactly once.
pub async fn many_producers_and_consumers_pass_each_message_exactly_once(subject: &Subject) {
    const PRODUCERS: usize = 5;
    const EACH: usize = 1000;
    let first = subject.open();
    let queue = new_queue(&first).await;
    let left = Arc::new(AtomicUsize::new(PRODUCERS * EACH));
    let (done, _) = tokio::sync::watch::channel(false);
    let done = Arc::new(done);
    let mut consumers = Vec::new();
    for _ in 0..5 {
        let (transport, queue) = (subject.open(), queue.clone());
        let (left, done) = (Arc::clone(&left), Arc::clone(&done));
        let mut finished = done.subscribe();
        consumers.push(tokio::spawn(async move {
            let consumer = consume(&transport, &[&queue]).await;
            let mut came = Vec::new();
            loop {
                let batch = tokio::select! {
                    batch = consumer.receive(64) => batch.expect("receive succeeds"),
                    _ = finished.wait_for(|done| *done) => break,
                };
                acknowledge(&consumer, &batch).await;
                came.extend(bodies(&batch));
                if left.fetch_sub(batch.len(), Ordering::AcqRel) == batch.len() {
                    let _ = done.send(true);
                }
            }
            close(&consumer).await;
            transport.close().await;
            came
        }));
    }
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (transport, queue) = (subject.open(), queue.clone());
            tokio::spawn(async move {
                let batch: Vec<_> =
                    (0..EACH).map(|number| to(&queue, format!("{producer}-{number}"))).collect();
                for some in batch.chunks(37) {
                    publish(&transport, some).await;
                }
                transport.close().await;
            })
        })
        .collect();
    for producer in producers {
        within("a producer", producer).await.expect("no panic");
    }
    let mut came = Vec::new();
    for consumer in consumers {
        came.extend(within("a consumer", consumer).await.expect("no panic"));
    }
    let distinct: HashSet<&String> = came.iter().collect();
    assert_eq!((came.len(), distinct.len()), (PRODUCERS * EACH, PRODUCERS * EACH));
    assert_eq!(waiting_in(&first, &queue).await, 0);
    first.close().await;
}
