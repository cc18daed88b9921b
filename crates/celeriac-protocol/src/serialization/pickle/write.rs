//! Protocol 4.

use celeriac_error::{Error, Result};
use num_bigint::BigInt;

use super::OpaqueValues;
use super::classes::{WRAPPER, is_exception};
use crate::json::tag::is_decimal;
use crate::serialization::limits::check_depth;
use crate::serialization::text::to_utf8;
use crate::serialization::{Exception, Opaque, OpaqueKind, Value};
use crate::time::{Clock, parse_civil, parse_clock};

pub(super) fn encode(value: &Value, opaque_values: OpaqueValues) -> Result<Vec<u8>> {
    let mut writer = Writer { out: vec![0x80, 4], opaque_values };
    writer.value(value, 0)?;
    writer.out.push(b'.');
    Ok(writer.out)
}

fn refusal(why: &str) -> Error {
    Error::Encode { reason: format!("pickle: {why}") }
}

/// Nothing is shared in a value, so nothing is put into the memo, and frames are only for reading from files.
struct Writer {
    out: Vec<u8>,
    opaque_values: OpaqueValues,
}

impl Writer {
    /// What is not a container has a function of its own, so that this one takes little of the stack.
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        match value {
            Value::List(items) => {
                check_depth(depth)?;
                self.out.push(b']');
                self.marked(items, b'e', depth)
            }
            Value::Tuple(items) => self.tuple(items, depth),
            Value::Set(items) => {
                check_depth(depth)?;
                self.out.push(0x8f);
                self.marked(items, 0x90, depth)
            }
            Value::FrozenSet(items) => {
                check_depth(depth)?;
                self.out.push(b'(');
                self.values(items, depth)?;
                self.out.push(0x91);
                Ok(())
            }
            Value::Dict(members) => {
                check_depth(depth)?;
                self.out.push(b'}');
                self.members(members, depth)
            }
            Value::Exception(exception) => self.exception(exception, depth),
            Value::Opaque(opaque) => self.opaque(opaque, depth),
            other => self.plain(other),
        }
    }

    fn plain(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Bool(value) => self.out.push(if *value { 0x88 } else { 0x89 }),
            Value::Int(value) => self.integer(*value),
            Value::BigInt(value) => self.large_integer(value),
            Value::Float(value) => self.float(*value),
            Value::Text(text) => self.text(text.as_bytes()),
            Value::Utf16(units) => self.text(&to_utf8(units)),
            Value::Bytes(bytes) => self.sized(bytes, b'C', b'B', 0x8e),
            Value::DateTime(text) => self.datetime(text)?,
            Value::Date(text) => self.date(text)?,
            Value::Time(text) => self.time(text)?,
            Value::TimeDelta { days, seconds, microseconds } => {
                self.time_delta(i64::from(*days), i64::from(*seconds), i64::from(*microseconds));
            }
            Value::Decimal(text) if is_decimal(text) => {
                self.name("decimal", "Decimal");
                self.text(text.as_bytes());
                self.call(1);
            }
            Value::Decimal(text) => return Err(refusal(&format!("`{text}` is no Decimal"))),
            Value::Uuid(uuid) => {
                self.name("uuid", "UUID");
                self.out.extend_from_slice(b")\x81}");
                self.text(b"int");
                self.large_integer(&BigInt::from(uuid.as_u128()));
                self.out.extend_from_slice(b"sb");
            }
            Value::Complex { real, imaginary } => {
                self.name("builtins", "complex");
                self.float(*real);
                self.float(*imaginary);
                self.call(2);
            }
            _ => self.out.push(b'N'),
        }
        Ok(())
    }

    fn integer(&mut self, value: i64) {
        if let Ok(value) = u8::try_from(value) {
            self.out.extend_from_slice(&[b'K', value]);
        } else if let Ok(value) = u16::try_from(value) {
            self.out.push(b'M');
            self.out.extend_from_slice(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.out.push(b'J');
            self.out.extend_from_slice(&value.to_le_bytes());
        } else {
            self.out.extend_from_slice(&[0x8a, 8]);
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn large_integer(&mut self, value: &BigInt) {
        let bytes = value.to_signed_bytes_le();
        if let Ok(length) = u8::try_from(bytes.len()) {
            self.out.extend_from_slice(&[0x8a, length]);
        } else {
            self.out.push(0x8b);
            self.out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        }
        self.out.extend_from_slice(&bytes);
    }

    fn float(&mut self, value: f64) {
        self.out.push(b'G');
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    fn text(&mut self, bytes: &[u8]) {
        self.sized(bytes, 0x8c, b'X', 0x8d);
    }

    /// Bytes behind their length: of one byte, of four, or of eight.
    fn sized(&mut self, bytes: &[u8], short: u8, long: u8, longest: u8) {
        if let Ok(length) = u8::try_from(bytes.len()) {
            self.out.extend_from_slice(&[short, length]);
        } else if let Ok(length) = u32::try_from(bytes.len()) {
            self.out.push(long);
            self.out.extend_from_slice(&length.to_le_bytes());
        } else {
            self.out.push(longest);
            self.out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        }
        self.out.extend_from_slice(bytes);
    }

    fn values(&mut self, items: &[Value], depth: usize) -> Result<()> {
        for item in items {
            self.value(item, depth + 1)?;
        }
        Ok(())
    }

    fn marked(&mut self, items: &[Value], end: u8, depth: usize) -> Result<()> {
        if !items.is_empty() {
            self.out.push(b'(');
            self.values(items, depth)?;
            self.out.push(end);
        }
        Ok(())
    }

    fn members(&mut self, members: &[(Value, Value)], depth: usize) -> Result<()> {
        if !members.is_empty() {
            self.out.push(b'(');
            for (key, value) in members {
                self.value(key, depth + 1)?;
                self.value(value, depth + 1)?;
            }
            self.out.push(b'u');
        }
        Ok(())
    }

    fn tuple(&mut self, items: &[Value], depth: usize) -> Result<()> {
        check_depth(depth)?;
        self.arguments(items, depth)
    }

    /// A tuple that is no level of its own.
    fn arguments(&mut self, items: &[Value], depth: usize) -> Result<()> {
        if items.len() > 3 {
            self.out.push(b'(');
        }
        self.values(items, depth)?;
        self.tuple_of(items.len());
        Ok(())
    }

    /// A tuple of what lies on the stack; above a mark when there are more than three.
    fn tuple_of(&mut self, count: usize) {
        self.out.push(match count {
            0 => b')',
            1 => 0x85,
            2 => 0x86,
            3 => 0x87,
            _ => b't',
        });
    }

    fn name(&mut self, module: &str, name: &str) {
        self.text(module.as_bytes());
        self.text(name.as_bytes());
        self.out.push(0x93);
    }

    /// Calls what lies under so many arguments, three at most.
    fn call(&mut self, count: usize) {
        self.tuple_of(count);
        self.out.push(b'R');
    }

    fn time_delta(&mut self, days: i64, seconds: i64, microseconds: i64) {
        self.name("datetime", "timedelta");
        self.integer(days);
        self.integer(seconds);
        self.integer(microseconds);
        self.call(3);
    }

    fn datetime(&mut self, text: &str) -> Result<()> {
        let Some((civil, offset)) = parse_civil(text) else {
            return Err(refusal(&format!("`{text}` is no datetime")));
        };
        let mut bytes = date_bytes(civil.date()).to_vec();
        bytes.extend_from_slice(&clock_bytes(civil.time()));
        self.name("datetime", "datetime");
        self.with_offset(&bytes, offset);
        Ok(())
    }

    fn date(&mut self, text: &str) -> Result<()> {
        let Some((civil, _)) = parse_civil(text) else {
            return Err(refusal(&format!("`{text}` is no date")));
        };
        self.name("datetime", "date");
        self.with_offset(&date_bytes(civil.date()), None);
        Ok(())
    }

    fn time(&mut self, text: &str) -> Result<()> {
        let Some((Clock::Time(time), offset)) = parse_clock(text) else {
            return Err(refusal(&format!("`{text}` is no time")));
        };
        self.name("datetime", "time");
        self.with_offset(&clock_bytes(time), offset);
        Ok(())
    }

    fn with_offset(&mut self, bytes: &[u8], offset: Option<i32>) {
        self.sized(bytes, b'C', b'B', 0x8e);
        if let Some(offset) = offset {
            self.name("datetime", "timezone");
            self.time_delta(0, i64::from(offset), 0);
            self.call(1);
        }
        self.call(if offset.is_some() { 2 } else { 1 });
    }

    fn exception(&mut self, exception: &Exception, depth: usize) -> Result<()> {
        check_depth(depth)?;
        let Exception { module, kind, args, state } = exception;
        if is_exception(module, kind) {
            self.name(module, kind);
            self.arguments(args, depth)?;
            self.out.push(b'R');
            return self.state(state.as_ref(), depth);
        }
        self.name("celery.utils.serialization", WRAPPER);
        self.out.push(b'(');
        self.text(module.as_bytes());
        self.text(kind.as_bytes());
        self.arguments(args, depth)?;
        // What `str` of it gives.
        let mut text = kind.clone();
        if let [Value::Text(message), ..] = args.as_slice() {
            text.push_str(": ");
            text.push_str(message);
        }
        self.text(text.as_bytes());
        self.out.extend_from_slice(b"tR");
        Ok(())
    }

    fn state(&mut self, state: Option<&Value>, depth: usize) -> Result<()> {
        if let Some(state) = state {
            self.value(state, depth + 1)?;
            self.out.push(b'b');
        }
        Ok(())
    }

    fn opaque(&mut self, opaque: &Opaque, depth: usize) -> Result<()> {
        check_depth(depth)?;
        if self.opaque_values == OpaqueValues::Refused {
            let Opaque { module, name, .. } = opaque;
            return Err(refusal(&format!(
                "the reader would import and call `{module}.{name}`: opaque values are not sent on"
            )));
        }
        self.name(&opaque.module, &opaque.name);
        match opaque.kind {
            OpaqueKind::Name => return Ok(()),
            OpaqueKind::Call => {
                self.arguments(&opaque.args, depth)?;
                self.out.push(b'R');
            }
            OpaqueKind::New if opaque.kwargs.is_empty() => {
                self.arguments(&opaque.args, depth)?;
                self.out.push(0x81);
            }
            OpaqueKind::New => {
                self.arguments(&opaque.args, depth)?;
                self.out.push(b'}');
                self.members(&opaque.kwargs, depth)?;
                self.out.push(0x92);
            }
        }
        self.marked(&opaque.items, b'e', depth)?;
        self.members(&opaque.entries, depth)?;
        self.state(opaque.state.as_ref(), depth)
    }
}

fn date_bytes(date: jiff::civil::Date) -> [u8; 4] {
    let [high, low] = date.year().to_be_bytes();
    [high, low, date.month() as u8, date.day() as u8]
}

fn clock_bytes(time: jiff::civil::Time) -> [u8; 6] {
    let [_, high, middle, low] = (time.subsec_nanosecond() / 1000).to_be_bytes();
    [time.hour() as u8, time.minute() as u8, time.second() as u8, high, middle, low]
}
