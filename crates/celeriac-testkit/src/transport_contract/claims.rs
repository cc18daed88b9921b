//! What happens to a message between being handed out and being settled.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{Outcome, Settled};

use super::support::*;

/// Long enough that a renewal is not missed on a busy machine, short enough to wait for.
const SHORT_LEASE: Duration = Duration::from_secs(1);

/// Nobody gets an acknowledged message again, not even after its consumer has closed.
pub async fn an_acknowledged_message_is_gone(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "once")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    settle(&consumer, &delivery, Outcome::Ack).await;
    close(&consumer).await;
    assert_eq!(waiting_in(&other, &queue).await, 0);
    let next = consume(&other, &[&queue]).await;
    nothing_comes(&next, QUIET).await;
    transport.close().await;
    other.close().await;
}

/// Before what was waiting behind it.
pub async fn a_requeued_message_comes_back_first(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "first"), to(&queue, "second")]).await;
    let consumer = consume_singly(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    settle(&consumer, &delivery, Outcome::Requeue { redelivered: false }).await;
    let again = take(&consumer, 2).await;
    assert_eq!(bodies(&again), ["first", "second"]);
    assert!(transport.features().amqp || !redelivered(&again[0]), "nobody asked for the mark");
    assert!(again[0].tag > delivery.tag, "a tag is never used twice");
    transport.close().await;
}

/// Where kombu looks for it, and with nothing else changed.
pub async fn a_requeued_message_says_that_it_was_redelivered_when_asked(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "again")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    assert!(!redelivered(&delivery));
    settle(&consumer, &delivery, Outcome::Requeue { redelivered: true }).await;
    let again = take_one(&consumer).await;
    assert_eq!(body(&again), "again");
    assert!(redelivered(&again));
    transport.close().await;
}

/// The dead list keeps the queue, the reason, the detail and the bytes as the broker had them.
pub async fn a_dead_message_is_listed_with_its_reason_and_its_bytes(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "poor"), to(&queue, "thing")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let deliveries = take(&consumer, 2).await;
    for delivery in &deliveries {
        let outcome = Outcome::Dead { reason: "rejected", detail: format!("because of {}", body(delivery)) };
        settle(&consumer, delivery, outcome).await;
    }
    close(&consumer).await;
    assert_eq!(waiting_in(&transport, &queue).await, 0);

    let mut offset = 0;
    let mut listed = Vec::new();
    loop {
        let some = within("the dead list", other.dead_letters(offset, 1)).await.expect("it can be read");
        offset += 1;
        let Some(letter) = some.into_iter().next() else { break };
        listed.extend((letter.queue == queue.name).then_some(letter));
    }
    assert_eq!(listed.len(), 2);
    for (letter, delivery) in listed.iter().zip(&deliveries) {
        assert_eq!(letter.reason, "rejected");
        assert_eq!(letter.detail, format!("because of {}", body(delivery)));
        let (_, raw) = other.dead_letter(&letter.id).await.expect("it can be read").expect("it is there");
        assert_eq!(raw, whole(&other, delivery));
        assert!(letter.at_ms > 1_600_000_000_000, "milliseconds since 1970, not {}", letter.at_ms);
    }
    assert_ne!(listed[0].id, listed[1].id);
    transport.close().await;
    other.close().await;
}

/// Held is hidden; closing hands back at once, in the old order.
pub async fn an_unsettled_message_is_hidden_from_others_until_its_consumer_closes(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "one"), to(&queue, "two")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    take(&consumer, 2).await;
    let next = consume(&other, &[&queue]).await;
    nothing_comes(&next, QUIET).await;
    close(&consumer).await;
    assert_eq!(bodies(&take(&next, 2).await), ["one", "two"]);
    transport.close().await;
    other.close().await;
}

/// A consumer that is dropped without being closed has died, as far as the broker knows.
pub async fn messages_of_a_consumer_that_died_come_back_after_its_lease(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "one"), to(&queue, "two")]).await;
    let consumer = consume_with_lease(&transport, &[&queue], SHORT_LEASE).await;
    take(&consumer, 2).await;
    let next = consume_with_lease(&other, &[&queue], SHORT_LEASE).await;
    drop(consumer);
    drop(transport);
    let mut again = take(&next, 2).await;
    again.sort_by_key(body);
    assert_eq!(bodies(&again), ["one", "two"]);
    assert!(again.iter().all(redelivered), "they were handed out before");
    acknowledge(&next, &again).await;
    other.close().await;
}

