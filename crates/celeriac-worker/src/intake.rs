//! What happens to a message when it arrives: refused, kept for later, or ready to run.
//!
//! Source of the order: `celery.worker.strategy.default` and `celery.worker.consumer.consumer`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::sync::listen;
use celeriac_broker::{Delivery, DeliveryTag, Outcome};
use celeriac_error::Error;
use celeriac_protocol::task::TaskRequest;
use celeriac_protocol::{repr, time};
use jiff::Timestamp;

use crate::consume;
use crate::deliver;
use crate::logger;
use crate::options::TaskSettings;
use crate::outcome::{self, Document};
use crate::revoked::Revoked;
use crate::settle;
use crate::settle_queue::Settling;
use crate::state::{Content, Held, Preparation, Shared, Stage, State, Task};

/// Sorts one delivery into its place. The caller tells JavaScript.
pub(crate) fn take(shared: &Arc<Shared>, delivery: Delivery) {
    let tag = delivery.tag;
    {
        let mut state = shared.state();
        state.counts.received += 1;
        state.last_taken = state.last_taken.max(Some(tag));
        if state.lost_untaken.remove(&tag) {
            state.counts.lost += 1;
            return;
        }
        state.sorting.push(tag);
    }
    if !sort(shared, delivery) {
        // Should it be lost, settling it says so.
        shared.state().end_sorting(tag);
    }
}

/// Whether it came to [`admit`].
fn sort(shared: &Arc<Shared>, delivery: Delivery) -> bool {
    let request = delivery.message.and_then(|message| {
        TaskRequest::decode(&message, &shared.options.accept_content).map(|task| (task, message))
    });
    let (request, message) = match request {
        Ok(decoded) => decoded,
        Err(error) => {
            refuse(shared, delivery.tag, &delivery.queue, &delivery.raw, &error);
            return false;
        }
    };
    let Some(settings) = shared.options.tasks.get(&request.task).copied() else {
        if !put_back(shared, delivery.tag, &request) {
            unknown(shared, delivery.tag, &delivery.queue, &request);
        }
        return false;
    };
    let times = moment(request.eta.as_deref()).and_then(|eta| Ok((eta, moment(request.expires.as_deref())?)));
    let (eta, expires) = match times {
        Ok(times) => times,
        Err(error) => {
            refuse(shared, delivery.tag, &delivery.queue, &delivery.raw, &error);
            return false;
        }
    };
    // What is acknowledged before its body never comes back.
    let counted = shared.options.max_deliveries.is_some()
        && settings.acks_late
        && message.properties.delivery_info.redelivered;
    let rendered = match deliver::render(delivery.tag, &request, &message, &delivery.queue, counted) {
        Ok(rendered) => rendered,
        Err(error) => {
            refuse(shared, delivery.tag, &delivery.queue, &delivery.raw, &error);
            return false;
        }
    };
    if rendered.text.len() > LONGEST_DELIVERY {
        let length = rendered.text.len();
        let reason = format!("its arguments are {length} bytes, more than a JavaScript string can have");
        let error = Error::Decode { reason };
        refuse(shared, delivery.tag, &delivery.queue, &delivery.raw, &error);
        return false;
    }
    log_received(&request);
    let now = Timestamp::now();
    let eta = eta.filter(|eta| *eta > now);
    let held = Held {
        content: Content::Read(Box::new(Task { request, rendered, expires, begun: None })),
        settings,
        queue: delivery.queue,
        slot: 0,
        stage: Stage::Ready,
        acknowledged: false,
        preparation: Preparation::Open,
        counted,
        size: u32::try_from(delivery.raw.len()).unwrap_or(u32::MAX),
    };
    let reason = refusal(&held, &shared.state().revoked, now);
    if let Some(reason) = reason {
        discard(shared, delivery.tag, &held, reason);
        return false;
    }
    admit(shared, delivery.tag, held, eta, delivery.raw);
    true
}

/// The most bytes of one delivery: what V8 holds in a string (2^29 - 24 characters), less some room for the batch around it.
const LONGEST_DELIVERY: usize = (1 << 29) - (1 << 20);

fn admit(shared: &Shared, tag: DeliveryTag, mut held: Held, eta: Option<Timestamp>, raw: Bytes) {
    let mut state = shared.state();
    if state.end_sorting(tag) {
        state.counts.lost += 1;
        return;
    }
    // Looked at under the lock that stopping drains under, so that nothing is left behind.
    if shared.is_stopping() || shared.is_suspended() {
        return settle::hand_back(shared, tag, &held);
    }
    if let Some(request) = held.request() {
        if let Some(count) = state.counts.by_task.get_mut(&request.task) {
            *count += 1;
        } else {
            state.counts.by_task.insert(request.task.clone(), 1);
        }
    }
    match eta {
        None => state.ready.push_back(tag),
        Some(eta) => {
            held.stage = Stage::Scheduled;
            if shared.consumer.get().is_some_and(|consumer| consumer.read(&raw).is_some()) {
                held.content = Content::Raw(raw);
            }
            let is_first = state.schedule.next().is_none_or(|next| eta < next);
            state.schedule.add(eta, tag);
            if is_first {
                shared.rescheduled.notify_one();
            }
        }
    }
    state.insert(tag, held);
}

