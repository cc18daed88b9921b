//! The dead list: what is known of a message, and what can be done with it.

use std::sync::Arc;

use celeriac_broker::{DeadLetter, Delivery, Outcome, Queue, Transport};

use super::support::*;

/// Takes what waits in the queue and puts it into the dead list.
async fn bury_all(transport: &Arc<dyn Transport>, queue: &Queue, count: usize) -> Vec<Delivery> {
    let consumer = consume(transport, &[queue]).await;
    let deliveries = take(&consumer, count).await;
    for delivery in &deliveries {
        settle(&consumer, delivery, Outcome::Dead { reason: "rejected", detail: body(delivery) }).await;
    }
    close(&consumer).await;
    deliveries
}

/// The dead messages of a queue, oldest first.
async fn dead_of(transport: &Arc<dyn Transport>, queue: &Queue) -> Vec<DeadLetter> {
    let all = within("the dead list", transport.dead_letters(0, usize::MAX)).await.expect("it can be read");
    all.into_iter().filter(|letter| letter.queue == queue.name).collect()
}

fn ids(letters: &[DeadLetter]) -> Vec<String> {
    letters.iter().map(|letter| letter.id.clone()).collect()
}

async fn replay(transport: &Arc<dyn Transport>, ids: &[String], queue: Option<&str>) -> Vec<bool> {
    within("replaying", transport.replay_dead(ids, queue)).await.expect("it can be replayed")
}

/// Without the bytes; with them when one is asked for. Its id can be written in a shell as it is.
pub async fn a_dead_message_is_listed_with_its_task_and_its_size(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[task(&queue, "body", "task-1")]).await;
    let delivery = bury_all(&transport, &queue, 1).await.remove(0);
    let letter = dead_of(&transport, &queue).await.remove(0);
    assert_eq!((letter.task.as_deref(), letter.task_id.as_deref()), (Some("contract"), Some("task-1")));
    let raw = whole(&transport, &delivery);
    assert_eq!(letter.size, raw.len() as u64);
    assert!(
        letter.id.len() <= 20 && letter.id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{}",
        letter.id
    );
    let shown = within("the letter", transport.dead_letter(&letter.id)).await.expect("it can be read");
    assert_eq!(shown, Some((letter, raw)));
    transport.close().await;
}

/// Behind what waits there at the same priority, with the bytes that it had.
pub async fn a_replayed_message_comes_back_to_its_queue_at_its_priority(subject: &Subject) {
    let transport = subject.open();
    let queue = new_priority_queue(&transport).await;
    let with_priority = |body: &str, priority| {
        let mut publication = to(&queue, body);
        publication.message.properties.priority = Some(priority);
        publication
    };
    publish(&transport, &[with_priority("dead", 6)]).await;
    let dead = bury_all(&transport, &queue, 1).await.remove(0);
    publish(&transport, &[with_priority("last", 9), with_priority("before", 6), with_priority("urgent", 0)])
        .await;

    let letters = dead_of(&transport, &queue).await;
    assert_eq!(replay(&transport, &ids(&letters), None).await, [true]);
    assert_eq!(dead_of(&transport, &queue).await, [], "it is in one place only");
    let shown = within("the letter", transport.dead_letter(&letters[0].id)).await.expect("it can be read");
    assert_eq!(shown, None);
    assert_eq!(replay(&transport, &ids(&letters), None).await, [false]);

    let consumer = consume(&transport, &[&queue]).await;
    let came = take(&consumer, 4).await;
    if transport.features().amqp {
        assert_eq!(bodies(&came), ["last", "before", "dead", "urgent"]);
    } else {
        assert_eq!(bodies(&came), ["urgent", "before", "dead", "last"]);
    }
    assert_eq!(came[2].raw, dead.raw);
    acknowledge(&consumer, &came).await;
    close(&consumer).await;
    assert_eq!(waiting_in(&transport, &queue).await, 0);
    transport.close().await;
}