/// The lease is renewed for as long as the consumer lives.
pub async fn a_held_message_outlives_its_lease(subject: &Subject) {
    let (transport, other) = (subject.open(), subject.open());
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "long")]).await;
    let consumer = consume_with_lease(&transport, &[&queue], SHORT_LEASE).await;
    let delivery = take_one(&consumer).await;
    let next = consume_with_lease(&other, &[&queue], SHORT_LEASE).await;
    nothing_comes(&next, SHORT_LEASE * 3).await;
    settle(&consumer, &delivery, Outcome::Ack).await;
    transport.close().await;
    other.close().await;
}

/// What a settlement sends is there when it is done, and the message is gone.
pub async fn settling_publishes_and_acknowledges(subject: &Subject) {
    let transport = subject.open();
    let (queue, callbacks) = (new_queue(&transport).await, new_queue(&transport).await);
    publish(&transport, &[to(&queue, "task")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    let mut all = settlement(delivery.tag, Outcome::Ack);
    all.publish = vec![to(&callbacks, "callback"), to(&callbacks, "another")];
    assert_eq!(settle_with(&consumer, all).await.expect("settling succeeds"), Settled::Done);
    close(&consumer).await;
    assert_eq!(waiting_in(&transport, &queue).await, 0);
    let next = consume(&transport, &[&callbacks]).await;
    assert_eq!(bodies(&take(&next, 2).await), ["callback", "another"]);
    transport.close().await;
}

/// A message is not acknowledged when what it leads to cannot be sent.
pub async fn a_settlement_that_cannot_be_routed_leaves_the_message_held(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "task")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    let nowhere = exchange(&fresh("nowhere"), celeriac_broker::ExchangeType::Direct);
    let mut all = settlement(delivery.tag, Outcome::Ack);
    all.publish = vec![through(&nowhere, "key", "callback")];
    let error = settle_with(&consumer, all).await.expect_err("there is no such queue");
    assert_eq!(error.code(), "ERR_CELERIAC_UNROUTABLE");
    assert_eq!(within("still_held", consumer.still_held(&[delivery.tag])).await.expect("it answers"), [true]);
    settle(&consumer, &delivery, Outcome::Ack).await;
    transport.close().await;
}

/// A settlement for a delivery that is no longer held does nothing at all, and says so.
pub async fn settling_what_was_lost_publishes_nothing(subject: &Subject) {
    let transport = subject.open();
    let (queue, callbacks) = (new_queue(&transport).await, new_queue(&transport).await);
    publish(&transport, &[to(&queue, "task"), to(&queue, "other")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let deliveries = take(&consumer, 2).await;
    settle(&consumer, &deliveries[0], Outcome::Requeue { redelivered: false }).await;
    let mut late = settlement(deliveries[0].tag, Outcome::Ack);
    late.publish = vec![to(&callbacks, "callback")];
    let batch = [late, settlement(deliveries[1].tag, Outcome::Ack)];
    let settled: Vec<_> = within("settle", consumer.settle(&batch))
        .await
        .into_iter()
        .map(|result| result.expect("settling succeeds"))
        .collect();
    assert_eq!(settled, [Settled::Lost, Settled::Done], "each stands for itself");
    assert_eq!(waiting_in(&transport, &callbacks).await, 0);
    assert_eq!(body(&take_one(&consumer).await), "task");
    transport.close().await;
}

/// True for what is held, false for what was settled.
pub async fn still_held_tells_what_is_ours(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "one"), to(&queue, "two")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let deliveries = take(&consumer, 2).await;
    let tags = [deliveries[0].tag, deliveries[1].tag];
    settle(&consumer, &deliveries[0], Outcome::Ack).await;
    assert_eq!(within("still_held", consumer.still_held(&tags)).await.expect("it answers"), [false, true]);
    transport.close().await;
}

/// A waiting receive ends with nothing, later ones too; what is held stays held.
pub async fn stop_ends_receive_with_nothing_and_keeps_what_is_held(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "held")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    let waiting = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { consumer.receive(1).await }
    });
    nothing_comes(&consumer, QUIET).await;
    within("stop", consumer.stop()).await;
    let ended = within("the waiting receive", waiting).await.expect("no panic").expect("no error");
    assert!(ended.is_empty());
    publish(&transport, &[to(&queue, "later")]).await;
    let nothing = within("receive after stop", consumer.receive(1)).await.expect("no error");
    assert!(nothing.is_empty());
    assert_eq!(waiting_in(&transport, &queue).await, 1);
    assert_eq!(within("still_held", consumer.still_held(&[delivery.tag])).await.expect("it answers"), [true]);
    settle(&consumer, &delivery, Outcome::Ack).await;
    transport.close().await;
}

