//! A process that takes messages from the queue `q` until it is killed: the tests of killed processes start it.
//!
//! `queue_process keep|acknowledge URL`: says `took BODY` for each message, and acknowledges it or keeps it.

use std::time::Duration;

use celeriac_broker::{ConsumeOptions, Outcome, Queue, Settlement, TransportOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(role), Some(url)) = (arguments.next(), arguments.next()) else {
        return Err("usage: queue_process keep|acknowledge URL".into());
    };
    let queue = Queue { name: "q".to_owned(), durable: true, ..Queue::default() };
    let transport = celeriac_broker::open(&url, TransportOptions::default())?;
    transport.declare(std::slice::from_ref(&queue)).await?;
    let options = ConsumeOptions {
        queues: vec![queue],
        prefetch: 0,
        node: "celery@process".to_owned(),
        lease: Duration::from_secs(1),
    };
    let consumer = transport.consume(options).await?;
    loop {
        for delivery in consumer.receive(8).await? {
            println!("took {}", String::from_utf8_lossy(&delivery.message?.body));
            if role == "acknowledge" {
                let settlement =
                    Settlement { tag: delivery.tag, publish: Vec::new(), store: None, outcome: Outcome::Ack };
                for outcome in consumer.settle(&[settlement]).await {
                    outcome?;
                }
            }
        }
    }
}
