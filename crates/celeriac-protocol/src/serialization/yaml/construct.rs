//! Nodes to values, as `PyYAML`'s `SafeConstructor` makes them.

use celeriac_error::Result;
use jiff::civil::{Date, Time};
use num_bigint::BigInt;

use super::parse::{Content, Document, Id, Node};
use super::resolve::{Tag, Timestamp};
use super::wrong;
use crate::serialization::Value;
use crate::serialization::containers::{DictBuilder, SetBuilder};
use crate::serialization::limits::{
    Budget, MAX_INTEGER_DIGITS, check_digits, parse_integer, too_many_digits,
};
use crate::time::{format_clock, format_date};

pub(super) fn construct(document: Document, budget: &mut Budget) -> Result<Value> {
    let in_progress = vec![false; document.nodes.len()];
    Constructor { nodes: document.nodes, in_progress, budget }.value(document.root, 0)
}

struct Constructor<'a> {
    nodes: Vec<Node>,
    in_progress: Vec<bool>,
    budget: &'a mut Budget,
}

impl Constructor<'_> {
    /// Made anew for each alias, and counted.
    fn value(&mut self, id: Id, depth: usize) -> Result<Value> {
        self.budget.value()?;
        if self.in_progress[id] {
            return Err(wrong("its data is cyclic: something contains itself"));
        }
        self.in_progress[id] = true;
        let value = self.tagged(id, depth)?;
        self.in_progress[id] = false;
        Ok(value)
    }

    /// What is not a container has a function of its own, so that this one takes little of the stack.
    fn tagged(&mut self, id: Id, depth: usize) -> Result<Value> {
        match self.nodes[id].tag {
            Tag::Seq => {
                self.budget.depth(depth)?;
                let mut items = Vec::new();
                for item in self.sequence(id)? {
                    items.push(self.value(item, depth + 1)?);
                }
                Ok(Value::List(items))
            }
            Tag::Map => {
                let mut members = DictBuilder::default();
                for (key, value) in self.members(id, depth)? {
                    let key = self.key(key, depth)?;
                    members.insert(key, self.value(value, depth + 1)?)?;
                }
                Ok(Value::Dict(members.finish()))
            }
            Tag::Set => {
                let mut members = SetBuilder::default();
                for (key, value) in self.members(id, depth)? {
                    let key = self.key(key, depth)?;
                    // Nobody looks at it, but it has to be a value.
                    self.value(value, depth + 1)?;
                    members.insert(key)?;
                }
                Ok(Value::Set(members.finish()))
            }
            Tag::OrderedMap | Tag::Pairs => self.pairs(id, depth),
            _ => self.plain(id),
        }
    }

    fn plain(&mut self, id: Id) -> Result<Value> {
        match &self.nodes[id].tag {
            Tag::Null => self.text(id).map(|_| Value::None),
            Tag::Bool => self.text(id).and_then(boolean),
            Tag::Int => self.text(id).and_then(integer),
            Tag::Float => self.text(id).and_then(float),
            Tag::Binary => {
                let bytes = binary(self.text(id)?)?;
                self.budget.bytes(bytes.len())?;
                Ok(Value::Bytes(bytes))
            }
            Tag::Timestamp => match &self.nodes[id].content {
                Content::Scalar(Value::Text(text)) => timestamp(text),
                _ => Err(wrong("a timestamp is no text")),
            },
            Tag::Merge => Err(wrong("`<<` stands where no mapping is merged")),
            Tag::DefaultValue => Err(wrong("`=` stands where it is no key")),
            Tag::Unknown(name) => Err(wrong(&format!("nothing is made of the tag `{name}`"))),
            _ => {
                let text = self.scalar(id)?.clone();
                self.budget.bytes(match &text {
                    Value::Text(text) => text.len(),
                    Value::Utf16(units) => units.len() * 2,
                    _ => 0,
                })?;
                Ok(text)
            }
        }
    }

    /// A scalar, or what stands under `=` in a mapping.
    fn scalar(&self, id: Id) -> Result<&Value> {
        let mut id = id;
        // As many steps as there are nodes: more would be a circle.
        for _ in 0..=self.nodes.len() {
            match &self.nodes[id].content {
                Content::Scalar(text) => return Ok(text),
                Content::Mapping(members) => {
                    let default = members.iter().find(|(key, _)| self.nodes[*key].tag == Tag::DefaultValue);
                    id = default.ok_or_else(|| wrong("a mapping stands where a scalar is expected"))?.1;
                }
                Content::Sequence(_) => return Err(wrong("a sequence stands where a scalar is expected")),
            }
        }
        Err(wrong("its data is cyclic: something contains itself"))
    }

    fn text(&self, id: Id) -> Result<&str> {
        match self.scalar(id)? {
            Value::Text(text) => Ok(text),
            _ => Err(wrong("lone surrogates stand where plain text is expected")),
        }
    }

    fn sequence(&self, id: Id) -> Result<Vec<Id>> {
        match &self.nodes[id].content {
            Content::Sequence(items) => Ok(items.clone()),
            _ => Err(wrong("something else stands where a sequence is expected")),
        }
    }

    fn members(&mut self, id: Id, depth: usize) -> Result<Vec<(Id, Id)>> {
        self.budget.depth(depth)?;
        self.flatten(id, depth)?;
        match &self.nodes[id].content {
            Content::Mapping(members) => Ok(members.clone()),
            _ => Err(wrong("something else stands where a mapping is expected")),
        }
    }

    fn key(&mut self, id: Id, depth: usize) -> Result<Value> {
        let key = self.value(id, depth + 1)?;
        if matches!(key, Value::List(_) | Value::Dict(_) | Value::Set(_)) {
            return Err(wrong(&format!("a {} cannot be a key", key.type_name())));
        }
        Ok(key)
    }

    /// Puts what `<<` names before the members of a mapping, so that its own win.
    fn flatten(&mut self, id: Id, depth: usize) -> Result<()> {
        self.budget.depth(depth)?;
        let Content::Mapping(members) = &mut self.nodes[id].content else { return Ok(()) };
        let members = std::mem::take(members);
        let (merges, own): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|(key, _)| self.nodes[*key].tag == Tag::Merge);
        for (key, _) in &own {
            if self.nodes[*key].tag == Tag::DefaultValue {
                self.nodes[*key].tag = Tag::Str;
            }
        }
        // What is merged may be this mapping itself, which then has its own members.
        self.nodes[id].content = Content::Mapping(own);
        let mut inherited = Vec::new();
        for (_, source) in merges {
            let sources = match &self.nodes[source].content {
                Content::Mapping(_) => vec![source],
                // Of several the first wins.
                Content::Sequence(items) => items.iter().rev().copied().collect(),
                Content::Scalar(_) => return Err(wrong("`<<` has neither a mapping nor a list of them")),
            };
            for source in sources {
                self.flatten(source, depth + 1)?;
                let Content::Mapping(members) = &self.nodes[source].content else {
                    return Err(wrong("`<<` has a list of something other than mappings"));
                };
                self.budget.values(members.len())?;
                inherited.extend_from_slice(members);
            }
        }
        if !inherited.is_empty()
            && let Content::Mapping(members) = &mut self.nodes[id].content
        {
            inherited.append(members);
            *members = inherited;
        }
        Ok(())
    }

    /// `!!omap` and `!!pairs`: a list of tuples.
    fn pairs(&mut self, id: Id, depth: usize) -> Result<Value> {
        self.budget.depth(depth)?;
        let mut pairs = Vec::new();
        for item in self.sequence(id)? {
            let Content::Mapping(members) = &self.nodes[item].content else {
                return Err(wrong("a pair is a mapping of one member"));
            };
            let [(key, value)] = *members.as_slice() else {
                return Err(wrong("a pair is a mapping of one member"));
            };
            self.budget.value()?;
            self.budget.depth(depth + 1)?;
            pairs.push(Value::Tuple(vec![self.value(key, depth + 2)?, self.value(value, depth + 2)?]));
        }
        Ok(Value::List(pairs))
    }
}

