//! The result stores that are worth being native: one trait, a registry by URL scheme, a file for each.

pub mod memory;
pub mod redis;
pub mod registry;
mod rpc;
pub mod sqlite;
pub mod store;
mod waiters;

pub use registry::{StoreOptions, open, schemes};
pub use store::{ResultStore, StoreRequest};

/// Says whose document it is that cannot be read.
fn of_task(task_id: &str, status: Option<&str>, error: celeriac_error::Error) -> celeriac_error::Error {
    let reason = match error {
        celeriac_error::Error::Decode { reason } => reason,
        other => other.to_string(),
    };
    let status = status.map_or(String::new(), |status| format!(", which is in state {status}"));
    celeriac_error::Error::Decode { reason: format!("the result of task {task_id}{status}: {reason}") }
}
