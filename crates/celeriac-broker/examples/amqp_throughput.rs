//! How fast the RabbitMQ transport is beside bare lapin: `cargo run --release --example amqp_throughput URL [MESSAGES [ROUNDS]]`.
//!
//! Confirmed persistent publishing with 1,000 messages on their way, and consuming with an acknowledgement for each message,
//! round by round in turns. Every message must come once.

// An example that cannot go on ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriac_broker::declare::Declarations;
use celeriac_broker::publisher::{Payload, Pending, Publisher, RetryPolicy};
use celeriac_broker::{
    ConsumeOptions, ExchangeType, Outcome, Publication, Queue, Settlement, Transport, TransportOptions,
};
use celeriac_protocol::{Message, Properties};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};

const QUEUE: &str = "celeriac.throughput";
const WINDOW: usize = 1000;
const BODY: &str = r#"[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
const HEADERS: &str = r#"{"lang": "py", "task": "tasks.add", "id": "aaaaaaaa-0000-4000-8000-000000000001", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "aaaaaaaa-0000-4000-8000-000000000001", "parent_id": null, "argsrepr": "(1, 2)", "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}}"#;

fn body(number: usize) -> Bytes {
    Bytes::from(format!("{number:08}{BODY}"))
}

fn publication(number: usize) -> Publication {
    Publication {
        exchange: "".into(),
        exchange_type: ExchangeType::Direct,
        routing_key: QUEUE.into(),
        message: Message {
            body: body(number),
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            headers: HEADERS.to_owned(),
            properties: Properties { delivery_mode: Some(2), priority: Some(0), ..Properties::default() },
        },
    }
}

