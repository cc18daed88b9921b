//! What JavaScript gets of a message, what is stored of it, how much is held, and what remote control brings about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::{ExchangeType, Publication};
use celeriac_protocol::Message;
use celeriac_worker::TaskSettings;
use serde_json::Value;
use support::{Bench, PATIENCE, SUCCESS, next, outcome};
use tokio::time::timeout;

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
async fn remote_control_reaches_the_nodes_whose_names_match_a_pattern() {
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    for (pattern, id) in [("w2@*", "other"), ("celery@*", "ours")] {
        let command = serde_json::json!({
            "method": "revoke", "arguments": {"task_id": id, "terminate": true},
            "destination": null, "pattern": pattern, "matcher": "glob",
        });
        control(&bench, command).await;
    }
    assert_eq!(next(&worker).await, [serde_json::json!(["revoke", ["ours"], true, "SIGTERM"])]);
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
