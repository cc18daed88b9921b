//! Whatever a broker holds, reading it ends with a value or an error. And what was written is read back.

use celeriac_protocol::json::{array_items, object_members, push_string, string_value, to_javascript};
use celeriac_protocol::repr::{push_float, saferepr};
use celeriac_protocol::result_meta::{self, TaskMeta};
use celeriac_protocol::task::{TaskOptions, TaskRequest, TaskTemplate, encode};
use celeriac_protocol::time::{format_timestamp, parse_datetime};
use celeriac_protocol::{Message, envelope};
use proptest::prelude::*;

use crate::support::{LONE_SURROGATES, canonical, cases};

fn accept() -> Vec<String> {
    vec!["application/json".to_owned()]
}

fn template() -> TaskTemplate {
    TaskTemplate {
        task: "tasks.add".into(),
        origin: "gen1@host".into(),
        lang: "js".into(),
        reply_to: None,
        ignore_result: Some(false),
        time_limit: (Some(300.0), Some(0.5)),
        delivery_mode: 2,
        priority: 3,
        repr_max_levels: Some(3),
    }
}

/// Everything that reads bytes from outside.
fn read(bytes: &[u8]) {
    let _ = to_javascript(bytes);
    let _ = array_items(bytes);
    let _ = object_members(bytes);
    let _ = saferepr(bytes, true, 20, Some(3));
    let _ = saferepr(bytes, false, usize::MAX, None);
    let _ = result_meta::decode(bytes).map(|meta| result_meta::to_javascript(&meta));
    if let Some(marked) = envelope::mark_redelivered(bytes)
        && let Ok(message) = envelope::decode(&marked)
    {
        assert!(message.properties.delivery_info.redelivered);
    }
    if let Ok(message) = envelope::decode(bytes) {
        let _ = TaskRequest::decode(&message, &accept());
        let again = envelope::encode(&message, "exchange", "key");
        let again = envelope::decode(again.as_bytes()).unwrap();
        assert_eq!(again.body, message.body);
        assert_eq!(again.headers, message.headers);
    }
    let headers = String::from_utf8_lossy(bytes).into_owned();
    let _ = string_value(&headers);
    let _ = TaskOptions::from_json(&headers);
    let _ = parse_datetime(&headers);
    let _ = encode(&template(), "id", &headers, "{}", &TaskOptions::default());
    let message = Message {
        body: bytes.to_vec().into(),
        content_type: "application/json".to_owned(),
        headers: "{\"task\": \"a\", \"id\": \"b\"}".to_owned(),
        ..Message::default()
    };
    let _ = TaskRequest::decode(&message, &accept());
    let _ = TaskRequest::decode(&Message { headers, ..message }, &accept());
}

/// JSON in Python's sense, as text.
fn python_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        "-?[1-9][0-9]{0,40}",
        any::<f64>().prop_map(|value| {
            let mut out = String::new();
            push_float(&mut out, value);
            out.replace("inf", "Infinity").replace("nan", "NaN")
        }),
        any::<String>().prop_map(|text| quoted(&text)),
        Just(LONE_SURROGATES.to_owned()),
        Just("{\"__type__\": \"decimal\", \"__value__\": \"1.10\"}".to_owned()),
        Just("{\"__type__\": \"date\", \"__value__\": \"2026-01-02\", \"x\": 1}".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(|members| object(&members)),
        ]
    })
}

