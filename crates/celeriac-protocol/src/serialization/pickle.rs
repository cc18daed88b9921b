//! Python's pickles, protocols 0 to 5, as data.
//!
//! Nothing is ever imported or called. A pickle is a program for a small machine that makes plain objects and says
//! of others which class they are of and what they were made from. The classes in `pickle/classes.rs` become
//! [`Value`]s of their own; every other instance is an [`Opaque`](super::Opaque) value. Refused are cyclic data,
//! persistent ids, the extension registry, and buffers out of band.
//!
//! Python makes whatever a pickle names: who accepts pickles in Python trusts everyone who can send them. Reading
//! them here is safe. So that nobody's pickle gets through us to a Python that trusts us, opaque values are not
//! written unless [`encode_with`] is told to.

mod build;
mod classes;
mod machine;
mod write;

use celeriac_error::Result;

use super::limits::Budget;
use super::{Limits, Value};

/// Writes protocol 4, as kombu does. Opaque values are refused; exceptions of classes that are neither Python's nor
/// Celery's are wrapped as Celery wraps exceptions that cannot be pickled (`UnpickleableExceptionWrapper`).
pub fn encode(value: &Value) -> Result<Vec<u8>> {
    encode_with(value, OpaqueValues::Refused)
}

/// What becomes of opaque values when a pickle is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpaqueValues {
    /// They are an error.
    Refused,
    /// They are written as they were read: the reader will import what they name, and call it. Only for values that
    /// come from whom the reader trusts.
    Written,
}

/// [`encode`], with a choice.
pub fn encode_with(value: &Value, opaque_values: OpaqueValues) -> Result<Vec<u8>> {
    write::encode(value, opaque_values)
}

/// Reads any protocol. What follows the end of the pickle is not looked at, as in Python.
pub fn decode(body: &[u8], limits: &Limits) -> Result<Value> {
    let mut budget = Budget::new(body, limits)?;
    let (objects, root) = machine::run(body, limits)?;
    build::build(objects, root, &mut budget)
}
