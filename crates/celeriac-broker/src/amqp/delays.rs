//! Native delayed delivery: the exchanges, queues and bindings of [`delay`](crate::delay), declared as kombu declares them
//! (`kombu.transport.native_delayed_delivery`), since whoever comes second must find what it would declare itself.

use celeriac_error::Result;
use futures_util::future::join4;
use lapin::Channel;
use lapin::options::{ExchangeBindOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use super::link::Live;
use super::table::{from_json, short};
use super::topology::{checked, close, declare_exchange};
use crate::delay::{EXIT, LEVELS, level};
use crate::transport::{DelayQueues, Exchange, ExchangeType, Queue};

/// Declares all of it. To declare it again changes nothing.
pub(super) async fn declare(live: &Live, kind: DelayQueues) -> Result<()> {
    let channel = live.channel().await?;
    // What a message is led to is there before what leads to it.
    exchange(live, &channel, EXIT).await?;
    for number in 0..LEVELS {
        let name = level(number);
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(short(&*name)?, options, arguments(number, kind)?);
        let bound = channel.queue_bind(
            short(&*name)?,
            short(&*name)?,
            short(binding_key(number, "1.#"))?,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        // Nobody waits in between; the broker does them in this order.
        let (exchange, declared, bound, passed_on) = join4(
            exchange(live, &channel, &name),
            live.raw_answer(declared),
            live.raw_answer(bound),
            lead(live, &channel, &next(number), &name, &binding_key(number, "0.#")),
        )
        .await;
        exchange?;
        let what = || format!("queue `{name}`");
        checked(live, declared?, what)?;
        checked(live, bound?, what)?;
        passed_on?;
    }
    close(channel);
    Ok(())
}

/// Leads what has waited long enough to a queue, by its own exchange, which other queues may be bound to as well.
pub(super) async fn bind(live: &Live, channel: &Channel, queue: &Queue) -> Result<()> {
    let exchange = &queue.exchange.name;
    if exchange.is_empty() || queue.exchange.kind == ExchangeType::Direct {
        return Ok(());
    }
    // The words of the delay stand before its own.
    let key = if queue.routing_key.starts_with('#') {
        queue.routing_key.clone()
    } else {
        format!("#.{}", queue.routing_key)
    };
    lead(live, channel, exchange, EXIT, &key).await?;
    let bound = channel.queue_bind(
        short(queue.name.as_str())?,
        short(exchange.as_str())?,
        short(key)?,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    checked(live, live.raw_answer(bound).await?, || format!("queue `{}`", queue.name))
}

async fn exchange(live: &Live, channel: &Channel, name: &str) -> Result<()> {
    let exchange =
        Exchange { name: name.to_owned(), kind: ExchangeType::Topic, durable: true, auto_delete: false };
    declare_exchange(live, channel, &exchange).await
}

/// Binds an exchange to another.
async fn lead(live: &Live, channel: &Channel, to: &str, from: &str, key: &str) -> Result<()> {
    let bound = channel.exchange_bind(
        short(to)?,
        short(from)?,
        short(key)?,
        ExchangeBindOptions::default(),
        FieldTable::default(),
    );
    checked(live, live.raw_answer(bound).await?, || format!("exchange `{to}`"))
}

/// Which word of the routing key a level looks at.
fn binding_key(number: u32, word: &str) -> String {
    "*.".repeat((LEVELS - 1 - number) as usize) + word
}

fn arguments(number: u32, kind: DelayQueues) -> Result<FieldTable> {
    let ttl = 1000u64 << number;
    let kind = match kind {
        DelayQueues::Classic => r#""classic""#,
        DelayQueues::Quorum => r#""quorum", "x-dead-letter-strategy": "at-least-once""#,
    };
    from_json(&format!(
        r#"{{"x-queue-type": {kind}, "x-overflow": "reject-publish", "x-message-ttl": {ttl}, "x-dead-letter-exchange": "{}"}}"#,
        next(number)
    ))
}

/// Where a message goes after a level.
fn next(number: u32) -> String {
    number.checked_sub(1).map_or_else(|| EXIT.to_owned(), level)
}
