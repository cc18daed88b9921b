//! Settling: publish, store, then acknowledge, in one script for a batch.

use std::collections::HashMap;

use celeriac_error::{Error, Result};
use celeriac_protocol::envelope;
use redis::{Cmd, FromRedisValue, Value};

use super::consumer::only;
use super::core::{BYTES_PER_CLAIM, Core, Held, lock};
use super::lease;
use super::link::explain_text;
use super::publish;
use super::routing::Destination;
use super::scripts::SETTLE;
use crate::dead::DeadLetter;
use crate::fault_point;
use crate::redis_result::lifetime_ms;
use crate::transport::{InlineStore, Outcome, Settled, Settlement};

/// The most settlements of one script: the server does nothing else meanwhile.
const SETTLEMENTS_PER_SCRIPT: usize = 256;

/// A script ends with the settlement that reaches this many bytes: the server holds all of a call at once.
const BYTES_PER_SCRIPT: usize = BYTES_PER_CLAIM;

/// What became of a settlement, and its id when it came into the dead list.
type Answer = (Settled, Option<i64>);

pub(super) async fn settle(core: &Core, batch: &[Settlement]) -> Vec<Result<Settled>> {
    ask(core, batch).await.into_iter().map(|result| result.map(|(settled, _)| settled)).collect()
}

async fn ask(core: &Core, batch: &[Settlement]) -> Vec<Result<Answer>> {
    let mut results: Vec<Option<Result<Answer>>> = batch.iter().map(|_| None).collect();
    if let Err(error) = core.router.prepare(&core.link, batch.iter().flat_map(|one| &one.publish)).await {
        return batch.iter().map(|_| Err(error.clone())).collect();
    }
    // After this an error says nothing about whether the script ran.
    if let Err(error) = core.link.open().await {
        return batch.iter().map(|_| Err(error.clone())).collect();
    }
    let unbroken = lease::unbroken(core);
    let mut under_way = UnderWay { core, tags: Vec::with_capacity(batch.len()), sent: Vec::new(), unbroken };
    let held: HashMap<u64, Held> = {
        let mut all = lock(&core.held);
        let take = |one: &Settlement| {
            let held = all.get_mut(&one.tag.0)?;
            held.settling += 1;
            under_way.tags.push(one.tag.0);
            Some((one.tag.0, held.clone()))
        };
        batch.iter().filter_map(take).collect()
    };
    let mut order: Vec<usize> = (0..batch.len()).collect();
    // What goes back goes back newest first, so that the oldest is consumed next.
    order.sort_by_key(|&place| match batch[place].outcome {
        Outcome::Requeue { .. } | Outcome::Abandon => (1, std::cmp::Reverse(batch[place].tag)),
        _ => (0, std::cmp::Reverse(crate::transport::DeliveryTag(0))),
    });

    // What has nothing about it goes first, so that the script settles it together.
    let plain: Vec<bool> =
        batch.iter().map(|one| held.get(&one.tag.0).is_some_and(|held| is_plain(held, one))).collect();
    order.sort_by_key(|&place| !plain[place]);
    let weight = |place: usize| held.get(&batch[place].tag.0).map_or(0, |held| bytes_of(held, &batch[place]));
    for chunk in scripts(&order, weight) {
        let keys = &core.settings.keys;
        let mut places = vec![keys.unacked.clone(), keys.unacked_index.clone(), keys.leases()];
        places.extend(keys.dead_list());
        let mut call = SETTLE.call(&places);
        call.arg(core.settings.database).arg(core.lease_ms());
        let mut sent = Vec::with_capacity(chunk.len());
        let together = chunk.partition_point(|&place| plain[place]);
        let (together, others) = chunk.split_at(together);
        add_plain(&mut call, &held, batch, together, &mut sent);
        for &place in others {
            let settlement = &batch[place];
            match held.get(&settlement.tag.0) {
                None => results[place] = Some(Ok((Settled::Lost, None))),
                Some(held) => match add(core, &mut call, held, settlement) {
                    Ok(()) => sent.push(place),
                    Err(error) => results[place] = Some(Err(error)),
                },
            }
        }
        if sent.is_empty() {
            continue;
        }
        under_way.sent = sent.iter().map(|&place| batch[place].tag.0).collect();
        let replies = core.link.script::<Vec<Value>>(&SETTLE, &call).await;
        under_way.sent.clear();
        match replies {
            Ok(replies) => {
                let mut all = lock(&core.held);
                for (place, reply) in sent.into_iter().zip(replies) {
                    let tag = batch[place].tag.0;
                    let mut result = answer(&core.settings.url, reply);
                    if matches!(result, Ok((Settled::Lost, _)))
                        && all.get(&tag).is_some_and(|held| held.unsure)
                        && lease::stand(core)
                    {
                        result = Ok((Settled::Done, None));
                    }
                    if result.is_ok() {
                        all.remove(&tag);
                    }
                    results[place] = Some(result);
                }
            }
            Err(error) => {
                let mut all = lock(&core.held);
                let unsure = error.is_transient() && under_way.is_only_ours();
                for place in sent {
                    if let Some(held) = all.get_mut(&batch[place].tag.0) {
                        held.unsure |= unsure;
                    }
                    results[place] = Some(Err(error.clone()));
                }
            }
        }
    }
    let missing = || Err(Error::Internal("the settling script gave too few answers".to_owned()));
    results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
}

