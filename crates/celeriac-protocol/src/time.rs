//! Times as text: what Python's `isoformat` prints and what Celery reads.
//!
//! Source of the rules: `celery.utils.time.maybe_iso8601`, which is `dateutil.parser.isoparse`.

use std::fmt::Write as _;

use celeriac_error::{Error, Result};
use jiff::civil::{Date, DateTime, ISOWeekDate, Time, Weekday};
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};

/// Reads an ISO 8601 date, or date and time, as Celery reads `eta` and `expires`. Without an offset it is UTC.
///
/// Dates are `YYYY`, `YYYY-MM`, `YYYY-MM-DD`, `YYYYMMDD`, `YYYY-Www[-D]` and `YYYY-DDD`; after any one character
/// `hh`, `hh:mm`, `hh:mm:ss` or `hh:mm:ss.ffffff` (a comma will do; digits beyond the sixth are dropped; colons
/// may be missing), `24:00` included; then `Z`, `±hh`, `±hh:mm` or `±hhmm`.
///
/// # Errors
/// [`Error::Decode`] when it is none of these or there is no such day.
pub fn parse_datetime(text: &str) -> Result<Timestamp> {
    let wrong = || Error::Decode { reason: format!("`{text}` is no ISO 8601 date and time") };
    let (civil, offset) = parse_civil(text).ok_or_else(wrong)?;
    let seconds = offset.unwrap_or(0);
    // The last hours of the year 9999 are no timestamps, and as good as never.
    let as_utc = Offset::UTC.to_timestamp(civil).unwrap_or(Timestamp::MAX);
    Ok(as_utc.checked_sub(i64::from(seconds).seconds()).unwrap_or(Timestamp::MAX))
}

/// Prints a time as Python's `isoformat` prints an aware UTC `datetime`: `2026-01-02T03:04:05.678901+00:00`, without
/// the fraction when the microseconds are zero.
pub fn format_timestamp(timestamp: Timestamp) -> String {
    let civil = Offset::UTC.to_datetime(timestamp);
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        civil.year(),
        civil.month(),
        civil.day(),
        civil.hour(),
        civil.minute(),
        civil.second()
    );
    let microseconds = civil.subsec_nanosecond() / 1000;
    if microseconds != 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, ".{microseconds:06}");
    }
    text.push_str("+00:00");
    text
}

/// Prints a date as Python's `isoformat` does.
pub(crate) fn format_date(date: Date) -> String {
    format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day())
}

/// Prints a time of day, and its offset from UTC in seconds if it has one, as Python's `isoformat` does.
pub(crate) fn format_clock(time: Time, offset: Option<i32>) -> String {
    let mut text = format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second());
    let microseconds = time.subsec_nanosecond() / 1000;
    // Writing to a string cannot fail.
    if microseconds != 0 {
        let _ = write!(text, ".{microseconds:06}");
    }
    if let Some(offset) = offset {
        let sign = if offset < 0 { '-' } else { '+' };
        let size = offset.unsigned_abs();
        let _ = write!(text, "{sign}{:02}:{:02}", size / 3600, size / 60 % 60);
        if size % 60 != 0 {
            let _ = write!(text, ":{:02}", size % 60);
        }
    }
    text
}

/// The parts of [`parse_datetime`]: what a clock showed, and its offset from UTC in seconds if it is known.
pub(crate) fn parse_civil(text: &str) -> Option<(DateTime, Option<i32>)> {
    let (date, length) = parse_date(text)?;
    let rest = text.get(length..)?;
    let Some(separator) = rest.chars().next() else { return Some((date.at(0, 0, 0, 0), None)) };
    let (time, offset) = parse_clock(&rest[separator.len_utf8()..])?;
    let civil = match time {
        Clock::Time(time) => date.to_datetime(time),
        Clock::EndOfDay => date.tomorrow().ok()?.at(0, 0, 0, 0),
    };
    Some((civil, offset))
}

/// The date, and how many bytes it takes.
pub(crate) fn parse_date(text: &str) -> Option<(Date, usize)> {
    let year = i16::try_from(number(text, 0, 4)?).ok().filter(|year| *year > 0)?;
    let dash = usize::from(text.get(4..5) == Some("-"));
    let at = 4 + dash;
    if text.len() == 4 {
        return Some((Date::new(year, 1, 1).ok()?, 4));
    }
    if text.get(at..=at) == Some("W") {
        return parse_week(text, year, at + 1, dash);
    }
    common_date(text, year, at, dash).or_else(|| {
        let day_of_year = i16::try_from(number(text, at, 3)?).ok()?;
        let start = Date::new(year, 1, 1).ok()?;
        let date = start.checked_add(i64::from(day_of_year - 1).days()).ok()?;
        (day_of_year > 0 && date.year() == year).then_some((date, at + 3))
    })
}

fn common_date(text: &str, year: i16, at: usize, dash: usize) -> Option<(Date, usize)> {
    let month = i8::try_from(number(text, at, 2)?).ok()?;
    let mut at = at + 2;
    if text.len() == at && dash == 1 {
        return Some((Date::new(year, month, 1).ok()?, at));
    }
    if dash == 1 {
        (text.get(at..=at) == Some("-")).then_some(())?;
        at += 1;
    }
    let day = i8::try_from(number(text, at, 2)?).ok()?;
    Some((Date::new(year, month, day).ok()?, at + 2))
}

