//! The documents that a worker stores, made from a request and what became of it.

use celeriac_protocol::result_meta::{self, ExtendedMeta, TaskMeta};
use celeriac_protocol::task::TaskRequest;
use celeriac_protocol::{json, time};
use celeriac_result::StoreRequest;
use jiff::Timestamp;

use crate::options::{TaskSettings, WorkerOptions};

/// What is stored of a task.
pub(crate) struct Document<'a> {
    pub(crate) state: &'a str,
    /// JSON in Python's sense.
    pub(crate) result: String,
    pub(crate) traceback: Option<String>,
    /// JSON array or null.
    pub(crate) children: String,
}

impl Document<'_> {
    /// An exception of Celery's own, without a traceback.
    pub(crate) fn exception(state: &'static str, exc_type: &str, argument: &str) -> Document<'static> {
        let mut arguments = String::from("[");
        json::push_string(&mut arguments, argument);
        arguments.push(']');
        Document {
            state,
            result: result_meta::exception_json(exc_type, &arguments, "celery.exceptions"),
            traceback: None,
            children: "[]".to_owned(),
        }
    }
}

/// Whether the result of a task is wanted: the message decides, then the task (`celery.app.trace`).
pub(crate) fn is_ignored(request: &TaskRequest, settings: TaskSettings) -> bool {
    request.ignore_result.or(settings.ignore_result).unwrap_or(false)
}

/// Whether a document in `state` is stored at all.
pub(crate) fn is_stored(request: &TaskRequest, settings: TaskSettings, state: &str) -> bool {
    let is_error = matches!(state, "FAILURE" | "RETRY" | "REVOKED");
    !is_ignored(request, settings) || (is_error && settings.store_errors_even_if_ignored)
}

/// The request to store `document`, as `Backend._get_result_meta` makes it.
pub(crate) fn store_request(
    options: &WorkerOptions,
    request: &TaskRequest,
    queue: &str,
    document: Document<'_>,
) -> StoreRequest {
    let date_done = result_meta::is_ready(document.state).then(|| time::format_timestamp(Timestamp::now()));
    let extended = options.result_extended.then(|| {
        Box::new(ExtendedMeta {
            name: Some(request.task.clone()),
            args_json: request.args_json.clone(),
            kwargs_json: request.kwargs_json.clone(),
            worker: Some(options.hostname.clone()),
            retries: request.retries,
            queue: Some(queue.to_owned()),
            stamps_json: stamps(request),
        })
    });
    StoreRequest {
        meta: TaskMeta {
            task_id: request.id.clone(),
            status: document.state.to_owned(),
            result_json: document.result,
            traceback: document.traceback,
            children_json: document.children,
            date_done,
            group_id: request.group.clone(),
            parent_id: request.parent_id.clone(),
            extended,
        },
        expires: options.result_expires,
        reply_to: request.reply_to.clone(),
        correlation_id: request.correlation_id.clone(),
    }
}

/// Makes a document say that the task failed, of an exception of Celery's with this one argument.
pub(crate) fn turn_into_failure(meta: &mut TaskMeta, exc_type: &str, argument: &str) {
    let document = Document::exception("FAILURE", exc_type, argument);
    document.state.clone_into(&mut meta.status);
    meta.result_json = document.result;
    meta.traceback = None;
    meta.date_done = Some(time::format_timestamp(Timestamp::now()));
}

/// `stamped_headers` and each stamp as a field: the inside of a JSON object.
fn stamps(request: &TaskRequest) -> String {
    let Some(names) = &request.stamped_headers_json else { return String::new() };
    let mut out = format!("\"stamped_headers\": {names}");
    let stamps = request.stamps_json.as_deref().unwrap_or("{}");
    for (name, value) in json::object_members(stamps.as_bytes()).unwrap_or_default() {
        out.push_str(", ");
        json::push_string(&mut out, &name);
        out.push_str(": ");
        out.push_str(value);
    }
    out
}
