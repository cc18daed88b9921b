//! `repr()` as Python and Celery print it: `argsrepr`, `kwargsrepr`, and results in log lines.
//!
//! Source of the rules: `celery.utils.saferepr`.

mod python;

use celeriac_error::Result;
use jiter::{Jiter, Peek};

use crate::json::check_depth;
use crate::json::source::{Source, decode_error};
use crate::json::tag::{Tagged, peek_tag};

pub use python::push_float;

/// The longest `argsrepr` and `kwargsrepr` (`celery.app.amqp.AMQP.argsrepr_maxsize`).
pub const MAX_LENGTH: usize = 1024;

/// The deepest nesting that is printed (`task_repr_maxlevels`).
pub const MAX_LEVELS: usize = 3;

/// Prints the value of a JSON text (in Python's sense, kombu's tags included) as `saferepr` prints the Python
/// value that it stands for. `tuple` prints an outermost array as a tuple.
///
/// About `max_length` characters are printed (`usize::MAX`: all), and `max_levels` levels of nesting (`None` and
/// zero: all). What only looks like a tag is printed as the dictionary that it is. A lone surrogate is printed as
/// U+FFFD.
///
/// # Errors
/// [`Error::Decode`](celeriac_error::Error::Decode) when `json` is not JSON.
pub fn saferepr(json: &[u8], tuple: bool, max_length: usize, max_levels: Option<usize>) -> Result<String> {
    let source = Source::new(json)?;
    let mut reader = source.reader();
    let mut printer = Printer {
        source: &source,
        out: String::with_capacity(json.len().min(max_length)),
        remaining: i64::try_from(max_length).unwrap_or(i64::MAX),
        cut: false,
        max_levels: max_levels.filter(|levels| *levels > 0).unwrap_or(usize::MAX),
    };
    let peek = reader.peek().map_err(decode_error)?;
    printer.value(&mut reader, peek, 0, tuple)?;
    reader.finish().map_err(decode_error)?;
    Ok(printer.out)
}

/// Prints token by token until the length is used up. From then on it only reads on, to validate the rest and to
/// close what it had opened.
struct Printer<'s, 'a> {
    source: &'s Source<'a>,
    out: String,
    /// How many characters may still be printed; not positive: the next token is the first that is left out.
    remaining: i64,
    /// Whether something was left out.
    cut: bool,
    max_levels: usize,
}

impl Printer<'_, '_> {
    fn value(&mut self, reader: &mut Jiter<'_>, peek: Peek, level: usize, tuple: bool) -> Result<()> {
        match peek {
            _ if self.cut => reader.known_skip(peek).map_err(decode_error),
            Peek::Null => {
                self.text("None");
                reader.known_null().map_err(decode_error)
            }
            Peek::True | Peek::False => {
                let value = reader.known_bool(peek).map_err(decode_error)?;
                self.text(if value { "True" } else { "False" });
                Ok(())
            }
            Peek::String => {
                let value = reader.known_str().map_err(decode_error)?;
                self.quoted(value);
                Ok(())
            }
            Peek::Array => self.array(reader, level, tuple),
            Peek::Object => self.object(reader, level),
            _ => {
                let start = reader.current_index();
                reader.known_number_bytes(peek).map_err(decode_error)?;
                let number = &self.source.text[start..reader.current_index()];
                self.text(&python::number(number));
                Ok(())
            }
        }
    }

    fn array(&mut self, reader: &mut Jiter<'_>, level: usize, tuple: bool) -> Result<()> {
        if level >= self.max_levels {
            self.literal("[...]");
            return reader.known_skip(Peek::Array).map_err(decode_error);
        }
        check_depth(level)?;
        let shown = self.literal(if tuple { "(" } else { "[" });
        let mut count = 0_usize;
        let mut next = reader.known_array().map_err(decode_error)?;
        while let Some(peek) = next {
            if count > 0 {
                self.literal(", ");
            }
            count += 1;
            self.value(reader, peek, level + 1, false)?;
            next = reader.array_step().map_err(decode_error)?;
        }
        if shown {
            self.close(match (tuple, count) {
                (false, _) => "]",
                (true, 1) => ",)",
                (true, _) => ")",
            });
        }
        Ok(())
    }

    fn object(&mut self, reader: &mut Jiter<'_>, level: usize) -> Result<()> {
        if let Some(meaning) = peek_tag(self.source, reader)?.and_then(|tag| tag.meaning())
            && self.tagged(&meaning)
        {
            return reader.known_skip(Peek::Object).map_err(decode_error);
        }
        if level >= self.max_levels {
            self.literal("{...}");
            return reader.known_skip(Peek::Object).map_err(decode_error);
        }
        check_depth(level)?;
        let shown = self.literal("{");
        let mut first = true;
        let mut key = reader.known_object().map_err(decode_error)?;
        while let Some(name) = key {
            if !first {
                self.literal(", ");
            }
            first = false;
            self.quoted(name);
            self.literal(": ");
            let peek = reader.peek().map_err(decode_error)?;
            self.value(reader, peek, level + 1, false)?;
            key = reader.next_key().map_err(decode_error)?;
        }
        if shown {
            self.close("}");
        }
        Ok(())
    }

    /// False when Python would not read the tag.
    fn tagged(&mut self, meaning: &Tagged<'_>) -> bool {
        if let Tagged::Bytes(bytes) = meaning {
            self.bytes(bytes);
            return true;
        }
        let printed = python::object(meaning);
        if let Some(text) = &printed {
            self.text(text);
        }
        printed.is_some()
    }

    /// Whether there is room for another token; the first one without gets the dots in its place.
    fn has_room(&mut self) -> bool {
        if self.cut {
            return false;
        }
        if self.remaining <= 0 {
            self.cut = true;
            self.out.push_str(", ...");
        }
        !self.cut
    }

    /// A token that is printed whole or not at all.
    fn literal(&mut self, token: &str) -> bool {
        let printed = self.has_room();
        if printed {
            self.push(token);
        }
        printed
    }

    /// The end of a container whose beginning was printed is always printed.
    fn close(&mut self, token: &str) {
        if self.cut || self.remaining <= 0 {
            self.out.push_str(token);
        } else {
            self.push(token);
        }
    }

    fn text(&mut self, token: &str) {
        if !self.has_room() {
            return;
        }
        match python::truncated(token, self.remaining) {
            Some(kept) => {
                self.push(kept);
                self.push("...");
            }
            None => self.push(token),
        }
    }

    fn quoted(&mut self, value: &str) {
        if !self.has_room() {
            return;
        }
        let cut = python::truncated(value, self.remaining);
        self.push("'");
        for (at, part) in cut.unwrap_or(value).split('\'').enumerate() {
            if at > 0 {
                self.push("\\'");
            }
            self.push(part);
        }
        if cut.is_some() {
            self.push("...");
        }
        self.push("'");
    }

    /// Shorter than a string by its own rule: bytes are counted, a space does not matter, a quote is no matter.
    fn bytes(&mut self, value: &[u8]) {
        if !self.has_room() {
            return;
        }
        let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let cut = value.len() > limit;
        let value = &value[..value.len().min(limit)];
        self.push("b'");
        match std::str::from_utf8(value) {
            Ok(text) => self.push(text),
            Err(_) => self.push(&python::hexadecimal(value)),
        }
        self.push(if cut { "...'" } else { "'" });
    }

    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.remaining -= i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    }
}
