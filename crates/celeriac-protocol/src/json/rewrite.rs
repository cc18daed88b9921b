//! Python's JSON with tags where `JSON.parse` would fail or lose something.

use std::borrow::Cow;

use celeriac_error::{Error, Result};
use jiter::{Jiter, Peek};
use memchr::{memchr_iter, memchr3_iter};

use super::source::{Source, decode_error};
use super::tag::{Tagged, peek_tag};
use super::{JavaScriptText, check_depth, excerpt, first_byte};

/// The largest integer that a JavaScript number holds without loss, 2^53 − 1.
const MAX_SAFE_INTEGER: &str = "9007199254740991";

/// A cheap look over the bytes: false only when there is certainly nothing to tag. It may be fooled the other way
/// by the inside of strings.
pub(super) fn may_need_tags(text: &[u8]) -> bool {
    has_long_digit_run(text)
        || memchr3_iter(b'N', b'I', b'_', text).any(|at| {
            let rest = &text[at..];
            rest.starts_with(b"NaN") || rest.starts_with(b"Infinity") || rest.starts_with(b"__type__")
        })
        // A letter of `__type__` may be written as an escape, though Python never does.
        || memchr_iter(b'\\', text)
            .any(|at| text[at..].starts_with(b"\\u00") && matches!(text.get(at + 4), Some(b'5'..=b'7')))
}

/// Whether as many digits as [`MAX_SAFE_INTEGER`] has follow each other: looks at every sixteenth byte only, as no
/// such run fits in between.
fn has_long_digit_run(text: &[u8]) -> bool {
    const RUN: usize = MAX_SAFE_INTEGER.len();
    let mut at = RUN - 1;
    while let Some(byte) = text.get(at) {
        if byte.is_ascii_digit() {
            let before = text[..at].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            let from_here = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if before + from_here >= RUN {
                return true;
            }
            at += from_here;
        }
        at += RUN;
    }
    false
}

pub(super) fn rewrite<'a>(source: &Source<'a>) -> Result<JavaScriptText<'a>> {
    let mut rewriter = Rewriter { source, out: String::new(), copied: 0, tagged: false };
    let mut reader = source.reader();
    let peek = reader.peek().map_err(decode_error)?;
    rewriter.value(&mut reader, peek, 0)?;
    reader.finish().map_err(decode_error)?;
    let Rewriter { mut out, copied, tagged, .. } = rewriter;
    let text = if copied == 0 {
        Cow::Borrowed(source.text)
    } else {
        out.push_str(&source.text[copied..]);
        Cow::Owned(out)
    };
    Ok(JavaScriptText { text, tagged })
}

struct Rewriter<'s, 'a> {
    source: &'s Source<'a>,
    out: String,
    /// How much of the source is in `out`, as it was or replaced.
    copied: usize,
    tagged: bool,
}

impl Rewriter<'_, '_> {
    fn value(&mut self, reader: &mut Jiter<'_>, peek: Peek, depth: usize) -> Result<()> {
        match peek {
            Peek::Array => {
                check_depth(depth)?;
                let mut next = reader.known_array().map_err(decode_error)?;
                while let Some(peek) = next {
                    self.value(reader, peek, depth + 1)?;
                    next = reader.array_step().map_err(decode_error)?;
                }
                Ok(())
            }
            Peek::Object => {
                check_depth(depth)?;
                self.object(reader, depth)
            }
            peek if peek.is_num() => {
                let start = reader.current_index();
                reader.known_number_bytes(peek).map_err(decode_error)?;
                self.number(start, reader.current_index());
                Ok(())
            }
            peek => reader.known_skip(peek).map_err(decode_error),
        }
    }

    fn object(&mut self, reader: &mut Jiter<'_>, depth: usize) -> Result<()> {
        if let Some(tag) = peek_tag(self.source, reader)? {
            let start = reader.current_index();
            reader.known_skip(Peek::Object).map_err(decode_error)?;
            let end = reader.current_index();
            let Some(meaning) = tag.meaning() else {
                let tag = excerpt(&self.source.text[start..end]);
                return Err(Error::Decode { reason: format!("kombu would refuse this tag: {tag}") });
            };
            self.tagged = true;
            let textual = matches!(first_byte(tag.value), Some(b'"'));
            match meaning {
                Tagged::Decimal(digits) if !textual => {
                    self.replace(start, end, "decimal", &format!("\"{digits}\""));
                }
                Tagged::Uuid(uuid) if !tag.value.contains("hex") => {
                    self.replace(start, end, "uuid", &format!("{{\"hex\": \"{}\"}}", uuid.simple()));
                }
                _ => {}
            }
            return Ok(());
        }
        let mut more = reader.known_object().map_err(decode_error)?.is_some();
        while more {
            let peek = reader.peek().map_err(decode_error)?;
            self.value(reader, peek, depth + 1)?;
            more = reader.next_key().map_err(decode_error)?.is_some();
        }
        Ok(())
    }

    fn number(&mut self, start: usize, end: usize) {
        let number = &self.source.text[start..end];
        let special = match number {
            "NaN" => "\"nan\"",
            "Infinity" => "\"inf\"",
            "-Infinity" => "\"-inf\"",
            _ => {
                if is_unsafe_integer(number) {
                    self.replace(start, end, "int", &format!("\"{number}\""));
                }
                return;
            }
        };
        self.replace(start, end, "float", special);
    }

    fn replace(&mut self, start: usize, end: usize, kind: &str, value: &str) {
        self.out.push_str(&self.source.text[self.copied..start]);
        self.out.push_str("{\"__type__\": \"");
        self.out.push_str(kind);
        self.out.push_str("\", \"__value__\": ");
        self.out.push_str(value);
        self.out.push('}');
        self.copied = end;
        self.tagged = true;
    }
}

/// JSON has no leading zeros, so equally long digits compare as numbers do.
fn is_unsafe_integer(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    digits.len() >= MAX_SAFE_INTEGER.len()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits.len() > MAX_SAFE_INTEGER.len() || digits > MAX_SAFE_INTEGER)
}
