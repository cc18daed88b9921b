//! kombu's JSON (`kombu.utils.json`). Safe to accept: it makes plain data and nothing else.

use celeriac_error::Result;

use super::limits::Budget;
use super::tagged::{self, Dialect};
use super::{Limits, Value};

/// Python's text: `, ` and `: `, ASCII only, `NaN`, `Infinity`, keys as text, tuples as lists.
///
/// Unlike Python we refuse a dict that a reader would take for a tag.
pub(super) fn encode(value: &Value) -> Result<Vec<u8>> {
    let mut out = String::new();
    tagged::encode_kombu(value, &mut out, 0)?;
    Ok(out.into_bytes())
}

pub(super) fn decode(body: &[u8], limits: &Limits) -> Result<Value> {
    tagged::decode(body, Dialect::Kombu, &mut Budget::new(body, limits)?)
}
