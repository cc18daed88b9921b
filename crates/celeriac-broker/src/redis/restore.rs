//! Puts back what others left: claims whose lease ran out, kombu's claims that are too old, and messages that were moved
//! for a consumer that is gone.
//!
//! Beside it kombu restores too: it watches `unacked`, reads a record, and takes and pushes it in one MULTI, which fails and is
//! tried again when anybody has written to `unacked` in between. So whatever is taken here is taken in one step by whoever is
//! first, its mutex need not be ours, and every write to `unacked` that we save is one attempt less for kombu: claims and
//! settlements are written in batches, and renewing does not touch the hash.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriac_error::Result;
use celeriac_protocol::envelope;
use redis::{Cmd, Value};

use super::consumer::bulks;
use super::core::Core;
use super::lease;
use super::record;
use super::scripts::{ABANDONED, BEAT, EXPIRED, RESTORE};
use crate::dead::DeadLetter;
use crate::fault_point;
use crate::moment::Moment;

/// How often somebody looks for leases that ran out.
const INTERVAL: Duration = Duration::from_secs(1);

/// After how long without a sign of life a consumer's private lists are emptied. Too early does no harm.
const DEAD_AFTER: Duration = Duration::from_secs(3);

/// After how long a consumer is forgotten: longer than the server can hold a BLMOVE for it.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// How long the others have after an outage to renew what they hold. All leases may have run out during it, and each consumer
/// tries at least once a second.
const GRACE: Duration = Duration::from_secs(2);

/// The most claims and bytes of one round, and how many entries of an index it may look at: the server does nothing else
/// meanwhile.
const CLAIMS_PER_ROUND: usize = 200;
const BYTES_PER_ROUND: usize = 4 << 20;
const LOOKS_PER_ROUND: usize = 2000;

/// How long a turn may last: signs of life must go on.
const TURN: Duration = Duration::from_millis(500);

/// Where a worker writes that it refused a message.
const LOGGER: &str = "celery.worker.consumer";

/// Whose claims.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Those with a lease.
    Ours,
    /// Those without one, by their age.
    Kombu,
}

/// Whether a lease that ran out says that its holder is gone. It does not after an outage: who could not reach the server
/// could not renew, and still runs what it holds.
#[derive(Clone, Copy)]
enum Outage {
    None,
    Lasts,
    /// Since this moment the server answers.
    Ended(Moment),
}

impl Outage {
    /// After a sign of life that was sent then.
    fn after(self, core: &Core, sent: Moment, answered: bool) -> Self {
        if !answered {
            return Self::Lasts;
        }
        // A network that stood still hands everything over in the end.
        if !lease::stand(core) || sent.age() >= GRACE {
            return Self::Ended(Moment::now());
        }
        match self {
            Self::None => Self::None,
            Self::Lasts => Self::Ended(Moment::now()),
            Self::Ended(since) if since.age() >= GRACE && lease::is_renewed(core) => Self::None,
            ended @ Self::Ended(_) => ended,
        }
    }
}

/// A sign of life each second; whoever's turn it is restores.
pub(super) async fn keep(core: Arc<Core>) {
    let mut outage = Outage::None;
    loop {
        let asks = matches!(outage, Outage::None) && lease::stand(&core);
        let sent = Moment::now();
        let turns = beat(&core, asks, true).await;
        outage = outage.after(&core, sent, turns.is_ok());
        // A server that is away is the receiver's to report.
        if let Ok((ours, kombu)) = turns {
            if ours && matches!(outage, Outage::None) {
                let _ = empty_abandoned_lists(&core).await;
                let _ = restore(&core, Whose::Ours).await;
            }
            if kombu {
                let _ = restore(&core, Whose::Kombu).await;
            }
        }
        // Spread, so that a fleet that was started at once does not ask at once.
        let jitter = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        tokio::time::sleep(INTERVAL * (230 + jitter / 5) / 256).await;
    }
}

/// Gives a sign of life, and no more: whoever takes a turn has to use it.
pub(super) async fn announce(core: &Core) -> Result<()> {
    beat(core, false, false).await.map(drop)
}

/// Gives a sign of life; says whether it is our turn to restore our kind's and kombu's claims, where we ask for it.
async fn beat(core: &Core, asks_ours: bool, asks_kombu: bool) -> Result<(bool, bool)> {
    let keys = &core.settings.keys;
    let mut call = BEAT.call(&[
        keys.workers(),
        keys.claims(&core.name),
        keys.own("restore_turn"),
        keys.own("restore_turn_kombu"),
    ]);
    let interval = |asks, interval: Duration| if asks { (interval.as_millis() as u64).max(1) } else { 0 };
    call.arg(&core.name)
        .arg(interval(asks_ours, INTERVAL * 9 / 10))
        .arg(interval(asks_kombu, core.settings.restore_interval));
    for list in core.sources().plan.names() {
        call.arg(&**list);
    }
    let (ours, kombu): (i32, i32) = core.link.script(&BEAT, &call).await?;
    Ok((ours == 1, kombu == 1))
}

