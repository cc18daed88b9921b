//! How many tasks per second pass through an `SQLite` file from one process to another, and how soon one is picked up.
//!
//! `cargo run -p celeriac-broker --example embedded_throughput [-- TASKS]`

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriac_broker::{ConsumeOptions, Consumer, Outcome, Publication, Queue, Settlement, TransportOptions};
use celeriac_protocol::{Message, Properties};

type Failure = Box<dyn std::error::Error>;

/// How many are sent in one call, and held at once.
const BATCH: usize = 100;

/// How many are timed one by one.
const TIMED: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, url, count] = arguments.as_slice()
        && role == "produce"
    {
        return produce(url, count.parse()?).await;
    }
    let count: usize = arguments.first().map_or(Ok(50_000), |count| count.parse())?;
    let folder = std::env::temp_dir().join(format!("celeriac-throughput-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let url = format!("sqla+sqlite:///{}", folder.join("broker.db").display());
    let measured = measure(&url, count).await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn queue() -> Queue {
    Queue { name: "throughput".to_owned(), ..Queue::default() }
}

fn publication(body: String) -> Publication {
    Publication {
        exchange: "".into(),
        exchange_type: celeriac_broker::ExchangeType::Direct,
        routing_key: "throughput".into(),
        message: Message {
            body: Bytes::from(body),
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            headers: format!(r#"{{"lang": "js", "task": "add", "argsrepr": "{}"}}"#, "x".repeat(500)),
            properties: Properties { delivery_mode: Some(2), ..Properties::default() },
        },
    }
}

/// All at once in batches, four batches in flight; then one by one, each when it is asked for on the standard input.
async fn produce(url: &str, count: usize) -> Result<(), Failure> {
    let transport = celeriac_broker::open(url, TransportOptions::default())?;
    let started = Instant::now();
    let mut senders = Vec::new();
    for _ in 0..4 {
        let transport = Arc::clone(&transport);
        senders.push(tokio::spawn(async move {
            for _ in 0..count / BATCH / 4 {
                let batch: Vec<_> = (0..BATCH).map(|_| publication("[[1, 2], {}, {}]".to_owned())).collect();
                for result in transport.publish(&batch).await {
                    result?;
                }
            }
            Ok::<(), celeriac_error::Error>(())
        }));
    }
    for sender in senders {
        sender.await??;
    }
    eprintln!("sent at      {:>8.0}/s", count as f64 / started.elapsed().as_secs_f64());
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line)? > 0 {
        line.clear();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        transport.publish(&[publication(now.as_nanos().to_string())]).await.remove(0)?;
    }
    transport.close().await;
    Ok(())
}

async fn measure(url: &str, count: usize) -> Result<(), Failure> {
    let count = count.next_multiple_of(BATCH * 4);
    let transport = celeriac_broker::open(url, TransportOptions::default())?;
    transport.declare(&[queue()]).await?;
    let consumer = transport
        .consume(ConsumeOptions {
            queues: vec![queue()],
            prefetch: 0,
            node: "throughput@localhost".to_owned(),
            lease: Duration::from_secs(30),
        })
        .await?;
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .args(["produce", url, &count.to_string()])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut done = 0;
    let mut started = None;
    while done < count {
        let batch = consumer.receive(BATCH).await?;
        started.get_or_insert_with(Instant::now);
        done += batch.len();
        acknowledge(&consumer, &batch).await?;
    }
    let elapsed = started.map_or(0.0, |started| started.elapsed().as_secs_f64());
    eprintln!("sent, taken and acknowledged at {:>8.0}/s", count as f64 / elapsed);

    let mut input = child.stdin.take().ok_or("no standard input")?;
    let mut waited = Vec::new();
    for _ in 0..TIMED {
        std::io::Write::write_all(&mut input, b"next\n")?;
        let batch = consumer.receive(1).await?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        for delivery in &batch {
            let sent: u128 =
                std::str::from_utf8(&delivery.message.as_ref().map_err(ToString::to_string)?.body)?
                    .parse()?;
            waited.push((now - sent) / 1000);
        }
        acknowledge(&consumer, &batch).await?;
    }
    drop(input);
    child.wait()?;
    waited.sort_unstable();
    eprintln!(
        "from publish() to receive(): p50 {} µs, p99 {} µs",
        waited[TIMED / 2],
        waited[TIMED * 99 / 100]
    );
    transport.close().await;
    Ok(())
}

async fn acknowledge(
    consumer: &Arc<dyn Consumer>,
    batch: &[celeriac_broker::Delivery],
) -> Result<(), celeriac_error::Error> {
    let settlements: Vec<_> = batch
        .iter()
        .map(|delivery| Settlement {
            tag: delivery.tag,
            publish: Vec::new(),
            store: None,
            outcome: Outcome::Ack,
        })
        .collect();
    for settled in consumer.settle(&settlements).await {
        settled?;
    }
    Ok(())
}
