//! `MessagePack` as msgpack-python reads and writes it: `packb(use_bin_type=True)`, `unpackb(raw=False)`. It makes
//! plain data, and instances of `msgpack.ext.ExtType` and `msgpack.ext.Timestamp`, which are opaque values here.

use celeriac_error::{Error, Result};
use num_bigint::BigInt;
use rmp::{Marker, encode as write};

use super::containers::DictBuilder;
use super::limits::{Budget, check_depth};
use super::{Limits, Opaque, OpaqueKind, Value};

/// Where the extension types of msgpack-python are.
const MODULE: &str = "msgpack.ext";
/// The code of the extension type that is a timestamp.
const TIMESTAMP: i8 = -1;

pub(super) fn encode(value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    push(value, &mut out, 0)?;
    Ok(out)
}

/// What is not a container has a function of its own, so that this one takes little of the stack.
fn push(value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    match value {
        Value::List(items) | Value::Tuple(items) => {
            check_depth(depth)?;
            write::write_array_len(out, length(items.len())?).map_err(|error| failed(&error))?;
            for item in items {
                push(item, out, depth + 1)?;
            }
            Ok(())
        }
        Value::Dict(members) => {
            check_depth(depth)?;
            write::write_map_len(out, length(members.len())?).map_err(|error| failed(&error))?;
            for (key, value) in members {
                push(key, out, depth + 1)?;
                push(value, out, depth + 1)?;
            }
            Ok(())
        }
        other => push_plain(other, out),
    }
}

/// Writing into memory does not fail; the error type says no more than that.
fn failed(error: &dyn std::fmt::Display) -> Error {
    refusal(&error.to_string())
}

fn push_plain(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::None => write::write_nil(out).map_err(|error| failed(&error))?,
        Value::Bool(value) => write::write_bool(out, *value).map_err(|error| failed(&error))?,
        Value::Int(value) => {
            write::write_sint(out, *value).map_err(|error| failed(&error))?;
        }
        Value::BigInt(value) => match u64::try_from(value.as_ref()) {
            Ok(value) => {
                write::write_uint(out, value).map_err(|error| failed(&error))?;
            }
            Err(_) => return Err(refusal("an integer of more than 64 bits is out of range")),
        },
        Value::Float(value) => write::write_f64(out, *value).map_err(|error| failed(&error))?,
        Value::Text(text) => {
            length(text.len())?;
            write::write_str(out, text).map_err(|error| failed(&error))?;
        }
        Value::Utf16(_) => return Err(refusal("lone surrogates have no form in UTF-8")),
        Value::Bytes(bytes) => {
            length(bytes.len())?;
            write::write_bin(out, bytes).map_err(|error| failed(&error))?;
        }
        Value::Opaque(opaque) => push_extension(opaque, out)?,
        other => return Err(refusal(&format!("no form for values of the type {}", other.type_name()))),
    }
    Ok(())
}

fn push_extension(opaque: &Opaque, out: &mut Vec<u8>) -> Result<()> {
    let (code, data) = match (opaque.module.as_str(), opaque.name.as_str(), opaque.args.as_slice()) {
        (MODULE, "ExtType", [Value::Int(code), Value::Bytes(data)]) => match i8::try_from(*code) {
            Ok(code) if code >= 0 => (code, data.clone()),
            _ => return Err(refusal("the code of an extension type is 0 to 127")),
        },
        (MODULE, "Timestamp", [Value::Int(seconds), Value::Int(nanoseconds)]) => {
            (TIMESTAMP, timestamp(*seconds, *nanoseconds)?)
        }
        _ => return Err(refusal(&format!("no form for values of the type {}", opaque.name))),
    };
    write::write_ext_meta(out, length(data.len())?, code).map_err(|error| refusal(&error.to_string()))?;
    out.extend_from_slice(&data);
    Ok(())
}

