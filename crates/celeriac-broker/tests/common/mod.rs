//! Messages, queues and deliveries for the tests of the transports that have a server.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::{
    ConsumeOptions, Consumer, Delivery, Exchange, ExchangeType, Outcome, Publication, Queue, Settled,
    Settlement, Transport, TransportOptions,
};
use celeriac_protocol::{Message, Properties};

/// How long anything that must happen may take depends on the server.
use super::DEADLINE;

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it happens in time")
}

/// Waits until `check` gives something; for what no call can wait for.
pub async fn until<T, F: Future<Output = Option<T>>>(mut check: impl FnMut() -> F) -> T {
    within(async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

pub fn open(url: &str) -> Arc<dyn Transport> {
    celeriac_broker::open(url, TransportOptions::default()).unwrap()
}

/// A queue bound as Celery binds it: to a direct exchange of its name.
pub fn celery_queue(name: &str) -> Queue {
    Queue {
        name: name.to_owned(),
        exchange: Exchange {
            name: name.to_owned(),
            kind: ExchangeType::Direct,
            durable: true,
            auto_delete: false,
        },
        routing_key: name.to_owned(),
        durable: true,
        ..Queue::default()
    }
}

/// A message to a queue, by the default exchange.
pub fn to(queue: &str, body: &str) -> Publication {
    through("", ExchangeType::Direct, queue, body)
}

pub fn through(exchange: &str, kind: ExchangeType, routing_key: &str, body: &str) -> Publication {
    Publication {
        exchange: exchange.into(),
        exchange_type: kind,
        routing_key: routing_key.into(),
        message: Message {
            body: Bytes::copy_from_slice(body.as_bytes()),
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            headers: r#"{"task": "test"}"#.to_owned(),
            properties: Properties { priority: Some(0), ..Properties::default() },
        },
    }
}

pub async fn publish(transport: &Arc<dyn Transport>, batch: &[Publication]) {
    for result in within(transport.publish(batch)).await {
        result.unwrap();
    }
}

pub async fn consume_with(
    transport: &Arc<dyn Transport>,
    queues: &[&str],
    prefetch: u32,
    lease: Duration,
) -> Arc<dyn Consumer> {
    let queues = queues.iter().map(|name| celery_queue(name)).collect();
    let options = ConsumeOptions { queues, prefetch, node: "test@localhost".to_owned(), lease };
    within(transport.consume(options)).await.unwrap()
}

/// Exactly `count` messages.
pub async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let batch = within(consumer.receive(count - taken.len())).await.unwrap();
        assert!(!batch.is_empty());
        taken.extend(batch);
    }
    taken
}

pub async fn take_one(consumer: &Arc<dyn Consumer>) -> Delivery {
    take(consumer, 1).await.remove(0)
}

/// As a worker does: a server that is away for a while is asked again.
pub async fn take_patiently(consumer: &Arc<dyn Consumer>) -> Delivery {
    until(|| async {
        match consumer.receive(1).await {
            Ok(mut batch) => Some(batch.remove(0)),
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                None
            }
        }
    })
    .await
}

pub fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.as_ref().unwrap().body.to_vec()).unwrap()
}

pub fn redelivered(delivery: &Delivery) -> bool {
    delivery.message.as_ref().unwrap().properties.delivery_info.redelivered
}

/// A settlement with nothing but its outcome.
pub fn only(delivery: &Delivery, outcome: Outcome) -> Settlement {
    Settlement { tag: delivery.tag, publish: Vec::new(), store: None, outcome }
}

pub async fn settle(consumer: &Arc<dyn Consumer>, delivery: &Delivery, outcome: Outcome) {
    let settled = within(consumer.settle(&[only(delivery, outcome)])).await.remove(0).unwrap();
    assert_eq!(settled, Settled::Done);
}
