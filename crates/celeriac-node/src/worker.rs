//! The worker as JavaScript sees it.

use celeriac_error::Result;
use celeriac_worker::{TaskSettings, Worker, WorkerOptions};
use napi::bindgen_prelude::{ClassInstance, Env, Int32ArraySlice, PromiseRaw};
use napi_derive::napi;

use crate::broker::{NativeBroker, NativeQueue, duration, queue};
use crate::error::{promise, to_js};
use crate::results::NativeResults;

/// What the worker must know of a registered task.
#[napi(object, use_nullable = true)]
pub struct NativeTask {
    pub name: String,
    pub acks_late: bool,
    /// null leaves it to the message, then to false
    pub ignore_result: Option<bool>,
    pub store_errors_even_if_ignored: bool,
    pub track_started: bool,
}

/// What a worker is told when it starts.
#[napi(object, use_nullable = true)]
pub struct NativeWorkerOptions {
    pub hostname: String,
    pub pid: u32,
    pub queues: Vec<NativeQueue>,
    pub tasks: Vec<NativeTask>,
    /// How many bodies run at once.
    pub concurrency: u32,
    /// How many messages are held, those running included; 0 is no limit. ETA tasks come on top.
    pub prefetch: u32,
    /// null is no limit
    pub eta_task_limit: Option<u32>,
    pub lease_ms: f64,
    /// null is for ever
    pub lease_max_hold_ms: Option<f64>,
    /// How often the body of one message may begin although its worker was lost each time; null is without end.
    pub max_deliveries: Option<u32>,
    pub unknown_task_requeues: u32,
    /// MIME types
    pub accept_content: Vec<String>,
    /// null is for ever
    pub result_expires_ms: Option<f64>,
    pub result_extended: bool,
    /// null switches remote control off
    pub control_exchange: Option<String>,
    pub connection_retry: bool,
    pub connection_retry_on_startup: bool,
    /// null is for ever
    pub connection_max_retries: Option<u32>,
}

fn options(native: NativeWorkerOptions) -> Result<WorkerOptions> {
    let tasks = native.tasks.into_iter().map(|task| {
        let settings = TaskSettings {
            acks_late: task.acks_late,
            ignore_result: task.ignore_result,
            store_errors_even_if_ignored: task.store_errors_even_if_ignored,
            track_started: task.track_started,
        };
        (task.name, settings)
    });
    Ok(WorkerOptions {
        hostname: native.hostname,
        pid: native.pid,
        queues: native.queues.into_iter().map(queue).collect::<Result<_>>()?,
        tasks: tasks.collect(),
        concurrency: native.concurrency.max(1) as usize,
        prefetch: native.prefetch as usize,
        eta_task_limit: native.eta_task_limit.map(|limit| limit as usize),
        lease: duration(native.lease_ms),
        patience: celeriac_worker::PATIENCE,
        lease_max_hold: native.lease_max_hold_ms.map(duration),
        max_deliveries: native.max_deliveries,
        unknown_task_requeues: native.unknown_task_requeues,
        accept_content: native.accept_content,
        result_expires: native.result_expires_ms.map(duration),
        result_extended: native.result_extended,
        control_exchange: native.control_exchange,
        connection_retry: native.connection_retry,
        connection_retry_on_startup: native.connection_retry_on_startup,
        connection_max_retries: native.connection_max_retries,
    })
}

/// Consumes queues for this JavaScript environment.
#[napi]
pub struct NativeWorker {
    worker: Worker,
}

