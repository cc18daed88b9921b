//! What Python compressed is read, and what Python reads or refuses is read or refused.

use celeriac_error::Error;
use celeriac_protocol::compression::{self, METHODS, stored};
use serde_json::Value;

use crate::{LIMIT, bytes, golden};

#[test]
fn the_names_and_content_types_are_those_of_kombu() {
    let vectors = golden("task_messages_compression.json");
    let aliases = vectors["aliases"].as_object().unwrap();
    for (alias, content_type) in aliases {
        let content_type = content_type.as_str().unwrap();
        assert_eq!(compression::find(alias).unwrap().content_type, content_type);
        assert_eq!(compression::find(content_type).unwrap().content_type, content_type);
    }
    let names: usize = METHODS.iter().map(|method| 1 + method.aliases.len()).sum();
    assert_eq!(names, aliases.len());
    for unknown in ["", "GZIP", "gzip ", "deflate", "application/gzip"] {
        assert!(compression::find(unknown).is_none(), "{unknown}");
        let decoded = compression::decompress(b"", unknown, LIMIT);
        assert!(matches!(decoded, Err(Error::Decode { .. })), "{decoded:?}");
        let encoded = compression::compress(b"", unknown);
        assert!(matches!(encoded, Err(Error::Encode { .. })), "{encoded:?}");
    }
}

#[test]
fn messages_of_celery_become_what_the_serializer_wrote() {
    let vectors = golden("task_messages_compression.json");
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let envelope = &case["redis"]["envelope"];
        let method = envelope["headers"]["compression"].as_str().unwrap();
        let body = bytes(&case["redis"]["body"]["base64"]);
        let plain = compression::decompress(&body, method, LIMIT).unwrap();
        if case["amqp"].is_object() {
            let amqp = bytes(&case["amqp"]["body"]["base64"]);
            assert_eq!(compression::decompress(&amqp, method, LIMIT).unwrap(), plain, "{name}");
        }
        let exact = compression::decompress(&body, method, plain.len()).unwrap();
        assert_eq!(exact, plain, "{name}");
        if envelope["content-type"] == "application/json" {
            let value: Value = serde_json::from_slice(&plain).unwrap();
            let args = if value.is_array() { &value[0] } else { &value["args"] };
            assert_eq!(*args, case["args"], "{name}");
        } else {
            assert!(memchr::memmem::find(&plain, b"nested").is_some(), "{name}");
        }
        let (again, content_type) = compression::compress(&plain, method).unwrap();
        assert_eq!(content_type, method, "{name}");
        assert_eq!(compression::decompress(&again, method, LIMIT).unwrap(), plain, "{name}");
    }
}

#[test]
fn streams_are_read_and_refused_as_by_python() {
    let vectors = golden("compression_streams.json");
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let (method, name) = (case["method"].as_str().unwrap(), case["name"].as_str().unwrap());
        let found = compression::decompress(&bytes(&case["input"]), method, LIMIT);
        match &case["output"] {
            Value::Null => {
                assert!(
                    matches!(found, Err(Error::Decode { .. })),
                    "{method}, {name}: {:?}",
                    found.map(|it| it.len())
                );
            }
            output => match found {
                Ok(found) => assert!(found == bytes(output), "{method}, {name}"),
                Err(error) => panic!("{method}, {name}: {error}"),
            },
        }
    }
}

#[test]
fn stored_results_of_celery_become_what_the_serializer_wrote() {
    let vectors = golden("results_redis.json");
    let mut compressed = 0;
    for run in vectors["runs"].as_array().unwrap() {
        for result in run["results"].as_array().unwrap() {
            let Some(value) = result["stored"]["value"]["base64"].as_str() else { continue };
            let value = bytes(&Value::from(value));
            let plain = stored::decode(&value, LIMIT).unwrap();
            if !stored::is_compressed(&value) {
                assert_eq!(*plain, *value);
                continue;
            }
            compressed += 1;
            let meta: Value = serde_json::from_slice(&plain).unwrap();
            assert!(meta["status"].is_string(), "{meta}");
            let method = value[stored::MARKER.len()..].split(|byte| *byte == 0).next().unwrap();
            let method = compression::find(std::str::from_utf8(method).unwrap()).unwrap();
            let again = stored::encode(&plain, method).unwrap();
            let head = stored::MARKER.len() + method.content_type.len() + 1;
            assert_eq!(again[..head], value[..head]);
            assert_eq!(*stored::decode(&again, plain.len()).unwrap(), *plain);
            assert!(matches!(stored::decode(&again, plain.len() - 1), Err(Error::LimitExceeded { .. })));
        }
    }
    assert_eq!(compressed, 26);
}

#[test]
fn a_damaged_stored_result_is_an_error() {
    for (payload, expected) in [
        (&b"\0celery-compressed\0"[..], "no compression is called ``"),
        (b"\0celery-compressed\0application/x-gzip", "not what gzip compressed"),
        (b"\0celery-compressed\0application/x-gzip\0", "not what gzip compressed"),
        (b"\0celery-compressed\0a\xff\0x", "no text"),
        (b"\0celery-compressed\0application/x-rar\0x", "no compression is called `application/x-rar`"),
    ] {
        let error = stored::decode(payload, LIMIT).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_DECODE");
        assert!(error.to_string().contains(expected), "{error}");
    }
    for plain in [&b""[..], b"\0", b"\0celery-compressed", b"{}"] {
        assert_eq!(*stored::decode(plain, 0).unwrap(), *plain);
    }
}
