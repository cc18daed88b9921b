//! What a pickle may name, and what becomes of the rest.

use celeriac_protocol::serialization::pickle::{OpaqueValues, encode_with};
use celeriac_protocol::serialization::{Exception, Opaque, OpaqueKind, Value};

use crate::support::{decode, encode, tagged};

fn opaque(body: &[u8]) -> Opaque {
    match decode("pickle", body).unwrap() {
        Value::Opaque(opaque) => *opaque,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_class_that_is_not_known_is_never_more_than_data() {
    // os.system("id"), in protocol 0 and 4.
    for body in [
        b"cposix\nsystem\np0\n(Vid\np1\ntp2\nRp3\n.".as_slice(),
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
    ] {
        let value = opaque(body);
        assert_eq!(value, Opaque::called("posix", "system", vec![Value::from("id")]));
        let refusal = encode("pickle", &Value::Opaque(Box::new(value))).unwrap_err().to_string();
        assert!(refusal.contains("posix.system"), "{refusal}");
    }
}

#[test]
fn an_opaque_value_is_written_as_it_was_read_when_that_is_asked_for() {
    // A data class: made without a call, with its fields as state; a subclass of dict and one of list.
    for body in [
        b"\x80\x04\x8c\x05tasks\x8c\x05Point\x93)\x81}\x8c\x01xK\x01sb.".as_slice(),
        b"\x80\x04\x8c\x05tasks\x8c\x04Dict\x93)\x81(\x8c\x01xK\x01u.",
        b"\x80\x04\x8c\x05tasks\x8c\x04List\x93)\x81(K\x01K\x02e.",
        b"\x80\x04\x8c\x05tasks\x8c\x05Point\x93)}\x8c\x01xK\x01s\x92.",
        b"\x80\x04\x8c\x05tasks\x8c\x05Color\x93K\x01\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x03int\x93.",
    ] {
        let value = Value::Opaque(Box::new(opaque(body)));
        let written = encode_with(&value, OpaqueValues::Written).unwrap();
        assert_eq!(decode("pickle", &written).unwrap(), value);
        assert_eq!(Value::from_tagged_json(&tagged(&value)).unwrap(), value);
        assert!(encode("pickle", &value).is_err());
    }
    let point = opaque(b"\x80\x04\x8c\x05tasks\x8c\x05Point\x93)\x81}\x8c\x01xK\x01sb.");
    assert_eq!(point.kind, OpaqueKind::New);
    assert_eq!(tagged(&point.state.unwrap()), r#"{"x": 1}"#);
}

#[test]
fn the_ways_to_make_something_that_are_not_calls_of_a_name_are_refused() {
    for (body, why) in [
        (b"(lp0\nI1\na0g0\nI1\n\x85R.".as_slice(), "calls something other"),
        (b"K\x01)R.", "calls something other"),
        (b"K\x01)\x81.", "instance of something other"),
        (b"P1\n.", "persistent"),
        (b"K\x01Q.", "persistent"),
        (b"\x82\x01.", "extension registry"),
        (b"\x80\x05\x97.", "out of band"),
        (b"\x80\x06N.", "no protocol 6"),
        (b"\xff.", "no instruction"),
        (b"h\x00.", "reference to nothing"),
        (b"K\x01.K", ""),
        (b"K\x01a.", "stack is empty"),
        (b"K\x01K\x02a.", "no list"),
        (b"t.", "no mark"),
        (b"(K\x01d.", "without a value"),
        (b"]q\x00h\x00a.", "cyclic"),
        (b"]q\x00(h\x00\x85e.", "cyclic"),
        (b"}q\x00K\x01h\x00s.", "cyclic"),
    ] {
        match decode("pickle", body) {
            Ok(_) => assert!(why.is_empty(), "{body:?}"),
            Err(error) => assert!(!why.is_empty() && error.to_string().contains(why), "{error}"),
        }
    }
}

/// Celery wraps such an exception as data, and a Python that reads it makes a class of that name.
#[test]
fn an_exception_of_ones_own_travels_in_celerys_wrapper() {
    let exception = |module: &str, kind: &str| {
        Value::Exception(Box::new(Exception {
            module: module.to_owned(),
            kind: kind.to_owned(),
            args: vec![Value::from("no"), Value::Int(2)],
            state: None,
        }))
    };
    let own = exception("tasks", "Oops");
    let body = encode("pickle", &own).unwrap();
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("UnpickleableExceptionWrapper") && text.contains("Oops: no"), "{text}");
    assert_eq!(decode("pickle", &body).unwrap(), own);

    let known = exception("celery.exceptions", "Reject");
    let body = encode("pickle", &known).unwrap();
    assert!(!String::from_utf8_lossy(&body).contains("Wrapper"));
    assert_eq!(decode("pickle", &body).unwrap(), known);

    // No name of a module that has exceptions is a class by that alone.
    let body = encode("pickle", &exception("celery.exceptions", "numbers")).unwrap();
    assert!(String::from_utf8_lossy(&body).contains("Wrapper"));
}

#[test]
fn strings_of_python_2_are_read_as_ascii() {
    for (body, expected) in [
        (b"S'a\\'b\\n\\x41\\101'\n.".as_slice(), Some("a'b\nAA")),
        (b"S\"x\"\n.", Some("x")),
        (b"U\x02ab.", Some("ab")),
        (b"T\x02\x00\x00\x00ab.", Some("ab")),
        (b"V\\u00e4\xe4\n.", Some("ää")),
        (b"V\\\\u00e4\n.", Some("\\\\u00e4")),
        (b"U\x01\xe4.", None),
        (b"S'a\n.", None),
        (b"V\\u00\n.", None),
    ] {
        match (decode("pickle", body), expected) {
            (Ok(value), Some(expected)) => assert_eq!(value, Value::from(expected)),
            (Err(_), None) => {}
            (actual, expected) => panic!("{actual:?} instead of {expected:?}"),
        }
    }
}
