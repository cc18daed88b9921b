//! A worker from outside: messages go in through the broker, outcomes come back as JavaScript would give them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::{ExchangeType, Publication};
use celeriac_protocol::Message;
use celeriac_worker::{TaskSettings, Worker};
use serde_json::Value;
use support::{Bench, PATIENCE, SUCCESS, next, outcome};
use tokio::time::timeout;

#[tokio::test]
async fn a_task_is_delivered_and_its_result_stored_before_the_message_is_gone() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("one", None).await;
    let items = next(&worker).await;
    assert_eq!(items[0][1], "tasks.add");
    assert_eq!(items[0][2], "one");
    assert_eq!(items[0][3], serde_json::json!([2, 3]));
    worker.settle(outcome(&items[0], SUCCESS));
    let meta = bench.ready("one").await;
    assert_eq!((meta.status.as_str(), meta.result_json.as_str()), ("SUCCESS", "5"));
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 0);
}

#[tokio::test]
async fn no_more_than_the_free_slots_are_delivered() {
    let bench = Bench::new();
    for number in 0..5 {
        bench.send(&number.to_string(), None).await;
    }
    let worker = bench.worker(|options| options.concurrency = 2).await;
    let mut items = next(&worker).await;
    if items.len() < 2 {
        items.extend(next(&worker).await);
    }
    assert_eq!(items.len(), 2);
    worker.settle(outcome(&items[0], SUCCESS));
    assert_eq!(next(&worker).await.len(), 1);
    worker.close().await.unwrap();
}

#[tokio::test]
async fn an_unknown_task_fails_and_is_kept_in_the_dead_list() {
    let bench = Bench::new();
    let worker = bench.worker(|options| options.tasks.clear()).await;
    bench.send("lost", None).await;
    let meta = bench.ready("lost").await;
    assert_eq!(meta.status, "FAILURE");
    let result: Value = serde_json::from_str(&meta.result_json).unwrap();
    assert_eq!(result["exc_type"], "NotRegistered");
    assert_eq!(result["exc_message"], serde_json::json!(["tasks.add"]));
    worker.close().await.unwrap();
    let dead = bench.transport.dead_letters(0, 10).await.unwrap();
    assert_eq!((dead.len(), dead[0].reason.as_str()), (1, "unknown-task"));
}

#[tokio::test]
async fn an_unknown_task_goes_back_as_often_as_the_setting_says_for_a_worker_that_knows_it() {
    let bench = Bench::new();
    bench.send("shared", None).await;
    let stranger = bench
        .worker(|options| {
            options.tasks.clear();
            options.unknown_task_requeues = 1;
        })
        .await;
    let meta = bench.ready("shared").await;
    assert_eq!(meta.status, "FAILURE", "nobody knew it");
    stranger.close().await.unwrap();
    assert_eq!(bench.transport.dead_letters(0, 10).await.unwrap().len(), 1);

    let stranger = bench
        .worker(|options| {
            options.tasks.clear();
            options.unknown_task_requeues = 1000;
        })
        .await;
    bench.send("known", None).await;
    let taken = async {
        while bench.transport.queue_length("celery").await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, taken).await.expect("the stranger takes it");
    stranger.close().await.unwrap();
    let friend = bench.worker(|_| {}).await;
    let items = next(&friend).await;
    assert_eq!(items[0][2], "known");
    friend.settle(outcome(&items[0], SUCCESS));
    assert_eq!(bench.ready("known").await.status, "SUCCESS");
    friend.close().await.unwrap();
}

#[tokio::test]
async fn what_is_no_task_is_kept_in_the_dead_list_and_the_rest_runs() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    for body in ["not json", "{}", "[1, 2]", "[[], {}, {}, 1]"] {
        let message = Message {
            body: Bytes::from_static(body.as_bytes()),
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            headers: r#"{"task": "tasks.add", "id": "bad"}"#.to_owned(),
            ..Message::default()
        };
        bench
            .publish(Publication {
                exchange: "".into(),
                exchange_type: ExchangeType::Direct,
                routing_key: "celery".into(),
                message,
            })
            .await;
    }
    bench.send("good", None).await;
    let items = next(&worker).await;
    assert_eq!(items[0][2], "good");
    worker.settle(outcome(&items[0], SUCCESS));
    bench.ready("good").await;
    worker.close().await.unwrap();
    let dead = bench.transport.dead_letters(0, 10).await.unwrap();
    assert!(dead.len() >= 3, "{dead:?}");
    assert!(dead.iter().all(|letter| letter.reason == "malformed" && !letter.detail.is_empty()));
}

