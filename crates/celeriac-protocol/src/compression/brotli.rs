//! `brotli` (`brotli.compress`).

use brotli::enc::{BrotliEncoderParams, StandardAlloc};
use brotli::{BrotliCompress, BrotliDecompressStream, BrotliResult, BrotliState};
use celeriac_error::Result;

use super::output::{Output, failed, invalid, truncated};

const NAME: &str = "brotli";

/// From 0 to 11. Python takes 11, which is fifty times slower for a sixth less.
const QUALITY: i32 = 5;

/// Two to the power of this is the window, in bytes: Python's.
const WINDOW: i32 = 22;

pub(super) fn compress(body: &[u8]) -> Result<Vec<u8>> {
    let parameters =
        BrotliEncoderParams { quality: QUALITY, lgwin: WINDOW, size_hint: body.len(), ..Default::default() };
    let mut out = Vec::with_capacity(body.len() / 2 + 64);
    let mut input = body;
    BrotliCompress(&mut input, &mut out, &parameters).map_err(|error| failed(NAME, &error.to_string()))?;
    Ok(out)
}

/// Anything that follows the stream is an error, as in `brotli.decompress`.
pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>> {
    let memory = StandardAlloc::default;
    // Strict: without windows of up to 1 GB, which Python does not read either.
    let mut state = BrotliState::new_strict(memory(), memory(), memory());
    let mut out = Output::new(body.len(), limit);
    let (mut unread, mut read, mut total) = (body.len(), 0, 0);
    loop {
        out.make_room()?;
        let mut written = out.bytes.len();
        out.bytes.resize(out.bytes.capacity(), 0);
        let mut room = out.bytes.len() - written;
        let result = BrotliDecompressStream(
            &mut unread,
            &mut read,
            body,
            &mut room,
            &mut written,
            &mut out.bytes,
            &mut total,
            &mut state,
        );
        out.bytes.truncate(written);
        match result {
            BrotliResult::ResultSuccess if unread == 0 => return out.finish(),
            BrotliResult::ResultSuccess => return Err(invalid(NAME, "bytes follow its end")),
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput => return Err(truncated(NAME)),
            BrotliResult::ResultFailure => return Err(invalid(NAME, "it is damaged")),
        }
    }
}
