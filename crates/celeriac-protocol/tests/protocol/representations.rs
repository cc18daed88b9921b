//! `saferepr`.

use celeriac_protocol::repr::saferepr;
use serde_json::Value;

use crate::support::{golden, marker, wire};

/// Whether JSON brings the value to Python as it was, but for an outermost tuple.
fn survives_json(value: &Value, outermost: bool) -> bool {
    match marker(value) {
        Some(("tuple", items)) => {
            outermost && items.as_array().unwrap().iter().all(|item| survives_json(item, false))
        }
        Some(("map", _)) => false,
        Some(_) => true,
        None => match value {
            Value::Array(items) => items.iter().all(|item| survives_json(item, false)),
            // A dictionary that looks like a tag is one when it is read.
            Value::Object(members)
                if members.len() == 2 && members.get("__type__").is_some_and(|kind| kind == "bytes") =>
            {
                false
            }
            Value::Object(members) => members.values().all(|item| survives_json(item, false)),
            _ => true,
        },
    }
}

#[test]
fn prints_what_celery_prints() {
    let mut printed = 0;
    let mut skipped = Vec::new();
    let rows = golden("saferepr");
    for row in rows["rows"].as_array().unwrap() {
        let value = &row["value"];
        let json = wire(value).filter(|_| survives_json(value, true));
        let Some(json) = json else {
            let skip = value.to_string();
            if !skipped.contains(&skip) {
                skipped.push(skip);
            }
            continue;
        };
        let number = |name: &str| row[name].as_u64().map(|number| usize::try_from(number).unwrap());
        // Without a length it was called with the defaults.
        let (length, levels) = match number("maxlen") {
            Some(length) => (length, number("maxlevels")),
            None => (usize::MAX, Some(3)),
        };
        let tuple = marker(value).is_some_and(|(kind, _)| kind == "tuple");
        let actual = saferepr(json.as_bytes(), tuple, length, levels).unwrap();
        assert_eq!(actual, row["saferepr"].as_str().unwrap(), "{json} {length} {levels:?}");
        printed += 1;
    }
    skipped.sort();
    assert_eq!(
        skipped,
        [
            r#"[[],{},{"$tuple":[]}]"#,
            r#"{"$frozenset":["a"]}"#,
            r#"{"$map":[[1,"a"],[2,"b"]]}"#,
            r#"{"$map":[[null,1],[true,2],[1.5,3]]}"#,
            r#"{"$map":[[{"$tuple":[1,2]},"x"]]}"#,
            r#"{"$repr":"(1+2j)"}"#,
            r#"{"$set":[1,2,3]}"#,
            r#"{"$timedelta":86402.5}"#,
            r#"{"$tuple":[1,{"$tuple":[2,3]}]}"#,
            r#"{"$tuple":[{"$tuple":[]}]}"#,
            r#"{"__type__":"bytes","__value__":"abc"}"#,
        ]
    );
    assert_eq!(printed, 265);
}

#[test]
fn prints_single_values_as_python_does() {
    for (json, expected) in [
        ("null", "None"),
        ("-0", "0"),
        ("1E400", "inf"),
        ("12345678901234567890123", "12345678901234567890123"),
        (r#""it's""#, r"'it\'s'"),
        (r#""\ud800""#, "'\u{fffd}'"),
        (
            r#"{"__type__": "datetime", "__value__": "2026-01-02T03:04:05-05:30"}"#,
            "datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone(datetime.timedelta(days=-1, seconds=66600)))",
        ),
        (r#"{"__value__": "00:00:00.000001", "__type__": "time"}"#, "datetime.time(0, 0, 0, 1)"),
        (r#"{"__type__": "decimal", "__value__": 7}"#, "Decimal('7')"),
        (r#"{"__type__": "uuid", "__value__": {"int": 5}}"#, "UUID('00000000-0000-0000-0000-000000000005')"),
        // What kombu would refuse is the dictionary that it is.
        (r#"{"__type__": "date", "__value__": "soon"}"#, "{'__type__': 'date', '__value__': 'soon'}"),
        (r#"{"__type__": "date"}"#, "{'__type__': 'date'}"),
    ] {
        assert_eq!(saferepr(json.as_bytes(), false, 1024, Some(3)).unwrap(), expected);
    }
}

#[test]
fn closes_what_it_opened_when_the_length_is_used_up() {
    let json = r#"[[1, 2, 3, {"a": [4, 5]}], 6]"#;
    // As Python prints `saferepr(([1, 2, 3, {"a": [4, 5]}], 6), length, None)`.
    for (length, expected) in [
        (0, ", ..."),
        (1, "(, ...)"),
        (2, "([, ...])"),
        (3, "([1..., ...])"),
        (4, "([1, , ...])"),
        (6, "([1, 2..., ...])"),
        (10, "([1, 2, 3, , ...])"),
        (12, "([1, 2, 3, {, ...}])"),
        (13, "([1, 2, 3, {'a...', ...}])"),
        (14, "([1, 2, 3, {'a', ...}])"),
        (16, "([1, 2, 3, {'a': , ...}])"),
        (20, "([1, 2, 3, {'a': [4, , ...]}])"),
        (22, "([1, 2, 3, {'a': [4, 5...]}], ...)"),
    ] {
        assert_eq!(saferepr(json.as_bytes(), true, length, None).unwrap(), expected, "{length}");
    }
    assert_eq!(saferepr(b"[[1, 2, 3]]", true, 4, None).unwrap(), "([1, , ...],)");
}

#[test]
fn what_follows_the_cut_is_still_validated() {
    for json in ["[1, 2, ", "[1, 2, x]", "[1, 2] 3", "", "{1: 2}"] {
        assert!(saferepr(json.as_bytes(), false, 1, None).is_err(), "{json}");
    }
}
