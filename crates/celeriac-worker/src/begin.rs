//! Messages that come back because their worker was lost, again and again: they are counted, so that they end.
//!
//! A body that ends its process takes along whatever runs beside it, and late acknowledgements repeat all of it. What was only
//! prefetched must not be blamed for it, so what counts is that a body has begun. That is written down before it begins, for
//! messages that were handed out before and for no others: those are rare, and the rest pays nothing. They begin one after
//! the other, because one that ends the process at once must not leave the count of others that have not begun. And one
//! that has its last chance lets no other of its kind begin until it has ended: whose worker is lost then is to blame.

use std::sync::Arc;

use celeriac_broker::DeliveryTag;

use crate::connect::Backoff;
use crate::consume;
use crate::logger;
use crate::lost;
use crate::settle;
use crate::state::Shared;

/// Counts that the body of a delivery begins; 0 when it must not begin.
pub(crate) async fn begin(shared: &Arc<Shared>, tag: DeliveryTag) -> u32 {
    let Some(consumer) = shared.consumer.get() else { return 0 };
    let Some(task_id) = shared.state().held.get(&tag).map(|held| held.request.id.clone()) else { return 0 };
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
                    settle::hand_back(shared, vec![tag]);
                    return 0;
                }
            }
        }
    }
}

/// On JavaScript's thread, right before the body.
pub(crate) fn has_begun(shared: &Shared, tag: DeliveryTag, count: u32) {
    let mut state = shared.state();
    let last_chance = shared.options.max_deliveries == Some(count) && state.held.contains_key(&tag);
    if state.beginning == Some(tag) && !last_chance {
        state.beginning = None;
        drop(state);
        shared.deliverable.notify_one();
    }
}
