//! YAML as `PyYAML` reads and writes it with `safe_load` and `safe_dump`: YAML 1.1, plain data only. Tags of Python's
//! (`!!python/object:…`) and all others that are not known are refused.
//!
//! A YAML 1.2 parser reads it, and what plain texts mean is told as YAML 1.1 does. What only `PyYAML` takes for YAML is
//! refused: lone surrogates written as escapes.

mod construct;
mod parse;
mod resolve;
mod write;

use std::borrow::Cow;

use celeriac_error::{Error, Result};

use super::limits::Budget;
use super::{Limits, Value};

/// Writes one document, in flow style: all texts quoted, keys in the order of the dict.
pub(super) fn encode(value: &Value) -> Result<Vec<u8>> {
    write::encode(value)
}

/// Reads one document; an empty stream is `None`.
pub(super) fn decode(body: &[u8], limits: &Limits) -> Result<Value> {
    let mut budget = Budget::new(body, limits)?;
    let text = characters(body)?;
    if let Some(character) = text.chars().find(|character| !is_printable(*character)) {
        return Err(wrong(&format!("the character U+{:04X} is not allowed", u32::from(character))));
    }
    match parse::parse(&text, limits)? {
        Some(document) => construct::construct(document, &mut budget),
        None => Ok(Value::None),
    }
}

fn wrong(why: &str) -> Error {
    Error::Decode { reason: format!("no YAML that is read: {why}") }
}

/// UTF-8, or UTF-16 when a byte order mark says so.
fn characters(body: &[u8]) -> Result<Cow<'_, str>> {
    let decode: fn([u8; 2]) -> u16 = match body {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => {
            return std::str::from_utf8(body)
                .map(Cow::Borrowed)
                .map_err(|error| wrong(&format!("the text is not UTF-8: {error}")));
        }
    };
    let (units, rest) = body.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong("the text is not UTF-16"));
    }
    char::decode_utf16(units.iter().map(|unit| decode(*unit)))
        .collect::<Result<String, _>>()
        .map(Cow::Owned)
        .map_err(|_| wrong("the text is not UTF-16"))
}

fn is_printable(character: char) -> bool {
    matches!(character,
        '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}'
        | '\u{10000}'..='\u{10ffff}')
}
