//! What bounds decoding: of whatever arrives, no more is built than this.

use celeriac_error::{Error, Result};
use num_bigint::BigInt;

/// The most digits of an integer. Python's own `int(text)` has the same limit; converting to and from text takes
/// time that grows with the square of the length.
pub const MAX_INTEGER_DIGITS: usize = 4300;

/// How much a decoder may build.
///
/// An alias (YAML) and a reference (pickle) count each time that they are expanded, so that a small body cannot
/// become a huge value. Exceeding one is [`Error::LimitExceeded`], which names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a body, and of the texts and bytes in what it becomes. 64 MiB by default.
    pub bytes: usize,
    /// In how many others a container may lie. 200 by default, and at most: as deep as JSON is read.
    pub depth: usize,
    /// How many values a body may become; containers, their members and keys count one each. 4 194 304 by default,
    /// which is some 200 MiB at the worst.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 20, depth: usize::from(crate::json::MAX_DEPTH), values: 4 << 20 }
    }
}

/// What is left of the limits while something is decoded.
pub(super) struct Budget {
    limits: Limits,
    depth: usize,
    values: usize,
    bytes: usize,
}

impl Budget {
    /// Fails at once when the body is too long.
    pub(super) fn new(body: &[u8], limits: &Limits) -> Result<Self> {
        if body.len() > limits.bytes {
            return Err(exceeded("bytes", limits.bytes, format!("a body of {} bytes", body.len())));
        }
        let depth = limits.depth.min(MAX_DEPTH);
        Ok(Self { limits: *limits, depth, values: limits.values, bytes: limits.bytes })
    }

    /// For text of our own.
    pub(super) fn unlimited() -> Self {
        let limits = Limits { bytes: usize::MAX, depth: TAGGED_DEPTH, values: usize::MAX };
        Self { limits, depth: TAGGED_DEPTH, values: usize::MAX, bytes: usize::MAX }
    }

    /// Counts one value.
    pub(super) fn value(&mut self) -> Result<()> {
        self.values(1)
    }

    pub(super) fn values(&mut self, count: usize) -> Result<()> {
        let Some(left) = self.values.checked_sub(count) else {
            return Err(exceeded("values", self.limits.values, "the number of values".to_owned()));
        };
        self.values = left;
        Ok(())
    }

    /// Counts the bytes of a text.
    pub(super) fn bytes(&mut self, count: usize) -> Result<()> {
        let Some(left) = self.bytes.checked_sub(count) else {
            return Err(exceeded("bytes", self.limits.bytes, "the size of all texts".to_owned()));
        };
        self.bytes = left;
        Ok(())
    }

    /// Checks a container that lies in `depth` others.
    pub(super) fn depth(&self, depth: usize) -> Result<()> {
        if depth <= self.depth {
            return Ok(());
        }
        Err(exceeded("depth", self.depth, "the nesting".to_owned()))
    }
}

/// As deep as anything nests. What recurses over values relies on it.
pub(super) const MAX_DEPTH: usize = crate::json::MAX_DEPTH as usize;

/// Tags need up to three more levels for one of the value: object, list of pairs, pair.
const TAGGED_DEPTH: usize = MAX_DEPTH * 4;

/// For encoders: fails for a container that lies in more than [`MAX_DEPTH`] others.
pub(super) fn check_depth(depth: usize) -> Result<()> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(Error::Encode { reason: format!("the value nests deeper than {MAX_DEPTH} levels") })
}

/// An integer of decimal digits, perhaps with a sign; `None` when it is none.
pub(super) fn parse_integer(digits: &str) -> Result<Option<BigInt>> {
    let unsigned = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    if unsigned.len() > MAX_INTEGER_DIGITS {
        return Err(too_many_digits());
    }
    if !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    Ok(BigInt::parse_bytes(digits.as_bytes(), 10))
}

/// An integer of two's complement, the lowest byte first.
pub(super) fn integer_from_bytes(bytes: &[u8]) -> Result<BigInt> {
    // Ten bits are a bit more than three digits.
    const MOST_BYTES: usize = MAX_INTEGER_DIGITS / 3 * 10 / 8;
    if bytes.len() > MOST_BYTES {
        return Err(too_many_digits());
    }
    check_digits(BigInt::from_signed_bytes_le(bytes))
}

/// For integers that do not come from decimal digits, and cannot be much too long.
pub(super) fn check_digits(integer: BigInt) -> Result<BigInt> {
    const FEW_BITS: u64 = (MAX_INTEGER_DIGITS as u64) * 3;
    if integer.bits() > FEW_BITS && integer.magnitude().to_string().len() > MAX_INTEGER_DIGITS {
        return Err(too_many_digits());
    }
    Ok(integer)
}

pub(super) fn too_many_digits() -> Error {
    exceeded("integer digits", MAX_INTEGER_DIGITS, "an integer".to_owned())
}

fn exceeded(limit: &'static str, allowed: usize, what: String) -> Error {
    Error::LimitExceeded { limit, allowed, what }
}
