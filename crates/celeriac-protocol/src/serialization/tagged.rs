//! JSON text with tags: kombu's dialect, and ours for the boundary to JavaScript.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::{Error, Result};
use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, Peek};
use uuid::Uuid;

use super::containers::{DictBuilder, dict, set};
use super::limits::{Budget, check_depth, parse_integer, too_many_digits};
use super::text::TextBuilder;
use super::{Exception, Opaque, OpaqueKind, Value};
use crate::json::source::{Source, decode_error};
use crate::json::tag::is_decimal;
use crate::json::{push_string, push_utf16};
use crate::repr::push_float;
use crate::time::{format_date, parse_civil, parse_clock};

/// Which tags there are.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Dialect {
    /// kombu's: for what comes from outside.
    Kombu,
    /// kombu's and ours.
    Ours,
}

pub(super) fn decode(text: &[u8], dialect: Dialect, budget: &mut Budget) -> Result<Value> {
    let source = Source::new(text)?;
    let mut reader = source.reader();
    let peek = reader.peek().map_err(decode_error)?;
    let value = Decoder { source: &source, dialect, budget }.value(&mut reader, peek)?;
    reader.finish().map_err(decode_error)?;
    Ok(value)
}

struct Decoder<'s, 'a> {
    source: &'s Source<'a>,
    dialect: Dialect,
    budget: &'s mut Budget,
}

/// A container that has not ended yet.
enum Container {
    List(Vec<Value>),
    /// With the key that a value is awaited for.
    Object(DictBuilder, Value),
}

impl Decoder<'_, '_> {
    /// Without recursion: tags make for more levels than the value itself has.
    fn value(&mut self, reader: &mut Jiter<'_>, first: Peek) -> Result<Value> {
        let mut open: Vec<Container> = Vec::new();
        let mut peek = first;
        loop {
            self.budget.value()?;
            let mut value = match peek {
                Peek::Array => {
                    self.budget.depth(open.len())?;
                    if let Some(next) = reader.known_array().map_err(decode_error)? {
                        open.push(Container::List(Vec::new()));
                        peek = next;
                        continue;
                    }
                    Value::List(Vec::new())
                }
                Peek::Object => {
                    self.budget.depth(open.len())?;
                    let source = self.source;
                    let key = reader.next_object_bytes().map_err(decode_error)?;
                    if let Some(key) = key.map(|bytes| source.original(bytes)) {
                        open.push(Container::Object(DictBuilder::default(), self.key(key)?));
                        peek = reader.peek().map_err(decode_error)?;
                        continue;
                    }
                    Value::Dict(Vec::new())
                }
                _ => self.scalar(reader, peek)?,
            };
            // Into the container around it; one that ends is a value itself.
            loop {
                match open.pop() {
                    None => return Ok(value),
                    Some(Container::List(mut items)) => {
                        items.push(value);
                        if let Some(next) = reader.array_step().map_err(decode_error)? {
                            open.push(Container::List(items));
                            peek = next;
                            break;
                        }
                        value = Value::List(items);
                    }
                    Some(Container::Object(mut members, key)) => {
                        members.insert(key, value)?;
                        let source = self.source;
                        let key = reader.next_key_bytes().map_err(decode_error)?;
                        if let Some(key) = key.map(|bytes| source.original(bytes)) {
                            open.push(Container::Object(members, self.key(key)?));
                            peek = reader.peek().map_err(decode_error)?;
                            break;
                        }
                        value = self.finish(members.finish())?;
                    }
                }
            }
        }
    }

    fn scalar(&mut self, reader: &mut Jiter<'_>, peek: Peek) -> Result<Value> {
        match peek {
            Peek::String => {
                let start = reader.current_index();
                reader.known_skip(peek).map_err(decode_error)?;
                let text = &self.source.text[start + 1..reader.current_index() - 1];
                self.string(text)
            }
            Peek::Null => reader.known_null().map(|()| Value::None).map_err(decode_error),
            Peek::True | Peek::False => reader.known_bool(peek).map(Value::Bool).map_err(decode_error),
            _ => {
                let start = reader.current_index();
                reader.known_number_bytes(peek).map_err(number_error)?;
                number(&self.source.text[start..reader.current_index()])
            }
        }
    }

