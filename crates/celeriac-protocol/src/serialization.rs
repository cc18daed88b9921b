//! The serializers of kombu: bytes of a content type to a [`Value`], and back.
//!
//! ```text
//! body ── decode ──▶ Value ── to_tagged_json ──▶ text for JavaScript
//! body ◀── encode ── Value ◀── from_tagged_json ── text of JavaScript
//! ```
//!
//! One table, [`SERIALIZERS`], has all of them. To add one, write a file with its two functions and add its line.
//! `auth` (signed messages) wraps another serializer and is not in the table, as it needs keys.
//!
//! Where Python refuses to encode a value, so do we; what Python would read as another value than was meant is
//! refused too. What is read is bounded by [`Limits`].
//!
//! Source of the rules: `kombu.serialization`.

mod containers;
mod json;
mod limits;
mod msgpack;
pub mod pickle;
mod raw;
mod tagged;
mod text;
mod value;
mod yaml;

use celeriac_error::{Error, Result};

pub use limits::{Limits, MAX_INTEGER_DIGITS};
pub use text::from_utf16;
pub use value::{Exception, Opaque, OpaqueKind, Value};

/// A serializer: one way to write values as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Serializer {
    /// What settings call it: `json`, `pickle`, `yaml`, `msgpack`, `raw`.
    pub name: &'static str,
    /// The content type of what it writes, by which a reader finds it.
    pub content_type: &'static str,
    /// The content encoding of what it writes; `binary` for what is no text.
    pub content_encoding: &'static str,
    /// Writes a value. Fails with [`Error::Encode`] where Python does.
    pub encode: fn(&Value) -> Result<Vec<u8>>,
    /// Reads a value. Fails with [`Error::Decode`] for what Python would not read, and with
    /// [`Error::LimitExceeded`] for what is too large.
    pub decode: fn(&[u8], &Limits) -> Result<Value>,
}

/// Every serializer. Only `json` is safe to accept from anybody: see each one's module.
pub static SERIALIZERS: &[Serializer] = &[
    Serializer {
        name: "json",
        content_type: "application/json",
        content_encoding: "utf-8",
        encode: json::encode,
        decode: json::decode,
    },
    Serializer {
        name: "pickle",
        content_type: "application/x-python-serialize",
        content_encoding: "binary",
        encode: pickle::encode,
        decode: pickle::decode,
    },
    Serializer {
        name: "yaml",
        content_type: "application/x-yaml",
        content_encoding: "utf-8",
        encode: yaml::encode,
        decode: yaml::decode,
    },
    Serializer {
        name: "msgpack",
        content_type: "application/x-msgpack",
        content_encoding: "binary",
        encode: msgpack::encode,
        decode: msgpack::decode,
    },
    Serializer {
        name: "raw",
        content_type: "application/data",
        content_encoding: "binary",
        encode: raw::encode,
        decode: raw::decode_bytes,
    },
    Serializer {
        name: "text",
        content_type: "text/plain",
        content_encoding: "utf-8",
        encode: raw::encode_text,
        decode: raw::decode_text,
    },
];

/// The serializer of that name.
pub fn by_name(name: &str) -> Option<&'static Serializer> {
    SERIALIZERS.iter().find(|serializer| serializer.name == name)
}

/// The serializer that reads that content type.
pub fn by_content_type(content_type: &str) -> Option<&'static Serializer> {
    SERIALIZERS.iter().find(|serializer| serializer.content_type == content_type)
}

/// The content type that a name or a content type in `accept_content` stands for: whatever has a slash in it is
/// one already, as in kombu.
///
/// # Errors
/// [`Error::InvalidArgument`] when no serializer has that name.
pub fn content_type_of(name_or_type: &str) -> Result<&str> {
    if name_or_type.contains('/') {
        return Ok(name_or_type);
    }
    by_name(name_or_type).map(|serializer| serializer.content_type).ok_or_else(|| unknown(name_or_type))
}

/// What was written, and what the message has to say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The content type.
    pub content_type: &'static str,
    /// The content encoding.
    pub content_encoding: &'static str,
    /// The bytes.
    pub body: Vec<u8>,
}

/// Writes a value with the serializer of that name (`kombu.serialization.dumps`).
///
/// # Errors
/// [`Error::InvalidArgument`] when there is no such serializer, and what its `encode` fails with.
pub fn encode(name: &str, value: &Value) -> Result<Encoded> {
    let serializer = by_name(name).ok_or_else(|| unknown(name))?;
    let is_raw_text = serializer.name == "raw" && !matches!(value, Value::Bytes(_));
    Ok(Encoded {
        content_type: serializer.content_type,
        // Text that is sent raw says that it is text.
        content_encoding: if is_raw_text { "utf-8" } else { serializer.content_encoding },
        body: (serializer.encode)(value)?,
    })
}

/// Reads a body (`kombu.serialization.loads`, after it looked whether the content type is accepted).
///
/// An empty body is not parsed: it is empty bytes, as in kombu. `application/data` is text when its encoding says
/// so, and bytes otherwise.
///
/// # Errors
/// [`Error::Decode`] when no serializer reads the content type, and what its `decode` fails with.
pub fn decode(body: &[u8], content_type: &str, content_encoding: &str, limits: &Limits) -> Result<Value> {
    let Some(serializer) = by_content_type(content_type) else {
        return Err(Error::Decode {
            reason: format!("no serializer reads the content type `{content_type}`"),
        });
    };
    if body.is_empty() {
        return Ok(Value::Bytes(Vec::new()));
    }
    if matches!(serializer.name, "raw" | "text") {
        return raw::decode(body, content_encoding, limits);
    }
    (serializer.decode)(body, limits)
}

fn unknown(name: &str) -> Error {
    let known: Vec<_> = SERIALIZERS.iter().map(|serializer| serializer.name).collect();
    Error::InvalidArgument {
        what: "serializer".to_owned(),
        reason: format!("there is none named `{name}`; there are {}", known.join(", ")),
    }
}
