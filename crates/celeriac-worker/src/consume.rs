//! Takes messages from the broker as long as there is room for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use celeriac_broker::sync::listen;
use celeriac_broker::{Consumer, Delivery, fault_point};
use tokio::sync::mpsc;

use crate::connect::Backoff;
use crate::logger;
use crate::settle;
use crate::state::Shared;

/// The most messages of one claim: beyond this a larger batch gains nothing.
const BATCH: usize = 256;

/// How many messages are held when the prefetch has no limit: what memory, not a setting, allows.
const UNLIMITED: usize = 65_535;

/// The bytes of held messages beyond which no more are taken, whatever the prefetch allows.
const MOST_BYTES: usize = 256 << 20;

/// Gives what comes to [`read`]; runs until the worker stops.
pub(crate) async fn run(
    shared: Arc<Shared>,
    consumer: Arc<dyn Consumer>,
    arrivals: mpsc::Sender<Vec<Delivery>>,
) {
    let mut backoff = Backoff::for_reconnect();
    while !shared.is_stopping() {
        let room = room(&shared);
        if room == 0 {
            shared.capacity.notified().await;
            continue;
        }
        let interrupted = shared.interrupt.notified();
        let slots = slots(&shared);
        let received = tokio::select! {
            received = consumer.receive_share(room.min(BATCH), slots) => received,
            () = another_look(&shared, slots), if slots <= 0 => continue,
            // What the dropped future had claimed is asked for by the watchdog.
            () = interrupted => continue,
        };
        match received {
            Ok(deliveries) if deliveries.is_empty() && !shared.is_stopping() => {
                log::error!(
                    target: logger::CONSUMER,
                    "The connection to {} was closed under the worker: it ends.",
                    shared.transport.url(),
                );
                shared.stopping.store(true, Ordering::Release);
                settle::finish(&shared);
                shared.stopped.notify_waiters();
                return;
            }
            Ok(deliveries) => {
                fault_point!("receive.after");
                if backoff.failures() > 0 {
                    log::info!(target: logger::CONSUMER, "Connected to {} again.", shared.transport.url());
                    backoff.reset();
                }
                shared.coming.fetch_add(deliveries.len(), Ordering::AcqRel);
                if arrivals.send(deliveries).await.is_err() {
                    // Nobody reads any more: the worker is ending, and closing it gives them back.
                    return;
                }
            }
            Err(_) if shared.is_stopping() => break,
            Err(error) => {
                let pause = backoff.next();
                if backoff.is_worth_a_line() {
                    log::error!(
                        target: logger::CONSUMER,
                        "consumer: {error}. Trying again in {:.1} seconds ({})",
                        pause.as_secs_f64(),
                        backoff.failures(),
                    );
                }
                stop_or(&shared, pause).await;
            }
        }
    }
}

/// What has come is read while the broker is asked for more: each of the two takes about as long as the other. One batch waits
/// at most, and all keep their order. Ends when nothing comes any more.
pub(crate) async fn read(shared: Arc<Shared>, mut arrivals: mpsc::Receiver<Vec<Delivery>>) {
    while let Some(deliveries) = arrivals.recv().await {
        for delivery in deliveries {
            crate::intake::take(&shared, delivery);
            shared.coming.fetch_sub(1, Ordering::AcqRel);
        }
        shared.deliverable.notify_one();
        // What waits for its time takes no room any more.
        shared.capacity.notify_one();
    }
}

/// How many more messages may be held now.
fn room(shared: &Shared) -> usize {
    if shared.is_suspended() {
        return 0;
    }
    // Before what is held: what gets into its place in between is counted twice then, and not left out.
    let coming = shared.coming();
    let state = shared.state();
    if state.bytes > MOST_BYTES {
        return 0;
    }
    if shared.options.eta_task_limit.is_some() && coming > 0 {
        // When they are in their places it is known how many of them wait for their time.
        return 0;
    }
    if shared.options.eta_task_limit.is_some_and(|limit| state.schedule.len() >= limit) {
        return 0;
    }
    let limit = if shared.options.prefetch == 0 { UNLIMITED } else { shared.options.prefetch };
    // What is not settled yet is held too: while results cannot be stored, nothing more is taken.
    limit.saturating_sub(coming + state.prefetched() + shared.settle_queue.len())
}

/// Resolves when it is worth while to look again after a look without a free slot, of which there were `before`.
async fn another_look(shared: &Shared, before: isize) {
    loop {
        shared.capacity.notified().await;
        if is_worth_a_look(before, slots(shared), shared.options.concurrency) {
            return;
        }
    }
}

/// As soon as a message could begin at once it is. Until then only what goes into stock is to be had, and a look at all queues for
/// each message that is settled costs as much as settling it.
fn is_worth_a_look(before: isize, slots: isize, concurrency: usize) -> bool {
    slots > 0 || slots - before >= (concurrency / 2).max(1) as isize
}

/// How many more messages could begin now; below zero, so many wait for a slot.
fn slots(shared: &Shared) -> isize {
    let coming = shared.coming();
    let state = shared.state();
    shared.options.concurrency as isize - (coming + state.running + state.ready.len()) as isize
}

pub(crate) fn take(shared: &Arc<Shared>, deliveries: Vec<Delivery>) {
    let count = deliveries.len();
    for delivery in deliveries {
        crate::intake::take(shared, delivery);
    }
    if count > 0 {
        shared.deliverable.notify_one();
    }
}

/// Waits `pause`, but not longer than the worker runs.
pub(crate) async fn stop_or(shared: &Shared, pause: Duration) {
    let stopped = listen(&shared.stopped);
    if shared.is_stopping() {
        return;
    }
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stopped => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it looks while what waits here begins one by one, and where it looks last.
    fn looks(waiting: isize, concurrency: usize) -> (usize, isize) {
        let (mut looks, mut before) = (0, -waiting);
        for slots in -waiting..=1 {
            if is_worth_a_look(before, slots, concurrency) {
                (looks, before) = (looks + 1, slots);
            }
        }
        (looks, before)
    }

    #[test]
    fn a_busy_worker_looks_again_now_and_then_and_a_free_one_at_once() {
        assert_eq!(looks(30, 10), (7, 1));
        assert_eq!(looks(3, 10), (1, 1));
        assert_eq!(looks(3, 1), (4, 1));
    }
}
