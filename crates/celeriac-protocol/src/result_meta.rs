//! Result documents: what a worker stores under a task's id and a client reads back.
//!
//! Source of the rules: `celery.backends.base.Backend._get_result_meta`, `celery.states`.

use std::borrow::Cow;
use std::fmt::Write as _;

use celeriac_error::{Error, Result};

use crate::json::{self, first_byte, object_members, push_optional_string, push_string, string_value};

/// What is known of one task: Celery's "meta".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskMeta {
    /// The task's id.
    pub task_id: String,
    /// A state of `celery.states`, or a custom one.
    pub status: String,
    /// The result, or the exception in Celery's JSON form, or the meta of a custom state: JSON text.
    pub result_json: String,
    /// The traceback as the worker's language prints it.
    pub traceback: Option<String>,
    /// Results of the tasks that this one sent, as nested tuples: JSON array or null.
    pub children_json: String,
    /// When it ended, ISO 8601 with offset; `None` until the state is final.
    pub date_done: Option<String>,
    /// Group, when in one.
    pub group_id: Option<String>,
    /// Parent task, when there is one.
    pub parent_id: Option<String>,
    /// With `result_extended` only.
    pub extended: Option<Box<ExtendedMeta>>,
}

/// What `result_extended` adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExtendedMeta {
    /// The task's name.
    pub name: Option<String>,
    /// Positional arguments as JSON.
    pub args_json: String,
    /// Keyword arguments as JSON.
    pub kwargs_json: String,
    /// Node name of the worker.
    pub worker: Option<String>,
    /// How often it was retried.
    pub retries: u32,
    /// Routing key of the delivery.
    pub queue: Option<String>,
    /// `stamped_headers` and each stamp as a field of its own: the inside of a JSON object, or empty.
    pub stamps_json: String,
}

/// Writes the document as the key-value stores keep it: Python's JSON, keys in Celery's order.
///
/// An empty `children_json` is an empty list, any other empty `…_json` is null.
pub fn encode(meta: &TaskMeta) -> String {
    let traceback = meta.traceback.as_ref().map_or(0, String::len);
    let mut out = String::with_capacity(256 + meta.result_json.len() + meta.children_json.len() + traceback);
    out.push_str("{\"status\": ");
    push_string(&mut out, &meta.status);
    push_raw(&mut out, "result", or(&meta.result_json, "null"));
    push_text(&mut out, "traceback", meta.traceback.as_deref());
    push_raw(&mut out, "children", or(&meta.children_json, "[]"));
    push_text(&mut out, "date_done", meta.date_done.as_deref());
    for (name, id) in [("group_id", &meta.group_id), ("parent_id", &meta.parent_id)] {
        if id.is_some() {
            push_text(&mut out, name, id.as_deref());
        }
    }
    if let Some(extended) = &meta.extended {
        push_text(&mut out, "name", extended.name.as_deref());
        push_raw(&mut out, "args", or(&extended.args_json, "null"));
        push_raw(&mut out, "kwargs", or(&extended.kwargs_json, "null"));
        push_rest(&mut out, extended, &extended.stamps_json);
    }
    push_text(&mut out, "task_id", Some(&meta.task_id));
    out.push('}');
    out
}

/// The extended fields after the arguments.
fn push_rest(out: &mut String, extended: &ExtendedMeta, stamps: &str) {
    push_text(out, "worker", extended.worker.as_deref());
    // Writing to a string cannot fail.
    let _ = write!(out, ", \"retries\": {}", extended.retries);
    push_text(out, "queue", extended.queue.as_deref());
    if !stamps.is_empty() {
        out.push_str(", ");
        out.push_str(stamps);
    }
}

fn or<'a>(json: &'a str, default: &'a str) -> &'a str {
    if json.is_empty() { default } else { json }
}

fn push_raw(out: &mut String, name: &str, json: &str) {
    out.push_str(", \"");
    out.push_str(name);
    out.push_str("\": ");
    out.push_str(json);
}

fn push_text(out: &mut String, name: &str, value: Option<&str>) {
    push_raw(out, name, "");
    push_optional_string(out, value);
}

