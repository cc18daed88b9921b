//! A compressed result as it is stored: the method in front of it, because there are no headers.
//!
//! `\0celery-compressed\0` CONTENT-TYPE `\0` BODY. No serializer begins with a NUL, so that results which were stored
//! before the setting was changed are told apart. Source: `compress_payload` and `decompress_payload` of
//! `celery.backends.base`.

use std::borrow::Cow;

use celeriac_error::{Error, Result};

use super::Method;

/// What a compressed result begins with.
pub const MARKER: &[u8] = b"\0celery-compressed\0";

/// Compresses a serialized result and puts the method in front.
///
/// # Errors
/// Those of [`Method::compress`].
pub fn encode(payload: &[u8], method: &Method) -> Result<Vec<u8>> {
    let body = (method.compress)(payload)?;
    Ok([MARKER, method.content_type.as_bytes(), b"\0", &body].concat())
}

/// Whether a stored result is a compressed one.
#[must_use]
pub fn is_compressed(payload: &[u8]) -> bool {
    payload.starts_with(MARKER)
}

/// A stored result as the serializer wrote it: decompressed to at most `limit` bytes when it is compressed, whatever the
/// own setting is, and otherwise as it is.
///
/// # Errors
/// [`Error::Decode`] when the method is unknown or the bytes are not what it says; [`Error::LimitExceeded`].
pub fn decode(payload: &[u8], limit: usize) -> Result<Cow<'_, [u8]>> {
    let Some(rest) = payload.strip_prefix(MARKER) else { return Ok(Cow::Borrowed(payload)) };
    let end = memchr::memchr(0, rest).unwrap_or(rest.len());
    let (name, body) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let name = std::str::from_utf8(name)
        .map_err(|_| Error::Decode { reason: "the method of a compressed result is no text".to_owned() })?;
    super::decompress(body, name, limit).map(Cow::Owned)
}