#[tokio::test]
async fn a_task_whose_time_is_over_is_revoked_and_not_delivered() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("late", Some(r#"{"expires": "2020-01-01T00:00:00+00:00"}"#)).await;
    let meta = bench.ready("late").await;
    assert_eq!(meta.status, "REVOKED");
    assert!(meta.result_json.contains("\"expired\""), "{}", meta.result_json);
    worker.close().await.unwrap();
}

#[tokio::test]
async fn a_task_that_is_not_due_holds_up_no_other() {
    let bench = Bench::new();
    let worker = bench
        .worker(|options| {
            options.concurrency = 1;
            options.prefetch = 1;
        })
        .await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(400);
    bench.send("later", Some(&format!(r#"{{"eta": "{soon}"}}"#))).await;
    bench.send("far", Some(r#"{"eta": "2100-01-01T00:00:00+00:00"}"#)).await;
    bench.send("now", None).await;
    let items = next(&worker).await;
    assert_eq!(items[0][2], "now");
    worker.settle(outcome(&items[0], SUCCESS));
    assert_eq!(next(&worker).await[0][2], "later");
    assert!(jiff::Timestamp::now() >= soon);
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 2, "what is held goes back");
}

#[tokio::test]
async fn a_revoked_task_is_not_delivered() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    worker.revoke(vec!["no".to_owned()]);
    bench.send("no", None).await;
    let meta = bench.ready("no").await;
    assert_eq!(meta.status, "REVOKED");
    assert!(meta.result_json.contains("TaskRevokedError"));
    worker.close().await.unwrap();
}

#[tokio::test]
async fn stopping_hands_back_what_has_not_begun_and_waits_for_the_rest() {
    let bench = Bench::new();
    for number in 0..10 {
        bench.send(&number.to_string(), None).await;
    }
    let worker = bench.worker(|options| options.concurrency = 1).await;
    let items = next(&worker).await;
    assert_eq!(items.len(), 1);
    worker.stop().await;
    let over = tokio::spawn({
        let worker = worker.clone();
        async move { worker.wait().await }
    });
    worker.settle(outcome(&items[0], SUCCESS));
    assert!(!timeout(PATIENCE, over).await.unwrap().unwrap());
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 9);
}

#[tokio::test]
async fn what_is_held_is_scheduled_ready_or_running() {
    let bench = Bench::new();
    for id in ["runs", "given", "waits"] {
        bench.send(id, None).await;
    }
    bench.send("later", Some(r#"{"eta": "2100-01-01T00:00:00+00:00"}"#)).await;
    let worker = bench.worker(|options| options.concurrency = 2).await;
    let stats = || -> [u64; 4] {
        let stats: Value = serde_json::from_str(&worker.stats()).unwrap();
        ["held", "scheduled", "ready", "running"].map(|name| stats[name].as_u64().unwrap())
    };
    let all_are_held = async {
        while stats()[0] < 4 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, all_are_held).await.expect("all are held in time");
    assert_eq!(stats(), [4, 1, 3, 0]);
    assert!(timeout(PATIENCE, worker.wait()).await.unwrap());
    let given: Vec<(u64, usize)> = slots_of(&worker.collect());
    assert_eq!((given.len(), stats()), (2, [4, 1, 3, 0]), "what is given has not begun");
    assert!(worker.begin(given[0].0));
    assert_eq!(stats(), [4, 1, 2, 1]);
    worker.close().await.unwrap();
}

/// Where a task's `slot` stands in a line of a batch: tag and slot of each task.
fn slots_of(batch: &str) -> Vec<(u64, usize)> {
    let lines = batch.lines().step_by(2).map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line[0].as_u64().unwrap(), line[6].as_u64().unwrap() as usize)).collect()
}

/// What JavaScript does right before a body.
fn begins(worker: &Worker, (tag, slot): (u64, usize)) -> bool {
    let given = (tag * 2) as i32;
    let order = std::sync::atomic::Ordering::SeqCst;
    worker.slots().words()[slot].compare_exchange(given, given + 1, order, order).is_ok()
}

#[tokio::test]
async fn what_javascript_has_begun_by_its_slot_is_kept_and_what_it_has_not_goes_back() {
    let bench = Bench::new();
    for number in 0..3 {
        bench.send(&number.to_string(), None).await;
    }
    let worker = bench.worker(|options| options.concurrency = 3).await;
    worker.slots().words()[0].store(1, std::sync::atomic::Ordering::SeqCst);
    let mut given = Vec::new();
    while given.len() < 3 {
        assert!(timeout(PATIENCE, worker.wait()).await.unwrap());
        given.extend(slots_of(&worker.collect()));
    }
    assert!(given.iter().all(|(_, slot)| (1..=3).contains(slot)), "{given:?}");
    assert!(begins(&worker, given[0]));
    assert!(!begins(&worker, given[0]), "once");
    worker.stop().await;
    assert!(!begins(&worker, given[1]) && !worker.begin(given[2].0), "they went back");
    worker.settle(format!("[{},{SUCCESS}]", given[0].0));
    bench.ready("0").await;
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 2);
}

#[tokio::test]
async fn slots_are_used_again_and_a_late_comer_begins_nothing_in_them() {
    let bench = Bench::new();
    let worker = bench.worker(|options| options.concurrency = 1).await;
    worker.slots().words()[0].store(1, std::sync::atomic::Ordering::SeqCst);
    let mut before = None;
    for id in ["a", "b", "c"] {
        bench.send(id, None).await;
        assert!(timeout(PATIENCE, worker.wait()).await.unwrap());
        let given = slots_of(&worker.collect());
        assert_eq!(given.iter().map(|(_, slot)| *slot).collect::<Vec<_>>(), [1]);
        if let Some(before) = before.replace(given[0]) {
            assert!(!begins(&worker, before));
        }
        assert!(begins(&worker, given[0]));
        worker.settle(format!("[{},{SUCCESS}]", given[0].0));
        bench.ready(id).await;
    }
    worker.close().await.unwrap();
}

#[tokio::test]
async fn a_task_that_is_due_later_is_given_whole_when_it_is_due() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    let eta = (jiff::Timestamp::now() + Duration::from_secs(1)).to_string();
    let options = serde_json::json!({ "eta": eta, "retries": 2 }).to_string();
    bench.send("later", Some(&options)).await;
    let items = next(&worker).await;
    assert!(jiff::Timestamp::now() >= eta.parse::<jiff::Timestamp>().unwrap(), "not before it is due");
    assert_eq!(items[0][1], "tasks.add");
    assert_eq!(items[0][2], "later");
    assert_eq!(items[0][3], serde_json::json!([2, 3]));
    assert_eq!(items[0][6]["retries"], 2);
    worker.settle(outcome(&items[0], SUCCESS));
    assert_eq!(bench.ready("later").await.status, "SUCCESS");
    worker.close().await.unwrap();
}

#[tokio::test]
async fn an_early_acknowledged_task_is_gone_from_the_broker_while_it_runs() {
    let bench = Bench::new();
    let worker = bench
        .worker(|options| {
            options.tasks.insert("tasks.add".to_owned(), TaskSettings::default());
        })
        .await;
    bench.send("early", None).await;
    let items = next(&worker).await;
    // Nothing was settled: closing would hand back a message that is still held.
    worker.settle(outcome(&items[0], SUCCESS));
    bench.ready("early").await;
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 0);
}

