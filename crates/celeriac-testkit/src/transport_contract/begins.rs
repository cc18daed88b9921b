//! How often the body of a task has begun whose messages came back.

use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{Consumer, Delivery, Outcome};

use super::support::*;

/// Short enough to wait for.
const SHORT_LEASE: Duration = Duration::from_secs(1);

async fn begin(consumer: &Arc<dyn Consumer>, delivery: &Delivery, task_id: &str) -> Option<u32> {
    let counts =
        within("begin", consumer.begin(&[(delivery.tag, task_id)])).await.expect("it can be counted");
    assert_eq!(counts.len(), 1);
    counts[0]
}

/// A consumer that is dropped without being closed has died, as far as the broker knows.
pub async fn begins_are_counted_over_leases_that_run_out(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let task_id = fresh("task");
    publish(&transport, &[task(&queue, "poison", &task_id)]).await;
    // Somebody has to put back what the dead held.
    let watching = new_queue(&transport).await;
    let other = consume_with_lease(&transport, &[&watching], SHORT_LEASE).await;
    for count in 2..=4 {
        let dying = subject.open();
        let consumer = consume_with_lease(&dying, &[&queue], SHORT_LEASE).await;
        let delivery = take_one(&consumer).await;
        assert_eq!(begin(&consumer, &delivery, &task_id).await, Some(count));
        assert_eq!(begin(&consumer, &delivery, &task_id).await, Some(count), "it is the same begin");
        drop(consumer);
        drop(dying);
    }
    close(&other).await;
    transport.close().await;
}

/// What was given up counts; what was never begun does not.
pub async fn begins_are_counted_over_deliveries_that_were_given_up(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let task_id = fresh("task");
    publish(&transport, &[task(&queue, "endless", &task_id)]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let delivery = take_one(&consumer).await;
    assert!(!redelivered(&delivery));
    settle(&consumer, &delivery, Outcome::Abandon).await;
    for count in 2..=4 {
        let delivery = take_one(&consumer).await;
        assert!(redelivered(&delivery));
        assert_eq!(begin(&consumer, &delivery, &task_id).await, Some(count));
        settle(&consumer, &delivery, Outcome::Abandon).await;
    }
    transport.close().await;
}

/// What ends the task, or begins it anew on purpose, forgets the count.
pub async fn a_count_is_forgotten_when_its_delivery_is_settled(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let task_id = fresh("task");
    let dead = Outcome::Dead { reason: "rejected", detail: String::new() };
    for outcome in [Outcome::Ack, Outcome::Requeue { redelivered: true }, dead] {
        publish(&transport, &[task(&queue, "task", &task_id)]).await;
        let consumer = consume(&transport, &[&queue]).await;
        let delivery = take_one(&consumer).await;
        assert_eq!(begin(&consumer, &delivery, &task_id).await, Some(2), "before {outcome:?}");
        settle(&consumer, &delivery, outcome.clone()).await;
        if matches!(outcome, Outcome::Requeue { .. }) {
            let again = take_one(&consumer).await;
            assert_eq!(begin(&consumer, &again, &task_id).await, Some(2), "after {outcome:?}");
            settle(&consumer, &again, Outcome::Ack).await;
        }
        close(&consumer).await;
    }
    transport.close().await;
}

/// Nothing was settled: neither by handing back, nor by closing, whether its body had been counted or not.
pub async fn a_count_stands_when_its_delivery_is_handed_back(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let task_id = fresh("task");
    publish(&transport, &[task(&queue, "task", &task_id)]).await;
    for count in [2, 4, 6] {
        let consumer = consume(&transport, &[&queue]).await;
        let delivery = take_one(&consumer).await;
        assert_eq!(begin(&consumer, &delivery, &task_id).await, Some(count));
        settle(&consumer, &delivery, Outcome::Requeue { redelivered: false }).await;
        let again = take_one(&consumer).await;
        assert_eq!(begin(&consumer, &again, &task_id).await, Some(count + 1), "after it was handed back");
        close(&consumer).await;
        // And one that does not ask changes nothing.
        let consumer = consume(&transport, &[&queue]).await;
        let unbegun = take_one(&consumer).await;
        settle(&consumer, &unbegun, Outcome::Requeue { redelivered: false }).await;
        take_one(&consumer).await;
        close(&consumer).await;
    }
    transport.close().await;
}

/// The count is the task's, not the message's.
pub async fn deliveries_of_one_task_share_their_count(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let (task_id, other_id) = (fresh("task"), fresh("task"));
    publish(&transport, &[to(&queue, "one"), to(&queue, "two"), to(&queue, "other")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let deliveries = take(&consumer, 3).await;
    let batch = [
        (deliveries[0].tag, task_id.as_str()),
        (deliveries[1].tag, task_id.as_str()),
        (deliveries[2].tag, other_id.as_str()),
    ];
    let counts = within("begin", consumer.begin(&batch)).await.expect("it can be counted");
    assert_eq!(counts, [Some(2), Some(3), Some(2)]);
    acknowledge(&consumer, &deliveries).await;
    transport.close().await;
}

/// And is not counted.
pub async fn what_was_lost_does_not_begin(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let (lost_id, task_id) = (fresh("task"), fresh("task"));
    publish(&transport, &[to(&queue, "lost"), to(&queue, "held")]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let deliveries = take(&consumer, 2).await;
    settle(&consumer, &deliveries[0], Outcome::Requeue { redelivered: true }).await;
    let batch = [(deliveries[0].tag, lost_id.as_str()), (deliveries[1].tag, task_id.as_str())];
    let counts = within("begin", consumer.begin(&batch)).await.expect("it can be counted");
    assert_eq!(counts, [None, Some(2)]);
    let again = take_one(&consumer).await;
    assert_eq!(begin(&consumer, &again, &lost_id).await, Some(2));
    transport.close().await;
}

/// Whoever replays it believes that it was mended.
pub async fn a_replayed_message_has_no_count(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let task_id = fresh("task");
    publish(&transport, &[task(&queue, "one", &task_id), task(&queue, "two", &task_id)]).await;
    let consumer = consume(&transport, &[&queue]).await;
    let deliveries = take(&consumer, 2).await;
    assert_eq!(begin(&consumer, &deliveries[0], &task_id).await, Some(2));
    let detail = fresh("detail");
    settle(&consumer, &deliveries[1], Outcome::Dead { reason: "rejected", detail: detail.clone() }).await;
    let letters =
        within("the dead list", transport.dead_letters(0, usize::MAX)).await.expect("it can be read");
    let letter = letters.into_iter().find(|letter| letter.detail == detail).expect("it is there");
    let replayed = within("replaying", transport.replay_dead(&[letter.id], None)).await;
    assert_eq!(replayed.expect("it can be replayed"), [true]);
    let again = take_one(&consumer).await;
    assert_eq!(begin(&consumer, &again, &task_id).await, Some(2));
    transport.close().await;
}
