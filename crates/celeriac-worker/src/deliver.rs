//! What JavaScript is given: the texts of its deliveries, and when they are ready.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use celeriac_broker::{DeliveryTag, Outcome, Settled, Settlement, fault_point};
use celeriac_error::Result;
use celeriac_protocol::task::TaskRequest;
use celeriac_protocol::{Message, json};
use celeriac_result::StoreRequest;
use jiff::Timestamp;

use crate::consume;
use crate::intake::{self, Refusal};
use crate::logger;
use crate::outcome::{self, Document};
use crate::settle;
use crate::state::{Held, Notice, Preparation, Rendered, Shared};
use crate::watchdog;

/// Its arguments or its request hold tags to revive.
const TAGGED: u8 = 1;
/// Its request says what follows it, or how long it may take.
const INVOLVED: u8 = 2;
/// It was handed out before, so its begin is counted.
const COUNTED: u8 = 4;

/// One delivery as JavaScript reads it, two lines: `[tag, name, id, args, kwargs, flags, slot]`, and the request, which is read
/// only when somebody asks for it. It holds only what differs from the default, because every byte is parsed on JavaScript's
/// one thread.
pub(crate) fn render(
    tag: DeliveryTag,
    request: &TaskRequest,
    message: &Message,
    queue: &str,
    counted: bool,
) -> Result<Rendered> {
    let mut fields = Fields { out: String::from("{"), tagged: false };
    fields.number("retries", u64::from(request.retries), request.retries == 0);
    fields.text("eta", request.eta.as_deref());
    fields.text("expires", request.expires.as_deref());
    let (hard, soft) = request.time_limit;
    if hard.is_some() || soft.is_some() {
        let seconds = |limit: Option<f64>| limit.map_or_else(|| "null".to_owned(), |limit| limit.to_string());
        fields.raw("timelimit", &format!("[{},{}]", seconds(hard), seconds(soft)));
    }
    fields.text("root_id", Some(request.root_id.as_str()).filter(|root| *root != request.id));
    fields.text("parent_id", request.parent_id.as_deref());
    fields.text("group", request.group.as_deref());
    if let Some(index) = request.group_index {
        fields.number("group_index", index, false);
    }
    fields.json("callbacks", request.callbacks_json.as_deref())?;
    fields.json("errbacks", request.errbacks_json.as_deref())?;
    fields.json("chain", request.chain_json.as_deref())?;
    fields.json("chord", request.chord_json.as_deref())?;
    fields.text("origin", request.origin.as_deref());
    fields.text("lang", request.lang.as_deref());
    fields.text("reply_to", request.reply_to.as_deref());
    let correlation = request.correlation_id.as_deref().filter(|correlation| *correlation != request.id);
    fields.text("correlation_id", correlation);
    if let Some(ignore) = request.ignore_result {
        fields.raw("ignore_result", if ignore { "true" } else { "false" });
    }
    fields.text("shadow", request.shadow.as_deref());
    fields.text("argsrepr", request.argsrepr.as_deref());
    fields.text("kwargsrepr", request.kwargsrepr.as_deref());
    fields.json("stamped_headers", request.stamped_headers_json.as_deref())?;
    fields.json("stamps", request.stamps_json.as_deref())?;
    fields.json("headers", request.headers_json.as_deref())?;
    let nesting = request.replaced_task_nesting;
    fields.number("replaced_task_nesting", u64::from(nesting), nesting == 0);
    fields.number("priority", request.priority.unwrap_or(0).into(), request.priority.unwrap_or(0) == 0);
    fields.text("queue", Some(queue));
    let info = &message.properties.delivery_info;
    let mut place = Fields { out: String::from("{"), tagged: false };
    place.text("exchange", Some(&info.exchange));
    place.text("routing_key", Some(&info.routing_key));
    place.raw("redelivered", if info.redelivered { "true" } else { "false" });
    fields.raw("delivery_info", &place.close());

    let args = json::to_javascript(request.args_json.as_bytes())?;
    let kwargs = json::to_javascript(request.kwargs_json.as_bytes())?;
    let is_involved =
        hard.is_some() || soft.is_some() || request.callbacks_json.is_some() || request.chain_json.is_some();
    let mut flags = if fields.tagged || args.tagged || kwargs.tagged { TAGGED } else { 0 };
    if is_involved {
        flags |= INVOLVED;
    }
    if counted {
        flags |= COUNTED;
    }
    let request_json = fields.close();
    let length = 96 + request.task.len() + args.text.len() + kwargs.text.len() + request_json.len();
    let mut text = String::with_capacity(length);
    let _ = write!(text, "[{},", tag.0);
    json::push_string(&mut text, &request.task);
    text.push(',');
    json::push_string(&mut text, &request.id);
    text.push(',');
    push_in_line(&mut text, &args.text);
    text.push(',');
    push_in_line(&mut text, &kwargs.text);
    let _ = write!(text, ",{flags},");
    let slot_at = text.len();
    text.push_str("]\n");
    push_in_line(&mut text, &request_json);
    text.push('\n');
    Ok(Rendered { text, slot_at })
}

