//! The end of a delivery: publish, store, then acknowledge, in that order, in batches.
//!
//! On a broker that is also the result store's server all three are one step of the broker's. Elsewhere the lease is
//! checked first, and each step is done before the next begins: a crash between them repeats, it never loses.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriac_broker::route::TaskCall;
use celeriac_broker::{
    Consumer, DeliveryTag, InlineStore, Outcome, Publication, Queue, Settled, Settlement, fault_point,
};
use celeriac_error::{Error, Result};
use celeriac_protocol::json;
use celeriac_result::StoreRequest;
use tokio::sync::Notify;

use crate::connect::{self, Backoff};
use crate::logger;
use crate::outcome::{self, Document};
use crate::state::Shared;

/// The most deliveries that are settled in one step.
const BATCH: usize = 512;

/// One delivery on its way out. What is done is taken out of it, so that a second try does only the rest.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) tag: DeliveryTag,
    pub(crate) task_id: String,
    pub(crate) publish: Vec<Publication>,
    /// The queues that must exist before.
    pub(crate) queues: Vec<Arc<Queue>>,
    pub(crate) store: Option<StoreRequest>,
    pub(crate) outcome: Outcome,
    /// The broker has forgotten it already.
    pub(crate) acknowledged: bool,
    /// How often something of it was refused for good.
    pub(crate) refusals: u32,
}

impl Settling {
    /// Only an outcome; the rest is added by whoever has it.
    pub(crate) fn new(tag: DeliveryTag, outcome: Outcome) -> Self {
        Self {
            tag,
            task_id: String::new(),
            publish: Vec::new(),
            queues: Vec::new(),
            store: None,
            outcome,
            acknowledged: false,
            refusals: 0,
        }
    }

    /// What the task sends on is refused for good: it fails instead, and its own message is kept in the dead list.
    fn refuse_publications(&mut self, error: &Error) {
        let kept = if self.acknowledged {
            "its message was acknowledged before and is gone"
        } else {
            "its message is in the dead list"
        };
        log::error!(
            target: logger::REQUEST, task_id = self.task_id.as_str();
            "Task {}: what it sends on was refused: {error}. It fails, and {kept}.", self.task_id,
        );
        self.publish.clear();
        self.queues.clear();
        self.outcome = Outcome::Dead { reason: "rejected", detail: error.to_string() };
        if let Some(store) = &mut self.store {
            outcome::turn_into_failure(&mut store.meta, "OperationalError", &error.to_string());
        }
    }
}

#[derive(Default)]
struct Waiting {
    /// What JavaScript gave, unread.
    texts: Vec<String>,
    items: VecDeque<Settling>,
    /// How many are being settled at this moment.
    under_way: usize,
}

/// What waits to be settled.
#[derive(Default)]
pub(crate) struct SettleQueue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// Told after every batch.
    progress: Notify,
}

impl SettleQueue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, item: Settling) {
        self.waiting().items.push_back(item);
        self.wake.notify_one();
    }

    /// Takes what JavaScript says; it is read on another thread than JavaScript's.
    pub(crate) fn push_text(&self, text: String) {
        self.waiting().texts.push(text);
        self.wake.notify_one();
    }

    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.under_way == 0 && waiting.items.is_empty() && waiting.texts.is_empty()
    }

    /// How many deliveries wait, as far as they have been read.
    pub(crate) fn len(&self) -> usize {
        let waiting = self.waiting();
        waiting.under_way + waiting.items.len()
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves when nothing waits.
    pub(crate) async fn drained(&self) {
        loop {
            let progress = self.progress.notified();
            if self.is_empty() {
                return;
            }
            progress.await;
        }
    }
}

