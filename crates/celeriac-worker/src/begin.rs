//! Messages that come back because their worker was lost, again and again: they are counted, so that they end.
//!
//! A body that ends its process takes along whatever runs beside it, and late acknowledgements repeat all of it. What was only
//! prefetched must not be blamed for it, so what counts is that a body has begun. That is written down before it begins, for
//! messages that were handed out before and for no others: those are rare, and the rest pays nothing. They begin one after
//! the other, because one that ends the process at once must not leave the count of others that have not begun. And one
//! that has its last chance lets no other of its kind begin until it has ended, or has run for a minute: whose worker is lost
//! then is to blame.

use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::DeliveryTag;

use crate::connect::Backoff;
use crate::consume;
use crate::logger;
use crate::lost;
use crate::settle;
use crate::state::{Held, Shared, Stage};

/// How long one that has its last chance keeps the others waiting: what ends its worker does so sooner.
pub(crate) const ALONE: Duration = Duration::from_secs(60);

/// Called on JavaScript's thread right before the body of a delivery: false when it must not begin here, because it went back
/// meanwhile, or may have.
pub(crate) fn begin(shared: &Shared, tag: DeliveryTag) -> bool {
    let stands = shared.leases_stand();
    let mut state = shared.state();
    let Some(held) = state.held.get(&tag).filter(|held| held.stage == Stage::Given) else { return false };
    if stands || held.acknowledged {
        return state.begin(tag);
    }
    state.put_off(tag);
    false
}

/// Counts that the body of a delivery begins; 0 when it must not begin.
pub(crate) async fn count(shared: &Arc<Shared>, tag: DeliveryTag) -> u32 {
    let Some(consumer) = shared.consumer.get() else { return 0 };
    let Some(task_id) = shared.state().held.get(&tag).map(Held::task_id) else { return 0 };
    let mut backoff = Backoff::for_reconnect();
    loop {
        match consumer.begin(&[(tag, &task_id)]).await {
            Ok(counts) => {
                if let Some(count) = counts.first().copied().flatten() {
                    return count;
                }
                lost::forget(shared, &[tag]);
                return 0;
            }
            Err(error) => {
                if backoff.is_worth_a_line() {
                    log::warn!(
                        target: logger::REQUEST, task_id = task_id.as_str();
                        "Task {task_id} waits, because its delivery could not be counted: {error}",
                    );
                }
                let pause = backoff.next();
                consume::stop_or(shared, pause).await;
                if shared.is_stopping() {
                    let mut state = shared.state();
                    if let Some(held) = state.remove(tag) {
                        settle::hand_back(shared, tag, &held);
                    }
                    return 0;
                }
            }
        }
    }
}

/// [`begin`] for a delivery that was counted. Others of its kind may begin then, unless it has its last chance.
pub(crate) fn begin_counted(shared: &Shared, tag: DeliveryTag, count: u32) -> bool {
    let begins = begin(shared, tag);
    let last_chance = begins && shared.options.max_deliveries == Some(count);
    let mut state = shared.state();
    if !last_chance {
        state.end_beginning(tag);
    }
    drop(state);
    shared.deliverable.notify_one();
    begins
}
