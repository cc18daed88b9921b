//! A worker from outside: messages go in through the broker, outcomes come back as JavaScript would give them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::declare::Declarations;
use celeriac_broker::producer::Producer;
use celeriac_broker::publisher::{Publisher, RetryPolicy};
use celeriac_broker::route::{Route, TaskCall};
use celeriac_broker::{ExchangeType, Publication, Queue, Transport, TransportOptions};
use celeriac_protocol::task::TaskTemplate;
use celeriac_protocol::{Message, TaskMeta};
use celeriac_result::{ResultStore, StoreOptions};
use celeriac_worker::{TaskSettings, Worker, WorkerOptions};
use serde_json::Value;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// A broker, a result store and a route to the queue `celery`, all of this test alone.
struct Bench {
    transport: Arc<dyn Transport>,
    store: Arc<dyn ResultStore>,
    producer: Arc<Producer>,
    declarations: Arc<Declarations>,
    route: u32,
}

fn queue() -> Queue {
    Queue { name: "celery".to_owned(), durable: true, ..Queue::default() }
}

impl Bench {
    fn new() -> Self {
        let name = uuid::Uuid::new_v4();
        let transport =
            celeriac_broker::open(&format!("memory://{name}"), TransportOptions::default()).unwrap();
        let store =
            celeriac_result::open(&format!("cache+memory://{name}"), StoreOptions::default()).unwrap();
        let declarations = Arc::new(Declarations::new(Arc::clone(&transport)));
        let publisher = Publisher::start(
            &tokio::runtime::Handle::current(),
            Arc::clone(&transport),
            Arc::clone(&declarations),
            Duration::from_secs(5),
            |_| {},
        );
        let producer = Arc::new(Producer::new(publisher));
        let route = producer.add_route(Route {
            template: TaskTemplate {
                task: "tasks.add".into(),
                origin: "gen1@test".into(),
                lang: "js".into(),
                reply_to: None,
                ignore_result: None,
                time_limit: (None, None),
                delivery_mode: 2,
                priority: 0,
                repr_max_levels: Some(3),
            },
            exchange: "".into(),
            exchange_type: ExchangeType::Direct,
            routing_key: "celery".into(),
            queue: Some(Arc::new(queue())),
            policy: Arc::new(RetryPolicy {
                retry: true,
                max_retries: None,
                interval_start: Duration::ZERO,
                interval_step: Duration::ZERO,
                interval_max: Duration::ZERO,
            }),
        });
        Self { transport, store, producer, declarations, route }
    }

    async fn send(&self, id: &str, options: Option<&str>) {
        let call = TaskCall { route: self.route, task_id: id, args: "[2,3]", kwargs: "{}", options };
        let (_, publication) = self.producer.message(&call).unwrap();
        self.publish(publication).await;
    }

    async fn publish(&self, publication: Publication) {
        self.transport.declare(&[queue()]).await.unwrap();
        for outcome in self.transport.publish(&[publication]).await {
            outcome.unwrap();
        }
    }

    async fn worker(&self, change: impl FnOnce(&mut WorkerOptions)) -> Worker {
        let late = TaskSettings { acks_late: true, ..TaskSettings::default() };
        let mut options = WorkerOptions {
            hostname: "celery@test".to_owned(),
            pid: 1,
            queues: vec![queue()],
            tasks: HashMap::from([("tasks.add".to_owned(), late)]),
            concurrency: 10,
            prefetch: 40,
            eta_task_limit: None,
            lease: Duration::from_secs(30),
            patience: celeriac_worker::PATIENCE,
            lease_max_hold: None,
            unknown_task_requeues: 0,
            accept_content: vec!["application/json".to_owned()],
            result_expires: None,
            result_extended: false,
            control_exchange: Some("celery".to_owned()),
            connection_retry: true,
            connection_retry_on_startup: true,
            connection_max_retries: None,
        };
        change(&mut options);
        let worker = Worker::new(
            options,
            Arc::clone(&self.transport),
            Some(Arc::clone(&self.store)),
            Arc::clone(&self.producer),
            Arc::clone(&self.declarations),
        );
        worker.start().await.unwrap();
        worker
    }

