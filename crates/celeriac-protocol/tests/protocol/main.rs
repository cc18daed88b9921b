//! What the real Celery wrote must be read as Celery means it, and what is written here must be what Celery writes.
//!
//! `tests/golden` holds bytes recorded from Celery; its values are in "typed JSON", see [`support`].

#![allow(clippy::unwrap_used, clippy::panic)]

mod decoding;
mod encoding;
mod hostile;
mod javascript;
mod messages;
mod representations;
mod results;
mod support;
