//! A worker whose JavaScript is stuck must not hold on to what it has not begun.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::logger;
use crate::settle;
use crate::state::Shared;

/// How long JavaScript may leave ready tasks lying although a slot is free.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs until the worker stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    while !shared.is_stopping() {
        crate::consume::stop_or(&shared, Duration::from_secs(1)).await;
        if shared.is_suspended() || !is_stuck(&shared) {
            continue;
        }
        shared.suspended.store(true, Ordering::Release);
        let waiting: Vec<_> = shared.state().ready.drain(..).collect();
        log::error!(
            target: logger::WORKER,
            "JavaScript has taken no task for {} s: its event loop is blocked. {} tasks that had not begun go back to \
             their queues, and nothing is claimed until it answers.",
            PATIENCE.as_secs(),
            waiting.len(),
        );
        settle::hand_back(&shared, waiting);
    }
}

fn is_stuck(shared: &Shared) -> bool {
    let state = shared.state();
    let waits = !state.ready.is_empty() && state.running < shared.options.concurrency;
    waits && state.last_contact.is_some_and(|at| at.elapsed() > PATIENCE)
}
