//! What the transports' own tests share: a folder for each test, messages, waiting with a deadline.

// Each test file uses its own part.
#![allow(dead_code, unreachable_pub, clippy::expect_used)]

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::{
    ConsumeOptions, Consumer, Delivery, DeliveryTag, Exchange, ExchangeType, Outcome, Publication, Queue,
    Settled, Settlement, Transport, TransportOptions,
};
use celeriac_error::Result;
use celeriac_protocol::{Message, Properties};

/// How long anything that must happen may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Goes, with all that is in it, when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("celeriac-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).expect("the temporary folder is writable");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn url(&self, name: &str) -> String {
        format!("sqla+sqlite:///{}", self.path(name).display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn open(url: &str) -> Arc<dyn Transport> {
    celeriac_broker::open(url, TransportOptions::default()).expect("the URL is good")
}

pub fn open_with(url: &str, options: serde_json::Value) -> Arc<dyn Transport> {
    let serde_json::Value::Object(options) = options else { unreachable!("options are an object") };
    celeriac_broker::open(url, TransportOptions { options, ..TransportOptions::default() })
        .expect("the URL is good")
}

pub fn queue(name: &str) -> Queue {
    Queue { name: name.to_owned(), durable: true, ..Queue::default() }
}

pub fn exchange(name: &str, kind: ExchangeType) -> Exchange {
    Exchange { name: name.to_owned(), kind, ..Exchange::default() }
}

pub fn message(body: &str) -> Message {
    Message {
        body: body.to_owned().into(),
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        headers: r#"{"task": "t"}"#.to_owned(),
        properties: Properties { delivery_mode: Some(2), ..Properties::default() },
    }
}

pub fn to(queue: &str, body: &str) -> Publication {
    Publication {
        exchange: "".into(),
        exchange_type: ExchangeType::Direct,
        routing_key: queue.into(),
        message: message(body),
    }
}

pub fn through(exchange: &str, kind: ExchangeType, routing_key: &str, body: &str) -> Publication {
    Publication {
        exchange: exchange.into(),
        exchange_type: kind,
        routing_key: routing_key.into(),
        message: message(body),
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it happens within the deadline")
}

pub async fn publish(transport: &Arc<dyn Transport>, batch: &[Publication]) {
    for result in within(transport.publish(batch)).await {
        result.expect("the broker takes the message");
    }
}

pub async fn consume(transport: &Arc<dyn Transport>, queues: &[&str], lease: Duration) -> Arc<dyn Consumer> {
    let options = ConsumeOptions {
        queues: queues.iter().map(|name| queue(name)).collect(),
        prefetch: 0,
        node: "test@localhost".to_owned(),
        lease,
    };
    within(transport.consume(options)).await.expect("it can be consumed")
}

pub async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(within(consumer.receive(count - taken.len())).await.expect("receive succeeds"));
    }
    taken
}

pub fn body(delivery: &Delivery) -> String {
    let message = delivery.message.as_ref().expect("the envelope can be read");
    String::from_utf8(message.body.to_vec()).expect("the tests' bodies are text")
}

pub fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(body).collect()
}

pub async fn settle(consumer: &Arc<dyn Consumer>, tag: DeliveryTag, outcome: Outcome) -> Result<Settled> {
    let settlement = Settlement { tag, publish: Vec::new(), store: None, outcome };
    within(consumer.settle(&[settlement])).await.remove(0)
}