/// Another queue than its own, where one is named.
pub async fn a_replayed_message_goes_where_it_is_told_to(subject: &Subject) {
    let transport = subject.open();
    let (queue, other) = (new_queue(&transport).await, new_queue(&transport).await);
    publish(&transport, &[to(&queue, "one"), to(&queue, "two")]).await;
    let dead = bury_all(&transport, &queue, 2).await;
    let letters = dead_of(&transport, &queue).await;
    assert_eq!(replay(&transport, &ids(&letters), Some(&other.name)).await, [true, true]);
    assert_eq!(waiting_in(&transport, &queue).await, 0);
    let consumer = consume(&transport, &[&other]).await;
    let came = take(&consumer, 2).await;
    let raw = |deliveries: &[Delivery]| deliveries.iter().map(|one| one.raw.clone()).collect::<Vec<_>>();
    if transport.features().amqp {
        // The routing key is not the message's, so only that differs.
        assert_eq!(bodies(&came), bodies(&dead), "in the order in which they are named");
    } else {
        assert_eq!(raw(&came), raw(&dead), "in the order in which they are named");
    }
    acknowledge(&consumer, &came).await;
    transport.close().await;
}

/// For good, and its neighbours stay.
pub async fn a_dropped_message_is_gone(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "one"), to(&queue, "two")]).await;
    bury_all(&transport, &queue, 2).await;
    let letters = dead_of(&transport, &queue).await;
    let first = std::slice::from_ref(&letters[0].id);
    let drop_first =
        || async { within("dropping", transport.drop_dead(first)).await.expect("it can be dropped") };
    assert_eq!(drop_first().await, [true]);
    assert_eq!(drop_first().await, [false]);
    assert_eq!(dead_of(&transport, &queue).await, [letters[1].clone()]);
    assert_eq!(replay(&transport, first, None).await, [false]);
    assert_eq!(waiting_in(&transport, &queue).await, 0);
    transport.close().await;
}

/// An id that is not there is no error, and does not keep the others from being replayed.
pub async fn what_is_not_in_the_dead_list_says_so(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "one")]).await;
    bury_all(&transport, &queue, 1).await;
    let there = dead_of(&transport, &queue).await[0].id.clone();
    let strange = ["", "no such id", "999999999999", "-1", "'; --"].map(str::to_owned);
    for id in &strange {
        assert_eq!(within("the letter", transport.dead_letter(id)).await.expect("no error"), None, "{id}");
    }
    assert_eq!(within("dropping", transport.drop_dead(&strange)).await.expect("no error"), [false; 5]);
    let asked = [&strange[..], &[there.clone(), there]].concat();
    assert_eq!(replay(&transport, &asked, None).await, [false, false, false, false, false, true, false]);
    assert_eq!(waiting_in(&transport, &queue).await, 1);
    transport.close().await;
}

/// As many as can be listed.
pub async fn the_dead_list_is_counted(subject: &Subject) {
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    publish(&transport, &[to(&queue, "one"), to(&queue, "two"), to(&queue, "three")]).await;
    bury_all(&transport, &queue, 3).await;
    // Other tests may add to the list of a broker that is shared.
    within("a count that agrees with the list", async {
        loop {
            let length =
                || async { transport.dead_letters(0, usize::MAX).await.expect("it can be read").len() };
            let before = length().await;
            let count = transport.dead_count().await.expect("it can be counted");
            if before == length().await {
                assert!(before >= 3);
                assert_eq!(count, before as u64);
                break;
            }
        }
    })
    .await;
    transport.close().await;
}

/// Whoever comes second is told that it is not there.
pub async fn replays_at_the_same_time_replay_once(subject: &Subject) {
    const MESSAGES: usize = 20;
    let transport = subject.open();
    let queue = new_queue(&transport).await;
    let batch: Vec<_> = (0..MESSAGES).map(|number| to(&queue, number.to_string())).collect();
    publish(&transport, &batch).await;
    bury_all(&transport, &queue, MESSAGES).await;
    let ids = ids(&dead_of(&transport, &queue).await);
    let others = [subject.open(), subject.open(), subject.open(), subject.open()];
    let replays: Vec<_> = others
        .iter()
        .map(|other| {
            let (other, ids) = (Arc::clone(other), ids.clone());
            tokio::spawn(async move { other.replay_dead(&ids, None).await })
        })
        .collect();
    let mut times = [0; MESSAGES];
    for replay in replays {
        let replayed = within("a replay", replay).await.expect("no panic").expect("no error");
        replayed.iter().zip(&mut times).for_each(|(&replayed, times)| *times += u32::from(replayed));
    }
    assert_eq!(times, [1; MESSAGES]);
    assert_eq!(waiting_in(&transport, &queue).await, MESSAGES as u64);
    for other in others {
        other.close().await;
    }
    transport.close().await;
}
