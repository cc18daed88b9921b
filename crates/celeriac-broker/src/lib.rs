//! Brokers: one trait, a registry by URL scheme, a file or folder for each.

mod amqp;
pub mod calls;
pub mod dead;
pub mod declare;
pub mod delay;
pub mod fault;
pub mod memory;
mod moment;
pub mod producer;
pub mod publisher;
pub mod redis;
pub mod redis_result;
pub mod redis_silence;
pub mod redis_url;
pub mod registry;
pub mod route;
pub mod sqlite;
pub mod sync;
pub mod tls;
pub mod transport;
pub mod url;
mod virtual_exchange;

pub use dead::DeadLetter;
pub use registry::{TransportOptions, open, schemes};
pub use transport::{
    ConsumeOptions, Consumer, DelayQueues, Delivery, DeliveryTag, Direct, Exchange, ExchangeType, Features,
    InlineStore, Outcome, Publication, Queue, Settled, Settlement, Subscription, Transport, Watch,
};
