//! Python's JSON for `JSON.parse`.

use std::borrow::Cow;

use celeriac_protocol::json::{array_items, object_members, push_string, string_value, to_javascript};

fn rewritten(text: &str) -> (String, bool) {
    let result = to_javascript(text.as_bytes()).unwrap();
    (result.text.into_owned(), result.tagged)
}

#[test]
fn plain_text_is_borrowed() {
    for text in [
        "[1, -2.5e3, \"ä\", null, true, {}]",
        "9007199254740991",
        "-9007199254740991",
        "0.30000000000000004",
        "12345678901234567890e2",
        "\"NaN, Infinity and __type__ in a string, 12345678901234567890 too\"",
        "{\"__type__\": \"bytes\", \"__value__\": \"abc\", \"x\": 1}",
        "{\"__type__\": \"bytes\"}",
        "\"\\ud800\"",
        " [ ] ",
    ] {
        let result = to_javascript(text.as_bytes()).unwrap();
        assert!(matches!(result.text, Cow::Borrowed(same) if same == text), "{text}");
        assert!(!result.tagged, "{text}");
    }
}

#[test]
fn kombus_tags_stay_and_are_marked() {
    for text in [
        r#"{"__type__": "datetime", "__value__": "2026-01-01T00:00:00+00:00"}"#,
        r#"[{"a": {"__value__": "/w==", "__type__": "base64"}}]"#,
        r#"{"\u005f_type__": "bytes", "__value__": "abc"}"#,
        r#"{"__type__": "nope", "__type__": "bytes", "__value__": "abc"}"#,
        r#"{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000007"}}"#,
    ] {
        assert_eq!(rewritten(text), (text.to_owned(), true));
    }
}

#[test]
fn what_json_parse_would_lose_is_tagged() {
    for (text, expected) in [
        ("NaN", r#"{"__type__": "float", "__value__": "nan"}"#),
        ("[Infinity]", r#"[{"__type__": "float", "__value__": "inf"}]"#),
        ("[1, -Infinity ]", r#"[1, {"__type__": "float", "__value__": "-inf"} ]"#),
        (r#"{"a":9007199254740992}"#, r#"{"a":{"__type__": "int", "__value__": "9007199254740992"}}"#),
        ("-9007199254740992", r#"{"__type__": "int", "__value__": "-9007199254740992"}"#),
        ("[\"\\ud800\", NaN]", r#"["\ud800", {"__type__": "float", "__value__": "nan"}]"#),
        (
            r#"{"__type__": "decimal", "__value__": 12345678901234567890}"#,
            r#"{"__type__": "decimal", "__value__": "12345678901234567890"}"#,
        ),
        (
            r#"{"__type__": "uuid", "__value__": {"int": 7}}"#,
            r#"{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000007"}}"#,
        ),
    ] {
        assert_eq!(rewritten(text), (expected.to_owned(), true));
    }
}

#[test]
fn a_long_number_is_found_wherever_it_stands() {
    for before in 0..40 {
        for digits in 16..50 {
            let number = "9".repeat(digits);
            let text = format!("[{}{number}, 1]", " ".repeat(before));
            let expected = format!("{{\"__type__\": \"int\", \"__value__\": \"{number}\"}}, 1]");
            assert!(rewritten(&text).0.ends_with(&expected), "{text}");
        }
    }
}

#[test]
fn what_kombu_would_refuse_is_an_error_that_shows_it() {
    for text in [
        r#"{"__type__": "nope", "__value__": 1}"#,
        r#"{"__type__": "int", "__value__": "1"}"#,
        r#"{"__type__": 5, "__value__": 1}"#,
        r#"{"__type__": "datetime", "__value__": 1}"#,
        r#"{"__type__": "datetime", "__value__": "2026-02-30"}"#,
        r#"{"__type__": "date", "__value__": "soon"}"#,
        r#"{"__type__": "time", "__value__": "25:00"}"#,
        r#"{"__type__": "decimal", "__value__": "1.1.1"}"#,
        r#"{"__type__": "decimal", "__value__": 1.1}"#,
        r#"{"__type__": "base64", "__value__": "ä"}"#,
        r#"{"__type__": "uuid", "__value__": {"hex": "7"}}"#,
        r#"{"__type__": "bytes", "__value__": {"__type__": "bytes", "__value__": "a"}}"#,
    ] {
        let error = to_javascript(format!("[{text}]").as_bytes()).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_DECODE");
        assert!(error.to_string().contains(&text[..20]), "{error}");
    }
}

#[test]
fn broken_text_is_an_error_on_both_paths() {
    for text in [
        "",
        "[1,]",
        "[1 2]",
        "{\"a\" 1}",
        "{a: 1}",
        "nul",
        "01",
        "1.",
        "+1",
        "-NaN",
        "\"\n\"",
        "[1] 2",
        "'a'",
    ] {
        assert!(to_javascript(text.as_bytes()).is_err(), "{text}");
        assert!(to_javascript(format!("[NaN, {text}").as_bytes()).is_err(), "{text}");
    }
    for bytes in [b"\"\xff\"".as_slice(), b"[NaN, \"\xff\"]"] {
        assert!(to_javascript(bytes).is_err());
    }
}

#[test]
fn items_and_members_are_slices_of_the_text() {
    assert_eq!(
        array_items(b" [1 , [2,3],\"a\\ud800\" ,NaN] ").unwrap(),
        ["1", "[2,3]", "\"a\\ud800\"", "NaN"]
    );
    assert!(array_items(b"[ ]").unwrap().is_empty());
    let members = object_members(br#"{"a" : 1 , "\u00e4\ud83d\ude00\udc00": {"b": []}, "a": 2}"#).unwrap();
    assert_eq!(members, [("a".into(), "1"), ("ä😀\u{fffd}".into(), "{\"b\": []}"), ("a".into(), "2")]);
    for text in ["1", "{}", "[1", "[1]]"] {
        assert!(array_items(text.as_bytes()).is_err(), "{text}");
    }
    for text in ["1", "[]", "{\"a\": }", "{}{}"] {
        assert!(object_members(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn strings_are_borrowed_when_they_have_no_escapes() {
    assert!(matches!(string_value(" \"ä\" "), Ok(Cow::Borrowed("ä"))));
    assert!(matches!(string_value("\"\""), Ok(Cow::Borrowed(""))));
    assert_eq!(string_value(r#""\u00e4\"""#).unwrap(), "ä\"");
    for text in ["", "\"", "1", "\"a\" 1", "\"\\x\""] {
        assert!(string_value(text).is_err(), "{text}");
    }
}

#[test]
fn strings_are_escaped_as_python_does() {
    let mut out = String::new();
    push_string(&mut out, "a\"\\/\n\r\t\u{8}\u{c}\0\u{1f}~\u{7f}ä\u{2028}😀");
    assert_eq!(out, r#""a\"\\/\n\r\t\b\f\u0000\u001f~\u007f\u00e4\u2028\ud83d\ude00""#);
}
