//! Python's JSON, and its crossing into JavaScript.
//!
//! Python writes `NaN`, `Infinity`, `-Infinity` and integers of any size; kombu adds tagged objects
//! (`{"__type__": …, "__value__": …}`) for dates, decimals, UUIDs and bytes. V8's `JSON.parse` refuses the first
//! and rounds the second, so text that has any of these is rewritten with tags and marked.

mod rewrite;
pub(crate) mod source;
pub(crate) mod tag;

use std::borrow::Cow;

use celeriac_error::{Error, Result};

use jiter::Peek;
use source::{Source, decode_error};

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
/// beyond 2^53 − 1 in size `{"__type__": "int", "__value__": "digits"}`; kombu's own tags stay as they are, only
/// that the numeric forms of `decimal` and `uuid` (which kombu reads but does not write) become the textual ones.
///
/// # Errors
/// [`Error::Decode`] when `text` is not JSON in Python's sense, holds a tag of a
/// type that kombu does not know (or whose value has the wrong shape), or nests deeper than [`MAX_DEPTH`].
pub fn to_javascript(text: &[u8]) -> Result<JavaScriptText<'_>> {
    let source = Source::new(text)?;
    if rewrite::may_need_tags(text) {
        return rewrite::rewrite(&source);
    }
    source.validate()?;
    Ok(JavaScriptText { text: Cow::Borrowed(source.text), tagged: false })
}

/// The elements of a JSON array, or of an object's values by key, as slices of the text; everything is validated.
///
/// # Errors
/// [`Error::Decode`] when `text` is not one JSON array.
pub fn array_items(text: &[u8]) -> Result<Vec<&str>> {
    let source = Source::new(text)?;
    let mut reader = source.reader();
    let mut items = Vec::new();
    let mut next = reader.next_array().map_err(decode_error)?;
    while let Some(peek) = next {
        let start = reader.current_index();
        reader.known_skip(peek).map_err(decode_error)?;
        items.push(&source.text[start..reader.current_index()]);
        next = reader.array_step().map_err(decode_error)?;
    }
    reader.finish().map_err(decode_error)?;
    Ok(items)
}

/// The members of a JSON object in order: decoded key, and the value as a slice of the text.
///
/// A key that occurs twice is there twice; Python and JavaScript take the last.
///
/// # Errors
/// [`Error::Decode`] when `text` is not one JSON object.
pub fn object_members(text: &[u8]) -> Result<Vec<(Cow<'_, str>, &str)>> {
    let source = Source::new(text)?;
    let mut reader = source.reader();
    let mut members = Vec::new();
    let mut key = source.first_key(&mut reader)?;
    while let Some(name) = key {
        let peek = reader.peek().map_err(decode_error)?;
        let start = reader.current_index();
        reader.known_skip(peek).map_err(decode_error)?;
        members.push((name, &source.text[start..reader.current_index()]));
        key = source.next_key(&mut reader)?;
    }
    reader.finish().map_err(decode_error)?;
    Ok(members)
}

/// The value of a JSON text that is one string. A lone surrogate becomes U+FFFD.
///
/// # Errors
/// [`Error::Decode`] when `text` is not one JSON string.
pub fn string_value(text: &str) -> Result<Cow<'_, str>> {
    let source = Source::of(text);
    let mut reader = source.reader();
    let peek = reader.peek().map_err(decode_error)?;
    let start = reader.current_index();
    if peek == Peek::String && memchr::memchr(b'\\', text.as_bytes()).is_none() {
        reader.known_skip(peek).map_err(decode_error)?;
        let end = reader.current_index();
        reader.finish().map_err(decode_error)?;
        return Ok(Cow::Borrowed(&text[start + 1..end - 1]));
    }
    let value = reader.next_str().map_err(decode_error)?.to_owned();
    reader.finish().map_err(decode_error)?;
    Ok(Cow::Owned(value))
}

/// Checks that `text` is one JSON value in Python's sense, of the kind that `first` begins: `[`, `{` or `"`.
///
/// # Errors
/// [`Error::Decode`] when it is not.
pub(crate) fn expect_kind(text: &str, first: u8) -> Result<()> {
    if first_byte(text) != Some(first) {
        let kind = match first {
            b'[' => "array",
            b'{' => "object",
            _ => "string",
        };
        return Err(Error::Decode { reason: format!("expected a JSON {kind} but found {}", excerpt(text)) });
    }
    Source::of(text).validate()
}

/// Fails for a container that lies in more others than [`MAX_DEPTH`]. The parser allows that many to one that is
/// empty, and none to others; where it is not asked, the difference does not matter.
pub(crate) fn check_depth(depth: usize) -> Result<()> {
    if depth <= usize::from(MAX_DEPTH) {
        return Ok(());
    }
    Err(Error::Decode { reason: format!("the JSON nests deeper than {MAX_DEPTH} levels") })
}

/// The first byte that is not white space: it tells what kind of value a JSON text is.
pub(crate) fn first_byte(text: &str) -> Option<u8> {
    text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// The beginning of a text, for error messages.
pub(crate) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 60;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if text.is_empty() => "nothing".to_owned(),
        None => text.to_owned(),
    }
}

/// Appends `value` to `out` as a JSON string with Python's escapes (ASCII only).
pub fn push_string(out: &mut String, value: &str) {
    out.push('"');
    // Without an early end the compiler looks at many bytes at once.
    if value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        out.push_str(value);
    } else {
        for character in value.chars() {
            push_escaped(out, character);
        }
    }
    out.push('"');
}

/// [`push_string`] for UTF-16 code units, lone surrogates included.
pub fn push_utf16(out: &mut String, units: &[u16]) {
    out.push('"');
    for character in char::decode_utf16(units.iter().copied()) {
        match character {
            Ok(character) => push_escaped(out, character),
            Err(error) => push_unit(out, error.unpaired_surrogate()),
        }
    }
    out.push('"');
}

/// Whether Python writes this byte of a string as it is.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn push_escaped(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        ' '..='~' => out.push(character),
        _ => {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                push_unit(out, *unit);
            }
        }
    }
}

fn push_unit(out: &mut String, unit: u16) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        out.push(char::from(DIGITS[usize::from(unit >> shift) & 15]));
    }
}

/// Appends `value` as a JSON string, or `null`.
pub(crate) fn push_optional_string(out: &mut String, value: Option<&str>) {
    match value {
        Some(value) => push_string(out, value),
        None => out.push_str("null"),
    }
}