    fn key(&mut self, inside: &str) -> Result<Value> {
        self.budget.value()?;
        self.string(inside)
    }

    /// An object that ended: a dict, or what it stands for when it is a tag.
    fn finish(&self, mut members: Vec<(Value, Value)>) -> Result<Value> {
        if !is_tag(&members) {
            return Ok(Value::Dict(members));
        }
        let tag = members.iter().position(|(key, _)| *key == Value::from(TYPE)).unwrap_or(0);
        let value = members.swap_remove(1 - tag).1;
        let kind = members.swap_remove(0).1;
        let Value::Text(kind) = kind else {
            return Err(refusal(&format!("of a type that is a {}", kind.type_name())));
        };
        self.tag(&kind, value)?.ok_or_else(|| refusal(&format!("of the type `{kind}`")))
    }

    /// The inside of a string, which the reader has validated.
    fn string(&mut self, inside: &str) -> Result<Value> {
        self.budget.bytes(inside.len())?;
        if memchr::memchr(b'\\', inside.as_bytes()).is_none() {
            return Ok(Value::Text(inside.to_owned()));
        }
        unescape(inside).ok_or_else(|| Error::Decode { reason: "no valid JSON: an escape".to_owned() })
    }

    /// What a tag means; `None` for a type that is not known, or a value that does not fit it.
    fn tag(&self, kind: &str, value: Value) -> Result<Option<Value>> {
        Ok(Some(match (kind, value) {
            ("datetime", Value::Text(text)) if parse_civil(&text).is_some() => Value::DateTime(text),
            ("date", Value::Text(text)) => match parse_civil(&text) {
                Some((civil, _)) => Value::Date(format_date(civil.date())),
                None => return Ok(None),
            },
            ("time", Value::Text(text)) if parse_clock(&text).is_some() => Value::Time(text),
            ("decimal", Value::Text(text)) if is_decimal(&text) => Value::Decimal(text),
            ("decimal", Value::Int(integer)) => Value::Decimal(integer.to_string()),
            ("decimal", Value::BigInt(integer)) => Value::Decimal(integer.to_string()),
            ("uuid", Value::Dict(members)) => return Ok(uuid(&members)),
            ("bytes", Value::Text(text)) => Value::Bytes(text.into_bytes()),
            ("base64", Value::Text(text)) => match STANDARD.decode(text) {
                Ok(bytes) => Value::Bytes(bytes),
                Err(_) => return Ok(None),
            },
            (kind, value) if self.dialect == Dialect::Ours => return own_tag(kind, value),
            _ => return Ok(None),
        }))
    }
}

const TYPE: &str = "__type__";
const VALUE: &str = "__value__";

/// Whether these are exactly the two keys of a tag.
fn is_tag(members: &[(Value, Value)]) -> bool {
    let has = |name| members.iter().any(|(key, _)| matches!(key, Value::Text(key) if key == name));
    members.len() == 2 && has(TYPE) && has(VALUE)
}

fn refusal(what: &str) -> Error {
    Error::Decode { reason: format!("kombu would refuse this tag: one {what}") }
}

/// `{"hex": …}` as kombu writes it, or `{"int": …}` as older versions did.
fn uuid(members: &[(Value, Value)]) -> Option<Value> {
    let [(Value::Text(name), value)] = members else { return None };
    match (name.as_str(), value) {
        ("hex", Value::Text(text)) => Uuid::parse_str(text).ok().map(Value::Uuid),
        ("int", Value::Int(integer)) => {
            u128::try_from(*integer).ok().map(|int| Value::Uuid(Uuid::from_u128(int)))
        }
        ("int", Value::BigInt(integer)) => {
            u128::try_from(integer.as_ref()).ok().map(|int| Value::Uuid(Uuid::from_u128(int)))
        }
        _ => None,
    }
}

