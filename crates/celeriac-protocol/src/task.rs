//! Task messages: what `apply_async` sends (message protocol 2) and what a worker reads (2, 1 and the hybrid).
//!
//! Source of the rules: `celery.app.amqp.AMQP.as_task_v2`, `celery.worker.strategy`.

mod decode;
mod encode;
mod options;

use std::sync::Arc;

pub use encode::encode;

/// What every message of one route has in common: fixed once, used for each call.
#[derive(Clone, Debug)]
pub struct TaskTemplate {
    /// The task's registered name.
    pub task: Arc<str>,
    /// Header `origin`: `gen<pid>@<host>`.
    pub origin: Arc<str>,
    /// Header `lang`; ours is `js`.
    pub lang: Arc<str>,
    /// Property `reply_to`.
    pub reply_to: Option<Arc<str>>,
    /// Header `ignore_result`; `None` is null.
    pub ignore_result: Option<bool>,
    /// Header `timelimit`: hard, then soft, in seconds.
    pub time_limit: (Option<f64>, Option<f64>),
    /// 2 persistent, 1 transient.
    pub delivery_mode: u8,
    /// The default priority.
    pub priority: u8,
    /// `task_repr_maxlevels`.
    pub repr_max_levels: Option<usize>,
}

/// What one call says beyond its arguments. All texts named `…_json` are JSON in Python's sense.
#[derive(Clone, Debug, Default)]
pub struct TaskOptions {
    /// Header `eta`, ISO 8601 with offset.
    pub eta: Option<String>,
    /// Whole seconds that the broker is to hold it for; no part of the message.
    pub delay: Option<u32>,
    /// Header `expires`, ISO 8601 with offset.
    pub expires: Option<String>,
    /// Property `expiration`: milliseconds.
    pub expiration_ms: Option<u64>,
    /// Header `retries`.
    pub retries: u32,
    /// Header `shadow`.
    pub shadow: Option<String>,
    /// Header `group`.
    pub group: Option<String>,
    /// Header `group_index`.
    pub group_index: Option<u64>,
    /// Header `root_id`; the task's own id when absent.
    pub root_id: Option<String>,
    /// Header `parent_id`.
    pub parent_id: Option<String>,
    /// Overrides the template's.
    pub origin: Option<String>,
    /// Overrides the template's.
    pub reply_to: Option<String>,
    /// Overrides the template's when present.
    pub time_limit: Option<(Option<f64>, Option<f64>)>,
    /// Overrides the template's when present; the inner `None` is null.
    pub ignore_result: Option<Option<bool>>,
    /// Overrides the template's.
    pub priority: Option<u8>,
    /// Overrides the template's.
    pub delivery_mode: Option<u8>,
    /// Header `replaced_task_nesting`.
    pub replaced_task_nesting: u32,
    /// Replaces the computed `argsrepr`.
    pub argsrepr: Option<String>,
    /// Replaces the computed `kwargsrepr`.
    pub kwargsrepr: Option<String>,
    /// Embedded `callbacks`: a JSON array of signatures, or null.
    pub callbacks_json: Option<String>,
    /// Embedded `errbacks`: a JSON array of signatures, or null.
    pub errbacks_json: Option<String>,
    /// Embedded `chain`: a JSON array of signatures, reversed, or null.
    pub chain_json: Option<String>,
    /// Embedded `chord`: a JSON signature, or null.
    pub chord_json: Option<String>,
    /// Header `stamped_headers`: a JSON array of names, or null.
    pub stamped_headers_json: Option<String>,
    /// Header `stamps`: a JSON object.
    pub stamps_json: Option<String>,
    /// Custom headers, merged at the top level: a JSON object.
    pub headers_json: Option<String>,
    /// Further message properties: a JSON object.
    pub properties_json: Option<String>,
}

/// A task message that was read: every field that a worker needs, whichever protocol it came in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskRequest {
    /// Registered name of the task.
    pub task: String,
    /// Task id.
    pub id: String,
    /// Positional arguments: a JSON array in Python's sense.
    pub args_json: String,
    /// Keyword arguments: a JSON object.
    pub kwargs_json: String,
    /// Embedded `callbacks`, `errbacks`, `chain`, `chord` as JSON; `None` for null and absent.
    pub callbacks_json: Option<String>,
    /// See `callbacks_json`.
    pub errbacks_json: Option<String>,
    /// See `callbacks_json`.
    pub chain_json: Option<String>,
    /// See `callbacks_json`.
    pub chord_json: Option<String>,
    /// `argsrepr` as sent, if any.
    pub argsrepr: Option<String>,
    /// `kwargsrepr` as sent, if any.
    pub kwargsrepr: Option<String>,
    /// Display name.
    pub shadow: Option<String>,
    /// ISO 8601; taken as UTC when it has no offset.
    pub eta: Option<String>,
    /// ISO 8601; taken as UTC when it has no offset.
    pub expires: Option<String>,
    /// How often it was retried.
    pub retries: u32,
    /// Hard, then soft, in seconds.
    pub time_limit: (Option<f64>, Option<f64>),
    /// First task of the workflow; the task's own id when the message has none.
    pub root_id: String,
    /// The task that sent this one.
    pub parent_id: Option<String>,
    /// Group id (`taskset` in protocol 1).
    pub group: Option<String>,
    /// Position in the group.
    pub group_index: Option<u64>,
    /// Who sent it.
    pub origin: Option<String>,
    /// Language of the sender.
    pub lang: Option<String>,
    /// Whether the result is wanted; `None` leaves it to the task.
    pub ignore_result: Option<bool>,
    /// How often it was replaced.
    pub replaced_task_nesting: u32,
    /// Property `reply_to`.
    pub reply_to: Option<String>,
    /// Property `correlation_id`.
    pub correlation_id: Option<String>,
    /// Names of stamped headers: JSON array or `None`.
    pub stamped_headers_json: Option<String>,
    /// Stamps: JSON object or `None`.
    pub stamps_json: Option<String>,
    /// Headers that are not the protocol's: JSON object or `None`.
    pub headers_json: Option<String>,
    /// Property `priority`.
    pub priority: Option<u8>,
}
