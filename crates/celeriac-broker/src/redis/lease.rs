//! Leases are renewed for as long as something is held, however long that is; and what was lost all the same is told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use celeriac_error::Result;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::core::{Core, Held, call_number, lock};
use super::scripts::RENEW;
use crate::fault_point;
use crate::moment::Moment;
use crate::sync::listen;
use crate::transport::DeliveryTag;

/// The most tags of one script.
const TAGS_PER_SCRIPT: usize = 1000;

/// How many scripts are under way at once: the way to the server and back is most of the time that one takes.
const SCRIPTS_AT_ONCE: usize = 4;

/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How long at most until the clocks are looked at: a timer may not count the time that the machine slept.
const TICK: Duration = Duration::from_secs(1);

/// What is known of the leases of one consumer.
pub(super) struct Leases {
    state: Mutex<State>,
    /// Rung when there is something to tell.
    told: Notify,
}

struct State {
    /// When the last renewal of all that was held was sent.
    renewed: Moment,
    /// What calls of a claiming script below this number gave may have been lost before its answer was read.
    doubtful: u64,
    lost: Vec<DeliveryTag>,
    /// Leases that had run out were looked at again.
    looked: bool,
    /// How often they had.
    gaps: u64,
}

impl Leases {
    pub(super) fn new() -> Self {
        let state = State { renewed: Moment::now(), doubtful: 0, lost: Vec::new(), looked: false, gaps: 0 };
        Self { state: Mutex::new(state), told: Notify::new() }
    }
}

/// Whether what is held is certainly still ours.
pub(super) fn stand(core: &Core) -> bool {
    lock(&core.leases.state).renewed.age() < core.lease
}

/// How long from now they stand, whatever happens.
pub(super) fn left(core: &Core) -> Duration {
    core.lease.saturating_sub(lock(&core.leases.state).renewed.age())
}

/// Where the leases stand, and have without a gap for as long as this is the same; `None` while they do not.
pub(super) fn unbroken(core: &Core) -> Option<u64> {
    let state = lock(&core.leases.state);
    (state.renewed.age() < core.lease).then_some(state.gaps)
}

/// From here on a claim that is gone may be somebody else's, not only a settlement of ours whose answer was lost.
fn forget_unsure(all: &mut HashMap<u64, Held>) {
    for held in all.values_mut() {
        held.unsure = false;
    }
}

/// Whether the last renewal came no later than it should.
pub(super) fn is_renewed(core: &Core) -> bool {
    lock(&core.leases.state).renewed.age() < core.lease / 2
}

/// What others have taken, once there is something to say.
pub(super) async fn lost(core: &Core) -> Vec<DeliveryTag> {
    loop {
        let told = listen(&core.leases.told);
        {
            let mut state = lock(&core.leases.state);
            if std::mem::take(&mut state.looked) || !state.lost.is_empty() {
                return std::mem::take(&mut state.lost);
            }
        }
        told.await;
    }
}

/// Begins a renewal every third of a lease, and after a pause at once.
pub(super) async fn keep(core: Arc<Core>) {
    let third = core.lease / 3;
    loop {
        let age = lock(&core.leases.state).renewed.age();
        if age < third {
            tokio::time::sleep(third.saturating_sub(age).min(TICK)).await;
        } else {
            renew(&core, third).await;
        }
    }
}