/// Why a task must not run although it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Revoked,
    Expired,
}

/// Whether a task must not run any more.
pub(crate) fn refusal(held: &Held, revoked: &Revoked, now: Timestamp) -> Option<Refusal> {
    let task = held.task()?;
    if task.expires.is_some_and(|expires| expires <= now) {
        return Some(Refusal::Expired);
    }
    revoked.contains(&task.request.id).then_some(Refusal::Revoked)
}

/// Ends a task that must not run: REVOKED, acknowledged, one line.
pub(crate) fn discard(shared: &Shared, tag: DeliveryTag, held: &Held, reason: Refusal) {
    let Some(request) = held.request() else { return };
    log::info!(
        target: logger::REQUEST, task_id = request.id.as_str(), task_name = request.task.as_str();
        "Discarding revoked task: {}[{}]", request.task, request.id,
    );
    let word = match reason {
        Refusal::Revoked => "revoked",
        Refusal::Expired => "expired",
    };
    let document = Document::exception("REVOKED", "TaskRevokedError", word);
    let store = outcome::is_stored(request, held.settings, "REVOKED")
        .then(|| outcome::store_request(&shared.options, request, &held.queue, document));
    shared.settle_queue.push(Settling {
        task_id: request.id.clone(),
        store,
        acknowledged: held.acknowledged,
        ..Settling::new(tag, Outcome::Ack)
    });
}

/// A message that is no task for us: kept in the dead list, with one line that says why.
fn refuse(shared: &Shared, tag: DeliveryTag, queue: &Arc<str>, raw: &[u8], error: &Error) {
    let reason = match error {
        Error::ContentDisallowed { .. } => "content-disallowed",
        _ => "malformed",
    };
    log_refused(queue, raw, error);
    shared.state().counts.dead += 1;
    shared.settle_queue.push(Settling::new(tag, Outcome::Dead { reason, detail: error.to_string() }));
}

fn log_refused(queue: &str, raw: &[u8], error: &Error) {
    let start: String = String::from_utf8_lossy(&raw[..raw.len().min(200)]).into_owned();
    log::error!(
        target: logger::CONSUMER,
        "Refused a message from queue {queue:?}: {error}. It is in the dead list. It begins with {start:?} ({} bytes).",
        raw.len(),
    );
}

/// How long an unknown task is kept before it goes back: time for another worker to be deployed, without a tight circle.
const UNKNOWN_TASK_PAUSE: Duration = Duration::from_secs(1);

/// The most unknown tasks whose count is remembered.
const UNKNOWN_LIMIT: usize = 10_000;

/// Puts a task back that nothing here is registered for, after a pause, as often as the settings say.
fn put_back(shared: &Arc<Shared>, tag: DeliveryTag, request: &TaskRequest) -> bool {
    let most = shared.options.unknown_task_requeues;
    let count = {
        let mut state = shared.state();
        if most == 0 || state.unknown.len() >= UNKNOWN_LIMIT && !state.unknown.contains_key(&request.id) {
            return false;
        }
        let count = state.unknown.entry(request.id.clone()).or_default();
        *count += 1;
        let count = *count;
        if count > most {
            state.unknown.remove(&request.id);
        }
        count
    };
    if count > most {
        return false;
    }
    log::warn!(
        target: logger::CONSUMER, task_id = request.id.as_str(), task_name = request.task.as_str();
        "Received unregistered task of type {:?} with id {}: it goes back to its queue ({count}/{most}).",
        request.task, request.id,
    );
    let (shared, task_id) = (Arc::clone(shared), request.id.clone());
    shared.state().parked += 1;
    tokio::spawn(async move {
        consume::stop_or(&shared, UNKNOWN_TASK_PAUSE).await;
        shared.state().parked -= 1;
        let outcome = Outcome::Requeue { redelivered: true };
        shared.settle_queue.push(Settling { task_id, ..Settling::new(tag, outcome) });
    });
    true
}

