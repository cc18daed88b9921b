//! Headers and arguments as AMQP has them: tables of typed values, from and to Python's JSON.
//!
//! Types as `amqp.serialization` (py-amqp) writes and reads them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use celeriac_error::{Error, Result};
use celeriac_protocol::{json, time};
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};

/// How deep tables may be in each other; far more than anybody writes, far less than a stack holds.
const DEEPEST: usize = 64;

/// The table of a JSON object, or an empty one for an empty text.
///
/// # Errors
/// [`Error::Encode`] for what AMQP has no form for: integers beyond 64 bits, names beyond 255 bytes.
pub(super) fn from_json(text: &str) -> Result<FieldTable> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(FieldTable::default());
    }
    table(text, 0)
}

fn wrong(reason: impl Into<String>) -> Error {
    Error::Encode { reason: reason.into() }
}

fn table(text: &str, depth: usize) -> Result<FieldTable> {
    if depth > DEEPEST {
        return Err(wrong("the headers are nested too deeply for AMQP"));
    }
    let mut fields = BTreeMap::new();
    for (name, value) in json::object_members(text.as_bytes())? {
        let value = self::value(value, depth + 1).map_err(|error| match error {
            Error::Encode { reason } => wrong(format!("header `{name}`: {reason}")),
            other => other,
        })?;
        fields.insert(short(name.into_owned())?, value);
    }
    Ok(fields.into())
}

/// A text of AMQP's short form.
pub(super) fn short(text: impl Into<String>) -> Result<ShortString> {
    let text = text.into();
    ShortString::try_new(text)
        .map_err(|error| wrong(format!("AMQP has at most 255 bytes for a name: {error}")))
}

fn value(text: &str, depth: usize) -> Result<AMQPValue> {
    let text = text.trim();
    Ok(match text.as_bytes().first() {
        Some(b'"') => AMQPValue::LongString(json::string_value(text)?.into_owned().into_bytes().into()),
        Some(b'{') => match datetime(text)? {
            Some(seconds) => AMQPValue::Timestamp(seconds),
            None => AMQPValue::FieldTable(table(text, depth)?),
        },
        Some(b'[') => {
            if depth > DEEPEST {
                return Err(wrong("the headers are nested too deeply for AMQP"));
            }
            let items = json::array_items(text.as_bytes())?;
            let items: Vec<AMQPValue> =
                items.into_iter().map(|item| value(item, depth + 1)).collect::<Result<_>>()?;
            AMQPValue::FieldArray(items.into())
        }
        _ => match text {
            "true" => AMQPValue::Boolean(true),
            "false" => AMQPValue::Boolean(false),
            "null" => AMQPValue::Void,
            // The broker closes the connection on these, whoever else uses it.
            "NaN" | "Infinity" | "-Infinity" => {
                return Err(wrong(format!("RabbitMQ takes no {text} in headers and arguments")));
            }
            number => self::number(number)?,
        },
    })
}

/// kombu's tag for a datetime, which py-amqp writes as seconds.
fn datetime(text: &str) -> Result<Option<u64>> {
    if !text.contains("__type__") {
        return Ok(None);
    }
    let members = json::object_members(text.as_bytes())?;
    let member = |wanted: &str| {
        members.iter().find(|(name, _)| name == wanted).and_then(|(_, value)| json::string_value(value).ok())
    };
    if member("__type__").as_deref() != Some("datetime") {
        return Ok(None);
    }
    let Some(moment) = member("__value__") else { return Ok(None) };
    let seconds = time::parse_datetime(&moment)?.as_second();
    Ok(u64::try_from(seconds).ok())
}

fn number(text: &str) -> Result<AMQPValue> {
    if text.contains(['.', 'e', 'E']) {
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        return number
            .map(AMQPValue::Double)
            .ok_or_else(|| wrong(format!("`{text}` is no number that AMQP has")));
    }
    let number: i64 =
        text.parse().map_err(|_| wrong(format!("AMQP has no integers beyond 64 bits, such as {text}")))?;
    // Python's bounds are symmetric.
    Ok(match i32::try_from(number) {
        Ok(small) if small != i32::MIN => AMQPValue::LongInt(small),
        _ => AMQPValue::LongLongInt(number),
    })
}

/// How many bytes a table has on the wire, with its length.
pub(super) fn wire_size(table: &FieldTable) -> usize {
    let fields = table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + value_size(value));
    4 + fields.sum::<usize>()
}

/// With its type.
fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(items) => 4 + items.as_slice().iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(table) => wire_size(table),
    }
}

/// The JSON object of a table, with Python's separators.
pub(super) fn to_json(table: &FieldTable) -> String {
    let mut out = String::with_capacity(512);
    push_table(&mut out, table, |_| true);
    out
}

/// [`to_json`] without one field.
pub(super) fn to_json_without(table: &FieldTable, left_out: &str) -> String {
    let mut out = String::with_capacity(512);
    push_table(&mut out, table, |name| name != left_out);
    out
}