fn own_tag(kind: &str, value: Value) -> Result<Option<Value>> {
    Ok(Some(match (kind, value) {
        ("float", Value::Text(text)) => Value::Float(match text.as_str() {
            "nan" => f64::NAN,
            "inf" => f64::INFINITY,
            "-inf" => f64::NEG_INFINITY,
            _ => return Ok(None),
        }),
        ("int", Value::Text(text)) => return Ok(parse_integer(&text)?.map(Value::integer)),
        ("tuple", Value::List(items)) => Value::Tuple(items),
        ("set", Value::List(items)) => Value::Set(set(items)?),
        ("frozenset", Value::List(items)) => Value::FrozenSet(set(items)?),
        ("dict", value) => match pairs(value) {
            Some(pairs) => Value::Dict(dict(pairs)?),
            None => return Ok(None),
        },
        ("timedelta", Value::List(parts)) => match *parts.as_slice() {
            [Value::Int(days), Value::Int(seconds), Value::Int(microseconds)] => {
                Value::time_delta(days, seconds, microseconds)?
            }
            _ => return Ok(None),
        },
        ("complex", Value::List(parts)) => match parts.as_slice() {
            [real, imaginary] => match (float(real), float(imaginary)) {
                (Some(real), Some(imaginary)) => Value::Complex { real, imaginary },
                _ => return Ok(None),
            },
            _ => return Ok(None),
        },
        ("exception", Value::Dict(members)) => return Ok(exception(members)),
        ("opaque", Value::Dict(members)) => return Ok(opaque(members)),
        _ => return Ok(None),
    }))
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        _ => None,
    }
}

fn pairs(value: Value) -> Option<Vec<(Value, Value)>> {
    let Value::List(pairs) = value else { return None };
    pairs
        .into_iter()
        .map(|pair| match pair {
            Value::List(pair) => <[Value; 2]>::try_from(pair).ok().map(|[key, value]| (key, value)),
            _ => None,
        })
        .collect()
}

fn exception(members: Vec<(Value, Value)>) -> Option<Value> {
    let mut exception =
        Exception { module: String::new(), kind: String::new(), args: Vec::new(), state: None };
    for (name, value) in members {
        let Value::Text(name) = name else { return None };
        match (name.as_str(), value) {
            ("module", Value::Text(text)) => exception.module = text,
            ("type", Value::Text(text)) => exception.kind = text,
            ("args", Value::List(args)) => exception.args = args,
            ("state", state) => exception.state = Some(state),
            _ => return None,
        }
    }
    (!exception.kind.is_empty()).then(|| Value::Exception(Box::new(exception)))
}

fn opaque(members: Vec<(Value, Value)>) -> Option<Value> {
    let mut opaque = Opaque::named("", "");
    for (name, value) in members {
        let Value::Text(name) = name else { return None };
        match (name.as_str(), value) {
            ("module", Value::Text(text)) => opaque.module = text,
            ("name", Value::Text(text)) => opaque.name = text,
            ("kind", Value::Text(text)) => {
                opaque.kind = match text.as_str() {
                    "name" => OpaqueKind::Name,
                    "call" => OpaqueKind::Call,
                    "new" => OpaqueKind::New,
                    _ => return None,
                }
            }
            ("args", Value::List(args)) => opaque.args = args,
            ("kwargs", kwargs) => opaque.kwargs = pairs(kwargs)?,
            ("state", state) => opaque.state = Some(state),
            ("items", Value::List(items)) => opaque.items = items,
            ("entries", entries) => opaque.entries = pairs(entries)?,
            _ => return None,
        }
    }
    (!opaque.name.is_empty()).then(|| Value::Opaque(Box::new(opaque)))
}

/// The parser has Python's limit of digits too.
fn number_error(error: JiterError) -> Error {
    match error.error_type {
        JiterErrorType::JsonError(JsonErrorType::NumberOutOfRange) => too_many_digits(),
        _ => decode_error(error),
    }
}

