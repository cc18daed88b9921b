//! `rpc://` on a real `RabbitMQ`, with the queue and the messages that Celery has.

// What is not as expected is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{ConsumeOptions, ExchangeType, Publication, Queue, TransportOptions};
use celeriac_protocol::{Message, Properties, TaskMeta, result_meta};
use celeriac_result::{ResultStore, StoreOptions, StoreRequest};
use celeriac_testkit::rabbitmq_server::RabbitMqServer;
use serde_json::{Value, json};

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it happens in time")
}

fn open(url: &str, reply_to: &str) -> Arc<dyn ResultStore> {
    open_with(&json!({ "broker": url, "reply_to": reply_to }))
}

fn open_with(options: &Value) -> Arc<dyn ResultStore> {
    let options = StoreOptions { options: options.as_object().unwrap().clone(), ..StoreOptions::default() };
    celeriac_result::open("rpc://", options).unwrap()
}

fn reply(reply_to: &str, id: &str, status: &str, result: &str) -> StoreRequest {
    StoreRequest {
        meta: TaskMeta {
            task_id: id.to_owned(),
            status: status.to_owned(),
            result_json: result.to_owned(),
            ..TaskMeta::default()
        },
        reply_to: Some(reply_to.to_owned()),
        correlation_id: Some(id.to_owned()),
        ..StoreRequest::default()
    }
}

