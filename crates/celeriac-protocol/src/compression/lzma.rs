//! `lzma` and `xz`: the container .xz (`lzma.compress`); the older .lzma is read as well.

use celeriac_error::Result;
use liblzma::stream::{Action, Check, Error, Filters, LzmaOptions, PRESET_DEFAULT, Status, Stream};

use super::output::{Decoder, failed, invalid, streams};

const NAME: &str = "lzma";

/// What a stream may ask for to be read, in bytes. The highest preset, 9, takes 65 MiB.
const MEMORY: u64 = 128 << 20;

/// The sizes of a dictionary in bytes: the least that the format allows, and what the default preset takes.
const DICTIONARY: (usize, usize) = (4 << 10, 8 << 20);

pub(super) fn compress(body: &[u8]) -> Result<Vec<u8>> {
    encode(body).map_err(|error| failed(NAME, &error.to_string()))
}

fn encode(body: &[u8]) -> Result<Vec<u8>, Error> {
    let mut options = LzmaOptions::new_preset(PRESET_DEFAULT)?;
    // A dictionary longer than the data finds nothing more, and its tables take longer than a short message.
    options.dict_size(body.len().next_power_of_two().clamp(DICTIONARY.0, DICTIONARY.1) as u32);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let mut stream = Stream::new_stream_encoder(&filters, Check::Crc64)?;
    let mut out = Vec::with_capacity(body.len() / 2 + 128);
    loop {
        let rest = body.get(stream.total_in() as usize..).unwrap_or_default();
        if let Status::StreamEnd = stream.process_vec(rest, &mut out, Action::Finish)? {
            return Ok(out);
        }
        out.reserve(out.len().max(128));
    }
}

/// Streams of both kinds may follow one another.
pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>> {
    streams(NAME, body, limit, || {
        Stream::new_auto_decoder(MEMORY, 0).map_err(|error| invalid(NAME, &error.to_string()))
    })
}

impl Decoder for Stream {
    fn total_in(&self) -> u64 {
        Stream::total_in(self)
    }

    fn advance(&mut self, unread: &[u8], out: &mut Vec<u8>) -> std::result::Result<bool, String> {
        let status = self.process_vec(unread, out, Action::Run).map_err(|error| error.to_string())?;
        Ok(matches!(status, Status::StreamEnd))
    }
}