    async fn ready(&self, id: &str) -> TaskMeta {
        timeout(PATIENCE, self.store.wait(id)).await.expect("a result in time").unwrap()
    }
}

/// The next items, as JavaScript parses them.
async fn next(worker: &Worker) -> Vec<Value> {
    loop {
        assert!(timeout(PATIENCE, worker.wait()).await.expect("a delivery in time"), "the worker is over");
        let items: Vec<Value> = serde_json::from_str(&worker.collect()).unwrap();
        if !items.is_empty() {
            return items;
        }
    }
}

fn outcome(item: &Value, rest: &str) -> String {
    format!("[{},{rest}]", item[0])
}

const SUCCESS: &str = r#"0,"SUCCESS",5,null,[],null"#;

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
async fn a_retry_that_no_queue_would_get_is_a_failure_and_holds_up_no_other_task() {
    let bench = Bench::new();
    let nowhere = bench.producer.add_route(Route {
        template: TaskTemplate {
            task: "tasks.add".into(),
            origin: "gen1@test".into(),
            lang: "js".into(),
            reply_to: None,
            ignore_result: None,
            time_limit: (None, None),
            delivery_mode: 2,
            priority: 0,
            repr_max_levels: Some(3),
        },
        exchange: "nowhere".into(),
        exchange_type: ExchangeType::Direct,
        routing_key: "nobody".into(),
        queue: None,
        policy: Arc::new(RetryPolicy {
            retry: false,
            max_retries: None,
            interval_start: Duration::ZERO,
            interval_step: Duration::ZERO,
            interval_max: Duration::ZERO,
        }),
    });
    let worker = bench.worker(|_| {}).await;
    bench.send("lost", None).await;
    bench.send("fine", None).await;
    let mut items = next(&worker).await;
    while items.len() < 2 {
        items.extend(next(&worker).await);
    }
    let retry = format!(r#"0,"RETRY",null,null,[],[[{nowhere},"lost",[2,3],{{}},{{"retries": 1}}]]"#);
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

#[tokio::test]
async fn javascript_gets_what_travelled_with_the_message() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    let options = r#"{"expires": "2100-01-01T00:00:00+00:00", "eta": "2020-01-01T00:00:00+00:00", "retries": 1,
        "time_limit": [9, 8.5], "root_id": "root", "parent_id": "parent", "group": "g", "group_index": 0,
        "callbacks": [{"task": "next"}], "errbacks": [{"task": "oops"}], "chain": [{"task": "last"}],
        "chord": {"task": "body"}, "reply_to": "me", "origin": "gen2@test", "shadow": "shown", "ignore_result": false,
        "argsrepr": "(...)", "kwargsrepr": "{...}", "replaced_task_nesting": 2, "priority": 4,
        "headers": {"tenant": "acme"}, "stamped_headers": ["deploy"], "stamps": {"deploy": 7}}"#;
    bench.send("one", Some(options)).await;
    let expected = serde_json::json!({
        "retries": 1, "eta": "2020-01-01T00:00:00+00:00", "expires": "2100-01-01T00:00:00+00:00",
        "timelimit": [9, 8.5], "root_id": "root", "parent_id": "parent", "group": "g", "group_index": 0,
        "callbacks": [{"task": "next"}], "errbacks": [{"task": "oops"}], "chain": [{"task": "last"}],
        "chord": {"task": "body"}, "reply_to": "me", "origin": "gen2@test", "lang": "js", "shadow": "shown",
        "ignore_result": false, "argsrepr": "(...)", "kwargsrepr": "{...}", "replaced_task_nesting": 2,
        "priority": 4, "headers": {"tenant": "acme"}, "stamped_headers": ["deploy"], "stamps": {"deploy": 7},
        "queue": "celery",
        "delivery_info": {"exchange": "", "routing_key": "celery", "redelivered": false},
    });
    assert_eq!(next(&worker).await[0][6], expected);
    worker.close().await.unwrap();
}

#[tokio::test]
async fn a_message_that_comes_again_says_so() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("again", None).await;
    let items = next(&worker).await;
    assert_eq!(items[0][6]["delivery_info"]["redelivered"], false);
    worker.settle(outcome(&items[0], "2,null,null,null,[],null"));
    let again = next(&worker).await;
    assert_eq!(again[0][6]["delivery_info"]["redelivered"], true);
    worker.settle(outcome(&again[0], SUCCESS));
    assert_eq!(bench.ready("again").await.status, "SUCCESS");
    worker.close().await.unwrap();
}

