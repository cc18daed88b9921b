//! Tasks that come back because their worker was lost: they are counted, and a poisonous one ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use celeriac_worker::Worker;
use serde_json::Value;
use tokio::time::timeout;

use support::{Bench, PATIENCE, SUCCESS, next, outcome};

/// A worker that counts, and that holds these tasks, all of which were handed out before.
async fn with_redelivered(bench: &Bench, ids: &[&str], most: u32) -> Worker {
    for id in ids {
        bench.send(id, None).await;
    }
    let worker = bench.worker(|options| options.max_deliveries = Some(most)).await;
    let mut items = next(&worker).await;
    while items.len() < ids.len() {
        items.extend(next(&worker).await);
    }
    let requeue = items.iter().map(|item| outcome(item, "2,null,null,null,[],null"));
    worker.settle(requeue.collect::<Vec<_>>().join("\n"));
    worker
}

/// The task of an item that says that it was handed out before.
fn redelivered(items: &[Value]) -> &Value {
    assert_eq!((items.len(), &items[0][0]), (1, &Value::from("redelivered")), "{items:?}");
    &items[0][1]
}

fn tag(item: &Value) -> u64 {
    item[0].as_u64().unwrap()
}

#[tokio::test]
async fn redelivered_tasks_begin_one_after_the_other_and_others_do_not_wait_for_them() {
    let bench = Bench::new();
    let worker = with_redelivered(&bench, &["a", "b"], 5).await;
    let items = next(&worker).await;
    let first = redelivered(&items);
    bench.send("fresh", None).await;
    let fresh = next(&worker).await;
    assert_eq!((fresh.len(), &fresh[0][2]), (1, &Value::from("fresh")));
    assert_eq!(worker.count(tag(first)).await, 2);
    assert!(worker.begin_counted(tag(first), 2));
    let items = next(&worker).await;
    assert_ne!(redelivered(&items)[2], first[2]);
    worker.close().await.unwrap();
}

#[tokio::test]
async fn a_task_that_has_its_last_chance_keeps_others_that_were_redelivered_from_beginning_until_it_ends() {
    let bench = Bench::new();
    let worker = with_redelivered(&bench, &["a", "b"], 2).await;
    let items = next(&worker).await;
    let first = redelivered(&items);
    assert_eq!(worker.count(tag(first)).await, 2);
    assert!(worker.begin_counted(tag(first), 2));
    bench.send("fresh", None).await;
    assert_eq!(next(&worker).await[0][2], "fresh");
    let waiting = tokio::spawn({
        let worker = worker.clone();
        async move { next(&worker).await }
    });
    worker.settle(outcome(first, SUCCESS));
    let items = timeout(PATIENCE, waiting).await.expect("the second comes in time").unwrap();
    assert_ne!(redelivered(&items)[2], first[2]);
    worker.close().await.unwrap();
}

#[tokio::test]
async fn a_task_that_asks_to_be_requeued_is_counted_anew() {
    let bench = Bench::new();
    let worker = with_redelivered(&bench, &["a"], 5).await;
    for _ in 0..3 {
        let items = next(&worker).await;
        let item = redelivered(&items);
        assert_eq!(worker.count(tag(item)).await, 2);
        assert!(worker.begin_counted(tag(item), 2));
        worker.settle(outcome(item, "2,null,null,null,[],null"));
    }
    worker.close().await.unwrap();
}

#[tokio::test]
async fn a_task_whose_worker_fell_silent_is_counted_on_and_goes_to_the_dead_list_as_poison() {
    let bench = Bench::new();
    let worker = with_redelivered(&bench, &["a"], 3).await;
    worker.stop().await;
    worker.close().await.unwrap();
    for count in 2..=3 {
        let silent = bench
            .worker(|options| {
                options.max_deliveries = Some(3);
                options.patience = Duration::from_millis(100);
                options.lease_max_hold = Some(Duration::from_millis(200));
            })
            .await;
        let items = next(&silent).await;
        let item = redelivered(&items);
        assert_eq!(silent.count(tag(item)).await, count);
        assert!(silent.begin_counted(tag(item), count));
        let given_up = async {
            while bench.transport.queue_length("celery").await.unwrap() == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, given_up).await.expect("it is given up in time");
        silent.close().await.unwrap();
    }
    let worker = bench.worker(|options| options.max_deliveries = Some(3)).await;
    let items = next(&worker).await;
    let item = redelivered(&items);
    assert_eq!(worker.count(tag(item)).await, 4);
    assert!(worker.begin_counted(tag(item), 4));
    worker.settle(outcome(item, r#"4,"FAILURE",null,null,[],null"#));
    assert_eq!(bench.ready("a").await.status, "FAILURE");
    worker.close().await.unwrap();
    let dead = bench.transport.dead_letters(0, 10).await.unwrap();
    assert_eq!((dead.len(), dead[0].reason.as_str(), dead[0].task_id.as_deref()), (1, "poison", Some("a")));
}
