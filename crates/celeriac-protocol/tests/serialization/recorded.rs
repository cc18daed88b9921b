//! What Python makes of many bodies: `tests/golden/serializers.json`, recorded by `record_serializers.py` beside it.

use celeriac_protocol::serialization::{Value, by_name};

use crate::support::{arrived, base64, canonical, decode, encode, golden};

#[test]
fn bodies_are_read_as_python_reads_them() {
    let mut counts = [0; 2];
    for case in golden("serializers") {
        let name = case["serializer"].as_str().unwrap();
        let body = base64(&case["body"]);
        let shown = String::from_utf8_lossy(&body).into_owned();
        match (decode(name, &body), case["value"].as_str()) {
            (Ok(value), Some(expected)) => {
                let expected = Value::from_tagged_json(expected).unwrap();
                assert_eq!(canonical(&value), canonical(&expected), "{name}: {shown:?}");
                counts[0] += 1;
            }
            (Err(_), None) => counts[1] += 1,
            (actual, expected) => panic!("{name}: {shown:?} is {actual:?} instead of {expected:?}"),
        }
    }
    assert!(counts[0] > 1000 && counts[1] > 200, "{counts:?}");
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