/// About how many bytes a settlement adds to its call.
fn bytes_of(held: &Held, settlement: &Settlement) -> usize {
    let published = settlement.publish.iter().map(|publication| {
        let message = &publication.message;
        // In base64.
        message.headers.len() + message.body.len() / 3 * 4
    });
    let stored = match &settlement.store {
        Some(InlineStore::Redis { value, .. }) => value.len(),
        None => 0,
    };
    let back = match settlement.outcome {
        Outcome::Requeue { .. } | Outcome::Abandon => held.raw.len(),
        Outcome::Ack | Outcome::Dead { .. } => 0,
    };
    published.sum::<usize>() + stored + back
}

/// Cuts what is to be settled into what one script settles each.
fn scripts(order: &[usize], weight: impl Fn(usize) -> usize) -> impl Iterator<Item = &[usize]> {
    let mut bytes = 0;
    let mut count = 0;
    order.split_inclusive(move |&place| {
        bytes += weight(place);
        count += 1;
        let ends = count == SETTLEMENTS_PER_SCRIPT || bytes >= BYTES_PER_SCRIPT;
        if ends {
            (bytes, count) = (0, 0);
        }
        ends
    })
}

/// Keeps renewals from taking what is being settled for lost, until it is dropped.
struct UnderWay<'a> {
    core: &'a Core,
    tags: Vec<u64>,
    /// Those whose answer has not come.
    sent: Vec<u64>,
    /// How the leases stood when it began.
    unbroken: Option<u64>,
}

impl UnderWay<'_> {
    /// Whether nobody else can have taken what it settles since it began.
    fn is_only_ours(&self) -> bool {
        self.unbroken.is_some() && self.unbroken == lease::unbroken(self.core)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut all = lock(&self.core.held);
        for tag in &self.tags {
            if let Some(held) = all.get_mut(tag) {
                held.settling = held.settling.saturating_sub(1);
            }
        }
        let unsure = self.is_only_ours();
        for tag in &self.sent {
            if let Some(held) = all.get_mut(tag) {
                held.unsure |= unsure;
            }
        }
    }
}

/// The script's answer about one settlement.
fn answer(url: &str, reply: Value) -> Result<Answer> {
    match reply {
        Value::Int(1) => Ok((Settled::Done, None)),
        Value::Int(_) => Ok((Settled::Lost, None)),
        Value::BulkString(text) => Err(explain_text(url, &String::from_utf8_lossy(&text))),
        Value::Array(ids) if matches!(ids[..], [Value::Int(_)]) => {
            Ok((Settled::Done, ids.first().and_then(|id| i64::from_redis_value_ref(id).ok())))
        }
        other => Err(Error::Internal(format!("the settling script gave {other:?}"))),
    }
}

/// Whether there is nothing about a settlement but a result and an acknowledgement.
fn is_plain(held: &Held, settlement: &Settlement) -> bool {
    !held.buried
        && held.counted.is_none()
        && settlement.publish.is_empty()
        && matches!(settlement.outcome, Outcome::Ack)
}

/// Adds what [`is_plain`], in parts by database and lifetime of the results, which are most often the same for all.
fn add_plain(
    call: &mut Cmd,
    held: &HashMap<u64, Held>,
    batch: &[Settlement],
    places: &[usize],
    sent: &mut Vec<usize>,
) {
    let stored = |place: &usize| {
        let Some(InlineStore::Redis { database, key, value, expires }) = &batch[*place].store else {
            return None;
        };
        Some(((*database, lifetime_ms(*expires)), key, value))
    };
    let (mut with, mut without): (Vec<usize>, Vec<usize>) =
        places.iter().partition(|place| stored(place).is_some());
    with.sort_by_key(|place| stored(place).map(|(kind, ..)| kind));
    let mut parts: Vec<(Vec<usize>, Vec<usize>)> = with
        .chunk_by(|one, other| stored(one).map(|(kind, ..)| kind) == stored(other).map(|(kind, ..)| kind))
        .map(|part| (part.to_vec(), Vec::new()))
        .collect();
    match parts.last_mut() {
        Some(last) => last.1 = without,
        None if without.is_empty() => return,
        None => parts.push((Vec::new(), std::mem::take(&mut without))),
    }
    for (with, without) in parts {
        let (database, lifetime) = with.first().and_then(stored).map(|(kind, ..)| kind).unwrap_or_default();
        call.arg("p").arg(database).arg(lifetime).arg(with.len()).arg(without.len());
        for place in with.iter().chain(&without) {
            if let Some(held) = held.get(&batch[*place].tag.0) {
                call.arg(&*held.id);
            }
        }
        for (_, key, value) in with.iter().filter_map(stored) {
            call.arg(key).arg(value);
        }
        sent.extend(with);
        sent.extend(without);
    }
}

