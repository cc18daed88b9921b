//! How Python prints single values.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::civil::Time;

use crate::json::tag::Tagged;
use crate::time::{Clock, parse_civil, parse_clock, parse_date};

/// Appends a finite number as Python's `float.__repr__` prints it: the shortest digits that read back as the same
/// number, `1.0` and not `1`, an exponent from 1e16 up and below 1e-4. Not-a-number and the infinities are `nan`,
/// `inf` and `-inf`.
pub fn push_float(out: &mut String, value: f64) {
    if !value.is_finite() {
        out.push_str(if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        });
        return;
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        // Rust prints the same digits, without the exponent and without `.0`.
        let _ = write!(out, "{value}");
        if value.fract() == 0.0 {
            out.push_str(".0");
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    }
}

/// A JSON number as Python prints it.
pub(super) fn number(text: &str) -> Cow<'_, str> {
    match text {
        "NaN" => Cow::Borrowed("nan"),
        "Infinity" => Cow::Borrowed("inf"),
        "-Infinity" => Cow::Borrowed("-inf"),
        "-0" => Cow::Borrowed("0"),
        _ if !text.contains(['.', 'e', 'E']) => Cow::Borrowed(text),
        _ => {
            let mut out = String::new();
            push_float(&mut out, text.parse().unwrap_or(f64::NAN));
            Cow::Owned(out)
        }
    }
}

/// What is kept of a text of at least `limit` characters, before three dots: as many, up to the last space in them
/// (`celery.utils.text.truncate`). `None` when the text is shorter.
pub(super) fn truncated(text: &str, limit: i64) -> Option<&str> {
    let limit = usize::try_from(limit).ok()?;
    if text.len() < limit {
        return None;
    }
    let end = match text.char_indices().nth(limit) {
        Some((end, _)) => end,
        None if text.chars().count() == limit => text.len(),
        None => return None,
    };
    let kept = &text[..end];
    Some(kept.rfind(' ').map_or(kept, |space| &kept[..space]))
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// `None` when Python could not make such an object of the text.
pub(super) fn object(value: &Tagged<'_>) -> Option<String> {
    match value {
        Tagged::DateTime(text) => {
            let (civil, offset) = parse_civil(text)?;
            let (date, time) = (civil.date(), civil.time());
            let mut out = format!("datetime.datetime({}, {}, {}, ", date.year(), date.month(), date.day());
            push_clock(&mut out, time, offset);
            Some(out)
        }
        Tagged::Date(text) => {
            let (date, _) = parse_date(text)?;
            Some(format!("datetime.date({}, {}, {})", date.year(), date.month(), date.day()))
        }
        Tagged::Time(text) => {
            let (Clock::Time(time), offset) = parse_clock(text)? else { return None };
            let mut out = "datetime.time(".to_owned();
            push_clock(&mut out, time, offset);
            Some(out)
        }
        Tagged::Decimal(text) => Some(format!("Decimal('{text}')")),
        Tagged::Uuid(uuid) => Some(format!("UUID('{}')", uuid.hyphenated())),
        Tagged::Bytes(_) => None,
    }
}

/// Seconds and microseconds only when they are not zero, the offset when there is one, and the bracket.
fn push_clock(out: &mut String, time: Time, offset: Option<i32>) {
    let microseconds = time.subsec_nanosecond() / 1000;
    let _ = write!(out, "{}, {}", time.hour(), time.minute());
    if time.second() != 0 || microseconds != 0 {
        let _ = write!(out, ", {}", time.second());
    }
    if microseconds != 0 {
        let _ = write!(out, ", {microseconds}");
    }
    match offset {
        None => {}
        Some(0) => out.push_str(", tzinfo=datetime.timezone.utc"),
        Some(seconds) => {
            const DAY: i32 = 24 * 60 * 60;
            out.push_str(", tzinfo=datetime.timezone(datetime.timedelta(");
            if seconds < 0 {
                out.push_str("days=-1, ");
            }
            let _ = write!(out, "seconds={}))", seconds.rem_euclid(DAY));
        }
    }
    out.push(')');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_printed_as_python_prints_them() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e22, "1e+22"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            let mut out = String::new();
            push_float(&mut out, value);
            assert_eq!(out, expected);
        }
    }
}