#[napi]
impl NativeWorker {
    /// A worker that does nothing yet. `results` null stores nothing.
    #[napi(
        factory,
        catch_unwind,
        ts_args_type = "broker: NativeBroker, results: NativeResults | null, options: NativeWorkerOptions"
    )]
    pub fn open(
        env: &Env,
        broker: ClassInstance<'_, NativeBroker>,
        results: Option<ClassInstance<'_, NativeResults>>,
        options: NativeWorkerOptions,
    ) -> napi::Result<Self> {
        let options = self::options(options).map_err(|error| to_js(env, &error))?;
        let worker = Worker::new(
            options,
            broker.transport.clone(),
            results.map(|results| results.store.clone()),
            broker.producer.clone(),
            broker.declarations.clone(),
        );
        Ok(Self { worker })
    }

    /// Connects, declares the queues, begins to claim.
    #[napi(catch_unwind)]
    pub fn start<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let worker = self.worker.clone();
        promise(env, async move { worker.start().await })
    }

    /// The next deliveries: lines of JSON, as soon as one is there and a slot is free; null once stopped and everything
    /// that was delivered is settled:
    /// - a task, two lines: `[tag, name, id, args, kwargs, flags, slot]`, and its request, which holds what differs from the
    ///   default. Flags: 1 there are tags to revive, 2 something follows it or it has a time limit, 4 it was handed out
    ///   before and its begin is counted, see `beginAgain`. Slot: where `slots` says whether it may begin; 0 is none, see
    ///   `begin`.
    /// - a revoke of tasks that may be running: `["revoke", [ids], terminate, signal]`;
    /// - a request to stop: `["shutdown"]`.
    #[napi(catch_unwind, ts_return_type = "Promise<string | null>")]
    pub fn next<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, Option<String>>> {
        let waiting = self.worker.clone();
        let worker = self.worker.clone();
        // What is ready is taken on JavaScript's thread, when it comes to it: until then it can be handed back.
        env.spawn_future_with_callback(async move { Ok(waiting.wait().await) }, move |_, more| {
            Ok(more.then(|| worker.collect()))
        })
    }

    /// Memory of the core: whether bodies may begin. Whoever sets the first word to 1 says that it is shared, and gets
    /// deliveries with slots: right before a body the word of its slot has to be changed, by one atomic step, from
    /// `(tag * 2) | 0` to one more; where that fails it must not begin. This holds for `leaseLeft` milliseconds. After that,
    /// and without a slot, `begin` decides.
    #[napi(catch_unwind, ts_return_type = "Int32Array")]
    pub fn slots<'env>(&self, env: &'env Env) -> napi::Result<Int32ArraySlice<'env>> {
        let slots = self.worker.slots();
        let words = slots.words();
        let (first, count) = (words.as_ptr().cast::<i32>().cast_mut(), words.len());
        // SAFETY: the words are atomic numbers, so whoever writes to them, of whichever side, writes to something mutable;
        // they stay where they are until the array's finalizer drops this reference to them.
        unsafe { Int32ArraySlice::from_external(env, first, count, slots, |_, slots| drop(slots)) }
    }

    /// For how many milliseconds from now bodies may begin by their slots.
    #[napi(catch_unwind)]
    pub fn lease_left(&self) -> f64 {
        self.worker.lease_left().as_secs_f64() * 1000.0
    }

    /// To be called right before the body of a task begins that has no slot, or none that holds: false when it must not
    /// begin, because it went back meanwhile.
    #[napi(catch_unwind)]
    pub fn begin(&self, tag: f64) -> bool {
        self.worker.begin(tag as u64)
    }

    /// The same for a redelivered task: how often its body has begun, this time included; 0 when it must not begin. It has to
    /// begin in the same turn of the event loop.
    #[napi(catch_unwind, ts_return_type = "Promise<number>")]
    pub fn begin_again<'env>(&self, env: &'env Env, tag: f64) -> napi::Result<PromiseRaw<'env, u32>> {
        let counting = self.worker.clone();
        let worker = self.worker.clone();
        env.spawn_future_with_callback(
            async move { Ok(counting.count(tag as u64).await) },
            move |_, count| {
                let begins = count > 0 && worker.begin_counted(tag as u64, count);
                Ok(if begins { count } else { 0 })
            },
        )
    }

    /// A sign of life of this event loop, to be given about once a second.
    #[napi(catch_unwind)]
    pub fn beat(&self) {
        self.worker.beat();
    }

    /// Settles deliveries; appends and returns. Lines, each a JSON array
    /// `[tag, outcome, state, result, traceback, children, publish]`: outcome 0 ack, 1 reject without requeue, 2 requeue
    /// marked as redelivered, 3 requeue unmarked, 4 to the dead list as poison; state null stores nothing; publish null or an array of
    /// `[route, taskId, args, kwargs, options]`.
    #[napi(catch_unwind)]
    pub fn settle(&self, batch: String) {
        self.worker.settle(batch);
    }

    /// Marks ids as revoked.
    #[napi(catch_unwind)]
    pub fn revoke(&self, task_ids: Vec<String>) {
        self.worker.revoke(task_ids);
    }

    /// Warm: claims nothing more, and hands back at once what was not delivered.
    #[napi(catch_unwind)]
    pub fn stop<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let worker = self.worker.clone();
        promise(env, async move {
            worker.stop().await;
            Ok(())
        })
    }

    /// Settles what was given to `settle`, hands back everything that is still held, closes.
    #[napi(catch_unwind)]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let worker = self.worker.clone();
        promise(env, async move { worker.close().await })
    }

    /// Numbers about this worker: JSON text.
    #[napi(catch_unwind)]
    pub fn stats(&self) -> String {
        self.worker.stats()
    }
}
