//! What Python makes of many bodies: `tests/golden/serializers.json`, recorded by `record_serializers.py` beside it.

use celeriac_protocol::serialization::{Value, by_name};

use crate::support::{arrived, base64, canonical, decode, encode, golden};

#[test]
fn bodies_are_read_as_python_reads_them() {
    let (mut read, mut refused, mut lenient) = (0, 0, 0);
    for case in golden("serializers") {
        let name = case["serializer"].as_str().unwrap();
        let body = base64(&case["body"]);
        let shown = String::from_utf8_lossy(&body).into_owned();
        if name == "yaml" && is_other_yaml(&shown) {
            continue;
        }
        match (decode(name, &body), case["value"].as_str()) {
            (Ok(value), Some(expected)) => {
                let expected = Value::from_tagged_json(expected).unwrap();
                assert_eq!(canonical(&value), canonical(&expected), "{name}: {shown:?}");
                read += 1;
            }
            (Err(_), None) => refused += 1,
            (Ok(_), None) if name == "yaml" => lenient += 1,
            (actual, expected) => panic!("{name}: {shown:?} is {actual:?} instead of {expected:?}"),
        }
    }
    assert!(read > 1000 && refused > 150 && lenient < 40, "{read} {refused} {lenient}");
}

/// Where YAML 1.2, which we read, differs from what `PyYAML` reads in what it never writes: line breaks beyond those of ASCII, half
/// characters as escapes, and a block that ends with the text. Of what Python refuses, YAML 1.2 takes more.
fn is_other_yaml(body: &str) -> bool {
    let escapes = body.to_ascii_lowercase();
    body.contains(['\u{85}', '\u{2028}', '\u{2029}'])
        || (["\\ud8", "\\udc", "\\udf"].iter().any(|half| escapes.contains(half)))
        || (body.starts_with('|') && !body.ends_with('\n'))
}

/// What is written of a value is read back as the same value, and so goes through any number of retries unchanged.
#[test]
fn what_was_read_is_written_and_read_back() {
    for case in golden("serializers") {
        let name = case["serializer"].as_str().unwrap();
        let Ok(value) = decode(name, &base64(&case["body"])) else { continue };
        for serializer in ["json", "yaml", "msgpack", "pickle"] {
            let Ok(body) = (by_name(serializer).unwrap().encode)(&value) else { continue };
            let Ok(again) = decode(serializer, &body) else {
                // Keys that are written and not read: see `vectors.rs`.
                assert!(matches!(serializer, "msgpack" | "yaml"), "{serializer}: {value:?}");
                continue;
            };
            assert_eq!(canonical(&again), canonical(&arrived(serializer, &value)), "{serializer}");
        }
        if name != "pickle" {
            assert!(encode(name, &value).is_ok(), "{value:?}");
        }
    }
}
