//! What a worker is told when it starts.

use std::collections::HashMap;
use std::time::Duration;

use celeriac_broker::Queue;

/// What the worker must know of a registered task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskSettings {
    /// `acks_late`: the message is acknowledged after the body, not before it.
    pub acks_late: bool,
    /// `ignore_result`; `None` leaves it to the message, then to false.
    pub ignore_result: Option<bool>,
    /// `store_errors_even_if_ignored`.
    pub store_errors_even_if_ignored: bool,
    /// `track_started`.
    pub track_started: bool,
}

/// How long JavaScript may be silent: ten times as long as it takes between two signs of life.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a worker is told when it starts.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The node name, `celery@host`.
    pub hostname: String,
    /// The process id that a STARTED document shows.
    pub pid: u32,
    /// What it consumes.
    pub queues: Vec<Queue>,
    /// The registered tasks by name.
    pub tasks: HashMap<String, TaskSettings>,
    /// How many bodies run at once.
    pub concurrency: usize,
    /// How many messages are held, those running included; 0 is no limit. ETA tasks come on top.
    pub prefetch: usize,
    /// `worker_eta_task_limit`: how many ETA tasks are held; `None` is no limit.
    pub eta_task_limit: Option<usize>,
    /// How long a claim stands without renewal.
    pub lease: Duration,
    /// How long JavaScript may be silent before what it has not begun goes back: see [`Worker::beat`](crate::Worker::beat).
    pub patience: Duration,
    /// For how long what JavaScript runs is kept once it no longer answers; `None` is for ever.
    pub lease_max_hold: Option<Duration>,
    /// How often the body of one message may begin although its worker was lost, or gave it up, each time; `None` is without end.
    pub max_deliveries: Option<u32>,
    /// How often a task that nothing here is registered for is put back, for a worker that may know it, before it
    /// fails.
    pub unknown_task_requeues: u32,
    /// `accept_content` as MIME types.
    pub accept_content: Vec<String>,
    /// `result_expires`; `None` is for ever.
    pub result_expires: Option<Duration>,
    /// `result_extended`.
    pub result_extended: bool,
    /// `control_exchange`; `None` switches remote control off (`worker_enable_remote_control`).
    pub control_exchange: Option<String>,
    /// `broker_connection_retry`.
    pub connection_retry: bool,
    /// `broker_connection_retry_on_startup`.
    pub connection_retry_on_startup: bool,
    /// `broker_connection_max_retries`; `None` is for ever.
    pub connection_max_retries: Option<u32>,
}
