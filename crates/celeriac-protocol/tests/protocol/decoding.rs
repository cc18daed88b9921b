//! Messages that no recorded client sent: other shapes that Celery reads, and what must be refused by name.

use celeriac_error::Error;
use celeriac_protocol::task::{TaskOptions, TaskRequest};
use celeriac_protocol::{DeliveryInfo, Message, envelope};

fn message(headers: &str, body: &str) -> Message {
    Message {
        body: body.to_owned().into(),
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        headers: headers.to_owned(),
        ..Message::default()
    }
}

fn decode(headers: &str, body: &str) -> Result<TaskRequest, Error> {
    TaskRequest::decode(&message(headers, body), &["application/json".to_owned()])
}

const HEADERS: &str = r#"{"task": "tasks.add", "id": "1"}"#;

#[test]
fn the_least_of_protocol_2_has_defaults() {
    let request = decode(HEADERS, "[[1], {}, null]").unwrap();
    let expected = TaskRequest {
        task: "tasks.add".to_owned(),
        id: "1".to_owned(),
        root_id: "1".to_owned(),
        args_json: "[1]".to_owned(),
        kwargs_json: "{}".to_owned(),
        ..TaskRequest::default()
    };
    assert_eq!(request, expected);
}

#[test]
fn the_least_of_protocol_1_has_defaults() {
    for headers in ["", "{}"] {
        let request = decode(headers, r#"{"task": "tasks.add", "id": "1", "taskset": "g"}"#).unwrap();
        assert_eq!((request.args_json.as_str(), request.kwargs_json.as_str()), ("[]", "{}"));
        assert_eq!(request.group.as_deref(), Some("g"));
        assert_eq!(request.root_id, "1");
    }
}

#[test]
fn in_the_hybrid_headers_win_over_the_body() {
    let headers =
        r#"{"task": "by.header", "id": "1", "retries": 2, "eta": null, "ignore_result": true, "x": [1]}"#;
    let body = r#"{"task": "by.body", "id": "2", "args": [1], "kwargs": {"a": 1}, "retries": 1, "lang": "py",
        "eta": "2030-01-01T00:00:00", "expires": "2031-01-01T00:00:00", "group": "g", "timelimit": [30, 20.5],
        "callbacks": [{"task": "c"}], "chord": {"task": "d"}, "chain": [{"task": "e"}], "ignore_result": false,
        "utc": false, "meth": "run"}"#;
    let request = decode(headers, body).unwrap();
    assert_eq!(request.task, "by.header");
    assert_eq!(request.id, "1");
    assert_eq!(request.retries, 2);
    assert_eq!(request.eta, None);
    assert_eq!(request.expires.as_deref(), Some("2031-01-01T00:00:00"));
    assert_eq!(request.group.as_deref(), Some("g"));
    assert_eq!(request.lang.as_deref(), Some("py"));
    assert_eq!(request.time_limit, (Some(30.0), Some(20.5)));
    assert_eq!(request.callbacks_json.as_deref(), Some(r#"[{"task": "c"}]"#));
    assert_eq!(request.chord_json.as_deref(), Some(r#"{"task": "d"}"#));
    assert_eq!(request.chain_json, None);
    assert_eq!(request.ignore_result, Some(true));
    assert_eq!(request.headers_json.as_deref(), Some(r#"{"x": [1]}"#));
}

#[test]
fn what_is_only_shown_may_be_anything() {
    let headers = r#"{"task": "t", "id": "1", "argsrepr": 5, "origin": null, "lang": ["x"], "shadow": {}}"#;
    let request = decode(headers, "[[], {}, {}]").unwrap();
    assert_eq!((request.argsrepr, request.origin, request.lang, request.shadow), (None, None, None, None));
}

#[test]
fn a_wrong_field_is_named() {
    for (headers, body, name) in [
        (r#"{"task": null, "id": "1"}"#, "[[], {}, {}]", "task"),
        (r#"{"task": ["a"], "id": "1"}"#, "[[], {}, {}]", "task"),
        (r#"{"task": "", "id": "1"}"#, "[[], {}, {}]", "task"),
        (r#"{"task": "t"}"#, "[[], {}, {}]", "id"),
        (r#"{"task": "t", "id": 1}"#, "[[], {}, {}]", "id"),
        (r#"{"task": "t", "id": "1", "retries": -1}"#, "[[], {}, {}]", "retries"),
        (r#"{"task": "t", "id": "1", "retries": "1"}"#, "[[], {}, {}]", "retries"),
        (r#"{"task": "t", "id": "1", "eta": 5}"#, "[[], {}, {}]", "eta"),
        (r#"{"task": "t", "id": "1", "eta": "soon"}"#, "[[], {}, {}]", "eta"),
        (r#"{"task": "t", "id": "1", "expires": "soon"}"#, "[[], {}, {}]", "expires"),
        (r#"{"task": "t", "id": "1", "timelimit": [1]}"#, "[[], {}, {}]", "timelimit"),
        (r#"{"task": "t", "id": "1", "timelimit": [1, NaN]}"#, "[[], {}, {}]", "timelimit"),
        (r#"{"task": "t", "id": "1", "group": 5}"#, "[[], {}, {}]", "group"),
        (r#"{"task": "t", "id": "1", "group_index": 1.5}"#, "[[], {}, {}]", "group_index"),
        (r#"{"task": "t", "id": "1", "stamps": []}"#, "[[], {}, {}]", "stamps"),
        (r#"{"task": "t", "id": "1", "stamped_headers": {}}"#, "[[], {}, {}]", "stamped_headers"),
        (r#"{"task": "t", "id": "1", "ignore_result": 1}"#, "[[], {}, {}]", "ignore_result"),
        (HEADERS, "[{}, {}, {}]", "args"),
        (HEADERS, "[[], null, {}]", "kwargs"),
        (HEADERS, "[[], {}, []]", "embed"),
        (HEADERS, "[[], {}, {\"callbacks\": {}}]", "callbacks"),
        (HEADERS, "[[], {}, {\"chord\": []}]", "chord"),
        (HEADERS, "[[], {}]", "[args, kwargs, embed]"),
        (HEADERS, "{\"kwargs\": {}}", "args"),
        (HEADERS, "{\"args\": null}", "args"),
        (HEADERS, "5", "body"),
        ("{}", "[[], {}, {}]", "task"),
        ("{}", "{}", "task"),
        ("{}", r#"{"task": "t", "id": "1", "kwargs": []}"#, "kwargs"),
    ] {
        let error = decode(headers, body).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidTask { reason } if reason.contains(name)),
            "{headers} {body}: {error}"
        );
    }
}

#[test]
fn a_body_that_is_not_json_is_an_error_of_decoding() {
    for body in ["", "not json", "[[], {}, {}", "{\"args\": [}", "\u{feff}[[], {}, {}]"] {
        assert!(matches!(decode(HEADERS, body), Err(Error::Decode { .. })), "{body}");
    }
    assert!(matches!(decode("[]", "[[], {}, {}]"), Err(Error::Decode { .. })));
    let binary = Message { body: vec![0x80, 0x02].into(), ..message(HEADERS, "") };
    let error = TaskRequest::decode(&binary, &["application/json".to_owned()]).unwrap_err();
    assert!(matches!(error, Error::Decode { reason } if reason.contains("UTF-8")));
}

#[test]
fn only_accepted_content_is_looked_at() {
    let pickled =
        Message { content_type: "application/x-python-serialize".to_owned(), ..message(HEADERS, "") };
    let accept = ["application/json".to_owned(), "application/x-yaml".to_owned()];
    let Err(Error::ContentDisallowed { content_type, accepted }) = TaskRequest::decode(&pickled, &accept)
    else {
        panic!("it was read");
    };
    assert_eq!(content_type, "application/x-python-serialize");
    assert_eq!(accepted, "application/json, application/x-yaml");
    for content_type in ["text/plain", "application/data", ""] {
        let other = Message { content_type: content_type.to_owned(), ..message(HEADERS, "[[], {}, {}]") };
        assert!(matches!(TaskRequest::decode(&other, &accept), Err(Error::ContentDisallowed { .. })));
    }
    let yaml = Message { content_type: "application/x-yaml".to_owned(), ..message(HEADERS, "[[], {}, {}]") };
    let error = TaskRequest::decode(&yaml, &accept).unwrap_err();
    assert!(matches!(error, Error::Decode { reason } if reason.contains("application/x-yaml")));
    let headers = r#"{"task": "t", "id": "1", "compression": "application/x-gzip"}"#;
    let error = decode(headers, "[[], {}, {}]").unwrap_err();
    assert!(matches!(error, Error::Decode { reason } if reason.contains("application/x-gzip")));
}

#[test]
fn an_envelope_may_lack_what_is_not_needed() {
    let plain = envelope::decode(r#"{"body": "[1, \"\u00e4\"]"}"#.as_bytes()).unwrap();
    let expected = Message { body: "[1, \"ä\"]".into(), headers: "{}".to_owned(), ..Message::default() };
    assert_eq!(plain, expected);
    let raw = r#"{"properties": {"body_encoding": "base64", "delivery_tag": 7, "priority": null, "x": NaN,
        "delivery_info": {"routing_key": "q", "redelivered": true}, "reply_to": null}, "headers": null,
        "content-type": null, "body": "WzFd\nIA=="}"#;
    let message = envelope::decode(raw.as_bytes()).unwrap();
    assert_eq!(&message.body[..], b"[1] ");
    assert_eq!(message.headers, "{}");
    assert_eq!(message.properties.delivery_tag.as_deref(), Some("7"));
    assert_eq!(message.properties.priority, None);
    assert_eq!(message.properties.other, "\"x\": NaN");
    let info = DeliveryInfo { exchange: String::new(), routing_key: "q".to_owned(), redelivered: true };
    assert_eq!(message.properties.delivery_info, info);
}

#[test]
fn what_is_no_envelope_is_refused() {
    for raw in [
        "not json",
        "{}",
        "[]",
        "null",
        r#"{"body": null}"#,
        r#"{"body": {}}"#,
        r#"{"body": "", "headers": []}"#,
        r#"{"body": "", "properties": "x"}"#,
        r#"{"body": "*", "properties": {"body_encoding": "base64"}}"#,
        r#"{"body": "", "properties": {"body_encoding": "rot13"}}"#,
        r#"{"body": "", "properties": {"priority": "high"}}"#,
        r#"{"body": "", "content-type": 5}"#,
    ] {
        let error = envelope::decode(raw.as_bytes()).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_DECODE", "{raw}");
    }
    for raw in ["not json", "{}", "[]", r#"{"body": 1}"#, r#"{"body": "", "headers": 5}"#] {
        assert_eq!(envelope::mark_redelivered(raw.as_bytes()), None, "{raw}");
    }
}

#[test]
fn marking_makes_the_places_that_are_missing() {
    for (raw, expected) in [
        (
            r#"{"body": ""}"#,
            r#"{"body": "", "headers": {"redelivered": true}, "properties": {"delivery_info": {"redelivered": true}}}"#,
        ),
        (
            r#"{"headers":null,"properties":{"delivery_info":{}},"body":"WzFd"}"#,
            r#"{"headers":{"redelivered": true},"properties":{"delivery_info":{"redelivered": true}},"body":"WzFd"}"#,
        ),
        (
            r#" {"body": "\ud800", "headers": { "a": 12345678901234567890 }, "properties": {}} "#,
            r#" {"body": "\ud800", "headers": { "a": 12345678901234567890 , "redelivered": true}, "properties": {"delivery_info": {"redelivered": true}}} "#,
        ),
    ] {
        let marked = envelope::mark_redelivered(raw.as_bytes()).unwrap();
        assert_eq!(std::str::from_utf8(&marked).unwrap(), expected);
        assert_eq!(envelope::mark_redelivered(&marked).unwrap(), marked);
    }
}

#[test]
fn options_are_read_from_javascript() {
    let text = r#"{"eta":"2030-01-01T00:00:00+00:00","expiration_ms":1500,"time_limit":[30,null],"ignore_result":null,
        "priority":9,"group":null,"callbacks":[{"task":"a","args":[NaN,12345678901234567890]}],"chord":null}"#;
    let options = TaskOptions::from_json(text).unwrap();
    assert_eq!(options.eta.as_deref(), Some("2030-01-01T00:00:00+00:00"));
    assert_eq!(options.expiration_ms, Some(1500));
    assert_eq!(options.time_limit, Some((Some(30.0), None)));
    assert_eq!(options.ignore_result, Some(None));
    assert_eq!(options.priority, Some(9));
    assert_eq!(
        options.callbacks_json.as_deref(),
        Some(r#"[{"task":"a","args":[NaN,12345678901234567890]}]"#)
    );
    assert_eq!((options.group, options.chord_json, options.retries), (None, None, 0));
    assert_eq!(TaskOptions::from_json("{}").unwrap().ignore_result, None);
}

#[test]
fn a_wrong_option_is_named() {
    for (text, name) in [
        (r#"{"qeue": "a"}"#, "qeue"),
        (r#"{"eta": 5}"#, "eta"),
        (r#"{"retries": -1}"#, "retries"),
        (r#"{"priority": 256}"#, "priority"),
        (r#"{"expiration_ms": 1.5}"#, "expiration_ms"),
        (r#"{"ignore_result": 1}"#, "ignore_result"),
        (r#"{"time_limit": 30}"#, "time_limit"),
        (r#"{"time_limit": [30, NaN]}"#, "time_limit"),
        (r#"{"callbacks": {}}"#, "callbacks"),
        (r#"{"headers": []}"#, "headers"),
        ("[]", "options"),
        ("{", "options"),
    ] {
        let error = TaskOptions::from_json(text).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_ENCODE");
        assert!(error.to_string().contains(name), "{error}");
    }
}
