//! Recorded cases, and the typed JSON that their values are in: plain JSON, and objects with one key that begins
//! with `$` for what JSON would lose (`{"$int": "9007199254740993"}`, `{"$bytes": base64}`, `{"$tuple": […]}`, …).

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::Result;
use celeriac_protocol::json::{push_string, to_javascript};
use celeriac_protocol::repr::push_float;
use serde_json::Value;

/// A file of recorded cases. One string in them has a lone surrogate, which `serde_json` does not read; it becomes
/// U+FFFD, as it does wherever text is decoded here.
pub(crate) fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text.replace("x\\ud800y", "x\\ufffdy")).unwrap()
}

pub(crate) fn cases(file: &str) -> Vec<Value> {
    golden(file)["cases"].as_array().unwrap().clone()
}

pub(crate) fn base64(value: &Value) -> Vec<u8> {
    STANDARD.decode(value["base64"].as_str().unwrap()).unwrap()
}

/// The one `$` key of a typed value, and what it has.
pub(crate) fn marker(value: &Value) -> Option<(&str, &Value)> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let (key, inner) = object.iter().next()?;
    key.strip_prefix('$').map(|kind| (kind, inner))
}

/// A typed value as Python's kombu writes it in JSON; `None` where kombu refuses.
pub(crate) fn wire(value: &Value) -> Option<String> {
    let mut out = String::new();
    push_wire(&mut out, value)?;
    Some(out)
}

fn push_wire(out: &mut String, value: &Value) -> Option<()> {
    if let Some((kind, inner)) = marker(value) {
        return push_typed(out, kind, inner);
    }
    match value {
        Value::Array(items) => push_array(out, items)?,
        Value::Object(members) => {
            let members: Vec<_> = members.iter().map(|(key, value)| (key.clone(), value)).collect();
            push_object(out, &members)?;
        }
        Value::String(text) => push_string(out, text),
        Value::Number(number) if number.is_f64() => push_float(out, number.as_f64()?),
        plain => out.push_str(&plain.to_string()),
    }
    Some(())
}

fn push_array(out: &mut String, items: &[Value]) -> Option<()> {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        push_wire(out, item)?;
    }
    out.push(']');
    Some(())
}

fn push_object(out: &mut String, members: &[(String, &Value)]) -> Option<()> {
    out.push('{');
    for (at, (key, value)) in members.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        push_string(out, key);
        out.push_str(": ");
        push_wire(out, value)?;
    }
    out.push('}');
    Some(())
}

fn push_typed(out: &mut String, kind: &str, inner: &Value) -> Option<()> {
    let text = || inner.as_str().unwrap();
    let mut tag = |kind: &str, json: &str| {
        write!(out, "{{\"__type__\": \"{kind}\", \"__value__\": {json}}}").unwrap();
    };
    let quoted = |text: &str| {
        let mut json = String::new();
        push_string(&mut json, text);
        json
    };
    match kind {
        "datetime" | "date" | "time" | "decimal" => tag(kind, &quoted(text())),
        "uuid" => tag("uuid", &format!("{{\"hex\": {}}}", quoted(&text().replace('-', "")))),
        "bytes" => match String::from_utf8(STANDARD.decode(text()).unwrap()) {
            Ok(decoded) => tag("bytes", &quoted(&decoded)),
            Err(_) => tag("base64", &quoted(text())),
        },
        "int" => out.push_str(text()),
        "float" => out.push_str(match text() {
            "nan" => "NaN",
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            digits => digits,
        }),
        "tuple" => push_array(out, inner.as_array().unwrap())?,
        "map" => {
            let pairs = inner.as_array().unwrap().iter();
            let members = pairs.map(|pair| Some((key(&pair[0])?, &pair[1]))).collect::<Option<Vec<_>>>()?;
            push_object(out, &members)?;
        }
        "str_utf16_units" => {
            out.push('"');
            for unit in inner.as_array().unwrap() {
                match u32::try_from(unit.as_u64().unwrap()).unwrap() {
                    unit @ 0xd800.. => write!(out, "\\u{unit:04x}").unwrap(),
                    unit => out.push(char::from_u32(unit).unwrap()),
                }
            }
            out.push('"');
        }
        "timedelta" | "set" | "frozenset" | "repr" => return None,
        _ => panic!("unknown type ${kind}"),
    }
    Some(())
}

/// A dictionary key that is no string, as Python's JSON writes it.
fn key(value: &Value) -> Option<String> {
    match value {
        Value::Object(_) | Value::Array(_) => None,
        Value::String(text) => Some(text.clone()),
        plain => Some(plain.to_string()),
    }
}

/// A text of Python's JSON as a value that can be compared: with tags for what is not plain.
pub(crate) fn canonical(json: &str) -> Result<Value> {
    let mut text = to_javascript(json.as_bytes())?.text.into_owned();
    for (lone, replaced) in [("x\\ud800y", "x\\ufffdy"), (LONE_SURROGATES, "\"\\ufffd\\ufffdx\"")] {
        text = text.replace(lone, replaced);
    }
    Ok(serde_json::from_str(&text).unwrap())
}

/// A string that Python and JavaScript read, and other parsers do not.
pub(crate) const LONE_SURROGATES: &str = "\"\\udc00\\ud800x\"";

pub(crate) fn keys(value: &Value) -> Vec<&String> {
    value.as_object().unwrap().keys().collect()
}