/// The same headers for lapin.
fn properties() -> BasicProperties {
    let mut headers = FieldTable::default();
    let null = ["shadow", "eta", "expires", "group", "group_index", "parent_id", "stamped_headers"];
    for name in null {
        headers.insert(name.into(), AMQPValue::Void);
    }
    let id = "aaaaaaaa-0000-4000-8000-000000000001";
    for (name, text) in [
        ("lang", "py"),
        ("task", "tasks.add"),
        ("id", id),
        ("root_id", id),
        ("argsrepr", "(1, 2)"),
        ("kwargsrepr", "{}"),
        ("origin", "gen1@host"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    headers.insert("retries".into(), AMQPValue::LongInt(0));
    headers.insert("replaced_task_nesting".into(), AMQPValue::LongInt(0));
    headers.insert("ignore_result".into(), AMQPValue::Boolean(false));
    headers.insert("timelimit".into(), AMQPValue::FieldArray(vec![AMQPValue::Void, AMQPValue::Void].into()));
    headers.insert("stamps".into(), AMQPValue::FieldTable(FieldTable::default()));
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(0)
}

async fn bare_publish(connection: &Connection, count: usize) -> Duration {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let begun = Instant::now();
    let mut confirms = FuturesUnordered::new();
    for number in 0..count {
        let (body, properties) = (body(number), properties());
        let sent = channel.basic_publish("".into(), QUEUE.into(), options, &body, properties);
        confirms.push(sent.await.unwrap());
        if confirms.len() >= WINDOW {
            assert!(confirms.next().await.unwrap().unwrap().is_ack());
        }
    }
    while let Some(confirmed) = confirms.next().await {
        assert!(confirmed.unwrap().is_ack());
    }
    begun.elapsed()
}

/// Calls, of which a thousand are always on their way.
async fn our_publish(transport: &Arc<dyn Transport>, count: usize) -> Duration {
    let declarations = Arc::new(Declarations::new(Arc::clone(transport)));
    let permits = Arc::new(tokio::sync::Semaphore::new(WINDOW));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let publisher = Publisher::start(
        &tokio::runtime::Handle::current(),
        Arc::clone(transport),
        declarations,
        Duration::from_secs(60),
        {
            let (permits, failed) = (Arc::clone(&permits), Arc::clone(&failed));
            move |report| {
                permits.add_permits(report.done.len() + report.failed.len());
                failed.lock().unwrap().extend(report.failed);
            }
        },
    );
    let policy = Arc::new(RetryPolicy {
        retry: true,
        max_retries: None,
        interval_start: Duration::ZERO,
        interval_step: Duration::from_millis(200),
        interval_max: Duration::from_secs(1),
    });
    let begun = Instant::now();
    for number in 0..count {
        permits.acquire().await.unwrap().forget();
        let payload = Payload::Message(Box::new(publication(number)));
        let pending = Pending { call: number as u32, payload, queue: None, policy: Arc::clone(&policy) };
        publisher.publish(pending).unwrap();
    }
    drop(permits.acquire_many(WINDOW as u32).await.unwrap());
    let took = begun.elapsed();
    publisher.close().await;
    assert!(failed.lock().unwrap().is_empty());
    took
}

async fn bare_consume(connection: &Connection, count: usize, prefetch: u16) -> Duration {
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
    let begun = Instant::now();
    let consuming =
        channel.basic_consume(QUEUE.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries = consuming.await.unwrap();
    let mut seen = HashSet::new();
    while seen.len() < count {
        let delivery = deliveries.next().await.unwrap().unwrap();
        assert!(seen.insert(delivery.data[..8].to_vec()));
        delivery.ack(BasicAckOptions::default()).await.unwrap();
    }
    let took = begun.elapsed();
    channel.close(200, "OK".into()).await.unwrap();
    took
}

async fn our_consume(transport: &Arc<dyn Transport>, count: usize, prefetch: u32) -> Duration {
    let queues = vec![Queue { name: QUEUE.to_owned(), durable: true, ..Queue::default() }];
    let lease = Duration::from_secs(30);
    let options = ConsumeOptions { queues, prefetch, node: "throughput@localhost".to_owned(), lease };
    let begun = Instant::now();
    let consumer = transport.consume(options).await.unwrap();
    let mut seen = HashSet::new();
    while seen.len() < count {
        let deliveries = consumer.receive(256.min(prefetch as usize)).await.unwrap();
        let batch: Vec<Settlement> = deliveries
            .iter()
            .map(|delivery| {
                assert!(seen.insert(delivery.message.as_ref().unwrap().body[..8].to_vec()));
                Settlement { tag: delivery.tag, publish: Vec::new(), store: None, outcome: Outcome::Ack }
            })
            .collect();
        for settled in consumer.settle(&batch).await {
            settled.unwrap();
        }
    }
    let took = begun.elapsed();
    consumer.close().await.unwrap();
    took
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("the URL of a broker");
    let count: usize = arguments.next().map_or(20_000, |text| text.parse().unwrap());
    let rounds: usize = arguments.next().map_or(5, |text| text.parse().unwrap());
    let bare_url = format!("{}/%2f", url.trim_end_matches('/'));
    let connection = Connection::connect(&bare_url, ConnectionProperties::default()).await.unwrap();
    let transport = celeriac_broker::open(&url, TransportOptions::default()).unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), options, FieldTable::default()).await.unwrap();
    channel.queue_purge(QUEUE.into(), QueuePurgeOptions::default()).await.unwrap();

    let mut rates: [Vec<f64>; 6] = Default::default();
    for round in 0..rounds {
        let bare_first = round % 2 == 0;
        let rate = |took: Duration| count as f64 / took.as_secs_f64();
        let mut took = [Duration::ZERO; 6];
        for (place, prefetch) in [(2, 64), (4, 1000)] {
            for turn in 0..2 {
                let bare = bare_first == (turn == 0);
                if bare {
                    took[0] = bare_publish(&connection, count).await;
                    took[place] = bare_consume(&connection, count, prefetch).await;
                } else {
                    took[1] = our_publish(&transport, count).await;
                    took[place + 1] = our_consume(&transport, count, u32::from(prefetch)).await;
                }
            }
        }
        for (rates, took) in rates.iter_mut().zip(took) {
            rates.push(rate(took));
        }
        println!("round {}: {:?}", round + 1, took.map(|took| rate(took).round()));
    }
    for (name, bare, ours) in
        [("publish", 0, 1), ("consume, prefetch 64", 2, 3), ("consume, prefetch 1000", 4, 5)]
    {
        let (bare, ours) = (median(&mut rates[bare].clone()), median(&mut rates[ours].clone()));
        println!("{name}: lapin {bare:.0}/s, celeriac {ours:.0}/s, ratio {:.2}", ours / bare);
    }
    transport.close().await;
}
