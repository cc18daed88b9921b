//! A growing buffer that ends at a bound.

use celeriac_error::{Error, Result};

/// What a decompressor writes into: room is made step by step, and never for more than the bound and one byte.
pub(super) struct Output {
    /// What was written.
    pub(super) bytes: Vec<u8>,
    limit: usize,
}

impl Output {
    /// Room for what so many compressed bytes are likely to become.
    pub(super) fn new(compressed: usize, limit: usize) -> Self {
        let likely = compressed.saturating_mul(4).clamp(256, 1 << 20);
        Self { bytes: Vec::with_capacity(likely.min(limit.saturating_add(1))), limit }
    }

    /// Makes room when there is none.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] when more than the bound has been written.
    pub(super) fn make_room(&mut self) -> Result<()> {
        self.check()?;
        let length = self.bytes.len();
        if length == self.bytes.capacity() {
            let wanted = length.saturating_mul(2).clamp(256, self.limit.saturating_add(1).max(256));
            self.bytes.reserve_exact(wanted.saturating_sub(length).max(1));
        }
        Ok(())
    }

    /// Whether all of the room has been used.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() == self.bytes.capacity()
    }

    /// # Errors
    /// [`Error::LimitExceeded`] when more than the bound has been written.
    pub(super) fn check(&self) -> Result<()> {
        if self.bytes.len() > self.limit { Err(exceeded(self.limit)) } else { Ok(()) }
    }

    /// What was written.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(super) fn finish(self) -> Result<Vec<u8>> {
        self.check()?;
        Ok(self.bytes)
    }
}

/// A decompressor of one stream.
pub(super) trait Decoder {
    /// How many bytes it has read.
    fn total_in(&self) -> u64;

    /// Reads from `unread` and appends to the room that there is in `out`; says whether the stream has ended, or what is
    /// wrong with it.
    fn advance(&mut self, unread: &[u8], out: &mut Vec<u8>) -> std::result::Result<bool, String>;
}

/// Decompresses streams that may follow one another; what follows the last one and is none is ignored, as Python's functions
/// of these methods do.
pub(super) fn streams<D: Decoder>(
    method: &str,
    body: &[u8],
    limit: usize,
    open: impl Fn() -> Result<D>,
) -> Result<Vec<u8>> {
    let mut out = Output::new(body.len(), limit);
    let mut rest = body;
    loop {
        let start = out.bytes.len();
        let mut stream = open()?;
        loop {
            out.make_room()?;
            let unread = rest.get(stream.total_in() as usize..).unwrap_or_default();
            let before = (stream.total_in(), out.bytes.len());
            match stream.advance(unread, &mut out.bytes) {
                Ok(true) => break,
                Ok(false) if !out.is_full() && before == (stream.total_in(), out.bytes.len()) => {
                    return Err(truncated(method));
                }
                Ok(false) => {}
                Err(_) if rest.len() < body.len() => {
                    out.bytes.truncate(start);
                    return out.finish();
                }
                Err(reason) => return Err(invalid(method, &reason)),
            }
        }
        rest = rest.get(stream.total_in() as usize..).unwrap_or_default();
        if rest.is_empty() {
            return out.finish();
        }
    }
}

/// The error of what would become too long.
pub(super) fn exceeded(limit: usize) -> Error {
    Error::LimitExceeded { limit: "bytes", allowed: limit, what: "what was compressed".to_owned() }
}

/// The error of bytes that are no stream of this method.
pub(super) fn invalid(method: &str, reason: &str) -> Error {
    Error::Decode { reason: format!("not what {method} compressed: {reason}") }
}

/// The error of a stream that ends too early.
pub(super) fn truncated(method: &str) -> Error {
    invalid(method, "it ends before its end marker")
}

/// The error of a compressor that gave up, which none of them does for want of anything but memory.
pub(super) fn failed(method: &str, reason: &str) -> Error {
    Error::Encode { reason: format!("{method} cannot compress this: {reason}") }
}
