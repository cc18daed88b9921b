//! A worker whose JavaScript is stuck must not hold on to what it has not begun, nor for ever to what it runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use celeriac_broker::{Consumer, DeliveryTag, Outcome};

use crate::consume;
use crate::logger;
use crate::settle;
use crate::settle_queue::Settling;
use crate::state::{Held, Shared, Stage};

/// How often it is said that JavaScript is still stuck.
const REMINDER: Duration = Duration::from_secs(60);

/// How long a task may outlive its hard time limit before a silent worker gives it up.
const HARD_LIMIT_GRACE: Duration = Duration::from_secs(10);

/// What whoever reads that can do: a signal waits for JavaScript too.
const REMEDY: &str = "If it never answers, only SIGKILL ends this process (kill -9): what it holds comes back after its \
                      lease.";

/// Runs until the worker stops.
pub(crate) async fn run(shared: Arc<Shared>, consumer: Arc<dyn Consumer>) {
    let mut reminded = Instant::now();
    while !shared.is_stopping() {
        let (asleep, pause) = (Instant::now(), shared.options.patience / 10);
        consume::stop_or(&shared, pause).await;
        shared.state().see_begun();
        forgive_pause(&shared, asleep.elapsed().saturating_sub(pause));
        if shared.state().beginning.is_some() {
            // The time of one that had its last chance may be over.
            shared.deliverable.notify_one();
        }
        if !is_stuck(&shared) {
            continue;
        }
        if !shared.suspended.swap(true, Ordering::AcqRel) {
            reminded = Instant::now();
            log::error!(
                target: logger::WORKER,
                "JavaScript has been silent for {} s: its event loop is blocked. What has not begun goes back to its \
                 queue, and nothing is claimed until it answers. {REMEDY}",
                shared.options.patience.as_secs(),
            );
        }
        hand_back_unbegun(&shared, consumer.as_ref()).await;
        if !give_up_running(&shared) && reminded.elapsed() > REMINDER {
            reminded = Instant::now();
            log::warn!(
                target: logger::WORKER, "JavaScript is still silent: its event loop is blocked. {REMEDY}",
            );
        }
    }
}

/// JavaScript gave a sign of life: claiming goes on if it had been suspended.
pub(crate) fn beat(shared: &Shared) {
    shared.state().last_contact = Some(Instant::now());
    if shared.suspended.swap(false, Ordering::AcqRel) {
        log::warn!(target: logger::WORKER, "JavaScript answers again; claiming goes on.");
        shared.capacity.notify_one();
    }
}

/// When we come late too, it was not JavaScript that stood still but this process: that time does not count as silence.
fn forgive_pause(shared: &Shared, late: Duration) {
    if late < shared.options.patience / 2 {
        return;
    }
    log::warn!(
        target: logger::WORKER,
        "This process stood still for {:.0} s: it was stopped, or had no processor.", late.as_secs_f64(),
    );
    let mut state = shared.state();
    state.last_contact = state.last_contact.map(|at| (at + late).min(Instant::now()));
}

fn is_stuck(shared: &Shared) -> bool {
    shared.state().last_contact.is_some_and(|at| at.elapsed() > shared.options.patience)
}

async fn hand_back_unbegun(shared: &Arc<Shared>, consumer: &dyn Consumer) {
    shared.interrupt.notify_waiters();
    // What comes while the worker is suspended is handed back on arrival.
    consume::take(shared, consumer.pause().await);
    let unbegun = settle::hand_back_unbegun(shared);
    if unbegun > 0 {
        log::warn!(target: logger::WORKER, "{unbegun} tasks that had not begun go back to their queues.");
    }
}

/// Once JavaScript was silent for longer than `leaseMaxHold`, what it runs goes back too: somebody else runs it again.
/// Without that setting a task is held for its hard time limit and some grace, and without end where it has none.
fn give_up_running(shared: &Shared) -> bool {
    let Some(silence) = shared.state().last_contact.map(|at| at.elapsed()) else { return false };
    let given_up = take_running(shared, &Outcome::Abandon, |held| {
        if let Some(most) = shared.options.lease_max_hold {
            return silence > most;
        }
        let Some(task) = held.task() else { return false };
        let (hard, _) = task.request.time_limit;
        let running = task.begun.map(|at| at.elapsed().as_secs_f64());
        hard.zip(running).is_some_and(|(hard, running)| running > hard + HARD_LIMIT_GRACE.as_secs_f64())
    });
    if given_up == 0 {
        return false;
    }
    log::error!(
        target: logger::WORKER,
        "JavaScript has been silent for {:.0} s, which is longer than leaseMaxHold or the hard time limit allow: \
         {given_up} running tasks go back to their queues. {REMEDY}",
        silence.as_secs_f64(),
    );
    true
}

/// Hands back what JavaScript runs, as far as `which` says so; says how many that were.
pub(crate) fn take_running(shared: &Shared, outcome: &Outcome, which: impl Fn(&Held) -> bool) -> usize {
    let mut taken: Vec<(DeliveryTag, String)> = Vec::new();
    {
        let mut state = shared.state();
        state.see_begun();
        let running: Vec<DeliveryTag> = state
            .held
            .iter()
            .filter(|(_, held)| held.stage == Stage::Running && !held.acknowledged && which(held))
            .map(|(tag, _)| *tag)
            .collect();
        for tag in running {
            taken.extend(state.remove(tag).map(|held| (tag, held.task_id())));
        }
    }
    let count = taken.len();
    for (tag, task_id) in taken {
        shared.settle_queue.push(Settling { task_id, ..Settling::new(tag, outcome.clone()) });
    }
    count
}
