//! kombu's record of a held message: `[message, exchange, routing key]` as `json.dumps` writes it.
//!
//! It is taken apart from its end, without parsing the message: what we wrote around a message that is no JSON is found all
//! the same, and the message keeps its bytes.

use std::borrow::Cow;

/// A record, taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Record<'a> {
    /// The message as it was in its queue; for kombu's records, as kombu wrote it again.
    pub(super) raw: &'a [u8],
    pub(super) exchange: Cow<'a, str>,
    pub(super) routing_key: Cow<'a, str>,
}

/// `None` when the record has not this form.
pub(super) fn split(record: &[u8]) -> Option<Record<'_>> {
    let rest = record.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?.trim_ascii_end();
    let (rest, routing_key) = last_text(rest)?;
    let rest = rest.trim_ascii_end().strip_suffix(b",")?.trim_ascii_end();
    let (rest, exchange) = last_text(rest)?;
    let raw = rest.trim_ascii_end().strip_suffix(b",")?;
    Some(Record { raw, exchange, routing_key })
}

/// The JSON string (or null) at the end, and what is before it.
fn last_text(bytes: &[u8]) -> Option<(&[u8], Cow<'_, str>)> {
    if let Some(rest) = bytes.strip_suffix(b"null") {
        return Some((rest, Cow::Borrowed("")));
    }
    let inside = bytes.strip_suffix(b"\"")?;
    // Inside a string every quote has an odd number of backslashes before it.
    let mut start = inside.len();
    loop {
        start = inside[..start].iter().rposition(|&byte| byte == b'"')?;
        let backslashes = inside[..start].iter().rev().take_while(|&&byte| byte == b'\\').count();
        if backslashes % 2 == 0 {
            break;
        }
    }
    let text: String = serde_json::from_slice(&bytes[start..]).ok()?;
    Some((&bytes[..start], Cow::Owned(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(record: &str) -> Option<(&str, String, String)> {
        let record = split(record.as_bytes())?;
        Some((
            std::str::from_utf8(record.raw).unwrap(),
            record.exchange.into_owned(),
            record.routing_key.into_owned(),
        ))
    }

    #[test]
    fn the_message_keeps_its_bytes() {
        assert_eq!(
            parts(r#"[{"body": "x", "n": 1.0}, "celery", "key"]"#),
            Some((r#"{"body": "x", "n": 1.0}"#, "celery".to_owned(), "key".to_owned()))
        );
        assert_eq!(parts("[not json, \"\", \"q\"]"), Some(("not json", String::new(), "q".to_owned())));
        assert_eq!(parts("[, \"\", \"q\"]"), Some(("", String::new(), "q".to_owned())));
    }

    #[test]
    fn names_with_quotes_and_backslashes_are_read() {
        assert_eq!(
            parts(r#"["a, \"\", \"b", "", "q\\\", \"\u00e9\\"]"#),
            Some((r#""a, \"\", \"b""#, String::new(), "q\\\", \"é\\".to_owned()))
        );
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for record in ["", "[]", "{}", "[1, 2, 3]", r#"["only", "two"]"#, r#"[{}, "x" "y"]"#] {
            assert_eq!(parts(record), None, "{record}");
        }
    }
}
