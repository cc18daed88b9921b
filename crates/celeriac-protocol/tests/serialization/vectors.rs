//! The recorded task messages, in every serializer.

use celeriac_error::Error;
use celeriac_protocol::serialization::{
    Encoded, Limits, Value, decode as decode_body, encode as encode_body,
};
use serde_json::Value as Json;

use crate::support::{arrived, base64, canonical, decode, encode, golden, typed};

/// What Celery writes, and no reader reads: integers as keys in msgpack, which reads texts only; tuples as keys in
/// YAML, which become lists; and in JSON a dict that looks like a tag of an unknown type.
const UNREADABLE: [&str; 4] = [
    "json-dict_marker_keys_unknown",
    "msgpack-dict_int_keys",
    "msgpack-dict_mixed_scalar_keys",
    "msgpack-dict_tuple_key",
];
const UNREADABLE_YAML: [&str; 2] = ["yaml-dict_tuple_key", HALF];

/// Half a character, which only `PyYAML` takes for YAML.
const HALF: &str = "yaml-str_lone_surrogate";

/// What Celery writes in JSON as another value than was meant; we refuse.
const MISREAD: [&str; 2] = ["json-dict_marker_keys_known", "json-dict_marker_keys_unknown"];

fn name_of(case: &Json) -> &str {
    case["app_config"]["task_serializer"].as_str().unwrap_or("json")
}

/// The arguments and the rest of a body of protocol 2, or of protocol 1.
fn parts(body: &Value) -> (Value, Value, Value) {
    match body {
        Value::List(parts) | Value::Tuple(parts) => match parts.as_slice() {
            [args, kwargs, embed] => (list(args), kwargs.clone(), embed.clone()),
            other => panic!("{other:?}"),
        },
        Value::Dict(members) => {
            let member = |name: &str| {
                members
                    .iter()
                    .find(|(key, _)| *key == Value::from(name))
                    .map(|(_, value)| value.clone())
                    .unwrap()
            };
            (list(&member("args")), member("kwargs"), Value::None)
        }
        other => panic!("{other:?}"),
    }
}

fn list(args: &Value) -> Value {
    match args {
        Value::Tuple(items) => Value::List(items.clone()),
        other => other.clone(),
    }
}

fn embed() -> Value {
    let names = ["callbacks", "errbacks", "chain", "chord"];
    Value::Dict(names.iter().map(|name| (Value::from(*name), Value::None)).collect())
}

#[test]
fn every_recorded_body_is_read_as_python_meant_it() {
    let mut count = 0;
    for file in ["task_messages_types", "task_messages_protocol"] {
        for case in golden(file) {
            let (id, name) = (case["name"].as_str().unwrap(), name_of(&case));
            if case["redis"]["error"].is_object() {
                continue;
            }
            let body = base64(&case["redis"]["body"]["base64"]);
            let decoded = decode(name, &body);
            if UNREADABLE.contains(&id) || UNREADABLE_YAML.contains(&id) {
                assert!(matches!(decoded, Err(Error::Decode { .. })), "{id}: {decoded:?}");
            } else {
                let (args, kwargs, rest) = parts(&decoded.unwrap());
                let expected = match id {
                    "json-dict_marker_keys_known" => Value::List(vec![Value::Bytes(b"abc".to_vec())]),
                    _ => arrived(name, &typed(&case["args"])),
                };
                assert_eq!(canonical(&args), canonical(&expected), "{id}");
                assert_eq!(canonical(&kwargs), canonical(&typed(&case["kwargs"])), "{id}");
                if case["app_config"]["task_protocol"] != 1 {
                    assert_eq!(canonical(&rest), canonical(&embed()), "{id}");
                }
            }
            count += 1;
        }
    }
    assert_eq!(count, 170);
}

#[test]
fn every_recorded_value_is_written_as_python_writes_it_or_refused_as_python_refuses_it() {
    let (mut written, mut refused, mut identical) = (0, 0, 0);
    for file in ["task_messages_types", "task_messages_protocol"] {
        for case in golden(file) {
            let (id, name) = (case["name"].as_str().unwrap(), name_of(&case));
            if case["app_config"]["task_protocol"] == 1 {
                continue;
            }
            let value = Value::List(vec![typed(&case["args"]), typed(&case["kwargs"]), embed()]);
            let encoded = encode(name, &value);
            if case["redis"]["error"].is_object() || MISREAD.contains(&id) || id == HALF {
                assert!(matches!(encoded, Err(Error::Encode { .. })), "{id}: {encoded:?}");
                refused += 1;
                continue;
            }
            let encoded = encoded.unwrap();
            // There is one way to write JSON and msgpack; in YAML and pickle there are many.
            if matches!(name, "json" | "msgpack") {
                assert_eq!(encoded, base64(&case["redis"]["body"]["base64"]), "{id}");
                identical += 1;
            }
            match decode(name, &encoded) {
                Ok(decoded) => {
                    assert_eq!(canonical(&decoded), canonical(&arrived(name, &value)), "{id}");
                }
                Err(error) => {
                    assert!(UNREADABLE.contains(&id) || UNREADABLE_YAML.contains(&id), "{id}: {error}");
                }
            }
            written += 1;
        }
    }
    assert_eq!((written, refused, identical), (162, 39, 74));
}

#[test]
fn a_message_says_what_it_is_as_celerys_does() {
    for case in golden("task_messages_protocol") {
        let envelope = &case["redis"]["envelope"];
        let value = Value::Dict(Vec::new());
        let encoded = encode_body(name_of(&case), &value).unwrap();
        assert_eq!(encoded.content_type, envelope["content-type"]);
        assert_eq!(encoded.content_encoding, envelope["content-encoding"]);
        let Encoded { content_type, content_encoding, body } = encoded;
        assert_eq!(decode_body(&body, content_type, content_encoding, &Limits::default()).unwrap(), value);
    }
}
