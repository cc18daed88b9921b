//! What the recorded messages do not show of encoding: what is refused, and what overrides what.

use celeriac_protocol::envelope;
use celeriac_protocol::repr::MAX_LEVELS;
use celeriac_protocol::task::{TaskOptions, TaskTemplate, encode};
use serde_json::{Value, json};

fn template() -> TaskTemplate {
    TaskTemplate {
        task: "tasks.add".into(),
        origin: "gen1@host".into(),
        lang: "js".into(),
        reply_to: Some("queue-of-replies".into()),
        ignore_result: Some(false),
        time_limit: (Some(300.0), Some(119.5)),
        delivery_mode: 2,
        priority: 4,
        repr_max_levels: Some(MAX_LEVELS),
    }
}

fn headers(options: &TaskOptions) -> Value {
    let message = encode(&template(), "1", "[2, 3]", "{}", options).unwrap();
    serde_json::from_str(&message.headers).unwrap()
}

#[test]
fn a_plain_call_is_this_text() {
    let message = encode(&template(), "a-b", "[2, 3]", r#"{"x": "ä"}"#, &TaskOptions::default()).unwrap();
    assert_eq!(
        std::str::from_utf8(&message.body).unwrap(),
        r#"[[2, 3], {"x": "ä"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#
    );
    let text = envelope::encode(&message, "", "celery");
    let tag = envelope::decode(text.as_bytes()).unwrap().properties.delivery_tag.unwrap();
    let expected = concat!(
        r#"{"body": "W1syLCAzXSwgeyJ4IjogIsOkIn0sIHsiY2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjog"#,
        r#"bnVsbCwgImNob3JkIjogbnVsbH1d", "content-encoding": "utf-8", "content-type": "application/json", "#,
        r#""headers": {"lang": "js", "task": "tasks.add", "id": "a-b", "shadow": null, "eta": null, "#,
        r#""expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [300, 119.5], "#,
        r#""root_id": "a-b", "parent_id": null, "argsrepr": "(2, 3)", "kwargsrepr": "{'x': '\u00e4'}", "#,
        r#""origin": "gen1@host", "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "#,
        r#""stamps": {}}, "properties": {"correlation_id": "a-b", "reply_to": "queue-of-replies", "#,
        r#""delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 4, "#,
        r#""body_encoding": "base64", "delivery_tag": "TAG"}}"#
    );
    assert_eq!(text.replace(&tag, "TAG"), expected);
}

#[test]
fn arguments_are_shown_as_the_tuple_that_python_makes_of_them() {
    for (args, expected) in [("[]", "()"), (" [ ] ", "()"), ("[1]", "(1,)"), ("[[1], null]", "([1], None)")] {
        let message = encode(&template(), "1", args, "{}", &TaskOptions::default()).unwrap();
        let headers: Value = serde_json::from_str(&message.headers).unwrap();
        assert_eq!(headers["argsrepr"], expected);
    }
}

#[test]
fn custom_headers_win_and_keep_their_json() {
    let options = TaskOptions {
        headers_json: Some(r#"{"x":[NaN,1e2],"origin":"me","timelimit":[1,2]}"#.to_owned()),
        ..TaskOptions::default()
    };
    let message = encode(&template(), "1", "[]", "{}", &options).unwrap();
    assert!(message.headers.contains(r#", "timelimit": [1,2], "root_id""#));
    assert!(message.headers.contains(r#", "origin": "me", "ignore_result""#));
    assert!(message.headers.ends_with(r#""stamps": {}, "x": [NaN,1e2]}"#));
    assert_eq!(message.properties.other, "");
}

#[test]
fn options_override_the_template() {
    let options = TaskOptions {
        time_limit: Some((None, Some(0.25))),
        ignore_result: Some(None),
        origin: Some("gen2@host".to_owned()),
        root_id: Some(String::new()),
        group_index: Some(12),
        ..TaskOptions::default()
    };
    let headers = headers(&options);
    assert_eq!(headers["timelimit"], json!([null, 0.25]));
    assert_eq!(headers["ignore_result"], Value::Null);
    assert_eq!(headers["origin"], "gen2@host");
    assert_eq!(headers["root_id"], "1");
    assert_eq!(headers["group_index"], 12);
}

#[test]
fn what_cannot_be_sent_is_named() {
    let with = |change: fn(&mut TaskOptions)| {
        let mut options = TaskOptions::default();
        change(&mut options);
        options
    };
    for (args, kwargs, options, name) in [
        ("{}", "{}", TaskOptions::default(), "args"),
        ("[1", "{}", TaskOptions::default(), "args"),
        ("[1] 2", "{}", TaskOptions::default(), "args"),
        ("", "{}", TaskOptions::default(), "args"),
        ("[", "{}", with(|options| options.argsrepr = Some("(...)".to_owned())), "args"),
        ("[]", "[]", TaskOptions::default(), "kwargs"),
        ("[]", "{} ,", TaskOptions::default(), "kwargs"),
        ("[]", "{}", with(|options| options.callbacks_json = Some("{}".to_owned())), "callbacks"),
        ("[]", "{}", with(|options| options.chord_json = Some("{}, 1".to_owned())), "chord"),
        ("[]", "{}", with(|options| options.stamps_json = Some("[]".to_owned())), "stamps"),
        ("[]", "{}", with(|options| options.headers_json = Some("x".to_owned())), "headers"),
        ("[]", "{}", with(|options| options.time_limit = Some((Some(f64::NAN), None))), "time_limit"),
        (
            "[]",
            "{}",
            with(|options| options.properties_json = Some("{\"priority\": 1}".to_owned())),
            "priority",
        ),
        (
            "[]",
            "{}",
            with(|options| options.properties_json = Some("{\"delivery_tag\": 1}".to_owned())),
            "delivery_tag",
        ),
        (
            "[]",
            "{}",
            with(|options| options.properties_json = Some("{\"correlation_id\": 1}".to_owned())),
            "correlation_id",
        ),
    ] {
        let error = encode(&template(), "1", args, kwargs, &options).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_ENCODE");
        assert!(
            error.to_string().contains(&format!("`{name}"))
                || error.to_string().contains(&format!("{name}`")),
            "{error}"
        );
    }
}
