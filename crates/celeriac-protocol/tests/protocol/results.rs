//! Result documents.

use celeriac_protocol::result_meta::{
    TaskMeta, decode, encode, exception_json, is_ready, precedence, to_javascript,
};
use serde_json::{Value, json};

use crate::support::{canonical, golden, keys};

/// Name and text of every result document that was recorded in plain JSON.
fn documents() -> Vec<(String, String)> {
    let runs = golden("results_redis");
    let states = golden("results_redis_states");
    let runs = runs["runs"].as_array().unwrap().iter().filter(|run| run["result_serializer"] == "json");
    let results = runs.flat_map(|run| run["results"].as_array().unwrap());
    results
        .chain(states["results"].as_array().unwrap())
        // What is ignored is not stored, and what is compressed has no text.
        .filter_map(|result| {
            let text = result["stored"]["value"]["text"].as_str()?;
            Some((result["name"].as_str()?.to_owned(), text.to_owned()))
        })
        .collect()
}

#[test]
fn reads_and_writes_every_recorded_document_byte_for_byte() {
    let documents = documents();
    assert_eq!(documents.len(), 98);
    for (name, text) in documents {
        let meta = decode(text.as_bytes()).unwrap();
        if name == "unregistered" {
            // Python leaves the number of retries open where it has no request.
            assert_eq!(encode(&meta), text.replace("\"retries\": null", "\"retries\": 0"));
            continue;
        }
        assert_eq!(encode(&meta), text, "{name}");
    }
}

#[test]
fn javascript_gets_every_field_of_a_document() {
    let mut tagged = Vec::new();
    for (name, text) in documents() {
        let meta = decode(text.as_bytes()).unwrap();
        let mut actual: Value = serde_json::from_str(&to_javascript(&meta).unwrap()).unwrap();
        let mut expected = canonical(&text).unwrap();
        for id in ["group_id", "parent_id"] {
            if expected.get(id).is_none() {
                expected[id] = Value::Null;
            }
        }
        if expected.get("retries").is_some_and(Value::is_null) {
            expected["retries"] = json!(0);
        }
        if actual.as_object_mut().unwrap().remove("tagged").is_some() && !tagged.contains(&name) {
            tagged.push(name.clone());
        }
        assert_eq!(actual, expected, "{name}");
    }
    assert_eq!(
        tagged,
        ["success-big", "success-bytes", "success-datetime", "success-decimal", "success-uuid"]
    );
}

#[test]
fn reads_any_order_and_fills_what_is_missing() {
    let meta = decode(br#"{"task_id": "a", "result": NaN, "status": "SUCCESS"}"#).unwrap();
    let expected = TaskMeta {
        task_id: "a".to_owned(),
        status: "SUCCESS".to_owned(),
        result_json: "NaN".to_owned(),
        children_json: "null".to_owned(),
        ..TaskMeta::default()
    };
    assert_eq!(meta, expected);
    let text = to_javascript(&meta).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["result"], json!({"__type__": "float", "__value__": "nan"}));
    assert_eq!(value["tagged"], true);
    assert_eq!(keys(&value)[0], "task_id");
}

#[test]
fn refuses_what_is_no_document() {
    for text in
        ["", "[]", "{}", "null", r#"{"status": null}"#, r#"{"status": 1}"#, r#"{"result": 1}"#, "\u{0}zlib"]
    {
        let error = decode(text.as_bytes()).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_DECODE", "{text}");
    }
}

#[test]
fn an_empty_meta_is_a_document_that_python_reads() {
    let meta = TaskMeta { task_id: "ü".to_owned(), status: "SUCCESS".to_owned(), ..TaskMeta::default() };
    assert_eq!(
        encode(&meta),
        r#"{"status": "SUCCESS", "result": null, "traceback": null, "children": [], "date_done": null, "task_id": "\u00fc"}"#
    );
}

#[test]
fn exceptions_have_celerys_form() {
    assert_eq!(
        exception_json("ValueError", r#"["no \"x\""]"#, "builtins"),
        r#"{"exc_type": "ValueError", "exc_message": ["no \"x\""], "exc_module": "builtins"}"#
    );
}

#[test]
fn states_rank_as_in_celery() {
    let ranked =
        ["SUCCESS", "FAILURE", "PROGRESS", "REVOKED", "STARTED", "RECEIVED", "REJECTED", "RETRY", "PENDING"];
    let ranks: Vec<_> = ranked.iter().map(|state| precedence(state)).collect();
    assert_eq!(ranks, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let ready: Vec<_> = ranked.into_iter().filter(|state| is_ready(state)).collect();
    assert_eq!(ready, ["SUCCESS", "FAILURE", "REVOKED"]);
}
