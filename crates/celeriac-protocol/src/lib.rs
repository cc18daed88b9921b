//! Bytes to meaning and back: Celery's task messages, the JSON that Python writes, and result documents.
//!
//! No I/O (but for the certificates, which are read from their files once), no tokio, no JavaScript. Everything here is checked against bytes recorded from the real Celery.

pub mod compression;
pub mod envelope;
pub mod json;
pub mod message;
pub mod repr;
pub mod result_meta;
pub mod serialization;
pub mod signing;
pub mod task;
pub mod time;

pub use message::{DeliveryInfo, Message, Properties};
pub use result_meta::TaskMeta;