fn boolean(text: &str) -> Result<Value> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "on" => Ok(Value::Bool(true)),
        "no" | "false" | "off" => Ok(Value::Bool(false)),
        _ => Err(wrong(&format!("`{text}` is neither true nor false"))),
    }
}

fn integer(text: &str) -> Result<Value> {
    let broken = || wrong(&format!("`{}` is no integer", crate::json::excerpt(text)));
    let text = text.replace('_', "");
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    // White space around a number is possible when its tag is given.
    let of_radix = |digits: &str, radix: u32| {
        let digits = digits.trim();
        // No shorter than its decimal digits would be.
        if digits.len() > MAX_INTEGER_DIGITS * 4 {
            return Err(too_many_digits());
        }
        let digits = Some(digits).filter(|digits| digits.chars().all(|digit| digit.is_digit(radix)));
        digits.and_then(|digits| BigInt::parse_bytes(digits.as_bytes(), radix)).ok_or_else(broken)
    };
    let size = if let Some(digits) = unsigned.strip_prefix("0b") {
        of_radix(digits, 2)?
    } else if let Some(digits) = unsigned.strip_prefix("0x") {
        of_radix(digits, 16)?
    } else if unsigned.starts_with('0') {
        of_radix(unsigned.strip_prefix("0o").unwrap_or(unsigned), 8)?
    } else if unsigned.contains(':') {
        sixties(unsigned)?.ok_or_else(broken)?
    } else {
        unsigned_integer(unsigned)?.ok_or_else(broken)?
    };
    check_digits(if negative { -size } else { size }).map(Value::integer)
}

