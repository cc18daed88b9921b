//! The common form at the boundary to JavaScript.

use celeriac_error::Error;
use celeriac_protocol::serialization::{Exception, Opaque, OpaqueKind, Value, from_utf16};

use crate::support::{decode, tagged};

fn text(text: &str) -> Value {
    Value::from(text)
}

#[test]
fn each_type_has_its_form_and_comes_back() {
    let exception = Exception {
        module: "tasks".to_owned(),
        kind: "Oops".to_owned(),
        args: vec![Value::Int(1)],
        state: Some(Value::Dict(Vec::new())),
    };
    let mut opaque = Opaque::called("tasks", "Point", vec![Value::Int(1)]);
    opaque.kind = OpaqueKind::New;
    opaque.kwargs = vec![(text("z"), Value::None)];
    opaque.state = Some(Value::Int(2));
    opaque.items = vec![Value::Int(3)];
    opaque.entries = vec![(Value::Int(4), Value::Int(5))];
    for (value, expected) in [
        (Value::None, "null"),
        (Value::Bool(true), "true"),
        (Value::Int(9_007_199_254_740_991), "9007199254740991"),
        (Value::Int(-9_007_199_254_740_992), r#"{"__type__": "int", "__value__": "-9007199254740992"}"#),
        (
            Value::integer("10000000000000000000000".parse().unwrap()),
            r#"{"__type__": "int", "__value__": "10000000000000000000000"}"#,
        ),
        (Value::Float(1.0), "1.0"),
        (Value::Float(-0.0), "-0.0"),
        (Value::Float(1e22), "1e+22"),
        (Value::Float(f64::INFINITY), r#"{"__type__": "float", "__value__": "inf"}"#),
        (text("ä\n"), r#""\u00e4\n""#),
        (from_utf16(vec![0x78, 0xd800]), r#""x\ud800""#),
        (Value::Bytes(b"a".to_vec()), r#"{"__type__": "bytes", "__value__": "a"}"#),
        (Value::Bytes(vec![255]), r#"{"__type__": "base64", "__value__": "/w=="}"#),
        (Value::List(vec![Value::Int(1), Value::List(Vec::new())]), "[1, []]"),
        (Value::Tuple(vec![Value::None]), r#"{"__type__": "tuple", "__value__": [null]}"#),
        (Value::Set(vec![Value::Int(1)]), r#"{"__type__": "set", "__value__": [1]}"#),
        (Value::FrozenSet(Vec::new()), r#"{"__type__": "frozenset", "__value__": []}"#),
        (Value::Dict(vec![(text("a"), Value::Int(1))]), r#"{"a": 1}"#),
        (Value::Dict(vec![(Value::Int(1), text("a"))]), r#"{"__type__": "dict", "__value__": [[1, "a"]]}"#),
        // An ordinary dict that looks like a tag is none.
        (
            Value::Dict(vec![(text("__value__"), Value::Int(1)), (text("__type__"), text("tuple"))]),
            r#"{"__type__": "dict", "__value__": [["__value__", 1], ["__type__", "tuple"]]}"#,
        ),
        (
            Value::Dict(vec![(text("__type__"), text("tuple")), (text("x"), Value::None)]),
            r#"{"__type__": "tuple", "x": null}"#,
        ),
        (
            Value::DateTime("2026-01-02T03:04:05".to_owned()),
            r#"{"__type__": "datetime", "__value__": "2026-01-02T03:04:05"}"#,
        ),
        (Value::Date("2026-01-02".to_owned()), r#"{"__type__": "date", "__value__": "2026-01-02"}"#),
        (Value::Time("03:04:05".to_owned()), r#"{"__type__": "time", "__value__": "03:04:05"}"#),
        (
            Value::TimeDelta { days: -1, seconds: 86_399, microseconds: 5 },
            r#"{"__type__": "timedelta", "__value__": [-1, 86399, 5]}"#,
        ),
        (Value::Decimal("1.10".to_owned()), r#"{"__type__": "decimal", "__value__": "1.10"}"#),
        (
            Value::Uuid("12345678-1234-4678-9234-567812345678".parse().unwrap()),
            r#"{"__type__": "uuid", "__value__": {"hex": "12345678123446789234567812345678"}}"#,
        ),
        (
            Value::Complex { real: 1.0, imaginary: f64::NEG_INFINITY },
            r#"{"__type__": "complex", "__value__": [1.0, {"__type__": "float", "__value__": "-inf"}]}"#,
        ),
        (
            Value::Exception(Box::new(exception)),
            r#"{"__type__": "exception", "__value__": {"module": "tasks", "type": "Oops", "args": [1], "state": {}}}"#,
        ),
        (
            Value::Opaque(Box::new(opaque)),
            concat!(
                r#"{"__type__": "opaque", "__value__": {"module": "tasks", "name": "Point", "kind": "new", "#,
                r#""args": [1], "kwargs": [["z", null]], "state": 2, "items": [3], "entries": [[4, 5]]}}"#
            ),
        ),
    ] {
        assert_eq!(tagged(&value), expected);
        assert_eq!(Value::from_tagged_json(expected).unwrap(), value);
        let mut out = String::new();
        assert_eq!(value.to_tagged_json(&mut out).unwrap(), out.contains("__value__"), "{out}");
    }
}

#[test]
fn javascripts_own_numbers_are_read_as_python_reads_them() {
    assert_eq!(
        Value::from_tagged_json("[1, 1.0, -0, 1e3, NaN]").map(|value| tagged(&value)).unwrap(),
        r#"[1, 1.0, 0, 1000.0, {"__type__": "float", "__value__": "nan"}]"#
    );
    assert_eq!(Value::from_tagged_json("18446744073709551616").unwrap().type_name(), "int");
}

#[test]
fn of_equal_keys_the_last_value_wins_in_the_first_place() {
    let value = Value::from_tagged_json(
        r#"{"__type__": "dict", "__value__": [[1, "a"], ["1", "b"], [1.0, "c"], [true, "d"], [[], 0]]}"#,
    );
    assert!(value.unwrap_err().to_string().contains("list"));
    let value = Value::from_tagged_json(
        r#"{"__type__": "dict", "__value__": [[1, "a"], ["1", "b"], [1.0, "c"], [true, "d"]]}"#,
    );
    assert_eq!(tagged(&value.unwrap()), r#"{"__type__": "dict", "__value__": [[1, "d"], ["1", "b"]]}"#);
    let value = Value::from_tagged_json(r#"{"a": 1, "b": 2, "a": 3}"#).unwrap();
    assert_eq!(tagged(&value), r#"{"a": 3, "b": 2}"#);
    let value = Value::from_tagged_json(r#"{"__type__": "set", "__value__": [1, true, 2, 1.0]}"#).unwrap();
    assert_eq!(value, Value::Set(vec![Value::Int(1), Value::Int(2)]));
}

#[test]
fn our_own_tags_are_refused_in_what_comes_from_outside() {
    for kind in
        ["float", "int", "tuple", "set", "frozenset", "dict", "timedelta", "complex", "exception", "opaque"]
    {
        for value in ["[]", "\"1\"", "[1, 2]", "[1, 2, 3]", r#"{"name": "a", "type": "b"}"#] {
            let text = format!(r#"[{{"__type__": "{kind}", "__value__": {value}}}]"#);
            let error = decode("json", text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Decode { .. }), "{error}");
            assert!(error.to_string().contains(kind), "{error}");
        }
    }
}

#[test]
fn tags_that_do_not_fit_are_refused() {
    for text in [
        r#"{"__type__": "nope", "__value__": 1}"#,
        r#"{"__type__": 1, "__value__": 1}"#,
        r#"{"__type__": "int", "__value__": "1x"}"#,
        r#"{"__type__": "int", "__value__": "--1"}"#,
        r#"{"__type__": "float", "__value__": "1"}"#,
        r#"{"__type__": "tuple", "__value__": 1}"#,
        r#"{"__type__": "dict", "__value__": [[1]]}"#,
        r#"{"__type__": "timedelta", "__value__": [1, 2]}"#,
        r#"{"__type__": "timedelta", "__value__": [1000000000, 0, 0]}"#,
        r#"{"__type__": "complex", "__value__": [1, "2"]}"#,
        r#"{"__type__": "exception", "__value__": {"args": []}}"#,
        r#"{"__type__": "opaque", "__value__": {"name": "a", "kind": "x"}}"#,
        r#"{"__type__": "uuid", "__value__": {"hex": "1"}}"#,
        r#"{"__type__": "datetime", "__value__": "yesterday"}"#,
        r#"{"__type__": "decimal", "__value__": "1,5"}"#,
        r#"{"__type__": "base64", "__value__": "?"}"#,
    ] {
        let error = Value::from_tagged_json(text).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_DECODE", "{text}");
    }
}
