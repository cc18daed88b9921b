//! The table of serializers, raw content, and what is said of both.

use celeriac_error::Error;
use celeriac_protocol::serialization::{
    Encoded, Limits, SERIALIZERS, Value, by_content_type, by_name, content_type_of, decode, encode,
};

#[test]
fn serializers_have_the_names_and_types_of_kombu() {
    for (name, content_type, content_encoding) in [
        ("json", "application/json", "utf-8"),
        ("pickle", "application/x-python-serialize", "binary"),
        ("yaml", "application/x-yaml", "utf-8"),
        ("msgpack", "application/x-msgpack", "binary"),
        ("raw", "application/data", "binary"),
        ("text", "text/plain", "utf-8"),
    ] {
        let serializer = by_name(name).unwrap();
        assert_eq!((serializer.content_type, serializer.content_encoding), (content_type, content_encoding));
        assert_eq!(by_content_type(content_type).unwrap().name, name);
        assert_eq!(content_type_of(name).unwrap(), content_type);
    }
    assert_eq!(SERIALIZERS.len(), 6);
    assert_eq!(content_type_of("application/x-own").unwrap(), "application/x-own");
    assert!(by_name("auth").is_none());
    for error in [content_type_of("xml").unwrap_err(), encode("xml", &Value::None).unwrap_err()] {
        assert!(matches!(error, Error::InvalidArgument { .. }));
        assert!(error.to_string().contains("`xml`") && error.to_string().contains("msgpack"), "{error}");
    }
}

#[test]
fn raw_content_is_bytes_or_text_by_its_encoding() {
    let limits = Limits::default();
    let bytes = Value::Bytes(vec![0, 255]);
    let text = Value::from("ä");
    let raw = encode("raw", &bytes).unwrap();
    assert_eq!(
        raw,
        Encoded { content_type: "application/data", content_encoding: "binary", body: vec![0, 255] }
    );
    assert_eq!(decode(&raw.body, raw.content_type, raw.content_encoding, &limits).unwrap(), bytes);
    for name in ["raw", "text"] {
        let encoded = encode(name, &text).unwrap();
        assert_eq!((encoded.content_encoding, encoded.body.as_slice()), ("utf-8", "ä".as_bytes()));
        let Encoded { content_type, content_encoding, body } = encoded;
        assert_eq!(decode(&body, content_type, content_encoding, &limits).unwrap(), text);
        assert!(encode(name, &Value::Int(1)).is_err());
    }
    assert!(encode("text", &bytes).is_err());
    assert_eq!(decode(b"\xe4", "text/plain", "latin-1", &limits).unwrap(), text);
    assert_eq!(decode(b"a", "text/plain", "US-ASCII", &limits).unwrap(), Value::from("a"));
    for (body, encoding) in [(b"\xe4", "utf-8"), (b"\xe4", "us-ascii"), (b"a", "koi8-r")] {
        assert!(matches!(decode(body, "text/plain", encoding, &limits), Err(Error::Decode { .. })));
    }
}

#[test]
fn an_empty_body_is_not_parsed_and_an_unknown_type_is_an_error() {
    let limits = Limits::default();
    let nothing = Value::Bytes(Vec::new());
    assert_eq!(decode(b"", "application/json", "utf-8", &limits).unwrap(), nothing);
    let error = decode(b"x", "application/xml", "utf-8", &limits).unwrap_err();
    assert!(error.to_string().contains("application/xml"));
}
