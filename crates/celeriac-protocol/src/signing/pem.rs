//! PEM: base64 between two lines that say what it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// One block of a PEM text.
pub(super) struct Block<'a> {
    /// What it is, such as `CERTIFICATE`.
    pub(super) label: &'a str,
    /// The lines before the base64, `Name: value`: an encrypted key of the traditional form has two.
    pub(super) headers: Vec<(&'a str, &'a str)>,
    /// The bytes; wiped when they are dropped.
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// The first block whose label is wanted; other blocks and text around them are passed over, as by Python's
/// `cryptography`. The error says what is wrong.
pub(super) fn find(text: &str, wanted: impl Fn(&str) -> bool) -> Result<Block<'_>, &'static str> {
    let mut rest = text;
    while let Some((label, after)) = begin(rest) {
        let Some((inside, after)) = end(after, label) else { return Err("a PEM block has no end") };
        if wanted(label) {
            return block(label, inside);
        }
        rest = after;
    }
    Err("there is no such PEM block in it")
}

fn begin(text: &str) -> Option<(&str, &str)> {
    let (_, after) = text.split_once("-----BEGIN ")?;
    after.split_once("-----")
}

fn end<'a>(text: &'a str, label: &str) -> Option<(&'a str, &'a str)> {
    let (inside, after) = text.split_once("-----END ")?;
    Some((inside, after.strip_prefix(label)?.strip_prefix("-----")?))
}

fn block<'a>(label: &'a str, inside: &'a str) -> Result<Block<'a>, &'static str> {
    let mut headers = Vec::new();
    // The whole room at once: a text that grew would leave parts of a key behind.
    let mut base64 = Zeroizing::new(String::with_capacity(inside.len()));
    for line in inside.lines().map(str::trim) {
        match line.split_once(':') {
            Some((name, value)) => headers.push((name.trim(), value.trim())),
            None => base64.extend(line.chars().filter(|character| !character.is_ascii_whitespace())),
        }
    }
    let bytes = STANDARD.decode(base64.as_bytes()).map_err(|_| "a PEM block is no base64")?;
    Ok(Block { label, headers, bytes: Zeroizing::new(bytes) })
}