fn push_table(out: &mut String, table: &FieldTable, keeps: impl Fn(&str) -> bool) {
    out.push('{');
    let mut first = true;
    for (name, value) in table {
        if !keeps(name.as_str()) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push_str(", ");
        }
        json::push_string(out, name.as_str());
        out.push_str(": ");
        push_value(out, value);
    }
    out.push('}');
}

fn push_value(out: &mut String, value: &AMQPValue) {
    // Writing to a string cannot fail.
    match value {
        AMQPValue::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        AMQPValue::ShortShortInt(value) => _ = write!(out, "{value}"),
        AMQPValue::ShortShortUInt(value) => _ = write!(out, "{value}"),
        AMQPValue::ShortInt(value) => _ = write!(out, "{value}"),
        AMQPValue::ShortUInt(value) => _ = write!(out, "{value}"),
        AMQPValue::LongInt(value) => _ = write!(out, "{value}"),
        AMQPValue::LongUInt(value) => _ = write!(out, "{value}"),
        AMQPValue::LongLongInt(value) => _ = write!(out, "{value}"),
        AMQPValue::Float(value) => push_float(out, f64::from(*value)),
        AMQPValue::Double(value) => push_float(out, *value),
        AMQPValue::DecimalValue(value) => {
            push_float(out, f64::from(value.value) / 10f64.powi(i32::from(value.scale)));
        }
        AMQPValue::ShortString(text) => json::push_string(out, text.as_str()),
        AMQPValue::LongString(text) => push_text(out, text.as_bytes()),
        AMQPValue::ByteArray(bytes) => push_text(out, bytes.as_slice()),
        AMQPValue::FieldArray(items) => push_array(out, items),
        AMQPValue::FieldTable(table) => push_table(out, table, |_| true),
        AMQPValue::Timestamp(seconds) => _ = write!(out, "{seconds}"),
        AMQPValue::Void => out.push_str("null"),
    }
}

fn push_array(out: &mut String, items: &FieldArray) {
    out.push('[');
    for (place, item) in items.as_slice().iter().enumerate() {
        if place > 0 {
            out.push_str(", ");
        }
        push_value(out, item);
    }
    out.push(']');
}

fn push_text(out: &mut String, bytes: &[u8]) {
    json::push_string(out, &String::from_utf8_lossy(bytes));
}

fn push_float(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        _ = write!(out, "{value:?}");
    }
}

/// The text of a field, where it is one.
pub(super) fn text<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    match table.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// The whole number of a field, where it is one.
pub(super) fn whole(table: &FieldTable, name: &str) -> Option<i64> {
    match table.inner().get(name)? {
        AMQPValue::ShortShortUInt(value) => Some(i64::from(*value)),
        AMQPValue::LongInt(value) => Some(i64::from(*value)),
        AMQPValue::LongUInt(value) => Some(i64::from(*value)),
        AMQPValue::LongLongInt(value) => Some(*value),
        _ => None,
    }
}

/// A text as a field.
pub(super) fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_back_as_it_was_with_its_names_sorted() {
        let text = concat!(
            r#"{"a": [null, true, {"n": -2147483648}], "d": 1.0, "e": 1e300, "i": 2147483647, "l": 2147483648, "#,
            r#""o": {}, "s": "\u00e4\"", "\u00e4": -0.5}"#
        );
        assert_eq!(to_json(&from_json(text).unwrap()), text);
        assert_eq!(to_json(&from_json("").unwrap()), "{}");
    }

    #[test]
    fn types_are_those_of_py_amqp() {
        let table = from_json(
            r#"{"a": 1, "b": -2147483647, "c": -2147483648, "d": 9007199254740993, "e": 1.0, "f": "x"}"#,
        );
        let types: String = table.unwrap().inner().values().map(|value| value.get_type().get_id()).collect();
        assert_eq!(types, "IIlldS");
    }

    #[test]
    fn a_tagged_datetime_is_a_timestamp() {
        let table = from_json(r#"{"t": {"__type__": "datetime", "__value__": "1970-01-01T00:01:00+00:00"}}"#);
        assert_eq!(table.unwrap().inner().get("t"), Some(&AMQPValue::Timestamp(60)));
    }

    #[test]
    fn what_amqp_has_no_form_for_is_refused_by_name() {
        let error = from_json(r#"{"big": 12345678901234567890123}"#).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_ENCODE");
        assert!(error.to_string().contains("big"), "{error}");
        for text in [r#"{"n": NaN}"#, r#"{"n": [Infinity]}"#, r#"{"n": 1e999}"#] {
            assert_eq!(from_json(text).unwrap_err().code(), "ERR_CELERIAC_ENCODE", "{text}");
        }
        let long = format!(r#"{{"{}": 1}}"#, "n".repeat(256));
        assert_eq!(from_json(&long).unwrap_err().code(), "ERR_CELERIAC_ENCODE");
        let deep = format!("{}{}", "{\"a\": ".repeat(100), "1").to_owned() + &"}".repeat(100);
        assert!(from_json(&deep).is_err());
    }
}
