//! The serializers: what Python wrote must be read as Python means it, what is written here must be what Python reads,
//! and whatever arrives ends with a value or an error.
//!
//! `tests/golden/task_messages_*.json` and `tests/golden/serializers.json` are recorded from Python.

#![allow(clippy::unwrap_used, clippy::panic)]

mod hostile;
mod pickles;
mod properties;
mod recorded;
mod support;
mod table;
mod tagged;
mod vectors;
