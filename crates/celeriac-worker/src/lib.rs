//! What a worker does between the socket and JavaScript: it claims messages, holds them until a body can run, keeps
//! back what is not due, refuses what is revoked or expired, and settles what JavaScript has finished.
//!
//! JavaScript sees batches only: it asks for the next deliveries and gives back outcomes. Nothing here calls it.

mod begin;
mod connect;
mod consume;
mod control;
mod dead_watch;
mod deliver;
mod intake;
mod lost;
mod options;
mod outcome;
mod outcome_reader;
mod revoked;
mod schedule;
mod settle;
mod settle_queue;
mod slots;
mod state;
mod stats;
mod watchdog;
mod worker;

pub use options::{PATIENCE, TaskSettings, WorkerOptions};
pub use slots::Slots;
pub use worker::Worker;

/// The names of Celery's loggers that these messages are written under.
pub(crate) mod logger {
    pub(crate) const WORKER: &str = "celery.worker";
    pub(crate) const CONSUMER: &str = "celery.worker.consumer";
    pub(crate) const STRATEGY: &str = "celery.worker.strategy";
    pub(crate) const REQUEST: &str = "celery.worker.request";
    pub(crate) const CONTROL: &str = "celery.worker.control";
}