/// Runs until the worker is closed.
pub(crate) async fn run(shared: Arc<Shared>, consumer: Arc<dyn Consumer>) {
    let mut backoff = Backoff::for_reconnect();
    let queue = &shared.settle_queue;
    loop {
        let (texts, mut batch) = {
            let mut waiting = queue.waiting();
            let count = waiting.items.len().min(BATCH);
            let batch: Vec<Settling> = waiting.items.drain(..count).collect();
            let texts = std::mem::take(&mut waiting.texts);
            waiting.under_way = batch.len() + texts.len();
            (texts, batch)
        };
        let is_idle = texts.is_empty() && batch.is_empty();
        for text in texts {
            read(&shared, &text, &mut batch);
        }
        queue.waiting().under_way = batch.len();
        if !batch.is_empty() {
            // Slots are free from here on, whether the broker answers or not.
            shared.deliverable.notify_one();
            shared.capacity.notify_one();
        }
        let again = process(&shared, consumer.as_ref(), batch).await;
        let failed = !again.is_empty();
        {
            let mut waiting = queue.waiting();
            for item in again.into_iter().rev() {
                waiting.items.push_front(item);
            }
            waiting.under_way = 0;
        }
        queue.progress.notify_waiters();
        if !is_idle {
            shared.deliverable.notify_one();
            shared.capacity.notify_one();
        }
        if failed {
            if shared.is_closed() {
                // The leases bring back what the broker did not take.
                return;
            }
            tokio::time::sleep(backoff.next()).await;
        } else if is_idle {
            backoff.reset();
            if shared.is_closed() {
                return;
            }
            queue.wake.notified().await;
        }
    }
}

/// Reads what JavaScript gave to `settle`. An outcome that cannot be read is a failure of its own task, and of no other.
fn read(shared: &Shared, text: &str, batch: &mut Vec<Settling>) {
    // Line by line: no JSON text that JavaScript writes has a line feed of its own.
    for item in text.lines().filter(|line| !line.is_empty()) {
        match read_one(shared, item) {
            Ok(Some(settling)) => batch.push(settling),
            Ok(None) => {}
            Err(error) => batch.extend(unreadable(shared, item, &error)),
        }
    }
}

/// The failure of a task whose outcome cannot be read: a result that nests too deeply, for one.
fn unreadable(shared: &Shared, text: &str, error: &Error) -> Option<Settling> {
    log::error!(target: logger::WORKER, "An outcome cannot be read: {error}");
    let digits = text.trim_start_matches('[').split(',').next()?;
    let tag = DeliveryTag(digits.parse().ok()?);
    let held = shared.state().remove(tag)?;
    let document = Document::exception("FAILURE", "EncodeError", &error.to_string());
    let store = held
        .request()
        .filter(|request| outcome::is_stored(request, held.settings, "FAILURE"))
        .map(|request| outcome::store_request(&shared.options, request, &held.queue, document));
    Some(Settling {
        task_id: held.task_id(),
        store,
        acknowledged: held.acknowledged,
        ..Settling::new(tag, Outcome::Ack)
    })
}

fn wrong(what: &str) -> Error {
    Error::Decode { reason: format!("an outcome without a {what}") }
}

fn read_one(shared: &Shared, text: &str) -> Result<Option<Settling>> {
    let fields = json::array_items(text.as_bytes())?;
    let [tag, outcome, state, result, traceback, children, publish] = fields.as_slice() else {
        return Err(wrong("complete set of fields"));
    };
    let tag = DeliveryTag(tag.parse().map_err(|_| wrong("tag"))?);
    let Some(held) = shared.state().remove(tag) else {
        // Handed back meanwhile, because JavaScript seemed dead.
        log::warn!(target: logger::REQUEST, "An outcome came for delivery {}, which is no longer held.", tag.0);
        return Ok(None);
    };
    let Some(request) = held.request() else { return Err(wrong("task")) };
    let disposition = match *outcome {
        "1" => Outcome::Dead { reason: "rejected", detail: ended_with(result) },
        "2" => Outcome::Requeue { redelivered: true },
        "3" => Outcome::Requeue { redelivered: false },
        "4" => Outcome::Dead { reason: "poison", detail: lost_too_often(shared) },
        _ => Outcome::Ack,
    };
    let mut settling = Settling {
        task_id: request.id.clone(),
        acknowledged: held.acknowledged,
        ..Settling::new(tag, disposition)
    };
    if let Some(state) = string(state)
        && outcome::is_stored(request, held.settings, &state)
    {
        let document = Document {
            state: &state,
            result: (*result).to_owned(),
            traceback: string(traceback),
            children: (*children).to_owned(),
        };
        settling.store = Some(outcome::store_request(&shared.options, request, &held.queue, document));
    }
    if *publish != "null"
        && let Err(error) = read_publications(shared, publish, &mut settling)
    {
        settling.refuse_publications(&error);
    }
    Ok(Some(settling))
}

/// The most characters of an exception's message that the dead list repeats; the result has all of them.
const DETAIL: usize = 1000;