async fn empty_abandoned_lists(core: &Core) -> Result<()> {
    let keys = &core.settings.keys;
    let mut call = ABANDONED.call(&[keys.workers(), keys.credits()]);
    call.arg(keys.own("claim:")).arg("").arg(DEAD_AFTER.as_secs()).arg(FORGOTTEN_AFTER.as_secs());
    core.link.script(&ABANDONED, &call).await
}

/// Two steps: list what is due, and put back what still is. In between we mark the messages, which Lua could only do by
/// writing them anew, with other numbers and empty lists.
async fn restore(core: &Core, whose: Whose) -> Result<()> {
    let keys = &core.settings.keys;
    let mode = if whose == Whose::Ours { "ours" } else { "kombu" };
    let age = core.settings.visibility_timeout.as_secs_f64();
    let (began, mut passed_over) = (Instant::now(), 0);
    while began.elapsed() < TURN {
        let mut call = EXPIRED.call(&[keys.unacked.clone(), keys.unacked_index.clone(), keys.leases()]);
        call.arg(mode)
            .arg(age)
            .arg(CLAIMS_PER_ROUND)
            .arg(BYTES_PER_ROUND)
            .arg(LOOKS_PER_ROUND)
            .arg(passed_over);
        fault_point!("redis.restore.before");
        let mut reply: Vec<Value> = core.link.script(&EXPIRED, &call).await?;
        let is_cut = reply.first() == Some(&Value::Int(1));
        // Where the next round begins: what this one puts back is not in the index any more.
        if let Some(Value::Int(count)) = reply.get(1) {
            passed_over = *count;
        }
        let due = bulks(Value::Array(reply.split_off(reply.len().min(2)))).unwrap_or_default();
        if due.is_empty() {
            if is_cut {
                continue;
            }
            return Ok(());
        }
        fault_point!("redis.restore.listed");
        let mut places = vec![keys.unacked.clone(), keys.unacked_index.clone(), keys.leases()];
        places.extend(keys.dead_list());
        let mut call = RESTORE.call(&places);
        call.arg(mode).arg(age);
        let (mut queues, mut refusals) = (HashMap::new(), HashMap::new());
        // Newest first: what is put back last is consumed first.
        for pair in due.chunks_exact(2).rev() {
            if let Some(refused) = add(core, whose, &mut queues, &mut call, &pair[0], &pair[1]).await? {
                refusals.insert(&pair[0], refused);
            }
        }
        let (restored, buried): (usize, Vec<Bytes>) = core.link.script(&RESTORE, &call).await?;
        // Only what was really moved: somebody else may have been faster.
        for refused in buried.iter().filter_map(|tag| refusals.get(tag)) {
            log::error!(target: LOGGER, "{refused}");
        }
        fault_point!("redis.restore.after");
        if !is_cut || restored == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// Adds one claim to the call; gives what is to be said of it when it goes to the dead list.
async fn add(
    core: &Core,
    whose: Whose,
    known: &mut HashMap<(String, String), Vec<Arc<str>>>,
    call: &mut Cmd,
    tag: &[u8],
    record: &[u8],
) -> Result<Option<String>> {
    let keys = &core.settings.keys;
    call.arg(tag);
    let mut bury = |queue: &str, reason: &str, detail: &str, raw: &[u8]| {
        let letter = DeadLetter::new(queue, reason, detail, raw);
        // As Lua counts: from 1, and the last place is part of it.
        let before = raw.as_ptr().addr() - record.as_ptr().addr();
        call.arg(0).arg(letter.to_entry()).arg(letter.at_ms).arg(before + 1).arg(before + raw.len());
        let start = String::from_utf8_lossy(&raw[..raw.len().min(200)]);
        Some(format!(
            "Refused a message from queue {queue:?}: {detail}. It is in the dead list. It begins with {start:?} ({} bytes).",
            raw.len()
        ))
    };
    let Some(parts) = record::split(record) else {
        return Ok(bury("", "malformed", "the record of the claim cannot be read", record));
    };
    let (exchange, routing_key) = (parts.exchange.into_owned(), parts.routing_key.into_owned());
    let (message, marked) = match (envelope::decode(parts.raw), envelope::mark_redelivered(parts.raw)) {
        (Ok(message), Some(marked)) => (message, marked),
        (message, _) => {
            let detail = message.err().map(|error| error.to_string()).unwrap_or_default();
            return Ok(bury(&routing_key, "malformed", &detail, parts.raw));
        }
    };
    let route = (exchange, routing_key);
    if !known.contains_key(&route) {
        let queues = if whose == Whose::Ours {
            vec![route.1.as_str().into()]
        } else {
            core.router.queues_of_claim(&core.link, &route.0, &route.1).await?
        };
        known.insert(route.clone(), queues);
    }
    let queues = &known[&route];
    if queues.is_empty() {
        let detail = format!("no queue is bound to exchange `{}` with routing key `{}`", route.0, route.1);
        return Ok(bury(&route.1, "unroutable", &detail, parts.raw));
    }
    call.arg(queues.len());
    for queue in queues {
        call.arg(keys.list(queue, message.properties.priority.unwrap_or(0))).arg(&marked);
    }
    Ok(None)
}
