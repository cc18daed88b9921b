//! `zstd` and `zstandard` (`zstd.compress`).

use std::cell::RefCell;

use celeriac_error::Result;
use zstd::zstd_safe::{CCtx, DCtx, compress_bound, get_error_name, get_frame_content_size};

use super::output::{exceeded, failed, invalid};

const NAME: &str = "zstd";

/// zstd's default, and Python's.
const LEVEL: i32 = 3;

/// Input up to here is worked on with tables that stay with the thread: the few hundred KB that it takes are kept.
const SHORT: usize = 64 << 10;

/// `ZSTD_error_dstSize_tooSmall`, as functions of zstd return it: a number of the library's stable interface.
const NO_ROOM: usize = 0_usize.wrapping_sub(70);

thread_local! {
    static COMPRESSOR: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

pub(super) fn compress(body: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(compress_bound(body.len()));
    let result = if body.len() <= SHORT {
        COMPRESSOR.with_borrow_mut(|context| context.compress(&mut out, body, LEVEL))
    } else {
        CCtx::create().compress(&mut out, body, LEVEL)
    };
    result.map_err(|code| failed(NAME, get_error_name(code)))?;
    Ok(out)
}

/// Frames may follow one another, skippable ones among them; anything else that follows is an error, as in
/// `zstd.decompress`. At least one frame is needed.
pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>> {
    if body.is_empty() {
        return Err(invalid(NAME, "it is empty"));
    }
    let mut room = match get_frame_content_size(body) {
        Ok(Some(size)) if size > limit as u64 => return Err(exceeded(limit)),
        Ok(Some(size)) => size as usize,
        Ok(None) | Err(_) => body.len().saturating_mul(4).clamp(256, 1 << 20),
    };
    // In one go: what has been written is the window, so that none has to be laid out that a header merely claims.
    // When the room was too little it is begun again with twice as much, which at most doubles the time.
    loop {
        room = room.min(limit);
        let mut out = Vec::with_capacity(room);
        let result = DECOMPRESSOR.with_borrow_mut(|context| context.decompress(&mut out, body));
        match result {
            Ok(_) if out.len() > limit => return Err(exceeded(limit)),
            Ok(_) => return Ok(out),
            Err(NO_ROOM) if room < limit => room = room.saturating_mul(2).max(256),
            Err(NO_ROOM) => return Err(exceeded(limit)),
            Err(code) => return Err(invalid(NAME, get_error_name(code))),
        }
    }
}