/// In the shortest of the three forms.
fn timestamp(seconds: i64, nanoseconds: i64) -> Result<Vec<u8>> {
    let nanoseconds = u32::try_from(nanoseconds)
        .ok()
        .filter(|nanoseconds| *nanoseconds < 1_000_000_000)
        .ok_or_else(|| refusal("the nanoseconds of a timestamp are 0 to 999999999"))?;
    Ok(match (u32::try_from(seconds), u64::try_from(seconds)) {
        (Ok(seconds), _) if nanoseconds == 0 => seconds.to_be_bytes().to_vec(),
        (_, Ok(seconds)) if seconds >> 34 == 0 => {
            (u64::from(nanoseconds) << 34 | seconds).to_be_bytes().to_vec()
        }
        _ => [nanoseconds.to_be_bytes().as_slice(), seconds.to_be_bytes().as_slice()].concat(),
    })
}

fn length(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| refusal("nothing has more than 4294967295 members or bytes"))
}

fn refusal(why: &str) -> Error {
    Error::Encode { reason: format!("msgpack: {why}") }
}

pub(super) fn decode(body: &[u8], limits: &Limits) -> Result<Value> {
    let mut decoder = Decoder { rest: body, budget: Budget::new(body, limits)? };
    let value = decoder.value(0)?;
    if decoder.rest.is_empty() {
        return Ok(value);
    }
    Err(wrong(&format!("{} bytes follow the value", decoder.rest.len())))
}

struct Decoder<'a> {
    rest: &'a [u8],
    budget: Budget,
}

fn wrong(why: &str) -> Error {
    Error::Decode { reason: format!("no valid msgpack: {why}") }
}

