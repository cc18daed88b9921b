//! A broker, a result store and a route of a test's own, and what JavaScript would say to a worker.

#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::declare::Declarations;
use celeriac_broker::producer::Producer;
use celeriac_broker::publisher::{Publisher, RetryPolicy};
use celeriac_broker::route::{Route, TaskCall};
use celeriac_broker::{ExchangeType, Publication, Queue, Transport, TransportOptions};
use celeriac_protocol::TaskMeta;
use celeriac_protocol::task::TaskTemplate;
use celeriac_result::{ResultStore, StoreOptions};
use celeriac_worker::{TaskSettings, Worker, WorkerOptions};
use serde_json::Value;
use tokio::time::timeout;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A broker, a result store and a route to the queue `celery`, all of this test alone.
pub(crate) struct Bench {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) store: Arc<dyn ResultStore>,
    pub(crate) producer: Arc<Producer>,
    declarations: Arc<Declarations>,
    pub(crate) route: u32,
}

pub(crate) fn queue() -> Queue {
    Queue { name: "celery".to_owned(), durable: true, ..Queue::default() }
}

/// A route for `tasks.add` to an exchange with a routing key; without a queue nothing is declared for it.
fn add_route(producer: &Producer, (exchange, key): (&str, &str), queue: Option<Arc<Queue>>) -> u32 {
    producer.add_route(Route {
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
        exchange: exchange.into(),
        exchange_type: ExchangeType::Direct,
        routing_key: key.into(),
        queue,
        policy: Arc::new(RetryPolicy {
            retry: true,
            max_retries: None,
            interval_start: Duration::ZERO,
            interval_step: Duration::ZERO,
            interval_max: Duration::ZERO,
        }),
    })
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::on(&format!("memory://{}", uuid::Uuid::new_v4()))
    }

    /// On this broker, which need not be there yet.
    pub(crate) fn on(broker: &str) -> Self {
        let transport = celeriac_broker::open(broker, TransportOptions::default()).unwrap();
        let results = format!("cache+memory://{}", uuid::Uuid::new_v4());
        let store = celeriac_result::open(&results, StoreOptions::default()).unwrap();
        let declarations = Arc::new(Declarations::new(Arc::clone(&transport)));
        let publisher = Publisher::start(
            &tokio::runtime::Handle::current(),
            Arc::clone(&transport),
            Arc::clone(&declarations),
            Duration::from_secs(5),
            |_| {},
        );
        let producer = Arc::new(Producer::new(publisher));
        let route = add_route(&producer, ("", "celery"), Some(Arc::new(queue())));
        Self { transport, store, producer, declarations, route }
    }

    /// A retry of a task, as JavaScript settles it, by a route that leads to no queue.
    pub(crate) fn retry_to_nobody(&self, id: &str) -> String {
        let nowhere = add_route(&self.producer, ("nowhere", "nobody"), None);
        format!(r#"0,"RETRY",null,null,[],[[{nowhere},"{id}",[2,3],{{}},{{"retries": 1}}]]"#)
    }

    /// A retry of a task that the broker is to hold for these seconds, for a queue whose delayed delivery is declared with it.
    pub(crate) fn delayed_retry(&self, id: &str, queue: Queue, seconds: u32) -> String {
        let (exchange, key) = (queue.exchange.name.clone(), queue.routing_key.clone());
        let route = add_route(&self.producer, (&exchange, &key), Some(Arc::new(queue)));
        let eta = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds.into());
        let options = format!(r#"{{"retries": 1, "eta": "{eta}", "delay": {seconds}}}"#);
        format!(r#"0,"RETRY",null,null,[],[[{route},"{id}",[2,3],{{}},{options}]]"#)
    }

    pub(crate) async fn send(&self, id: &str, options: Option<&str>) {
        let call = TaskCall { route: self.route, task_id: id, args: "[2,3]", kwargs: "{}", options };
        let (_, publication) = self.producer.message(&call).unwrap();
        self.publish(publication).await;
    }

    pub(crate) async fn publish(&self, publication: Publication) {
        self.transport.declare(&[queue()]).await.unwrap();
        for outcome in self.transport.publish(&[publication]).await {
            outcome.unwrap();
        }
    }

    pub(crate) async fn worker(&self, change: impl FnOnce(&mut WorkerOptions)) -> Worker {
        let worker = self.worker_to_start(change);
        worker.start().await.unwrap();
        worker
    }

    /// A worker that has not connected.
    pub(crate) fn worker_to_start(&self, change: impl FnOnce(&mut WorkerOptions)) -> Worker {
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
            max_deliveries: None,
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
        Worker::new(
            options,
            Arc::clone(&self.transport),
            Some(Arc::clone(&self.store)),
            Arc::clone(&self.producer),
            Arc::clone(&self.declarations),
        )
    }

    pub(crate) async fn ready(&self, id: &str) -> TaskMeta {
        timeout(PATIENCE, self.store.wait(id)).await.expect("a result in time").unwrap()
    }
}

/// The next items, as JavaScript parses them; the bodies of those that were not handed out before have begun.
pub(crate) async fn next(worker: &Worker) -> Vec<Value> {
    loop {
        assert!(timeout(PATIENCE, worker.wait()).await.expect("a delivery in time"), "the worker is over");
        let items = items(&worker.collect());
        for tag in items.iter().filter_map(|item| item[0].as_u64()) {
            assert!(worker.begin(tag), "delivery {tag} may begin");
        }
        if !items.is_empty() {
            return items;
        }
    }
}

/// The lines of a batch: a task as `[tag, name, id, args, kwargs, tagged, request]`, after `"redelivered"` where its begin is
/// counted.
fn items(batch: &str) -> Vec<Value> {
    let mut lines = batch.lines();
    let mut items = Vec::new();
    while let Some(line) = lines.next() {
        let mut item: Value = serde_json::from_str(line).unwrap();
        if item[0].is_u64() {
            let flags = item[5].as_u64().unwrap();
            item[5] = Value::from(flags & 1 != 0);
            item[6] = serde_json::from_str(lines.next().unwrap()).unwrap();
            if flags & 4 != 0 {
                item = serde_json::json!(["redelivered", item]);
            }
        }
        items.push(item);
    }
    items
}

pub(crate) fn outcome(item: &Value, rest: &str) -> String {
    format!("[{},{rest}]", item[0])
}

/// The end of a settlement of a task that gave 5.
pub(crate) const SUCCESS: &str = r#"0,"SUCCESS",5,null,[],null"#;
