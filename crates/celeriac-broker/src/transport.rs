//! What every broker must do. The contract that proves it is in `celeriac-testkit`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::Message;

use crate::dead::DeadLetter;

/// How an exchange finds its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExchangeType {
    /// The routing key equals the binding key.
    #[default]
    Direct,
    /// Words by dots; `*` is one word, `#` any number.
    Topic,
    /// All bound queues.
    Fanout,
    /// By headers; only where the broker has it.
    Headers,
}

/// An exchange; the one with an empty name is the default exchange, which leads to the queue that the routing key
/// names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it finds its queues.
    pub kind: ExchangeType,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Whether it goes when its last queue goes.
    pub auto_delete: bool,
}

/// The type of the queues in which `RabbitMQ` holds messages until their time
/// (`broker_native_delayed_delivery_queue_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayQueues {
    /// On one server each.
    Classic,
    /// Replicated, and handed on without a loss.
    Quorum,
}

/// A queue with the one binding that Celery declares for it (`kombu.Queue`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The exchange it is bound to; nothing is bound when the name is empty.
    pub exchange: Exchange,
    /// The binding key.
    pub routing_key: String,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Only this connection may consume it.
    pub exclusive: bool,
    /// It goes when its last consumer goes.
    pub auto_delete: bool,
    /// `x-…` arguments: a JSON object, or empty.
    pub arguments: String,
    /// The broker's own delayed delivery is declared with it, in queues of this type, and leads to it where its exchange is not
    /// direct. Only AMQP has it.
    pub delays: Option<DelayQueues>,
}

/// One message on its way to the broker.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Name of the exchange; empty for the default one.
    pub exchange: Arc<str>,
    /// How that exchange finds its queues.
    pub exchange_type: ExchangeType,
    /// The routing key; the queue's name on the default exchange.
    pub routing_key: Arc<str>,
    /// What is sent.
    pub message: Message,
}

impl Publication {
    /// Whether another one was sent by the same route, so that it goes to the same queues.
    pub(crate) fn goes_the_same_way(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.exchange, &other.exchange)
            && Arc::ptr_eq(&self.routing_key, &other.routing_key)
            && self.exchange_type == other.exchange_type
    }
}

/// Names one unsettled delivery of one consumer. Tags grow and are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryTag(pub u64);

/// One message that this consumer holds until it settles it.
#[derive(Debug)]
pub struct Delivery {
    /// The name by which it is settled.
    pub tag: DeliveryTag,
    /// The queue it was taken from.
    pub queue: Arc<str>,
    /// The bytes as the broker had them: the envelope, or the body where the broker has the properties apart.
    pub raw: Bytes,
    /// What they mean; an error when the envelope cannot be read. Such a delivery is held like any other.
    pub message: Result<Message>,
}

/// What becomes of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker forgets it.
    Ack,
    /// Back to the end of its queue that is consumed next. `redelivered` marks it as handed out before. Without it the message
    /// is handed back unbegun, as if it had never been taken, so what [`Consumer::begin`] counted stands.
    Requeue {
        /// Whether the message says that it was handed out before.
        redelivered: bool,
    },
    /// Back as by `Requeue { redelivered: true }`, while its body may still run, because nobody waits for it any longer. What
    /// [`Consumer::begin`] counted stands: a body that never ends is not tried for ever.
    Abandon,
    /// To the dead list with its original bytes: it can't be handled, or was rejected.
    Dead {
        /// One word: `malformed`, `unknown-task`, `rejected`, `content-disallowed`, `poison`.
        reason: &'static str,
        /// What exactly is wrong.
        detail: String,
    },
}

impl Outcome {
    /// Whether what [`Consumer::begin`] counted outlives this: nobody knows yet that the task can be finished.
    pub(crate) fn keeps_count(&self) -> bool {
        matches!(self, Self::Abandon | Self::Requeue { redelivered: false })
    }
}

