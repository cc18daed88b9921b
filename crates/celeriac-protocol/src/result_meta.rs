//! Result documents: what a worker stores under a task's id and a client reads back.
//!
//! Source of the rules: `celery.backends.base.Backend._get_result_meta`, `celery.states`.

use celeriac_error::Result;

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
pub fn encode(meta: &TaskMeta) -> String {
    let _ = meta;
    unimplemented!("protocol")
}

/// Reads a document of any key order; absent fields take the values of a pending task.
///
/// # Errors
/// [`Error::Decode`](celeriac_error::Error::Decode) when it is not a JSON object with a `status`.
pub fn decode(text: &[u8]) -> Result<TaskMeta> {
    let _ = text;
    unimplemented!("protocol")
}

/// The document for JavaScript: `{"task_id", "status", "result", "traceback", "children", "date_done", …}` readable
/// by `JSON.parse`, with `"tagged": true` when values in it must be revived.
///
/// # Errors
/// [`Error::Decode`](celeriac_error::Error::Decode) when a JSON part is broken.
pub fn to_javascript(meta: &TaskMeta) -> Result<String> {
    let _ = meta;
    unimplemented!("protocol")
}

/// Celery's rank of states: lower wins (`celery.states.precedence`); custom states rank between FAILURE and REVOKED.
pub fn precedence(state: &str) -> usize {
    let _ = state;
    unimplemented!("protocol")
}

/// Whether no further state is expected (`READY_STATES`: SUCCESS, FAILURE, REVOKED).
pub fn is_ready(state: &str) -> bool {
    matches!(state, "SUCCESS" | "FAILURE" | "REVOKED")
}

/// An exception in the form that Celery's JSON results have (`celery.backends.base.Backend.prepare_exception`):
/// `{"exc_type", "exc_message", "exc_module"}`; `message_json` is a JSON array of the exception's arguments.
pub fn exception_json(exc_type: &str, message_json: &str, exc_module: &str) -> String {
    let _ = (exc_type, message_json, exc_module);
    unimplemented!("protocol")
}
