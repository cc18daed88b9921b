//! What happens to a message when it arrives: refused, kept for later, or ready to run.
//!
//! Source of the order: `celery.worker.strategy.default` and `celery.worker.consumer.consumer`.

use std::sync::Arc;
use std::time::Duration;

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
use crate::settle::{self, Settling};
use crate::state::{Held, Preparation, Shared, Stage};

/// Sorts one delivery into its place. The caller tells JavaScript.
pub(crate) fn take(shared: &Arc<Shared>, delivery: Delivery) {
    {
        let mut state = shared.state();
        state.counts.received += 1;
        state.last_taken = Some(delivery.tag);
        if state.lost_untaken.remove(&delivery.tag) {
            state.counts.lost += 1;
            return;
        }
    }
    let request = delivery.message.and_then(|message| {
        TaskRequest::decode(&message, &shared.options.accept_content).map(|task| (task, message))
    });
    let (request, message) = match request {
        Ok(decoded) => decoded,
        Err(error) => return refuse(shared, delivery.tag, &delivery.queue, &delivery.raw, &error),
    };
    let Some(settings) = shared.options.tasks.get(&request.task).copied() else {
        if !put_back(shared, delivery.tag, &request) {
            unknown(shared, delivery.tag, &delivery.queue, &request);
        }
        return;
    };
    let times = moment(request.eta.as_deref()).and_then(|eta| Ok((eta, moment(request.expires.as_deref())?)));
    let (eta, expires) = match times {
        Ok(times) => times,
        Err(error) => return refuse(shared, delivery.tag, &delivery.queue, &delivery.raw, &error),
    };
    let rendered = match deliver::render(delivery.tag, &request, &message, &delivery.queue) {
        Ok(rendered) => rendered,
        Err(error) => return refuse(shared, delivery.tag, &delivery.queue, &delivery.raw, &error),
    };
    if rendered.len() > LONGEST_DELIVERY {
        let reason =
            format!("its arguments are {} bytes, more than a JavaScript string can have", rendered.len());
        let error = Error::Decode { reason };
        return refuse(shared, delivery.tag, &delivery.queue, &delivery.raw, &error);
    }
    log_received(&request);
    let now = Timestamp::now();
    let held = Held {
        request: Arc::new(request),
        settings,
        queue: delivery.queue,
        rendered,
        stage: Stage::Ready,
        acknowledged: false,
        expires,
        preparation: Preparation::Open,
        // What is acknowledged before its body never comes back.
        counted: shared.options.max_deliveries.is_some()
            && settings.acks_late
            && message.properties.delivery_info.redelivered,
        begun: None,
        size: delivery.raw.len(),
    };
    let reason = refusal(&held, &shared.state().revoked, now);
    if let Some(reason) = reason {
        return discard(shared, delivery.tag, &held, reason);
    }
    admit(shared, delivery.tag, held, eta.filter(|eta| *eta > now));
}

/// The most bytes of one delivery: what V8 holds in a string (2^29 - 24 characters), less some room for the batch around it.
const LONGEST_DELIVERY: usize = (1 << 29) - (1 << 20);

fn admit(shared: &Shared, tag: DeliveryTag, mut held: Held, eta: Option<Timestamp>) {
    let mut state = shared.state();
    // Looked at under the lock that stopping drains under, so that nothing is left behind.
    if shared.is_stopping() || shared.is_suspended() {
        state.insert(tag, held);
        drop(state);
        return settle::hand_back(shared, vec![tag]);
    }
    *state.counts.by_task.entry(held.request.task.clone()).or_default() += 1;
    match eta {
        None => state.ready.push_back(tag),
        Some(eta) => {
            held.stage = Stage::Scheduled;
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
    if held.expires.is_some_and(|expires| expires <= now) {
        return Some(Refusal::Expired);
    }
    revoked.contains(&held.request.id).then_some(Refusal::Revoked)
}

/// Ends a task that must not run: REVOKED, acknowledged, one line.
pub(crate) fn discard(shared: &Shared, tag: DeliveryTag, held: &Held, reason: Refusal) {
    let request = &held.request;
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
    let start: String = String::from_utf8_lossy(&raw[..raw.len().min(200)]).into_owned();
    log::error!(
        target: logger::CONSUMER,
        "Refused a message from queue {queue:?}: {error}. It is in the dead list. It begins with {start:?} ({} bytes).",
        raw.len(),
    );
    shared.state().counts.dead += 1;
    shared.settle_queue.push(Settling::new(tag, Outcome::Dead { reason, detail: error.to_string() }));
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

/// Moves what is due from the schedule to the ready queue; runs until the worker stops.
pub(crate) async fn run_schedule(shared: Arc<Shared>) {
    while !shared.is_stopping() {
        let now = Timestamp::now();
        let (moved, next) = {
            let mut state = shared.state();
            let mut moved = 0;
            while let Some(tag) = state.schedule.pop(now) {
                if let Some(held) = state.held.get_mut(&tag) {
                    held.stage = Stage::Ready;
                    state.ready.push_back(tag);
                    moved += 1;
                }
            }
            (moved, state.schedule.next())
        };
        if moved > 0 {
            shared.deliverable.notify_one();
            shared.capacity.notify_one();
        }
        let wait = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
        let stopped = shared.stopped.notified();
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