/// A result that the broker itself stores in the same step as it settles, because the result store is on the same
/// server. Made by the result store, understood by the transport that it names.
#[derive(Clone, Debug, PartialEq)]
pub enum InlineStore {
    /// `SET`/`SETEX` unless a SUCCESS is there already, and `PUBLISH` on the channel of the same name.
    Redis {
        /// The database number of the result store.
        database: i64,
        /// The key, and the channel.
        key: String,
        /// The document.
        value: String,
        /// How long it is kept; `None` is for ever.
        expires: Option<Duration>,
    },
}

/// What is to be done with one delivery, in this order: publish and confirm, store, then the outcome.
///
/// Nothing of it happens when the delivery is no longer ours (its lease ran out and somebody else has it).
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which delivery.
    pub tag: DeliveryTag,
    /// What is sent first: retries, callbacks.
    pub publish: Vec<Publication>,
    /// What is stored by the broker in the same step.
    pub store: Option<InlineStore>,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// How a settlement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Done, all of it.
    Done,
    /// The delivery was no longer ours: nothing was published, stored or acknowledged.
    Lost,
}

/// What a transport can do beyond carrying messages to queues.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// More urgent messages are handed out first.
    pub priority: bool,
    /// [`Transport::subscribe`] works between processes, so remote control does.
    pub fanout: bool,
    /// Python Celery can be on the other side.
    pub interoperable: bool,
    /// The broker speaks AMQP itself. Then higher numbers are more urgent, not lower ones, and only in queues that were
    /// declared with `x-max-priority`; headers are tables of typed values, not text, without NaN and integers beyond 64 bits; a
    /// message that was handed out once says so when it comes back, whatever it is settled with; and what a consumer
    /// has been sent, up to its prefetch, comes before what is put back.
    pub amqp: bool,
}

/// The shortest lease: below, a renewal could come too late on a busy machine.
pub const SHORTEST_LEASE: Duration = Duration::from_millis(500);

/// How a consumer takes messages.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    /// The queues, in the order in which they are looked at when all have messages.
    pub queues: Vec<Queue>,
    /// The most messages held unsettled; 0 is no limit. Only brokers that push (AMQP) need it.
    pub prefetch: u32,
    /// The node name of the worker, for logs and for the names of private keys.
    pub node: String,
    /// How long a claim stands without renewal. It is renewed every third of that. At least [`SHORTEST_LEASE`].
    pub lease: Duration,
}

/// A live or at least openable connection to a broker. Cheap to share; every method may be called at any time from
/// any thread.
///
/// A transport reconnects by itself: after an error that [`is_transient`](Error::is_transient) the caller waits as
/// long as it likes and calls again.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// What it can do.
    fn features(&self) -> Features;

    /// The URL without its password.
    fn url(&self) -> &str;

    /// What keeps it from answering at the moment, where it knows: another process has locked the file.
    fn hindrance(&self) -> Option<String> {
        None
    }

    /// Whether [`InlineStore`]s of a store with this identity can be settled here. The identity of a Redis server is
    /// `redis://host:port` (or the path of its socket) in lower case, whatever the database.
    fn same_server(&self, identity: &str) -> bool {
        let _ = identity;
        false
    }

    /// Resolves once the broker has answered; tells a wrong password from a closed port.
    async fn connect(&self) -> Result<()>;

    /// Declares queues with their exchanges and bindings. Declaring again changes nothing.
    async fn declare(&self, queues: &[Queue]) -> Result<()>;

    /// Resolves once the broker has taken responsibility for every message that has an `Ok`; the results are in the
    /// order of the batch. A message with an `Err` may have been taken all the same when the error is transient.
    async fn publish(&self, batch: &[Publication]) -> Vec<Result<()>>;

    /// A way for messages that come one at a time; `None` where there is none, and everything goes by
    /// [`publish`](Self::publish).
    fn direct(&self) -> Option<Arc<dyn Direct>> {
        None
    }

    /// Starts taking messages. The queues have been declared.
    async fn consume(&self, options: ConsumeOptions) -> Result<Arc<dyn Consumer>>;

    /// Listens to an exchange from now on, with a transient queue of its own: remote control and events.
    /// `routing_keys` matter to topic exchanges only. Every message is delivered once to every listener.
    async fn subscribe(&self, exchange: &Exchange, routing_keys: &[String]) -> Result<Box<dyn Subscription>> {
        let _ = (exchange, routing_keys);
        Err(Error::NotSupported { what: "fanout".to_owned(), by: self.url().to_owned() })
    }

    /// How many messages wait in a queue; those held by consumers do not count.
    async fn queue_length(&self, queue: &str) -> Result<u64>;

    /// Removes what waits in a queue; says how many there were.
    async fn purge(&self, queue: &str) -> Result<u64>;

    /// The dead list without the messages themselves, oldest first, from `offset`, at most `limit`.
    async fn dead_letters(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>>;

    /// How many messages the dead list has.
    async fn dead_count(&self) -> Result<u64>;

    /// One message of the dead list with its original bytes; `None` when it is not there (any more).
    async fn dead_letter(&self, id: &str) -> Result<Option<(DeadLetter, Bytes)>>;

    /// Moves messages from the dead list to the end of the queues that they were taken from, or of `queue`, with their
    /// original bytes and their priority: each is in one of the two places at any moment. Says of each whether it was there.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the queue of one is not known and none is given; nothing was moved then.
    async fn replay_dead(&self, ids: &[String], queue: Option<&str>) -> Result<Vec<bool>>;

    /// Removes messages from the dead list for good. Says of each whether it was there.
    async fn drop_dead(&self, ids: &[String]) -> Result<Vec<bool>>;

    /// Ends every consumer and subscription, then the connection. Calling it twice is fine.
    async fn close(&self);
}

