//! Task messages.

use celeriac_error::Error;
use celeriac_protocol::task::{TaskOptions, TaskRequest, TaskTemplate, encode};
use celeriac_protocol::{DeliveryInfo, Message, Properties, envelope, repr};
use serde_json::{Map, Value, json};

use crate::support::{base64, canonical, cases, keys, marker, wire};

const FILES: [&str; 4] =
    ["task_messages_protocol", "task_messages_types", "task_messages_options", "task_messages_repr"];

fn accept() -> Vec<String> {
    vec!["application/json".to_owned()]
}

fn is_json(recorded: &Value) -> bool {
    recorded["content-type"] == "application/json"
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Where the fields of the message are: the headers, or with protocol 1 the body.
fn assert_request(name: &str, request: &TaskRequest, case: &Value, headers: &Value, body: &Value) {
    let fields = if headers["task"].is_null() { body } else { headers };
    let embed = if body.is_array() { &body[2] } else { body };
    assert_eq!(Some(&request.task), text(&fields["task"]).as_ref(), "{name}");
    assert_eq!(Some(&request.id), text(&fields["id"]).as_ref(), "{name}");
    assert_eq!(request.root_id, text(&fields["root_id"]).unwrap_or(request.id.clone()), "{name}");
    for (actual, field) in [
        (&request.parent_id, "parent_id"),
        (&request.shadow, "shadow"),
        (&request.eta, "eta"),
        (&request.expires, "expires"),
        (&request.group, "group"),
        (&request.argsrepr, "argsrepr"),
        (&request.kwargsrepr, "kwargsrepr"),
        (&request.origin, "origin"),
        (&request.lang, "lang"),
    ] {
        assert_eq!(*actual, text(&fields[field]), "{name}: {field}");
    }
    assert_eq!(json!(request.retries), fields["retries"], "{name}");
    assert_eq!(request.group_index, fields["group_index"].as_u64(), "{name}");
    assert_eq!(request.ignore_result, fields["ignore_result"].as_bool(), "{name}");
    assert_eq!(
        u64::from(request.replaced_task_nesting),
        fields["replaced_task_nesting"].as_u64().unwrap_or(0),
        "{name}"
    );
    let limits = &fields["timelimit"];
    assert_eq!(request.time_limit, (limits[0].as_f64(), limits[1].as_f64()), "{name}");
    for (actual, field) in [
        (&request.callbacks_json, "callbacks"),
        (&request.errbacks_json, "errbacks"),
        (&request.chain_json, "chain"),
        (&request.chord_json, "chord"),
    ] {
        assert_json(name, actual.as_deref(), &embed[field]);
    }
    assert_json(name, request.stamped_headers_json.as_deref(), &headers["stamped_headers"]);
    assert_json(
        name,
        Some(request.stamps_json.as_deref().unwrap_or("{}")),
        headers.get("stamps").unwrap_or(&json!({})),
    );
    for (actual, typed) in [(&request.args_json, &case["args"]), (&request.kwargs_json, &case["kwargs"])] {
        match (canonical(actual), canonical(&wire(typed).unwrap())) {
            (Ok(actual), Ok(expected)) => assert_eq!(actual, expected, "{name}"),
            // kombu refuses to read it too.
            (Err(Error::Decode { .. }), Err(_)) => assert_eq!(name, "json-dict_marker_keys_unknown"),
            (actual, expected) => panic!("{name}: {actual:?} instead of {expected:?}"),
        }
    }
}

fn assert_json(name: &str, actual: Option<&str>, expected: &Value) {
    assert_eq!(actual.map_or(Value::Null, |json| canonical(json).unwrap()), *expected, "{name}");
}

#[test]
fn decodes_what_celery_put_into_redis() {
    let mut covered = Vec::new();
    for file in FILES {
        let mut count = 0;
        for case in cases(file) {
            let recorded = &case["redis"]["envelope"];
            // Other serializers, what Python refuses to encode, and what was sent by AMQP only.
            if recorded.is_null() || !is_json(recorded) {
                continue;
            }
            let name = case["name"].as_str().unwrap();
            let message =
                envelope::decode(case["redis"]["envelope_text"].as_str().unwrap().as_bytes()).unwrap();
            assert_eq!(message.content_encoding, "utf-8");
            assert_eq!(message.body, base64(&case["redis"]["body"]), "{name}");
            assert_eq!(canonical(&message.headers).unwrap(), recorded["headers"], "{name}");
            assert_properties(name, &message.properties, &recorded["properties"]);
            let request = TaskRequest::decode(&message, &accept()).unwrap();
            let body = std::str::from_utf8(&message.body).unwrap();
            // Only its embedded signatures are looked at, so what a tag says does not matter.
            let body =
                canonical(&body.replace("nope", "bytes").replace("\"__value__\": 1", "\"__value__\": \"1\""))
                    .unwrap();
            assert_request(name, &request, &case, &recorded["headers"], &body);
            assert_eq!(request.correlation_id, message.properties.correlation_id);
            assert_eq!(request.reply_to, message.properties.reply_to);
            count += 1;
        }
        covered.push(count);
    }
    assert_eq!(covered, [4, 44, 79, 20]);
}

fn assert_properties(name: &str, properties: &Properties, recorded: &Value) {
    assert_eq!(properties.correlation_id, text(&recorded["correlation_id"]), "{name}");
    assert_eq!(properties.reply_to, text(&recorded["reply_to"]), "{name}");
    assert_eq!(properties.expiration, text(&recorded["expiration"]), "{name}");
    assert_eq!(properties.delivery_tag, text(&recorded["delivery_tag"]), "{name}");
    assert_eq!(json!(properties.delivery_mode), recorded["delivery_mode"], "{name}");
    let priority = recorded["priority"].as_i64().unwrap();
    assert_eq!(properties.priority, Some(u8::try_from(priority.max(0)).unwrap()), "{name}");
    let info = &recorded["delivery_info"];
    assert_eq!(
        properties.delivery_info,
        DeliveryInfo {
            exchange: text(&info["exchange"]).unwrap(),
            routing_key: text(&info["routing_key"]).unwrap(),
            redelivered: info["redelivered"] == true,
        }
    );
    let mut other = recorded.as_object().unwrap().clone();
    for known in [
        "correlation_id",
        "reply_to",
        "expiration",
        "delivery_tag",
        "delivery_mode",
        "priority",
        "delivery_info",
    ] {
        other.remove(known);
    }
    assert_eq!(other.remove("body_encoding"), Some(json!("base64")));
    assert_eq!(canonical(&format!("{{{}}}", properties.other)).unwrap(), Value::Object(other), "{name}");
}

#[test]
fn decodes_what_celery_sent_by_amqp() {
    let mut covered = Vec::new();
    for file in FILES {
        let mut count = 0;
        for case in cases(file) {
            let recorded = &case["amqp"];
            // Other serializers, what cannot be sent, and what expired in the broker.
            if recorded["body"].is_null() || recorded["properties"]["content_type"] != "application/json" {
                continue;
            }
            let name = case["name"].as_str().unwrap();
            let properties = &recorded["properties"];
            let message = Message {
                body: base64(&recorded["body"]).into(),
                content_type: "application/json".to_owned(),
                content_encoding: "utf-8".to_owned(),
                headers: wire(&recorded["headers"]).unwrap(),
                properties: Properties {
                    correlation_id: text(&properties["correlation_id"]),
                    reply_to: text(&properties["reply_to"]),
                    priority: properties["priority"].as_u64().map(|priority| u8::try_from(priority).unwrap()),
                    ..Properties::default()
                },
            };
            let request = TaskRequest::decode(&message, &accept()).unwrap();
            if let Some(envelope_text) = case["redis"]["envelope_text"].as_str() {
                let on_redis = envelope::decode(envelope_text.as_bytes()).unwrap();
                assert_eq!(request, TaskRequest::decode(&on_redis, &accept()).unwrap(), "{name}");
            } else {
                let body = canonical(std::str::from_utf8(&message.body).unwrap()).unwrap();
                assert_request(name, &request, &case, &recorded["headers"], &body);
            }
            count += 1;
        }
        covered.push(count);
    }
    assert_eq!(covered, [4, 44, 66, 0]);
}

#[test]
fn decodes_what_a_celery_worker_published() {
    let mut count = 0;
    for case in cases("worker_messages") {
        for message in case["messages"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let decoded = envelope::decode(message["envelope_text"].as_str().unwrap().as_bytes()).unwrap();
            let request = TaskRequest::decode(&decoded, &accept()).unwrap();
            let body = &message["body_json"];
            let case = json!({"args": body[0], "kwargs": body[1]});
            assert_request(name, &request, &case, &message["envelope"]["headers"], body);
            count += 1;
        }
    }
    assert_eq!(count, 33);
}

/// The options of a recorded case as JavaScript sends them. Dates are computed before: they are taken from the
/// record.
fn options(case: &Value) -> Map<String, Value> {
    let recorded = &case["redis"]["envelope"];
    let mut options = Map::new();
    let mut properties = Map::new();
    let mut limits = [Value::Null, Value::Null];
    for (name, value) in case["options"].as_object().unwrap() {
        let list = || if value.is_array() { value.clone() } else { json!([value]) };
        match name.as_str() {
            "task_id" | "tenant" | "trace" => {}
            "countdown" | "eta" => drop(options.insert("eta".to_owned(), recorded["headers"]["eta"].clone())),
            "expires" | "expiration" => {
                options.insert("expires".to_owned(), recorded["headers"]["expires"].clone());
                let milliseconds: u64 =
                    recorded["properties"]["expiration"].as_str().unwrap().parse().unwrap();
                options.insert("expiration_ms".to_owned(), json!(milliseconds));
            }
            "link" => drop(options.insert("callbacks".to_owned(), list())),
            "link_error" => drop(options.insert("errbacks".to_owned(), list())),
            "time_limit" => limits[0] = value.clone(),
            "soft_time_limit" => limits[1] = value.clone(),
            "group_id" => drop(options.insert("group".to_owned(), value.clone())),
            "delivery_mode" => drop(options.insert(name.clone(), json!(1))),
            "stamped_headers" => {
                options.insert(name.clone(), value.clone());
                let names = value.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                let stamps = names.map(|name| (name.to_owned(), case["options"][name].clone()));
                options.insert("stamps".to_owned(), Value::Object(stamps.collect()));
            }
            "correlation_id" | "app_id" | "message_id" | "type" | "user_id" | "timestamp" => {
                properties.insert(name.clone(), value.clone());
            }
            "priority" | "shadow" | "headers" | "reply_to" | "group_index" | "root_id" | "parent_id"
            | "ignore_result" | "retries" | "chord" | "chain" | "origin" | "argsrepr" | "kwargsrepr" => {
                options.insert(name.clone(), value.clone());
            }
            _ => panic!("option {name} is not tested"),
        }
    }
    if limits != [Value::Null, Value::Null] {
        options.insert("time_limit".to_owned(), json!(limits));
    }
    if !properties.is_empty() {
        options.insert("properties".to_owned(), Value::Object(properties));
    }
    options
}

fn template(case: &Value) -> TaskTemplate {
    let levels = case["app_config"].get("task_repr_maxlevels").and_then(Value::as_u64);
    TaskTemplate {
        task: case["task"].as_str().unwrap().into(),
        origin: "gen4242@client.example".into(),
        lang: "js".into(),
        reply_to: Some("11111111-2222-3333-4444-555555555555".into()),
        ignore_result: None,
        time_limit: (None, None),
        delivery_mode: 2,
        priority: 0,
        repr_max_levels: Some(levels.map_or(repr::MAX_LEVELS, |levels| usize::try_from(levels).unwrap())),
    }
}

/// Whether a value reads the same in Python and after JSON: no tuples, no keys but strings.
fn survives_json(value: &Value) -> bool {
    match marker(value) {
        Some(("tuple" | "map", _)) => false,
        Some(_) => true,
        None => match value {
            Value::Array(items) => items.iter().all(survives_json),
            Value::Object(members) if members.contains_key("__type__") => members.len() > 2,
            Value::Object(members) => members.values().all(survives_json),
            _ => true,
        },
    }
}

#[test]
fn encodes_what_celery_encodes() {
    let mut covered = Vec::new();
    let mut without_representation = Vec::new();
    for file in FILES {
        let mut count = 0;
        for case in cases(file) {
            let recorded = &case["redis"]["envelope"];
            let name = case["name"].as_str().unwrap();
            // Protocol 1 is read, not written; a priority below zero cannot be said.
            if recorded.is_null()
                || !is_json(recorded)
                || recorded["headers"]["task"].is_null()
                || name == "priority-negative"
            {
                continue;
            }
            // Celery prints the list that these were recorded with, celeriac the tuple that `delay` makes.
            let is_given = case["options"].get("argsrepr").is_some();
            let mut expected = recorded.clone();
            let args = wire(&case["args"]).unwrap();
            if !is_given {
                let levels = template(&case).repr_max_levels;
                let print = |tuple| repr::saferepr(args.as_bytes(), tuple, repr::MAX_LENGTH, levels).unwrap();
                if survives_json(&case["args"]) {
                    assert_eq!(json!(print(args == "[]")), recorded["headers"]["argsrepr"], "{name}");
                } else {
                    without_representation.push(name.to_owned());
                }
                expected["headers"]["argsrepr"] = json!(print(true));
            }
            if recorded["headers"]["lang"] == "py" {
                expected["headers"]["lang"] = json!("js");
            }
            let options = TaskOptions::from_json(&wire(&Value::Object(options(&case))).unwrap()).unwrap();
            let id = case["options"]["task_id"].as_str().unwrap();
            let kwargs = wire(&case["kwargs"]).unwrap();
            let message = encode(&template(&case), id, &args, &kwargs, &options).unwrap();
            assert_eq!(message.body, base64(&case["redis"]["body"]), "{name}");

            let info = &recorded["properties"]["delivery_info"];
            let (exchange, key) = (info["exchange"].as_str().unwrap(), info["routing_key"].as_str().unwrap());
            let written = envelope::encode(&message, exchange, key);
            let mut actual = canonical(&written).unwrap();
            assert_eq!(keys(&actual), keys(recorded), "{name}");
            assert_eq!(keys(&actual["headers"]), keys(&recorded["headers"]), "{name}");
            assert_eq!(keys(&actual["properties"]), keys(&recorded["properties"]), "{name}");
            assert_eq!(actual["properties"]["delivery_tag"].as_str().map(str::len), Some(36));
            actual["properties"]["delivery_tag"] = recorded["properties"]["delivery_tag"].clone();
            assert_eq!(actual, expected, "{name}");
            count += 1;
        }
        covered.push(count);
    }
    assert_eq!(covered, [2, 44, 74, 20]);
    assert_eq!(without_representation, ["containers", "nested-mixed"]);
}

#[test]
fn marks_an_envelope_as_kombu_does_and_touches_nothing_else() {
    let mut count = 0;
    for case in cases("worker_messages") {
        for message in case["messages"].as_array().unwrap() {
            let text = message["envelope_text"].as_str().unwrap();
            if message["envelope"]["headers"]["redelivered"] != true {
                continue;
            }
            let fresh = text.replace(", \"redelivered\": true", "");
            assert_eq!(text.len() - fresh.len(), 2 * ", \"redelivered\": true".len());
            assert!(!envelope::decode(fresh.as_bytes()).unwrap().properties.delivery_info.redelivered);
            for before in [
                fresh.clone(),
                text.replace("\"redelivered\": true", "\"redelivered\": false"),
                text.to_owned(),
            ] {
                let marked = envelope::mark_redelivered(before.as_bytes()).unwrap();
                assert_eq!(std::str::from_utf8(&marked).unwrap(), text);
            }
            count += 1;
        }
    }
    assert_eq!(count, 6);
}
