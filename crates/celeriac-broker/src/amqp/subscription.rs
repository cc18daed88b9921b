//! Listening to an exchange with a queue of its own, which goes with its connection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::Result;
use celeriac_protocol::Message;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::sync::watch;

use super::link::Live;
use super::properties::{Origin, from_amqp};
use super::table::short;
use super::topology::{Topology, declare_exchange};
use crate::transport::{Exchange, ExchangeType, Subscription};

/// How soon it is tried again to listen, after a failure.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// A listener, and what it needs to listen again.
pub(super) struct AmqpSubscription {
    topology: Arc<Topology>,
    exchange: Exchange,
    routing_keys: Vec<String>,
    open: Option<Open>,
    closed: watch::Receiver<bool>,
}

struct Open {
    live: Arc<Live>,
    messages: lapin::Consumer,
    /// Closed when this is dropped.
    _channel: Channel,
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
        closed,
    };
    subscription.open = Some(subscription.listen().await?);
    Ok(Box::new(subscription))
}

impl AmqpSubscription {
    async fn listen(&self) -> Result<Open> {
        let live = self.topology.live().await?;
        let channel = live.channel().await?;
        declare_exchange(&live, &channel, &self.exchange).await?;
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = format!("celeriac.listener.{}", uuid::Uuid::new_v4().simple());
        live.answer(channel.queue_declare(short(queue.as_str())?, options, FieldTable::default())).await?;
        let everything = [String::new()];
        let keys = if self.exchange.kind == ExchangeType::Fanout || self.routing_keys.is_empty() {
            &everything[..]
        } else {
            &self.routing_keys[..]
        };
        for key in keys {
            let (queue, exchange) = (short(queue.as_str())?, short(self.exchange.name.as_str())?);
            let bound = channel.queue_bind(
                queue,
                exchange,
                short(key.as_str())?,
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            live.answer(bound).await?;
        }
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumed =
            channel.basic_consume(short(queue.as_str())?, "".into(), options, FieldTable::default());
        let messages = live.answer(consumed).await?;
        Ok(Open { live, messages, _channel: channel })
    }
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
                    Ok(open) => self.open = Some(open),
                    Err(error) => {
                        log::debug!("Cannot listen to exchange {:?} yet: {error}", self.exchange.name);
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
            let origin = Origin {
                exchange: came.exchange.as_str(),
                routing_key: came.routing_key.as_str(),
                redelivered: came.redelivered,
            };
            return Some(from_amqp(&came.properties, Bytes::from(came.data), &origin, None));
        }
    }
}