impl<'a> Decoder<'a> {
    fn value(&mut self, depth: usize) -> Result<Value> {
        self.budget.value()?;
        let [marker] = self.array()?;
        match Marker::from_u8(marker) {
            Marker::FixPos(value) => Ok(Value::Int(i64::from(value))),
            Marker::FixNeg(value) => Ok(Value::Int(i64::from(value))),
            Marker::Null => Ok(Value::None),
            Marker::True => Ok(Value::Bool(true)),
            Marker::False => Ok(Value::Bool(false)),
            Marker::U8 => self.unsigned(1).map(|value| Value::Int(value as i64)),
            Marker::U16 => self.unsigned(2).map(|value| Value::Int(value as i64)),
            Marker::U32 => self.unsigned(4).map(|value| Value::Int(value as i64)),
            Marker::U64 => self.unsigned(8).map(|value| Value::integer(BigInt::from(value))),
            Marker::I8 => self.array().map(|bytes| Value::Int(i64::from(i8::from_be_bytes(bytes)))),
            Marker::I16 => self.array().map(|bytes| Value::Int(i64::from(i16::from_be_bytes(bytes)))),
            Marker::I32 => self.array().map(|bytes| Value::Int(i64::from(i32::from_be_bytes(bytes)))),
            Marker::I64 => self.array().map(|bytes| Value::Int(i64::from_be_bytes(bytes))),
            Marker::F32 => self.array().map(|bytes| Value::Float(f64::from(f32::from_be_bytes(bytes)))),
            Marker::F64 => self.array().map(|bytes| Value::Float(f64::from_be_bytes(bytes))),
            Marker::FixStr(length) => self.text(usize::from(length)),
            Marker::Str8 => self.length(1).and_then(|length| self.text(length)),
            Marker::Str16 => self.length(2).and_then(|length| self.text(length)),
            Marker::Str32 => self.length(4).and_then(|length| self.text(length)),
            Marker::Bin8 => self.length(1).and_then(|length| self.bytes(length)),
            Marker::Bin16 => self.length(2).and_then(|length| self.bytes(length)),
            Marker::Bin32 => self.length(4).and_then(|length| self.bytes(length)),
            Marker::FixArray(length) => self.list(usize::from(length), depth),
            Marker::Array16 => self.length(2).and_then(|length| self.list(length, depth)),
            Marker::Array32 => self.length(4).and_then(|length| self.list(length, depth)),
            Marker::FixMap(length) => self.map(usize::from(length), depth),
            Marker::Map16 => self.length(2).and_then(|length| self.map(length, depth)),
            Marker::Map32 => self.length(4).and_then(|length| self.map(length, depth)),
            Marker::FixExt1 => self.extension(1),
            Marker::FixExt2 => self.extension(2),
            Marker::FixExt4 => self.extension(4),
            Marker::FixExt8 => self.extension(8),
            Marker::FixExt16 => self.extension(16),
            Marker::Ext8 => self.length(1).and_then(|length| self.extension(length)),
            Marker::Ext16 => self.length(2).and_then(|length| self.extension(length)),
            Marker::Ext32 => self.length(4).and_then(|length| self.extension(length)),
            Marker::Reserved => Err(wrong("0xc1 begins nothing")),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| wrong("it is incomplete"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH]> {
        self.take(LENGTH)?.try_into().map_err(|_| wrong("it is incomplete"))
    }

    fn unsigned(&mut self, length: usize) -> Result<u64> {
        Ok(self.take(length)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn length(&mut self, length: usize) -> Result<usize> {
        usize::try_from(self.unsigned(length)?).map_err(|_| wrong("it is incomplete"))
    }

    fn text(&mut self, length: usize) -> Result<Value> {
        let bytes = self.take(length)?;
        self.budget.bytes(length)?;
        std::str::from_utf8(bytes)
            .map(Value::from)
            .map_err(|error| wrong(&format!("a text is not UTF-8: {error}")))
    }

    fn bytes(&mut self, length: usize) -> Result<Value> {
        let bytes = self.take(length)?;
        self.budget.bytes(length)?;
        Ok(Value::Bytes(bytes.to_vec()))
    }

    /// Each member takes a byte at least, so a length that cannot be is known at once.
    fn list(&mut self, length: usize, depth: usize) -> Result<Value> {
        self.budget.depth(depth)?;
        if length > self.rest.len() {
            return Err(wrong("it is incomplete"));
        }
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::List(items))
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Value> {
        self.budget.depth(depth)?;
        if length > self.rest.len() / 2 {
            return Err(wrong("it is incomplete"));
        }
        let mut members = DictBuilder::default();
        for _ in 0..length {
            let key = self.value(depth + 1)?;
            // `strict_map_key`, which msgpack-python has on unless told otherwise.
            if !matches!(key, Value::Text(_) | Value::Bytes(_)) {
                return Err(wrong(&format!(
                    "the key of a map is a {}, and only str and bytes can be",
                    key.type_name()
                )));
            }
            let value = self.value(depth + 1)?;
            members.insert(key, value)?;
        }
        Ok(Value::Dict(members.finish()))
    }

    fn extension(&mut self, length: usize) -> Result<Value> {
        let [code] = self.array()?;
        let code = i8::from_be_bytes([code]);
        let data = self.take(length)?;
        self.budget.values(2)?;
        self.budget.bytes(length)?;
        let (name, args) = match code {
            TIMESTAMP => ("Timestamp", read_timestamp(data)?),
            0.. => ("ExtType", vec![Value::Int(i64::from(code)), Value::Bytes(data.to_vec())]),
            _ => return Err(wrong(&format!("the code of an extension type is 0 to 127, not {code}"))),
        };
        let instance = Opaque { kind: OpaqueKind::Call, args, ..Opaque::named(MODULE, name) };
        Ok(Value::Opaque(Box::new(instance)))
    }
}

fn read_timestamp(data: &[u8]) -> Result<Vec<Value>> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let (seconds, nanoseconds) = match data.len() {
        4 => (number(data) as i64, 0),
        8 => ((number(data) & 0x3_ffff_ffff) as i64, (number(data) >> 34) as u32),
        12 => (number(&data[4..]) as i64, number(&data[..4]) as u32),
        _ => return Err(wrong("a timestamp has 4, 8 or 12 bytes")),
    };
    if nanoseconds >= 1_000_000_000 {
        return Err(wrong("the nanoseconds of a timestamp are 0 to 999999999"));
    }
    Ok(vec![Value::Int(seconds), Value::Int(i64::from(nanoseconds))])
}
