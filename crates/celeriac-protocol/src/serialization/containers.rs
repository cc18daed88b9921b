//! Dictionaries and sets in the making, with Python's rules: what may be a key, and which keys are equal.

use std::collections::HashMap;

use celeriac_error::{Error, Result};
use num_bigint::BigInt;

use super::Value;

/// A dictionary: of equal keys the first stays where it is, with the value of the last.
#[derive(Default)]
pub(super) struct DictBuilder {
    pairs: Vec<(Value, Value)>,
    index: Option<Index>,
}

/// Up to so many keys are compared one by one: that is quicker, and most dicts are small.
const FEW: usize = 12;

impl DictBuilder {
    pub(super) fn insert(&mut self, key: Value, value: Value) -> Result<()> {
        if self.index.is_none() {
            if self.pairs.len() < FEW
                && let Value::Text(text) = &key
            {
                // Nothing but a text equals a text.
                let equal =
                    |pair: &&mut (Value, Value)| matches!(&pair.0, Value::Text(other) if other == text);
                match self.pairs.iter_mut().find(equal) {
                    Some(pair) => pair.1 = value,
                    None => self.pairs.push((key, value)),
                }
                return Ok(());
            }
            self.index = Some(Index::of(self.pairs.iter().map(|pair| &pair.0))?);
        }
        match self.index.get_or_insert_default().place(&key, self.pairs.len())? {
            Some(place) => self.pairs[place].1 = value,
            None => self.pairs.push((key, value)),
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<(Value, Value)> {
        self.pairs
    }
}

/// A set: of equal members the first stays.
#[derive(Default)]
pub(super) struct SetBuilder {
    members: Vec<Value>,
    index: Index,
}

impl SetBuilder {
    pub(super) fn insert(&mut self, member: Value) -> Result<()> {
        if self.index.place(&member, self.members.len())?.is_none() {
            self.members.push(member);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<Value> {
        self.members
    }
}

pub(super) fn set(members: Vec<Value>) -> Result<Vec<Value>> {
    let mut builder = SetBuilder::default();
    members.into_iter().try_for_each(|member| builder.insert(member))?;
    Ok(builder.finish())
}

pub(super) fn dict(pairs: Vec<(Value, Value)>) -> Result<Vec<(Value, Value)>> {
    let mut builder = DictBuilder::default();
    pairs.into_iter().try_for_each(|(key, value)| builder.insert(key, value))?;
    Ok(builder.finish())
}

/// Where each key is. Keys are compared by a description in bytes that equal ones share.
#[derive(Default)]
struct Index {
    places: HashMap<Vec<u8>, usize>,
}

impl Index {
    /// With keys that are known to differ.
    fn of<'a>(keys: impl Iterator<Item = &'a Value>) -> Result<Self> {
        let mut index = Self::default();
        for (place, key) in keys.enumerate() {
            index.place(key, place)?;
        }
        Ok(index)
    }

    /// The place of an equal key; when there is none, it is at `next` from now on.
    fn place(&mut self, key: &Value, next: usize) -> Result<Option<usize>> {
        let mut description = Vec::new();
        if !describe(key, &mut description)? {
            return Ok(None);
        }
        match self.places.entry(description) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(Some(*entry.get())),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(next);
                Ok(None)
            }
        }
    }
}

/// Appends the description of a key; false when it equals nothing else: not-a-number, and instances, which Python
/// compares by identity.
fn describe(key: &Value, out: &mut Vec<u8>) -> Result<bool> {
    match key {
        Value::None => out.push(b'N'),
        Value::Bool(value) => describe_integer(i64::from(*value), out),
        Value::Int(value) => describe_integer(*value, out),
        Value::BigInt(value) => {
            out.push(b'I');
            describe_bytes(&value.to_signed_bytes_le(), out);
        }
        Value::Float(value) if value.is_nan() => return Ok(false),
        Value::Float(value) => describe_float(*value, out),
        Value::Text(text) => {
            out.push(b'T');
            describe_bytes(text.as_bytes(), out);
        }
        Value::Utf16(units) => {
            out.push(b'T');
            describe_bytes(&super::text::to_utf8(units), out);
        }
        Value::Bytes(bytes) => {
            out.push(b'B');
            describe_bytes(bytes, out);
        }
        Value::Tuple(members) => {
            out.push(b'(');
            out.extend_from_slice(&members.len().to_le_bytes());
            let mut comparable = true;
            for member in members {
                comparable &= describe(member, out)?;
            }
            return Ok(comparable);
        }
        Value::FrozenSet(members) => {
            let mut descriptions = Vec::with_capacity(members.len());
            for member in members {
                let mut description = Vec::new();
                if !describe(member, &mut description)? {
                    return Ok(false);
                }
                descriptions.push(description);
            }
            descriptions.sort_unstable();
            out.push(b'F');
            out.extend_from_slice(&members.len().to_le_bytes());
            for description in descriptions {
                describe_bytes(&description, out);
            }
        }
        Value::DateTime(text) | Value::Date(text) | Value::Time(text) | Value::Decimal(text) => {
            out.push(match key {
                Value::DateTime(_) => b'D',
                Value::Date(_) => b'd',
                Value::Time(_) => b't',
                _ => b'.',
            });
            describe_bytes(text.as_bytes(), out);
        }
        Value::TimeDelta { days, seconds, microseconds } => {
            out.push(b'~');
            out.extend_from_slice(&days.to_le_bytes());
            out.extend_from_slice(&seconds.to_le_bytes());
            out.extend_from_slice(&microseconds.to_le_bytes());
        }
        Value::Uuid(uuid) => {
            out.push(b'U');
            out.extend_from_slice(uuid.as_bytes());
        }
        Value::Complex { real, imaginary } => {
            if real.is_nan() || imaginary.is_nan() {
                return Ok(false);
            }
            if *imaginary != 0.0 {
                out.push(b'C');
                describe_float(*imaginary, out);
            }
            describe_float(*real, out);
        }
        Value::Exception(_) | Value::Opaque(_) => return Ok(false),
        Value::List(_) | Value::Set(_) | Value::Dict(_) => {
            let kind = key.type_name();
            return Err(Error::Decode {
                reason: format!("a {kind} cannot be a key of a dict nor a member of a set"),
            });
        }
    }
    Ok(true)
}

/// True is 1, and 1.0 too.
fn describe_integer(value: i64, out: &mut Vec<u8>) {
    out.push(b'i');
    out.extend_from_slice(&value.to_le_bytes());
}

fn describe_float(value: f64, out: &mut Vec<u8>) {
    if value.fract() != 0.0 || value.is_infinite() {
        out.push(b'f');
        out.extend_from_slice(&value.to_le_bytes());
        return;
    }
    match Value::integer(integral(value)) {
        Value::Int(value) => describe_integer(value, out),
        Value::BigInt(value) => {
            out.push(b'I');
            describe_bytes(&value.to_signed_bytes_le(), out);
        }
        _ => {}
    }
}

/// A float without a fraction, as the integer that it is.
fn integral(value: f64) -> BigInt {
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32 - 1075;
    let mantissa = BigInt::from(bits & 0xf_ffff_ffff_ffff | 1 << 52);
    let size = match exponent {
        _ if value == 0.0 => BigInt::ZERO,
        0.. => mantissa << exponent.unsigned_abs(),
        _ => mantissa >> exponent.unsigned_abs(),
    };
    if value.is_sign_negative() { -size } else { size }
}

fn describe_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&bytes.len().to_le_bytes());
    out.extend_from_slice(bytes);
}