#[tokio::test]
async fn a_settlement_sends_on_what_it_says() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("first", None).await;
    let items = next(&worker).await;
    let retry = format!(r#"0,"RETRY",null,null,[],[[{},"first",[2,3],{{}},{{"retries": 1}}]]"#, bench.route);
    worker.settle(outcome(&items[0], &retry));
    let again = next(&worker).await;
    assert_eq!((&again[0][2], &again[0][6]["retries"]), (&Value::from("first"), &Value::from(1)));
    worker.settle(outcome(&again[0], SUCCESS));
    assert_eq!(bench.ready("first").await.status, "SUCCESS");
    worker.close().await.unwrap();
}

#[tokio::test]
async fn an_ignored_result_is_not_stored() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("quiet", Some(r#"{"ignore_result": true}"#)).await;
    let items = next(&worker).await;
    worker.settle(outcome(&items[0], SUCCESS));
    worker.close().await.unwrap();
    assert_eq!(bench.store.get(&["quiet"]).await.unwrap(), vec![None]);
}

#[tokio::test]
async fn a_silent_event_loop_keeps_nothing_that_has_not_begun_and_claims_again_when_it_answers() {
    let bench = Bench::new();
    let silent = bench
        .worker(|options| {
            options.concurrency = 1;
            options.patience = Duration::from_millis(500);
        })
        .await;
    for number in 0..5 {
        bench.send(&number.to_string(), None).await;
    }
    let begun = next(&silent).await;
    assert_eq!(begun.len(), 1);
    // From here on the silent worker's JavaScript says nothing, until the others have run elsewhere.
    let other = bench.worker(|_| {}).await;
    let mut ran = 0;
    while ran < 4 {
        for item in next(&other).await {
            other.settle(outcome(&item, SUCCESS));
            ran += 1;
        }
    }
    other.close().await.unwrap();
    silent.beat();
    silent.settle(outcome(&begun[0], SUCCESS));
    bench.send("again", None).await;
    assert_eq!(next(&silent).await[0][2], "again", "it claims again");
    silent.close().await.unwrap();
}

#[tokio::test]
async fn a_process_that_was_stopped_keeps_what_it_held() {
    let bench = Bench::new();
    let worker = bench
        .worker(|options| {
            options.concurrency = 1;
            options.patience = Duration::from_secs(1);
        })
        .await;
    bench.send("first", None).await;
    bench.send("second", None).await;
    let begun = next(&worker).await;
    // As long as this holds the only thread, nothing of the worker runs.
    std::thread::sleep(Duration::from_secs(3));
    // The watchdog's timer was due before this one, so it looks before JavaScript gives a sign of life.
    tokio::time::sleep(Duration::from_millis(1)).await;
    worker.beat();
    worker.settle(outcome(&begun[0], SUCCESS));
    bench.ready("first").await;
    let items = next(&worker).await;
    assert_eq!(items[0][2], "second");
    let stats: Value = serde_json::from_str(&worker.stats()).unwrap();
    assert_eq!(stats["total"]["tasks.add"], 2, "nothing went back to be claimed again: {stats}");
    worker.close().await.unwrap();
}

#[tokio::test]
async fn what_a_silent_event_loop_runs_goes_back_after_lease_max_hold_and_its_late_outcome_counts_no_more() {
    let bench = Bench::new();
    let silent = bench
        .worker(|options| {
            options.patience = Duration::from_millis(200);
            options.lease_max_hold = Some(Duration::from_millis(400));
        })
        .await;
    bench.send("held", None).await;
    let begun = next(&silent).await;
    let other = bench.worker(|_| {}).await;
    let again = next(&other).await;
    assert_eq!(
        (&again[0][2], &again[0][6]["delivery_info"]["redelivered"]),
        (&Value::from("held"), &Value::from(true))
    );
    silent.settle(outcome(&begun[0], r#"0,"SUCCESS",1,null,[],null"#));
    other.settle(outcome(&again[0], r#"0,"SUCCESS",2,null,[],null"#));
    assert_eq!(bench.ready("held").await.result_json, "2");
    silent.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn a_task_that_was_acknowledged_early_still_runs_when_the_worker_stops() {
    let bench = Bench::new();
    let worker = bench
        .worker(|options| {
            options.tasks.insert("tasks.add".to_owned(), TaskSettings::default());
        })
        .await;
    bench.send("early", None).await;
    assert!(timeout(PATIENCE, worker.wait()).await.expect("it is ready in time"));
    worker.stop().await;
    let items = next(&worker).await;
    assert_eq!(items[0][2], "early");
    worker.settle(outcome(&items[0], SUCCESS));
    assert_eq!(bench.ready("early").await.status, "SUCCESS");
    worker.close().await.unwrap();
}

#[tokio::test]
async fn an_outcome_that_cannot_be_read_fails_its_own_task_and_no_other() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("deep", None).await;
    bench.send("fine", None).await;
    let mut items = next(&worker).await;
    while items.len() < 2 {
        items.extend(next(&worker).await);
    }
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let bad = outcome(&items[0], &format!(r#"0,"SUCCESS",{deep},null,[],null"#));
    worker.settle(format!("{bad}\n{}", outcome(&items[1], SUCCESS)));
    assert_eq!(bench.ready("fine").await.status, "SUCCESS");
    let meta = bench.ready("deep").await;
    assert_eq!(meta.status, "FAILURE");
    assert!(meta.result_json.contains("EncodeError"), "{}", meta.result_json);
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 0);
}

#[tokio::test]
async fn an_outcome_of_what_was_not_given_out_keeps_no_message() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("far", Some(r#"{"eta": "2100-01-01T00:00:00+00:00"}"#)).await;
    let number = |name: &'static str| {
        let stats: Value = serde_json::from_str(&worker.stats()).unwrap();
        stats[name].as_u64().unwrap()
    };
    let until = async |name, wanted| {
        while number(name) != wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, until("scheduled", 1)).await.expect("it waits for its time");
    worker.settle(format!("[1,{SUCCESS}]"));
    timeout(PATIENCE, until("received", 2)).await.expect("it goes back, and comes again");
    timeout(PATIENCE, until("held", 1)).await.expect("and waits again");
    worker.close().await.unwrap();
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 1);
}

#[tokio::test]
async fn a_retry_that_no_queue_would_get_is_a_failure_and_holds_up_no_other_task() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("lost", None).await;
    bench.send("fine", None).await;
    let mut items = next(&worker).await;
    while items.len() < 2 {
        items.extend(next(&worker).await);
    }
    let retry = bench.retry_to_nobody("lost");
    worker.settle(format!("{}\n{}", outcome(&items[0], &retry), outcome(&items[1], SUCCESS)));
    assert_eq!(bench.ready("fine").await.status, "SUCCESS");
    let meta = bench.ready("lost").await;
    assert_eq!(meta.status, "FAILURE");
    worker.close().await.unwrap();
    let dead = bench.transport.dead_letters(0, 10).await.unwrap();
    assert_eq!((dead.len(), dead[0].reason.as_str()), (1, "rejected"));
}

#[tokio::test]
async fn a_connection_that_is_closed_under_the_worker_ends_it() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    let waiting = tokio::spawn({
        let worker = worker.clone();
        async move { worker.wait().await }
    });
    bench.transport.close().await;
    assert!(!timeout(PATIENCE, waiting).await.expect("it ends in time").unwrap());
    let _ = worker.close().await;
}

#[tokio::test]
async fn closing_marks_what_runs_as_handed_out_before_and_leaves_the_rest_unmarked() {
    let bench = Bench::new();
    for id in ["running", "waiting"] {
        bench.send(id, None).await;
    }
    let worker = bench.worker(|options| options.concurrency = 1).await;
    let items = next(&worker).await;
    assert_eq!((items.len(), &items[0][2]), (1, &Value::from("running")));
    worker.close().await.unwrap();
    let next_worker = bench.worker(|_| {}).await;
    let mut items = next(&next_worker).await;
    while items.len() < 2 {
        items.extend(next(&next_worker).await);
    }
    for item in &items {
        let redelivered = &item[6]["delivery_info"]["redelivered"];
        assert_eq!(redelivered, &Value::from(item[2] == "running"), "{item}");
    }
    next_worker.close().await.unwrap();
}
