//! The end of a delivery: publish, store, then acknowledge, in that order, in batches.
//!
//! On a broker that is also the result store's server all three are one step of the broker's. Elsewhere the lease is
//! checked first, and each step is done before the next begins: a crash between them repeats, it never loses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use celeriac_broker::{
    Consumer, DeliveryTag, InlineStore, Outcome, Publication, Settled, Settlement, fault_point,
};
use celeriac_error::{Error, Result};
use celeriac_result::StoreRequest;

use crate::connect::{self, Backoff};
use crate::logger;
use crate::outcome;
use crate::settle_queue::Settling;
use crate::state::{Held, Shared};

/// The most deliveries that are settled in one step.
const BATCH: usize = 512;

/// How many batches are settled at once: while the broker is busy with one, the next one is made ready.
pub(crate) const AT_ONCE: usize = 2;

/// Runs until the worker is closed.
pub(crate) async fn run(shared: Arc<Shared>, consumer: Arc<dyn Consumer>) {
    let mut backoff = Backoff::for_reconnect();
    let queue = &shared.settle_queue;
    loop {
        let (taken, batch) = queue.take(BATCH);
        let is_idle = batch.is_empty();
        let again = process(&shared, consumer.as_ref(), batch).await;
        let failed = !again.is_empty();
        queue.put_back(taken, again);
        if !is_idle {
            shared.deliverable.notify_one();
            shared.capacity.notify_one();
        }
        if failed {
            if shared.is_closed() {
                // The leases bring back what the broker did not take.
                break;
            }
            tokio::time::sleep(backoff.next()).await;
        } else if is_idle {
            backoff.reset();
            if shared.is_closed() && queue.is_empty() {
                break;
            }
            queue.woken().await;
        }
    }
    // Another one may wait for the same word.
    queue.wake();
}

/// Settles a batch; what failed for now is given back, less what was done of it.
async fn process(shared: &Shared, consumer: &dyn Consumer, batch: Vec<Settling>) -> Vec<Settling> {
    if batch.is_empty() {
        return batch;
    }
    let (mut batch, mut again) = (batch, Vec::new());
    let queues = batch.iter().flat_map(Settling::declared);
    match shared.declarations.ensure_for_sending(queues).await {
        Ok(()) => {}
        Err(error) if error.is_transient() => return retry_all(shared, batch, &error),
        Err(_) => (batch, again) = declare_one_by_one(shared, batch).await,
    }
    for item in &mut batch {
        item.undelay(&shared.declarations);
    }
    let (mut whole, mut parts) = (Vec::with_capacity(batch.len()), Vec::new());
    for item in batch {
        match way(shared, &item) {
            Way::Whole(store) => whole.push((item, store)),
            Way::Parts => parts.push(item),
        }
    }
    again.extend(settle_whole(shared, consumer, whole).await);
    again.extend(settle_in_parts(shared, consumer, parts).await);
    again
}

/// A queue that cannot be declared costs the task that needs it, and no other. Gives what can be settled, and what has to wait.
async fn declare_one_by_one(shared: &Shared, batch: Vec<Settling>) -> (Vec<Settling>, Vec<Settling>) {
    let (mut ready, mut again) = (Vec::with_capacity(batch.len()), Vec::new());
    for mut item in batch {
        match shared.declarations.ensure_for_sending(item.declared()).await {
            Err(error) if error.is_transient() => again.extend(retry_all(shared, vec![item], &error)),
            outcome => {
                if let Err(error) = outcome {
                    item.refuse_publications(&error);
                }
                ready.push(item);
            }
        }
    }
    (ready, again)
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

/// Hands back everything that JavaScript has not begun; says how much that was. Nothing of it can begin in between, and whoever
/// finds nothing held any more finds it waiting to be settled.
pub(crate) fn hand_back_unbegun(shared: &Shared) -> usize {
    let mut state = shared.state();
    let unbegun = state.take_unbegun();
    for (tag, held) in &unbegun {
        hand_back(shared, *tag, held);
    }
    unbegun.len()
}

/// Hands back, unmarked, what is not held any more and has not begun: it is as if it had never been taken.
pub(crate) fn hand_back(shared: &Shared, tag: DeliveryTag, held: &Held) {
    if held.acknowledged {
        return;
    }
    shared.settle_queue.push(Settling {
        task_id: held.task_id(),
        ..Settling::new(tag, Outcome::Requeue { redelivered: false })
    });
}

/// Everything is over: whoever waits for the settle task may go.
pub(crate) fn finish(shared: &Shared) {
    shared.closed.store(true, Ordering::Release);
    shared.settle_queue.wake();
    shared.deliverable.notify_one();
}