/// JSON text may have line breaks between its parts, and within none of them.
fn push_in_line(out: &mut String, json: &str) {
    let mut parts = json.split('\n');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        out.push(' ');
        out.push_str(part);
    }
}

/// A JSON object that grows.
struct Fields {
    out: String,
    tagged: bool,
}

impl Fields {
    fn key(&mut self, key: &str) {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        let _ = write!(self.out, "\"{key}\":");
    }

    fn raw(&mut self, key: &str, json: &str) {
        self.key(key);
        self.out.push_str(json);
    }

    fn number(&mut self, key: &str, value: u64, is_default: bool) {
        if !is_default {
            self.raw(key, &value.to_string());
        }
    }

    fn text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.key(key);
            json::push_string(&mut self.out, value);
        }
    }

    fn json(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        if let Some(value) = value {
            let value = json::to_javascript(value.as_bytes())?;
            self.tagged |= value.tagged;
            self.raw(key, &value.text);
        }
        Ok(())
    }

    fn close(mut self) -> String {
        self.out.push('}');
        self.out
    }
}

/// Resolves when [`collect`] has something to give, with `false` once there will be nothing more.
pub(crate) async fn wait(shared: &Arc<Shared>) -> bool {
    watchdog::beat(shared);
    loop {
        prepare(shared);
        {
            let state = shared.state();
            let free = shared.options.concurrency.saturating_sub(state.running);
            let mut next = state.ready.iter().filter_map(|tag| state.held.get(tag));
            let begins = free > 0 && shared.leases_stand() && {
                let mut next = next.by_ref().filter(|held| !state.is_held_up(held)).take(free);
                next.any(|held| held.preparation == Preparation::Done)
            };
            if begins || !state.notices.is_empty() {
                return true;
            }
            let over = shared.is_stopping() && state.held.is_empty() && shared.settle_queue.is_empty();
            if over || shared.is_closed() {
                return false;
            }
        }
        shared.deliverable.notified().await;
    }
}

/// What must happen before the next bodies begin.
#[derive(Default)]
struct Plan {
    /// Everything that is ready once the rest is done.
    tags: Vec<DeliveryTag>,
    /// Acknowledged before the body.
    early: Vec<DeliveryTag>,
    /// `STARTED` documents.
    started: Vec<StoreRequest>,
    /// Expired or revoked since they came.
    refused: Vec<(DeliveryTag, Held, Refusal)>,
}

/// Looks at as many ready tasks as there are free slots.
fn plan(shared: &Shared) -> Plan {
    let now = Timestamp::now();
    let mut plan = Plan::default();
    let mut state = shared.state();
    let state = &mut *state;
    let free = shared.options.concurrency.saturating_sub(state.running);
    let (mut position, mut considered) = (0, 0);
    while considered < free {
        let Some(tag) = state.ready.get(position).copied() else { break };
        let one_is_beginning = state.is_one_beginning();
        let Some(held) = state.held.get_mut(&tag) else {
            state.ready.remove(position);
            continue;
        };
        if held.counted && one_is_beginning {
            position += 1;
            continue;
        }
        if let Some(reason) = intake::refusal(held, &state.revoked, now) {
            state.ready.remove(position);
            plan.refused.extend(state.remove(tag).map(|held| (tag, held, reason)));
            continue;
        }
        position += 1;
        considered += 1;
        if held.preparation != Preparation::Open {
            continue;
        }
        if held.settings.acks_late && !held.settings.track_started {
            held.preparation = Preparation::Done;
            continue;
        }
        held.preparation = Preparation::UnderWay;
        plan.tags.push(tag);
        if !held.settings.acks_late {
            plan.early.push(tag);
        }
        if let Some(request) = held.request()
            && held.settings.track_started
            && !outcome::is_ignored(request, held.settings)
        {
            plan.started.push(started(shared, request, &held.queue));
        }
    }
    plan
}

/// Sees to it that what must happen before the next bodies begin does: refuses what has expired or was revoked meanwhile,
/// acknowledges what is acknowledged early, stores STARTED. Tasks that need nothing of that do not wait for it.
fn prepare(shared: &Arc<Shared>) {
    let plan = plan(shared);
    if !plan.refused.is_empty() {
        for (tag, held, reason) in plan.refused {
            intake::discard(shared, tag, &held, reason);
        }
        shared.capacity.notify_one();
    }
    if plan.tags.is_empty() {
        return;
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        store_started(&shared, &plan.started).await;
        let failed = acknowledge_early(&shared, &plan.early).await;
        {
            let mut state = shared.state();
            for tag in plan.tags {
                if let Some(held) = state.held.get_mut(&tag) {
                    held.preparation =
                        if failed.contains(&tag) { Preparation::Open } else { Preparation::Done };
                }
            }
        }
        if !failed.is_empty() {
            consume::stop_or(&shared, RETRY_PAUSE).await;
            if shared.is_stopping() {
                settle::hand_back_unbegun(&shared);
            }
        }
        shared.deliverable.notify_one();
    });
}

