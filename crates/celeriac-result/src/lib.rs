//! The result stores that are worth being native: one trait, a registry by URL scheme, a file for each.

pub mod memory;
pub mod redis;
pub mod registry;
pub mod sqlite;
pub mod store;
mod waiters;

pub use registry::{StoreOptions, open, schemes};
pub use store::{ResultStore, StoreRequest};