/// From then on only the new queues are taken from, by a receive that already waits too.
pub async fn set_queues_replaces_the_queues(subject: &Subject) {
    let transport = subject.open();
    let (old, new) = (new_queue(&transport).await, new_queue(&transport).await);
    let consumer = consume(&transport, &[&old]).await;
    let waiting = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { consumer.receive(1).await }
    });
    nothing_comes(&consumer, QUIET).await;
    within("set_queues", consumer.set_queues(vec![new.clone()])).await.expect("it succeeds");
    publish(&transport, &[to(&old, "old")]).await;
    publish(&transport, &[to(&new, "new")]).await;
    let came = within("the waiting receive", waiting).await.expect("no panic").expect("no error");
    assert_eq!(bodies(&came), ["new"]);
    nothing_comes(&consumer, QUIET).await;
    assert_eq!(waiting_in(&transport, &old).await, 1);
    transport.close().await;
}

/// The second time there is nothing to hand back; a late settlement finds its delivery lost.
pub async fn closing_a_consumer_twice_is_fine(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "back")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    close(&consumer).await;
    close(&consumer).await;
    assert_eq!(waiting_in(&transport, &queue).await, 1);
    let late = settle_with(&consumer, settlement(delivery.tag, Outcome::Ack)).await;
    assert_eq!(late.expect("settling succeeds"), Settled::Lost);
    assert_eq!(waiting_in(&transport, &queue).await, 1);
    let after = within("receive after close", consumer.receive(1)).await.expect("no error");
    assert!(after.is_empty());
    transport.close().await;
}

/// For brokers that lease; `take_away` takes the message with this body from its holder, as whoever takes it for dead does.
/// Nothing that the holder does with it counts from then on, and it gets it again like anybody else.
pub async fn a_consumer_is_told_what_it_lost<F: Future<Output = ()>>(
    subject: &Subject,
    take_away: impl FnOnce(&'static str) -> F,
) {
    let transport = subject.open();
    let (queue, callbacks) = (new_queue(&transport).await, new_queue(&transport).await);
    publish(&transport, &[to(&queue, "lost")]).await;
    let consumer = consume_with_lease(&transport, &[&queue], SHORT_LEASE).await;
    let delivery = take_one(&consumer).await;
    assert!(consumer.leases_stand());
    take_away("lost").await;
    assert_eq!(within("being told", consumer.lost()).await, [delivery.tag]);

    let mut late = settlement(delivery.tag, Outcome::Ack);
    late.publish = vec![to(&callbacks, "callback")];
    assert_eq!(settle_with(&consumer, late).await.expect("settling succeeds"), Settled::Lost);
    assert_eq!(waiting_in(&transport, &callbacks).await, 0);
    let tags = [delivery.tag];
    assert_eq!(within("still_held", consumer.still_held(&tags)).await.expect("it answers"), [false]);
    let begun = within("begin", consumer.begin(&[(delivery.tag, "task")])).await;
    assert_eq!(begun.expect("it can be counted"), [None]);

    let again = take_one(&consumer).await;
    assert_eq!(body(&again), "lost");
    settle(&consumer, &again, Outcome::Ack).await;
    // What is settled is not lost, and nothing is told twice.
    let told = tokio::time::timeout(SHORT_LEASE, consumer.lost()).await;
    assert!(told.is_err(), "{told:?}");
    transport.close().await;
}
