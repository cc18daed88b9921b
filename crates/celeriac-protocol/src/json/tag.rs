//! kombu's tagged objects: `{"__type__": …, "__value__": …}` (`kombu.utils.json`).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::Result;
use jiter::{Jiter, Peek};
use uuid::Uuid;

use super::source::{Source, decode_error};
use super::{first_byte, object_members, string_value};
use crate::time::{parse_civil, parse_clock};

/// An object with exactly the two keys of a tag.
pub(crate) struct Tag<'a> {
    /// The type; `None` when it is not even a string.
    pub(crate) kind: Option<Cow<'a, str>>,
    /// The value as JSON.
    pub(crate) value: &'a str,
}

/// What a tag of a known type and a proper shape stands for.
pub(crate) enum Tagged<'a> {
    DateTime(Cow<'a, str>),
    Date(Cow<'a, str>),
    Time(Cow<'a, str>),
    Decimal(Cow<'a, str>),
    Uuid(Uuid),
    Bytes(Vec<u8>),
}

/// Looks whether the object that the reader stands before is a tag; the reader stays where it is.
///
/// As in kombu, any further key makes it an ordinary object.
pub(crate) fn peek_tag<'a>(source: &Source<'a>, reader: &Jiter<'_>) -> Result<Option<Tag<'a>>> {
    let mut reader = reader.clone();
    let mut kind = None;
    let mut value = None;
    let mut key = source.first_key(&mut reader)?;
    while let Some(name) = key {
        let place = match name.as_ref() {
            "__type__" => &mut kind,
            "__value__" => &mut value,
            _ => return Ok(None),
        };
        let peek = reader.peek().map_err(decode_error)?;
        let start = reader.current_index();
        reader.known_skip(peek).map_err(decode_error)?;
        *place = Some((peek, &source.text[start..reader.current_index()]));
        key = source.next_key(&mut reader)?;
    }
    let (Some((peek, kind)), Some((_, value))) = (kind, value) else { return Ok(None) };
    let kind = if peek == Peek::String { Some(string_value(kind)?) } else { None };
    Ok(Some(Tag { kind, value }))
}

impl<'a> Tag<'a> {
    /// What it stands for; `None` when kombu would refuse it.
    pub(crate) fn meaning(&self) -> Option<Tagged<'a>> {
        let text = || match first_byte(self.value) {
            Some(b'"') => string_value(self.value).ok(),
            _ => None,
        };
        match self.kind.as_deref()? {
            "datetime" => text().filter(|text| parse_civil(text).is_some()).map(Tagged::DateTime),
            "date" => text().filter(|text| parse_civil(text).is_some()).map(Tagged::Date),
            "time" => text().filter(|text| parse_clock(text).is_some()).map(Tagged::Time),
            "decimal" => {
                text().filter(|text| is_decimal(text)).or_else(|| self.integer()).map(Tagged::Decimal)
            }
            "uuid" => self.uuid().map(Tagged::Uuid),
            "bytes" => text().map(|text| Tagged::Bytes(text.into_owned().into_bytes())),
            "base64" => STANDARD.decode(text()?.as_bytes()).ok().map(Tagged::Bytes),
            _ => None,
        }
    }

    fn integer(&self) -> Option<Cow<'a, str>> {
        let digits = self.value.strip_prefix('-').unwrap_or(self.value);
        digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(Cow::Borrowed(self.value))
    }

    /// `{"hex": …}` as kombu writes it, or `{"int": …}` as older versions did.
    fn uuid(&self) -> Option<Uuid> {
        let members = object_members(self.value.as_bytes()).ok()?;
        let [(name, value)] = members.as_slice() else { return None };
        match name.as_ref() {
            "hex" => Uuid::parse_str(&string_value(value).ok()?).ok(),
            "int" => value.parse().ok().map(Uuid::from_u128),
            _ => None,
        }
    }
}

/// What Python's `Decimal` reads, but for white space around it and underscores in it.
pub(crate) fn is_decimal(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text).to_ascii_lowercase();
    if matches!(unsigned.as_str(), "inf" | "infinity") {
        return true;
    }
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(payload) = unsigned.strip_prefix("snan").or_else(|| unsigned.strip_prefix("nan")) {
        return is_number(payload);
    }
    let (mantissa, exponent) = unsigned.split_once('e').unwrap_or((&unsigned, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    !exponent.is_empty()
        && is_number(exponent)
        && !(whole.is_empty() && fraction.is_empty())
        && is_number(whole)
        && is_number(fraction)
}
