//! `bzip2` and `bzip` (`bz2.compress`).

use bzip2::{Action, Compress, Compression, Decompress, Status};
use celeriac_error::Result;

use super::output::{Decoder, failed, streams};

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

/// Nothing at all becomes nothing, as with `bz2.decompress`.
pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    streams(NAME, body, limit, || Ok(Decompress::new(false)))
}

impl Decoder for Decompress {
    fn total_in(&self) -> u64 {
        Decompress::total_in(self)
    }

    fn advance(&mut self, unread: &[u8], out: &mut Vec<u8>) -> std::result::Result<bool, String> {
        let status = self.decompress_vec(unread, out).map_err(|error| error.to_string())?;
        Ok(matches!(status, Status::StreamEnd))
    }
}
