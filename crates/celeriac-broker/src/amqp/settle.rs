//! Settling: what a task sends is confirmed first, then its message is acknowledged.
//!
//! The broker does not answer an acknowledgement. One that is lost with its connection brings the message back.

use std::collections::BTreeSet;
use std::sync::Arc;

use celeriac_error::{Error, Result};
use lapin::options::{BasicAckOptions, BasicRejectOptions};

use super::begin;
use super::core::Core;
use crate::fault_point;
use crate::transport::{DeliveryTag, Outcome, Publication, Settled, Settlement};

pub(super) async fn settle(core: &Arc<Core>, batch: &[Settlement]) -> Vec<Result<Settled>> {
    if let Err(error) = core.make_certain().await {
        return batch.iter().map(|_| Err(error.clone())).collect();
    }
    let session = core.session_number();
    let mut outcomes: Vec<Option<Result<Settled>>> =
        batch.iter().map(|settlement| refusal(core, settlement)).collect();
    publish(core, batch, &mut outcomes).await;
    bury(core, batch, &mut outcomes).await;
    // What was lost while that was on its way comes back: it is somebody else's.
    let is_same = session.is_some() && core.session_number() == session;
    let (mut acknowledged, mut requeued) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for (settlement, outcome) in batch.iter().zip(&mut outcomes) {
        if outcome.is_some() {
            continue;
        }
        if !is_same || !core.is_held(settlement.tag) || !seen.insert(settlement.tag) {
            *outcome = Some(Ok(Settled::Lost));
            continue;
        }
        match settlement.outcome {
            Outcome::Ack | Outcome::Dead { .. } => acknowledged.push(settlement.tag),
            Outcome::Requeue { .. } | Outcome::Abandon => requeued.push(settlement.tag),
        }
    }
    let counted = counted(core, batch, &outcomes);
    fault_point!("amqp.ack.before");
    let went = {
        let _settling = core.settling.lock().await;
        acknowledge(core, &acknowledged).await && requeue(core, &requeued).await
    };
    fault_point!("amqp.ack.after");
    core.ring();
    begin::forget(core, counted).await;
    let settled = if went { Settled::Done } else { Settled::Lost };
    outcomes.into_iter().map(|outcome| outcome.unwrap_or(Ok(settled))).collect()
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
            && let Some((queue, raw)) =
                core.with_held(settlement.tag, |held| (Arc::clone(&held.queue), held.raw.clone()))
        {
            letters.push((queue, *reason, detail.clone(), raw));
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

/// The task ids whose counts end here.
fn counted(core: &Core, batch: &[Settlement], outcomes: &[Option<Result<Settled>>]) -> Vec<String> {
    let ending = batch
        .iter()
        .zip(outcomes)
        .filter(|(settlement, outcome)| outcome.is_none() && !settlement.outcome.keeps_count());
    ending
        .filter_map(|(settlement, _)| {
            let begun = core.with_held(settlement.tag, |held| held.begun.take()).flatten();
            begun.map(|(task_id, _)| task_id)
        })
        .collect()
}

/// In as few frames as order allows. False when the connection was lost.
async fn acknowledge(core: &Arc<Core>, tags: &[DeliveryTag]) -> bool {
    if tags.is_empty() {
        return true;
    }
    let amqp_tags: BTreeSet<u64> =
        tags.iter().filter_map(|tag| core.with_held(*tag, |held| held.amqp_tag)).collect();
    let (up_to, singly) = core.group(&amqp_tags);
    let Some((channel, _)) = core.release(tags) else { return false };
    let mut frames = Vec::with_capacity(singly.len() + 1);
    if up_to > 0 {
        frames.push((up_to, true));
    }
    frames.extend(singly.into_iter().map(|tag| (tag, false)));
    let sent = frames.into_iter().map(|(tag, multiple)| channel.basic_ack(tag, BasicAckOptions { multiple }));
    futures_util::future::join_all(sent).await.into_iter().all(|sent| sent.is_ok())
}

/// Back to their places. False when the connection was lost.
async fn requeue(core: &Arc<Core>, tags: &[DeliveryTag]) -> bool {
    if tags.is_empty() {
        return true;
    }
    let Some((channel, amqp_tags)) = core.release(tags) else { return false };
    let sent =
        amqp_tags.into_iter().map(|tag| channel.basic_reject(tag, BasicRejectOptions { requeue: true }));
    futures_util::future::join_all(sent).await.into_iter().all(|sent| sent.is_ok())
}