/// What a task whose message nobody wants again ended with, as its result says it: `Reject: …`, or what was thrown.
fn ended_with(result: &str) -> String {
    let exception = || -> Option<String> {
        let members = json::object_members(result.as_bytes()).ok()?;
        let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let arguments = json::array_items(member("exc_message")?.as_bytes()).ok()?;
        let message: Vec<String> =
            arguments.iter().map(|each| string(each).unwrap_or_else(|| (*each).to_owned())).collect();
        Some(format!("{}: {}", string(member("exc_type")?)?, message.join(", ")))
    };
    let text = exception().unwrap_or_else(|| "an exception that cannot be read".to_owned());
    format!("the task ended with {}", text.chars().take(DETAIL).collect::<String>())
}

fn lost_too_often(shared: &Shared) -> String {
    let most = shared.options.max_deliveries.unwrap_or_default();
    format!("each time that it ran its worker was lost or gave it up; maxDeliveries is {most}")
}

fn read_publications(shared: &Shared, text: &str, settling: &mut Settling) -> Result<()> {
    for item in json::array_items(text.as_bytes())? {
        let fields = json::array_items(item.as_bytes())?;
        let [route, task_id, args, kwargs, options] = fields.as_slice() else {
            return Err(wrong("complete publication"));
        };
        let route = route.parse().map_err(|_| wrong("route"))?;
        let task_id = string(task_id).ok_or_else(|| wrong("task id"))?;
        let options = (*options != "null").then_some(*options);
        let call = TaskCall { route, task_id: &task_id, args, kwargs, options };
        let (route, publication) = shared.producer.message(&call)?;
        settling.publish.push(publication);
        settling.queues.extend(route.queue.clone());
    }
    Ok(())
}

/// A JSON string, decoded; `None` for null and everything else.
fn string(text: &str) -> Option<String> {
    serde_json::from_str::<String>(text).ok()
}

/// Settles a batch; what failed for now is given back, less what was done of it.
async fn process(shared: &Shared, consumer: &dyn Consumer, batch: Vec<Settling>) -> Vec<Settling> {
    if batch.is_empty() {
        return batch;
    }
    let mut batch = batch;
    let queues = batch.iter().flat_map(|item| item.queues.iter().map(AsRef::as_ref));
    match shared.declarations.ensure(queues).await {
        Ok(()) => {}
        Err(error) if error.is_transient() => return retry_all(shared, batch, &error),
        Err(_) => declare_one_by_one(shared, &mut batch).await,
    }
    let (mut whole, mut parts) = (Vec::with_capacity(batch.len()), Vec::new());
    for item in batch {
        match way(shared, &item) {
            Way::Whole(store) => whole.push((item, store)),
            Way::Parts => parts.push(item),
        }
    }
    let mut again = settle_whole(shared, consumer, whole).await;
    again.extend(settle_in_parts(shared, consumer, parts).await);
    again
}

/// A queue that cannot be declared costs the task that needs it, and no other.
async fn declare_one_by_one(shared: &Shared, batch: &mut [Settling]) {
    for item in batch {
        let outcome = shared.declarations.ensure(item.queues.iter().map(AsRef::as_ref)).await;
        if let Err(error) = outcome
            && !error.is_transient()
        {
            item.refuse_publications(&error);
        }
    }
}

/// How an item is settled.
enum Way {
    /// The broker does all of it in one step, this store included.
    Whole(Option<InlineStore>),
    /// Publish, store, acknowledge, one after the other.
    Parts,
}

fn way(shared: &Shared, item: &Settling) -> Way {
    if item.acknowledged {
        return Way::Parts;
    }
    match (&item.store, &shared.store) {
        (Some(request), Some(store)) => {
            let inline = shared.store_inline.then(|| store.inline(request)).flatten();
            inline.map_or(Way::Parts, |inline| Way::Whole(Some(inline)))
        }
        _ if shared.store_inline || shared.store.is_none() || item.publish.is_empty() => Way::Whole(None),
        _ => Way::Parts,
    }
}

fn retry_all(shared: &Shared, batch: Vec<Settling>, error: &Error) -> Vec<Settling> {
    let Some(first) = batch.first() else { return batch };
    let is_news = connect::is_news(&mut shared.state().said_unsettled);
    if is_news {
        log::warn!(
            target: logger::REQUEST, task_id = first.task_id.as_str();
            "Could not settle {} tasks yet: {error}", batch.len(),
        );
    }
    batch
}

