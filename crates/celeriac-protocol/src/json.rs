//! Python's JSON, and its crossing into JavaScript.
//!
//! Python writes `NaN`, `Infinity`, `-Infinity` and integers of any size; kombu adds tagged objects
//! (`{"__type__": …, "__value__": …}`) for dates, decimals, UUIDs and bytes. V8's `JSON.parse` refuses the first
//! and rounds the second, so text that has any of these is rewritten with tags and marked.

use std::borrow::Cow;

use celeriac_error::Result;

/// The most levels of nesting that are read.
pub const MAX_DEPTH: u16 = 200;

/// JSON text that `JSON.parse` reads without loss.
#[derive(Clone, Debug, PartialEq)]
pub struct JavaScriptText<'a> {
    /// The text itself.
    pub text: Cow<'a, str>,
    /// Whether it holds tags that JavaScript must revive.
    pub tagged: bool,
}

/// Turns Python's JSON into text for `JSON.parse`: unchanged when nothing in it needs a tag.
///
/// Not-a-number and the infinities become `{"__type__": "float", "__value__": "nan" | "inf" | "-inf"}`, integers
/// beyond 2^53 − 1 in size `{"__type__": "int", "__value__": "digits"}`; kombu's own tags stay as they are.
///
/// # Errors
/// [`Error::Decode`](celeriac_error::Error::Decode) when `text` is not JSON in Python's sense, holds a tag of a
/// type that kombu does not know, or nests deeper than [`MAX_DEPTH`].
pub fn to_javascript(text: &[u8]) -> Result<JavaScriptText<'_>> {
    let _ = text;
    unimplemented!("protocol")
}

/// The elements of a JSON array, or of an object's values by key, as slices of the text; everything is validated.
///
/// # Errors
/// [`Error::Decode`](celeriac_error::Error::Decode) when `text` is not one JSON array.
pub fn array_items(text: &[u8]) -> Result<Vec<&str>> {
    let _ = text;
    unimplemented!("protocol")
}

/// The members of a JSON object in order: decoded key, and the value as a slice of the text.
///
/// # Errors
/// [`Error::Decode`](celeriac_error::Error::Decode) when `text` is not one JSON object.
pub fn object_members(text: &[u8]) -> Result<Vec<(Cow<'_, str>, &str)>> {
    let _ = text;
    unimplemented!("protocol")
}

/// Appends `value` to `out` as a JSON string with Python's escapes (ASCII only).
pub fn push_string(out: &mut String, value: &str) {
    let _ = (out, value);
    unimplemented!("protocol")
}