fn number(text: &str) -> Result<Value> {
    Ok(match text {
        "NaN" => Value::Float(f64::NAN),
        "Infinity" => Value::Float(f64::INFINITY),
        "-Infinity" => Value::Float(f64::NEG_INFINITY),
        _ if text.contains(['.', 'e', 'E']) => match text.parse() {
            Ok(value) => Value::Float(value),
            Err(_) => return Err(Error::Decode { reason: format!("no valid JSON: `{text}` is no number") }),
        },
        _ => match text.parse() {
            Ok(value) => Value::Int(value),
            Err(_) => match parse_integer(text)? {
                Some(value) => Value::integer(value),
                None => {
                    return Err(Error::Decode { reason: format!("no valid JSON: `{text}` is no number") });
                }
            },
        },
    })
}

/// The meaning of a JSON string, lone surrogates included.
fn unescape(inside: &str) -> Option<Value> {
    let mut builder = TextBuilder::default();
    let mut rest = inside;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        builder.push_str(&rest[..at]);
        let escape = *rest.as_bytes().get(at + 1)?;
        rest = rest.get(at + 2..)?;
        builder.push(match escape {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let unit = code_unit(rest)?;
                rest = &rest[4..];
                let high = (0xd800..0xdc00).contains(&unit);
                let low = rest.strip_prefix("\\u").and_then(code_unit);
                if let Some(low) = low.filter(|low| high && (0xdc00..0xe000).contains(low)) {
                    rest = &rest[6..];
                    char::decode_utf16([unit, low]).next()?.ok()?
                } else {
                    builder.push_code(u32::from(unit));
                    continue;
                }
            }
            b'"' | b'\\' | b'/' => char::from(escape),
            _ => return None,
        });
    }
    builder.push_str(rest);
    Some(builder.finish())
}

fn code_unit(text: &str) -> Option<u16> {
    let digits = text.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// Writes our dialect; whether there are tags in it.
pub(super) fn encode(value: &Value, out: &mut String) -> Result<bool> {
    let mut encoder = Encoder { out, tagged: false };
    encoder.value(value, 0)?;
    Ok(encoder.tagged)
}

struct Encoder<'a> {
    out: &'a mut String,
    tagged: bool,
}

/// Beyond 2^53 − 1 JavaScript's numbers lose digits.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

