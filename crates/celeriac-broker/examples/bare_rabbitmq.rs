//! What `RabbitMQ` gives to a Rust program with nothing but lapin: a contender of `npm run bench`.
//!
//! `bare_rabbitmq publish URL COUNT WINDOW MESSAGE`: times how long it takes to publish COUNT messages like the one in the file
//! MESSAGE, which is one of Redis's, as Celery would on `RabbitMQ`: the same body, headers and properties; persistent, to a durable
//! queue, each confirmed, WINDOW under way at once, after a tenth as many as warm-up. Then checks that each is in the queue once.
//!
//! `bare_rabbitmq consume URL COUNT PREFETCH MESSAGE`: puts so many into a queue, then times how long it takes to consume them,
//! PREFETCH under way at once, each acknowledged by itself. Both print `{"seconds": …}`.

// A measurement that fails ends here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "bare/message.rs"]
mod message;

use std::time::Instant;

use base64::Engine;
use futures_util::{StreamExt, stream};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use message::{Seen, Template, id_of, number_of};
use serde_json::Value;

const QUEUE: &str = "bare";
const LOADING: usize = 1000;
/// How many are read at once when they are only checked.
const CHECKING: u16 = 1000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, url, count, window, path] = arguments.as_slice() else {
        panic!("bare_rabbitmq publish|consume URL COUNT WINDOW|PREFETCH MESSAGE");
    };
    let (count, window): (usize, usize) = (count.parse().unwrap(), window.parse().unwrap());
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await.unwrap();
    let publication = Publication::of(&Template::read(path).message(0));
    let publishing = mode == "publish";

    if publishing {
        // As all others do.
        publication.publish(&channel, count.div_ceil(10), window).await;
        channel.queue_purge(QUEUE.into(), QueuePurgeOptions::default()).await.unwrap();
    }
    let mut began = Instant::now();
    publication.publish(&channel, count, if publishing { window } else { LOADING }).await;
    let publishing_took = began.elapsed();
    let consumer = connection.create_channel().await.unwrap();
    let prefetch = if publishing { CHECKING } else { u16::try_from(window).unwrap() };
    began = Instant::now();
    let seen = consume(&consumer, count, prefetch).await;
    let consuming_took = began.elapsed();

    seen.check();
    let seconds = if publishing { publishing_took } else { consuming_took }.as_secs_f64();
    let left = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.unwrap();
    assert!(left == 0, "{left} are left");
    println!("{}", serde_json::json!({ "seconds": seconds }));
}

/// What a task message of Celery is in AMQP, but for its id.
struct Publication {
    body: Vec<u8>,
    headers: FieldTable,
    properties: BasicProperties,
}

impl Publication {
    fn of(message: &str) -> Self {
        let message: Value = serde_json::from_str(message).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_priority(0)
            .with_content_type(text(&message["content-type"]).into())
            .with_content_encoding(text(&message["content-encoding"]).into())
            .with_reply_to(text(&message["properties"]["reply_to"]).into());
        Self {
            body: base64::engine::general_purpose::STANDARD.decode(text(&message["body"])).unwrap(),
            headers: table(&message["headers"]),
            properties,
        }
    }

    async fn publish(&self, channel: &Channel, count: usize, window: usize) {
        let confirmations = stream::iter(0..count)
            .map(|number| async move {
                let id = id_of(number);
                let mut headers = self.headers.clone();
                headers.insert("id".into(), AMQPValue::LongString(id.as_str().into()));
                headers.insert("root_id".into(), AMQPValue::LongString(id.as_str().into()));
                let properties = self.properties.clone().with_correlation_id(id.into()).with_headers(headers);
                let options = BasicPublishOptions::default();
                let confirm = channel
                    .basic_publish("".into(), QUEUE.into(), options, &self.body, properties)
                    .await
                    .unwrap();
                confirm.await.unwrap()
            })
            .buffered(window);
        confirmations
            .for_each(|confirmation| async move {
                assert!(matches!(confirmation, Confirmation::Ack(_)), "not confirmed: {confirmation:?}");
            })
            .await;
    }
}

fn table(object: &Value) -> FieldTable {
    let mut fields = FieldTable::default();
    for (name, value) in object.as_object().unwrap() {
        fields.insert(name.as_str().into(), field(value));
    }
    fields
}

fn field(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => number
            .as_i64()
            .map_or_else(|| AMQPValue::Double(number.as_f64().unwrap()), AMQPValue::LongLongInt),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => {
            AMQPValue::FieldArray(FieldArray::from(values.iter().map(field).collect::<Vec<_>>()))
        }
        Value::Object(_) => AMQPValue::FieldTable(table(value)),
    }
}

/// Consumes so many messages; ends when the server has every acknowledgement.
async fn consume(channel: &Channel, count: usize, prefetch: u16) -> Seen {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
    let mut consumer = channel
        .basic_consume(QUEUE.into(), "bare".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .unwrap();
    let mut seen = Seen::new(count);
    for _ in 0..count {
        let delivery = consumer.next().await.unwrap().unwrap();
        let id = delivery.properties.correlation_id().as_ref().unwrap();
        seen.note(number_of(id.as_str().as_bytes()).unwrap());
        delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
    }
    // Frames of a channel are handled in their order.
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), passive, FieldTable::default()).await.unwrap();
    seen
}