/// Has the thread that sends a message write it too, which saves handing it to another thread. One message at a time, and only
/// what can be written without waiting: everything else goes by [`Transport::publish`].
#[async_trait]
pub trait Direct: Send + Sync {
    /// Whether it can be used. It is opened when it is worth it, and closes itself when its connection breaks.
    fn is_open(&self) -> bool;

    /// Makes it usable.
    async fn open(&self) -> Result<()>;

    /// The bytes of a message that can go this way now; `None` when it cannot.
    fn encode(&self, publication: &Publication) -> Option<Vec<u8>>;

    /// Writes what [`encode`](Self::encode) gave, without waiting. False when nothing was written. The outcome of what was
    /// written before has come.
    fn write(&self, bytes: &[u8]) -> bool;

    /// What became of the message that was written: as in [`Transport::publish`]. An error while none is under way says that
    /// the connection broke. Dropping the future loses nothing.
    async fn outcome(&self) -> Result<()>;

    /// For an event loop that waits for the answers itself: a socket to read them from, once for each connection. `None` where
    /// that cannot be.
    fn watch(&self) -> Option<Watch> {
        None
    }

    /// Takes back that the socket of [`watch`](Self::watch) is read by whoever has it, and gives none again.
    fn unwatch(&self) {}

    /// Whether [`watch`](Self::watch) has given the socket of this connection.
    fn is_watched(&self) -> bool {
        false
    }

    /// Nobody but who has the socket of [`watch`](Self::watch) waits for answers, until [`outcome`](Self::outcome) is asked again.
    fn leave_to_watcher(&self) {}

    /// Takes what was read from the socket of [`watch`](Self::watch), nothing when it has ended; gives what
    /// [`outcome`](Self::outcome) would have once it is whole.
    fn feed(&self, connection: u32, bytes: &[u8]) -> Option<Result<()>> {
        let _ = (connection, bytes);
        None
    }

    /// Reads the socket of [`watch`](Self::watch) without waiting, for whom the event loop would find out later; gives what
    /// [`feed`](Self::feed) would have, `None` when nothing is there.
    fn read(&self) -> Option<Result<()>> {
        None
    }

    /// Gives up its connection, and with it the message that is under way.
    fn close(&self);
}

/// A socket that the answers of [`Direct`] can be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The descriptor, which belongs to who got it.
    pub descriptor: i32,
    /// Which connection it is, for [`Direct::feed`].
    pub connection: u32,
}

