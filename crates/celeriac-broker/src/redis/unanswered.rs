//! Claims whose answer was lost.
//!
//! A connection may break after the server has run a claiming script and before we have its answer. What was claimed is
//! held in our name then, and nobody would know until its lease is over. Each call has tags of its own, so it can be
//! looked up: once before anything else is claimed, and then each second for as long as a lease, since what was sent may
//! still be on its way to the server.
//!
//! What did not come once may be too much for the line. So it is given in parts, then message by message; and a message
//! that does not come even so is left to others.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriac_error::Result;
use celeriac_protocol::envelope;
use redis::Value;
use tokio::sync::Notify;

use super::consumer::bulks;
use super::core::{Claimed, Core, lock};
use super::record;
use super::scripts::FOUND;
use crate::moment::Moment;

/// How often calls are looked for that may still be on their way.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many bytes are given at once, at first.
const PART: usize = 1 << 20;

/// After so many looks without an answer a message is given up; after the first, they come one by one.
const GIVEN_UP_AFTER: u32 = 2;

#[derive(Default)]
pub(super) struct Unanswered {
    calls: Mutex<Vec<Call>>,
    added: Notify,
    /// How many looks had no answer. One look at a time: what two find at once would be taken twice.
    looking: tokio::sync::Mutex<u32>,
}

struct Call {
    prefix: String,
    /// The number of the first claim that was not given yet.
    next: usize,
    /// When it was added, or gave something.
    since: Instant,
    /// It has not been looked for.
    new: bool,
}

impl Unanswered {
    pub(super) fn add(&self, prefix: String) {
        lock(&self.calls).push(Call { prefix, next: 1, since: Instant::now(), new: true });
        self.added.notify_one();
    }

    /// Whether there are some that nobody has looked for.
    pub(super) fn has_new(&self) -> bool {
        lock(&self.calls).iter().any(|call| call.new)
    }

    fn known(&self) -> Vec<(String, usize)> {
        lock(&self.calls).iter().map(|call| (call.prefix.clone(), call.next)).collect()
    }

    /// Forgets what gave nothing for as long as a lease: what there was of it is others' to restore.
    fn forget_old(&self, lease: Duration) {
        lock(&self.calls).retain(|call| call.since.elapsed() < lease.max(INTERVAL));
    }

    /// A look came to the end of this call and found `count` claims, or was cut after them.
    fn looked(&self, prefix: &str, count: usize, is_cut: bool) {
        lock(&self.calls).retain_mut(|call| {
            if call.prefix != prefix {
                return true;
            }
            call.next += count;
            if is_cut {
                call.since = Instant::now();
                return true;
            }
            call.new = false;
            // What has come now will not come again; what has not, may be on its way.
            call.next == 1
        });
    }
}

/// A claiming call on its way: dropped before it is answered, it is one to look for.
pub(super) struct Asked<'a> {
    unanswered: &'a Unanswered,
    /// The prefix of its tags.
    pub(super) prefix: String,
    is_answered: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        Self { unanswered: &core.unanswered, prefix: core.next_call(), is_answered: false }
    }

    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.unanswered.add(std::mem::take(&mut self.prefix));
        }
    }
}

/// Looks for all of them and takes what is there; says whether there was any.
pub(super) async fn look(core: &Core) -> Result<bool> {
    let mut failures = core.unanswered.looking.lock().await;
    let mut found = false;
    let outcome = loop {
        match look_for_part(core, &mut failures).await {
            Ok((took, more)) => {
                found |= took;
                if !more {
                    *failures = 0;
                    break Ok(found);
                }
            }
            Err(error) => break Err(error),
        }
    };
    core.unanswered.forget_old(core.lease);
    outcome
}

/// Takes one part; says whether it was something, and whether there is more.
async fn look_for_part(core: &Core, failures: &mut u32) -> Result<(bool, bool)> {
    let unanswered = &core.unanswered;
    let calls = unanswered.known();
    if calls.is_empty() {
        return Ok((false, false));
    }
    let gives_up = *failures >= GIVEN_UP_AFTER;
    let keys = &core.settings.keys;
    let mut call = FOUND.call(&[keys.unacked.clone(), keys.unacked_index.clone(), keys.leases()]);
    call.arg(if gives_up { 0 } else { core.lease_ms() }).arg(if *failures == 0 { PART } else { 1 });
    for (prefix, next) in &calls {
        call.arg(prefix).arg(*next);
    }
    // A server that is away says nothing about what it would have to send.
    core.link.open().await?;
    let sent = Moment::now();
    let reply: Vec<Value> = match core.link.script(&FOUND, &call).await {
        Ok(reply) => reply,
        Err(error) => {
            *failures += u32::from(error.is_transient());
            return Err(error);
        }
    };
    if gives_up {
        *failures = GIVEN_UP_AFTER - 1;
    }
    let more = reply.first() == Some(&Value::Int(1));
    let looked_at = reply.len().saturating_sub(1);
    let mut claimed = Vec::new();
    for (place, ((prefix, next), records)) in calls.iter().zip(reply.into_iter().skip(1)).enumerate() {
        let records = bulks(records).unwrap_or_default();
        unanswered.looked(prefix, records.len(), more && place + 1 == looked_at);
        if !gives_up {
            claimed.extend(
                records.iter().zip(*next..).map(|(record, number)| claim(core, prefix, number, record)),
            );
        }
    }
    let took = !claimed.is_empty();
    if took {
        core.take_in(claimed, sent).await;
    }
    Ok((took, more))
}

/// The claim that this record was written for.
fn claim(core: &Core, prefix: &str, number: usize, record: &Bytes) -> Claimed {
    // We wrote it, so it has its form.
    let (raw, queue) = match record::split(record) {
        Some(parts) => (record.slice_ref(parts.raw), parts.routing_key.into_owned()),
        None => (record.clone(), String::new()),
    };
    let priority = envelope::decode(&raw).ok().and_then(|message| message.properties.priority).unwrap_or(0);
    Claimed {
        id: format!("{prefix}{number}").into(),
        list: core.settings.keys.list(&queue, priority).into(),
        queue: queue.into(),
        raw,
    }
}

/// Looks each second while there are some.
pub(super) async fn keep(core: Arc<Core>) {
    loop {
        if lock(&core.unanswered.calls).is_empty() {
            core.unanswered.added.notified().await;
        }
        tokio::time::sleep(INTERVAL).await;
        // A server that is away is the receiver's to report.
        let _ = look(&core).await;
    }
}
