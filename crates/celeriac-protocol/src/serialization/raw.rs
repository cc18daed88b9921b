//! Bytes and text as they are: `application/data` and `text/plain`.

use celeriac_error::{Error, Result};

use super::limits::Budget;
use super::{Limits, Value};

/// Bytes, or text as UTF-8.
pub(super) fn encode(value: &Value) -> Result<Vec<u8>> {
    match value {
        Value::Bytes(bytes) => Ok(bytes.clone()),
        _ => encode_text(value),
    }
}

pub(super) fn encode_text(value: &Value) -> Result<Vec<u8>> {
    match value {
        Value::Text(text) => Ok(text.clone().into_bytes()),
        Value::Utf16(_) => Err(Error::Encode { reason: "lone surrogates have no form in UTF-8".to_owned() }),
        other => Err(Error::Encode {
            reason: format!("raw content is bytes or text, and no {}", other.type_name()),
        }),
    }
}

pub(super) fn decode_bytes(body: &[u8], limits: &Limits) -> Result<Value> {
    Budget::new(body, limits)?;
    Ok(Value::Bytes(body.to_vec()))
}

pub(super) fn decode_text(body: &[u8], limits: &Limits) -> Result<Value> {
    decode(body, "utf-8", limits)
}

/// What a content encoding makes of the bytes; an empty one is UTF-8, as in kombu.
pub(super) fn decode(body: &[u8], content_encoding: &str, limits: &Limits) -> Result<Value> {
    Budget::new(body, limits)?;
    let encoding = content_encoding.to_ascii_lowercase().replace('_', "-");
    match encoding.as_str() {
        "binary" | "ascii-8bit" => Ok(Value::Bytes(body.to_vec())),
        "" | "utf-8" | "utf8" => std::str::from_utf8(body).map(Value::from).map_err(|error| Error::Decode {
            reason: format!("the content is not UTF-8, though it says so: {error}"),
        }),
        "us-ascii" | "ascii" if body.is_ascii() => {
            Ok(Value::Text(body.iter().copied().map(char::from).collect()))
        }
        "latin-1" | "latin1" | "iso-8859-1" => {
            // A character of these takes up to two bytes.
            Budget::new(body, limits)?.bytes(body.len().saturating_mul(2))?;
            Ok(Value::Text(body.iter().copied().map(char::from).collect()))
        }
        _ => {
            Err(Error::Decode { reason: format!("content in the encoding `{content_encoding}` is not read") })
        }
    }
}