/// A task that no function here is registered for: FAILURE, and kept in the dead list to be replayed.
fn unknown(shared: &Shared, tag: DeliveryTag, queue: &Arc<str>, request: &TaskRequest) {
    log::error!(
        target: logger::CONSUMER, task_id = request.id.as_str(), task_name = request.task.as_str();
        "Received unregistered task of type {:?} with id {} from queue {queue:?}. Its state is FAILURE, and the message is \
         in the dead list: register the task, or import the module that does, and replay it.",
        request.task, request.id,
    );
    shared.state().counts.dead += 1;
    let document = Document::exception("FAILURE", "NotRegistered", &request.task);
    let store = (!outcome::is_ignored(request, TaskSettings::default()))
        .then(|| outcome::store_request(&shared.options, request, queue, document));
    let detail = format!("no task is registered under the name {:?}", request.task);
    shared.settle_queue.push(Settling {
        task_id: request.id.clone(),
        store,
        ..Settling::new(tag, Outcome::Dead { reason: "unknown-task", detail })
    });
}

fn moment(text: Option<&str>) -> Result<Option<Timestamp>, Error> {
    text.map(time::parse_datetime).transpose()
}

fn log_received(request: &TaskRequest) {
    log::info!(
        target: logger::STRATEGY, task_id = request.id.as_str(), task_name = request.task.as_str();
        "Task {}[{}] received{}",
        request.shadow.as_deref().unwrap_or(&request.task), request.id, times(request),
    );
    if log::log_enabled!(target: logger::STRATEGY, log::Level::Debug) {
        let arguments = |given: &Option<String>, json: &str, tuple| {
            given.clone().or_else(|| {
                repr::saferepr(json.as_bytes(), tuple, repr::MAX_LENGTH, Some(repr::MAX_LEVELS)).ok()
            })
        };
        log::debug!(
            target: logger::STRATEGY, task_id = request.id.as_str(), task_name = request.task.as_str();
            "args: {} kwargs: {}",
            arguments(&request.argsrepr, &request.args_json, true).unwrap_or_default(),
            arguments(&request.kwargsrepr, &request.kwargs_json, false).unwrap_or_default(),
        );
    }
}

fn times(request: &TaskRequest) -> String {
    let mut out = String::new();
    if let Some(eta) = &request.eta {
        out = format!("  ETA:[{eta}]");
    }
    if let Some(expires) = &request.expires {
        out = format!("{out}  expires:[{expires}]");
    }
    out
}

/// How many are read again at once: JavaScript's thread may wait for the lock meanwhile.
const DUE_AT_ONCE: usize = 16;

/// Reads a message again, which could be read when it came.
fn read_again(shared: &Shared, tag: DeliveryTag, held: &Held, raw: &Bytes) -> Result<Task, Error> {
    let unreadable = || Error::Internal("a message that was held can no longer be read".to_owned());
    let consumer = shared.consumer.get().ok_or_else(unreadable)?;
    let message = consumer.read(raw).ok_or_else(unreadable)??;
    let request = TaskRequest::decode(&message, &shared.options.accept_content)?;
    let expires = moment(request.expires.as_deref())?;
    let rendered = deliver::render(tag, &request, &message, &held.queue, held.counted)?;
    Ok(Task { request, rendered, expires, begun: None })
}

/// Moves one from the schedule to the ready queue.
fn make_ready(shared: &Shared, state: &mut State, tag: DeliveryTag) {
    let Some(held) = state.held.get_mut(&tag) else { return };
    if let Content::Raw(raw) = &held.content {
        match read_again(shared, tag, held, raw) {
            Ok(task) => held.content = Content::Read(Box::new(task)),
            Err(error) => {
                let raw = raw.clone();
                let refused = state.remove(tag);
                let queue = refused.map(|held| held.queue).unwrap_or_default();
                log_refused(&queue, &raw, &error);
                state.counts.dead += 1;
                let outcome = Outcome::Dead { reason: "malformed", detail: error.to_string() };
                return shared.settle_queue.push(Settling::new(tag, outcome));
            }
        }
    }
    held.stage = Stage::Ready;
    state.ready.push_back(tag);
}

/// Moves what is due from the schedule to the ready queue; runs until the worker stops.
pub(crate) async fn run_schedule(shared: Arc<Shared>) {
    loop {
        let stopped = listen(&shared.stopped);
        if shared.is_stopping() {
            return;
        }
        let now = Timestamp::now();
        let (moved, next) = {
            let mut state = shared.state();
            let mut moved = 0;
            while moved < DUE_AT_ONCE {
                let Some(tag) = state.schedule.pop(now) else { break };
                make_ready(&shared, &mut state, tag);
                moved += 1;
            }
            (moved, state.schedule.next())
        };
        if moved > 0 {
            shared.deliverable.notify_one();
            shared.capacity.notify_one();
        }
        let wait = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());

        tokio::select! {
            () = shared.rescheduled.notified() => {}
            () = stopped => {}
            () = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}