fn parse_week(text: &str, year: i16, at: usize, dash: usize) -> Option<(Date, usize)> {
    let week = i8::try_from(number(text, at, 2)?).ok()?;
    let mut at = at + 2;
    let mut day = 1;
    if text.len() > at {
        (usize::from(text.get(at..=at) == Some("-")) == dash).then_some(())?;
        at += dash;
        day = i8::try_from(number(text, at, 1)?).ok()?;
        at += 1;
    }
    let date = ISOWeekDate::new(year, week, Weekday::from_monday_one_offset(day).ok()?).ok()?;
    Some((date.date(), at))
}

/// What a clock shows.
pub(crate) enum Clock {
    /// Up to 23:59:59.999999.
    Time(Time),
    /// 24:00, the first moment of the next day.
    EndOfDay,
}

/// The time of day and the offset in seconds; all of `text`.
pub(crate) fn parse_clock(text: &str) -> Option<(Clock, Option<i32>)> {
    let (clock, offset) = match text.find(['+', '-', 'Z', 'z']) {
        Some(at) => (&text[..at], Some(parse_offset(&text[at..])?)),
        None => (text, None),
    };
    let hour = number(clock, 0, 2)?;
    let mut at = 2;
    let mut parts = [0; 2];
    let colon = usize::from(clock.get(2..3) == Some(":"));
    for part in &mut parts {
        if at == clock.len() {
            break;
        }
        (usize::from(clock.get(at..=at) == Some(":")) == colon).then_some(())?;
        at += colon;
        *part = number(clock, at, 2)?;
        at += 2;
    }
    let fraction = &clock[at..];
    let microseconds = match fraction.strip_prefix(['.', ',']) {
        Some(digits) => parse_fraction(digits)?,
        None => fraction.is_empty().then_some(0)?,
    };
    let [minute, second] = parts;
    if hour == 24 {
        return (minute + second + microseconds == 0).then_some((Clock::EndOfDay, offset));
    }
    let part = |value: u32| i8::try_from(value).ok();
    let nanoseconds = i32::try_from(microseconds * 1000).ok()?;
    Some((Clock::Time(Time::new(part(hour)?, part(minute)?, part(second)?, nanoseconds).ok()?), offset))
}

/// Microseconds: what follows the sixth digit is dropped.
fn parse_fraction(digits: &str) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let kept = &digits[..digits.len().min(6)];
    let scale = 10_u32.pow(6 - kept.len() as u32);
    Some(kept.parse::<u32>().ok()? * scale)
}

fn parse_offset(text: &str) -> Option<i32> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = text.get(1..)?.chars().filter(|character| *character != ':').collect();
    // Python prints seconds for offsets that have them, as those of the nineteenth century do.
    if !matches!(digits.len(), 2 | 4 | 6) {
        return None;
    }
    let part = |at| if digits.len() > at { number(&digits, at, 2) } else { Some(0) };
    let (hours, minutes, seconds) = (number(&digits, 0, 2)?, part(2)?, part(4)?);
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(sign * i32::try_from(hours * 3600 + minutes * 60 + seconds).ok()?)
}

fn number(text: &str, at: usize, digits: usize) -> Option<u32> {
    let part = text.get(at..at + digits)?;
    part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn utc(text: &str) -> String {
        format_timestamp(parse_datetime(text).unwrap())
    }

    #[test]
    fn reads_what_dateutil_reads() {
        for (text, expected) in [
            ("2026-01-02T03:04:05.678901+00:00", "2026-01-02T03:04:05.678901+00:00"),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
            ("2026-01-02T03:04:05", "2026-01-02T03:04:05+00:00"),
            ("2026-01-02 03:04", "2026-01-02T03:04:00+00:00"),
            ("2026-01-02T03", "2026-01-02T03:00:00+00:00"),
            ("20260102T030405,5", "2026-01-02T03:04:05.500000+00:00"),
            ("2026-01-02T03:04:05.1234567+02:00", "2026-01-02T01:04:05.123456+00:00"),
            ("2026-01-02T03:04:05-0530", "2026-01-02T08:34:05+00:00"),
            ("2026-01-02T03:04:05+01", "2026-01-02T02:04:05+00:00"),
            ("2026-01-02T24:00", "2026-01-03T00:00:00+00:00"),
            ("2026", "2026-01-01T00:00:00+00:00"),
            ("2026-03", "2026-03-01T00:00:00+00:00"),
            ("2026-03-04", "2026-03-04T00:00:00+00:00"),
            ("2026-W01-1", "2025-12-29T00:00:00+00:00"),
            ("2026W01", "2025-12-29T00:00:00+00:00"),
            // Beyond what a timestamp can be: the last one.
            ("9999-12-31T23:59:59", "9999-12-30T22:00:00.999999+00:00"),
            ("2026-060T12", "2026-03-01T12:00:00+00:00"),
        ] {
            assert_eq!(utc(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "now",
            "2026-",
            "202603",
            "2026-02-30",
            "2026-01-02T03z04:05",
            "2026-01-02T03:04Z00",
            "2026-13-01",
            "2026-01-02T",
            "2026-01-02T3",
            "0000-01-01",
            "2026-01-02T25:00",
            "2026-01-02T24:01",
            "2026-01-02T03:04:05.",
            "2026-01-02T03:04:05+",
            "2026-366",
            "2026-01-02T03:0405",
            "2026-01-02T03:04:05+0:00",
            "2026-01-02T03:04:05é",
            "é026-01-02",
            "9999-12-31T24:00",
        ] {
            let error = parse_datetime(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