/// Adds one settlement to a call; nothing of it when there is an error.
fn add(core: &Core, call: &mut Cmd, held: &Held, settlement: &Settlement) -> Result<()> {
    let mut messages = Vec::new();
    for publication in &settlement.publish {
        let prepared = publish::prepare(&core.router, publication)?;
        for destination in prepared.destinations {
            let (how, name) = match destination {
                Destination::Queue(queue) => ("L", core.settings.keys.list(&queue, prepared.priority)),
                Destination::Channel(channel) => ("P", channel),
            };
            messages.push((how, name, prepared.payload.clone()));
        }
    }
    match &held.counted {
        _ if held.buried => call.arg("d"),
        None => call.arg("u"),
        Some(key) => call.arg("b").arg(&**key),
    };
    call.arg(&*held.id).arg(messages.len());
    for (how, name, payload) in messages {
        call.arg(how).arg(name).arg(&payload[..]);
    }
    match &settlement.store {
        None => call.arg("0"),
        Some(InlineStore::Redis { database, key, value, expires }) => {
            call.arg("1").arg(database).arg(key).arg(value).arg(lifetime_ms(*expires))
        }
    };
    match &settlement.outcome {
        Outcome::Ack => call.arg("a"),
        Outcome::Requeue { .. } | Outcome::Abandon => {
            let redelivered = !matches!(settlement.outcome, Outcome::Requeue { redelivered: false });
            let marked = redelivered.then(|| envelope::mark_redelivered(&held.raw)).flatten();
            let keeps = settlement.outcome.keeps_count();
            call.arg(if keeps { "k" } else { "r" })
                .arg(&*held.list)
                .arg(marked.as_deref().unwrap_or(&held.raw))
        }
        Outcome::Dead { reason, detail } => {
            let letter = DeadLetter::new(&held.queue, reason, detail, &held.raw);
            call.arg("d").arg(letter.to_entry()).arg(letter.at_ms).arg(held.raw.len())
        }
    };
    Ok(())
}

/// Moves what could not be read to the dead list at once. Where that fails they stay held like any other, and are moved
/// when they are settled, or by whoever restores them.
pub(super) async fn bury(core: &Core, unreadable: &[(u64, String)]) {
    let held: Vec<(u64, Held)> = {
        let all = lock(&core.held);
        unreadable.iter().filter_map(|(tag, _)| Some((*tag, all.get(tag)?.clone()))).collect()
    };
    let batch: Vec<_> = unreadable
        .iter()
        .map(|(tag, detail)| only(*tag, Outcome::Dead { reason: "malformed", detail: detail.clone() }))
        .collect();
    fault_point!("redis.bury.before");
    let results = ask(core, &batch).await;
    fault_point!("redis.bury.after");
    let mut all = lock(&core.held);
    for ((tag, mut held), result) in held.into_iter().zip(results) {
        if let Ok((Settled::Done, Some(id))) = result {
            held.buried = true;
            held.id = id.to_string().into();
            all.insert(tag, held);
        }
    }
}

/// Back to their lists as they were, in their old order. What lies in the dead list stays there.
pub(super) async fn hand_back(core: &Core, tags: Vec<u64>) -> Result<()> {
    let batch: Vec<_> = {
        let mut all = lock(&core.held);
        tags.into_iter()
            .filter(|tag| {
                let buried = all.get(tag).is_some_and(|held| held.buried);
                if buried {
                    all.remove(tag);
                }
                !buried
            })
            .map(|tag| only(tag, Outcome::Requeue { redelivered: false }))
            .collect()
    };
    if batch.is_empty() {
        return Ok(());
    }
    settle(core, &batch).await.into_iter().try_for_each(|result| result.map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_settles_no_more_than_so_many_and_so_many_bytes() {
        let cut = |weights: &[usize]| {
            let order: Vec<usize> = (0..weights.len()).collect();
            let parts: Vec<_> = scripts(&order, |place| weights[place]).map(<[_]>::to_vec).collect();
            assert_eq!(parts.concat(), order, "each once, in order");
            parts.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(cut(&[0; 600]), [256, 256, 88]);
        assert_eq!(cut(&[BYTES_PER_SCRIPT / 2; 5]), [2, 2, 1]);
        assert_eq!(cut(&[1, BYTES_PER_SCRIPT, BYTES_PER_SCRIPT, 1]), [2, 1, 1]);
        assert_eq!(cut(&[]), [0; 0]);
    }
}