/// Digits alone, without a second sign.
fn unsigned_integer(digits: &str) -> Result<Option<BigInt>> {
    let digits = digits.trim();
    if digits.starts_with(['-', '+']) { Ok(None) } else { parse_integer(digits) }
}

fn sixties(text: &str) -> Result<Option<BigInt>> {
    // Each place is more than a digit.
    if text.len() > MAX_INTEGER_DIGITS {
        return Err(too_many_digits());
    }
    let mut value = BigInt::ZERO;
    for part in text.split(':') {
        let Some(part) = unsigned_integer(part)? else { return Ok(None) };
        value = value * 60 + part;
    }
    Ok(Some(value))
}

fn float(text: &str) -> Result<Value> {
    let broken = || wrong(&format!("`{}` is no float", crate::json::excerpt(text)));
    let text = text.replace('_', "").to_lowercase();
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let size = match unsigned {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        _ if unsigned.contains(':') => {
            let mut value = 0.0;
            let mut place = 1.0;
            // From the smallest on, as Python adds them up.
            for part in unsigned.rsplit(':') {
                if f64::is_infinite(place) {
                    return Err(broken());
                }
                value += part.trim().parse::<f64>().map_err(|_| broken())? * place;
                place *= 60.0;
            }
            value
        }
        _ => unsigned.trim().parse().map_err(|_| broken())?,
    };
    Ok(Value::Float(if negative { -size } else { size }))
}

/// Base64 as Python decodes it: other characters are skipped, and what follows the padding.
fn binary(text: &str) -> Result<Vec<u8>> {
    if !text.is_ascii() {
        return Err(wrong("base64 is ASCII"));
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0_u32, 0, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                if count >= 2 {
                    padding += 1;
                    if count + padding >= 4 {
                        return Ok(out);
                    }
                }
                continue;
            }
            _ => continue,
        };
        padding = 0;
        bits = bits << 6 | u32::from(digit);
        count += 1;
        if count > 1 {
            out.push((bits >> (8 - 2 * count)) as u8);
        }
        count %= 4;
    }
    if count == 0 { Ok(out) } else { Err(wrong("base64 is incomplete")) }
}

fn timestamp(text: &str) -> Result<Value> {
    let broken = || wrong(&format!("`{}` is no date or time that can be", crate::json::excerpt(text)));
    let parts = Timestamp::parse(text).ok_or_else(broken)?;
    let date = Date::new(parts.year, parts.month, parts.day).map_err(|_| broken())?;
    if parts.year < 1 {
        return Err(broken());
    }
    let Some(time) = parts.time else { return Ok(Value::Date(format_date(date))) };
    if time.offset.is_some_and(|offset| offset.abs() >= 24 * 60) {
        return Err(broken());
    }
    let clock =
        Time::new(time.hour, time.minute, time.second, time.microsecond * 1000).map_err(|_| broken())?;
    let clock = format_clock(clock, time.offset.map(|offset| offset * 60));
    Ok(Value::DateTime(format!("{}T{clock}", format_date(date))))
}
