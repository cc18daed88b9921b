//! What the behaviours share: opening, naming, waiting with a deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::{
    ConsumeOptions, Consumer, Delivery, DeliveryTag, Exchange, ExchangeType, Outcome, Publication, Queue,
    Settled, Settlement, Transport, TransportOptions,
};
use celeriac_protocol::{Message, Properties, envelope};

/// How long anything that must happen may take, on a machine that has much else to do.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long nothing must happen for the test to believe that nothing will.
pub(super) const QUIET: Duration = Duration::from_millis(150);

/// A lease that does not run out while a test runs.
const LONG_LEASE: Duration = Duration::from_secs(60);

/// The broker that the contract is run on.
pub struct Subject {
    url: String,
    options: TransportOptions,
}

impl Subject {
    /// A broker that answers at `url`, opened with the default options.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), options: TransportOptions::default() }
    }

    /// Another connection to the broker.
    pub(super) fn open(&self) -> Arc<dyn Transport> {
        celeriac_broker::open(&self.url, self.options.clone()).expect("the URL of the contract opens")
    }
}

/// The envelope of a delivery, as the dead list shows it: where the broker has the properties apart, it is made of them.
pub(super) fn whole(transport: &Arc<dyn Transport>, delivery: &Delivery) -> Bytes {
    if !transport.features().amqp {
        return delivery.raw.clone();
    }
    let message = delivery.message.as_ref().expect("it can be read");
    let info = &message.properties.delivery_info;
    Bytes::from(envelope::encode(message, &info.exchange, &info.routing_key))
}

/// A name that no other test has.
pub(super) fn fresh(label: &str) -> String {
    format!("contract.{label}.{}", uuid::Uuid::new_v4().simple())
}

/// A declared queue of a fresh name, bound as Celery binds: to a direct exchange of the same name.
pub(super) async fn new_queue(transport: &Arc<dyn Transport>) -> Queue {
    let name = fresh("queue");
    let queue = bound(&name, &exchange(&name, ExchangeType::Direct), &name);
    transport.declare(std::slice::from_ref(&queue)).await.expect("a queue can be declared");
    queue
}

/// A declared queue that tells priorities apart, where that has to be said.
pub(super) async fn new_priority_queue(transport: &Arc<dyn Transport>) -> Queue {
    let name = fresh("queue");
    let mut queue = bound(&name, &exchange(&name, ExchangeType::Direct), &name);
    if transport.features().amqp {
        r#"{"x-max-priority": 9}"#.clone_into(&mut queue.arguments);
    }
    transport.declare(std::slice::from_ref(&queue)).await.expect("a queue can be declared");
    queue
}

pub(super) fn exchange(name: &str, kind: ExchangeType) -> Exchange {
    Exchange { name: name.to_owned(), kind, durable: true, auto_delete: false }
}

pub(super) fn bound(name: &str, exchange: &Exchange, routing_key: &str) -> Queue {
    Queue {
        name: name.to_owned(),
        exchange: exchange.clone(),
        routing_key: routing_key.to_owned(),
        durable: true,
        ..Queue::default()
    }
}

pub(super) fn message(body: impl Into<String>) -> Message {
    Message {
        body: Bytes::from(body.into()),
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        headers: r#"{"task": "contract"}"#.to_owned(),
        properties: Properties { delivery_mode: Some(2), priority: Some(0), ..Properties::default() },
    }
}

/// To a queue, by the default exchange.
pub(super) fn to(queue: &Queue, body: impl Into<String>) -> Publication {
    Publication {
        exchange: "".into(),
        exchange_type: ExchangeType::Direct,
        routing_key: queue.name.as_str().into(),
        message: message(body),
    }
}