/// Everything in one step of the broker's, storing included where it comes with the item.
async fn settle_whole(
    shared: &Shared,
    consumer: &dyn Consumer,
    batch: Vec<(Settling, Option<InlineStore>)>,
) -> Vec<Settling> {
    if batch.is_empty() {
        return Vec::new();
    }
    let (batch, settlements): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|(item, store)| {
            let settlement = Settlement {
                tag: item.tag,
                publish: item.publish.clone(),
                store,
                outcome: item.outcome.clone(),
            };
            (item, settlement)
        })
        .unzip();
    fault_point!("settle.before");
    let outcomes = consumer.settle(&settlements).await;
    fault_point!("settle.after");
    sort(shared, batch, outcomes)
}

fn sort(shared: &Shared, batch: Vec<Settling>, outcomes: Vec<Result<Settled>>) -> Vec<Settling> {
    let mut again = Vec::new();
    let mut first_error: Option<Error> = None;
    let (mut settled, mut lost) = (0, 0);
    for (mut item, outcome) in batch.into_iter().zip(outcomes) {
        match outcome {
            Ok(Settled::Done) => settled += 1,
            Ok(Settled::Lost) => {
                lost += 1;
                warn_lost(&item);
            }
            Err(error) if error.is_transient() => {
                first_error.get_or_insert(error);
                again.push(item);
            }
            Err(error) => {
                if refuse(&mut item, &error) {
                    again.push(item);
                }
                first_error.get_or_insert(error);
            }
        }
    }
    let mut state = shared.state();
    state.counts.settled += settled;
    state.counts.lost += lost;
    drop(state);
    match first_error {
        Some(error) => retry_all(shared, again, &error),
        None => again,
    }
}

/// Something of an item was refused for good: what was refused is left out of the next try. False when nothing is left to
/// leave out; its lease then brings it back when the worker is gone.
fn refuse(item: &mut Settling, error: &Error) -> bool {
    item.refusals += 1;
    let routing = matches!(error, Error::Unroutable { .. } | Error::NotSupported { .. });
    if !item.publish.is_empty() && (routing || item.store.is_none() || item.refusals > 2) {
        item.refuse_publications(error);
    } else if let Some(store) = &mut item.store {
        log::error!(
            target: logger::REQUEST, task_id = item.task_id.as_str();
            "The result of task {} was refused: {error}", item.task_id,
        );
        if store.meta.status == "FAILURE" {
            item.store = None;
        } else {
            outcome::turn_into_failure(&mut store.meta, "BackendStoreError", &error.to_string());
        }
    } else {
        log::error!(
            target: logger::REQUEST, task_id = item.task_id.as_str();
            "Task {} could not be settled: {error}", item.task_id,
        );
        return item.refusals < 5;
    }
    true
}

fn warn_lost(item: &Settling) {
    log::warn!(
        target: logger::REQUEST, task_id = item.task_id.as_str();
        "Task {} was taken over by another worker, because its lease ran out here: nothing was published, stored or \
         acknowledged for it.",
        item.task_id,
    );
}

/// Where the result store is not the broker's server, or the message is acknowledged already: step by step.
async fn settle_in_parts(shared: &Shared, consumer: &dyn Consumer, batch: Vec<Settling>) -> Vec<Settling> {
    if batch.is_empty() {
        return batch;
    }
    let mut batch = match drop_lost(shared, consumer, batch).await {
        Ok(batch) => batch,
        Err((batch, error)) => return retry_all(shared, batch, &error),
    };
    let mut again = Vec::new();
    if let Some(error) = publish(shared, &mut batch, &mut again).await {
        again = retry_all(shared, again, &error);
    }
    if let Some(error) = store(shared, &mut batch, &mut again).await {
        again = retry_all(shared, again, &error);
    }
    let (forgotten, held): (Vec<_>, Vec<_>) = batch.into_iter().partition(|item| item.acknowledged);
    shared.state().counts.settled += forgotten.len() as u64;
    // Published and stored: the outcome is left.
    let held = held.into_iter().map(|item| (item, None)).collect();
    again.extend(settle_whole(shared, consumer, held).await);
    again
}

type Unchecked = (Vec<Settling>, Error);

