//! N-API: the only crate that knows JavaScript exists.
//!
//! The surface is small and coarse: texts, numbers and flat objects cross, in batches. JavaScript is called for two
//! things only, reports of finished calls and log records, and neither keeps its process alive.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    clippy::trivially_copy_pass_by_ref,
    reason = "napi-rs exports through macros, which write code of their own and take owned values"
)]

mod broker;
mod codec;
mod error;
mod log;
mod report;
mod results;
mod runtime;
mod worker;

/// The names of the fault points of this build. Not in the released one.
#[cfg(feature = "fault-points")]
#[napi_derive::napi]
pub fn fault_points() -> Vec<&'static str> {
    celeriac_broker::fault::NAMES.to_vec()
}