fn object(members: &[(String, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("{}: {value}", quoted(key))).collect();
    format!("{{{}}}", members.join(", "))
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    push_string(&mut out, text);
    out
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read(&bytes);
    }

    #[test]
    fn almost_json_never_panics(text in r#"([\[\]{}:, "\\0-9a-fNIue.+-]|\\u|"__type__": |NaN|\\ud8|"body": ){0,60}"#) {
        read(text.as_bytes());
    }

    #[test]
    fn damaged_messages_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let cases = cases("task_messages_protocol");
        let text = cases[0]["redis"]["envelope_text"].as_str().unwrap();
        let mut bytes = text.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at + 1);
        }
        read(&bytes);
    }

    #[test]
    fn valid_json_is_read_and_printed(json in python_json(), length in 0_usize..300) {
        let text = to_javascript(json.as_bytes()).unwrap();
        prop_assert!(text.tagged || text.text == json);
        canonical(&json).unwrap();
        let whole = saferepr(json.as_bytes(), false, usize::MAX, None).unwrap();
        let short = saferepr(json.as_bytes(), false, length, None).unwrap();
        if whole.chars().count() < length {
            prop_assert_eq!(short, whole);
        } else {
            // The last token may grow, by dots, quotes, escapes or as hexadecimal, and what is open is closed.
            prop_assert!(short.chars().count() <= 2 * length + 20, "{}", short);
        }
        read(json.as_bytes());
    }

    #[test]
    fn strings_and_floats_are_read_back(text in any::<String>(), number in any::<f64>()) {
        let json = quoted(&text);
        prop_assert!(json.is_ascii());
        prop_assert_eq!(string_value(&json).unwrap(), text.as_str());
        prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        let mut out = String::new();
        push_float(&mut out, number);
        let again: f64 = out.parse().unwrap();
        prop_assert!(again.to_bits() == number.to_bits() || number.is_nan() && again.is_nan());
    }

    #[test]
    fn a_task_message_is_read_back(
        args in prop::collection::vec(python_json(), 0..4),
        kwargs in prop::collection::vec((any::<String>(), python_json()), 0..3),
        id in ".{1,40}",
        queue in any::<String>(),
        group in prop::option::of(any::<String>()),
        retries in any::<u32>(),
    ) {
        let args = format!("[{}]", args.join(", "));
        let kwargs = object(&kwargs);
        let options = TaskOptions {
            group,
            retries,
            group_index: Some(u64::from(retries)),
            callbacks_json: Some("[NaN]".to_owned()),
            headers_json: Some("{\"x-own\": 12345678901234567890, \"lang\": \"c\"}".to_owned()),
            ..TaskOptions::default()
        };
        let message = encode(&template(), &id, &args, &kwargs, &options).unwrap();
        let raw = envelope::encode(&message, "", &queue);
        prop_assert!(raw.is_ascii() || args.chars().chain(kwargs.chars()).any(|character| !character.is_ascii()));
        let mut received = envelope::decode(raw.as_bytes()).unwrap();
        prop_assert_eq!(&received.properties.delivery_info.routing_key, &queue);
        prop_assert!(received.properties.delivery_tag.take().is_some());
        received.properties.delivery_info = message.properties.delivery_info.clone();
        prop_assert_eq!(&received, &message);
        let request = TaskRequest::decode(&received, &accept()).unwrap();
        prop_assert_eq!(request.args_json, args);
        prop_assert_eq!(request.kwargs_json, kwargs);
        prop_assert_eq!(&request.root_id, &id);
        prop_assert_eq!(request.id, id);
        prop_assert_eq!(request.group, options.group);
        prop_assert_eq!(request.retries, retries);
        prop_assert_eq!(request.group_index, options.group_index);
        prop_assert_eq!(request.time_limit, (Some(300.0), Some(0.5)));
        prop_assert_eq!(request.callbacks_json.as_deref(), Some("[NaN]"));
        prop_assert_eq!(request.lang.as_deref(), Some("c"));
        prop_assert_eq!(request.headers_json.as_deref(), Some("{\"x-own\": 12345678901234567890}"));
    }

    #[test]
    fn a_result_document_is_read_back(result in python_json(), id in ".*", traceback in prop::option::of(any::<String>())) {
        let meta = TaskMeta {
            task_id: id,
            status: "SUCCESS".to_owned(),
            result_json: result,
            traceback,
            children_json: "[]".to_owned(),
            ..TaskMeta::default()
        };
        prop_assert_eq!(result_meta::decode(result_meta::encode(&meta).as_bytes()).unwrap(), meta);
    }

    #[test]
    fn times_are_read_back(microseconds in -62_000_000_000_000_000_i64..250_000_000_000_000_000) {
        let text = format_timestamp(jiff::Timestamp::from_microsecond(microseconds).unwrap());
        prop_assert_eq!(parse_datetime(&text).unwrap().as_microsecond(), microseconds);
    }
}

#[test]
fn a_hundred_thousand_brackets_are_an_error() {
    let depth = 100_000;
    for (open, close) in [
        ("[", "]"),
        ("{\"a\":", "}"),
        ("[{\"__value__\":", "}]"),
        ("{\"__type__\": NaN, \"__value__\":", "}"),
    ] {
        for text in [open.repeat(depth), format!("{}1{}", open.repeat(depth), close.repeat(depth))] {
            assert!(to_javascript(text.as_bytes()).is_err());
            assert!(saferepr(text.as_bytes(), true, 1024, None).is_err());
            assert!(saferepr(text.as_bytes(), true, 1024, Some(3)).is_err());
            assert!(array_items(text.as_bytes()).is_err());
            assert!(object_members(text.as_bytes()).is_err());
            assert!(encode(&template(), "id", &text, "{}", &TaskOptions::default()).is_err());
            assert!(envelope::decode(format!("{{\"body\": \"\", \"headers\": {text}}}").as_bytes()).is_err());
            read(text.as_bytes());
        }
    }
}

#[test]
fn arguments_as_deep_as_can_be_sent_can_be_received() {
    let deepest = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let levels = (1..300)
        .rev()
        .find(|levels| encode(&template(), "id", &deepest(*levels), "{}", &TaskOptions::default()).is_ok());
    let args = deepest(levels.unwrap());
    assert!(levels.unwrap() >= 200);
    let message = encode(&template(), "id", &args, "{}", &TaskOptions::default()).unwrap();
    let message = envelope::decode(envelope::encode(&message, "", "q").as_bytes()).unwrap();
    let request = TaskRequest::decode(&message, &accept()).unwrap();
    assert_eq!(request.args_json, args);
    assert!(to_javascript(args.as_bytes()).is_ok());
    // On the path that looks at each value too.
    assert!(to_javascript(args.replace("[]", "[NaN]").as_bytes()).is_ok());
}
