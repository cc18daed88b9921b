//! A worker whose JavaScript is stuck must not hold on to what it has not begun, nor for ever to what it runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use celeriac_broker::{DeliveryTag, Outcome};

use crate::logger;
use crate::settle::{self, Settling};
use crate::state::{Shared, Stage};

/// How long JavaScript may leave ready tasks lying although a slot is free.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is said that JavaScript is still stuck.
const REMINDER: Duration = Duration::from_secs(60);

/// Runs until the worker stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut reminded = Instant::now();
    while !shared.is_stopping() {
        crate::consume::stop_or(&shared, Duration::from_secs(1)).await;
        if shared.is_suspended() {
            if give_up_running(&shared) {
                continue;
            }
            if reminded.elapsed() > REMINDER {
                reminded = Instant::now();
                log::warn!(target: logger::WORKER, "JavaScript still takes no tasks: its event loop is blocked.");
            }
        } else if is_stuck(&shared) {
            reminded = Instant::now();
            suspend(&shared);
        }
    }
}

fn is_stuck(shared: &Shared) -> bool {
    let state = shared.state();
    let waits = !state.ready.is_empty() && state.running < shared.options.concurrency;
    waits && state.last_contact.is_some_and(|at| at.elapsed() > PATIENCE)
}

/// Hands back what has not begun, and claims nothing more until JavaScript answers.
fn suspend(shared: &Shared) {
    shared.suspended.store(true, Ordering::Release);
    let waiting: Vec<_> = shared.state().ready.drain(..).collect();
    log::error!(
        target: logger::WORKER,
        "JavaScript has taken no task for {} s: its event loop is blocked. {} tasks that had not begun go back to their \
         queues, and nothing is claimed until it answers.",
        PATIENCE.as_secs(),
        waiting.len(),
    );
    settle::hand_back(shared, waiting);
}

/// Once JavaScript was stuck for longer than `leaseMaxHold`, what it runs goes back too: somebody else runs it again.
fn give_up_running(shared: &Shared) -> bool {
    let Some(most) = shared.options.lease_max_hold else { return false };
    let mut given_up: Vec<(DeliveryTag, String)> = Vec::new();
    {
        let mut state = shared.state();
        if state.last_contact.is_none_or(|at| at.elapsed() <= most) {
            return false;
        }
        let running: Vec<DeliveryTag> = state
            .held
            .iter()
            .filter(|(_, held)| held.stage == Stage::Running && !held.acknowledged)
            .map(|(tag, _)| *tag)
            .collect();
        for tag in running {
            if let Some(held) = state.remove(tag) {
                given_up.push((tag, held.request.id.clone()));
            }
        }
    }
    if given_up.is_empty() {
        return false;
    }
    log::error!(
        target: logger::WORKER,
        "JavaScript was stuck for longer than leaseMaxHold ({} s): {} running tasks go back to their queues.",
        most.as_secs_f64(),
        given_up.len(),
    );
    for (tag, task_id) in given_up {
        shared.settle_queue.push(Settling {
            tag,
            task_id,
            publish: Vec::new(),
            queues: Vec::new(),
            store: None,
            outcome: Outcome::Requeue { redelivered: true },
            acknowledged: false,
        });
    }
    true
}