/// A message with the id of its task, as Celery's have it.
pub(super) fn task(queue: &Queue, body: &str, task_id: &str) -> Publication {
    let mut publication = to(queue, body);
    publication.message.headers = format!(r#"{{"task": "contract", "id": "{task_id}"}}"#);
    publication
}

/// To an exchange.
pub(super) fn through(exchange: &Exchange, routing_key: &str, body: impl Into<String>) -> Publication {
    Publication {
        exchange: exchange.name.as_str().into(),
        exchange_type: exchange.kind,
        routing_key: routing_key.into(),
        message: message(body),
    }
}

pub(super) async fn publish(transport: &Arc<dyn Transport>, batch: &[Publication]) {
    for result in within("publish", transport.publish(batch)).await {
        result.expect("the broker takes the message");
    }
}

pub(super) async fn consume(transport: &Arc<dyn Transport>, queues: &[&Queue]) -> Arc<dyn Consumer> {
    consume_with_lease(transport, queues, LONG_LEASE).await
}

pub(super) async fn consume_with_lease(
    transport: &Arc<dyn Transport>,
    queues: &[&Queue],
    lease: Duration,
) -> Arc<dyn Consumer> {
    consume_with(transport, queues, lease, 0).await
}

/// A consumer that takes one message after the other, also where the broker pushes.
pub(super) async fn consume_singly(transport: &Arc<dyn Transport>, queues: &[&Queue]) -> Arc<dyn Consumer> {
    consume_with(transport, queues, LONG_LEASE, 1).await
}

async fn consume_with(
    transport: &Arc<dyn Transport>,
    queues: &[&Queue],
    lease: Duration,
    prefetch: u32,
) -> Arc<dyn Consumer> {
    let options = ConsumeOptions {
        queues: queues.iter().map(|queue| (*queue).clone()).collect(),
        prefetch,
        node: "contract@localhost".to_owned(),
        lease,
    };
    within("consume", transport.consume(options)).await.expect("a queue can be consumed")
}

/// Waits for `what`, which must happen.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(DEADLINE, future).await;
    ended.unwrap_or_else(|_| panic!("{what}: nothing happened within {DEADLINE:?}"))
}

/// Exactly `count` messages, in the order in which they came.
pub(super) async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    within(&format!("receiving {count} messages"), async {
        while taken.len() < count {
            let batch = consumer.receive(count - taken.len()).await.expect("receive succeeds");
            assert!(!batch.is_empty(), "receive gave nothing although nobody stopped the consumer");
            taken.extend(batch);
        }
    })
    .await;
    assert_eq!(taken.len(), count, "receive gave more than was asked for");
    taken
}

pub(super) async fn take_one(consumer: &Arc<dyn Consumer>) -> Delivery {
    take(consumer, 1).await.remove(0)
}

/// No message comes for a while.
pub(super) async fn nothing_comes(consumer: &Arc<dyn Consumer>, quiet: Duration) {
    if let Ok(batch) = tokio::time::timeout(quiet, consumer.receive(1)).await {
        panic!("nothing should have come, but {:?} did", batch.map(|batch| bodies(&batch)));
    }
}

pub(super) fn body(delivery: &Delivery) -> String {
    let message = delivery.message.as_ref().expect("the envelope can be read");
    String::from_utf8(message.body.to_vec()).expect("the contract's bodies are text")
}

pub(super) fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(body).collect()
}

pub(super) fn redelivered(delivery: &Delivery) -> bool {
    delivery.message.as_ref().expect("the envelope can be read").properties.delivery_info.redelivered
}

pub(super) fn settlement(tag: DeliveryTag, outcome: Outcome) -> Settlement {
    Settlement { tag, publish: Vec::new(), store: None, outcome }
}

/// Settles one delivery; it must be ours still.
pub(super) async fn settle(consumer: &Arc<dyn Consumer>, delivery: &Delivery, outcome: Outcome) {
    let settled = settle_with(consumer, settlement(delivery.tag, outcome)).await;
    assert_eq!(settled.expect("settling succeeds"), Settled::Done);
}

pub(super) async fn settle_with(
    consumer: &Arc<dyn Consumer>,
    settlement: Settlement,
) -> celeriac_error::Result<Settled> {
    let mut results = within("settle", consumer.settle(&[settlement])).await;
    assert_eq!(results.len(), 1, "one result for one settlement");
    results.remove(0)
}

pub(super) async fn acknowledge(consumer: &Arc<dyn Consumer>, deliveries: &[Delivery]) {
    let batch: Vec<_> = deliveries.iter().map(|delivery| settlement(delivery.tag, Outcome::Ack)).collect();
    for settled in within("settle", consumer.settle(&batch)).await {
        assert_eq!(settled.expect("settling succeeds"), Settled::Done);
    }
}

pub(super) async fn waiting_in(transport: &Arc<dyn Transport>, queue: &Queue) -> u64 {
    within("queue_length", transport.queue_length(&queue.name)).await.expect("the length can be read")
}

pub(super) async fn close(consumer: &Arc<dyn Consumer>) {
    within("closing the consumer", consumer.close()).await.expect("closing a consumer succeeds");
}