impl Encoder<'_> {
    /// What is not a container has a function of its own, so that this one takes little of the stack.
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        match value {
            Value::List(items) => self.list(items, depth),
            Value::Dict(members) => self.dict(members, depth),
            Value::Tuple(items) => self.list_tag("tuple", items, depth),
            Value::Set(items) => self.list_tag("set", items, depth),
            Value::FrozenSet(items) => self.list_tag("frozenset", items, depth),
            Value::Exception(exception) => self.exception(exception, depth),
            Value::Opaque(opaque) => self.opaque(opaque, depth),
            other => {
                self.plain(other);
                Ok(())
            }
        }
    }

    fn plain(&mut self, value: &Value) {
        match value {
            Value::None => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) if value.unsigned_abs() <= MAX_SAFE_INTEGER => {
                self.out.push_str(&value.to_string());
            }
            Value::Int(value) => self.text_tag("int", &value.to_string()),
            Value::BigInt(value) => self.text_tag("int", &value.to_string()),
            Value::Float(value) => self.float(*value),
            Value::Text(text) => push_string(self.out, text),
            Value::Utf16(units) => push_utf16(self.out, units),
            Value::TimeDelta { days, seconds, microseconds } => {
                self.open_tag("timedelta");
                // Writing to a string cannot fail.
                let _ = write!(self.out, "[{days}, {seconds}, {microseconds}]}}");
            }
            Value::Complex { real, imaginary } => {
                self.open_tag("complex");
                self.out.push('[');
                self.float(*real);
                self.out.push_str(", ");
                self.float(*imaginary);
                self.out.push_str("]}");
            }
            other => self.tagged |= push_kombu_tag(self.out, other),
        }
    }

    fn float(&mut self, value: f64) {
        if value.is_finite() {
            return push_float(self.out, value);
        }
        let name = match value {
            _ if value.is_nan() => "nan",
            _ if value > 0.0 => "inf",
            _ => "-inf",
        };
        self.text_tag("float", name);
    }

    fn text_tag(&mut self, kind: &str, text: &str) {
        self.tagged = true;
        push_tag(self.out, kind, |out| push_string(out, text));
    }

    fn open_tag(&mut self, kind: &str) {
        self.tagged = true;
        open_tag(self.out, kind);
    }

    fn list_tag(&mut self, kind: &str, items: &[Value], depth: usize) -> Result<()> {
        self.open_tag(kind);
        self.list(items, depth)?;
        self.out.push('}');
        Ok(())
    }

    fn list(&mut self, items: &[Value], depth: usize) -> Result<()> {
        check_depth(depth)?;
        let mut separator = "[";
        for item in items {
            self.out.push_str(separator);
            self.value(item, depth + 1)?;
            separator = ", ";
        }
        self.out.push_str(if items.is_empty() { "[]" } else { "]" });
        Ok(())
    }

    fn dict(&mut self, members: &[(Value, Value)], depth: usize) -> Result<()> {
        let texts_only = members.iter().all(|(key, _)| matches!(key, Value::Text(_) | Value::Utf16(_)));
        if !texts_only || is_tag(members) {
            self.open_tag("dict");
            self.pairs(members, depth)?;
            self.out.push('}');
            return Ok(());
        }
        check_depth(depth)?;
        let mut separator = "{";
        for (key, value) in members {
            self.out.push_str(separator);
            self.value(key, depth + 1)?;
            self.out.push_str(": ");
            self.value(value, depth + 1)?;
            separator = ", ";
        }
        self.out.push_str(if members.is_empty() { "{}" } else { "}" });
        Ok(())
    }

    fn pairs(&mut self, pairs: &[(Value, Value)], depth: usize) -> Result<()> {
        check_depth(depth)?;
        let mut separator = "[";
        for (key, value) in pairs {
            self.out.push_str(separator);
            self.out.push('[');
            self.value(key, depth + 1)?;
            self.out.push_str(", ");
            self.value(value, depth + 1)?;
            self.out.push(']');
            separator = ", ";
        }
        self.out.push_str(if pairs.is_empty() { "[]" } else { "]" });
        Ok(())
    }

    fn field(&mut self, name: &str) {
        self.out.push_str(if self.out.ends_with('{') { "\"" } else { ", \"" });
        self.out.push_str(name);
        self.out.push_str("\": ");
    }

    fn exception(&mut self, exception: &Exception, depth: usize) -> Result<()> {
        check_depth(depth)?;
        self.open_tag("exception");
        self.out.push('{');
        self.field("module");
        push_string(self.out, &exception.module);
        self.field("type");
        push_string(self.out, &exception.kind);
        self.field("args");
        self.list(&exception.args, depth)?;
        if let Some(state) = &exception.state {
            self.field("state");
            self.value(state, depth + 1)?;
        }
        self.out.push_str("}}");
        Ok(())
    }

    fn opaque(&mut self, opaque: &Opaque, depth: usize) -> Result<()> {
        check_depth(depth)?;
        self.open_tag("opaque");
        self.out.push('{');
        self.field("module");
        push_string(self.out, &opaque.module);
        self.field("name");
        push_string(self.out, &opaque.name);
        self.field("kind");
        self.out.push_str(match opaque.kind {
            OpaqueKind::Name => "\"name\"",
            OpaqueKind::Call => "\"call\"",
            OpaqueKind::New => "\"new\"",
        });
        self.field("args");
        self.list(&opaque.args, depth)?;
        if !opaque.kwargs.is_empty() {
            self.field("kwargs");
            self.pairs(&opaque.kwargs, depth)?;
        }
        if let Some(state) = &opaque.state {
            self.field("state");
            self.value(state, depth + 1)?;
        }
        if !opaque.items.is_empty() {
            self.field("items");
            self.list(&opaque.items, depth)?;
        }
        if !opaque.entries.is_empty() {
            self.field("entries");
            self.pairs(&opaque.entries, depth)?;
        }
        self.out.push_str("}}");
        Ok(())
    }
}

