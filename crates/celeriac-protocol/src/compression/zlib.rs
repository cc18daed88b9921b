//! `gzip` and `zlib`: a zlib stream in both cases, which is not what the program gzip writes (`zlib.compress`).

use std::cell::RefCell;

use celeriac_error::Result;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::output::{Output, failed, invalid, truncated};

const NAME: &str = "gzip";

/// zlib's default, and Python's.
const LEVEL: u32 = 6;

/// Up to so many bytes there is next to nothing to be found, and to look for it takes twice as long as the rest.
const SHORT: usize = 128;

thread_local! {
    // Their tables are some 300 KB: to lay them out anew takes longer than to compress a short message.
    static COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(LEVEL), true));
    static SHORT_COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), true));
    static DECOMPRESSOR: RefCell<Decompress> = RefCell::new(Decompress::new(true));
}

pub(super) fn compress(body: &[u8]) -> Result<Vec<u8>> {
    let compressor = if body.len() <= SHORT { &SHORT_COMPRESSOR } else { &COMPRESSOR };
    compressor.with_borrow_mut(|stream| {
        stream.reset();
        // More than zlib ever needs for what cannot be compressed.
        let mut out = Vec::with_capacity(body.len() + body.len() / 1000 + 64);
        loop {
            let rest = body.get(stream.total_in() as usize..).unwrap_or_default();
            match stream.compress_vec(rest, &mut out, FlushCompress::Finish) {
                Ok(Status::StreamEnd) => return Ok(out),
                Ok(Status::Ok | Status::BufError) => out.reserve(out.len().max(64)),
                Err(error) => return Err(failed(NAME, &error.to_string())),
            }
        }
    })
}

/// What follows the stream is ignored, as by `zlib.decompress`.
pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|stream| {
        stream.reset(true);
        let mut out = Output::new(body.len(), limit);
        loop {
            out.make_room()?;
            let rest = body.get(stream.total_in() as usize..).unwrap_or_default();
            match stream.decompress_vec(rest, &mut out.bytes, FlushDecompress::Finish) {
                Ok(Status::StreamEnd) => return out.finish(),
                // Room is left, so it is the input that has ended.
                Ok(Status::Ok | Status::BufError) if !out.is_full() => {
                    return Err(truncated(NAME));
                }
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) => return Err(invalid(NAME, &error.to_string())),
            }
        }
    })
}
