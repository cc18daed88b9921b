//! A JSON text prepared for the parser, which is stricter than Python in one point: lone surrogates.

use std::borrow::Cow;

use celeriac_error::{Error, Result};
use jiter::{Jiter, JiterError, JiterErrorType};
use memchr::memchr_iter;

/// A text and what the parser is given instead of it.
///
/// Python's JSON may hold `"\ud800"` without its other half, and V8 reads that. The parser does not, so it sees
/// `\ufffd` there: as long as the original, so that positions in one are positions in the other.
pub(crate) struct Source<'a> {
    pub(crate) text: &'a str,
    parsed: Cow<'a, [u8]>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(text)
            .map_err(|error| Error::Decode { reason: format!("the text is not UTF-8: {error}") })?;
        Ok(Self::of(text))
    }

    pub(crate) fn of(text: &'a str) -> Self {
        Self { text, parsed: without_lone_surrogates(text.as_bytes()) }
    }

    pub(crate) fn reader(&self) -> Jiter<'_> {
        Jiter::new(&self.parsed).with_allow_inf_nan()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let mut reader = self.reader();
        reader.next_skip().map_err(decode_error)?;
        reader.finish().map_err(decode_error)
    }

    /// Enters an object; its first key.
    pub(crate) fn first_key(&self, reader: &mut Jiter<'_>) -> Result<Option<Cow<'a, str>>> {
        let key = reader.next_object_bytes().map_err(decode_error)?;
        key.map(|bytes| self.key(bytes)).transpose()
    }

    /// The next key of the object that the reader is in.
    pub(crate) fn next_key(&self, reader: &mut Jiter<'_>) -> Result<Option<Cow<'a, str>>> {
        let key = reader.next_key_bytes().map_err(decode_error)?;
        key.map(|bytes| self.key(bytes)).transpose()
    }

    /// The inside of a string as it stands in the text: with its escapes, also those of lone surrogates. `bytes` is
    /// what the reader gave, which must not have been unescaped.
    pub(crate) fn original(&self, bytes: &[u8]) -> &'a str {
        let start = bytes.as_ptr().addr() - self.parsed.as_ptr().addr();
        &self.text[start..start + bytes.len()]
    }

    /// Borrows from the text, not from the reader, so that the reader can go on.
    fn key(&self, bytes: &[u8]) -> Result<Cow<'a, str>> {
        let start = bytes.as_ptr().addr() - self.parsed.as_ptr().addr();
        let end = start + bytes.len();
        if memchr::memchr(b'\\', bytes).is_none() {
            return Ok(Cow::Borrowed(&self.text[start..end]));
        }
        // With the quotes around it.
        let mut reader = Jiter::new(&self.parsed[start - 1..=end]);
        Ok(Cow::Owned(reader.next_str().map_err(decode_error)?.to_owned()))
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(crate) fn decode_error(error: JiterError) -> Error {
    let reason = match error.error_type {
        JiterErrorType::WrongType { .. } => format!("JSON of another kind: {error}"),
        JiterErrorType::JsonError(_) => format!("no valid JSON: {error}"),
    };
    Error::Decode { reason }
}

fn without_lone_surrogates(text: &[u8]) -> Cow<'_, [u8]> {
    let mut result = Cow::Borrowed(text);
    let mut next = 0;
    for at in memchr_iter(b'\\', text) {
        if at < next {
            continue;
        }
        next = at + 2;
        if !is_surrogate(text, at) {
            continue;
        }
        if is_high(text, at) && is_surrogate(text, at + 6) && !is_high(text, at + 6) {
            next = at + 12;
        } else {
            next = at + 6;
            result.to_mut()[at..next].copy_from_slice(b"\\ufffd");
        }
    }
    result
}

/// Whether `\ud800` to `\udfff` stands at this position.
fn is_surrogate(text: &[u8], at: usize) -> bool {
    text.get(at..at + 6).is_some_and(|escape| {
        escape.starts_with(b"\\u")
            && matches!(escape[2], b'd' | b'D')
            && matches!(escape[3], b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F')
            && escape[4..].iter().all(u8::is_ascii_hexdigit)
    })
}

fn is_high(text: &[u8], at: usize) -> bool {
    matches!(text[at + 3], b'8' | b'9' | b'a' | b'b' | b'A' | b'B')
}
