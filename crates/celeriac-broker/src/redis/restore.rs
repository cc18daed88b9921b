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

/// How often a consumer gives a sign of life and looks for leases that ran out, at the least. Together with a turn that its
/// holder did not live to use, it is how long after its lease something waits.
const INTERVAL: Duration = Duration::from_secs(1);

/// After how long without a sign of life a consumer's private lists are emptied. Too early does no harm: it loses its credit
/// too, so it puts back what is moved for it, and asks anew.
const DEAD_AFTER: Duration = Duration::from_secs(2);

/// After how long a consumer is forgotten: longer than the server can hold a BLMOVE for it.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// How long the others have after an outage to renew what they hold. All leases may have run out during it, and each consumer
/// tries at least once a second.
const GRACE: Duration = Duration::from_secs(2);

/// After how long without a sign of life of anybody else it is assumed that nobody could reach the server. An outage takes
/// two thirds of a lease to let it run out; less than this many seconds would be no more than a busy machine.
const QUIET: std::ops::RangeInclusive<f64> = 1.0..=2.0;

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
    /// Before a sign of life: whether one that ended is over for us.
    fn before(self, core: &Core) -> Self {
        match self {
            Self::Ended(since) if since.age() >= GRACE && lease::is_renewed(core) => Self::None,
            other => other,
        }
    }

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
            Self::Lasts => Self::Ended(Moment::now()),
            other => other,
        }
    }

    /// How much longer the others are to be left alone if they could not reach the server either. Who has just begun cannot know
    /// what was before.
    fn grace(self, core: &Core, begun: Moment) -> Duration {
        match self {
            Self::None if lease::stand(core) => GRACE.saturating_sub(begun.age()),
            Self::None | Self::Lasts => GRACE,
            Self::Ended(since) => GRACE.saturating_sub(since.age()),
        }
    }
}

/// Leaves turns to others after one that failed though the server answers: what is due may be too much for our line, and whoever
/// comes first to each turn would keep it from everybody.
#[derive(Default)]
struct Restraint {
    /// How many failed in a row.
    failures: u32,
    /// How many turns are to be left out.
    left: u32,
}

impl Restraint {
    /// The most turns that are left out in a row, as a power of two.
    const MOST: u32 = 5;

    /// Whether to ask for the next turn.
    fn asks(&mut self) -> bool {
        let asks = self.left == 0;
        self.left = self.left.saturating_sub(1);
        asks
    }

    /// A turn was used.
    fn used(&mut self, outcome: &Result<()>) {
        if outcome.is_ok() {
            *self = Self::default();
        } else {
            self.left = 1 << self.failures.min(Self::MOST);
            self.failures += 1;
        }
    }
}

/// How often this consumer gives a sign of life: with a short lease more often, as the others see whether it can renew it.
fn interval(core: &Core) -> Duration {
    INTERVAL.min(core.lease / 3)
}

/// Signs of life; whoever's turn it is restores.
pub(super) async fn keep(core: Arc<Core>) {
    let (mut outage, since) = (Outage::None, Moment::now());
    let (mut with_ours, mut with_kombu) = (Restraint::default(), Restraint::default());
    loop {
        outage = outage.before(&core);
        let asks = Asks {
            ours: matches!(outage, Outage::None) && lease::stand(&core) && with_ours.asks(),
            kombu: with_kombu.asks(),
            grace: outage.grace(&core, since),
        };
        let (sent, began) = (Moment::now(), Instant::now());
        let turns = beat(&core, &asks).await;
        outage = outage.after(&core, sent, turns.is_ok());
        // A server that is away is the receiver's to report.
        if let Ok((ours, kombu)) = turns {
            if ours && matches!(outage, Outage::None) {
                let _ = empty_abandoned_lists(&core).await;
                with_ours.used(&restore(&core, Whose::Ours).await);
            }
            if kombu {
                with_kombu.used(&restore(&core, Whose::Kombu).await);
            }
        }
        // Spread, so that a fleet that was started at once does not ask at once.
        let jitter = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        let pause = interval(&core) * (230 + jitter / 5) / 256;
        tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
    }
}

/// What goes with a sign of life.
struct Asks {
    /// For a turn to restore our kind's claims, and kombu's. Whoever takes a turn has to use it.
    ours: bool,
    kombu: bool,
    /// For time for the others, if they could not reach the server.
    grace: Duration,
}

/// The first sign of life.
pub(super) async fn announce_new(core: &Core) -> Result<()> {
    beat(core, &Asks { ours: false, kombu: false, grace: GRACE }).await.map(drop)
}

/// Gives a sign of life, and no more.
pub(super) async fn announce(core: &Core) -> Result<()> {
    beat(core, &Asks { ours: false, kombu: false, grace: Duration::ZERO }).await.map(drop)
}

/// Gives a sign of life; says whether it is our turn to restore our kind's and kombu's claims, where we ask for it.
async fn beat(core: &Core, asks: &Asks) -> Result<(bool, bool)> {
    let keys = &core.settings.keys;
    let mut call = BEAT.call(&[
        keys.workers(),
        keys.claims(&core.name),
        keys.own("restore_turn"),
        keys.own("restore_turn_kombu"),
        keys.own("restore_turn_outage"),
    ]);
    let turn = |asks, turn: Duration| if asks { (turn.as_millis() as u64).max(1) } else { 0 };
    call.arg(&core.name)
        // Much shorter than the interval: whoever comes next finds it over, and one that nobody used delays little.
        .arg(turn(asks.ours, interval(core) / 4))
        .arg(turn(asks.kombu, core.settings.restore_interval))
        .arg(asks.grace.as_millis() as u64)
        .arg((core.lease.as_secs_f64() * 2.0 / 3.0).clamp(*QUIET.start(), *QUIET.end()));
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
        // It was on its way as long as a lease: what it lists may be the claims of those who could not renew either.
        if whose == Whose::Ours && !lease::stand(core) {
            return Ok(());
        }
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
