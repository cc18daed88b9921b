//! `bzip2` and `bzip` (`bz2.compress`).

use bzip2::{Action, Compress, Compression, Decompress, Status};
use celeriac_error::Result;

use super::output::{Output, failed, invalid, truncated};

const NAME: &str = "bzip2";

pub(super) fn compress(body: &[u8]) -> Result<Vec<u8>> {
    // Blocks of 900 KB, as Python takes them; the memory of those that are not needed is never touched.
    let mut stream = Compress::new(Compression::best(), 0);
    let mut out = Vec::with_capacity(body.len() / 2 + 600);
    loop {
        let rest = body.get(stream.total_in() as usize..).unwrap_or_default();
        match stream.compress_vec(rest, &mut out, Action::Finish) {
            Ok(Status::StreamEnd) => return Ok(out),
            Ok(_) => out.reserve(out.len().max(600)),
            Err(error) => return Err(failed(NAME, &error.to_string())),
        }
    }
}

/// Streams may follow one another; what follows the last one and is none is ignored, as by `bz2.decompress`. Nothing at
/// all becomes nothing.
pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut out = Output::new(body.len(), limit);
    let mut rest = body;
    while !rest.is_empty() {
        let start = out.bytes.len();
        let mut stream = Decompress::new(false);
        loop {
            out.make_room()?;
            let unread = rest.get(stream.total_in() as usize..).unwrap_or_default();
            let before = (stream.total_in(), out.bytes.len());
            match stream.decompress_vec(unread, &mut out.bytes) {
                Ok(Status::StreamEnd) => break,
                Ok(_) if !out.is_full() && before == (stream.total_in(), out.bytes.len()) => {
                    return Err(truncated(NAME));
                }
                Ok(_) => {}
                Err(_) if rest.len() < body.len() => {
                    out.bytes.truncate(start);
                    return out.finish();
                }
                Err(error) => return Err(invalid(NAME, &error.to_string())),
            }
        }
        rest = rest.get(stream.total_in() as usize..).unwrap_or_default();
    }
    out.finish()
}