/// Renews everything that is held; gives up when it takes so long that it is time to begin anew.
async fn renew(core: &Arc<Core>, third: Duration) {
    let sent = Moment::now();
    let ran_out = !stand(core);
    if ran_out {
        // Before looking at what is held: what is accepted from here on is looked at when it is accepted.
        lock(&core.leases.state).doubtful = core.calls_so_far();
        forget_unsure(&mut lock(&core.held));
    }
    let mut held: Vec<(u64, Arc<str>)> = {
        let held = lock(&core.held);
        held.iter().filter(|(_, held)| !held.buried).map(|(tag, held)| (*tag, Arc::clone(&held.id))).collect()
    };
    // What was claimed last, or renewed last, has the most time left.
    held.sort_unstable_by_key(|(tag, _)| *tag);
    let mut rest: VecDeque<Vec<(u64, Arc<str>)>> = held.chunks(TAGS_PER_SCRIPT).map(<[_]>::to_vec).collect();
    let (mut asking, mut failures) = (JoinSet::new(), 0);
    loop {
        while asking.len() < SCRIPTS_AT_ONCE {
            let Some(chunk) = rest.pop_front() else { break };
            let core = Arc::clone(core);
            asking.spawn(async move {
                let outcome = ask(&core, &chunk).await;
                (chunk, outcome)
            });
        }
        match asking.join_next().await {
            None => break,
            Some(Ok((_, Ok(lost)))) => {
                failures = 0;
                tell(core, &lost);
            }
            // The others must not suffer from what may concern only this one.
            Some(Ok((chunk, Err(_)))) => {
                rest.push_back(chunk);
                failures += 1;
                if failures >= SCRIPTS_AT_ONCE || asking.is_empty() {
                    tokio::time::sleep(RETRY.min(third)).await;
                    failures = 0;
                }
                if sent.age() >= third {
                    return;
                }
            }
            Some(Err(_)) => return,
        }
    }
    // In the order in which a settlement takes them.
    let mut all = lock(&core.held);
    let mut state = lock(&core.leases.state);
    // They may have run out while the renewal was under way.
    let ran_out_meanwhile = !ran_out && state.renewed.age() >= core.lease;
    if ran_out_meanwhile {
        state.doubtful = core.calls_so_far();
        forget_unsure(&mut all);
    }
    drop(all);
    state.gaps += u64::from(ran_out || ran_out_meanwhile);
    state.renewed = sent;
    state.looked |= ran_out || ran_out_meanwhile;
    drop(state);
    if ran_out || ran_out_meanwhile {
        core.leases.told.notify_waiters();
    }
}

/// Renews these; gives those that are lost.
async fn ask(core: &Core, claims: &[(u64, Arc<str>)]) -> Result<Vec<u64>> {
    let keys = &core.settings.keys;
    let mut call = RENEW.call(&[keys.unacked.clone(), keys.unacked_index.clone(), keys.leases()]);
    call.arg(core.lease_ms());
    for (_, id) in claims {
        call.arg(&**id);
    }
    fault_point!("redis.renew.before");
    let places: Vec<usize> = core.link.script(&RENEW, &call).await?;
    fault_point!("redis.renew.after");
    Ok(places.into_iter().filter_map(|place| Some(claims.get(place)?.0)).collect())
}

/// Forgets what is lost, and tells of what had been handed out.
fn tell(core: &Core, lost: &[u64]) {
    if lost.is_empty() {
        return;
    }
    let mut untold: HashSet<u64> = HashSet::new();
    {
        let mut all = lock(&core.held);
        for tag in lost {
            // Where a settlement is under way, or its answer was lost, it is that settlement.
            if all.get(tag).is_some_and(|held| held.settling == 0 && !held.unsure) {
                all.remove(tag);
                untold.insert(*tag);
            }
        }
    }
    lock(&core.ready).retain(|delivery| !untold.remove(&delivery.tag.0));
    if !untold.is_empty() {
        lock(&core.leases.state).lost.extend(untold.into_iter().map(DeliveryTag));
        core.leases.told.notify_waiters();
    }
}

/// An answer that was under way while the process stood still, or for longer than a lease, may come when its claims are others'
/// already: such claims are renewed before anybody hears of them. Gives those that are lost.
pub(super) async fn doubt(core: &Core, tags: &[u64], sent: Moment) -> HashSet<u64> {
    let stands = sent.age() < core.lease && stand(core);
    let doubtful = lock(&core.leases.state).doubtful;
    let claims: Vec<(u64, Arc<str>)> = {
        let held = lock(&core.held);
        let ids = tags.iter().filter_map(|tag| Some((*tag, &held.get(tag)?.id)));
        let claims = ids.filter(|(_, id)| !stands || call_number(id) < doubtful);
        claims.map(|(tag, id)| (tag, Arc::clone(id))).collect()
    };
    let mut lost = HashSet::new();
    for chunk in claims.chunks(TAGS_PER_SCRIPT) {
        // Where it fails, the next renewal tells.
        lost.extend(ask(core, chunk).await.unwrap_or_default());
    }
    let mut held = lock(&core.held);
    for tag in &lost {
        held.remove(tag);
    }
    lost
}