/// Reads a document of any key order; absent fields take the values of a pending task.
///
/// Fields that Celery does not know are kept with the stamps when the document is an extended one.
///
/// # Errors
/// [`Error::Decode`] when it is not a JSON object with a `status`.
pub fn decode(text: &[u8]) -> Result<TaskMeta> {
    let mut meta =
        TaskMeta { result_json: "null".to_owned(), children_json: "null".to_owned(), ..TaskMeta::default() };
    let mut extended = ExtendedMeta {
        args_json: "null".to_owned(),
        kwargs_json: "null".to_owned(),
        ..ExtendedMeta::default()
    };
    let mut is_extended = false;
    for (name, value) in object_members(text).map_err(|error| wrong(&error.to_string()))? {
        let mut is_known = true;
        match name.as_ref() {
            "status" => {
                let status = string_value(value).map_err(|_| wrong("its `status` is not a string"))?;
                meta.status = status.into_owned();
            }
            "result" => value.clone_into(&mut meta.result_json),
            "traceback" => meta.traceback = shown(value),
            "children" => value.clone_into(&mut meta.children_json),
            "date_done" => meta.date_done = shown(value),
            "group_id" => meta.group_id = shown(value),
            "parent_id" => meta.parent_id = shown(value),
            "task_id" => meta.task_id = shown(value).unwrap_or_default(),
            _ => is_known = false,
        }
        if is_known {
            continue;
        }
        is_extended |= matches!(name.as_ref(), "name" | "args" | "kwargs" | "worker" | "retries" | "queue");
        match name.as_ref() {
            "name" => extended.name = shown(value),
            "args" => value.clone_into(&mut extended.args_json),
            "kwargs" => value.clone_into(&mut extended.kwargs_json),
            "worker" => extended.worker = shown(value),
            "retries" => extended.retries = value.parse().unwrap_or_default(),
            "queue" => extended.queue = shown(value),
            _ => {
                if !extended.stamps_json.is_empty() {
                    extended.stamps_json.push_str(", ");
                }
                push_string(&mut extended.stamps_json, &name);
                extended.stamps_json.push_str(": ");
                extended.stamps_json.push_str(value);
            }
        }
    }
    if meta.status.is_empty() {
        return Err(wrong("it has no `status`"));
    }
    meta.extended = is_extended.then(|| Box::new(extended));
    Ok(meta)
}

fn wrong(reason: &str) -> Error {
    Error::Decode { reason: format!("no result document: {reason}") }
}

/// A field that is a text or null; anything else is shown as the JSON that it is.
fn shown(value: &str) -> Option<String> {
    match first_byte(value) {
        Some(b'"') => string_value(value).ok().map(Cow::into_owned),
        _ if value == "null" => None,
        _ => Some(value.to_owned()),
    }
}

/// The document for JavaScript: `{"task_id", "status", "result", "traceback", "children", "date_done", …}` readable
/// by `JSON.parse`, with `"tagged": true` when values in it must be revived.
///
/// `group_id` and `parent_id` are always there, the extended fields only when the document has them.
///
/// # Errors
/// [`Error::Decode`] when a JSON part is broken.
pub fn to_javascript(meta: &TaskMeta) -> Result<String> {
    let mut out = String::with_capacity(256 + meta.result_json.len() + meta.children_json.len());
    let mut tagged = false;
    out.push_str("{\"task_id\": ");
    push_string(&mut out, &meta.task_id);
    push_text(&mut out, "status", Some(&meta.status));
    push_part(&mut out, &mut tagged, "result", or(&meta.result_json, "null"))?;
    push_text(&mut out, "traceback", meta.traceback.as_deref());
    push_part(&mut out, &mut tagged, "children", or(&meta.children_json, "[]"))?;
    push_text(&mut out, "date_done", meta.date_done.as_deref());
    push_text(&mut out, "group_id", meta.group_id.as_deref());
    push_text(&mut out, "parent_id", meta.parent_id.as_deref());
    if let Some(extended) = &meta.extended {
        push_text(&mut out, "name", extended.name.as_deref());
        push_part(&mut out, &mut tagged, "args", or(&extended.args_json, "null"))?;
        push_part(&mut out, &mut tagged, "kwargs", or(&extended.kwargs_json, "null"))?;
        let stamps = format!("{{{}}}", extended.stamps_json);
        let stamps = json::to_javascript(stamps.as_bytes())?;
        tagged |= stamps.tagged;
        push_rest(&mut out, extended, &stamps.text[1..stamps.text.len() - 1]);
    }
    if tagged {
        push_raw(&mut out, "tagged", "true");
    }
    out.push('}');
    Ok(out)
}

fn push_part(out: &mut String, tagged: &mut bool, name: &str, json: &str) -> Result<()> {
    let part = json::to_javascript(json.as_bytes())?;
    *tagged |= part.tagged;
    push_raw(out, name, &part.text);
    Ok(())
}

/// Celery's rank of states: lower wins (`celery.states.precedence`); custom states rank between FAILURE and REVOKED.
pub fn precedence(state: &str) -> usize {
    match state {
        "SUCCESS" => 0,
        "FAILURE" => 1,
        "REVOKED" => 3,
        "STARTED" => 4,
        "RECEIVED" => 5,
        "REJECTED" => 6,
        "RETRY" => 7,
        "PENDING" => 8,
        _ => 2,
    }
}

/// Whether no further state is expected (`READY_STATES`: SUCCESS, FAILURE, REVOKED).
pub fn is_ready(state: &str) -> bool {
    matches!(state, "SUCCESS" | "FAILURE" | "REVOKED")
}

/// An exception in the form that Celery's JSON results have (`celery.backends.base.Backend.prepare_exception`):
/// `{"exc_type", "exc_message", "exc_module"}`; `message_json` is a JSON array of the exception's arguments.
pub fn exception_json(exc_type: &str, message_json: &str, exc_module: &str) -> String {
    let mut out = String::with_capacity(64 + exc_type.len() + message_json.len() + exc_module.len());
    out.push_str("{\"exc_type\": ");
    push_string(&mut out, exc_type);
    push_raw(&mut out, "exc_message", message_json);
    push_text(&mut out, "exc_module", Some(exc_module));
    out.push('}');
    out
}
