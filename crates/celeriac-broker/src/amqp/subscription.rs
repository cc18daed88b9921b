//! Listening to an exchange with a queue of its own, which goes with its connection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::Message;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::watch;

use super::link::Live;
use super::properties::{Origin, from_amqp};
use super::table::short;
use super::topology::{Topology, declare_exchange};
use crate::transport::{Exchange, ExchangeType, Subscription};

/// How soon it is tried again to listen, after a failure.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How many messages may wait in this process.
const PREFETCH: u16 = 1000;

/// How many may wait in the broker.
const LONGEST: i32 = 100_000;

/// A listener, and what it needs to listen again.
pub(super) struct AmqpSubscription {
    topology: Arc<Topology>,
    exchange: Exchange,
    routing_keys: Vec<String>,
    open: Option<Open>,
    /// Whether it was said already that listening does not work.
    is_told: bool,
    closed: watch::Receiver<bool>,
}

struct Open {
    live: Arc<Live>,
    messages: lapin::Consumer,
    /// The newest that is to be acknowledged, with all before it.
    acknowledged: watch::Sender<u64>,
    /// How many were taken since the last acknowledgement.
    taken: u16,
}

pub(super) async fn subscribe(
    topology: Arc<Topology>,
    exchange: &Exchange,
    routing_keys: &[String],
    closed: watch::Receiver<bool>,
) -> Result<Box<dyn Subscription>> {
    let mut subscription = AmqpSubscription {
        topology,
        exchange: exchange.clone(),
        routing_keys: routing_keys.to_vec(),
        open: None,
        is_told: false,
        closed,
    };
    subscription.open = Some(subscription.listen().await?);
    Ok(Box::new(subscription))
}

impl AmqpSubscription {
    /// Leaves no queue behind that nobody reads: it would live as long as the connection. So it is done to the end, in a task of its
    /// own, also when nobody waits for it any more: a queue is deleted with its last consumer, once it had one.
    async fn listen(&self) -> Result<Open> {
        let (topology, exchange) = (Arc::clone(&self.topology), self.exchange.clone());
        let routing_keys = self.routing_keys.clone();
        let listening = tokio::spawn(async move {
            let queue = format!("celeriac.listener.{}", uuid::Uuid::new_v4().simple());
            let listening = Open::new(&topology, &exchange, &routing_keys, &queue).await;
            if listening.is_err() {
                let _ = topology.delete_queue(&queue).await;
            }
            listening
        });
        listening
            .await
            .unwrap_or_else(|error| Err(Error::Internal(format!("listening ended early: {error}"))))
    }
}

impl Open {
    async fn new(
        topology: &Topology,
        exchange: &Exchange,
        routing_keys: &[String],
        queue: &str,
    ) -> Result<Self> {
        let live = topology.live().await?;
        let channel = live.channel().await?;
        declare_exchange(&live, &channel, exchange).await?;
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        live.answer(channel.queue_declare(short(queue)?, options, arguments()?)).await?;
        let everything = [String::new()];
        let keys = if exchange.kind == ExchangeType::Fanout || routing_keys.is_empty() {
            &everything[..]
        } else {
            routing_keys
        };
        for key in keys {
            let (queue, exchange) = (short(queue)?, short(exchange.name.as_str())?);
            let bound = channel.queue_bind(
                queue,
                exchange,
                short(key.as_str())?,
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            live.answer(bound).await?;
        }
        live.answer(channel.basic_qos(PREFETCH, BasicQosOptions { global: false })).await?;
        let consumed = channel.basic_consume(
            short(queue)?,
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let messages = live.answer(consumed).await?;
        let (acknowledged, newest) = watch::channel(0);
        tokio::spawn(acknowledge(channel, newest));
        Ok(Self { live, messages, acknowledged, taken: 0 })
    }

    /// Makes room for more, some at a time.
    fn acknowledge(&mut self, tag: u64) {
        self.taken += 1;
        if self.taken == PREFETCH / 4 {
            self.taken = 0;
            self.acknowledged.send_replace(tag);
        }
    }
}

/// Acknowledges until the listener is gone, and the channel with it. In a task, because whoever takes a message may stop waiting at any
/// time; in one, because the broker ends the channel over an acknowledgement that comes after a later one.
async fn acknowledge(channel: Channel, mut newest: watch::Receiver<u64>) {
    while newest.changed().await.is_ok() {
        let tag = *newest.borrow_and_update();
        // It is lost with its connection only, and the queue with it.
        let _ = channel.basic_ack(tag, BasicAckOptions { multiple: true }).await;
    }
}

/// Of a queue that is read more slowly than it is filled the oldest messages go.
fn arguments() -> Result<FieldTable> {
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-queue-type")?, AMQPValue::LongString("classic".into()));
    arguments.insert(short("x-max-length")?, AMQPValue::LongInt(LONGEST));
    Ok(arguments)
}

#[async_trait]
impl Subscription for AmqpSubscription {
    async fn next(&mut self) -> Option<Message> {
        loop {
            if *self.closed.borrow() {
                return None;
            }
            let Some(open) = &mut self.open else {
                match self.listen().await {
                    Ok(open) => {
                        self.is_told = false;
                        self.open = Some(open);
                    }
                    Err(error) => {
                        let is_new = !std::mem::replace(&mut self.is_told, true);
                        let level = if is_new { log::Level::Warn } else { log::Level::Debug };
                        log::log!(level, "Cannot listen to exchange {:?} yet: {error}", self.exchange.name);
                        tokio::select! {
                            () = tokio::time::sleep(TRY_AGAIN) => {}
                            _ = self.closed.wait_for(|closed| *closed) => return None,
                        }
                    }
                }
                continue;
            };
            let mut ended = open.live.ended();
            let came = tokio::select! {
                came = open.messages.next() => came,
                _ = ended.wait_for(|ended| *ended) => None,
                _ = self.closed.wait_for(|closed| *closed) => return None,
            };
            let Some(Ok(came)) = came else {
                self.open = None;
                continue;
            };
            open.acknowledge(came.delivery_tag);
            let origin = Origin {
                exchange: came.exchange.as_str(),
                routing_key: came.routing_key.as_str(),
                redelivered: came.redelivered,
            };
            return Some(from_amqp(&came.properties, Bytes::from(came.data), &origin, None));
        }
    }
}
