//! Values of the recorded cases, and how they are compared.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::Result;
use celeriac_protocol::serialization::{Limits, Serializer, Value, by_name, from_utf16};
use serde_json::Value as Json;

pub(crate) fn serializer(name: &str) -> &'static Serializer {
    by_name(name).unwrap()
}

pub(crate) fn encode(name: &str, value: &Value) -> Result<Vec<u8>> {
    (serializer(name).encode)(value)
}

pub(crate) fn decode(name: &str, body: &[u8]) -> Result<Value> {
    (serializer(name).decode)(body, &Limits::default())
}

pub(crate) fn golden(name: &str) -> Vec<Json> {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    // One envelope has a lone surrogate, which this parser does not read; nobody looks at it here.
    let mut json: Json = serde_json::from_str(&text.replace("x\\ud800y", "x\\ufffdy")).unwrap();
    serde_json::from_value(json["cases"].take()).unwrap()
}

pub(crate) fn base64(text: &Json) -> Vec<u8> {
    STANDARD.decode(text.as_str().unwrap()).unwrap()
}

pub(crate) fn tagged(value: &Value) -> String {
    let mut out = String::new();
    value.to_tagged_json(&mut out).unwrap();
    out
}

/// A text that equal values share, whatever the order of sets and dicts.
pub(crate) fn canonical(value: &Value) -> String {
    tagged(&sorted(value))
}

fn sorted(value: &Value) -> Value {
    let all = |values: &[Value]| values.iter().map(sorted).collect::<Vec<_>>();
    let ordered = |values: &[Value]| {
        let mut values = all(values);
        values.sort_by_key(tagged);
        values
    };
    match value {
        Value::List(items) => Value::List(all(items)),
        Value::Tuple(items) => Value::Tuple(all(items)),
        Value::Set(items) => Value::Set(ordered(items)),
        Value::FrozenSet(items) => Value::FrozenSet(ordered(items)),
        Value::Dict(members) => {
            let mut members: Vec<_> =
                members.iter().map(|(key, value)| (sorted(key), sorted(value))).collect();
            members.sort_by_key(|(key, _)| tagged(key));
            Value::Dict(members)
        }
        Value::Exception(exception) => {
            let mut exception = exception.clone();
            exception.args = all(&exception.args);
            exception.state = exception.state.as_ref().map(sorted);
            Value::Exception(exception)
        }
        other => other.clone(),
    }
}

/// A value of the typed JSON of recorded task messages: see `tests/protocol/support.rs`.
pub(crate) fn typed(json: &Json) -> Value {
    if let Some(object) = json.as_object().filter(|object| object.len() == 1)
        && let Some((kind, inner)) = object.iter().next()
        && let Some(kind) = kind.strip_prefix('$')
    {
        return special(kind, inner);
    }
    match json {
        Json::Null => Value::None,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap()), Value::Int)
        }
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::List(items.iter().map(typed).collect()),
        Json::Object(members) => Value::Dict(
            members.iter().map(|(key, value)| (Value::from(key.as_str()), typed(value))).collect(),
        ),
    }
}

fn special(kind: &str, inner: &Json) -> Value {
    let text = || inner.as_str().unwrap().to_owned();
    let items = || inner.as_array().unwrap().iter().map(typed).collect::<Vec<_>>();
    match kind {
        "int" => Value::integer(text().parse().unwrap()),
        "float" => Value::Float(text().parse().unwrap()),
        "bytes" => Value::Bytes(base64(inner)),
        "datetime" => Value::DateTime(text()),
        "date" => Value::Date(text()),
        "time" => Value::Time(text()),
        "timedelta" => {
            let microseconds = inner.as_f64().unwrap() * 1e6;
            Value::time_delta(0, 0, microseconds as i64).unwrap()
        }
        "decimal" => Value::Decimal(text()),
        "uuid" => Value::Uuid(text().parse().unwrap()),
        "tuple" => Value::Tuple(items()),
        "set" => Value::Set(items()),
        "frozenset" => Value::FrozenSet(items()),
        "map" => {
            let pairs = inner.as_array().unwrap().iter();
            Value::Dict(pairs.map(|pair| (typed(&pair[0]), typed(&pair[1]))).collect())
        }
        "str_utf16_units" => {
            let units = inner.as_array().unwrap().iter();
            from_utf16(units.map(|unit| u16::try_from(unit.as_u64().unwrap()).unwrap()).collect())
        }
        "repr" if inner == "(1+2j)" => Value::Complex { real: 1.0, imaginary: 2.0 },
        _ => panic!("unknown type ${kind}"),
    }
}

/// What a value has become when a serializer has carried it.
pub(crate) fn arrived(name: &str, value: &Value) -> Value {
    if name == "pickle" {
        return value.clone();
    }
    let all = |items: &[Value]| items.iter().map(|item| arrived(name, item)).collect::<Vec<_>>();
    match value {
        Value::List(items) | Value::Tuple(items) => Value::List(all(items)),
        Value::Set(items) => Value::Set(all(items)),
        Value::Dict(members) => {
            let members = members.iter().map(|(key, value)| {
                let key = if name == "json" { json_key(key) } else { arrived(name, key) };
                (key, arrived(name, value))
            });
            Value::Dict(members.collect())
        }
        other => other.clone(),
    }
}

/// In JSON keys are texts.
fn json_key(key: &Value) -> Value {
    match key {
        Value::None => Value::from("null"),
        Value::Bool(value) => Value::Text(value.to_string()),
        Value::Int(value) => Value::Text(value.to_string()),
        Value::Float(value) => Value::Text(value.to_string()),
        other => other.clone(),
    }
}