#[tokio::test]
async fn started_is_stored_with_process_and_host_before_the_body_begins() {
    let bench = Bench::new();
    let worker = bench
        .worker(|options| {
            let tracked = TaskSettings { track_started: true, ..TaskSettings::default() };
            options.tasks.insert("tasks.add".to_owned(), tracked);
        })
        .await;
    bench.send("tracked", None).await;
    let items = next(&worker).await;
    let meta = bench.store.get(&["tracked"]).await.unwrap().remove(0).expect("a document");
    assert_eq!(meta.status, "STARTED");
    assert_eq!(meta.result_json, r#"{"pid": 1, "hostname": "celery@test"}"#);
    assert_eq!(meta.date_done, None);
    worker.settle(outcome(&items[0], SUCCESS));
    assert_eq!(bench.ready("tracked").await.status, "SUCCESS");
    worker.close().await.unwrap();
}

#[tokio::test]
async fn a_result_has_group_and_parent_and_with_result_extended_the_call() {
    let bench = Bench::new();
    let worker = bench.worker(|options| options.result_extended = true).await;
    let options = r#"{"group": "g", "parent_id": "parent", "retries": 2, "stamped_headers": ["deploy"],
        "stamps": {"deploy": 7}}"#;
    bench.send("whole", Some(options)).await;
    let items = next(&worker).await;
    worker.settle(outcome(&items[0], r#"0,"SUCCESS",5,null,[[["child",null],null]],null"#));
    let meta = bench.ready("whole").await;
    assert_eq!((meta.group_id.as_deref(), meta.parent_id.as_deref()), (Some("g"), Some("parent")));
    assert_eq!(meta.children_json, r#"[[["child",null],null]]"#);
    assert!(meta.date_done.is_some_and(|date| date.ends_with("+00:00")));
    let extended = meta.extended.expect("the extended fields");
    assert_eq!(extended.name.as_deref(), Some("tasks.add"));
    assert_eq!((extended.args_json.as_str(), extended.kwargs_json.as_str()), ("[2,3]", "{}"));
    assert_eq!(
        (extended.worker.as_deref(), extended.queue.as_deref()),
        (Some("celery@test"), Some("celery"))
    );
    assert_eq!(extended.retries, 2);
    assert_eq!(extended.stamps_json, r#""stamped_headers": ["deploy"], "deploy": 7"#);
    worker.close().await.unwrap();
}

#[tokio::test]
async fn an_error_may_be_stored_although_results_are_ignored() {
    let bench = Bench::new();
    let worker = bench
        .worker(|options| {
            let settings = TaskSettings {
                ignore_result: Some(true),
                store_errors_even_if_ignored: true,
                ..TaskSettings::default()
            };
            options.tasks.insert("tasks.add".to_owned(), settings);
        })
        .await;
    for (id, rest) in [("good", SUCCESS), ("bad", r#"0,"FAILURE",{},"Traceback",[],null"#)] {
        bench.send(id, None).await;
        let items = next(&worker).await;
        worker.settle(outcome(&items[0], rest));
    }
    assert_eq!(bench.ready("bad").await.status, "FAILURE");
    // What the message says goes before what the task says.
    bench.send("wanted", Some(r#"{"ignore_result": false}"#)).await;
    let items = next(&worker).await;
    worker.settle(outcome(&items[0], SUCCESS));
    assert_eq!(bench.ready("wanted").await.status, "SUCCESS");
    worker.close().await.unwrap();
    assert_eq!(bench.store.get(&["good"]).await.unwrap(), vec![None]);
}

#[tokio::test]
async fn content_that_is_not_accepted_is_kept_in_the_dead_list() {
    let bench = Bench::new();
    let worker = bench.worker(|options| options.accept_content = vec!["application/x-yaml".to_owned()]).await;
    bench.send("json", None).await;
    let letter = async {
        loop {
            if let Some(letter) = bench.transport.dead_letters(0, 1).await.unwrap().pop() {
                return letter;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let letter = timeout(PATIENCE, letter).await.expect("it is refused");
    assert_eq!(letter.reason, "content-disallowed");
    assert_eq!(bench.store.get(&["json"]).await.unwrap(), vec![None]);
    worker.close().await.unwrap();
}

/// Resolves once no more than this many wait in the queue.
async fn until_left(bench: &Bench, count: u64) {
    let left = async {
        while bench.transport.queue_length("celery").await.unwrap() > count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, left).await.expect("they are taken");
}

#[tokio::test]
async fn no_more_than_the_prefetch_is_held_and_0_is_no_limit() {
    for (prefetch, left) in [(4, 6), (0, 0)] {
        let bench = Bench::new();
        for number in 0..10 {
            bench.send(&number.to_string(), None).await;
        }
        let worker = bench
            .worker(|options| {
                options.concurrency = 2;
                options.prefetch = prefetch;
            })
            .await;
        next(&worker).await;
        until_left(&bench, left).await;
        assert_eq!(bench.transport.queue_length("celery").await.unwrap(), left);
        worker.close().await.unwrap();
    }
}

#[tokio::test]
async fn no_more_tasks_wait_for_their_time_than_the_limit_says() {
    let bench = Bench::new();
    for number in 0..5 {
        bench.send(&number.to_string(), Some(r#"{"eta": "2100-01-01T00:00:00+00:00"}"#)).await;
    }
    let worker = bench
        .worker(|options| {
            options.prefetch = 1;
            options.eta_task_limit = Some(2);
        })
        .await;
    until_left(&bench, 3).await;
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), 3);
    worker.close().await.unwrap();
}

/// A command as `kombu.pidbox` sends it.
async fn control(bench: &Bench, body: Value) {
    let message = Message {
        body: Bytes::from(body.to_string()),
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        headers: r#"{"clock": 1, "expires": 0}"#.to_owned(),
        ..Message::default()
    };
    let publication = Publication {
        exchange: "celery.pidbox".into(),
        exchange_type: ExchangeType::Fanout,
        routing_key: "".into(),
        message,
    };
    for outcome in bench.transport.publish(&[publication]).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn remote_control_reaches_the_nodes_it_names_or_all() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    let revoke = |id: &str, destination: Value| {
        serde_json::json!({
            "method": "revoke", "arguments": {"task_id": [id], "terminate": true, "signal": "SIGKILL"},
            "destination": destination, "pattern": null, "matcher": null,
        })
    };
    control(&bench, revoke("other", serde_json::json!(["celery@elsewhere"]))).await;
    control(&bench, revoke("ours", serde_json::json!(["celery@elsewhere", "celery@test"]))).await;
    control(&bench, revoke("all", Value::Null)).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.extend(next(&worker).await);
    }
    assert_eq!(heard[0], serde_json::json!(["revoke", ["ours"], true, "SIGKILL"]));
    assert_eq!(heard[1], serde_json::json!(["revoke", ["all"], true, "SIGKILL"]));
    for id in ["other", "all"] {
        bench.send(id, None).await;
    }
    assert_eq!(bench.ready("all").await.status, "REVOKED");
    let items = next(&worker).await;
    assert_eq!(items[0][2], "other");
    worker.settle(outcome(&items[0], SUCCESS));
    assert_eq!(bench.ready("other").await.status, "SUCCESS");
    worker.close().await.unwrap();
}

#[tokio::test]
async fn remote_control_asks_for_a_shutdown_and_an_unknown_command_changes_nothing() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    for method in ["no_such_command", "shutdown"] {
        control(&bench, serde_json::json!({"method": method, "arguments": {}, "destination": null})).await;
    }
    assert_eq!(next(&worker).await[0], serde_json::json!(["shutdown"]));
    worker.close().await.unwrap();
}

#[tokio::test]
async fn without_remote_control_a_worker_hears_nothing() {
    let bench = Bench::new();
    let worker = bench.worker(|options| options.control_exchange = None).await;
    control(&bench, serde_json::json!({"method": "shutdown", "arguments": {}, "destination": null})).await;
    bench.send("one", None).await;
    let items = next(&worker).await;
    assert_eq!(items[0][2], "one");
    worker.settle(outcome(&items[0], SUCCESS));
    bench.ready("one").await;
    worker.close().await.unwrap();
}
