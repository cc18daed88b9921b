//! Listening to a fanout exchange, which on Redis is a channel and not a queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use celeriac_error::{Error, Result};
use celeriac_protocol::{Message, envelope};
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::link::{explain, limited};
use super::settings::Settings;
use crate::transport::{Exchange, ExchangeType, Subscription};

/// The time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(250);

/// How often the server is asked whether it is still there: nothing else would show a connection that is half open.
const PING: Duration = Duration::from_secs(10);

/// How many messages wait for a slow listener before the oldest wait in Redis's and the system's buffers.
const BUFFER: usize = 4096;

/// The channels and patterns of one listener.
#[derive(Clone)]
struct Topics(Vec<String>);

impl Topics {
    fn new(settings: &Settings, exchange: &Exchange, routing_keys: &[String]) -> Self {
        let keys = &settings.keys;
        let mut topics = Vec::new();
        if routing_keys.is_empty() || !keys.fanout_patterns {
            topics.push(keys.channel(&exchange.name, ""));
            if keys.fanout_patterns {
                topics.push(keys.channel(&exchange.name, "*"));
            }
        }
        if keys.fanout_patterns {
            // kombu translates `#`, and Redis's `*` means both.
            topics
                .extend(routing_keys.iter().map(|key| keys.channel(&exchange.name, &key.replace('#', "*"))));
        }
        topics.dedup();
        Self(topics)
    }

    fn is_pattern(topic: &str) -> bool {
        topic.contains('*')
    }

    /// Whether this is the copy to be delivered: Redis sends one for each of our topics that fits.
    fn is_first(&self, topic: &str, channel: &str) -> bool {
        self.0.iter().find(|other| fits(other, channel)).is_none_or(|other| other == topic)
    }
}

/// Redis's glob, as far as we make use of it.
fn fits(pattern: &str, channel: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == channel };
    let Some(rest) = channel.strip_prefix(before) else { return false };
    (0..=rest.len()).any(|start| rest.is_char_boundary(start) && fits(after, &rest[start..]))
}

pub(super) async fn subscribe(
    settings: &Arc<Settings>,
    exchange: &Exchange,
    routing_keys: &[String],
    ended: watch::Receiver<bool>,
) -> Result<Box<dyn Subscription>> {
    if exchange.kind != ExchangeType::Fanout {
        // Celery makes its event exchange a fanout one on Redis (`celery.events.event.get_exchange`), routing keys and all.
        let what = format!("listening to `{}`, which is no fanout exchange,", exchange.name);
        return Err(Error::NotSupported { what, by: settings.url.clone() });
    }
    let topics = Topics::new(settings, exchange, routing_keys);
    let (sender, messages) = mpsc::channel(BUFFER);
    let (first, listening) = oneshot::channel();
    let task = tokio::spawn(listen(Arc::clone(settings), topics, sender, first));
    let subscription = ChannelSubscription { messages, ended, task: task.abort_handle() };
    match listening.await {
        Ok(Ok(())) => Ok(Box::new(subscription)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Internal("listening ended before it began".to_owned())),
    }
}

/// Listens until nobody wants it any more. The first attempt is reported; later ones are repeated until they succeed.
async fn listen(
    settings: Arc<Settings>,
    topics: Topics,
    messages: mpsc::Sender<Message>,
    first: oneshot::Sender<Result<()>>,
) {
    let mut first = Some(first);
    while !messages.is_closed() {
        let opened = limited(settings.connect_timeout, open(&settings, &topics)).await;
        match (opened, first.take()) {
            (Ok(connection), report) => {
                if let Some(report) = report {
                    let _ = report.send(Ok(()));
                }
                read(&settings, connection, &topics, &messages).await;
            }
            (Err(error), Some(report)) => {
                let _ = report.send(Err(explain(&settings.url, &error)));
                return;
            }
            (Err(_), None) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn open(settings: &Settings, topics: &Topics) -> redis::RedisResult<redis::aio::PubSub> {
    let mut connection = settings.client.get_async_pubsub().await?;
    let (patterns, channels): (Vec<_>, Vec<_>) = topics.0.iter().partition(|topic| Topics::is_pattern(topic));
    if !channels.is_empty() {
        connection.subscribe(channels).await?;
    }
    if !patterns.is_empty() {
        connection.psubscribe(patterns).await?;
    }
    Ok(connection)
}

/// Hands on what comes until the connection breaks.
async fn read(
    settings: &Settings,
    connection: redis::aio::PubSub,
    topics: &Topics,
    messages: &mpsc::Sender<Message>,
) {
    let (mut sink, mut stream) = connection.split();
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = tokio::time::sleep(PING) => {
                if limited(settings.response_timeout, sink.ping::<redis::Value>()).await.is_err() {
                    return;
                }
                continue;
            }
            () = messages.closed() => return,
        };
        let Some(message) = next else { return };
        let channel = message.get_channel_name();
        let topic = if message.from_pattern() {
            message.get_pattern().unwrap_or_default()
        } else {
            channel.to_owned()
        };
        if !topics.is_first(&topic, channel) {
            continue;
        }
        // What is no message is nobody's, as in kombu.
        let Ok(message) = envelope::decode(message.get_payload_bytes()) else { continue };
        if messages.send(message).await.is_err() {
            return;
        }
    }
}

struct ChannelSubscription {
    messages: mpsc::Receiver<Message>,
    ended: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for ChannelSubscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl Subscription for ChannelSubscription {
    async fn next(&mut self) -> Option<Message> {
        tokio::select! {
            biased;
            // An error means that the transport was dropped: the same as closed.
            _ = self.ended.wait_for(|ended| *ended) => None,
            message = self.messages.recv() => message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_delivered_by_one_of_the_topics_that_fit() {
        let topics = Topics(["/0.ev/task.*", "/0.ev/*", "/0.ev"].map(str::to_owned).into());
        let copies = |channel: &str| topics.0.iter().filter(|topic| fits(topic, channel)).collect::<Vec<_>>();
        let delivered = |channel: &str| {
            copies(channel).into_iter().filter(|topic| topics.is_first(topic, channel)).count()
        };
        assert_eq!(copies("/0.ev/task.sent").len(), 2);
        for channel in ["/0.ev/task.sent", "/0.ev/worker.online", "/0.ev"] {
            assert_eq!(delivered(channel), 1, "{channel}");
        }
        assert_eq!(delivered("/0.other"), 0);
    }
}
