//! Compression of message bodies and of results, by the names and content types that kombu has.
//!
//! A compressed message names the content type of its method in the header `compression`; the body is compressed
//! after it was serialized and signed. A stored result has no headers: there the method travels [in front of
//! it](stored). Everything that decompresses takes a bound, and gives [`Error::LimitExceeded`] where the bytes would
//! become more; neither memory nor time is spent beyond it.
//!
//! What follows a complete stream is treated as Python treats it, method by method: another stream is read too, or what
//! follows is ignored, or it is an error. The source of the rules: `kombu.compression`, `celery.backends.base`, and
//! Python's modules, tried out. The choice of libraries: docs/decisions/0013.

mod brotli;
mod bzip2;
mod lzma;
mod output;
pub mod stored;
mod zlib;
mod zstd;

use celeriac_error::{Error, Result};

/// A method of compression: its names, and the two directions.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// The name that messages of errors use, one of kombu's.
    pub name: &'static str,
    /// The other names of kombu for it.
    pub aliases: &'static [&'static str],
    /// What the header `compression` of a message says.
    pub content_type: &'static str,
    /// Compresses, with the defaults of this library. Any input.
    pub compress: fn(&[u8]) -> Result<Vec<u8>>,
    /// Decompresses to at most so many bytes. [`Error::Decode`] when it is no such stream or an incomplete one,
    /// [`Error::LimitExceeded`] when it is longer.
    pub decompress: fn(&[u8], usize) -> Result<Vec<u8>>,
}

/// The methods that kombu knows, in its order.
pub const METHODS: &[Method] = &[
    Method {
        name: "gzip",
        aliases: &["zlib"],
        content_type: "application/x-gzip",
        compress: zlib::compress,
        decompress: zlib::decompress,
    },
    Method {
        name: "bzip2",
        aliases: &["bzip"],
        content_type: "application/x-bz2",
        compress: bzip2::compress,
        decompress: bzip2::decompress,
    },
    Method {
        name: "brotli",
        aliases: &[],
        content_type: "application/x-brotli",
        compress: brotli::compress,
        decompress: brotli::decompress,
    },
    Method {
        name: "lzma",
        aliases: &["xz"],
        content_type: "application/x-lzma",
        compress: lzma::compress,
        decompress: lzma::decompress,
    },
    Method {
        name: "zstd",
        aliases: &["zstandard"],
        content_type: "application/zstd",
        compress: zstd::compress,
        decompress: zstd::decompress,
    },
];

/// The method of a name, alias or content type. Each of the three is taken wherever one is, as in kombu; case counts.
#[must_use]
pub fn find(name: &str) -> Option<&'static Method> {
    METHODS
        .iter()
        .find(|method| method.name == name || method.content_type == name || method.aliases.contains(&name))
}

/// Compresses by the method of a name, alias or content type; gives the content type for the header too.
///
/// # Errors
/// [`Error::Encode`] when there is no such method; the message names those that there are.
pub fn compress(body: &[u8], name: &str) -> Result<(Vec<u8>, &'static str)> {
    let method = find(name).ok_or_else(|| Error::Encode { reason: unknown(name) })?;
    Ok(((method.compress)(body)?, method.content_type))
}

/// Decompresses what the header `compression` names, to at most `limit` bytes.
///
/// # Errors
/// [`Error::Decode`] when there is no such method, or the bytes are not what it says; [`Error::LimitExceeded`].
pub fn decompress(body: &[u8], name: &str, limit: usize) -> Result<Vec<u8>> {
    let method = find(name).ok_or_else(|| Error::Decode { reason: unknown(name) })?;
    (method.decompress)(body, limit)
}

/// Every name and alias, sorted by method: for messages of errors.
#[must_use]
pub fn names() -> String {
    let names: Vec<_> = METHODS
        .iter()
        .flat_map(|method| std::iter::once(method.name).chain(method.aliases.iter().copied()))
        .collect();
    names.join(", ")
}

fn unknown(name: &str) -> String {
    // What a stranger wrote into a header is not repeated at any length.
    let shown: String = name.chars().take(64).collect();
    format!("no compression is called `{shown}`; there are {}", names())
}