async fn drop_lost(
    shared: &Shared,
    consumer: &dyn Consumer,
    batch: Vec<Settling>,
) -> Result<Vec<Settling>, Unchecked> {
    let tags: Vec<DeliveryTag> =
        batch.iter().filter(|item| !item.acknowledged).map(|item| item.tag).collect();
    if tags.is_empty() {
        return Ok(batch);
    }
    let mut held = match consumer.still_held(&tags).await {
        Ok(held) => held.into_iter(),
        Err(error) => return Err((batch, error)),
    };
    let mut standing = Vec::with_capacity(batch.len());
    for item in batch {
        if item.acknowledged || held.next().unwrap_or(false) {
            standing.push(item);
        } else {
            shared.state().counts.lost += 1;
            warn_lost(&item);
        }
    }
    Ok(standing)
}

/// Publishes what the batch sends on; what was not taken goes to `again`.
async fn publish(shared: &Shared, batch: &mut Vec<Settling>, again: &mut Vec<Settling>) -> Option<Error> {
    let publications: Vec<Publication> = batch.iter().flat_map(|item| item.publish.iter().cloned()).collect();
    if publications.is_empty() {
        return None;
    }
    fault_point!("publish.before");
    let mut outcomes = shared.transport.publish(&publications).await.into_iter();
    fault_point!("publish.after");
    let mut first_error = None;
    for mut item in std::mem::take(batch) {
        let mut left = Vec::new();
        let mut refused = None;
        for publication in std::mem::take(&mut item.publish) {
            match outcomes.next() {
                Some(Ok(())) => {}
                Some(Err(error)) if !error.is_transient() => refused = Some(error),
                outcome => {
                    first_error = first_error.or(outcome.and_then(Result::err));
                    left.push(publication);
                }
            }
        }
        item.publish = left;
        if let Some(error) = refused {
            item.refuse_publications(&error);
        }
        if item.publish.is_empty() { batch.push(item) } else { again.push(item) }
    }
    first_error
}

/// Stores the results of the batch; what was not stored goes to `again`.
async fn store(shared: &Shared, batch: &mut Vec<Settling>, again: &mut Vec<Settling>) -> Option<Error> {
    let Some(store) = &shared.store else {
        for item in batch {
            item.store = None;
        }
        return None;
    };
    let requests: Vec<StoreRequest> = batch.iter().filter_map(|item| item.store.clone()).collect();
    if requests.is_empty() {
        return None;
    }
    fault_point!("store.before");
    let mut outcomes = store.store(&requests).await.into_iter();
    fault_point!("store.after");
    let mut first_error = None;
    for mut item in std::mem::take(batch) {
        if item.store.is_some() {
            match outcomes.next() {
                Some(Ok(())) => item.store = None,
                Some(Err(error)) if !error.is_transient() => {
                    refuse(&mut item, &error);
                    again.push(item);
                    continue;
                }
                outcome => {
                    first_error = first_error.or(outcome.and_then(Result::err));
                    again.push(item);
                    continue;
                }
            }
        }
        batch.push(item);
    }
    first_error
}

/// Hands back, unmarked, what has not begun: it is as if it had never been taken.
pub(crate) fn hand_back(shared: &Shared, tags: Vec<DeliveryTag>) {
    for tag in tags {
        let Some(held) = shared.state().remove(tag) else { continue };
        if held.acknowledged {
            continue;
        }
        shared.settle_queue.push(Settling {
            task_id: held.task_id(),
            ..Settling::new(tag, Outcome::Requeue { redelivered: false })
        });
    }
}

/// Everything is over: whoever waits for the settle task may go.
pub(crate) fn finish(shared: &Shared) {
    shared.closed.store(true, Ordering::Release);
    shared.settle_queue.wake();
    shared.deliverable.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_list_says_what_a_task_ended_with() {
        let said = |result| ended_with(result);
        assert_eq!(
            said(
                r#"{"exc_type":"Reject","exc_message":["reject requeue=false: no \"way\""],"exc_module":"c"}"#
            ),
            "the task ended with Reject: reject requeue=false: no \"way\""
        );
        assert_eq!(
            said(r#"{"exc_type":"KeyError","exc_message":["k",NaN],"exc_module":"builtins"}"#),
            "the task ended with KeyError: k, NaN"
        );
        for odd in [
            "null",
            "[]",
            "{}",
            r#"{"exc_type":1,"exc_message":[]}"#,
            r#"{"exc_type":"E","exc_message":"m"}"#,
        ] {
            assert_eq!(said(odd), "the task ended with an exception that cannot be read");
        }
        let long = format!(r#"{{"exc_type":"E","exc_message":["{}"]}}"#, "é".repeat(5000));
        assert!(ended_with(&long).chars().count() < 1100);
    }
}
