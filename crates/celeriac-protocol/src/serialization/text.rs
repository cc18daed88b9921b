//! Python's strings, which may hold lone surrogates.

use super::Value;

/// A string of UTF-16 code units: [`Value::Text`] when it is well-formed.
///
/// Python keeps two halves that come as two characters apart; here, as in JavaScript, they are one character.
pub fn from_utf16(units: Vec<u16>) -> Value {
    match String::from_utf16(&units) {
        Ok(text) => Value::Text(text),
        Err(_) => Value::Utf16(units),
    }
}

/// UTF-8 in which surrogates may be encoded too (Python's `surrogatepass`); `None` when it is no such text.
pub(super) fn from_utf8(bytes: &[u8]) -> Option<Value> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Some(Value::Text(text.to_owned()));
    }
    let mut builder = TextBuilder::default();
    for chunk in bytes.utf8_chunks() {
        if !builder.pending.is_empty() && !chunk.valid().is_empty() {
            return None;
        }
        builder.push_str(chunk.valid());
        // A surrogate is invalid from its first byte on, and each of its three bytes is a chunk of its own.
        for byte in chunk.invalid() {
            builder.pending.push(*byte);
        }
        match *builder.pending.as_slice() {
            [] | [0xed] | [0xed, 0xa0..=0xbf] => {}
            [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf] => {
                builder.pending.clear();
                builder.push_unit(0xd000 | (u16::from(second) & 0x3f) << 6 | (u16::from(third) & 0x3f));
            }
            _ => return None,
        }
    }
    builder.pending.is_empty().then(|| builder.finish())
}

/// The bytes that [`from_utf8`] reads.
pub(super) fn to_utf8(units: &[u16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(units.len() * 3);
    for character in char::decode_utf16(units.iter().copied()) {
        match character {
            Ok(character) => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(error) => {
                let unit = error.unpaired_surrogate();
                out.extend_from_slice(&[
                    0xe0 | (unit >> 12) as u8,
                    0x80 | (unit >> 6 & 0x3f) as u8,
                    0x80 | (unit & 0x3f) as u8,
                ]);
            }
        }
    }
    out
}

/// A string in the making: UTF-8 as long as no surrogate comes.
#[derive(Default)]
pub(super) struct TextBuilder {
    text: String,
    units: Option<Vec<u16>>,
    pending: Vec<u8>,
}

impl TextBuilder {
    pub(super) fn push_str(&mut self, text: &str) {
        match &mut self.units {
            None => self.text.push_str(text),
            Some(units) => units.extend(text.encode_utf16()),
        }
    }

    pub(super) fn push(&mut self, character: char) {
        self.push_str(character.encode_utf8(&mut [0; 4]));
    }

    /// A code point, which may be a surrogate; false when there is no such one.
    pub(super) fn push_code(&mut self, code: u32) -> bool {
        match (char::from_u32(code), u16::try_from(code)) {
            (Some(character), _) => self.push(character),
            (None, Ok(unit)) => self.push_unit(unit),
            (None, Err(_)) => return false,
        }
        true
    }

    /// One code unit, half a character or a whole one.
    pub(super) fn push_unit(&mut self, unit: u16) {
        let text = &mut self.text;
        self.units.get_or_insert_with(|| std::mem::take(text).encode_utf16().collect()).push(unit);
    }

    pub(super) fn finish(self) -> Value {
        match self.units {
            None => Value::Text(self.text),
            Some(units) => from_utf16(units),
        }
    }
}