/// Appends the tag of a value that has one in kombu's JSON; false when it has none.
fn push_kombu_tag(out: &mut String, value: &Value) -> bool {
    match value {
        Value::DateTime(text) => push_tag(out, "datetime", |out| push_string(out, text)),
        Value::Date(text) => push_tag(out, "date", |out| push_string(out, text)),
        Value::Time(text) => push_tag(out, "time", |out| push_string(out, text)),
        Value::Decimal(text) => push_tag(out, "decimal", |out| push_string(out, text)),
        Value::Uuid(uuid) => push_tag(out, "uuid", |out| {
            out.push_str("{\"hex\": \"");
            out.push_str(uuid.simple().encode_lower(&mut Uuid::encode_buffer()));
            out.push_str("\"}");
        }),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => push_tag(out, "bytes", |out| push_string(out, text)),
            Err(_) => push_tag(out, "base64", |out| push_string(out, &STANDARD.encode(bytes))),
        },
        _ => return false,
    }
    true
}

fn push_tag(out: &mut String, kind: &str, value: impl FnOnce(&mut String)) {
    open_tag(out, kind);
    value(out);
    out.push('}');
}

fn open_tag(out: &mut String, kind: &str) {
    out.push_str("{\"__type__\": \"");
    out.push_str(kind);
    out.push_str("\", \"__value__\": ");
}

/// Writes kombu's dialect, with the separators and escapes of Python.
pub(super) fn encode_kombu(value: &Value, out: &mut String, depth: usize) -> Result<()> {
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::BigInt(value) => out.push_str(&value.to_string()),
        Value::Float(value) => push_json_float(out, *value),
        Value::Text(text) => push_string(out, text),
        Value::Utf16(units) => push_utf16(out, units),
        Value::List(items) | Value::Tuple(items) => {
            check_depth(depth)?;
            let mut separator = "[";
            for item in items {
                out.push_str(separator);
                encode_kombu(item, out, depth + 1)?;
                separator = ", ";
            }
            out.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Dict(members) => {
            check_depth(depth)?;
            if is_tag(members) {
                return Err(Error::Encode {
                    reason: format!(
                        "a dict with exactly the keys `{TYPE}` and `{VALUE}` would be read as a tag"
                    ),
                });
            }
            let mut separator = "{";
            for (key, value) in members {
                out.push_str(separator);
                push_key(out, key)?;
                out.push_str(": ");
                encode_kombu(value, out, depth + 1)?;
                separator = ", ";
            }
            out.push_str(if members.is_empty() { "{}" } else { "}" });
        }
        other if push_kombu_tag(out, other) => {}
        other => {
            return Err(Error::Encode {
                reason: format!("kombu's JSON has no form for values of the type {}", other.type_name()),
            });
        }
    }
    Ok(())
}

/// Python writes keys that are no text as text.
fn push_key(out: &mut String, key: &Value) -> Result<()> {
    let mut text = String::new();
    match key {
        Value::Text(key) => {
            push_string(out, key);
            return Ok(());
        }
        Value::Utf16(units) => {
            push_utf16(out, units);
            return Ok(());
        }
        Value::None => text.push_str("null"),
        Value::Bool(key) => text.push_str(if *key { "true" } else { "false" }),
        Value::Int(key) => text.push_str(&key.to_string()),
        Value::BigInt(key) => text.push_str(&key.to_string()),
        Value::Float(key) => push_json_float(&mut text, *key),
        other => {
            return Err(Error::Encode {
                reason: format!("in JSON a {} cannot be the key of a dict", other.type_name()),
            });
        }
    }
    push_string(out, &text);
    Ok(())
}

fn push_json_float(out: &mut String, value: f64) {
    match value {
        _ if value.is_nan() => out.push_str("NaN"),
        f64::INFINITY => out.push_str("Infinity"),
        f64::NEG_INFINITY => out.push_str("-Infinity"),
        _ => push_float(out, value),
    }
}
