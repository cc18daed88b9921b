//! What happens after this process was stopped, or cut off from the broker, for longer than a lease.

use std::sync::Arc;

use celeriac_broker::sync::listen;
use celeriac_broker::{Consumer, DeliveryTag};

use crate::logger;
use crate::state::{Shared, State};

/// Forgets what somebody else has taken over; runs until the worker is closed.
pub(crate) async fn run(shared: Arc<Shared>, consumer: Arc<dyn Consumer>) {
    loop {
        let stopped = listen(&shared.stopped);
        if shared.is_closed() {
            return;
        }
        tokio::select! {
            lost = consumer.lost() => {
                forget(&shared, &lost);
                // Nothing was given out while that was not known.
                shared.deliverable.notify_one();
            }
            () = stopped => {}
        }
    }
}

/// What has not begun never begins here. What runs runs on, since a body cannot be taken back; settling it will do nothing.
pub(crate) fn forget(shared: &Shared, lost: &[DeliveryTag]) {
    let (unbegun, running) = take(&mut shared.state(), lost);
    if unbegun + running == 0 {
        return;
    }
    log::warn!(
        target: logger::WORKER,
        "The leases of {} tasks had run out here, and other workers have taken them over: {unbegun} that had not begun \
         are dropped, and what becomes of {running} that run counts no more.",
        unbegun + running,
    );
    shared.capacity.notify_one();
    shared.deliverable.notify_one();
}

/// How many of them had not begun, and how many run.
fn take(state: &mut State, lost: &[DeliveryTag]) -> (u64, u64) {
    let (mut unbegun, mut running) = (0, 0);
    for tag in lost {
        if !state.held.contains_key(tag) {
            // On its way here, or settled already.
            if state.last_taken.is_none_or(|last| *tag > last) || state.sorting.contains(tag) {
                state.lost_untaken.insert(*tag);
            }
            continue;
        }
        if !state.takes_back(*tag) {
            running += 1;
            continue;
        }
        state.remove(*tag);
        unbegun += 1;
    }
    if unbegun > 0 {
        let held = &state.held;
        state.ready.retain(|tag| held.contains_key(tag));
        state.schedule.retain(|tag| held.contains_key(&tag));
        state.counts.lost += unbegun;
    }
    (unbegun, running)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::slots::Slots;

    #[test]
    fn what_is_lost_while_it_is_read_is_not_held_and_what_was_settled_is_not_remembered() {
        let mut state = State::new(Arc::new(Slots::new(1)));
        let [settled, being_read, to_come] = [1, 2, 3].map(DeliveryTag);
        state.last_taken = Some(being_read);
        state.sorting.push(being_read);
        assert_eq!(take(&mut state, &[settled, being_read, to_come]), (0, 0));
        assert!(state.end_sorting(being_read));
        assert_eq!(state.lost_untaken.into_iter().collect::<Vec<_>>(), [to_come]);
        assert!(state.sorting.is_empty());
    }
}