/// Takes messages from queues and holds them until they are settled. Holding includes renewing the lease, however
/// long it takes.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Resolves as soon as at least one message is there, with whatever else is there, at most `max` (which is at
    /// least 1). Empty once [`stop`](Consumer::stop) was called.
    ///
    /// Dropping the future loses nothing: what it had claimed comes with the next call.
    async fn receive(&self, max: usize) -> Result<Vec<Delivery>>;

    /// [`receive`](Consumer::receive) that leaves to others what they could begin sooner: from a queue that is soon empty it
    /// takes at most `slots` at once, which is how many could begin now; below zero, so many wait here already. With 0 or less
    /// it may not resolve though there are messages, so the caller drops it when a slot is free. How deep a queue is, the
    /// transport judges; one that does not takes `max`.
    async fn receive_share(&self, max: usize, slots: isize) -> Result<Vec<Delivery>> {
        let _ = slots;
        self.receive(max).await
    }

    /// Settles deliveries; the results are in the order of the batch. After a transient error the same settlement
    /// may be given again.
    async fn settle(&self, batch: &[Settlement]) -> Vec<Result<Settled>>;

    /// Which of these deliveries are still ours. For results that are stored elsewhere, before they are.
    async fn still_held(&self, tags: &[DeliveryTag]) -> Result<Vec<bool>>;

    /// Counts deliveries whose body is about to begin, by task id, and gives for each how often the body of that task has
    /// begun, this time included; `None` when the delivery is no longer ours.
    ///
    /// Only for messages that were handed out before: that they come back means that somebody held them and did not settle
    /// them, so the first count is 2. It is forgotten when a counted delivery is settled by [`Outcome::Ack`], [`Outcome::Dead`]
    /// or `Requeue { redelivered: true }`, and a week after the last one. It stands when the delivery is handed back unbegun
    /// (`Requeue { redelivered: false }`), given up ([`Outcome::Abandon`]), or still held when its consumer closes or dies: a
    /// body that ends each worker it comes to must not begin anew with each that was stopped in good order. Two deliveries of
    /// one task share the count; one delivery is counted once, however often it is asked for.
    async fn begin(&self, batch: &[(DeliveryTag, &str)]) -> Result<Vec<Option<u32>>>;

    /// Whether what is held is certainly still ours: the leases were renewed less than a lease ago. False after this process
    /// was stopped, or cut off from the broker, for longer; [`lost`](Consumer::lost) tells when it is known again.
    fn leases_stand(&self) -> bool;

    /// For how long from now [`leases_stand`](Consumer::leases_stand) need not be asked again. A transport that cannot tell
    /// says so little that nothing has happened by then.
    fn lease_left(&self) -> Duration {
        if self.leases_stand() { Duration::from_millis(20) } else { Duration::ZERO }
    }

    /// Reads the bytes of a delivery again, so that whoever holds many need not keep what they mean; `None` where the bytes
    /// are not all of a message.
    fn read(&self, raw: &Bytes) -> Option<Result<Message>> {
        let _ = raw;
        None
    }

    /// Resolves when leases that had run out were looked at again, with the deliveries that somebody else has taken over:
    /// they are forgotten here, and settling them gives [`Settled::Lost`].
    async fn lost(&self) -> Vec<DeliveryTag>;

    /// Replaces the queues that are taken from.
    async fn set_queues(&self, queues: Vec<Queue>) -> Result<()>;

    /// Claims nothing until the next [`receive`](Consumer::receive), of which none is under way, and gives what had been
    /// claimed for one that was dropped.
    async fn pause(&self) -> Vec<Delivery> {
        Vec::new()
    }

    /// Claims nothing more. What is held stays held and may be settled.
    async fn stop(&self);

    /// [`stop`](Consumer::stop), then hands back at once everything that is still held. What [`begin`](Consumer::begin)
    /// counted of it stands.
    async fn close(&self) -> Result<()>;
}

/// Listens to an exchange.
#[async_trait]
pub trait Subscription: Send {
    /// The next message; `None` once the transport is closed. After a lost connection it listens again by itself;
    /// what was sent meanwhile is lost, as with any fanout.
    async fn next(&mut self) -> Option<Message>;
}