/// How long to wait before an early acknowledgement is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How long STARTED may keep a body from beginning.
const STARTED_PATIENCE: Duration = Duration::from_secs(1);

fn started(shared: &Shared, request: &TaskRequest, queue: &str) -> StoreRequest {
    let mut result = format!("{{\"pid\": {}, \"hostname\": ", shared.options.pid);
    json::push_string(&mut result, &shared.options.hostname);
    result.push('}');
    let document = Document { state: "STARTED", result, traceback: None, children: "[]".to_owned() };
    outcome::store_request(&shared.options, request, queue, document)
}

/// STARTED is a courtesy: that it could not be stored never keeps a task from running.
async fn store_started(shared: &Shared, requests: &[StoreRequest]) {
    let Some(store) = &shared.store else { return };
    if requests.is_empty() {
        return;
    }
    match tokio::time::timeout(STARTED_PATIENCE, store.store(requests)).await {
        Ok(outcomes) => {
            for error in outcomes.into_iter().filter_map(Result::err) {
                log::warn!(target: logger::REQUEST, "Could not store STARTED: {error}");
            }
        }
        Err(_) => {
            log::warn!(target: logger::REQUEST, "Could not store STARTED: {} does not answer", store.url());
        }
    }
}

/// Acknowledges before the body, for tasks without `acks_late`; gives those that could not be acknowledged now. What was
/// lost to another worker is dropped.
async fn acknowledge_early(shared: &Shared, early: &[DeliveryTag]) -> Vec<DeliveryTag> {
    let Some(consumer) = shared.consumer.get() else { return early.to_vec() };
    if early.is_empty() {
        return Vec::new();
    }
    let batch: Vec<Settlement> = early
        .iter()
        .map(|tag| Settlement { tag: *tag, publish: Vec::new(), store: None, outcome: Outcome::Ack })
        .collect();
    fault_point!("early_ack.before");
    let outcomes = consumer.settle(&batch).await;
    fault_point!("early_ack.after");
    let mut failed = Vec::new();
    let mut lost = false;
    let mut state = shared.state();
    for (tag, outcome) in early.iter().zip(outcomes) {
        match outcome {
            Ok(Settled::Done) => {
                if let Some(held) = state.held.get_mut(tag) {
                    held.acknowledged = true;
                }
            }
            Ok(Settled::Lost) => {
                lost = true;
                state.ready.retain(|ready| ready != tag);
                state.remove(*tag);
                state.counts.lost += 1;
            }
            Err(error) => {
                log::warn!(target: logger::REQUEST, "Could not acknowledge before the body: {error}");
                failed.push(*tag);
            }
        }
    }
    drop(state);
    if lost {
        shared.capacity.notify_one();
    }
    failed
}

/// The bytes after which a batch is full: together, deliveries must not be longer than a JavaScript string can be.
const LARGE_BATCH: usize = 16 << 20;

/// Takes what JavaScript can run now, as lines. Called on JavaScript's thread, so that what it has not taken
/// is known not to have begun.
pub(crate) fn collect(shared: &Shared) -> String {
    fault_point!("collect.before");
    let mut out = String::new();
    let mut state = shared.state();
    state.last_contact = Some(Instant::now());
    for notice in std::mem::take(&mut state.notices) {
        push_notice(&mut out, &notice);
    }
    let state = &mut *state;
    let now = Timestamp::now();
    let mut skipped = Vec::new();
    // Once for all: each is asked for again right before its body.
    let stands = shared.leases_stand();
    while stands && state.running < shared.options.concurrency {
        // More goes with the next call, which finds it ready.
        if out.len() > LARGE_BATCH {
            break;
        }
        let Some(tag) = state.ready.pop_front() else { break };
        let one_is_beginning = state.is_one_beginning();
        let Some(held) = state.held.get(&tag) else { continue };
        // What came since `wait` looked, and needs nothing done before it, may go along.
        let plain = held.settings.acks_late && !held.settings.track_started;
        let waits = held.preparation != Preparation::Done && !plain || held.counted && one_is_beginning;
        if waits || intake::refusal(held, &state.revoked, now).is_some() {
            skipped.push(tag);
            continue;
        }
        if held.counted {
            state.beginning = Some((tag, Instant::now()));
        }
        let slot = state.give(tag);
        if let Some(task) = state.held.get(&tag).and_then(Held::task) {
            let Rendered { text, slot_at } = &task.rendered;
            out.push_str(&text[..*slot_at]);
            let _ = write!(out, "{slot}");
            out.push_str(&text[*slot_at..]);
        }
    }
    for tag in skipped.into_iter().rev() {
        state.ready.push_front(tag);
    }
    fault_point!("collect.after");
    out
}

fn push_notice(out: &mut String, notice: &Notice) {
    match notice {
        Notice::Shutdown => out.push_str("[\"shutdown\"]\n"),
        Notice::Revoke { ids, terminate, signal } => {
            out.push_str("[\"revoke\",[");
            for (position, id) in ids.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                json::push_string(out, id);
            }
            let _ = write!(out, "],{terminate},");
            json::push_string(out, signal);
            out.push_str("]\n");
        }
    }
}
