//! What a plain scalar is, by how it looks: the implicit resolvers of YAML 1.1 as `PyYAML` has them.

/// What kind of value a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tag {
    Null,
    Bool,
    Int,
    Float,
    Str,
    Binary,
    Timestamp,
    Seq,
    Map,
    Set,
    OrderedMap,
    Pairs,
    /// `<<`.
    Merge,
    /// `=`.
    DefaultValue,
    /// Any other, which nothing is made of.
    Unknown(String),
}

impl Tag {
    pub(super) fn named(name: &str) -> Self {
        match name.strip_prefix("tag:yaml.org,2002:") {
            Some("null") => Self::Null,
            Some("bool") => Self::Bool,
            Some("int") => Self::Int,
            Some("float") => Self::Float,
            Some("str") => Self::Str,
            Some("binary") => Self::Binary,
            Some("timestamp") => Self::Timestamp,
            Some("seq") => Self::Seq,
            Some("map") => Self::Map,
            Some("set") => Self::Set,
            Some("omap") => Self::OrderedMap,
            Some("pairs") => Self::Pairs,
            Some("merge") => Self::Merge,
            Some("value") => Self::DefaultValue,
            _ => Self::Unknown(name.to_owned()),
        }
    }
}

/// The kind of a plain scalar.
pub(super) fn resolve(text: &str) -> Tag {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Tag::Null,
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false" | "False"
        | "FALSE" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => Tag::Bool,
        "<<" => Tag::Merge,
        "=" => Tag::DefaultValue,
        ".nan" | ".NaN" | ".NAN" => Tag::Float,
        _ if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) => Tag::Str,
        _ if is_float(text) => Tag::Float,
        _ if is_int(text) => Tag::Int,
        _ if is_timestamp(text) => Tag::Timestamp,
        _ => Tag::Str,
    }
}

fn all(text: &str, condition: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(condition)
}

fn is_digit_or_underscore(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'_'
}

/// `[0-9][0-9_]*`.
fn is_digits(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit()) && all(text, is_digit_or_underscore)
}

/// `(:[0-5]?[0-9])+`, of which the first colon is taken away.
fn are_sixties(text: &str) -> bool {
    text.split(':').all(|part| match part.as_bytes() {
        [digit] | [b'0'..=b'5', digit] => digit.is_ascii_digit(),
        _ => false,
    })
}

fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let Some((whole, fraction)) = unsigned.split_once('.') else { return false };
    if let Some((first, sixties)) = whole.split_once(':') {
        return is_digits(first) && are_sixties(sixties) && all(fraction, is_digit_or_underscore);
    }
    let (digits, exponent) = match fraction.find(['e', 'E']) {
        Some(at) => (&fraction[..at], Some(&fraction[at + 1..])),
        None => (fraction, None),
    };
    // The sign of an exponent is not optional: `1.0e3` is a text.
    let exponent_fits = exponent.is_none_or(|exponent| {
        exponent
            .strip_prefix(['-', '+'])
            .is_some_and(|digits| !digits.is_empty() && all(digits, |byte| byte.is_ascii_digit()))
    });
    if whole.is_empty() {
        // Nor can it have a sign when it begins with the point.
        return unsigned == text && is_digits(digits) && exponent_fits;
    }
    is_digits(whole) && all(digits, is_digit_or_underscore) && exponent_fits
}

fn is_int(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let some = |digits: &str, condition: fn(u8) -> bool| !digits.is_empty() && all(digits, condition);
    if let Some(digits) = unsigned.strip_prefix("0b") {
        return some(digits, |byte| matches!(byte, b'0' | b'1' | b'_'));
    }
    if let Some(digits) = unsigned.strip_prefix("0x") {
        return some(digits, |byte| byte.is_ascii_hexdigit() || byte == b'_');
    }
    if let Some(digits) = unsigned.strip_prefix('0') {
        return all(digits, |byte| matches!(byte, b'0'..=b'7' | b'_'));
    }
    match unsigned.split_once(':') {
        Some((first, sixties)) => is_digits(first) && are_sixties(sixties),
        None => is_digits(unsigned),
    }
}

fn is_timestamp(text: &str) -> bool {
    let is_date = |byte: &[u8]| {
        let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = byte else { return false };
        [y1, y2, y3, y4, m1, m2, d1, d2].iter().all(|digit| digit.is_ascii_digit())
    };
    is_date(text.as_bytes()) || Timestamp::parse(text).is_some_and(|timestamp| timestamp.time.is_some())
}

/// The parts of a timestamp, not yet checked for being possible.
pub(super) struct Timestamp {
    pub(super) year: i16,
    pub(super) month: i8,
    pub(super) day: i8,
    pub(super) time: Option<TimeOfDay>,
}

pub(super) struct TimeOfDay {
    pub(super) hour: i8,
    pub(super) minute: i8,
    pub(super) second: i8,
    pub(super) microsecond: i32,
    /// In minutes.
    pub(super) offset: Option<i32>,
}

impl Timestamp {
    /// `YYYY-M-D`, and perhaps `Th:mm:ss.fraction` and `Z` or `+h:mm`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let year = take_number(&mut rest, 4, 4)?;
        rest = rest.strip_prefix('-')?;
        let month = take_number(&mut rest, 1, 2)?;
        rest = rest.strip_prefix('-')?;
        let day = take_number(&mut rest, 1, 2)?;
        let mut timestamp =
            Self { year: i16::try_from(year).ok()?, month: month as i8, day: day as i8, time: None };
        if rest.is_empty() {
            return Some(timestamp);
        }
        let trimmed = rest.trim_start_matches([' ', '\t']);
        rest = rest.strip_prefix(['T', 't']).or_else(|| (trimmed.len() < rest.len()).then_some(trimmed))?;
        let hour = take_number(&mut rest, 1, 2)?;
        rest = rest.strip_prefix(':')?;
        let minute = take_number(&mut rest, 2, 2)?;
        rest = rest.strip_prefix(':')?;
        let second = take_number(&mut rest, 2, 2)?;
        let mut microsecond = 0;
        if let Some(after) = rest.strip_prefix('.') {
            let length = after.bytes().take_while(u8::is_ascii_digit).count();
            let digits = &after[..length.min(6)];
            microsecond = digits.parse().unwrap_or(0) * 10_i32.pow(6 - digits.len() as u32);
            rest = &after[length..];
        }
        timestamp.time = Some(TimeOfDay {
            hour: hour as i8,
            minute: minute as i8,
            second: second as i8,
            microsecond,
            offset: if rest.is_empty() { None } else { Some(parse_offset(rest)?) },
        });
        Some(timestamp)
    }
}

/// The offset in minutes; `None` when it is no offset.
fn parse_offset(text: &str) -> Option<i32> {
    let mut rest = text.trim_start_matches([' ', '\t']);
    if rest == "Z" {
        return Some(0);
    }
    let sign = if rest.starts_with('-') { -1 } else { 1 };
    rest = rest.strip_prefix(['-', '+'])?;
    let hours = take_number(&mut rest, 1, 2)?;
    let minutes = match rest.strip_prefix(':') {
        Some(after) => {
            rest = after;
            take_number(&mut rest, 2, 2)?
        }
        None => 0,
    };
    rest.is_empty().then_some(sign * (hours * 60 + minutes))
}

/// Takes a number of so many digits.
fn take_number(rest: &mut &str, least: usize, most: usize) -> Option<i32> {
    let length = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
    let number = rest[..length].parse().ok().filter(|_| length >= least)?;
    *rest = &rest[length..];
    Some(number)
}
