//! Settling: what a task sends is confirmed first, then its message is acknowledged.
//!
//! The broker does not answer an acknowledgement. One that is lost with its connection brings the message back.

use std::collections::BTreeSet;
use std::sync::Arc;

use celeriac_error::{Error, Result};
use lapin::options::{BasicAckOptions, BasicRejectOptions};

use super::begin;
use super::core::{Core, Released};
use crate::fault_point;
use crate::transport::{DeliveryTag, Outcome, Publication, Settled, Settlement};

pub(super) async fn settle(core: &Arc<Core>, batch: &[Settlement]) -> Vec<Result<Settled>> {
    core.make_certain().await;
    let session = core.session_number();
    let mut outcomes: Vec<Option<Result<Settled>>> =
        batch.iter().map(|settlement| refusal(core, settlement)).collect();
    publish(core, batch, &mut outcomes).await;
    bury(core, batch, &mut outcomes).await;
    // What was lost while that was on its way comes back: it is somebody else's.
    let mut acknowledged = Chosen::default();
    let mut requeued = Chosen::default();
    let mut seen = BTreeSet::new();
    for (place, (settlement, outcome)) in batch.iter().zip(&mut outcomes).enumerate() {
        if outcome.is_some() {
            continue;
        }
        *outcome = Some(Ok(Settled::Lost));
        if !seen.insert(settlement.tag) {
            continue;
        }
        let chosen = match settlement.outcome {
            Outcome::Ack | Outcome::Dead { .. } => &mut acknowledged,
            Outcome::Requeue { .. } | Outcome::Abandon => &mut requeued,
        };
        chosen.places.push(place);
        chosen.tags.push(settlement.tag);
    }
    let mut counted = counted(core, batch, &[&acknowledged, &requeued]);
    fault_point!("amqp.ack.before");
    let settled = {
        let _settling = core.settling.lock().await;
        let mut settled = acknowledge(core, session, &acknowledged).await;
        settled.extend(requeue(core, session, &requeued).await);
        settled
    };
    fault_point!("amqp.ack.after");
    core.ring();
    for place in &settled {
        outcomes[*place] = Some(Ok(Settled::Done));
    }
    // What comes again does not begin before its count is forgotten; the rest nobody waits for.
    counted.retain(|(place, _)| settled.contains(place));
    let (now, later): (Vec<_>, Vec<_>) = counted
        .into_iter()
        .partition(|(place, _)| matches!(batch[*place].outcome, Outcome::Requeue { .. } | Outcome::Abandon));
    begin::forget_soon(core, later.into_iter().map(|(_, task_id)| task_id).collect()).await;
    begin::forget(core.topology(), now.into_iter().map(|(_, task_id)| task_id).collect()).await;
    let missing = || Err(Error::Internal("a settlement without an outcome".to_owned()));
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
}

/// Deliveries that the same is said of, with their places in the batch.
#[derive(Default)]
struct Chosen {
    places: Vec<usize>,
    tags: Vec<DeliveryTag>,
}

impl Chosen {
    /// The places of those that were held.
    fn done(&self, were_held: &[bool]) -> Vec<usize> {
        let both = self.places.iter().zip(were_held);
        both.filter(|(_, was_held)| **was_held).map(|(place, _)| *place).collect()
    }
}

/// What cannot be settled.
fn refusal(core: &Core, settlement: &Settlement) -> Option<Result<Settled>> {
    if settlement.store.is_some() {
        return Some(Err(Error::NotSupported {
            what: "storing a result".to_owned(),
            by: core.url().to_owned(),
        }));
    }
    (!core.is_held(settlement.tag)).then_some(Ok(Settled::Lost))
}

/// All that is sent on, in one batch; who has something that was not taken is not settled.
async fn publish(core: &Arc<Core>, batch: &[Settlement], outcomes: &mut [Option<Result<Settled>>]) {
    let mut publications: Vec<Publication> = Vec::new();
    let mut places: Vec<usize> = Vec::new();
    for (place, settlement) in batch.iter().enumerate() {
        if outcomes[place].is_none() {
            publications.extend(settlement.publish.iter().cloned());
            places.extend(std::iter::repeat_n(place, settlement.publish.len()));
        }
    }
    if publications.is_empty() {
        return;
    }
    for (place, taken) in places.into_iter().zip(core.lane.publish(&publications).await) {
        if let Err(error) = taken
            && outcomes[place].is_none()
        {
            outcomes[place] = Some(Err(error));
        }
    }
}

/// Into the dead list.
async fn bury(core: &Arc<Core>, batch: &[Settlement], outcomes: &mut [Option<Result<Settled>>]) {
    let mut letters = Vec::new();
    let mut places = Vec::new();
    for (place, settlement) in batch.iter().enumerate() {
        if let (None, Outcome::Dead { reason, detail }) = (&outcomes[place], &settlement.outcome)
            && let Some((queue, original)) =
                core.with_held(settlement.tag, |held| (Arc::clone(&held.queue), held.original.clone()))
        {
            letters.push((queue, *reason, detail.clone(), original));
            places.push(place);
        }
    }
    if letters.is_empty() {
        return;
    }
    for (place, taken) in places.into_iter().zip(core.dead.add(&core.lane, letters).await) {
        if let Err(error) = taken {
            outcomes[place] = Some(Err(error));
        }
    }
}

/// The task ids whose counts end here, with their places.
fn counted(core: &Core, batch: &[Settlement], chosen: &[&Chosen]) -> Vec<(usize, String)> {
    let places = chosen.iter().flat_map(|chosen| &chosen.places).copied();
    let ending = places.filter(|place| !batch[*place].outcome.keeps_count());
    ending
        .filter_map(|place| {
            let begun = core.with_held(batch[place].tag, |held| held.begun.take()).flatten();
            begun.map(|(task_id, _)| (place, task_id))
        })
        .collect()
}

/// In as few frames as order allows. Gives the places of those whose acknowledgement was sent.
async fn acknowledge(core: &Core, session: Option<u64>, chosen: &Chosen) -> Vec<usize> {
    let released = session.filter(|_| !chosen.tags.is_empty());
    let Some(released) = released.and_then(|session| core.release(session, &chosen.tags, true)) else {
        return Vec::new();
    };
    let channel = &released.channel;
    let together = (released.up_to > 0).then_some((released.up_to, true));
    let frames = together.into_iter().chain(released.singly.iter().map(|tag| (*tag, false)));
    let sent = frames.map(|(tag, multiple)| channel.basic_ack(tag, BasicAckOptions { multiple }));
    // On a connection that nobody reads from it would wait for ever, and everybody else with it.
    match released.live.answer(futures_util::future::try_join_all(sent)).await {
        Ok(_) => chosen.done(&released.were_held),
        Err(_) => Vec::new(),
    }
}

/// Back to their places. Gives the places of those that were put back.
async fn requeue(core: &Core, session: Option<u64>, chosen: &Chosen) -> Vec<usize> {
    let released = session.filter(|_| !chosen.tags.is_empty());
    let Some(released) = released.and_then(|session| core.release(session, &chosen.tags, false)) else {
        return Vec::new();
    };
    if reject(&released).await { chosen.done(&released.were_held) } else { Vec::new() }
}

/// Puts deliveries back into their queues. False when the connection was lost, which does the same.
pub(super) async fn reject(released: &Released) -> bool {
    let options = BasicRejectOptions { requeue: true };
    let sent = released.singly.iter().map(|tag| released.channel.basic_reject(*tag, options));
    released.live.answer(futures_util::future::try_join_all(sent)).await.is_ok()
}