async fn store_all(store: &Arc<dyn ResultStore>, batch: Vec<StoreRequest>) {
    for stored in within(store.store(&batch)).await {
        stored.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_comes_to_whoever_has_sent_the_task_and_to_nobody_else() {
    let server = RabbitMqServer::start().await;
    let (client, other, worker) =
        (open(&server.url(), "client"), open(&server.url(), "other"), open(&server.url(), "worker"));
    within(client.connect()).await.unwrap();
    within(other.connect()).await.unwrap();
    // Before anybody asks, and after.
    store_all(&worker, vec![reply("client", "early", "SUCCESS", "1")]).await;
    assert_eq!(within(client.wait("early")).await.unwrap().result_json, "1");
    let waiting = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.wait("late").await }
    });
    store_all(
        &worker,
        vec![
            reply("client", "late", "STARTED", "{}"),
            reply("client", "late", "FAILURE", "2"),
            reply("client", "done", "SUCCESS", "3"),
        ],
    )
    .await;
    assert_eq!(within(waiting).await.unwrap().unwrap().status, "FAILURE");
    within(client.wait("done")).await.unwrap();
    // Read once from the broker, and kept here.
    let found = within(client.get(&["late", "early", "unknown"])).await.unwrap();
    let found: Vec<Option<String>> =
        found.into_iter().map(|meta| meta.map(|meta| meta.result_json)).collect();
    assert_eq!(found, [Some("2".to_owned()), Some("1".to_owned()), None]);
    assert_eq!(within(other.get(&["late"])).await.unwrap(), [None]);
    // A late state does not undo a success.
    store_all(
        &worker,
        vec![reply("client", "early", "STARTED", "{}"), reply("client", "end", "SUCCESS", "4")],
    )
    .await;
    within(client.wait("end")).await.unwrap();
    assert_eq!(within(client.get(&["early"])).await.unwrap()[0].as_ref().unwrap().status, "SUCCESS");
    within(client.forget(&["early"])).await.unwrap();
    assert_eq!(within(client.get(&["early"])).await.unwrap(), [None]);
    for store in [client, other, worker] {
        within(store.close()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_is_dropped_without_an_error() {
    let server = RabbitMqServer::start().await;
    let worker = open(&server.url(), "worker");
    let mut unasked = reply("", "unasked", "SUCCESS", "1");
    unasked.reply_to = None;
    store_all(&worker, vec![reply("gone", "gone", "SUCCESS", "1"), unasked]).await;
    assert_eq!(server.ctl(&["list_queues", "name"]).await.trim(), "");
    within(worker.close()).await;
    let error = within(worker.store(&[reply("gone", "late", "SUCCESS", "1")])).await.remove(0).unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_CLOSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_and_the_messages_are_celerys() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../celeriac-protocol/tests/golden/results_rpc.json")).unwrap();
    let server = RabbitMqServer::start().await;
    let client = open(&server.url(), "golden-replies");
    within(client.connect()).await.unwrap();
    let fields = ["name", "durable", "auto_delete", "exclusive", "arguments"];
    let listed = server.ctl(&[&["--formatter", "json", "list_queues"], &fields[..]].concat()).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let expected = json!([{
        "name": "golden-replies",
        "durable": true,
        "auto_delete": true,
        "exclusive": false,
        "arguments": [["x-expires", "signedint", 86_400_000]],
    }]);
    assert_eq!(listed, expected);
    // It listens itself, and takes its queue along.
    within(client.close()).await;

    let queues = vec![Queue { name: "golden-replies".to_owned(), durable: true, ..Queue::default() }];
    let transport = celeriac_broker::open(&server.url(), TransportOptions::default()).unwrap();
    within(transport.declare(&queues)).await.unwrap();
    let lease = Duration::from_secs(60);
    let options = ConsumeOptions { queues, prefetch: 0, node: "test@localhost".to_owned(), lease };
    let consumer = within(transport.consume(options)).await.unwrap();
    let mut compared = 0;
    for run in vectors["runs"].as_array().unwrap() {
        let persistent = run["config"]["result_persistent"] == true;
        let store = open_with(&json!({ "broker": server.url(), "persistent": persistent }));
        for result in run["results"].as_array().unwrap() {
            for golden in result["replies"].as_array().unwrap() {
                let properties = &golden["properties"];
                let Some(body) = golden["body"]["text"].as_str() else { continue };
                // A task that Celery does not know has no retries; a document of ours always has.
                if properties["content_type"] != "application/json" || body.contains("\"retries\": null") {
                    continue;
                }
                let meta = result_meta::decode(body.as_bytes()).unwrap();
                let request = StoreRequest {
                    meta,
                    reply_to: golden["routing_key"].as_str().map(str::to_owned),
                    correlation_id: properties["correlation_id"].as_str().map(str::to_owned),
                    ..StoreRequest::default()
                };
                store_all(&store, vec![request]).await;
                let delivery = within(consumer.receive(1)).await.unwrap().remove(0);
                let message = delivery.message.unwrap();
                assert_eq!(message.body, body.as_bytes(), "{}", result["name"]);
                assert_eq!(message.headers, golden["headers"].to_string());
                assert_eq!(message.content_type, "application/json");
                assert_eq!(message.content_encoding, properties["content_encoding"].as_str().unwrap());
                let number = |value: Option<u8>| value.map_or(Value::Null, Value::from);
                assert_eq!(number(message.properties.delivery_mode), properties["delivery_mode"]);
                assert_eq!(number(message.properties.priority), properties["priority"]);
                assert_eq!(
                    message.properties.correlation_id.as_deref(),
                    properties["correlation_id"].as_str()
                );
                compared += 1;
            }
        }
        within(store.close()).await;
    }
    assert!(compared > 5, "{compared} messages");
    transport.close().await;
}

/// What a client of the broker sends to a queue, whatever it is.
async fn send(url: &str, queue: &str, content_type: &str, correlation_id: &str, body: &[u8]) {
    let transport = celeriac_broker::open(url, TransportOptions::default()).unwrap();
    let message = Message {
        body: body.to_vec().into(),
        content_type: content_type.to_owned(),
        content_encoding: "utf-8".to_owned(),
        headers: "{}".to_owned(),
        properties: Properties { correlation_id: Some(correlation_id.to_owned()), ..Properties::default() },
    };
    let publication = Publication {
        exchange: "".into(),
        exchange_type: ExchangeType::Direct,
        routing_key: queue.into(),
        message,
    };
    within(transport.publish(&[publication])).await.remove(0).unwrap();
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_cannot_be_read_is_an_error_however_late_it_is_asked_for() {
    let server = RabbitMqServer::start().await;
    let (client, worker) = (open(&server.url(), "client"), open(&server.url(), "worker"));
    within(client.connect()).await.unwrap();
    send(&server.url(), "client", "application/x-msgpack", "packed", b"\x81\xa6status\xa7SUCCESS").await;
    send(&server.url(), "client", "application/json", "broken", b"{").await;
    store_all(&worker, vec![reply("client", "end", "SUCCESS", "1")]).await;
    within(client.wait("end")).await.unwrap();
    // All that was sent before has come too, and was asked for by nobody.
    for (id, word) in [("packed", "application/x-msgpack"), ("broken", "broken")] {
        let error = within(client.wait(id)).await.unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_DECODE");
        assert!(error.to_string().contains(word), "{error}");
        assert!(within(client.get(&[id])).await.is_err());
    }
    within(client.close()).await;
    within(worker.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_results_can_be_asked_for_when_all_have_come() {
    const COUNT: usize = 10_000;
    let server = RabbitMqServer::start().await;
    let (client, worker) = (open(&server.url(), "client"), open(&server.url(), "worker"));
    within(client.connect()).await.unwrap();
    let replies = (0..COUNT).map(|number| reply("client", &number.to_string(), "SUCCESS", "1"));
    store_all(&worker, replies.collect()).await;
    within(client.wait(&(COUNT - 1).to_string())).await.unwrap();
    for number in 0..COUNT {
        within(client.wait(&number.to_string())).await.unwrap();
    }
    within(client.close()).await;
    within(worker.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_had_to_go_is_told_and_not_waited_for() {
    let server = RabbitMqServer::start().await;
    let client = open_with(&json!({ "broker": server.url(), "reply_to": "client", "kept_bytes": 100_000 }));
    let worker = open(&server.url(), "worker");
    within(client.connect()).await.unwrap();
    let large = format!("\"{}\"", "x".repeat(30_000));
    let replies = (0..8).map(|number| reply("client", &number.to_string(), "SUCCESS", &large));
    store_all(&worker, replies.collect()).await;
    within(client.wait("7")).await.unwrap();
    let error = within(client.wait("0")).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_REFUSED");
    assert!(error.to_string().contains("dropped"), "{error}");
    within(client.close()).await;
    within(worker.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_when_results_cannot_come_any_more() {
    let server = RabbitMqServer::start().await;
    server.ctl(&["add_user", "client", "client"]).await;
    server.ctl(&["set_permissions", "client", ".*", ".*", ".*"]).await;
    let client = open(&server.url().replace("amqp://", "amqp://client:client@"), "client");
    within(client.connect()).await.unwrap();
    let waiting = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.wait("never").await }
    });
    // From now on it may not have its queue, which is gone.
    server.ctl(&["set_permissions", "client", "none", ".*", "none"]).await;
    server.ctl(&["delete_queue", "client"]).await;
    let error = within(waiting).await.unwrap().unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_REFUSED", "{error}");
    let error = within(client.wait("another")).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_REFUSED", "{error}");
    within(client.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_went_with_its_connection_is_there_again_and_so_is_what_comes_then() {
    let server = RabbitMqServer::start().await;
    let (client, worker) = (open(&server.url(), "client"), open(&server.url(), "worker"));
    within(client.connect()).await.unwrap();
    let waiting = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.wait("later").await }
    });
    let queue = async || server.ctl(&["list_queues", "pid", "name"]).await;
    let before = queue().await;
    assert!(before.contains("client"), "{before}");
    server.ctl(&["close_all_connections", "cut"]).await;
    // Another of the same name; what was sent in between would have been dropped, as Celery's is.
    within(async {
        loop {
            let now = queue().await;
            if now.contains("client") && now != before {
                return;
            }
        }
    })
    .await;
    assert!(!waiting.is_finished(), "nobody knows that nothing was lost");
    store_all(&worker, vec![reply("client", "later", "SUCCESS", "5")]).await;
    assert_eq!(within(waiting).await.unwrap().unwrap().result_json, "5");
    within(client.close()).await;
    within(worker.close()).await;
}
